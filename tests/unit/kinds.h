/* kinds.h - everything that a decoder can be, as tiny checkpoints: for tests that hold of all of them. */
#ifndef TESTS_KINDS_H
#define TESTS_KINDS_H
#include "tiny.h"

static const int32_t kept[] = { 5, 1, 69 };
static const struct vocab_map vocab = { .id = kept, .n = 3 };

static const struct kind {
    const char *more; /* of config.json */
    unsigned what, layers;
    struct decoder_mode mode;
    bool draft;
} kinds[] = {
    { .more = "{}", .layers = 2 },
    { .more = "{\"tie_word_embeddings\": true}", .layers = 2, .what = TINY_TIED },
    { .more = "{\"attention_bias\": true, \"mlp_bias\": true}", .layers = 2, .what = TINY_BIAS },
    { .more = "{\"model_type\": \"mistral\"}", .layers = 2 },
    { .more = "{\"model_type\": \"qwen2\"}", .layers = 2, .what = TINY_BIAS },
    { .more = "{\"model_type\": \"qwen3\"}", .layers = 2, .what = TINY_QK_NORM },
    { .more = "{\"model_type\": \"qwen3_vl\", \"num_hidden_layers\": 4}", .layers = 4, .what = TINY_QK_NORM },
    { .more = "{\"model_type\": \"phi4mm\", \"partial_rotary_factor\": 0.75}", .layers = 2, .what = TINY_FUSED },
    { .more = "{\"model_type\": \"qwen3\", \"attention_bias\": true}",
      .layers = 2,
      .what = TINY_QK_NORM | TINY_BIAS,
      .mode = { .fp8_kv_cache = true, .vocab = &vocab } },
    { .more = "{}", .layers = 2, .mode = { .eagle_base = true, .hidden = { 0, 1, 2 } } },
    { .more = "{\"model_type\": \"qwen3_vl\", \"num_hidden_layers\": 3}",
      .layers = 3,
      .what = TINY_QK_NORM,
      .mode = { .eagle_base = true, .hidden = { 2, 2, 3 }, .fp8_kv_cache = true } },
    { .more = "{\"draft_vocab_size\": 35}", .draft = true },
};
enum {
    PLAIN,
    TIED,
    BIASED,
    MISTRAL,
    QWEN2,
    QWEN3,
    QWEN3_VL,
    FUSED,
    FP8_REDUCED,
    EAGLE_BASE,
    EAGLE_BASE_VL,
    DRAFT,
    KINDS = sizeof kinds / sizeof *kinds
};

static inline int kind_build(struct tiny *t, const struct kind *k)
{
    tiny_begin(t);
    if (k->draft)
        tiny_draft(t);
    else
        tiny_decoder(t, "model.", k->layers, k->what);
    return tiny_open_as(t, k->more, k->draft) || tiny_build(t, &k->mode) ? -1 : 0;
}

#endif
