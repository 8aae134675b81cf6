#include "front/roles.h"
#include "base/str.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct made { /* who makes a value */
    const char *value;
    const Onnx__NodeProto *node; /* or an initializer: */
    size_t init;
};

struct walk {
    const Onnx__GraphProto *g;
    struct made *made;
    size_t made_n;
    struct role *role;
    struct arena *a;
    struct err *e;
    unsigned layer;
};

static int by_value(const void *a, const void *b)
{
    return strcmp(((const struct made *)a)->value, ((const struct made *)b)->value);
}

static int index_values(struct walk *w)
{
    size_t most = w->g->n_initializer;
    char q[STR_QUOTED];

    for (size_t i = 0; i < w->g->n_node; i++)
        most += w->g->node[i]->n_output;
    w->made = arena_array(w->a, most + 1, sizeof *w->made);
    for (size_t i = 0; i < w->g->n_node; i++)
        for (size_t k = 0; k < w->g->node[i]->n_output; k++)
            if (*w->g->node[i]->output[k]) /* "": an optional output that nobody wants */
                w->made[w->made_n++] = (struct made){ w->g->node[i]->output[k], w->g->node[i], 0 };
    for (size_t i = 0; i < w->g->n_initializer; i++)
        if (w->g->initializer[i]->name && *w->g->initializer[i]->name)
            w->made[w->made_n++] = (struct made){ w->g->initializer[i]->name, NULL, i };
    qsort(w->made, w->made_n, sizeof *w->made, by_value);
    for (size_t i = 1; i < w->made_n; i++)
        if (!strcmp(w->made[i].value, w->made[i - 1].value))
            return err_set(w->e, ERR_FORMAT, "graph: value %s is made twice, expected one node or initializer for it",
                           str_quote(q, w->made[i].value));
    return 0;
}

static const struct made *maker(const struct walk *w, const char *value)
{
    struct made key = { .value = value };

    return bsearch(&key, w->made, w->made_n, sizeof *w->made, by_value);
}

static const Onnx__NodeProto *node_of(const struct walk *w, const char *value, const char *op)
{
    const struct made *m = value ? maker(w, value) : NULL;

    return m && m->node && m->node->op_type && !strcmp(m->node->op_type, op) ? m->node : NULL;
}

static const struct made *init_of(const struct walk *w, const char *value)
{
    const struct made *m = maker(w, value);

    return m && !m->node ? m : NULL;
}

static const char *input(const Onnx__NodeProto *n, size_t i) { return n && i < n->n_input ? n->input[i] : NULL; }

/* The first input of the `op` that makes the value; NULL where something else makes it. */
static const char *before(const struct walk *w, const char *value, const char *op)
{
    return input(node_of(w, value, op), 0);
}

static int lost(struct walk *w, const char *value, const char *expected)
{
    char q[STR_QUOTED];

    return err_set(w->e, ERR_FORMAT, "graph: layer %u: value %s is not made by %s, so the weights cannot be told apart",
                   w->layer, str_quote(q, value ? value : ""), expected);
}

static int assign(struct walk *w, const struct made *init, const char *weight, enum role_kind kind)
{
    struct role *r = &w->role[init->init];
    char q[STR_QUOTED];

    if (r->weight && strcmp(r->weight, weight))
        return err_set(w->e, ERR_FORMAT, "graph: initializer %s is used as %s and as %s, expected one use",
                       str_quote(q, init->value), r->weight, weight);
    *r = (struct role){ .weight = weight, .kind = kind, .layer = w->layer };
    return 0;
}

static const char *layer_name(struct walk *w, const char *rest)
{
    return arena_printf(w->a, "layers.%u.%s", w->layer, rest);
}

/* Mul(weight, Cast(Mul(x32, 1 / sqrt(...)))) where x32 = Cast(x): gives x. */
static int norm(struct walk *w, const char *value, const char *weight, const char **x)
{
    const Onnx__NodeProto *n = node_of(w, value, "Mul");
    const char *scaled = NULL;

    for (size_t i = 0; n && i < 2 && n->n_input == 2; i++)
        if (init_of(w, n->input[i])) {
            if (assign(w, init_of(w, n->input[i]), weight, ROLE_VECTOR))
                return -1;
            scaled = n->input[1 - i];
        }
    scaled = before(w, scaled, "Cast");
    *x = before(w, before(w, scaled, "Mul"), "Cast");
    return *x ? 0 : lost(w, value, "an RMSNorm");
}

