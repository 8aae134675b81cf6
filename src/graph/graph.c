#include "graph/graph.h"
#include <stdlib.h>
#include <string.h>

#define GROW(list, n, cap)                                                                                             \
    do {                                                                                                               \
        if ((n) == (cap)) {                                                                                            \
            (cap) = (cap) ? (cap)*2 : 64;                                                                              \
            (list) = xrealloc((void *)(list), (cap) * sizeof *(list));                                                 \
        }                                                                                                              \
    } while (0)

void graph_release(struct graph *g)
{
    free(g->node);
    free((void *)g->input);
    free((void *)g->output);
    free((void *)g->inner);
    free(g->init);
    *g = (struct graph){ 0 };
}

struct scope scope_enter(struct graph *g, const char *path) { return (struct scope){ .g = g, .path = path }; }

struct value *graph_value(struct graph *g, const char *name, enum dtype t, unsigned rank, const struct dim *dim)
{
    struct value *v = arena_alloc(g->arena, sizeof *v);

    *v = (struct value){ .name = name, .dtype = t, .rank = rank, .shaped = true };
    if (rank)
        memcpy(v->dim, dim, rank * sizeof *dim);
    return v;
}

const struct value *graph_input(struct graph *g, const char *name, enum dtype t, unsigned rank, const struct dim *dim)
{
    GROW(g->input, g->input_n, g->input_cap);
    return g->input[g->input_n++] = graph_value(g, name, t, rank, dim);
}

void graph_output(struct graph *g, const struct value *v)
{
    GROW(g->output, g->output_n, g->output_cap);
    g->output[g->output_n++] = v;
}

/* "Add", "Add_1", ... within a module. */
static const char *node_name(struct scope *s, const char *op)
{
    size_t i = 0, slots = sizeof s->seen / sizeof *s->seen;
    unsigned n;

    while (i < slots - 1 && s->seen[i].op && strcmp(s->seen[i].op, op))
        i++;
    s->seen[i].op = op;
    n = s->seen[i].n++;
    return n ? arena_printf(s->g->arena, "%s/%s_%u", s->path, op, n) : arena_printf(s->g->arena, "%s/%s", s->path, op);
}

static struct value *add_output(struct graph *g, struct node *n, const struct value *like)
{
    struct value *v =
        graph_value(g, arena_printf(g->arena, "%s_output_0", n->name), like->dtype, like->rank, like->dim);

    v->shaped = like->shaped;
    n->out = arena_array(g->arena, 2, sizeof *n->out);
    n->out[n->out_n++] = v->name;
    GROW(g->inner, g->inner_n, g->inner_cap);
    g->inner[g->inner_n++] = v;
    return v;
}

struct value *node_add(struct scope *s, const char *op, const struct value *const *in, size_t in_n,
                       const struct value *like)
{
    struct graph *g = s->g;
    struct node *n;

    GROW(g->node, g->node_n, g->node_cap);
    n = &g->node[g->node_n++];
    *n = (struct node){ .name = node_name(s, op), .op = op, .domain = "", .in_n = in_n };
    n->in = arena_array(g->arena, in_n ? in_n : 1, sizeof *n->in);
    for (size_t i = 0; i < in_n; i++)
        n->in[i] = in[i]->name;
    return add_output(g, n, like);
}

struct node *node_last(struct graph *g) { return &g->node[g->node_n - 1]; }

static struct attr *new_attr(struct graph *g, const char *name)
{
    struct node *n = node_last(g);
    struct attr *list = arena_array(g->arena, n->attr_n + 1, sizeof *list);

    if (n->attr_n)
        memcpy(list, n->attr, n->attr_n * sizeof *list);
    n->attr = list;
    list[n->attr_n].name = name;
    return &list[n->attr_n++];
}

void node_attr_int(struct graph *g, const char *name, int64_t v)
{
    struct attr *a = new_attr(g, name);

    a->type = ATTR_INT;
    a->i = v;
}

static const struct value *constant(struct scope *s, enum dtype t, unsigned rank, size_t n, const void *bytes)
{
    struct value like = { .dtype = t, .rank = rank, .dim = { DIM(n) }, .shaped = true };
    const struct value *v = node_add(s, "Constant", NULL, 0, &like);
    struct attr *a = new_attr(s->g, "value");

    *a = (struct attr){ .name = "value", .type = ATTR_TENSOR, .dtype = t, .rank = rank, .n = n };
    a->bytes = arena_memdup(s->g->arena, bytes, n * dtype_bytes(t));
    return v;
}

const struct value *const_f32(struct scope *s, float v) { return constant(s, DT_F32, 0, 1, &v); }
const struct value *const_i64(struct scope *s, int64_t v) { return constant(s, DT_I64, 0, 1, &v); }
const struct value *const_i64s(struct scope *s, const int64_t *v, size_t n) { return constant(s, DT_I64, 1, n, v); }

const struct value *graph_init(struct graph *g, const char *name, const struct recipe *r, uint64_t order)
{
    struct dim dim[VALUE_RANK_MAX];

    for (unsigned i = 0; i < r->rank; i++)
        dim[i] = DIM(r->shape[i]);
    GROW(g->init, g->init_n, g->init_cap);
    g->init[g->init_n++] = (struct initializer){ .name = name, .recipe = r, .order = order };
    return graph_value(g, name, r->dtype, r->rank, dim);
}

static int by_order(const void *a, const void *b)
{
    const struct initializer *x = a, *y = b;

    return (x->order > y->order) - (x->order < y->order);
}

void graph_sort_inits(struct graph *g) { qsort(g->init, g->init_n, sizeof *g->init, by_order); }
