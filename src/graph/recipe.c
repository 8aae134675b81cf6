#include "graph/recipe.h"
#include <string.h>

static struct recipe *make(struct arena *a, enum recipe_op op, const struct recipe *in)
{
    struct recipe *r = arena_alloc(a, sizeof *r);

    if (in)
        *r = *in;
    r->op = op;
    r->in = in;
    r->source = NULL;
    r->rows = NULL;
    r->merge = NULL;
    return r;
}

const struct recipe *recipe_source(struct arena *a, const struct tensor *t)
{
    struct recipe *r = make(a, RECIPE_SOURCE, NULL);

    r->source = t;
    r->dtype = t->dtype;
    r->rank = t->rank;
    memcpy(r->shape, t->shape, sizeof r->shape);
    return r;
}

static const struct tensor *source_of(const struct recipe *r)
{
    while (r->in)
        r = r->in;
    return r->source;
}

const struct recipe *recipe_rows(struct arena *a, const struct recipe *in, const int32_t *rows, uint64_t n,
                                 struct err *e)
{
    struct recipe *r;

    if (in->op != RECIPE_SOURCE || in->rank != 2) {
        err_set(e, ERR_INTERNAL, "%s: has %u dimensions, rows can be taken of stored tensors of 2 only",
                source_of(in)->name, in->rank);
        return NULL;
    }
    if (n > in->shape[0]) {
        err_set(e, ERR_RANGE, "%s: has %llu rows, and %llu are to be taken", source_of(in)->name,
                (unsigned long long)in->shape[0], (unsigned long long)n);
        return NULL;
    }
    for (uint64_t i = 0; i < n; i++)
        if (rows[i] < 0 || (uint64_t)rows[i] >= in->shape[0]) {
            err_set(e, ERR_RANGE, "%s: has %llu rows, and row %d is to be taken", source_of(in)->name,
                    (unsigned long long)in->shape[0], rows[i]);
            return NULL;
        }
    r = make(a, RECIPE_ROWS, in);
    r->rows = rows;
    r->shape[0] = n;
    return r;
}

const struct recipe *recipe_cast(struct arena *a, const struct recipe *in, enum dtype to, struct err *e)
{
    struct recipe *r;

    if (!transform_find(TRANSFORM_CAST, in->dtype, to)) {
        const struct tensor *t = source_of(in);

        err_set(e, ERR_UNSUPPORTED, "%s: is stored as %s, which cannot be converted to %s: expected F32, BF16 or F16",
                t->name, t->dtype_text, dtype_name(to));
        return NULL;
    }
    r = make(a, RECIPE_CAST, in);
    r->dtype = to;
    return r;
}

const struct recipe *recipe_transpose(struct arena *a, const struct recipe *in, struct err *e)
{
    struct recipe *r;

    if (in->rank != 2) {
        err_set(e, ERR_INTERNAL, "%s: has %u dimensions and cannot be transposed", source_of(in)->name, in->rank);
        return NULL;
    }
    r = make(a, RECIPE_TRANSPOSE, in);
    r->shape[0] = in->shape[1];
    r->shape[1] = in->shape[0];
    return r;
}

const struct recipe *recipe_merge(struct arena *a, const struct recipe *in, const struct adapter_pair *pair,
                                  struct err *e)
{
    const struct tensor *t = source_of(in);
    struct recipe *r;

    if (in->op != RECIPE_CAST || in->dtype != DT_F16 || in->rank != 2) {
        err_set(e, ERR_INTERNAL, "%s: an adapter can be merged into a matrix in F16 only", t->name);
        return NULL;
    }
    if (adapter_check_fit(pair, t, e))
        return NULL;
    r = make(a, RECIPE_MERGE, in);
    r->merge = pair;
    return r;
}

const struct recipe *recipe_constant(struct arena *a, enum dtype t, uint64_t n, const void *bytes)
{
    struct recipe *r = make(a, RECIPE_CONSTANT, NULL);

    r->dtype = t;
    r->rank = 1;
    r->shape[0] = n;
    r->bytes = arena_memdup(a, bytes, n * dtype_bytes(t));
    return r;
}