#define INT4_PLUGIN "Int4GroupwiseGemmPlugin"

static bool has_constant(const struct walk *w, const Onnx__NodeProto *add)
{
    return add && add->n_input == 2 && (init_of(w, add->input[0]) || init_of(w, add->input[1]));
}

/* The plugin, or Add(plugin, what zero points are worth). */
static bool is_int4(const struct walk *w, const char *value)
{
    return node_of(w, value, INT4_PLUGIN) || node_of(w, before(w, value, "Add"), INT4_PLUGIN);
}

static bool is_linear(const struct walk *w, const char *value)
{
    const Onnx__NodeProto *mul = node_of(w, value, "MatMul");

    return has_constant(w, node_of(w, value, "Add")) || is_int4(w, value) ||
           (mul && mul->n_input == 2 && init_of(w, mul->input[1]));
}

static int same(struct walk *w, const char *value, const char *expected, const char *what)
{
    char q[STR_QUOTED], q2[STR_QUOTED];

    return !strcmp(value, expected) ? 0
                                    : err_set(w->e, ERR_FORMAT, "graph: layer %u: %s takes %s, expected %s", w->layer,
                                              what, str_quote(q, value), str_quote(q2, expected));
}

static int assign_input(struct walk *w, const Onnx__NodeProto *n, size_t i, const char *module, enum role_kind kind)
{
    const char *value = input(n, i);
    const struct made *init = value ? init_of(w, value) : NULL;

    return init ? assign(w, init, module, kind) : lost(w, value, "a constant of a 4-bit linear");
}

/* Cast(MatMul(ReduceSum(Reshape(Cast(x))), Cast(zeros))). */
static int added_zeros(struct walk *w, const char *value, const char *module, const char *x)
{
    const Onnx__NodeProto *mul = node_of(w, before(w, value, "Cast"), "MatMul");
    const char *from = before(w, before(w, before(w, input(mul, 0), "ReduceSum"), "Reshape"), "Cast");

    if (!from)
        return lost(w, value, "sums of blocks times a constant");
    return assign_input(w, node_of(w, input(mul, 1), "Cast"), 0, module, ROLE_ZEROS) ||
                   same(w, from, x, "the sum of blocks")
               ? -1
               : 0;
}

/* The plugin over x or over Gather(x, order); gives x. */
static int linear_int4(struct walk *w, const char *value, const char *module, const char **x)
{
    const Onnx__NodeProto *add = node_of(w, value, "Add"), *gather;
    const Onnx__NodeProto *plugin = node_of(w, add ? add->input[0] : value, INT4_PLUGIN);

    if (plugin->n_input != 3 || (add && add->n_input != 2))
        return lost(w, value, "a 4-bit linear");
    *x = plugin->input[0];
    if (assign_input(w, plugin, 1, module, ROLE_PACK4) || assign_input(w, plugin, 2, module, ROLE_SCALES) ||
        (add && added_zeros(w, add->input[1], module, *x)))
        return -1;
    gather = node_of(w, *x, "Gather");
    if (!gather)
        return 0;
    *x = input(gather, 0);
    return assign_input(w, gather, 1, module, ROLE_ORDER);
}

/* MatMul(x, weight) or a 4-bit linear, with Add(bias, .) or without: gives x. `module` is canonical. */
static int linear(struct walk *w, const char *value, const char *module, const char **x)
{
    const Onnx__NodeProto *n = node_of(w, value, "Add");
    const struct made *matrix;

    if (has_constant(w, n)) {
        unsigned bias = init_of(w, n->input[0]) ? 0 : 1;

        if (assign(w, init_of(w, n->input[bias]), arena_printf(w->a, "%s.bias", module), ROLE_VECTOR))
            return -1;
        value = n->input[1 - bias];
    }
    if (is_int4(w, value))
        return linear_int4(w, value, module, x);
    n = node_of(w, value, "MatMul");
    matrix = n && n->n_input == 2 ? init_of(w, n->input[1]) : NULL;
    if (!matrix)
        return lost(w, value, "a MatMul with a constant weight");
    *x = n->input[0];
    return assign(w, matrix, arena_printf(w->a, "%s.weight", module), ROLE_MATRIX);
}

