#include "front/verify_tensor.h"
#include "emit/units_read.h"
#include "transform/cast_lane.h"
#include "transform/merge.h"
#include "transform/transform.h"
#include "transform/widen_lane.h"
#include <stdlib.h>
#include <string.h>

enum { PIECE = 32 << 20, BLOCK = PIECE / 4 }; /* bytes, elements of a buffer; there are three */

struct compare { /* of one tensor */
    const struct tensor *source;
    const struct transform *t;
    const struct verify_piece *p;
    int source_fd;
    const char *source_name;
    uint64_t rows, cols;                   /* of the source, or of what is taken of it */
    unsigned char *src, *expected, *found; /* buffers */
    struct merged {                        /* of a tensor that an adapter was merged into */
        int fd;
        unsigned char *raw;
        float *a, *b; /* all of A, one row of B */
        float *sum;   /* of a row */
    } m;
    struct differences *d;
    struct err *e;
};

static int piece_fetch(const struct verify_piece *p, void *buf, uint64_t n, uint64_t off, struct err *e)
{
    if (p->bytes) {
        memcpy(buf, (const unsigned char *)p->bytes + off, n);
        return 0;
    }
    return file_pread(p->fd, p->file, buf, n, p->off + off, e);
}

static int fetch(const struct compare *c, void *buf, uint64_t n, uint64_t off)
{
    return piece_fetch(c->p, buf, n, off, c->e);
}

/* 1: a difference was found and told, which is enough for this tensor. */
static int mismatch(struct compare *c, uint64_t element, const unsigned char *expected, const unsigned char *found)
{
    differ(c->d, "tensor", c->p->name, "%s: element %llu is 0x%02x%02x, expected 0x%02x%02x (fp16, from %s in %s)",
           c->p->name, (unsigned long long)element, found[1], found[0], expected[1], expected[0], c->source->name,
           c->source_name);
    return 1;
}

/* fp16 bits as whole numbers in the order of the values, so that neighbours differ by 1; both zeros are 0. */
static int32_t place_of(const unsigned char *bits)
{
    int32_t h = bits[0] | bits[1] << 8;

    return h & 0x8000 ? -(h & 0x7fff) : h;
}

static bool is_nan(const unsigned char *bits) { return ((bits[1] & 0x7f) << 8 | bits[0]) > 0x7c00; }

/* The next value on either side will do. */
static int compare_merged(struct compare *c, const unsigned char *expected, const unsigned char *found, uint64_t n,
                          uint64_t first_element)
{
    for (uint64_t i = 0; i < n; i++, expected += 2, found += 2) {
        int32_t apart = place_of(found) - place_of(expected);

        if (is_nan(expected) && is_nan(found))
            continue;
        if (is_nan(expected) || is_nan(found) || apart < -1 || apart > 1)
            return mismatch(c, first_element + i, expected, found);
        c->d->neighbours += apart != 0;
    }
    c->d->merged += n;
    return 0;
}

/* n fp16 values that stand together in both. */
static int compare_run(struct compare *c, const unsigned char *expected, const unsigned char *found, uint64_t n,
                       uint64_t first_element)
{
    if (c->p->merge)
        return compare_merged(c, expected, found, n, first_element);
    if (!memcmp(expected, found, n * 2))
        return 0;
    for (uint64_t i = 0; i < n; i++)
        if (memcmp(expected + i * 2, found + i * 2, 2))
            return mismatch(c, first_element + i, expected + i * 2, found + i * 2);
    return 0;
}

static int read_source(struct compare *c, uint64_t element, uint64_t n)
{
    unsigned bytes = dtype_bytes(c->source->dtype);

    return file_pread(c->source_fd, c->source_name, c->src, n * bytes, c->source->off + element * bytes, c->e);
}

static int read_rows(struct compare *c, uint64_t first, uint64_t n)
{
    size_t row = c->cols * dtype_bytes(c->source->dtype);

    if (!c->p->rows)
        return read_source(c, first * c->cols, n * c->cols);
    for (uint64_t i = 0; i < n; i++)
        if (file_pread(c->source_fd, c->source_name, c->src + i * row, row,
                       c->source->off + (uint64_t)c->p->rows[first + i] * row, c->e))
            return -1;
    return 0;
}

static int compare_cast(struct compare *c)
{
    uint64_t all = c->rows * c->cols, step = BLOCK;
    int ret = 0;

    for (uint64_t at = 0; !ret && at < all; at += step) {
        uint64_t n = all - at < step ? all - at : step;
        struct job j = {
            .src = c->src, .dst = c->expected, .rows = 1, .cols = n, .src_pitch = PIECE, .dst_pitch = PIECE
        };

        if (read_source(c, at, n) || fetch(c, c->found, n * 2, at * 2))
            return -1;
        c->t->ref(&j);
        ret = compare_run(c, c->expected, c->found, n, at);
    }
    return ret;
}

