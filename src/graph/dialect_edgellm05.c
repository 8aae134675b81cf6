/* dialect_edgellm05.c - TensorRT Edge-LLM 0.5.0: fp16, a contiguous KV cache, one
 * trt::AttentionPlugin a layer, linears as MatMul with constants [in, out].
 * Nodes stand in the order of the calls that make them, so no call has two such
 * calls among its arguments: C leaves their order to the compiler.
 * Facts: sections 3, 4 and 10 of the project's notes on that exporter, checked
 * against what it writes. */
#include "graph/dialect.h"
#include <stdio.h>
#include <string.h>

#define BATCH DIM_NAMED("batch_size")
#define SEQ   DIM_NAMED("seq_len")

static struct value hidden(enum dtype t, uint64_t width)
{
    return (struct value){ .dtype = t, .rank = 3, .dim = { BATCH, SEQ, DIM(width) }, .shaped = true };
}

static uint64_t rotary_dim(const struct model *m)
{
    double d = (double)m->head_dim * m->partial_rotary_factor;

    return d >= 1 && d < (double)m->head_dim ? (uint64_t)d : m->head_dim;
}

/* Logits of the last token, or of a tree's candidates. */
static struct dim selected(const struct decoder *w) { return w->tree ? DIM_NAMED("num_selected_tokens") : DIM(1); }

static const struct value *inputs(struct decoder *w)
{
    struct graph *g = w->g;
    const struct model *m = w->m;
    struct dim x[] = { BATCH, SEQ, DIM(m->hidden_size) };
    struct dim past[] = { BATCH, DIM(2), DIM(m->kv_heads), DIM_NAMED("past_len"), DIM(m->head_dim) };
    struct dim rope[] = { DIM_NAMED("rope_batch_size"), DIM_NAMED("max_position_embeddings"), DIM(rotary_dim(m)) };
    struct dim batch[] = { BATCH, selected(w) }, cache[] = { DIM_NAMED("kv_cache_start_batch_size") };
    struct dim tree[] = { BATCH, DIM_NAMED("q_len"), DIM_NAMED("q_len_padded") };
    const struct value *embeds = graph_input(g, "inputs_embeds", DT_F16, 3, x);

    for (unsigned i = 0; i < m->layers; i++)
        w->past[i] = graph_input(g, arena_printf(g->arena, "past_key_values_%u", i),
                                 w->mode->fp8_kv_cache ? DT_F8_E4M3 : DT_F16, 5, past);
    w->rope = graph_input(g, "rope_rotary_cos_sin", DT_F32, 3, rope);
    w->context_lengths = graph_input(g, "context_lengths", DT_I32, 1, batch);
    w->last_token_ids = graph_input(g, "last_token_ids", DT_I64, 2, batch);
    w->cache_start = graph_input(g, "kvcache_start_index", DT_I32, 1, cache);
    if (m->draft) {
        struct dim base[] = { BATCH, SEQ, DIM(3 * m->target_hidden_size) };

        w->hidden_base = graph_input(g, "hidden_states_input", DT_F16, 3, base);
        w->hidden_draft = graph_input(g, "hidden_states_from_draft", DT_F16, 3, x);
    }
    if (w->tree) {
        w->positions = graph_input(g, "attention_pos_id", DT_I32, 2, tree);
        w->mask = graph_input(g, "attention_mask", DT_I32, 3, tree);
    }
    for (unsigned i = 0; i < m->deepstack; i++)
        w->deepstack[i] = graph_input(g, arena_printf(g->arena, "deepstack_embeds_%u", i), DT_F16, 3, x);
    return embeds;
}

static struct value *unary(struct scope *s, const char *op, const struct value *x) { return node_add(s, op, &x, 1, x); }

static struct value *binary(struct scope *s, const char *op, const struct value *a, const struct value *b,
                            const struct value *like)
{
    return node_add(s, op, (const struct value *[]){ a, b }, 2, like);
}

static const struct value *cast(struct scope *s, const struct value *x, enum dtype t)
{
    struct value *v = unary(s, "Cast", x);

    v->dtype = t;
    node_attr_int(s->g, "to", dtype_onnx(t));
    return v;
}