/* h = Add(x, deepstack_embeds_<layer>), where the layer has one: gives x. */
static const char *without_deepstack(const struct walk *w, const char *h)
{
    const Onnx__NodeProto *n = node_of(w, h, "Add");
    const char *name = arena_printf(w->a, "deepstack_embeds_%u", w->layer);

    for (size_t i = 0; n && n->n_input == 2 && i < 2; i++)
        if (!strcmp(n->input[i], name))
            return n->input[1 - i];
    return h;
}

/* Add(residual, linear): either order. */
static int residual_add(struct walk *w, const char *value, const char **residual, const char **branch)
{
    const Onnx__NodeProto *n = node_of(w, value, "Add");
    unsigned linear_at;

    if (!n || n->n_input != 2)
        return lost(w, value, "a residual Add");
    linear_at = is_linear(w, n->input[1]) ? 1 : 0;
    *branch = n->input[linear_at];
    *residual = n->input[1 - linear_at];
    return 0;
}

/* y = silu(gate) * up, silu(g) = g * sigmoid(g). */
static int gated(struct walk *w, const char *y, const char **gate, const char **up)
{
    const Onnx__NodeProto *n = node_of(w, y, "Mul"), *act;

    for (size_t i = 0; n && n->n_input == 2 && i < 2; i++) {
        act = node_of(w, n->input[i], "Mul");
        for (size_t k = 0; act && act->n_input == 2 && k < 2; k++)
            if (before(w, act->input[k], "Sigmoid") &&
                !strcmp(before(w, act->input[k], "Sigmoid"), act->input[1 - k])) {
                *gate = act->input[1 - k];
                *up = n->input[1 - i];
                return 0;
            }
    }
    return lost(w, y, "silu(gate) * up");
}

/* A linear, or a Slice of a fused one; that it is the right slice is for the comparison of nodes. */
static int part(struct walk *w, const char *value, const char *module, const char *fused, const char **x)
{
    const char *whole = before(w, value, "Slice");

    return whole ? linear(w, whole, layer_name(w, fused), x) : linear(w, value, layer_name(w, module), x);
}

/* h = r + down(silu(gate(n)) * up(n)), n = post_attention_layernorm(r): gives r. */
static int mlp(struct walk *w, const char *h, const char **r)
{
    const char *branch, *y, *gate = NULL, *up = NULL, *x, *x2, *from;

    if (residual_add(w, h, r, &branch) || linear(w, branch, layer_name(w, "mlp.down_proj"), &y) ||
        gated(w, y, &gate, &up) || part(w, gate, "mlp.gate_proj", "mlp.gate_up_proj", &x) ||
        part(w, up, "mlp.up_proj", "mlp.gate_up_proj", &x2) || same(w, x2, x, "up_proj") ||
        norm(w, x, layer_name(w, "post_attention_layernorm.weight"), &from))
        return -1;
    return same(w, from, *r, "post_attention_layernorm");
}

/* A projection, behind a norm of each head where there is one. */
static int head_projection(struct walk *w, const char *value, const char *which, const char **x)
{
    const char *inner = before(w, value, "Reshape");

    if (inner) {
        if (norm(w, inner, layer_name(w, arena_printf(w->a, "self_attn.%s_norm.weight", which)), &value))
            return -1;
        value = before(w, value, "Reshape");
        if (!value)
            return lost(w, inner, "a norm of heads");
    }
    return part(w, value, arena_printf(w->a, "self_attn.%s_proj", which), "self_attn.qkv_proj", x);
}

/* The one constant input that an AttentionPlugin may have. */
static int cache_scale(struct walk *w, const Onnx__NodeProto *plugin)
{
    const struct made *init;

    for (size_t i = 2; i < plugin->n_input; i++) {
        if (!(init = init_of(w, plugin->input[i])))
            continue;
        if (assign(w, init, layer_name(w, "self_attn.k_v_scale_quant_orig"), ROLE_KV_SCALE))
            return -1;
    }
    return 0;
}

