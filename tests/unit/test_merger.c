/* A job gets what a LoRA adapter adds to its matrix: the number that a plain loop gives, give or take the last place of
 * fp16, and bit for bit the same however the matrix is cut into jobs. */
#include "emit/merger.h"
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>
#include "scratch.h"
#include "transform/cast_lane.h"
#include "transform/merge.h"
#include "transform/widen_lane.h"

struct matrix {                       /* and what is added to it */
    uint64_t rows, cols, rank, taken; /* taken: rows of the item */
    enum dtype t;
    int32_t *gather;
    uint16_t *w;
    float *a, *b;
    struct tensor ta, tb;
    struct adapter_pair pair;
    int fd;
};

static uint64_t rng = 1;

static uint64_t below(uint64_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (rng >> 33) % n;
}

static float noise(void) { return (float)((double)below(20001) / 10000 - 1) * 0.1f; }

static void make(struct matrix *m, bool gathered)
{
    size_t a_n, b_n;
    float *all;

    *m = (struct matrix){ .rows = 1 + below(120), .cols = 1 + below(1200), .rank = 1 + below(64), .t = DT_F16 };
    m->taken = gathered ? 1 + below(m->rows) : m->rows;
    a_n = m->rank * m->cols;
    b_n = m->rows * m->rank;
    all = malloc((a_n + b_n) * sizeof *all);
    for (size_t i = 0; i < a_n + b_n; i++)
        all[i] = noise();
    m->a = all;
    m->b = all + a_n;
    m->w = malloc(m->rows * m->cols * 2);
    for (size_t i = 0; i < m->rows * m->cols; i++)
        m->w[i] = f32_to_f16(bits_of_f32(noise()), &(struct counters){ 0 });
    m->gather = gathered ? malloc(m->taken * sizeof *m->gather) : NULL;
    for (uint64_t i = 0; gathered && i < m->taken; i++)
        m->gather[i] = (int32_t)below(m->rows);
    m->ta = (struct tensor){ .dtype = DT_F32, .rank = 2, .shape = { m->rank, m->cols } };
    m->tb = (struct tensor){ .dtype = DT_F32, .rank = 2, .shape = { m->rows, m->rank }, .off = a_n * sizeof *all };
    m->pair = (struct adapter_pair){ .a = &m->ta, .b = &m->tb, .rank = m->rank, .scale = 0.5 + (double)below(8) / 3 };
    scratch_write("adapter", all, (a_n + b_n) * sizeof *all);
    m->fd = open(scratch_path("adapter"), O_RDONLY);
    assert_true(m->fd >= 0);
}

static void unmake(struct matrix *m)
{
    close(m->fd);
    free(m->a);
    free(m->w);
    free(m->gather);
}

static uint64_t source_row(const struct matrix *m, uint64_t row) { return m->gather ? (uint64_t)m->gather[row] : row; }

static double right(const struct matrix *m, uint64_t row, uint64_t col)
{
    uint64_t r = source_row(m, row);
    double sum = 0;

    for (uint64_t k = 0; k < m->rank; k++)
        sum += (double)m->b[r * m->rank + k] * (double)m->a[k * m->cols + col];
    return (double)f16_to_f32(m->w[r * m->cols + col]) + sum * m->pair.scale;
}

/* One job, transposed or not, into its place of `out`. */
static void job(struct merger *g, const struct matrix *m, bool across, uint64_t row, uint64_t rows, uint64_t col,
                uint64_t cols, uint16_t *out)
{
    struct merge what = { .pair = &m->pair,
                          .transform = transform_find(across ? TRANSFORM_TRANSPOSE : TRANSFORM_CAST, DT_F16, DT_F16),
                          .gather = m->gather,
                          .row = row,
                          .col = col };
    uint16_t *tile = malloc(rows * cols * 2);
    struct job j = { .src = tile, .src_pitch = cols * 2, .rows = rows, .cols = cols };
    struct err e = { 0 };

    for (uint64_t i = 0; i < rows; i++)
        memcpy(tile + i * cols, m->w + source_row(m, row + i) * m->cols + col, cols * 2);
    j.dst = across ? out + col * m->taken + row : out + row * m->cols + col;
    j.dst_pitch = (across ? m->taken : m->cols) * 2;
    assert_int_equal(merger_do(g, &what, &j, &e), 0);
    free(tile);
}

static void cut(struct merger *g, const struct matrix *m, bool across, uint64_t rows, uint64_t cols, uint16_t *out)
{
    for (uint64_t r = 0; r < m->taken; r += rows)
        for (uint64_t c = 0; c < m->cols; c += cols)
            job(g, m, across, r, r + rows < m->taken ? rows : m->taken - r, c, c + cols < m->cols ? cols : m->cols - c,
                out);
}

