/* The tokens that a reduced vocabulary keeps: by hand for each rule, and at random against a slow reading of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "model/vocab_choose.h"

enum { VOCAB_MOST = 96 };

#define LIST(...) (const int32_t[]){ __VA_ARGS__ }, sizeof(int32_t[]){ __VA_ARGS__ } / sizeof(int32_t)
#define COUNTS(...)                                                                                                    \
    (const struct vocab_count[]){ __VA_ARGS__ },                                                                       \
        sizeof(struct vocab_count[]){ __VA_ARGS__ } / sizeof(struct vocab_count)

static void expect(const struct vocab_wanted *w, const int32_t *id, size_t n)
{
    int32_t got[VOCAB_MOST];
    struct arena a = { 0 };
    struct err e = { 0 };

    assert_int_equal(w->size, n);
    assert_int_equal(vocab_choose(w, got, &a, &e), 0);
    assert_memory_equal(got, id, n * sizeof *id);
    arena_release(&a);
}

static void expect_error(const struct vocab_wanted *w, const char *said)
{
    int32_t got[VOCAB_MOST];
    struct arena a = { 0 };
    struct err e = { 0 };

    assert_int_equal(vocab_choose(w, got, &a, &e), -1);
    assert_int_equal(e.kind, ERR_RANGE);
    if (!strstr(e.msg, said))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, said);
    arena_release(&a);
}

static struct vocab_wanted wanted(uint64_t vocab, uint64_t size, const int32_t *required, size_t required_n,
                                  const struct vocab_count *counted, size_t counted_n)
{
    return (struct vocab_wanted){ .vocab = vocab,
                                  .size = size,
                                  .required = required,
                                  .required_n = required_n,
                                  .counted = counted,
                                  .counted_n = counted_n };
}

static void most_common_are_kept(void **state)
{
    struct vocab_wanted w = wanted(20, 4, LIST(19, 19), COUNTS({ 3, 2 }, { 19, 50 }, { 7, 9 }, { 5, 2 }, { 4, 1 }));

    (void)state;
    expect(&w, LIST(3, 5, 7, 19)); /* 19 is required, and counts once */
    w.size = 3;
    expect(&w, LIST(3, 7, 19)); /* of 3 and 5 the first to appear */
    w.size = 1;
    expect(&w, LIST(19));
    w.size = 5;
    expect(&w, LIST(3, 4, 5, 7, 19));
    w.size = 6;
    expect_error(&w, "reasons to keep 5 tokens only, fewer than the 6 that were asked for");
}

static void required_must_fit(void **state)
{
    struct vocab_wanted w = wanted(20, 2, LIST(1, 2, 3), COUNTS({ 3, 2 }));

    (void)state;
    expect_error(&w, "a vocabulary of 2 has no room for the 3 tokens that are always kept");
    w.size = 3;
    expect(&w, LIST(1, 2, 3));
}

/* One in ten is a neighbour of the core, the most common member's first, in ascending order. */
static void neighbours_of_the_core(void **state)
{
    struct vocab_wanted w = wanted(60, 11, LIST(47),
                                   COUNTS({ 10, 1 }, { 50, 99 }, { 12, 2 }, { 14, 2 }, { 16, 2 }, { 18, 2 }, { 20, 2 },
                                          { 22, 2 }, { 24, 2 }, { 45, 2 }));

    (void)state;
    w.input_aware = true;
    w.seen = (const int32_t[]){ 10, 12, 14, 16, 18, 20, 22, 24, 45, 50 };
    w.seen_n = 10;
    expect(&w, LIST(12, 14, 16, 18, 20, 22, 24, 45, 46, 47, 50)); /* 45 and 47 are there, 10 came too late */
}

/* What the input lacks waits until as many are kept as the two share; an id that was passed over is not asked again. */
static void input_aware_prefers_what_is_repeated(void **state)
{
    struct vocab_wanted w = wanted(20, 2, LIST(0), COUNTS({ 5, 9 }, { 6, 8 }, { 7, 7 }, { 8, 6 }));

    (void)state;
    w.input_aware = true;
    w.seen = (const int32_t[]){ 6, 6, 19 };
    w.seen_n = 3;
    expect(&w, LIST(0, 6));
    w.size = 3;
    expect(&w, LIST(0, 6, 7));
    w.size = 5;
    expect_error(&w, "reasons to keep 4 tokens only");
}

