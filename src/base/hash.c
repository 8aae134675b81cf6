#include "base/hash.h"
#include <stdlib.h>
#include "base/arena.h"

uint64_t hash_of_blocks(const uint64_t *block, uint64_t n) { return XXH3_64bits(block, n * sizeof *block); }

static bool block_add(struct tensor_hash *h, const void *bytes, size_t n)
{
    uint64_t block = XXH3_64bits(bytes, n);

    return XXH3_64bits_update(h->blocks, &block, sizeof block) == XXH_OK;
}

static void part_end(struct tensor_hash *h)
{
    uint64_t block = XXH3_64bits_digest(h->part);

    XXH3_64bits_update(h->blocks, &block, sizeof block);
    h->part_n = 0;
}

static bool part_add(struct tensor_hash *h, const void *bytes, size_t n)
{
    if (!h->part && !(h->part = XXH3_createState()))
        return false;
    if (!h->part_n)
        XXH3_64bits_reset(h->part);
    XXH3_64bits_update(h->part, bytes, n);
    h->part_n += n;
    if (h->part_n == HASH_BLOCK)
        part_end(h);
    return true;
}

bool tensor_hash_add(struct tensor_hash *h, const void *bytes, size_t n)
{
    const unsigned char *at = bytes;

    if (!h->blocks) {
        if (!(h->blocks = XXH3_createState()))
            return false;
        XXH3_64bits_reset(h->blocks);
    }
    while (n) {
        size_t left = HASH_BLOCK - h->part_n, take = n < left ? n : left;

        if (!(take == HASH_BLOCK ? block_add(h, at, take) : part_add(h, at, take)))
            return false;
        at += take;
        n -= take;
    }
    return true;
}

uint64_t tensor_hash_end(struct tensor_hash *h)
{
    uint64_t hash;

    if (h->part_n)
        part_end(h);
    hash = XXH3_64bits_digest(h->blocks);
    tensor_hash_release(h);
    return hash;
}

void tensor_hash_release(struct tensor_hash *h)
{
    XXH3_freeState(h->blocks);
    XXH3_freeState(h->part);
    *h = (struct tensor_hash){ 0 };
}

void hash_each_block(uint64_t *block, const void *bytes, size_t n)
{
    for (size_t at = 0; at < n; at += HASH_BLOCK)
        *block++ = XXH3_64bits((const unsigned char *)bytes + at, n - at < HASH_BLOCK ? n - at : HASH_BLOCK);
}

uint64_t hash_tensor(const void *bytes, size_t n)
{
    uint64_t blocks = hash_blocks(n), *block = xmalloc(blocks * sizeof *block + 1), hash;

    hash_each_block(block, bytes, n);
    hash = hash_of_blocks(block, blocks);
    free(block);
    return hash;
}
