/* config.json in all its spellings becomes one struct; the decoder is found under whatever prefix; what is missing or
 * unfit is told at once, what is left over is grouped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tiny.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static void assert_words(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("\"%s\" does not say \"%s\"", text, words);
}

static void open_tiny(struct tiny *t, const char *more)
{
    tiny_begin(t);
    tiny_decoder(t, "model.", 2, 0);
    if (tiny_open(t, more))
        fail_msg("%s: %s", more, t->e.msg);
}

/* The config is refused, and the message says `words`. */
static void refuse(const char *more, enum err_kind kind, const char *words)
{
    struct tiny t;

    tiny_begin(&t);
    tiny_decoder(&t, "model.", 2, 0);
    if (!tiny_open(&t, more))
        fail_msg("%s was accepted", more);
    assert_int_equal(t.e.kind, kind);
    assert_words(t.e.msg, words);
    assert_words(t.e.msg, "config.json");
    assert_null(strchr(t.e.msg, '\n')); /* one sentence, whatever was in the file */
    tiny_end(&t);
}

/* ------------------------------------------------------------------------------------------------ families */

/* Every row is found by its model_type and by its architecture, flat and nested where it nests; wrappers need what they
 * wrap. */
static void every_family(void **state)
{
    static const char *const by[] = { "\"model_type\": \"%s\"",
                                      "\"model_type\": \"...\", \"architectures\": [\"%s\"]" };

    (void)state;
    for (size_t i = 0; i < families_n; i++)
        for (size_t k = 0; k < LENGTH(by) && !families[i].wraps; k++) {
            const struct family *f = &families[i];
            struct tiny t;
            char more[400], key[200];

            snprintf(key, sizeof key, by[k], k ? f->architecture : f->model_type);
            snprintf(more, sizeof more, "{%s, \"num_hidden_layers\": 3}", key);
            tiny_begin(&t);
            tiny_decoder(&t, "model.", 3, 0);
            assert_int_equal(tiny_open(&t, more), 0);
            assert_ptr_equal(t.model.family, f);
            assert_int_equal(t.model.vision, f->vision);
            assert_true(t.model.qkv_bias == (f->qkv_bias == BIAS_ALWAYS));
            tiny_end(&t);
        }
}

static void families_differ(void **state)
{
    (void)state;
    for (size_t i = 0; i < families_n; i++) {
        assert_true(families[i].wraps || families[i].config_class);
        assert_true(!families[i].wraps || families[i].text_key);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(families[i].model_type, families[k].model_type);
            assert_string_not_equal(families[i].architecture, families[k].architecture);
        }
    }
}

static void nested_text_model(void **state)
{
    struct tiny t;

    (void)state;
    open_tiny(&t, "{\"model_type\": \"qwen2_vl\", \"hidden_size\": 4444, \"text_config\": {\"hidden_size\": 8, "
                  "\"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                  "\"num_key_value_heads\": 2, \"vocab_size\": 70}}");
    assert_int_equal(t.model.hidden_size, 8);
    assert_int_equal(t.model.head_dim, 2);
    assert_ptr_equal(t.model.text, json_object_get(t.ckpt.config, "text_config"));
    tiny_end(&t);
    open_tiny(&t, "{\"model_type\": \"internvl\", \"text_config\": {\"model_type\": \"qwen2\", \"hidden_size\": 8, "
                  "\"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                  "\"num_key_value_heads\": 2, \"vocab_size\": 70}}");
    assert_string_equal(t.model.family->model_type, "qwen2");
    assert_true(t.model.vision);
    tiny_end(&t);
}