static void neighbours_end_with_the_vocabulary(void **state)
{
    struct vocab_wanted w = wanted(
        12, 12, LIST(6),
        COUNTS({ 0, 9 }, { 1, 9 }, { 2, 9 }, { 3, 9 }, { 4, 9 }, { 5, 9 }, { 7, 9 }, { 8, 9 }, { 9, 9 }, { 10, 9 }));

    (void)state;
    w.input_aware = true;
    expect(&w, LIST(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
    w.vocab = 40;
    w.size = 23;
    expect_error(&w, "reasons to keep 13 tokens only"); /* 6, the core of 10, and its neighbours 11 and 12 */
}

/* ---- at random ---- */

static bool in(const int32_t *list, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

/* The rules as they are written, by searching lists. Returns how many. */
static size_t slowly(const struct vocab_wanted *w, int32_t *id)
{
    size_t n = 0, core, shared = 0, room, tolerance;
    bool walked[VOCAB_MOST] = { false };

    for (size_t i = 0; i < w->required_n; i++)
        if (!in(id, n, w->required[i]))
            id[n++] = w->required[i];
    core = n;
    room = w->size - n;
    tolerance = w->input_aware ? (size_t)(0.1 * (double)room) : 0;
    for (size_t i = 0; i < w->counted_n; i++)
        shared += in(w->seen, w->seen_n, w->counted[i].id);
    for (size_t turn = 0; turn < w->counted_n; turn++) {
        size_t best = w->counted_n;

        for (size_t i = 0; i < w->counted_n; i++)
            if (!walked[i] && (best == w->counted_n || w->counted[i].n > w->counted[best].n))
                best = i;
        walked[best] = true;
        if (n - core < room - tolerance && !in(id, n, w->counted[best].id) &&
            (!w->input_aware || in(w->seen, w->seen_n, w->counted[best].id) || n - core >= shared))
            id[n++] = w->counted[best].id;
    }
    for (size_t i = core, end = n; i < end; i++)
        for (int32_t near = id[i] - 5; near <= id[i] + 5; near++)
            if (n < end + tolerance && near >= 0 && near < (int32_t)w->vocab && !in(id, n, near))
                id[n++] = near;
    return n;
}

static int by_id(const void *a, const void *b) { return *(const int32_t *)a - *(const int32_t *)b; }

static void same_as_slowly(void **state)
{
    unsigned done = 0, failed = 0;

    (void)state;
    srand(1);
    for (int round = 0; round < 20000; round++) {
        int32_t required[4], seen[40], want[2 * VOCAB_MOST], got[VOCAB_MOST];
        struct vocab_count counted[VOCAB_MOST];
        struct vocab_wanted w =
            wanted(20 + (uint64_t)rand() % (VOCAB_MOST - 20), 0, required, (size_t)rand() % 5, counted, 0);
        int vocab = (int)w.vocab;
        struct arena a = { 0 };
        struct err e = { 0 };
        size_t n;

        w.size = 4 + (uint64_t)(rand() % (vocab - 4));
        w.input_aware = rand() % 2;
        w.seen = seen;
        w.seen_n = (size_t)rand() % 40;
        for (size_t i = 0; i < 4; i++)
            required[i] = rand() % vocab;
        for (size_t i = 0; i < 40; i++)
            seen[i] = rand() % vocab;
        for (int32_t id = rand() % 7; id < vocab; id += 1 + rand() % 3)
            counted[w.counted_n++] = (struct vocab_count){ id, 1 + (uint64_t)rand() % 9 };
        for (size_t i = w.counted_n; i > 1; i--) {
            size_t k = (size_t)rand() % i;
            struct vocab_count swap = counted[k];

            counted[k] = counted[i - 1];
            counted[i - 1] = swap;
        }
        n = slowly(&w, want);
        if (vocab_choose(&w, got, &a, &e)) {
            assert_true(n < w.size);
            failed++;
        } else {
            qsort(want, n, sizeof *want, by_id);
            assert_int_equal(n, w.size);
            assert_memory_equal(got, want, n * sizeof *want);
            done++;
        }
        arena_release(&a);
    }
    assert_true(done > 5000 && failed > 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(most_common_are_kept),
        cmocka_unit_test(required_must_fit),
        cmocka_unit_test(neighbours_of_the_core),
        cmocka_unit_test(input_aware_prefers_what_is_repeated),
        cmocka_unit_test(neighbours_end_with_the_vocabulary),
        cmocka_unit_test(same_as_slowly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
