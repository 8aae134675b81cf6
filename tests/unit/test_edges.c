/* Whatever the shape, the cut into panels and that of a panel into pieces of runs: every block of the item is given
 * exactly once, whole, with the right bytes; nothing is touched outside of a slab's buffer and the item's store; and
 * the hash is the tensor's. */
#include "pipeline/edges.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/hash.h"

enum { BLOCK = LAYOUT_ALIGN, GUARD = 64 };

static uint64_t rng = 7;

static uint64_t any(uint64_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (rng >> 33) % n;
}

static uint64_t padded(uint64_t v) { return (v + BLOCK - 1) / BLOCK * BLOCK; }

struct guarded { /* memory with something known on both sides */
    unsigned char *base, *at;
    size_t n;
};

static struct guarded guarded(size_t n)
{
    struct guarded g = { .base = aligned_alloc(BLOCK, padded(n) + 2 * BLOCK), .n = n };

    assert_non_null(g.base);
    memset(g.base, 0xa5, padded(n) + 2 * BLOCK);
    g.at = g.base + BLOCK;
    return g;
}

static void untouched_around(struct guarded g)
{
    for (size_t i = 0; i < GUARD; i++) {
        assert_int_equal(g.at[-1 - (ptrdiff_t)i], 0xa5);
        assert_int_equal(g.at[g.n + i], 0xa5);
    }
    free(g.base);
}

struct sheet { /* an item and what becomes of it */
    struct edges_item it;
    struct guarded store;
    unsigned char *want, *got, *times; /* times: that a block was given */
    uint64_t bytes, hashed;
};

static struct sheet sheet(uint64_t row, uint64_t rows)
{
    struct sheet s = { .bytes = row * rows, .store = guarded(edges_room(row, rows)) };

    s.it = (struct edges_item){ row, rows, s.store.at };
    s.want = malloc(s.bytes);
    s.got = calloc(1, padded(s.bytes));
    s.times = calloc(1, padded(s.bytes) / BLOCK);
    for (uint64_t i = 0; i < s.bytes; i++)
        s.want[i] = (unsigned char)any(256);
    return s;
}

static void give(struct sheet *s, struct edges_piece p)
{
    assert_true(p.bytes > 0 && p.off % BLOCK == 0 && p.bytes % BLOCK == 0);
    assert_int_equal((uintptr_t)p.buf % BLOCK, 0);
    assert_true(p.off + p.bytes <= padded(s->bytes));
    memcpy(s->got + p.off, p.buf, p.bytes);
    for (uint64_t b = p.off / BLOCK; b < (p.off + p.bytes) / BLOCK; b++)
        s->times[b]++;
    s->hashed += edges_hash(&s->it, &p);
}

/* A panel of bytes [in_row, in_row + run) of every row, by pieces of at most `most` runs, each in a buffer of its own
 * where it stands as it does in the panel's. */
static void panel(struct sheet *s, uint64_t in_row, uint64_t run, uint64_t most)
{
    struct slab_plan p = { .first = !in_row, .last = in_row + run == s->it.row, .run_bytes = run, .in_row = in_row };

    p.buf_pitch = edges_pitch(s->it.row, run, p.last);
    for (uint64_t row = 0; row < s->it.rows; row += p.runs) {
        uint64_t begin = row * p.buf_pitch % BLOCK;
        struct edges_piece given[16];
        struct guarded buf;

        p.row = row;
        p.runs = s->it.rows - row < most ? s->it.rows - row : most;
        p.buf_off = begin;
        buf = guarded(begin + p.runs * p.buf_pitch);
        for (uint64_t i = 0; i < p.runs; i++)
            memcpy(buf.at + begin + i * p.buf_pitch, s->want + (row + i) * s->it.row + in_row, run);
        for (uint64_t i = 0; i < p.runs; i++) { /* as if the disk took them late */
            given[i % 16] = edges_take(&s->it, &p, i, buf.at);
            if (i % 16 == 15 || i + 1 == p.runs)
                for (uint64_t k = i / 16 * 16; k <= i; k++)
                    give(s, given[k % 16]);
        }
        untouched_around(buf);
    }
}

static void complete(struct sheet *s)
{
    assert_memory_equal(s->got, s->want, s->bytes);
    for (uint64_t i = s->bytes; i < padded(s->bytes); i++)
        assert_int_equal(s->got[i], 0);
    for (uint64_t b = 0; b < padded(s->bytes) / BLOCK; b++)
        assert_int_equal(s->times[b], 1);
    assert_int_equal(s->hashed, s->bytes);
    assert_true(edges_hash_end(&s->it) == hash_tensor(s->want, s->bytes));
    untouched_around(s->store);
    free(s->want);
    free(s->got);
    free(s->times);
}

static void any_shape_and_cut(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 400; n++) {
        uint64_t row = 2 * BLOCK + 1 + any(9 * BLOCK), rows = 2 + any(40), at = 0;
        struct sheet s;

        if (n % 4 == 0)
            row = row / 128 * 128 + 128;
        if (n % 10 == 0)
            row = padded(row); /* nothing to keep */
        if (n % 10 == 1)
            row = padded(row) + 1 + any(20); /* the last panel may be a few bytes */
        s = sheet(row, rows);
        while (at < row) {
            uint64_t run = (2 + any(5)) * BLOCK;

            if (!at && run >= row)
                run = 2 * BLOCK; /* a panel that is first and last is none: it is the whole tensor */
            else if (row - at <= run)
                run = row - at;
            panel(&s, at, run, 1 + any(n % 2 ? 50 : 6));
            at += run;
        }
        complete(&s);
    }
}

/* What a panel's buffer has room for. */
static void runs_fit_their_pitch(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 100000; n++) {
        uint64_t row = 2 * BLOCK + any(300000), pitch = any(200000), run = edges_run(row, pitch);

        assert_int_equal(run % BLOCK, 0);
        if (!run) {
            assert_true(pitch < 2 * BLOCK);
            continue;
        }
        assert_true(edges_pitch(row, run, false) <= pitch);
        assert_int_equal(edges_pitch(row, run, false) % BLOCK, row % BLOCK);
        assert_true(run + 2 * BLOCK > pitch); /* and no block more than it must be is left over */
        if (row % BLOCK) {
            uint64_t last = run - BLOCK + row % BLOCK;

            assert_true(edges_pitch(row, last, true) <= pitch);
            assert_int_equal(edges_pitch(row, last, true) % BLOCK, row % BLOCK);
        }
    }
    assert_int_equal(edges_room(8192, 100), 4096);      /* 200 hashes */
    assert_int_equal(edges_room(8192, 1000), 4 * 4096); /* 2000 */
    assert_int_equal(edges_room(8194, 100), 100 * 4096 + 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_shape_and_cut),
        cmocka_unit_test(runs_fit_their_pitch),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