static void unknown_families(void **state)
{
    (void)state;
    refuse("{\"model_type\": \"qwen\"}", ERR_UNSUPPORTED, "\"qwen\" is not supported; expected one of: llama, mistral");
    refuse("{\"model_type\": \"a\\nb\\u001b[31m\"}", ERR_UNSUPPORTED, "\"a?b?[31m\" is not supported");
    refuse("{\"model_type\": \"...\", \"architectures\": [\"GPT2LMHeadModel\"]}", ERR_UNSUPPORTED,
           "\"GPT2LMHeadModel\"");
    refuse("{\"model_type\": \"...\"}", ERR_FORMAT, "config.json: has neither \"model_type\" nor \"architectures\"");
    refuse("{\"model_type\": 7, \"architectures\": \"LlamaForCausalLM\"}", ERR_FORMAT, "neither");
    refuse("{\"model_type\": \"internvl\", \"text_config\": {\"hidden_size\": 8}}", ERR_FORMAT,
           "the text model in it has neither");
    refuse("{\"model_type\": \"internvl\", \"text_config\": {\"model_type\": \"internlm2\"}}", ERR_UNSUPPORTED,
           "\"internlm2\" is not supported");
    refuse("{\"model_type\": \"internvl\", \"text_config\": {\"model_type\": \"internvl\"}}", ERR_UNSUPPORTED,
           "\"internvl\" is not supported");
}

/* ------------------------------------------------------------------------------------------------ sizes */

static void sizes_are_read(void **state)
{
    struct tiny t;

    (void)state;
    open_tiny(&t, "{\"vocab_size\": 70.0}");
    assert_int_equal(t.model.hidden_size, HIDDEN);
    assert_int_equal(t.model.intermediate_size, INTER);
    assert_int_equal(t.model.layers, 2);
    assert_int_equal(t.model.heads, HEADS);
    assert_int_equal(t.model.kv_heads, KV_HEADS);
    assert_int_equal(t.model.head_dim, HEAD_DIM);
    assert_int_equal(t.model.vocab_size, VOCAB);
    assert_int_equal(t.model.max_position, 128);
    assert_true(t.model.rms_norm_eps == 1e-5);
    assert_false(t.model.tied);
    assert_int_equal(t.notes.n, 0);
    tiny_end(&t);
}

/* What the file leaves out gets the default of its class, and a note. */
static void defaults(void **state)
{
    struct tiny t;

    (void)state;
    open_tiny(
        &t, "{\"num_key_value_heads\": \"...\", \"head_dim\": null, \"vocab_size\": \"...\", \"rope_theta\": "
            "\"...\", \"rms_norm_eps\": \"...\", \"tie_word_embeddings\": \"...\", \"max_position_embeddings\": null}");
    assert_int_equal(t.model.kv_heads, HEADS);
    assert_int_equal(t.model.head_dim, HIDDEN / HEADS);
    assert_int_equal(t.model.vocab_size, 32000);
    assert_int_equal(t.model.max_position, 2048);
    assert_true(json_real_value(t.model.rope_theta) == 10000.0);
    assert_true(t.model.rms_norm_eps == 1e-6);
    assert_false(t.model.tied);
    assert_true(tiny_noted(&t, "\"vocab_size\" is absent, 32000 taken (the default of LlamaForCausalLM)"));
    assert_true(tiny_noted(&t, "\"rope_theta\" is absent"));
    assert_true(tiny_noted(&t, "\"rms_norm_eps\" is absent"));
    assert_true(tiny_noted(&t, "\"tie_word_embeddings\" is absent"));
    tiny_end(&t);
    open_tiny(&t, "{\"model_type\": \"qwen3\", \"head_dim\": \"...\"}");
    assert_int_equal(t.model.head_dim, 128); /* of the class, not hidden / heads */
    tiny_end(&t);
}

static void sizes_that_cannot_be(void **state)
{
    static const char *const keys[] = { "vocab_size",          "hidden_size",
                                        "intermediate_size",   "num_hidden_layers",
                                        "num_attention_heads", "max_position_embeddings",
                                        "num_key_value_heads", "head_dim" };
    static const char *const values[] = { "0",     "-1",   "1.5", "4294967296", "1e300",  "-1e300",
                                          "\"8\"", "true", "[8]", "{}",         "5e-324", "9223372036854775807" };
    char more[100];

    (void)state;
    for (size_t i = 0; i < LENGTH(keys); i++)
        for (size_t k = 0; k < LENGTH(values); k++) {
            snprintf(more, sizeof more, "{\"%s\": %s}", keys[i], values[k]);
            refuse(more, k < 6 || k > 9 ? ERR_RANGE : ERR_FORMAT, keys[i]);
        }
}