/* In fp32: x * (1 / sqrt(mean(x^2) + eps)); then in fp16 times the weight. */
static const struct value *norm(struct decoder *w, const char *path, const char *name, const struct value *x,
                                uint64_t width)
{
    struct scope s = scope_enter(w->g, path);
    const struct value *weight = weight_vector(w, name, width), *x32 = cast(&s, x, DT_F32);
    const struct value *square = binary(&s, "Pow", x32, const_f32(&s, 2), x32), *root, *scaled;
    struct value *mean = binary(&s, "ReduceMean", square, const_i64s(&s, (const int64_t[]){ -1 }, 1), x32);

    mean->dim[mean->rank - 1] = DIM(1);
    node_attr_int(w->g, "keepdims", 1);
    root = unary(&s, "Sqrt", binary(&s, "Add", mean, const_f32(&s, (float)w->m->rms_norm_eps), mean));
    scaled = binary(&s, "Mul", x32, binary(&s, "Div", const_f32(&s, 1), root, mean), x32);
    scaled = cast(&s, scaled, DT_F16);
    return binary(&s, "Mul", weight, scaled, scaled);
}

static const struct value *add(struct decoder *w, struct scope *layer, const struct value *x, const struct value *delta)
{
    (void)w;
    return binary(layer, "Add", x, delta, x);
}

static const char *weight_name(struct decoder *w, const char *module, const char *what)
{
    bool head = !strcmp(module, "lm_head"); /* stands beside the decoder, not in it */

    return arena_printf(w->g->arena, "%s%s.%s", head ? "" : w->weights, module, what);
}

/* What the plugin cannot subtract, as it takes every zero point for 8: sums of the inputs of each group times
 * (8 - zero) * scale.  In fp32: sums of many inputs need not fit fp16, and only the result is rounded. */
static struct value *zeros(struct decoder *w, struct scope *s, const char *name, const struct int4 *q,
                           const struct value *x, const struct value *y)
{
    int64_t groups = (int64_t)(q->in / q->group), split[] = { 0, 0, groups, (int64_t)q->group };
    const struct value *x32 = cast(s, x, DT_F32), *shape = const_i64s(s, split, 4), *axis, *worth;
    struct value *blocks = binary(s, "Reshape", x32, shape, x32), *sums, *more;

    blocks->rank = 4;
    blocks->dim[2] = DIM((uint64_t)groups);
    blocks->dim[3] = DIM(q->group);
    node_attr_int(w->g, "allowzero", 0);
    axis = const_i64s(s, (const int64_t[]){ -1 }, 1);
    sums = binary(s, "ReduceSum", blocks, axis, blocks);
    sums->rank = 3;
    node_attr_int(w->g, "keepdims", 0);
    worth = cast(s, decoder_constant(w, name, recipe_zeros(w->g->arena, q)), DT_F32);
    more = binary(s, "MatMul", sums, worth, y);
    more->dtype = DT_F32;
    return binary(s, "Add", y, cast(s, more, DT_F16), y);
}

/* Int4GroupwiseGemmPlugin; behind a Gather where inputs come in another order.  Names as the exporter's wrapper for
 * that has them. */
static const struct value *linear_int4(struct decoder *w, const char *path, const struct linear *l,
                                       const struct value *x)
{
    struct arena *a = w->g->arena;
    const struct int4 *q = l->int4;
    const char *module = q->g_idx ? arena_printf(a, "%s.module_to_wrap", l->module) : l->module;
    struct scope outer = scope_enter(w->g, path), s = scope_enter(w->g, path);
    const struct value *weights, *scales;
    struct value *y;

    if (q->g_idx) {
        const struct value *at = decoder_constant(w, weight_name(w, l->module, "permute_idx"), recipe_order(a, q));

        x = binary(&outer, "Gather", x, at, x);
        node_attr_int(w->g, "axis", 2);
        s = scope_enter(w->g, arena_printf(a, "%s/module_to_wrap", path));
    }
    weights = decoder_constant(w, weight_name(w, module, "processed_qweight"), recipe_pack4(a, q));
    scales = weight_scales(w, weight_name(w, module, "scales"), q);
    y = node_add(&s, "Int4GroupwiseGemmPlugin", (const struct value *[]){ x, weights, scales }, 3, x);
    node_last(w->g)->domain = "trt";
    y->dim[y->rank - 1] = DIM(l->out);
    node_attr_int(w->g, "gemm_k", (int64_t)q->in);
    node_attr_int(w->g, "gemm_n", (int64_t)q->out);
    node_attr_int(w->g, "group_size", (int64_t)q->group);
    if (q->kept == ZEROS_ADDED)
        y = zeros(w, &s, weight_name(w, module, "zero_correction"), q, x, y);
    return l->bias ? binary(&s, "Add", y, weight_bias(w, weight_name(w, module, "bias"), l->bias), y) : y;
}

