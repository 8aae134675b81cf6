#include "emit/lora_insert.h"
#include "base/dtype.h"
#include "base/str.h"
#include "emit/onnx_read.h"
#include <stdlib.h>
#include <string.h>

#define PLUGIN "Int4GroupwiseGemmPlugin"
enum { ADDED = 3 /* nodes for each linear */ };

struct named { /* a value of the graph, by name */
    const char *name;
    const Onnx__TensorProto *constant; /* NULL: it is computed, or an input */
    const Onnx__NodeProto *maker;      /* NULL: an input or an initializer */
};

struct insertion {
    Onnx__GraphProto *g;
    struct arena *a;
    struct err *e;
    struct named *value; /* sorted by name */
    size_t values_n;
    struct lora_places places;
    const char **quantized; /* sorted modules of quantized linears */
    size_t quantized_n;
};

/* ---- the graph's values ---- */

static int by_name(const void *pa, const void *pb)
{
    return strcmp(((const struct named *)pa)->name, ((const struct named *)pb)->name);
}

static const struct named *find(const struct insertion *s, const char *name)
{
    struct named key = { .name = name };

    return s->values_n ? bsearch(&key, s->value, s->values_n, sizeof key, by_name) : NULL;
}

static void add_value(struct insertion *s, const char *name, const Onnx__TensorProto *constant,
                      const Onnx__NodeProto *maker)
{
    if (name && *name)
        s->value[s->values_n++] = (struct named){ name, constant, maker };
}

static const Onnx__AttributeProto *attribute(const Onnx__NodeProto *n, const char *name)
{
    for (size_t i = 0; i < n->n_attribute; i++)
        if (n->attribute[i]->name && !strcmp(n->attribute[i]->name, name))
            return n->attribute[i];
    return NULL;
}

static bool is_op(const Onnx__NodeProto *n, const char *op) { return n->op_type && !strcmp(n->op_type, op); }

static const Onnx__TensorProto *constant_of(const Onnx__NodeProto *n)
{
    const Onnx__AttributeProto *value = is_op(n, "Constant") ? attribute(n, "value") : NULL;

    return value ? value->t : NULL;
}

static void collect_values(struct insertion *s)
{
    const Onnx__GraphProto *g = s->g;
    size_t n = g->n_input + g->n_initializer;

    for (size_t i = 0; i < g->n_node; i++)
        n += g->node[i]->n_output;
    s->value = arena_array(s->a, n + 1, sizeof *s->value);
    for (size_t i = 0; i < g->n_input; i++)
        add_value(s, g->input[i]->name, NULL, NULL);
    for (size_t i = 0; i < g->n_initializer; i++)
        add_value(s, g->initializer[i]->name, g->initializer[i], NULL);
    for (size_t i = 0; i < g->n_node; i++)
        for (size_t k = 0; k < g->node[i]->n_output; k++)
            add_value(s, g->node[i]->output[k], constant_of(g->node[i]), g->node[i]);
    if (s->values_n)
        qsort(s->value, s->values_n, sizeof *s->value, by_name);
}

/* ---- which nodes are linears, and of which modules ---- */

/* "/model/layers.0/self_attn/q_proj/MatMul" -> "model.layers.0.self_attn.q_proj". Exporters that wrap a quantized
 * linear leave the wrapper's name in the path; it is no part of the module's. */
static const char *module_of(const struct insertion *s, const Onnx__NodeProto *n)
{
    static const char wrapper[] = ".module_to_wrap";
    const char *slash = n->name ? strrchr(n->name, '/') : NULL;
    char *module;
    size_t length;

    if (!slash || n->name[0] != '/' || slash == n->name) {
        char q[STR_QUOTED];

        err_set(s->e, ERR_UNSUPPORTED,
                "node %s: multiplies by a constant, but its name does not say of which module: expected a name such as "
                "\"/model/layers.0/self_attn/q_proj/%s\"",
                str_quote(q, n->name ? n->name : ""), n->op_type);
        return NULL;
    }
    module = arena_memdup(s->a, n->name + 1, (size_t)(slash - n->name - 1));
    for (char *p = module; *p; p++)
        if (*p == '/')
            *p = '.';
    length = strlen(module);
    if (length > sizeof wrapper - 1 && !strcmp(module + length - (sizeof wrapper - 1), wrapper))
        module[length - (sizeof wrapper - 1)] = 0;
    return module;
}