static void sizes_that_do_not_fit_together(void **state)
{
    (void)state;
    refuse("{\"head_dim\": \"...\", \"num_attention_heads\": 3}", ERR_RANGE, "expected a \"head_dim\"");
    refuse("{\"num_key_value_heads\": 4}", ERR_RANGE, "is not a multiple of \"num_key_value_heads\" 4");
    refuse("{\"num_attention_heads\": 3, \"num_key_value_heads\": 2}", ERR_RANGE, "not a multiple");
    refuse("{\"head_dim\": 65537}", ERR_RANGE, "expected 1 to 65536");
    refuse("{\"num_hidden_layers\": 100001}", ERR_RANGE, "at most 100000");
}

/* Refused before a graph of that size is built: the tensors are few. */
static void more_layers_than_tensors(void **state)
{
    (void)state;
    refuse("{\"num_hidden_layers\": 99999}", ERR_FORMAT,
           "\"num_hidden_layers\" is 99999, but the checkpoint has 21 tensors");
}

static void other_values_that_cannot_be(void **state)
{
    (void)state;
    refuse("{\"hidden_act\": \"gelu\"}", ERR_UNSUPPORTED, "\"hidden_act\" is \"gelu\", expected \"silu\"");
    refuse("{\"hidden_act\": \"x\\ny\"}", ERR_UNSUPPORTED, "\"x?y\"");
    refuse("{\"hidden_act\": 3}", ERR_FORMAT, "\"hidden_act\" is an integer");
    refuse("{\"rms_norm_eps\": -1e-6}", ERR_RANGE, "rms_norm_eps");
    refuse("{\"rms_norm_eps\": 1}", ERR_RANGE, "rms_norm_eps");
    refuse("{\"rms_norm_eps\": \"1e-6\"}", ERR_FORMAT, "rms_norm_eps");
    refuse("{\"attention_bias\": 1}", ERR_FORMAT, "attention_bias");
    refuse("{\"tie_word_embeddings\": \"yes\"}", ERR_FORMAT, "tie_word_embeddings");
    refuse("{\"partial_rotary_factor\": \"half\"}", ERR_FORMAT, "partial_rotary_factor");
    refuse("{\"sliding_window\": -5, \"model_type\": \"mistral\"}", ERR_RANGE, "sliding_window");
    refuse("{\"layer_types\": [\"full_attention\"]}", ERR_FORMAT, "\"layer_types\" has 1 entries");
    refuse("{\"layer_types\": \"full_attention\"}", ERR_FORMAT, "\"layer_types\" is a string, expected a list");
    refuse("{\"layer_types\": [\"full_attention\", \"sliding\\tattention\"]}", ERR_UNSUPPORTED,
           "layer 1 is \"sliding?attention\"");
    refuse("{\"layer_types\": [\"full_attention\", 3]}", ERR_UNSUPPORTED, "layer 1 is an integer");
    refuse("{\"quantization_config\": {\"quant_method\": \"bitsandbytes\"}}", ERR_UNSUPPORTED, "\"bitsandbytes\"");
}

static void biases(void **state)
{
    struct tiny t;

    (void)state;
    open_tiny(&t, "{\"attention_bias\": true, \"mlp_bias\": null}");
    assert_true(t.model.qkv_bias && t.model.o_bias && !t.model.mlp_bias);
    tiny_end(&t);
    open_tiny(&t, "{\"attention_bias\": false, \"mlp_bias\": true}");
    assert_true(!t.model.qkv_bias && !t.model.o_bias && t.model.mlp_bias);
    tiny_end(&t);
    open_tiny(&t, "{\"model_type\": \"qwen2\", \"attention_bias\": false, \"mlp_bias\": true}");
    assert_true(t.model.qkv_bias && !t.model.o_bias && !t.model.mlp_bias);
    tiny_end(&t);
    open_tiny(&t, "{\"model_type\": \"mistral\", \"attention_bias\": true, \"mlp_bias\": true}");
    assert_true(!t.model.qkv_bias && !t.model.o_bias && !t.model.mlp_bias);
    tiny_end(&t);
}

