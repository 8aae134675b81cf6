/* token_counts.h - how often each token of a model occurs in a corpus.
 *
 * token_counts.py lets the tokenizers package cut the texts, in a confined
 * helper process that is handed one record after the other: neither side ever
 * holds the corpus. */
#ifndef EMIT_TOKEN_COUNTS_H
#define EMIT_TOKEN_COUNTS_H
#include <jansson.h>
#include "base/arena.h"
#include "emit/corpus.h"
#include "model/vocab_choose.h"

struct token_request {
    const char *tokenizer;    /* path of tokenizer.json */
    const char *const *asked; /* tokens whose ids are wanted */
    size_t asked_n;
    const char *corpus;    /* path */
    bool answers;          /* count the answers, note what their questions have (corpus.h) */
    uint64_t records_most; /* 0: all */
    /* Called with bytes read of the corpus, and all; other than 0 stops the run. */
    int (*progress)(void *user, uint64_t done, uint64_t all);
    void *user;
};

struct token_counts {            /* in the arena; ids are not negative, and not checked otherwise */
    struct vocab_count *counted; /* each once, in the order of first appearance */
    size_t counted_n;
    int32_t *seen, *asked; /* the latter as requested; -1: there is no such token */
    size_t seen_n;
    uint64_t records, tokens; /* read; counted */
};

int token_counts_make(const struct token_request *r, struct token_counts *c, struct arena *a, struct err *e);

#endif
