/* hash.h - XXH3 with vectors as wide as the processor has, where xxHash was built with a choice of them; and the hash
 * of a tensor.
 *
 * A tensor's hash is the XXH3 64 of the XXH3 64s of its blocks of HASH_BLOCK bytes, eight bytes each, little endian
 * (as all machines are that this runs on), in order; the last block may be shorter, and one of no bytes has no
 * block.  So blocks may be hashed in any order, by anybody who has them whole: a row panel's runs, which lie all over
 * the tensor, need not be read back.  It costs 4 % more than one hash of all bytes. */
#ifndef BASE_HASH_H
#define BASE_HASH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>
#ifdef WEIGHBRIDGE_HASH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

enum { HASH_BLOCK = 4096 };

static inline uint64_t hash_blocks(uint64_t bytes) { return bytes / HASH_BLOCK + (bytes % HASH_BLOCK != 0); }

/* Of a tensor that is in memory, or of which there is an array of its blocks' hashes. */
uint64_t hash_tensor(const void *bytes, size_t n);
void hash_each_block(uint64_t *block, const void *bytes, size_t n); /* hash_blocks(n) of them */
uint64_t hash_of_blocks(const uint64_t *block, uint64_t n);

/* Of a tensor that comes piece by piece, in order; zeroed, it has begun. */
struct tensor_hash {
    XXH3_state_t *blocks, *part; /* `part`: of a block that is not whole yet */
    size_t part_n;               /* its bytes */
};

bool tensor_hash_add(struct tensor_hash *h, const void *bytes, size_t n); /* false: no memory */
uint64_t tensor_hash_end(struct tensor_hash *h); /* gives back what it holds; something must have been added */
void tensor_hash_release(struct tensor_hash *h); /* safe on a zeroed struct */

#endif
