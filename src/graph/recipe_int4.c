/* recipe_int4.c - recipes of 4-bit weights: their sources, and which bytes of each some units need.
 *
 * A unit is the least that a job makes: of weights that are packed by input a row of cells of 64 inputs, all outputs;
 * of those packed by output, or gathered into group order, all inputs of 8 outputs; of corrections a group, or 8
 * outputs. So the words of a unit are one piece of the file, or a column of it, and the zero points that go with it
 * too. */
#include "graph/recipe.h"
#include "transform/pack4_lane.h"

enum { PART_ALIGN = 64, WORD = 4 /* bytes */ };

static const struct recipe *make(struct arena *a, enum recipe_op op, const struct int4 *q, enum dtype t, uint64_t d0,
                                 uint64_t d1)
{
    struct recipe *r = arena_alloc(a, sizeof *r);

    *r = (struct recipe){ .op = op, .int4 = q, .dtype = t, .rank = d1 ? 2 : 1, .shape = { d0, d1 } };
    return r;
}

const struct recipe *recipe_pack4(struct arena *a, const struct int4 *q)
{
    return make(a, RECIPE_PACK4, q, DT_I8, q->out / 2, q->in);
}

const struct recipe *recipe_zeros(struct arena *a, const struct int4 *q)
{
    return make(a, RECIPE_ZEROS, q, DT_F16, q->in / q->group, q->out);
}

const struct recipe *recipe_order(struct arena *a, const struct int4 *q)
{
    return make(a, RECIPE_ORDER, q, DT_I64, q->in, 0);
}

static void add(struct recipe_plain *p, enum part_how how, const struct tensor *t, uint64_t bytes)
{
    p->part[p->parts++] = (struct recipe_part){ t, how, bytes };
}

/* Rows of cells of 64 inputs. */
static enum transform_kind pack_by_input(const struct int4 *q, const struct tensor *zeros, struct recipe_plain *p)
{
    p->rows = q->in / PACK4_IN;
    p->cols = q->out / PACK4_OUT;
    p->dst = PACK4_CELL;
    add(p, PART_UNITS, q->words, p->cols * PACK4_CELL);
    if (zeros)
        add(p, PART_GROUPS, zeros, q->out / PACK4_WORD * WORD);
    return q->packing == INT4_IN ? TRANSFORM_PACK4_IN : TRANSFORM_PACK4_AWQ;
}

/* All inputs of 8 outputs. */
static enum transform_kind pack_by_output(const struct int4 *q, const struct tensor *zeros, struct recipe_plain *p)
{
    p->rows = 1;
    p->cols = q->out / PACK4_WORD;
    p->dst = (unsigned)(q->in * PACK4_WORD / 2);
    if (q->packing == INT4_IN) {
        add(p, PART_COLUMNS, q->words, PACK4_WORD * WORD);
        if (zeros)
            add(p, PART_COLUMNS, zeros, WORD);
    } else {
        add(p, PART_UNITS, q->words, q->in * PACK4_WORD / 2);
        if (zeros)
            add(p, PART_UNITS, zeros, q->in / q->group * WORD);
    }
    if (q->g_idx)
        add(p, PART_WHOLE, q->g_idx, q->g_idx->bytes);
    return q->packing == INT4_IN ? TRANSFORM_PACK4_IN_ACT : TRANSFORM_PACK4_OUT;
}

static enum transform_kind pack(const struct int4 *q, struct recipe_plain *p)
{
    const struct tensor *zeros = q->kept == ZEROS_FOLDED || q->kept == ZEROS_CLAMPED ? q->zeros : NULL;
    bool by_input = q->packing != INT4_OUT && !q->g_idx;

    return by_input ? pack_by_input(q, zeros, p) : pack_by_output(q, zeros, p);
}

static enum transform_kind zeros(const struct int4 *q, struct recipe_plain *p)
{
    uint64_t groups = q->in / q->group, scale = dtype_bytes(q->scales->dtype);

    if (q->packing == INT4_OUT) {
        p->rows = q->out / PACK4_WORD;
        p->cols = groups;
        p->dst = PACK4_WORD * 2;
        add(p, PART_UNITS, q->scales, PACK4_WORD * groups * scale);
        add(p, PART_UNITS, q->zeros, groups * WORD);
        return TRANSFORM_ZEROS_OUT;
    }
    p->rows = 1;
    p->cols = groups;
    p->dst = (unsigned)(q->out * 2);
    add(p, PART_UNITS, q->scales, q->out * scale);
    add(p, PART_UNITS, q->zeros, q->out / PACK4_WORD * WORD);
    return q->packing == INT4_AWQ ? TRANSFORM_ZEROS_AWQ : TRANSFORM_ZEROS_IN;
}