/* ------------------------------------------------------------------------------------------------ rope */

static void assert_json(const json_t *v, const char *expected)
{
    struct str s = { 0 };

    json_print(&s, v, false, true);
    assert_string_equal(s.s, expected);
    str_release(&s);
}

/* Old spelling, new spelling: the same values, as the runtime's config.json wants them. */
static void rope(void **state)
{
    static const struct {
        const char *more, *theta, *scaling, *partial;
    } rows[] = {
        { "{}", "10000.0", "null", "1.0" },
        { "{\"rope_theta\": 500000}", "500000", "null", "1.0" },
        { "{\"rope_scaling\": null}", "10000.0", "null", "1.0" },
        { "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0}}", "10000.0",
          "{\"rope_type\": \"llama3\", \"factor\": 8.0}", "1.0" },
        { "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}", "10000.0",
          "{\"type\": \"linear\", \"factor\": 2, \"rope_type\": \"linear\"}", "1.0" },
        { "{\"model_type\": \"mistral\", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}", "10000.0",
          "{\"type\": \"linear\", \"factor\": 2}", "1.0" },
        { "{\"model_type\": \"qwen2_vl\", \"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [1, 1, 1]}}",
          "10000.0", "{\"type\": \"default\", \"mrope_section\": [1, 1, 1], \"rope_type\": \"default\"}", "1.0" },
        { "{\"partial_rotary_factor\": 0.5}", "10000.0", "null", "0.5" },
        { "{\"partial_rotary_factor\": 1}", "10000.0", "null", "1" },
        { "{\"rope_theta\": \"...\", \"rope_parameters\": {\"rope_theta\": 1e6, \"rope_type\": \"default\"}}",
          "1000000.0", "null", "1.0" },
        { "{\"rope_theta\": \"...\", \"rope_parameters\": {\"rope_theta\": 7}}", "7", "null", "1.0" },
        { "{\"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"rope_theta\": 10000.0}}", "10000.0",
          "{\"rope_type\": \"llama3\", \"factor\": 8.0}", "1.0" },
        { "{\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000, \"partial_rotary_factor\": 0.75}}",
          "10000", "null", "0.75" },
        { "{\"partial_rotary_factor\": 0.5, \"rope_parameters\": {\"rope_type\": \"default\"}}", "10000.0", "null",
          "0.5" },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(rows); i++) {
        struct tiny t;

        open_tiny(&t, rows[i].more);
        assert_json(t.model.rope_theta, rows[i].theta);
        assert_json(t.model.rope_scaling, rows[i].scaling);
        assert_json(t.model.partial_rotary, rows[i].partial);
        assert_true(t.model.partial_rotary_factor == json_number_value(t.model.partial_rotary));
        tiny_end(&t);
    }
}

static void rope_that_cannot_be(void **state)
{
    (void)state;
    refuse("{\"rope_theta\": 0}", ERR_RANGE, "\"rope_theta\" is 0");
    refuse("{\"rope_theta\": -1.5}", ERR_RANGE, "rope_theta");
    refuse("{\"rope_theta\": \"1e6\"}", ERR_FORMAT, "rope_theta");
    refuse("{\"rope_scaling\": \"linear\"}", ERR_FORMAT, "\"rope_scaling\" is a string");
    refuse("{\"rope_parameters\": [1]}", ERR_FORMAT, "\"rope_parameters\" is a list");
    refuse("{\"rope_parameters\": {\"rope_theta\": null}}", ERR_FORMAT, "\"rope_parameters.rope_theta\" is null");
    refuse("{\"rope_parameters\": {\"rope_theta\": 5}}", ERR_FORMAT, "expected one value; remove the wrong one");
    refuse("{\"rope_parameters\": {\"partial_rotary_factor\": []}}", ERR_FORMAT, "partial_rotary_factor");
    refuse("{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1e6}}}", ERR_UNSUPPORTED, "\"full_attention\"");
}

/* ------------------------------------------------------------------------------------------------ windows, tying */

