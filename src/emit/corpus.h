/* corpus.h - texts of the user's own, one record after the other.
 *
 * The file is a JSON array of objects, or JSON lines: an object on each line.
 * One record is in memory at a time, never the file.  A record is read by the
 * first of these keys that it has:
 *
 *   article, highlights   a document and its summary
 *   text                  a document
 *   messages              a conversation: [{role, content}, ...]; content is a
 *                         string, null, or a list of parts, of which those of
 *                         type "text" are read */
#ifndef EMIT_CORPUS_H
#define EMIT_CORPUS_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/str.h"

struct corpus {
    const char *path;
    int fd;
    uint64_t bytes, off; /* of the file; read so far */
    char *piece;         /* of the file, read and not yet looked at from piece_at on */
    size_t piece_n, piece_at;
    bool array;
    uint64_t line;     /* the next character's, from 1 */
    uint64_t begun_at; /* the record's first */
    uint64_t records;  /* so far */
    struct str record; /* its text */
    struct err *e;     /* of the call that is running; a read can fail anywhere */
};

/* On failure there is nothing to close. */
int corpus_open(struct corpus *c, const char *path, struct err *e);
/* NULL in *record: the end. The caller gives the record back with json_decref. */
int corpus_next(struct corpus *c, json_t **record, struct err *e);
void corpus_close(struct corpus *c);

/* What a text stands for when tokens are counted. */
enum corpus_kind {
    CORPUS_COUNTED, /* its tokens are counted */
    CORPUS_SEEN,    /* a model is given it: which tokens it has is noted */
    CORPUS_BOTH
};
typedef void corpus_take(void *user, enum corpus_kind kind, const char *text, size_t n);

/* Hands out the texts of the record that corpus_next gave last.  Without `answers`: the article, the text, or the
 * content of every message, to be counted.  With `answers`: highlights and what the assistant says are counted, the
 * article and what others say are seen, a text is both. */
int corpus_texts(struct corpus *c, const json_t *record, bool answers, corpus_take *take, void *user, struct err *e);

#endif