/* A draft's layer input is Concat[input_layernorm(inputs_embeds), hidden_norm(h)]: gives h. */
static int layer_input(struct walk *w, const char *value, const char **h)
{
    const Onnx__NodeProto *concat = node_of(w, value, "Concat");
    const char *tokens;

    if (!concat)
        return norm(w, value, layer_name(w, "input_layernorm.weight"), h);
    if (concat->n_input != 2)
        return lost(w, value, "a Concat of tokens and hidden states");
    if (norm(w, concat->input[0], layer_name(w, "input_layernorm.weight"), &tokens) ||
        same(w, tokens, "inputs_embeds", "input_layernorm"))
        return -1;
    return norm(w, concat->input[1], layer_name(w, "hidden_norm.weight"), h);
}

/* r = h + o(attention(q(n), k(n), v(n))), n = input_layernorm(h): gives h. */
static int attention(struct walk *w, const char *r, const char **h)
{
    static const char *const which[] = { "q", "k", "v" };
    const Onnx__NodeProto *plugin, *concat;
    const char *branch, *y, *x, *first = NULL, *from, *past;

    if (residual_add(w, r, h, &branch) || linear(w, branch, layer_name(w, "self_attn.o_proj"), &y))
        return -1;
    plugin = node_of(w, before(w, before(w, y, "Cast"), "Reshape"), "AttentionPlugin");
    concat = node_of(w, before(w, input(plugin, 0), "Cast"), "Concat");
    if (!concat || concat->n_input != 3 || plugin->n_input < 2)
        return lost(w, y, "an AttentionPlugin over a Concat of q, k and v, and a cache");
    past = arena_printf(w->a, "past_key_values_%u", w->layer);
    if (same(w, plugin->input[1], past, "the attention plugin") || cache_scale(w, plugin))
        return -1;
    for (size_t i = 0; i < 3; i++) {
        if (head_projection(w, concat->input[i], which[i], &x) || (first && same(w, x, first, "a projection")))
            return -1;
        first = x;
    }
    if (layer_input(w, first, &from))
        return -1;
    return same(w, from, *h, "input_layernorm");
}

/* A draft begins with Cast(hidden_states_from_draft) + Cast(fc(hidden_states_input)), a base with inputs_embeds. */
static int start(struct walk *w, const char *h)
{
    const Onnx__NodeProto *add = node_of(w, h, "Add");
    const char *x;

    if (!add || add->n_input != 2)
        return same(w, h, "inputs_embeds", "the first layer");
    if (linear(w, before(w, add->input[1], "Cast"), "fc", &x))
        return -1;
    return same(w, x, "hidden_states_input", "fc");
}

/* The layer's number is only known from its cache, so count from the start of the walk. */
static unsigned count_layers(const Onnx__GraphProto *g)
{
    unsigned n = 0;

    for (size_t i = 0; i < g->n_node; i++)
        n += g->node[i]->op_type && !strcmp(g->node[i]->op_type, "AttentionPlugin");
    return n;
}

/* logits = Cast(lm_head(GatherND(norm(h)))) of a base, LogSoftmax(Cast(lm_head(norm(GatherND(h))))) of a draft: gives
 * h. */
static int output(struct walk *w, const char **h)
{
    const char *log = before(w, "logits", "LogSoftmax"), *x = before(w, log ? log : "logits", "Cast");

    if (!x)
        return lost(w, "logits", "a Cast");
    if (linear(w, x, "lm_head", &x))
        return -1;
    if (!log && !(x = before(w, x, "GatherND")))
        return lost(w, "the input of lm_head", "a GatherND");
    if (norm(w, x, "norm.weight", h))
        return -1;
    if (log && !(*h = before(w, *h, "GatherND")))
        return lost(w, "the input of the norm", "a GatherND");
    return 0;
}

int roles_find(const Onnx__GraphProto *g, struct role **role, unsigned *layers, struct arena *a, struct err *e)
{
    struct walk w = { .g = g, .a = a, .e = e };
    const char *h, *r;

    *role = w.role = arena_array(a, g->n_initializer + 1, sizeof *w.role);
    if (index_values(&w))
        return -1;
    w.layer = *layers = count_layers(g);
    if (output(&w, &h))
        return -1;
    while (w.layer--) {
        if (mlp(&w, without_deepstack(&w, h), &r) || attention(&w, r, &h))
            return -1;
    }
    w.layer = 0;
    return start(&w, h);
}