static const struct value *linear(struct decoder *w, const char *path, const struct linear *l, const struct value *x)
{
    struct scope s = scope_enter(w->g, path);
    struct value *y;

    if (l->int4)
        return l->int4->group ? linear_int4(w, path, l, x) : x; /* 0: it does not fit, as model_check will say */
    y = binary(&s, "MatMul", x, weight_matrix(w, weight_name(w, l->module, "weight"), l), x);

    y->dim[y->rank - 1] = DIM(l->out);
    return l->bias ? binary(&s, "Add", weight_bias(w, weight_name(w, l->module, "bias"), l->bias), y, y) : y;
}

/* One size of a value as a tensor [1], by way of Shape and Gather as torch traces x.shape[axis]. */
static const struct value *size_of(struct scope *s, const struct value *x, int64_t axis)
{
    struct value shape = { .dtype = DT_I64, .rank = 1, .dim = { DIM(x->rank) }, .shaped = true };
    struct value scalar = { .dtype = DT_I64, .shaped = true };
    const struct value *sizes = node_add(s, "Shape", &x, 1, &shape);
    const struct value *v = binary(s, "Gather", sizes, const_i64(s, axis), &scalar);

    node_attr_int(s->g, "axis", 0);
    return v;
}

static const struct value *as_vector(struct scope *s, const struct value *scalar)
{
    struct value one = { .dtype = DT_I64, .rank = 1, .dim = { DIM(1) }, .shaped = true };

    return binary(s, "Unsqueeze", scalar, const_i64s(s, (const int64_t[]){ 0 }, 1), &one);
}

static const struct value *concat(struct scope *s, const struct value *const *v, size_t n, int64_t axis,
                                  const struct value *like)
{
    const struct value *out = node_add(s, "Concat", v, n, like);

    node_attr_int(s->g, "axis", axis);
    return out;
}

/* Reshape to [B, S, -1] or, with a last size, to [B, S, -1, last]. */
static const struct value *reshape(struct scope *s, const struct value *x, const struct value *b, const struct value *q,
                                   uint64_t minus_one, uint64_t last)
{
    const struct value *part[4] = { b, q, const_i64s(s, (const int64_t[]){ -1 }, 1) };
    size_t n = last ? 4 : 3;
    struct value like = { .dtype = DT_I64, .rank = 1, .dim = { DIM(n) }, .shaped = true };
    struct value *y;

    if (last)
        part[3] = const_i64s(s, (const int64_t[]){ (int64_t)last }, 1);
    y = binary(s, "Reshape", x, concat(s, part, n, 0, &like), x);
    y->rank = (unsigned)n;
    y->dim[0] = BATCH;
    y->dim[1] = SEQ;
    y->dim[2] = DIM(minus_one);
    y->dim[3] = DIM(last);
    node_attr_int(s->g, "allowzero", 0);
    return y;
}

/* RMSNorm of every head by itself. */
static const struct value *head_norm(struct decoder *w, struct scope *s, unsigned i, const char *which,
                                     const struct value *x, const struct value *b, const struct value *q,
                                     uint64_t heads)
{
    struct arena *a = w->g->arena;
    uint64_t d = w->m->head_dim;
    const struct value *y = reshape(s, x, b, q, heads, d);

    y = norm(w, arena_printf(a, "%s/%s", s->path, which), arena_printf(a, "layers.%u.self_attn.%s.weight", i, which), y,
             d);
    return reshape(s, y, b, q, heads * d, 0);
}

/* [k, v]: what one step of the FP8 cache is worth. */
static const struct value *kv_scale(struct decoder *w, unsigned i)
{
    float scale[2];

    model_kv_scale(w->m, i, scale, w->e);
    return decoder_constant(w, arena_printf(w->g->arena, "%slayers.%u.self_attn.k_v_scale_quant_orig", w->weights, i),
                            recipe_constant(w->g->arena, DT_F32, 2, scale));
}

