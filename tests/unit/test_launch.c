/* Every transform has a kernel; what a device cannot do in one job is refused, and nothing is nothing to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "transform/launch.h"

static const struct pack4 pack = { .in = 256, .group = 64 };
static uint32_t memory[256]; /* only its address is looked at */

static struct job small_job(void)
{
    return (struct job){ .src = memory,
                         .src_pitch = 1024,
                         .dst = memory,
                         .dst_pitch = 512,
                         .rows = 4,
                         .cols = 16,
                         .pack = &pack,
                         .zeros = { memory, 8 },
                         .g_idx = { memory, 0 } };
}

static size_t plan(const struct transform *t, const struct job *j, struct launch *l)
{
    struct launch_memory m = { memory, memory, NULL };

    return launch_job(t, j, &m, l);
}

static void every_transform_has_a_kernel(void **state)
{
    struct launch l[LAUNCH_MOST];
    struct job j = small_job();

    (void)state;
    for (size_t i = 0; i < transforms_n; i++) {
        size_t n = plan(&transforms[i], &j, l);

        assert_in_range(n, 1, LAUNCH_MOST);
        for (size_t k = 0; k < n; k++) {
            uint32_t threads = l[k].block[0] * l[k].block[1] * l[k].block[2];

            assert_non_null(l[k].kernel);
            assert_in_range(threads, 32, 1024);
            assert_int_equal(l[k].block[0] % 32, 0);
            assert_in_range(l[k].grid[0], 1, INT32_MAX);
            assert_in_range(l[k].grid[1], 1, 65535);
            assert_int_equal(l[k].grid[2], 1);
        }
    }
}

/* The order of groups is made first, in memory that the caller lends. */
static void group_order_comes_first(void **state)
{
    const struct transform *t = transform_find(TRANSFORM_PACK4_OUT, DT_I32, DT_I8);
    struct launch l[LAUNCH_MOST];
    struct job j = small_job();

    (void)state;
    assert_int_equal(launch_scratch(t, &j), pack.in * 4);
    assert_int_equal(plan(t, &j, l), 2);
    assert_string_equal(l[0].kernel, "gpu_group_order");
    j.g_idx.at = NULL;
    assert_int_equal(launch_scratch(t, &j), 0);
    assert_int_equal(plan(t, &j, l), 1);
}

static void nothing_to_do(void **state)
{
    struct launch l[LAUNCH_MOST];
    struct job j = small_job();

    (void)state;
    j.rows = 0;
    assert_int_equal(plan(transform_find(TRANSFORM_CAST, DT_F32, DT_F16), &j, l), 0);
    assert_int_equal(plan(transform_find(TRANSFORM_TRANSPOSE, DT_F32, DT_F16), &j, l), 0);
    j = small_job();
    j.cols = 0;
    assert_int_equal(plan(transform_find(TRANSFORM_CAST, DT_F32, DT_F16), &j, l), 0);
    assert_int_equal(plan(transform_find(TRANSFORM_TRANSPOSE, DT_F32, DT_F16), &j, l), 0);
}

/* Casts go round a grid of any size; other kernels have a block for each tile. */
static void too_large(void **state)
{
    struct launch l[LAUNCH_MOST];
    struct job j = small_job();

    (void)state;
    j.rows = j.cols = (size_t)1 << 30;
    assert_int_equal(plan(transform_find(TRANSFORM_CAST, DT_F32, DT_F16), &j, l), 1);
    assert_int_equal(plan(transform_find(TRANSFORM_TRANSPOSE, DT_F32, DT_F16), &j, l), SIZE_MAX);
    assert_int_equal(plan(transform_find(TRANSFORM_PACK4_IN, DT_I32, DT_I8), &j, l), SIZE_MAX);
    j.rows = 1, j.cols = (size_t)1 << 33;
    for (size_t i = 0; i < transforms_n; i++)
        if (transforms[i].kind == TRANSFORM_TRANSPOSE || transforms[i].kind == TRANSFORM_PACK4_OUT)
            assert_int_equal(plan(&transforms[i], &j, l), SIZE_MAX);
}

static void an_unknown_one_is_refused(void **state)
{
    struct transform t = { .kind = TRANSFORM_CAST, .src = DT_F64, .dst = DT_F16 };
    struct launch l[LAUNCH_MOST];
    struct job j = small_job();

    (void)state;
    assert_int_equal(plan(&t, &j, l), SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_transform_has_a_kernel),
        cmocka_unit_test(group_order_comes_first),
        cmocka_unit_test(nothing_to_do),
        cmocka_unit_test(too_large),
        cmocka_unit_test(an_unknown_one_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