static int read_factor(struct compare *c, const struct tensor *t, uint64_t first, uint64_t n, float *to)
{
    unsigned bytes = dtype_bytes(t->dtype);

    if (file_pread(c->m.fd, c->p->merge->file->path, c->m.raw, n * bytes, t->off + first * bytes, c->e))
        return -1;
    widen(to, c->m.raw, t->dtype, n);
    return 0;
}

/* From `expected`, the block's weights in fp16 and transposed, to those with the adapter in them. */
static int merge_block(struct compare *c, uint64_t r0, uint64_t rows, uint64_t c0, uint64_t cols)
{
    const struct adapter_pair *p = c->p->merge;
    struct counters ignored = { 0 };

    for (uint64_t r = 0; r < rows; r++) {
        uint64_t row = c->p->rows ? (uint64_t)c->p->rows[r0 + r] : r0 + r;

        if (read_factor(c, p->b, row * p->rank, p->rank, c->m.b))
            return -1;
        merge_row(c->m.sum, c->m.b, p->rank, c->m.a + c0, c->cols, cols);
        for (uint64_t i = 0; i < cols; i++) {
            unsigned char *at = c->expected + (i * rows + r) * 2;
            float merged = f16_to_f32((uint16_t)(at[0] | at[1] << 8)) + c->m.sum[i] * (float)p->scale;
            uint16_t h = f32_to_f16(bits_of_f32(merged), &ignored);

            memcpy(at, &h, sizeof h);
        }
    }
    return 0;
}

/* A block of source rows r0.. and columns c0..: in the export, a run of `rows` values in each of `cols` rows. */
static int compare_block(struct compare *c, uint64_t r0, uint64_t rows, uint64_t c0, uint64_t cols)
{
    unsigned bytes = dtype_bytes(c->source->dtype);
    struct job j = {
        .src = c->src, .dst = c->expected, .rows = rows, .cols = cols, .src_pitch = cols * bytes, .dst_pitch = rows * 2
    };
    int ret = 0;

    if (cols == c->cols ? read_rows(c, r0, rows)
                        : read_source(c, (c->p->rows ? (uint64_t)c->p->rows[r0] : r0) * c->cols + c0, cols))
        return -1;
    c->t->ref(&j);
    if (c->p->merge && merge_block(c, r0, rows, c0, cols))
        return -1;
    if (rows == c->rows) {
        if (fetch(c, c->found, rows * cols * 2, c0 * rows * 2))
            return -1;
        return compare_run(c, c->expected, c->found, rows * cols, c0 * rows);
    }
    for (uint64_t col = 0; !ret && col < cols; col++) {
        uint64_t first = (c0 + col) * c->rows + r0;

        if (fetch(c, c->found, rows * 2, first * 2))
            return -1;
        ret = compare_run(c, c->expected + col * rows * 2, c->found, rows, first);
    }
    return ret;
}

static int compare_transpose(struct compare *c)
{
    uint64_t cols = c->cols < BLOCK ? c->cols : BLOCK; /* a row longer than a buffer is cut */
    uint64_t rows = cols == c->cols ? BLOCK / cols : 1;
    int ret = 0;

    for (uint64_t r = 0; !ret && r < c->rows; r += rows)
        for (uint64_t k = 0; !ret && k < c->cols; k += cols)
            ret = compare_block(c, r, c->rows - r < rows ? c->rows - r : rows, k,
                                c->cols - k < cols ? c->cols - k : cols);
    return ret;
}

static int merged_open(struct compare *c)
{
    const struct adapter_pair *p = c->p->merge;
    struct merged *m = &c->m;
    size_t a_n = p->a->elements;

    m->raw = malloc((a_n + p->rank) * sizeof(float));
    m->a = malloc(a_n * sizeof(float));
    m->b = malloc(p->rank * sizeof(float));
    m->sum = malloc(c->cols * sizeof(float));
    if (!m->raw || !m->a || !m->b || !m->sum)
        return err_set(c->e, ERR_NOMEM, "%s: no memory for the adapter's matrices", c->p->name);
    if ((m->fd = ckpt_open_source(p->file, c->e)) < 0)
        return -1;
    return read_factor(c, p->a, 0, a_n, m->a);
}

static void merged_close(struct merged *m)
{
    if (m->fd >= 0)
        file_close(m->fd);
    free(m->raw);
    free(m->a);
    free(m->b);
    free(m->sum);
}