static const struct value *plugin(struct decoder *w, struct scope *s, unsigned i, const struct value *qkv)
{
    struct graph *g = w->g;
    const struct model *m = w->m;
    const struct value *in[8] = { qkv, w->past[i], w->context_lengths, w->rope, w->cache_start };
    size_t in_n = 5;
    struct value like = {
        .dtype = DT_F16, .rank = 4, .dim = { BATCH, SEQ, DIM(m->heads), DIM(m->head_dim) }, .shaped = true
    };
    struct dim present[] = { BATCH, DIM(2), DIM(m->kv_heads), DIM_NAMED("present_kv_cache_len"), DIM(m->head_dim) };
    const struct value *out;
    struct node *n;

    if (w->tree) {
        in[in_n++] = w->mask;
        in[in_n++] = w->positions;
    }
    if (w->mode->fp8_kv_cache)
        in[in_n++] = kv_scale(w, i);
    out = node_add(s, "AttentionPlugin", in, in_n, &like);
    n = node_last(g);
    n->domain = "trt";
    w->present[i] = graph_value(g, arena_printf(g->arena, "present_key_values_%u", i), w->past[i]->dtype, 5, present);
    n->out[n->out_n++] = w->present[i]->name;
    node_attr_int(g, "enable_fp8_kv_cache", w->mode->fp8_kv_cache);
    node_attr_int(g, "enable_tree_attention", w->tree);
    node_attr_int(g, "head_size", (int64_t)m->head_dim);
    node_attr_int(g, "num_kv_heads", (int64_t)m->kv_heads);
    node_attr_int(g, "num_q_heads", (int64_t)m->heads);
    return out;
}

static const struct value *slice(struct scope *s, const struct value *x, uint64_t from, uint64_t to)
{
    const struct value *begin = const_i64s(s, (const int64_t[]){ (int64_t)from }, 1);
    const struct value *end = const_i64s(s, (const int64_t[]){ (int64_t)to }, 1);
    const struct value *axis = const_i64s(s, (const int64_t[]){ 2 }, 1),
                       *step = const_i64s(s, (const int64_t[]){ 1 }, 1);
    struct value *y = node_add(s, "Slice", (const struct value *[]){ x, begin, end, axis, step }, 5, x);

    y->dim[2] = DIM(to - from);
    return y;
}

/* q, k and v by themselves, or as parts of one linear. */
static void projections(struct decoder *w, struct scope *s, unsigned i, const struct value *x,
                        const struct value *qkv[3])
{
    static const char *const proj[] = { "q_proj", "k_proj", "v_proj" };
    const struct model *m = w->m;
    uint64_t width[] = { m->heads * m->head_dim, m->kv_heads * m->head_dim, m->kv_heads * m->head_dim }, at = 0;
    uint64_t in = m->draft ? 2 * m->hidden_size : m->hidden_size;
    const struct value *all = NULL;

    if (m->family->fused)
        all = decoder_linear(w, i, "self_attn", "qkv_proj", x, in, width[0] + width[1] + width[2], m->qkv_bias);
    for (unsigned k = 0; k < 3; at += width[k++])
        qkv[k] = all ? slice(s, all, at, at + width[k])
                     : decoder_linear(w, i, "self_attn", proj[k], x, in, width[k], m->qkv_bias);
}

static const struct value *attention(struct decoder *w, unsigned i, const struct value *x)
{
    const struct model *m = w->m;
    struct scope s = scope_enter(w->g, arena_printf(w->g->arena, "%s/layers.%u/self_attn", w->path, i));
    const struct value *b = size_of(&s, x, 0), *q_len = size_of(&s, x, 1), *qkv[3], *y;
    struct value all = hidden(DT_F16, (m->heads + 2 * m->kv_heads) * m->head_dim);

    projections(w, &s, i, x, qkv);
    b = as_vector(&s, b);
    q_len = as_vector(&s, q_len);
    if (m->family->qk_norm) {
        qkv[0] = head_norm(w, &s, i, "q_norm", qkv[0], b, q_len, m->heads);
        qkv[1] = head_norm(w, &s, i, "k_norm", qkv[1], b, q_len, m->kv_heads);
    }
    y = plugin(w, &s, i, cast(&s, concat(&s, qkv, 3, -1, &all), DT_F16));
    return cast(&s, reshape(&s, y, b, q_len, m->heads * m->head_dim, 0), DT_F16);
}

