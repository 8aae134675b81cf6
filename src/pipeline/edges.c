#include "pipeline/edges.h"
#include <string.h>
#include "base/hash.h"

enum { BLOCK = LAYOUT_ALIGN };

_Static_assert((int)BLOCK == (int)HASH_BLOCK, "a block that is written whole is hashed at once");

static uint64_t store_bytes(uint64_t row, uint64_t rows) { return row % BLOCK ? rows * BLOCK : 0; }

uint64_t edges_room(uint64_t row, uint64_t rows)
{
    uint64_t table = hash_blocks(row * rows) * sizeof(uint64_t);

    return store_bytes(row, rows) + (table + BLOCK - 1) / BLOCK * BLOCK;
}

uint64_t edges_run(uint64_t row, uint64_t pitch)
{
    uint64_t behind = row % BLOCK ? BLOCK : 0;

    return pitch < behind ? 0 : (pitch - behind) / BLOCK * BLOCK;
}

uint64_t edges_pitch(uint64_t row, uint64_t run, bool last)
{
    if (last)
        return run + (row % BLOCK ? BLOCK : 0); /* the run ends where its row does */
    return run + row % BLOCK;
}

static unsigned char *kept(const struct edges_item *it, uint64_t row) { return it->store + row * BLOCK; }

static void begin_run(const struct edges_item *it, const struct slab_plan *s, uint64_t row, struct edges_piece *p)
{
    uint64_t in = p->off % BLOCK, rest = BLOCK - in;

    if (!in)
        return;
    if (s->first) {
        memcpy(kept(it, row) + in, p->buf, rest);
        p->buf += rest;
        p->off += rest;
        p->bytes -= rest;
    } else {
        p->buf -= in;
        p->off -= in;
        p->bytes += in;
        memcpy(p->buf, kept(it, row), in);
    }
}

static void end_run(const struct edges_item *it, const struct slab_plan *s, uint64_t row, struct edges_piece *p)
{
    uint64_t in = (p->off + p->bytes) % BLOCK, rest = BLOCK - in;

    if (!in)
        return;
    if (!s->last) {
        p->bytes -= in;
        memcpy(kept(it, row), p->buf + p->bytes, in);
    } else {
        if (row + 1 < it->rows)
            memcpy(p->buf + p->bytes, kept(it, row + 1) + in, rest);
        else
            memset(p->buf + p->bytes, 0, rest); /* behind the item */
        p->bytes += rest;
    }
}

struct edges_piece edges_take(const struct edges_item *it, const struct slab_plan *s, uint64_t i, unsigned char *buf)
{
    uint64_t row = s->row + i;
    struct edges_piece p = { .buf = buf + s->buf_off + i * s->buf_pitch,
                             .off = row * it->row + s->in_row,
                             .bytes = s->run_bytes };

    begin_run(it, s, row, &p);
    end_run(it, s, row, &p);
    return p;
}

static uint64_t *table(const struct edges_item *it)
{
    return (uint64_t *)(void *)(it->store + store_bytes(it->row, it->rows));
}

uint64_t edges_hash(const struct edges_item *it, const struct edges_piece *p)
{
    uint64_t all = it->row * it->rows, end = p->off + p->bytes < all ? p->off + p->bytes : all;

    hash_each_block(table(it) + p->off / BLOCK, p->buf, (size_t)(end - p->off));
    return end - p->off;
}

uint64_t edges_hash_end(const struct edges_item *it)
{
    return hash_of_blocks(table(it), hash_blocks(it->row * it->rows));
}