int verify_tensor(struct differences *d, const struct checkpoint *ckpt, const struct tensor *source, bool transposed,
                  const struct verify_piece *p, struct err *e)
{
    const struct ckpt_file *file = &ckpt->file[source->file];
    struct compare c = {
        .source = source, .p = p, .d = d, .e = e, .source_name = file->name, .source_fd = -1, .m.fd = -1
    };
    uint64_t block;
    int ret = -1;

    c.t = transform_find(transposed ? TRANSFORM_TRANSPOSE : TRANSFORM_CAST, source->dtype, DT_F16);
    c.rows = p->rows ? p->rows_n : transposed ? source->shape[0] : 1;
    c.cols = transposed ? source->shape[1] : source->elements;
    block = c.rows * c.cols < BLOCK ? c.rows * c.cols : BLOCK;
    c.src = malloc(block * dtype_bytes(source->dtype) + 1);
    c.expected = malloc(block * 2 + 1);
    c.found = malloc(block * 2 + 1);
    if (!c.src || !c.expected || !c.found) {
        err_set(e, ERR_NOMEM, "%s: no memory to compare it", p->name);
        goto out;
    }
    if ((c.source_fd = ckpt_open_source(file, e)) < 0 || (p->merge && merged_open(&c)))
        goto out;
    ret = transposed ? compare_transpose(&c) : compare_cast(&c);
    ret = ret < 0 ? -1 : 0;
    d->tensors++;
    d->bytes += c.rows * c.cols * 2;
out:
    if (c.source_fd >= 0)
        file_close(c.source_fd);
    merged_close(&c.m);
    free(c.src);
    free(c.expected);
    free(c.found);
    return ret;
}

/* ---- recipes that have parts ---- */

struct units { /* of one tensor */
    const struct checkpoint *ckpt;
    const struct recipe_plain *r;
    const struct verify_piece *p;
    unsigned char *src, *expected, *found;
    struct differences *d;
    struct err *e;
};

/* 1: a difference was told. */
static int same_run(const struct units *u, const unsigned char *expected, const unsigned char *found, uint64_t n,
                    uint64_t off)
{
    uint64_t i = 0;

    if (!memcmp(expected, found, n))
        return 0;
    while (expected[i] == found[i])
        i++;
    differ(u->d, "tensor", u->p->name, "%s: byte %llu is 0x%02x, expected 0x%02x (%s from %s)", u->p->name,
           (unsigned long long)(off + i), found[i], expected[i], u->r->transform->name, u->r->source->name);
    return 1;
}

static int compare_units(struct units *u, uint64_t first, uint64_t n)
{
    const struct recipe_plain *r = u->r;
    bool panel = r->transform->cut == CUT_ROWS; /* units are rows of the source and columns of the result */
    uint64_t run = n * r->dst, runs = panel ? r->cols : 1, pitch = panel ? r->rows * r->dst : 0;
    struct job j = { .dst = u->expected, .dst_pitch = run };
    int ret = 0;

    if (units_read(u->ckpt, r, first, n, u->src, u->e))
        return -1;
    recipe_job(r, first, n, u->src, &j);
    r->transform->ref(&j);
    if (run == pitch || runs == 1) /* all of it is in one piece */
        return piece_fetch(u->p, u->found, run * runs, first * r->dst, u->e)
                   ? -1
                   : same_run(u, u->expected, u->found, run * runs, first * r->dst);
    for (uint64_t i = 0; !ret && i < runs; i++) {
        uint64_t off = i * pitch + first * r->dst;

        ret = piece_fetch(u->p, u->found, run, off, u->e) ? -1 : same_run(u, u->expected + i * run, u->found, run, off);
    }
    return ret;
}

int verify_units(struct differences *d, const struct checkpoint *ckpt, const struct recipe_plain *r,
                 const struct verify_piece *p, struct err *e)
{
    uint64_t units = recipe_units(r), out = (r->transform->cut == CUT_ROWS ? r->cols : 1) * r->dst, step = 1;
    struct units u = { .ckpt = ckpt, .r = r, .p = p, .d = d, .e = e };
    int ret = 0;

    while (step < units && recipe_parts_bytes(r, step * 2) <= PIECE && out * step * 2 <= PIECE)
        step *= 2;
    u.src = malloc(recipe_parts_bytes(r, step) + 1);
    u.expected = malloc(out * step + 1);
    u.found = malloc(out * step + 1);
    if (!u.src || !u.expected || !u.found)
        ret = err_set(e, ERR_NOMEM, "%s: no memory to compare it", p->name);
    for (uint64_t at = 0; !ret && at < units; at += step)
        ret = compare_units(&u, at, units - at < step ? units - at : step);
    d->tensors++;
    d->bytes += out * units;
    free(u.src);
    free(u.expected);
    free(u.found);
    return ret < 0 ? -1 : 0;
}
