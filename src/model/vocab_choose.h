/* vocab_choose.h - which tokens a reduced vocabulary keeps.
 *
 * The rules are those of the exporter that we replace (contract, section 11),
 * which counts the tokens of texts like those that the model will see.
 * "Most common" is by count, and of equal counts the one that appeared first. */
#ifndef MODEL_VOCAB_CHOOSE_H
#define MODEL_VOCAB_CHOOSE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

struct vocab_count {
    int32_t id;
    uint64_t n;
};

struct vocab_wanted {
    uint64_t vocab;          /* every id below is less */
    uint64_t size;           /* how many are kept */
    const int32_t *required; /* always kept; an id may come twice */
    size_t required_n;
    const struct vocab_count *counted; /* each id once, in the order of first appearance */
    size_t counted_n;
    /* Only with input_aware, which prefers what a model repeats of its input, and keeps neighbours of what it keeps. */
    bool input_aware;
    const int32_t *seen; /* ids that occur in the input; may come twice */
    size_t seen_n;
};

/* id[0..size-1], ascending. Fails where the texts hold too few different tokens, or `size` is too small for what is
 * required. */
int vocab_choose(const struct vocab_wanted *w, int32_t *id, struct arena *a, struct err *e);

#endif