static void windows(void **state)
{
    static const struct {
        const char *more;
        bool noted;
    } rows[] = {
        { "{\"model_type\": \"mistral\"}", false }, /* the default 4096 is beyond 128 positions */
        { "{\"model_type\": \"mistral\", \"sliding_window\": 64}", true },
        { "{\"model_type\": \"mistral\", \"sliding_window\": null}", false },
        { "{\"model_type\": \"mistral\", \"sliding_window\": 128}", false },
        { "{\"model_type\": \"mistral\", \"max_position_embeddings\": 8192}", true },
        { "{\"model_type\": \"mistral\", \"sliding_window\": 64, \"layer_types\": [\"full_attention\", "
          "\"full_attention\"]}",
          false },
        { "{\"model_type\": \"qwen2\", \"sliding_window\": 64}", false },
        { "{\"model_type\": \"qwen2\", \"sliding_window\": 64, \"use_sliding_window\": true}", false },
        { "{\"model_type\": \"qwen2\", \"sliding_window\": 64, \"use_sliding_window\": true, \"max_window_layers\": 2}",
          false },
        { "{\"model_type\": \"qwen2\", \"sliding_window\": 64, \"use_sliding_window\": true, \"max_window_layers\": 1}",
          true },
        { "{\"model_type\": \"mistral\", \"sliding_window\": 64, \"max_window_layers\": 2}", true },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(rows); i++) {
        struct tiny t;
        struct err e = { 0 };

        open_tiny(&t, rows[i].more);
        if (tiny_noted(&t, "sliding window of") != rows[i].noted)
            fail_msg("%s: %snoted", rows[i].more, rows[i].noted ? "not " : "");
        assert_int_equal(notes_strict(&t.notes, &e), rows[i].noted ? -1 : 0);
        tiny_end(&t);
    }
}

/* "max_window_layers" is 28 in the classes of Qwen2 and Qwen3 and 80 in those of the VLs: layers before it see all. */
static void window_of_later_layers(void **state)
{
    static const struct {
        const char *type;
        unsigned full; /* layers */
    } rows[] = { { "qwen2", 28 }, { "qwen3", 28 }, { "qwen2_vl", 80 }, { "qwen2_5_vl", 80 } };

    (void)state;
    for (size_t i = 0; i < LENGTH(rows); i++)
        for (unsigned more = 0; more < 2; more++) {
            struct tiny t;
            char config[200];

            tiny_begin(&t);
            tiny_decoder(&t, "model.", rows[i].full + more, TINY_BIAS);
            snprintf(config, sizeof config,
                     "{\"model_type\": \"%s\", \"sliding_window\": 64, \"use_sliding_window\": true, "
                     "\"num_hidden_layers\": %u}",
                     rows[i].type, rows[i].full + more);
            assert_int_equal(tiny_open(&t, config), 0);
            assert_int_equal(tiny_noted(&t, "sliding window of"), more);
            tiny_end(&t);
        }
}

static void deepstack(void **state)
{
    struct tiny t;

    (void)state;
    refuse("{\"model_type\": \"qwen3_vl\"}", ERR_RANGE,
           "\"num_hidden_layers\" is 2, expected at least 3: qwen3_vl adds features of the image behind each of its "
           "first 3 layers");
    refuse("{\"model_type\": \"qwen3_omni\"}", ERR_RANGE, "expected at least 3");
    tiny_begin(&t); /* a draft has one layer and sees no image */
    tiny_draft(&t);
    assert_int_equal(
        tiny_open_as(&t, "{\"model_type\": \"qwen3_vl\", \"num_hidden_layers\": 1, \"draft_vocab_size\": 35}", true),
        0);
    assert_int_equal(t.model.deepstack, 0);
    tiny_end(&t);
}

static void tying(void **state)
{
    struct tiny t;

    (void)state;
    open_tiny(&t, "{\"tie_word_embeddings\": false, \"text_config\": {\"tie_word_embeddings\": true}}");
    assert_true(t.model.tied);
    assert_true(tiny_noted(&t, "the one in text_config rules"));
    tiny_end(&t);
    open_tiny(&t, "{\"tie_word_embeddings\": \"...\", \"text_config\": {\"tie_word_embeddings\": true}}");
    assert_true(t.model.tied);
    assert_int_equal(t.notes.n, 0);
    tiny_end(&t);
}