static int by_text(const void *pa, const void *pb)
{
    return strcmp(*(const char *const *)pa, *(const char *const *)pb);
}

static const char **modules(const struct insertion *s)
{
    const char **name = arena_array(s->a, s->places.n + 1, sizeof *name);

    for (size_t i = 0; i < s->places.n; i++)
        name[i] = s->places.v[i].module;
    if (s->places.n)
        qsort(name, s->places.n, sizeof *name, by_text);
    return name;
}

/* Is it a quantized linear's module, or inside one? Such a linear may bring a plain MatMul of its own, which corrects
 * zero points and is no linear. */
static bool is_quantized(const struct insertion *s, const char *module)
{
    char *part = arena_strdup(s->a, module);

    for (char *dot = part + strlen(part); s->quantized_n && dot; dot = strrchr(part, '.')) {
        *dot = 0;
        if (bsearch(&part, s->quantized, s->quantized_n, sizeof part, by_text))
            return true;
    }
    return false;
}

static int bad_node(struct insertion *s, const Onnx__NodeProto *n, const char *what)
{
    char q[STR_QUOTED];

    return err_set(s->e, ERR_FORMAT, "node %s: %s", str_quote(q, n->name ? n->name : ""), what);
}

static int add_place(struct insertion *s, size_t node, bool int4, int64_t k, int64_t n)
{
    const char *module = module_of(s, s->g->node[node]);

    if (!module)
        return -1;
    if (!int4 && is_quantized(s, module))
        return 0;
    if (k < 1 || n < 1 || s->g->node[node]->n_output != 1)
        return bad_node(s, s->g->node[node], "has no size, or not one output: this is no graph of a language model");
    s->places.v[s->places.n++] =
        (struct lora_place){ .module = module, .k = (uint64_t)k, .n = (uint64_t)n, .node = node, .int4 = int4 };
    return 0;
}

static int add_quantized(struct insertion *s, size_t node)
{
    const Onnx__AttributeProto *k = attribute(s->g->node[node], "gemm_k"), *n = attribute(s->g->node[node], "gemm_n");

    if (!k || !n || !k->has_i || !n->has_i || !s->g->node[node]->n_input)
        return bad_node(s, s->g->node[node], "has no gemm_k, gemm_n or input: expected all three");
    return add_place(s, node, true, k->i, n->i);
}

static int add_plain(struct insertion *s, size_t node)
{
    const Onnx__NodeProto *n = s->g->node[node];
    const struct named *weight = n->n_input == 2 ? find(s, n->input[1]) : NULL;
    char q[STR_QUOTED];

    if (!weight || !weight->constant)
        return 0;
    if (weight->constant->n_dims != 2 || weight->constant->data_type != dtype_onnx(DT_F16))
        return err_set(s->e, ERR_UNSUPPORTED,
                       "node %s: its weight has %zu dimensions and ONNX element type %d, expected a matrix in fp16",
                       str_quote(q, n->name ? n->name : ""), weight->constant->n_dims, weight->constant->data_type);
    return add_place(s, node, false, weight->constant->dims[0], weight->constant->dims[1]);
}

static int collect_kind(struct insertion *s, const char *op, int (*add)(struct insertion *s, size_t node))
{
    const Onnx__GraphProto *g = s->g;

    for (size_t i = 0; i < g->n_node; i++)
        if (is_op(g->node[i], op) && !(g->node[i]->name && strstr(g->node[i]->name, "lm_head")) && add(s, i))
            return -1;
    return 0;
}

static int check_modules(const struct insertion *s)
{
    const char **name = modules(s);
    char q[STR_QUOTED];

    for (size_t i = 1; i < s->places.n; i++)
        if (!strcmp(name[i - 1], name[i]))
            return err_set(s->e, ERR_UNSUPPORTED, "has two linears in module %s: their LoRA inputs would have one name",
                           str_quote(q, name[i]));
    return s->places.n ? 0 : err_set(s->e, ERR_UNSUPPORTED, "has no linear that an adapter could change");
}

