/* vocab_map.h - a reduced vocabulary: which rows of lm_head are kept, in which order.
 *
 * DIR/vocab_map.safetensors holds the tensor "vocab_map", int32 [reduced]: for
 * each row of the reduced lm_head the token id whose row it is, in any order.
 * The embedding is not reduced. */
#ifndef MODEL_VOCAB_MAP_H
#define MODEL_VOCAB_MAP_H
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "base/notes.h"

#define VOCAB_MAP_FILE "vocab_map.safetensors"

struct vocab_map {
    const int32_t *id; /* [n], each within the vocabulary; in the arena */
    uint64_t n;
    const char *path;
    const char *file; /* all bytes of the file, in the arena */
    size_t file_bytes;
    const char *hash; /* of them: "xxh3:0123456789abcdef" */
};

/* Reads and checks the map of directory `dir` for a vocabulary of `vocab` tokens. Ids that come twice are a note. */
int vocab_map_open(struct vocab_map *v, const char *dir, uint64_t vocab, struct arena *a, struct notes *notes,
                   struct err *e);
/* Of the map file's bytes alone, checked in nothing; NULL: it cannot be read. */
const char *vocab_map_hash(const char *dir, struct arena *a, struct err *e);

#endif