/* ------------------------------------------------------------------------------------------------ names */

static void prefixes(void **state)
{
    static const char *const known[] = { "model.",
                                         "model.language_model.",
                                         "language_model.model.",
                                         "language_model.",
                                         "model.text_model.",
                                         "thinker.model.",
                                         "" };

    (void)state;
    for (size_t i = 0; i < LENGTH(known); i++) {
        struct tiny t;
        const struct tensor *w;
        char full[100];

        tiny_begin(&t);
        tiny_decoder(&t, known[i], 2, 0);
        assert_int_equal(tiny_open(&t, "{}"), 0);
        assert_string_equal(t.model.prefix, known[i]);
        assert_string_equal(t.model.head_name, "lm_head.weight");
        snprintf(full, sizeof full, "%slayers.1.mlp.up_proj.weight", known[i]);
        w = model_weight(&t.model, "layers.1.mlp.up_proj.weight", INTER, HIDDEN);
        assert_string_equal(w->name, full);
        assert_ptr_equal(w, model_source(&t.model, "layers.1.mlp.up_proj.weight"));
        assert_int_equal(model_check(&t.model, &t.e), 0);
        tiny_end(&t);
    }
}

static void two_decoders_or_none(void **state)
{
    struct tiny t;

    (void)state;
    tiny_begin(&t);
    tiny_decoder(&t, "model.", 2, TINY_TIED);
    tiny_decoder(&t, "language_model.model.", 2, TINY_TIED);
    assert_int_equal(tiny_open(&t, "{}"), -1);
    assert_words(t.e.msg, "under \"model.\" and another under \"language_model.model.\"");
    tiny_end(&t);
    tiny_begin(&t);
    tiny_tensor(&t, "transformer\\n.wte", "F16", 4, 4);
    assert_int_equal(tiny_open(&t, "{}"), -1);
    assert_words(t.e.msg, "no text decoder found");
    assert_words(t.e.msg, "found 1 tensors, the first is \"transformer?.wte\"");
    tiny_end(&t);
}

/* Two of three landmarks are enough: the third is missing under the right name. */
static void prefix_of_an_incomplete_decoder(void **state)
{
    struct tiny t;

    (void)state;
    tiny_begin(&t);
    tiny_tensor(&t, "thinker.model.embed_tokens.weight", "F16", VOCAB, HIDDEN);
    tiny_tensor(&t, "thinker.model.norm.weight", "F16", HIDDEN, 0);
    assert_int_equal(tiny_open(&t, "{\"num_hidden_layers\": 1}"), 0);
    assert_string_equal(t.model.prefix, "thinker.model.");
    model_weight(&t.model, "layers.0.input_layernorm.weight", HIDDEN, 0);
    assert_int_equal(model_check(&t.model, &t.e), -1);
    assert_words(t.e.msg, "\n  thinker.model.layers.0.input_layernorm.weight is missing");
    tiny_end(&t);
}

static void heads(void **state)
{
    static const char *const known[] = { "lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight",
                                         "thinker.lm_head.weight" };

    (void)state;
    for (size_t i = 0; i < LENGTH(known); i++) {
        struct tiny t;

        tiny_begin(&t);
        tiny_decoder(&t, "model.", 2, TINY_TIED);
        tiny_tensor(&t, known[i], "F16", VOCAB, HIDDEN);
        assert_int_equal(tiny_open(&t, "{}"), 0);
        assert_string_equal(model_source(&t.model, "lm_head.weight")->name, known[i]);
        assert_string_equal(model_weight(&t.model, "lm_head.weight", VOCAB, HIDDEN)->name, known[i]);
        assert_int_equal(model_check(&t.model, &t.e), 0);
        tiny_end(&t);
    }
}