static int collect_places(struct insertion *s)
{
    s->places.v = arena_array(s->a, s->g->n_node + 1, sizeof *s->places.v);
    if (collect_kind(s, PLUGIN, add_quantized))
        return -1;
    s->quantized = modules(s);
    s->quantized_n = s->places.n;
    return collect_kind(s, "MatMul", add_plain) ? -1 : check_modules(s);
}

/* ---- what is added: messages that protobuf-c frees ---- */

static char *copy(const char *s) { return strcpy(xmalloc(strlen(s) + 1), s); }

static void *message(size_t bytes, const void *init) { return memcpy(xmalloc(bytes), init, bytes); }
#define NEW(type, init) message(sizeof(type), &(type)init)

static Onnx__NodeProto *new_node(const char *op, const char *name, const char *x, const char *y, const char *out)
{
    Onnx__NodeProto *n = NEW(Onnx__NodeProto, ONNX__NODE_PROTO__INIT);

    n->op_type = copy(op);
    n->name = copy(name);
    n->input = xmalloc(2 * sizeof *n->input);
    n->input[0] = copy(x);
    n->input[1] = copy(y);
    n->n_input = 2;
    n->output = xmalloc(sizeof *n->output);
    n->output[0] = copy(out);
    n->n_output = 1;
    return n;
}

static Onnx__TensorShapeProto__Dimension *size_dim(uint64_t n)
{
    Onnx__TensorShapeProto__Dimension *d =
        NEW(Onnx__TensorShapeProto__Dimension, ONNX__TENSOR_SHAPE_PROTO__DIMENSION__INIT);

    d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
    d->dim_value = (int64_t)n;
    return d;
}

static Onnx__TensorShapeProto__Dimension *named_dim(const char *name)
{
    Onnx__TensorShapeProto__Dimension *d =
        NEW(Onnx__TensorShapeProto__Dimension, ONNX__TENSOR_SHAPE_PROTO__DIMENSION__INIT);

    d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
    d->dim_param = copy(name);
    return d;
}

static Onnx__ValueInfoProto *new_input(const char *name, Onnx__TensorShapeProto__Dimension *rows,
                                       Onnx__TensorShapeProto__Dimension *cols)
{
    Onnx__ValueInfoProto *v = NEW(Onnx__ValueInfoProto, ONNX__VALUE_INFO_PROTO__INIT);
    Onnx__TypeProto__Tensor *t = NEW(Onnx__TypeProto__Tensor, ONNX__TYPE_PROTO__TENSOR__INIT);

    v->name = copy(name);
    v->type = NEW(Onnx__TypeProto, ONNX__TYPE_PROTO__INIT);
    v->type->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    v->type->tensor_type = t;
    t->has_elem_type = 1;
    t->elem_type = dtype_onnx(DT_F16);
    t->shape = NEW(Onnx__TensorShapeProto, ONNX__TENSOR_SHAPE_PROTO__INIT);
    t->shape->dim = xmalloc(2 * sizeof *t->shape->dim);
    t->shape->dim[0] = rows;
    t->shape->dim[1] = cols;
    t->shape->n_dim = 2;
    return v;
}

/* ---- one linear ---- */

struct names {                              /* of what one linear gets */
    const char *a, *b, *rank;               /* inputs and their common dimension */
    const char *base, *mid, *delta;         /* values */
    const char *node_a, *node_b, *node_sum; /* nodes */
};

static struct names names_of(const struct insertion *s, const struct lora_place *p)
{
    const char *node = s->g->node[p->node]->name, *module = p->module;
    struct arena *a = s->a;

    return (struct names){ .a = arena_printf(a, "%s.lora_A.weight", module),
                           .b = arena_printf(a, "%s.lora_B.weight", module),
                           .rank = arena_printf(a, "%s.rank", module),
                           .base = arena_printf(a, "%s/lora_base", node),
                           .mid = arena_printf(a, "%s/lora_mid", node),
                           .delta = arena_printf(a, "%s/lora_gemm_out", node),
                           .node_a = arena_printf(a, "%s/lora_matmul_A", node),
                           .node_b = arena_printf(a, "%s/lora_matmul_B", node),
                           .node_sum = arena_printf(a, "%s/lora_add", node) };
}

