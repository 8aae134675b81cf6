/* tiny.h - checkpoints of a few kilobytes, written by hand, and what is made of them.
 *
 *     tiny_begin(&t);
 *     tiny_decoder(&t, "model.", 2, TINY_TIED);
 *     tiny_open(&t, "{\"model_type\": \"qwen3\"}");       (what is other than in TINY_CONFIG; "..." leaves a key out)
 *     tiny_build(&t, &(struct decoder_mode){ 0 });
 *     tiny_end(&t);
 *
 * Each returns 0, or -1 with the reason in t.e. */
#ifndef TESTS_TINY_H
#define TESTS_TINY_H
#include "scratch.h"
#include "base/json.h"
#include "graph/dialect.h"
#include "model/model.h"

enum { HIDDEN = 8, INTER = 64, HEADS = 2, KV_HEADS = 1, HEAD_DIM = 6, VOCAB = 70 };
enum { TINY_TIED = 1, TINY_BIAS = 2, TINY_QK_NORM = 4, TINY_FUSED = 8 };

#define TINY_CONFIG                                                                                                    \
    "{\"model_type\": \"llama\", \"hidden_size\": 8, \"intermediate_size\": 64, \"num_hidden_layers\": 2, "            \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 6, \"vocab_size\": 70, "                    \
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, "                             \
    "\"tie_word_embeddings\": false, \"hidden_act\": \"silu\"}"

struct tiny {
    struct arena arena;
    struct notes notes;
    struct err e;
    struct checkpoint ckpt;
    struct model model;
    struct graph graph;
    struct str header, data; /* of the safetensors file to be */
};

static inline void tiny_begin(struct tiny *t) { *t = (struct tiny){ 0 }; }

static inline void tiny_end(struct tiny *t)
{
    graph_release(&t->graph);
    model_close(&t->model);
    ckpt_close(&t->ckpt);
    notes_release(&t->notes);
    str_release(&t->header);
    str_release(&t->data);
    arena_release(&t->arena);
}

/* Rank 1 when d1 is 0. Every value is another one, as far as the type goes, and finite. */
static inline void tiny_tensor(struct tiny *t, const char *name, const char *dtype, uint64_t d0, uint64_t d1)
{
    uint64_t elements = d0 * (d1 ? d1 : 1), bytes = dtype_bytes(dtype_by_name(dtype));
    size_t begin = t->data.n;

    for (uint64_t i = 0; i < elements; i++) {
        unsigned char v[8] = { 0 };

        v[bytes - 1] = 0x3c;
        v[bytes - 2 < bytes ? bytes - 2 : 0] = (unsigned char)(begin / 2 + i);
        str_add(&t->data, v, bytes);
    }
    str_addf(&t->header, "%s\"%s\": {\"dtype\": \"%s\", \"shape\": [%llu", t->header.n ? ", " : "{", name, dtype,
             (unsigned long long)d0);
    if (d1)
        str_addf(&t->header, ", %llu", (unsigned long long)d1);
    str_addf(&t->header, "], \"data_offsets\": [%zu, %zu]}", begin, t->data.n);
}

static inline void tiny_linear(struct tiny *t, const char *layer, const char *name, uint64_t out, uint64_t in,
                               bool bias)
{
    tiny_tensor(t, arena_printf(&t->arena, "%s%s.weight", layer, name), "BF16", out, in);
    if (bias)
        tiny_tensor(t, arena_printf(&t->arena, "%s%s.bias", layer, name), "BF16", out, 0);
}

/* Attention and MLP; `in`: of q, k and v. */
static inline void tiny_blocks(struct tiny *t, const char *layer, uint64_t in, unsigned what)
{
    const uint64_t q = HEADS * HEAD_DIM, kv = KV_HEADS * HEAD_DIM;
    const bool bias = what & TINY_BIAS;

    if (what & TINY_FUSED) {
        tiny_linear(t, layer, "self_attn.qkv_proj", q + 2 * kv, in, bias);
        tiny_linear(t, layer, "mlp.gate_up_proj", 2 * INTER, HIDDEN, bias);
    } else {
        tiny_linear(t, layer, "self_attn.q_proj", q, in, bias);
        tiny_linear(t, layer, "self_attn.k_proj", kv, in, bias);
        tiny_linear(t, layer, "self_attn.v_proj", kv, in, bias);
        tiny_linear(t, layer, "mlp.gate_proj", INTER, HIDDEN, bias);
        tiny_linear(t, layer, "mlp.up_proj", INTER, HIDDEN, bias);
    }
    tiny_linear(t, layer, "self_attn.o_proj", HIDDEN, q, bias);
    tiny_linear(t, layer, "mlp.down_proj", HIDDEN, INTER, bias);
    if (what & TINY_QK_NORM) {
        tiny_tensor(t, arena_printf(&t->arena, "%sself_attn.q_norm.weight", layer), "BF16", HEAD_DIM, 0);
        tiny_tensor(t, arena_printf(&t->arena, "%sself_attn.k_norm.weight", layer), "BF16", HEAD_DIM, 0);
    }
    tiny_tensor(t, arena_printf(&t->arena, "%spost_attention_layernorm.weight", layer), "BF16", HIDDEN, 0);
    tiny_tensor(t, arena_printf(&t->arena, "%sinput_layernorm.weight", layer), "BF16", HIDDEN, 0);
}

