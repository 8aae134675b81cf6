/* families.c - the decoder families that we convert, one row each. */
#include "model/model.h"

/* What the runtime of Phi-4-multimodal is given instead of a rendering of its template. */
static const char phi4mm_template[] =
    "{\"model_path\": \"phi4mm\", \"roles\": {\"system\": {\"prefix\": \"<|system|>\", \"suffix\": \"<|end|>\"},"
    " \"user\": {\"prefix\": \"<|user|>\", \"suffix\": \"<|end|>\"},"
    " \"assistant\": {\"prefix\": \"<|assistant|>\", \"suffix\": \"<|end|>\"}},"
    " \"content_types\": {\"image\": {\"format\": \"<|endoftext10|>\"}},"
    " \"generation_prompt\": \"<|assistant|>\", \"default_system_prompt\": \"\"}";

/* Text models that differ in names only. */
#define QWEN2_VL(type, class, exported)                                                                                \
    {                                                                                                                  \
        .model_type = type, .architecture = class, .config_class = exported, .text_key = "text_config",                \
        .vision = true, .qkv_bias = BIAS_ALWAYS, .names_rope_type = true, .mrope_is_default = true,                    \
        .window_by_switch = true,                                                                                      \
        .defaults = { .vocab_size = 152064,                                                                            \
                      .hidden_size = 8192,                                                                             \
                      .intermediate_size = 29568,                                                                      \
                      .layers = 80,                                                                                    \
                      .heads = 64,                                                                                     \
                      .kv_heads = 8,                                                                                   \
                      .max_position = 32768,                                                                           \
                      .sliding_window = 4096,                                                                          \
                      .window_from = 80,                                                                               \
                      .rms_norm_eps = 1e-5,                                                                            \
                      .rope_theta = 1000000.0 },                                                                       \
    }
#define QWEN3_VL(type, class, exported, key)                                                                           \
    {                                                                                                                  \
        .model_type = type, .architecture = class, .config_class = exported, .text_key = key, .vision = true,          \
        .qkv_bias = BIAS_ATTENTION_KEY, .o_bias = BIAS_ATTENTION_KEY, .qk_norm = true, .deepstack = 3,                 \
        .window_by_switch = true,                                                                                      \
        .defaults = { .vocab_size = 151936,                                                                            \
                      .hidden_size = 4096,                                                                             \
                      .intermediate_size = 22016,                                                                      \
                      .layers = 32,                                                                                    \
                      .heads = 32,                                                                                     \
                      .kv_heads = 32,                                                                                  \
                      .head_dim = 128,                                                                                 \
                      .max_position = 128000,                                                                          \
                      .rms_norm_eps = 1e-6,                                                                            \
                      .rope_theta = 5000000.0 },                                                                       \
    }

const struct family families[] = {
    {
        .model_type = "llama",
        .architecture = "LlamaForCausalLM",
        .config_class = "llama",
        .qkv_bias = BIAS_ATTENTION_KEY,
        .o_bias = BIAS_ATTENTION_KEY,
        .mlp_bias = BIAS_MLP_KEY,
        .names_rope_type = true,
        .defaults = { .vocab_size = 32000,
                      .hidden_size = 4096,
                      .intermediate_size = 11008,
                      .layers = 32,
                      .heads = 32,
                      .max_position = 2048,
                      .rms_norm_eps = 1e-6,
                      .rope_theta = 10000.0 },
    },
    {
        .model_type = "mistral",
        .architecture = "MistralForCausalLM",
        .config_class = "mistral",
        .defaults = { .vocab_size = 32000,
                      .hidden_size = 4096,
                      .intermediate_size = 14336,
                      .layers = 32,
                      .heads = 32,
                      .kv_heads = 8,
                      .max_position = 131072,
                      .sliding_window = 4096,
                      .rms_norm_eps = 1e-6,
                      .rope_theta = 10000.0 },
    },
    {
        .model_type = "qwen2", /* Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen */
        .architecture = "Qwen2ForCausalLM",
        .config_class = "qwen2",
        .qkv_bias = BIAS_ALWAYS,
        .names_rope_type = true,
        .window_by_switch = true,
        .defaults = { .vocab_size = 151936,
                      .hidden_size = 4096,
                      .intermediate_size = 22016,
                      .layers = 32,
                      .heads = 32,
                      .kv_heads = 32,
                      .max_position = 32768,
                      .sliding_window = 4096,
                      .window_from = 28,
                      .rms_norm_eps = 1e-6,
                      .rope_theta = 10000.0 },
    },
    {
        .model_type = "qwen3",
        .architecture = "Qwen3ForCausalLM",
        .config_class = "qwen3",
        .qkv_bias = BIAS_ATTENTION_KEY,
        .o_bias = BIAS_ATTENTION_KEY,
        .qk_norm = true,
        .names_rope_type = true,
        .window_by_switch = true,
        .defaults = { .vocab_size = 151936,
                      .hidden_size = 4096,
                      .intermediate_size = 22016,
                      .layers = 32,
                      .heads = 32,
                      .kv_heads = 32,
                      .head_dim = 128,
                      .max_position = 32768,
                      .sliding_window = 4096,
                      .window_from = 28,
                      .rms_norm_eps = 1e-6,
                      .rope_theta = 10000.0 },
    },
    QWEN2_VL("qwen2_vl", "Qwen2VLForConditionalGeneration", "qwen2vltext"),
    QWEN2_VL("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vltext"),
    QWEN3_VL("qwen3_vl", "Qwen3VLForConditionalGeneration", "qwen3vltext", "text_config"),
    QWEN3_VL("qwen3_omni", "Qwen3OmniForConditionalGeneration", "qwen3omnithinker", "thinker_config.text_config"),
    { .model_type = "internvl",
      .architecture = "InternVLForConditionalGeneration",
      .text_key = "text_config",
      .wraps = true,
      .vision = true },
    { .model_type = "internvl_chat",
      .architecture = "InternVLChatModel",
      .text_key = "llm_config",
      .wraps = true,
      .vision = true },
    {
        .model_type = "phi4mm",
        .architecture = "Phi4MMForCausalLM",
        .config_class = "phi4mm",
        .vision = true,
        .template = phi4mm_template,
        .fused = true,
        .defaults = { .vocab_size = 200064,
                      .hidden_size = 3072,
                      .intermediate_size = 8192,
                      .layers = 32,
                      .heads = 24,
                      .kv_heads = 8,
                      .max_position = 131072,
                      .rms_norm_eps = 1e-5,
                      .rope_theta = 10000.0 },
    },
};
const size_t families_n = sizeof families / sizeof *families;