static const struct value *silu_mul(struct decoder *w, struct scope *mlp, const struct value *gate,
                                    const struct value *up)
{
    struct scope act = scope_enter(w->g, arena_printf(w->g->arena, "%s/act_fn", mlp->path));

    gate = binary(&act, "Mul", gate, unary(&act, "Sigmoid", gate), gate);
    return binary(mlp, "Mul", gate, up, gate);
}

/* Three layers' states side by side: what an EAGLE3 draft is fed. */
static void hidden_states(struct decoder *w, struct scope *s)
{
    const unsigned *at = w->mode->hidden;
    const struct value *three[] = { w->state[at[0]], w->state[at[1]], w->state[at[2]] };
    struct value like = hidden(DT_F16, 3 * w->m->hidden_size);
    struct value *out = unary(s, "Cast", concat(s, three, 3, -1, &like));

    node_attr_int(w->g, "to", dtype_onnx(DT_F16));
    out->name = node_last(w->g)->out[0] = "hidden_states";
    graph_output(w->g, out);
}

/* The rows of x that last_token_ids names. */
static struct value *pick(struct decoder *w, struct scope *s, const struct value *x)
{
    struct value index = { .dtype = DT_I64, .rank = 3, .dim = { BATCH, selected(w), DIM(1) }, .shaped = true };
    const struct value *minus_one = const_i64s(s, (const int64_t[]){ -1 }, 1);
    const struct value *at = binary(s, "Unsqueeze", w->last_token_ids, minus_one, &index);
    struct value *last = binary(s, "GatherND", x, at, x);

    last->dim[1] = selected(w);
    node_attr_int(w->g, "batch_dims", 1);
    return last;
}

static void name_output(struct decoder *w, struct value *v, const char *name)
{
    v->name = node_last(w->g)->out[0] = name;
    graph_output(w->g, v);
}

static void head(struct decoder *w, const struct value *x)
{
    struct scope *s = &w->root;
    const struct value *last = pick(w, s, x);
    struct value *logits;
    struct linear l;

    decoder_head(w, &l);
    logits = unary(s, "Cast", linear(w, "/lm_head", &l, last));
    node_attr_int(w->g, "to", dtype_onnx(DT_F32));
    logits->dtype = DT_F32;
    name_output(w, logits, "logits");
    if (w->mode->eagle_base)
        hidden_states(w, s);
    for (unsigned i = 0; i < w->m->layers; i++)
        graph_output(w->g, w->present[i]);
}

static const struct value *beside(struct scope *s, const struct value *a, const struct value *b)
{
    struct value like = hidden(DT_F16, a->dim[2].n + b->dim[2].n);

    return concat(s, (const struct value *[]){ a, b }, 2, -1, &like);
}

static const struct value *draft_start(struct decoder *w)
{
    struct scope *s = &w->root;
    const struct model *m = w->m;
    const struct value *fc =
        decoder_module(w, "fc", w->hidden_base, 3 * m->target_hidden_size, m->hidden_size, m->fc_bias);
    const struct value *own = cast(s, w->hidden_draft, DT_F16);

    return add(w, s, own, cast(s, fc, DT_F16));
}

/* logits are log-probabilities; hidden_states, declared [B, S, hidden], holds the picked tokens' states. */
static void draft_head(struct decoder *w, const struct value *x)
{
    struct scope *s = &w->root;
    struct value *last = pick(w, s, x), *logits;
    const struct value *normed;
    struct linear l;

    last->name = node_last(w->g)->out[0] = "hidden_states";
    normed = norm(w, "/norm", "norm.weight", last, w->m->hidden_size);
    decoder_head(w, &l);
    logits = unary(s, "LogSoftmax", cast(s, linear(w, "/lm_head", &l, normed), DT_F32));
    node_attr_int(w->g, "axis", -1);
    name_output(w, logits, "logits");
    last->dim[1] = SEQ;
    graph_output(w->g, last);
    for (unsigned i = 0; i < w->m->layers; i++)
        graph_output(w->g, w->present[i]);
}

/* As torch's exporter leaves them: the final norm, then what modules hold under their own name, in module order, then
 * the transposed matrices in the order of use, lm_head last.  A quantized module holds all of its tensors itself. */