uint64_t recipe_elements(const struct recipe *r)
{
    uint64_t n = 1;

    for (unsigned i = 0; i < r->rank; i++)
        n *= r->shape[i]; /* checked when the checkpoint was opened */
    return n;
}

uint64_t recipe_bytes(const struct recipe *r) { return recipe_elements(r) * dtype_bytes(r->dtype); }

static const char *const zeros_text[] = { "", ", zeros folded", ", zeros folded and clamped", ", zeros added later" };

void recipe_describe(const struct recipe *r, struct str *out)
{
    switch (r->op) {
    case RECIPE_SOURCE:
        str_adds(out, r->source->name);
        break;
    case RECIPE_ROWS:
        str_adds(out, "rows(");
        recipe_describe(r->in, out);
        str_addf(out, ", %llu of %llu)", (unsigned long long)r->shape[0], (unsigned long long)r->in->shape[0]);
        break;
    case RECIPE_CAST:
        str_adds(out, "cast(");
        recipe_describe(r->in, out);
        str_addf(out, ": %s -> %s)", dtype_name(r->in->dtype), dtype_name(r->dtype));
        break;
    case RECIPE_TRANSPOSE:
        str_adds(out, "transpose(");
        recipe_describe(r->in, out);
        str_adds(out, ")");
        break;
    case RECIPE_MERGE:
        str_adds(out, "merge(");
        recipe_describe(r->in, out);
        str_addf(out, ", lora %s)", r->merge->module);
        break;
    case RECIPE_PACK4:
        str_addf(out, "pack4(%s%s%s)", r->int4->words->name, zeros_text[r->int4->kept],
                 r->int4->g_idx ? ", in group order" : "");
        break;
    case RECIPE_ZEROS:
        str_addf(out, "zeros(%s, %s)", r->int4->zeros->name, r->int4->scales->name);
        break;
    case RECIPE_ORDER:
        str_addf(out, "order(%s)", r->int4->g_idx->name);
        break;
    case RECIPE_CONSTANT:
        str_adds(out, "constant");
        break;
    }
}

int recipe_plain(const struct recipe *r, struct recipe_plain *p, struct err *e)
{
    enum transform_kind kind = TRANSFORM_CAST;
    enum dtype dst = r->dtype;
    const struct recipe *rows = NULL;
    bool matrix;

    *p = (struct recipe_plain){ 0 };
    if (r->int4)
        return recipe_int4(r, p, e);
    if (r->op == RECIPE_TRANSPOSE) {
        kind = TRANSFORM_TRANSPOSE;
        r = r->in;
    }
    p->merge = r->op == RECIPE_MERGE ? r->merge : NULL;
    if (r->op == RECIPE_MERGE)
        r = r->in;
    if (r->op == RECIPE_CAST)
        r = r->in;
    if (r->op == RECIPE_ROWS) {
        rows = r;
        r = r->in;
    }
    if (r->op != RECIPE_SOURCE)
        return err_set(e, ERR_INTERNAL, "a recipe that the planner does not know");
    p->source = r->source;
    p->transform = transform_find(kind, r->dtype, dst);
    if (!p->transform)
        return err_set(e, ERR_INTERNAL, "%s: no transform from %s to %s", r->source->name, dtype_name(r->dtype),
                       dtype_name(dst));
    p->dst = dtype_bytes(dst);
    p->gather = rows ? rows->rows : NULL;
    matrix = rows || p->merge || kind == TRANSFORM_TRANSPOSE;
    p->rows = rows ? rows->shape[0] : matrix ? r->shape[0] : 1;
    p->cols = matrix ? r->shape[1] : r->source->elements;
    return 0;
}

uint64_t recipe_plain_bytes(const struct recipe_plain *p)
{
    uint64_t n = 0;

    if (!p->parts)
        return p->rows * p->cols * dtype_bytes(p->transform->src); /* no more than the source has */
    for (unsigned i = 0; i < p->parts; i++)
        n += p->part[i].tensor->bytes;
    return n;
}