/* Canonical names to tensors; a tied head is the embedding even where the file has a head too. */
static void sources(void **state)
{
    struct tiny t;

    (void)state;
    open_tiny(&t, "{\"tie_word_embeddings\": true}");
    assert_string_equal(model_source(&t.model, "lm_head.weight")->name, "model.embed_tokens.weight");
    assert_string_equal(model_source(&t.model, "norm.weight")->name, "model.norm.weight");
    assert_null(model_source(&t.model, "layers.2.input_layernorm.weight"));
    assert_null(model_source(&t.model, "model.norm.weight"));
    assert_null(model_source(&t.model, ""));
    tiny_end(&t);
    tiny_begin(&t);
    tiny_decoder(&t, "model.", 2, TINY_TIED);
    assert_int_equal(tiny_open(&t, "{}"), 0);
    assert_null(model_source(&t.model, "lm_head.weight")); /* not tied, and not there */
    model_weight(&t.model, "lm_head.weight", VOCAB, HIDDEN);
    assert_int_equal(model_check(&t.model, &t.e), -1);
    assert_words(t.e.msg, "\n  lm_head.weight is missing");
    tiny_end(&t);
}

static void drafts(void **state)
{
    struct tiny t;

    (void)state;
    tiny_begin(&t);
    tiny_draft(&t);
    assert_int_equal(tiny_open_as(&t, "{\"draft_vocab_size\": 35, \"num_hidden_layers\": 40}", true), 0);
    assert_int_equal(t.model.layers, 1);
    assert_true(tiny_noted(&t, "\"num_hidden_layers\" is 40, but the file has 1; the file rules"));
    assert_string_equal(model_source(&t.model, "layers.0.hidden_norm.weight")->name, "midlayer.hidden_norm.weight");
    assert_int_equal(t.model.target_hidden_size, HIDDEN);
    tiny_end(&t);
    tiny_begin(&t);
    tiny_draft(&t);
    assert_int_equal(tiny_open(&t, "{}"), -1); /* as a base model */
    assert_words(t.e.msg, "no text decoder found");
    tiny_end(&t);
}

static void patterns(void **state)
{
    static const char *const rows[][2] = {
        { "model.layers.0.mlp.up_proj.weight", "model.layers.N.mlp.up_proj.weight" },
        { "model.layers.127.mlp.experts.3.w1", "model.layers.N.mlp.experts.N.w1" },
        { "12", "N" },
        { "0.weight", "N.weight" },
        { "weight.7", "weight.N" },
        { "1.2.3", "N.N.N" },
        { "v2.layer1.x", "v2.layer1.x" },
        { "a.1b.c", "a.1b.c" },
        { "a..1.", "a..N." },
        { "", "" },
        { ".", "." },
    };
    struct arena a = { 0 };

    (void)state;
    for (size_t i = 0; i < LENGTH(rows); i++)
        assert_string_equal(name_pattern(&a, rows[i][0]), rows[i][1]);
    arena_release(&a);
}

/* ------------------------------------------------------------------------------------------------ missing, unfit,
 * unused */

static void missing_and_unfit(void **state)
{
    struct tiny t;
    const struct tensor *w;

    (void)state;
    tiny_begin(&t);
    tiny_decoder(&t, "model.", 1, 0);
    tiny_tensor(&t, "model.layers.0.three", "F16", 2, 3);
    tiny_tensor(&t, "model.layers.0.strange", "X\\n9", 0, 0);
    tiny_tensor(&t, "model.layers.0.bytes", "I8", 5, 0);
    assert_int_equal(tiny_open(&t, "{\"num_hidden_layers\": 1}"), 0);
    for (unsigned i = 1; i < 30; i++)
        model_weight(&t.model, arena_printf(&t.arena, "layers.%u.self_attn.q_proj.weight", i), 12, 8);
    w = model_weight(&t.model, "layers.0.three", 3, 2);
    assert_int_equal(w->rank, 2);
    assert_int_equal(w->shape[0], 3); /* a stand-in of the right shape */
    assert_int_equal(w->shape[1], 2);
    model_weight(&t.model, "layers.0.three", 2, 0);
    model_weight(&t.model, "layers.0.bytes", 5, 0);
    model_weight(&t.model, "layers.0.strange", 0, 0);
    model_weight(&t.model, "norm.weight", HIDDEN, 0); /* nothing wrong with this one */
    assert_int_equal(model_check(&t.model, &t.e), -1);
    assert_int_equal(t.e.kind, ERR_FORMAT);
    assert_words(t.e.msg, ": 33 needed tensors are missing or unfit, so nothing was written");
    assert_words(t.e.msg, "\n  model.layers.N.self_attn.q_proj.weight (29 of them, first "
                          "model.layers.1.self_attn.q_proj.weight) is missing\n");
    assert_words(t.e.msg, "\n  model.layers.0.three has shape [2, 3], expected [3, 2]\n");
    assert_words(t.e.msg, "\n  model.layers.0.three has shape [2, 3], expected [2]\n");
    assert_words(t.e.msg, "\n  model.layers.0.bytes is stored as I8, expected F32, BF16 or F16\n");
    assert_words(t.e.msg, "is stored as \"X?9\"");
    tiny_end(&t);
}