static const char *const parts[] = { "permute_idx", "scales", "processed_qweight", "zero_correction", "bias" };
static const char *const matrices[] = { "self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight",
                                        "self_attn.q_proj.weight",   "self_attn.k_proj.weight",
                                        "self_attn.v_proj.weight",   "self_attn.o_proj.weight",
                                        "mlp.gate_proj.weight",      "mlp.up_proj.weight",
                                        "mlp.down_proj.weight" };
enum { PARTS = sizeof parts / sizeof *parts };
static const struct {
    const char *name; /* one that ends in "." has parts, for which there is room behind it */
    unsigned at;
} vectors[] = {
    { "mlp.gate_proj.bias", 4 * PARTS + 0 },
    { "mlp.up_proj.bias", 4 * PARTS + 1 },
    { "mlp.down_proj.bias", 4 * PARTS + 2 },
    { "mlp.down_proj.", 0 * PARTS },
    { "mlp.gate_proj.", 1 * PARTS },
    { "mlp.up_proj.", 2 * PARTS },
    { "mlp.gate_up_proj.", 3 * PARTS },
    { "input_layernorm.weight", 5 * PARTS + 0 },
    { "post_attention_layernorm.weight", 5 * PARTS + 1 },
    { "hidden_norm.weight", 5 * PARTS + 2 },
    { "self_attn.q_proj.", 6 * PARTS },
    { "self_attn.k_proj.", 7 * PARTS },
    { "self_attn.v_proj.", 8 * PARTS },
    { "self_attn.o_proj.", 9 * PARTS },
    { "self_attn.qkv_proj.", 10 * PARTS },
    { "self_attn.q_norm.weight", 11 * PARTS + 0 },
    { "self_attn.k_norm.weight", 11 * PARTS + 1 },
    { "self_attn.k_v_scale_quant_orig", 11 * PARTS + 2 },
};

/* Place of one of parts[] among them; PARTS: none of them. */
static unsigned part_order(const char *name)
{
    unsigned i = 0;

    if (!strncmp(name, "module_to_wrap.", 15))
        name += 15;
    while (i < PARTS && strcmp(name, parts[i]))
        i++;
    return i;
}

static bool vector_order(const char *name, unsigned *at)
{
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        size_t n = strlen(vectors[i].name);
        bool module = vectors[i].name[n - 1] == '.';
        unsigned part = module && !strncmp(name, vectors[i].name, n) ? part_order(name + n) : PARTS;

        *at = vectors[i].at + (module ? part : 0);
        if (module ? part < PARTS : !strcmp(name, vectors[i].name))
            return true;
    }
    return false;
}

static uint64_t order(const char *name)
{
    unsigned layer, at;
    int rest = 0;

    if (!strcmp(name, "model.norm.weight") || !strcmp(name, "norm.weight"))
        return 0;
    if (!strcmp(name, "fc.weight"))
        return 2ull << 40;
    if (!strncmp(name, "fc.", 3))
        return 1 + part_order(name + 3);
    if (!strncmp(name, "model.", 6))
        name += 6;
    if (sscanf(name, "layers.%u.%n", &layer, &rest) == 1 && rest) {
        if (vector_order(name + rest, &at))
            return 1ull << 40 | (uint64_t)layer << 8 | at;
        for (unsigned i = 0; i < sizeof matrices / sizeof *matrices; i++)
            if (!strcmp(name + rest, matrices[i]))
                return 2ull << 40 | (uint64_t)(layer + 1) << 8 | i;
    }
    if (!strncmp(name, "lm_head.", 8))
        name += 8;
    return 3ull << 40 | part_order(name); /* lm_head */
}

static const struct opset opsets[] = { { "", 19 }, { "trt", 1 } };

const struct dialect dialect_edgellm05 = {
    .target = "edgellm-0.5",
    .version = "0.5.0",
    .producer = "pytorch",
    .producer_version = "2.9.1",
    .ir_version = 9,
    .opset = opsets,
    .opset_n = 2,
    .external_from = 991,
    .data_file = "onnx_model.data",
    .inputs = inputs,
    .norm = norm,
    .add = add,
    .linear = linear,
    .attention = attention,
    .silu_mul = silu_mul,
    .slice = slice,
    .head = head,
    .draft_start = draft_start,
    .draft_head = draft_head,
    .beside = beside,
    .order = order,
};