static enum transform_kind order(const struct int4 *q, struct recipe_plain *p)
{
    p->rows = p->cols = 1;
    p->dst = (unsigned)(q->in * sizeof(int64_t));
    add(p, PART_UNITS, q->g_idx, q->g_idx->bytes);
    return TRANSFORM_GROUP_ORDER;
}

int recipe_int4(const struct recipe *r, struct recipe_plain *p, struct err *e)
{
    const struct int4 *q = r->int4;
    enum transform_kind kind = r->op == RECIPE_PACK4 ? pack(q, p) : r->op == RECIPE_ZEROS ? zeros(q, p) : order(q, p);

    p->source = p->part[0].tensor;
    p->transform = transform_find(kind, p->source->dtype, r->dtype);
    p->pack = (struct pack4){ .in = (uint32_t)q->in,
                              .group = (uint32_t)q->group,
                              .zero_add = (uint8_t)q->zero_add,
                              .clamp = q->kept == ZEROS_CLAMPED };
    if (!p->transform)
        return err_set(e, ERR_INTERNAL, "%s: no transform of 4-bit weights from %s", p->source->name,
                       dtype_name(p->source->dtype));
    return 0;
}

/* ---- which bytes ---- */

static bool is_panel(const struct recipe_plain *p) { return p->transform->cut == CUT_ROWS; }

uint64_t recipe_units(const struct recipe_plain *p) { return is_panel(p) ? p->rows : p->cols; }

struct recipe_span recipe_span(const struct recipe_plain *p, unsigned i, uint64_t first, uint64_t n)
{
    const struct recipe_part *part = &p->part[i];
    uint64_t bytes = part->bytes, rows = part->tensor->shape[0], from, to;

    switch (part->how) {
    case PART_COLUMNS:
        return (struct recipe_span){ first * bytes, rows, n * bytes, part->tensor->bytes / rows, (size_t)(n * bytes) };
    case PART_GROUPS:
        from = first * PACK4_IN / p->pack.group;
        to = ((first + n) * PACK4_IN - 1) / p->pack.group + 1;
        return (struct recipe_span){ from * bytes, 1, (to - from) * bytes, 0, (size_t)bytes };
    case PART_WHOLE:
        return (struct recipe_span){ 0, 1, bytes, 0, (size_t)bytes };
    default:
        return (struct recipe_span){ first * bytes, 1, n * bytes, 0, (size_t)bytes };
    }
}

static uint64_t aligned(uint64_t n) { return (n + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN; }

uint64_t recipe_parts_bytes(const struct recipe_plain *p, uint64_t n)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < p->parts; i++) {
        const struct recipe_part *part = &p->part[i];

        switch (part->how) {
        case PART_COLUMNS:
            sum += aligned(part->tensor->shape[0] * n * part->bytes);
            break;
        case PART_GROUPS: /* a group more where the units begin and end within groups */
            sum += aligned((n * PACK4_IN / p->pack.group + 2) * part->bytes);
            break;
        case PART_WHOLE:
            sum += aligned(part->bytes);
            break;
        default:
            sum += aligned(n * part->bytes);
        }
    }
    return sum;
}

uint64_t recipe_part_at(const struct recipe_plain *p, unsigned part, uint64_t first, uint64_t n)
{
    uint64_t at = 0;

    for (unsigned i = 0; i < part; i++) {
        struct recipe_span s = recipe_span(p, i, first, n);

        at += aligned(s.runs * s.run_bytes);
    }
    return at;
}

void recipe_job(const struct recipe_plain *p, uint64_t first, uint64_t n, const void *src, struct job *j)
{
    j->src = src;
    j->src_pitch = recipe_span(p, 0, first, n).row;
    j->rows = is_panel(p) ? n : 1;
    j->cols = is_panel(p) ? p->cols : n;
    j->first = first;
    j->pack = &p->pack;
    for (unsigned i = 1; i < p->parts; i++) {
        struct extra *x = p->part[i].how == PART_WHOLE ? &j->g_idx : &j->zeros;

        x->at = (const unsigned char *)src + recipe_part_at(p, i, first, n);
        x->pitch = recipe_span(p, i, first, n).row;
    }
}