/* At most ERR_LINES lines, however many kinds there are; and quickly. */
static void many_kinds(void **state)
{
    enum { KINDS = 30000 };
    struct tiny t;
    unsigned lines = 0;

    (void)state;
    open_tiny(&t, "{}");
    for (unsigned i = 0; i < KINDS; i++)
        model_weight(&t.model, arena_printf(&t.arena, "x%u", i), 1, 0);
    model_weight(&t.model, "x3", 1, 0);
    assert_int_equal(model_check(&t.model, &t.e), -1);
    for (const char *p = t.e.msg; (p = strchr(p, '\n')); p++)
        lines++;
    assert_int_equal(lines, ERR_LINES + 1);
    assert_words(t.e.msg, "\n  model.x3 (2 of them, first model.x3) is missing");
    assert_words(t.e.msg, "\n  and 29980 more");
    tiny_end(&t);
}

static void nothing_wrong(void **state)
{
    struct tiny t;

    (void)state;
    open_tiny(&t, "{}");
    assert_int_equal(model_check(&t.model, &t.e), 0);
    tiny_end(&t);
}

static void unused(void **state)
{
    struct unused_group *group;
    struct tiny t;
    size_t n;

    (void)state;
    tiny_begin(&t);
    tiny_decoder(&t, "model.", 2, 0);
    tiny_tensor(&t, "model.layers.2.mlp.up_proj.weight", "F16", 2, 2);
    tiny_tensor(&t, "model.layers.3.mlp.up_proj.weight", "F32", 2, 2);
    tiny_tensor(&t, "visual.blocks.0.w", "I8", 3, 0);
    assert_int_equal(tiny_open(&t, "{}"), 0);
    assert_int_equal(tiny_build(&t, &(struct decoder_mode){ 0 }), 0);
    model_unused(&t.model, &t.arena, &group, &n);
    assert_int_equal(n, 3);
    assert_string_equal(group[0].pattern, "model.embed_tokens.weight"); /* the graph has none of it */
    assert_string_equal(group[1].pattern, "model.layers.N.mlp.up_proj.weight");
    assert_int_equal(group[1].tensors, 2);
    assert_int_equal(group[1].bytes, 8 + 16);
    assert_string_equal(group[2].pattern, "visual.blocks.N.w");
    assert_int_equal(group[2].bytes, 3);
    tiny_end(&t);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_family),
        TEST(families_differ),
        TEST(nested_text_model),
        TEST(unknown_families),
        TEST(sizes_are_read),
        TEST(defaults),
        TEST(sizes_that_cannot_be),
        TEST(sizes_that_do_not_fit_together),
        TEST(more_layers_than_tensors),
        TEST(other_values_that_cannot_be),
        TEST(biases),
        TEST(rope),
        TEST(rope_that_cannot_be),
        TEST(windows),
        TEST(window_of_later_layers),
        TEST(deepstack),
        TEST(tying),
        TEST(prefixes),
        TEST(two_decoders_or_none),
        TEST(prefix_of_an_incomplete_decoder),
        TEST(heads),
        TEST(sources),
        TEST(drafts),
        TEST(patterns),
        TEST(missing_and_unfit),
        TEST(many_kinds),
        TEST(nothing_wrong),
        TEST(unused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