static inline void tiny_decoder(struct tiny *t, const char *prefix, unsigned layers, unsigned what)
{
    tiny_tensor(t, arena_printf(&t->arena, "%sembed_tokens.weight", prefix), "BF16", VOCAB, HIDDEN);
    for (unsigned i = 0; i < layers; i++)
        tiny_blocks(t, arena_printf(&t->arena, "%slayers.%u.", prefix, i), HIDDEN, what);
    tiny_tensor(t, arena_printf(&t->arena, "%snorm.weight", prefix), "BF16", HIDDEN, 0);
    if (!(what & TINY_TIED))
        tiny_tensor(t, "lm_head.weight", "BF16", VOCAB, HIDDEN);
}

/* An EAGLE3 draft of one layer. */
static inline void tiny_draft(struct tiny *t)
{
    tiny_tensor(t, "d2t", "I64", VOCAB / 2, 0);
    memset(t->data.s, 0, t->data.n);
    tiny_tensor(t, "fc.weight", "BF16", HIDDEN, 3 * HIDDEN);
    tiny_blocks(t, "midlayer.", 2 * HIDDEN, 0);
    tiny_tensor(t, "midlayer.hidden_norm.weight", "BF16", HIDDEN, 0);
    tiny_tensor(t, "norm.weight", "BF16", HIDDEN, 0);
    tiny_tensor(t, "lm_head.weight", "BF16", VOCAB / 2, HIDDEN);
}

/* TINY_CONFIG with the members of `more`; the caller owns it. */
static inline json_t *tiny_config(const char *more)
{
    json_t *config = json_loads(TINY_CONFIG, 0, NULL), *other = json_loads(more, 0, NULL), *v;
    const char *key;

    if (!config || !other)
        abort();
    json_object_foreach(other, key, v)
    {
        if (json_is_string(v) && !strcmp(json_string_value(v), "..."))
            json_object_del(config, key);
        else
            json_object_set(config, key, v);
    }
    json_decref(other);
    return config;
}

/* Writes `dir` in the scratch directory. */
static inline void tiny_write(struct tiny *t, const char *dir, const char *more)
{
    json_t *object = tiny_config(more);
    char *config = json_dumps(object, 0);
    const char *path = arena_printf(&t->arena, "%s/model.safetensors", dir);
    struct str file = { 0 };

    if (!scratch_has(dir))
        scratch_dir(dir);
    str_add(&file, "\0\0\0\0\0\0\0", 8);
    str_addf(&file, "%s}", t->header.n ? str_text(&t->header) : "{");
    for (unsigned i = 0; i < 8; i++)
        file.s[i] = (char)((file.n - 8) >> (8 * i));
    str_add(&file, t->data.s, t->data.n);
    scratch_write(path, file.s, file.n);
    scratch_text(arena_printf(&t->arena, "%s/config.json", dir), config);
    str_release(&file);
    json_decref(object);
    free(config);
}

static inline int tiny_open_as(struct tiny *t, const char *more, bool draft)
{
    tiny_write(t, "model", more);
    if (ckpt_open(&t->ckpt, scratch_path("model"), &t->arena, &t->notes, &t->e))
        return -1;
    return (draft ? model_open_draft : model_open)(&t->model, &t->ckpt, &t->arena, &t->notes, &t->e);
}

static inline int tiny_open(struct tiny *t, const char *more) { return tiny_open_as(t, more, false); }

static inline int tiny_build(struct tiny *t, const struct decoder_mode *mode)
{
    return decoder_build(&t->graph, &t->model, dialects[0], mode, &t->arena, &t->e) || model_check(&t->model, &t->e)
               ? -1
               : 0;
}

/* A note that holds these words. */
static inline bool tiny_noted(const struct tiny *t, const char *words)
{
    for (size_t i = 0; i < t->notes.n; i++)
        if (strstr(t->notes.v[i].text, words))
            return true;
    return false;
}

#endif