static void check_matrix(const struct matrix *m, bool across)
{
    size_t n = m->taken * m->cols;
    uint16_t *whole = malloc(n * 2), *pieces = malloc(n * 2);
    void *room = malloc(merger_bytes(64));
    struct merger g;

    merger_init(&g, room, 64, m->fd, "adapter");
    cut(&g, m, across, m->taken, m->cols, whole);
    cut(&g, m, across, 1 + below(m->taken), 1 + below(m->cols), pieces);
    assert_memory_equal(whole, pieces, n * 2);
    for (uint64_t r = 0; r < m->taken; r++)
        for (uint64_t c = 0; c < m->cols; c++) {
            double x = right(m, r, c), got = (double)f16_to_f32(whole[across ? c * m->taken + r : r * m->cols + c]);

            assert_true(fabs(got - x) <= 0x1p-11 * 1.01 * fabs(x) + 0x1p-24);
        }
    free(whole);
    free(pieces);
    free(room);
}

static void test_any_cut_gives_the_same_right_numbers(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 24; i++) {
        struct matrix m;

        make(&m, i & 1);
        check_matrix(&m, i & 2);
        unmake(&m);
    }
}

/* A row gathered anywhere has the bits that it has in the whole matrix. */
static void test_a_gathered_row_is_the_row(void **state)
{
    struct matrix m;
    void *room = malloc(merger_bytes(64));
    uint16_t *all, *some;
    struct merger g;

    (void)state;
    make(&m, true);
    all = malloc(m.rows * m.cols * 2);
    some = malloc(m.taken * m.cols * 2);
    merger_init(&g, room, 64, m.fd, "adapter");
    cut(&g, &m, false, m.taken, m.cols, some);
    {
        struct matrix whole = m;

        whole.gather = NULL;
        whole.taken = m.rows;
        cut(&g, &whole, false, m.rows, m.cols, all);
    }
    for (uint64_t i = 0; i < m.taken; i++)
        assert_memory_equal(some + i * m.cols, all + source_row(&m, i) * m.cols, m.cols * 2);
    free(all);
    free(some);
    free(room);
    unmake(&m);
}

static void test_a_short_adapter_is_an_error(void **state)
{
    struct matrix m;
    void *room = malloc(merger_bytes(64));
    struct merger g;
    struct merge what = { .pair = &m.pair, .transform = transform_find(TRANSFORM_CAST, DT_F16, DT_F16) };
    struct job j = { .rows = 1, .cols = 1 };
    struct err e = { 0 };

    (void)state;
    make(&m, false);
    assert_int_equal(truncate(scratch_path("adapter"), 1), 0);
    merger_init(&g, room, 64, m.fd, "adapter_model.safetensors");
    assert_int_equal(merger_do(&g, &what, &j, &e), -1);
    assert_non_null(strstr(e.msg, "adapter_model.safetensors"));
    free(room);
    unmake(&m);
}

/* Every fp16 number, and every bf16 number, as fp32 and back. */
static void test_widen_is_exact(void **state)
{
    struct counters c = { 0 };

    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        float x;

        widen(&x, &h, DT_F16, 1);
        assert_int_equal(f32_to_f16(bits_of_f32(x), &c), (h & 0x7fff) > F16_INFINITY ? h | 0x200 : h);
        widen(&x, &h, DT_BF16, 1);
        assert_int_equal(bits_of_f32(x), i << 16);
    }
}

/* The product times the scale is rounded before it is added. */
static void test_the_sum_rounds_twice(void **state)
{
    uint16_t one = 0x3c00;
    float sum, product = 1 + 0x1p-23f, scale = 1 + 0x1p-23f; /* their product is 1 + 2^-22 + 2^-46 */

    (void)state;
    merge_add(&sum, &(uint16_t){ 0xbc00 }, &product, 1, scale);
    assert_true(sum == 0x1p-22f);
    product = 0x1p-24f;
    merge_add(&sum, &one, &product, 1, 1);
    assert_true(sum == 1);
}

/* Fused: a product that is rounded by itself would be 1. */
static void test_a_term_rounds_once(void **state)
{
    const float b[] = { 1, 1 + 0x1p-12f }, a[] = { -1, -1, 1 - 0x1p-12f, 1 - 0x1p-12f };
    float sum[2];

    (void)state;
    merge_row(sum, b, 2, a, 2, 2);
    assert_true(sum[0] == -0x1p-24f && sum[1] == -0x1p-24f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_any_cut_gives_the_same_right_numbers, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_a_gathered_row_is_the_row, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_a_short_adapter_is_an_error, scratch_make, scratch_remove),
        cmocka_unit_test(test_widen_is_exact),
        cmocka_unit_test(test_the_sum_rounds_twice),
        cmocka_unit_test(test_a_term_rounds_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
