/* decoder.c - the one walk over the layers of a decoder. */
#include "graph/dialect.h"
#include <string.h>

const struct dialect *const dialects[] = { &dialect_edgellm05 };
const size_t dialects_n = sizeof dialects / sizeof *dialects;

const struct dialect *dialect_find(const char *target)
{
    for (size_t i = 0; i < dialects_n; i++)
        if (!strcmp(dialects[i]->target, target))
            return dialects[i];
    return NULL;
}

/* `r`: NULL where it could not be made; the failure is in w->e, and ends the build. */
static const struct value *initializer(struct decoder *w, const char *name, const struct tensor *t,
                                       const struct recipe *r)
{
    return graph_init(w->g, name, r ? r : recipe_source(w->g->arena, t), w->d->order(name));
}

const struct value *weight_bias(struct decoder *w, const char *name, const struct tensor *t)
{
    return initializer(w, name, t, recipe_cast(w->g->arena, recipe_source(w->g->arena, t), DT_F16, w->e));
}

const struct value *weight_vector(struct decoder *w, const char *name, uint64_t n)
{
    return weight_bias(w, arena_printf(w->g->arena, "%s%s", w->weights, name), model_weight(w->m, name, n, 0));
}

const struct value *weight_matrix(struct decoder *w, const char *name, const struct linear *l)
{
    struct arena *a = w->g->arena;
    const struct adapter_pair *pair = w->mode->merge ? adapter_take(w->mode->merge, l->module) : NULL;
    const struct recipe *r = recipe_source(a, l->weight);

    if (l->rows)
        r = recipe_rows(a, r, l->rows, l->out, w->e);
    r = r ? recipe_cast(a, r, DT_F16, w->e) : NULL;
    if (r && pair)
        r = recipe_merge(a, r, pair, w->e);
    return initializer(w, name, l->weight, r ? recipe_transpose(a, r, w->e) : NULL);
}

const struct value *weight_scales(struct decoder *w, const char *name, const struct int4 *q)
{
    struct arena *a = w->g->arena;
    const struct recipe *r = recipe_cast(a, recipe_source(a, q->scales), DT_F16, w->e);

    return initializer(w, name, q->scales, r && q->packing == INT4_OUT ? recipe_transpose(a, r, w->e) : r);
}

const struct value *decoder_constant(struct decoder *w, const char *name, const struct recipe *r)
{
    return graph_init(w->g, name, r, w->d->order(name));
}

void decoder_head(struct decoder *w, struct linear *l)
{
    struct model *m = w->m;

    if (m->draft || !m->tied) {
        model_linear(m, l, "lm_head", m->hidden_size, m->draft ? m->draft_vocab_size : m->vocab_size, false, w->e);
    } else {
        *l = (struct linear){ .module = "lm_head", .in = m->hidden_size, .out = m->vocab_size };
        l->weight = model_weight(m, "embed_tokens.weight", m->vocab_size, m->hidden_size);
    }
    if (w->mode->vocab && l->int4) {
        err_set(
            w->e, ERR_UNSUPPORTED,
            "%s: lm_head is quantized, and rows can be taken of a plain one only: leave --reduced-vocab out, or give "
            "a checkpoint whose lm_head is not quantized",
            m->ckpt->dir);
    } else if (w->mode->vocab) {
        l->rows = w->mode->vocab->id;
        l->out = w->mode->vocab->n;
    }
}

const struct value *decoder_linear(struct decoder *w, unsigned i, const char *block, const char *proj,
                                   const struct value *x, uint64_t in, uint64_t out, bool bias)
{
    struct arena *a = w->g->arena;
    struct linear l;

    model_linear(w->m, &l, arena_printf(a, "layers.%u.%s.%s", i, block, proj), in, out, bias, w->e);
    return w->d->linear(w, arena_printf(a, "%s/layers.%u/%s/%s", w->path, i, block, proj), &l, x);
}

const struct value *decoder_module(struct decoder *w, const char *module, const struct value *x, uint64_t in,
                                   uint64_t out, bool bias)
{
    struct linear l;

    model_linear(w->m, &l, module, in, out, bias, w->e);
    return w->d->linear(w, arena_printf(w->g->arena, "%s/%s", w->path, module), &l, x);
}