static int check_free(const struct insertion *s, const struct names *n)
{
    const char *const all[] = { n->a, n->b, n->base, n->mid, n->delta };
    char q[STR_QUOTED];

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (find(s, all[i]))
            return err_set(
                s->e, ERR_REFUSED,
                "has a value %s already: LoRA inputs were inserted before; give the model as it was exported",
                str_quote(q, all[i]));
    return 0;
}

/* What the adapter was trained on. A quantized linear with desc_act sees its input permuted along the last axis by a
 * Gather with a constant; A does not. */
static const char *input_of(const struct insertion *s, const struct lora_place *p)
{
    const char *x = s->g->node[p->node]->input[0];
    const struct named *v = p->int4 ? find(s, x) : NULL, *order;
    const Onnx__AttributeProto *axis;

    if (!v || !v->maker || !is_op(v->maker, "Gather") || v->maker->n_input != 2)
        return x;
    order = find(s, v->maker->input[1]);
    axis = attribute(v->maker, "axis");
    if (!order || !order->constant || order->constant->n_dims != 1 || (uint64_t)order->constant->dims[0] != p->k ||
        !axis || (axis->i != 2 && axis->i != -1))
        return x;
    return v->maker->input[0];
}

/* The nodes go to `out`, behind the linear itself. */
static void insert(struct insertion *s, const struct lora_place *p, Onnx__NodeProto **out)
{
    Onnx__GraphProto *g = s->g;
    struct names n = names_of(s, p);
    char *y = g->node[p->node]->output[0];

    out[0] = new_node("MatMul", n.node_a, input_of(s, p), n.a, n.mid);
    out[1] = new_node("MatMul", n.node_b, n.mid, n.b, n.delta);
    out[2] = new_node("Add", n.node_sum, n.base, n.delta, y);
    g->input[g->n_input++] = new_input(n.a, size_dim(p->k), named_dim(n.rank));
    g->input[g->n_input++] = new_input(n.b, named_dim(n.rank), size_dim(p->n));
}

/* Once all new nodes are made, since they look up values by their old names. */
static void rename_output(struct insertion *s, const struct lora_place *p)
{
    Onnx__NodeProto *node = s->g->node[p->node];
    char *old = node->output[0];

    node->output[0] = copy(names_of(s, p).base);
    free(old);
}

static void insert_all(struct insertion *s)
{
    Onnx__GraphProto *g = s->g;
    Onnx__NodeProto **node = xmalloc((g->n_node + s->places.n * ADDED) * sizeof *node);
    Onnx__NodeProto **added = arena_array(s->a, g->n_node, ADDED * sizeof *added);
    size_t n = 0;

    g->input = xrealloc(g->input, (g->n_input + 2 * s->places.n) * sizeof *g->input);
    for (size_t i = 0; i < s->places.n; i++)
        insert(s, &s->places.v[i], added + s->places.v[i].node * ADDED);
    for (size_t i = 0; i < s->places.n; i++)
        rename_output(s, &s->places.v[i]);
    for (size_t i = 0; i < g->n_node; i++) {
        node[n++] = g->node[i];
        for (size_t k = 0; added[i * ADDED] && k < ADDED; k++)
            node[n++] = added[i * ADDED + k];
    }
    free(g->node);
    g->node = node;
    g->n_node = n;
}

int lora_insert(Onnx__ModelProto *m, struct lora_places *done, struct arena *a, struct err *e)
{
    struct insertion s = { .g = m->graph, .a = a, .e = e };

    collect_values(&s);
    if (collect_places(&s))
        return -1;
    for (size_t i = 0; i < s.places.n; i++) {
        struct names n = names_of(&s, &s.places.v[i]);

        if (check_free(&s, &n))
            return -1;
    }
    insert_all(&s);
    *done = s.places;
    return 0;
}