static const struct value *attention(struct decoder *w, unsigned i, const struct value *x)
{
    const struct model *m = w->m;

    return decoder_linear(w, i, "self_attn", "o_proj", w->d->attention(w, i, x), m->heads * m->head_dim, m->hidden_size,
                          m->o_bias);
}

static const struct value *mlp(struct decoder *w, unsigned i, const struct value *x)
{
    const struct model *m = w->m;
    struct scope s = scope_enter(w->g, arena_printf(w->g->arena, "%s/layers.%u/mlp", w->path, i));
    uint64_t h = m->hidden_size, ff = m->intermediate_size;
    const struct value *gate, *up, *act;

    if (m->family->fused) {
        const struct value *both = decoder_linear(w, i, "mlp", "gate_up_proj", x, h, 2 * ff, m->mlp_bias);

        gate = w->d->slice(&s, both, 0, ff);
        up = w->d->slice(&s, both, ff, 2 * ff);
    } else {
        gate = decoder_linear(w, i, "mlp", "gate_proj", x, h, ff, m->mlp_bias);
        up = decoder_linear(w, i, "mlp", "up_proj", x, h, ff, m->mlp_bias);
    }
    act = w->d->silu_mul(w, &s, gate, up);

    return decoder_linear(w, i, "mlp", "down_proj", act, ff, h, m->mlp_bias);
}

static const struct value *layer_norm(struct decoder *w, unsigned i, const char *norm, const struct value *x)
{
    struct arena *a = w->g->arena;

    return w->d->norm(w, arena_printf(a, "%s/layers.%u/%s", w->path, i, norm),
                      arena_printf(a, "layers.%u.%s.weight", i, norm), x, w->m->hidden_size);
}

static const struct value *layer(struct decoder *w, unsigned i, const struct value *x)
{
    struct scope s = scope_enter(w->g, arena_printf(w->g->arena, "%s/layers.%u", w->path, i));
    const struct value *in;

    if (w->m->draft) { /* the tokens beside what the base thought of them */
        const struct value *hidden = layer_norm(w, i, "hidden_norm", x);

        in = w->d->beside(&s, layer_norm(w, i, "input_layernorm", w->tokens), hidden);
    } else {
        in = layer_norm(w, i, "input_layernorm", x);
    }
    x = w->d->add(w, &s, x, attention(w, i, in));
    return w->d->add(w, &s, x, mlp(w, i, layer_norm(w, i, "post_attention_layernorm", x)));
}

int decoder_eagle_layers(struct decoder_mode *mode, uint64_t layers, struct err *e)
{
    if (layers < 3)
        return err_set(e, ERR_UNSUPPORTED,
                       "an EAGLE3 base needs at least 3 layers to take hidden states from, this model has %llu",
                       (unsigned long long)layers);
    mode->hidden[0] = 2;
    mode->hidden[1] = (unsigned)(layers / 2);
    mode->hidden[2] = (unsigned)(layers - 3);
    return 0;
}

/* Base models and drafts alike: what goes into the first layer and what comes out of the last is the dialect's. */
int decoder_build(struct graph *g, struct model *m, const struct dialect *d, const struct decoder_mode *mode,
                  struct arena *a, struct err *e)
{
    struct decoder w = { .g = g, .m = m, .d = d, .e = e, .mode = mode };
    struct scope deep;
    const struct value *x;

    w.path = m->draft ? "" : "/model";
    w.weights = m->draft ? "" : "model.";
    w.tree = mode->eagle_base || m->draft;
    deep = scope_enter(g, w.path);
    w.root = scope_enter(g, "");
    *g = (struct graph){ .arena = a, .name = "main_graph", .opset = d->opset, .opset_n = d->opset_n };
    w.past = arena_array(a, m->layers, sizeof *w.past);
    w.present = arena_array(a, m->layers, sizeof *w.present);
    w.state = arena_array(a, m->layers + 1, sizeof *w.state);
    w.tokens = x = d->inputs(&w);
    if (m->draft)
        x = d->draft_start(&w);
    for (unsigned i = 0; i < m->layers; i++) {
        w.state[i] = x;
        x = layer(&w, i, x);
        if (i < m->deepstack)
            x = d->add(&w, &deep, x, w.deepstack[i]);
    }
    if (m->draft)
        d->draft_head(&w, x);
    else
        d->head(&w, w.state[m->layers] = d->norm(&w, "/model/norm", "norm.weight", x, m->hidden_size));
    graph_sort_inits(g);
    return e->kind ? -1 : 0;
}
