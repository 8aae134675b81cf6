/* model.h - what kind of model a checkpoint is, and where its weights are.
 *
 * config.json is read once, old and new spellings alike, into one struct; the
 * family table (families.c) says what the file leaves to the architecture.  The
 * tensors' prefix is probed, not derived from the family, because the same
 * weights are published under several.  Names here are canonical: relative to
 * the decoder ("layers.0.self_attn.q_proj.weight", "norm.weight"), plus
 * "lm_head.weight".  Facts: section 1, 4 and 6 of the TensorRT Edge-LLM 0.5.0
 * contract; class defaults as in transformers 4.57. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H
#include <jansson.h>
#include "base/arena.h"
#include "base/notes.h"
#include "checkpoint/checkpoint.h"
#include "model/int4.h"

enum bias { BIAS_NEVER, BIAS_ALWAYS, BIAS_ATTENTION_KEY /* "attention_bias" */, BIAS_MLP_KEY /* "mlp_bias" */ };

struct family {               /* a row of families[]; facts only */
    const char *model_type;   /* in the source's config.json */
    const char *architecture; /* its class, when model_type is absent */
    const char *config_class; /* "model" in the exported config.json */
    enum bias qkv_bias, o_bias, mlp_bias;
    const char *text_key;  /* where config.json nests the text model, outer key first: "thinker_config.text_config";
                              NULL: nowhere */
    bool wraps;            /* only a wrapper: the text model is of the family that its own model_type names */
    bool vision;           /* the chat template takes images */
    const char *template;  /* processed_chat_template.json that its runtime is given; NULL: render the model's */
    unsigned deepstack;    /* inputs deepstack_embeds_0.., each added after a layer */
    bool fused;            /* qkv_proj and gate_up_proj are one linear each */
    bool mrope_is_default; /* rope_scaling.type "mrope" is spelled "default" in the output */
    bool qk_norm;          /* per-head RMSNorm of q and k */
    bool names_rope_type;  /* its class copies rope_scaling.type to rope_type */
    bool window_by_switch; /* sliding_window counts only with use_sliding_window, from a layer on */
    struct family_defaults {
        uint64_t vocab_size, hidden_size, intermediate_size, layers, heads;
        uint64_t kv_heads; /* 0: as many as heads */
        uint64_t head_dim; /* 0: hidden_size / heads */
        uint64_t max_position;
        uint64_t sliding_window; /* 0: none */
        uint64_t window_from;    /* with window_by_switch: the layer that "max_window_layers" is by default */
        double rms_norm_eps, rope_theta;
        bool tied;
    } defaults;
};

extern const struct family families[];
extern const size_t families_n;

#define INT4_GROUP_ALL UINT64_MAX /* one scale for all inputs of an output: "group_size": -1 */

struct quantization { /* what the checkpoint's config says of it; zero: nothing, weights are plain */
    const struct stored_format *format;
    const char *file;   /* of the directory, for messages: "config.json" */
    uint64_t group;     /* inputs that share a scale; INT4_GROUP_ALL; 0: not said */
    unsigned zero_add;  /* zero points are stored less this, by the label of the format */
    bool not_symmetric; /* "sym" and the like say so */
};

struct model {
    const struct family *family;
    const struct checkpoint *ckpt;
    struct arena *arena;
    uint64_t vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, max_position;
    double rms_norm_eps, partial_rotary_factor;
    json_t *rope_theta, *rope_scaling; /* as they go to the exported config.json; rope_scaling may be null */
    json_t *partial_rotary;            /* as spelled in the source, or 1.0 */
    bool tied, qkv_bias, o_bias, mlp_bias;
    bool draft; /* an EAGLE3 draft: its layers see the tokens beside the base's hidden states */
    bool fc_bias;
    unsigned deepstack;                            /* of the family; a draft has none */
    uint64_t draft_vocab_size, target_hidden_size; /* of a draft */
    bool vision;                                   /* of the family or its wrapper */
    const json_t *text;                            /* the object of config.json that describes the text model */
    const char *prefix;    /* of the decoder's tensors in the file: "model.", "model.language_model.", "", ... */
    const char *head_name; /* of the lm_head tensor in the file; NULL when tied or absent */
    struct quantization quantization;
    enum zero_points zero_points; /* the user's wish; zero: exact */
    struct int4_stats int4;       /* of the linears that were asked for, which are: */
    struct int4_linear {
        const char *module;
        const struct int4 *q;
    } * int4_linear;
    size_t int4_n, int4_cap;
    bool *used;         /* by tensor index: asked for by model_weight */
    struct want *wrong; /* asked for, and missing or unfit */
    size_t wrong_n, wrong_cap;
};

/* Reads config.json (c->config) and probes names. Refuses unknown families, quantizations, activations and layer types
 * by name; reads no weights. Choices and doubts go to notes. */
int model_open(struct model *m, const struct checkpoint *c, struct arena *a, struct notes *notes, struct err *e);
/* Does a checkpoint look like an EAGLE3 draft, by its config.json or its tensors? */
bool model_is_draft(const struct checkpoint *c);
/* The same for an EAGLE3 draft's directory; the layers in the file rule over num_hidden_layers. */
int model_open_draft(struct model *m, const struct checkpoint *c, struct arena *a, struct notes *notes, struct err *e);
/* A draft's d2t as int32 offsets [draft_vocab_size], checked against vocab_size; zeros when it has none and needs none.
 */
int model_d2t(struct model *m, int32_t **d2t, struct err *e);
/* Reads a list (I64 or I32) of such offsets into d2t[t->elements], each of which must stay within the vocabulary.
 * `where` is its place for messages. */
int d2t_read(const struct checkpoint *c, const struct tensor *t, uint64_t vocab, const char *where, int32_t *d2t,
             struct err *e);
/* "vocab_size" of a model's config.json, from where its family keeps it; `path` is for messages. */
int model_vocab_size(const json_t *config, const char *path, uint64_t *vocab, struct err *e);
void model_close(struct model *m);

/* The tensor of a canonical name, which must have this shape (rank 1: d1 = 0) and a dtype that casts to fp16.  Never
 * NULL: what is missing or wrong is remembered, a stand-in of the right shape is returned, and model_check tells all of
 * it. */
const struct tensor *model_weight(struct model *m, const char *name, uint64_t d0, uint64_t d1);
/* The same without expectations; lm_head is the embedding when tied. NULL: not there. */
const struct tensor *model_source(const struct model *m, const char *name);
int model_check(const struct model *m, struct err *e);

/* Scales {k, v} of layer i's FP8 cache: the calibrated maximum (ModelOpt's `..._bmm_quantizer._amax`, a scalar) /
 * 448, 1.0 where there is none.  Reads those scalars, the only weights that the deciding half looks at. */
int model_kv_scale(struct model *m, unsigned layer, float scale[2], struct err *e);
bool model_kv_calibrated(const struct model *m);

/* How a linear layer is stored in the file: [out, in], bias or none. */
struct linear {
    const char *module;          /* canonical: "layers.0.self_attn.q_proj" */
    uint64_t in, out;            /* features */
    const struct tensor *weight; /* [out, in]; NULL where it is quantized */
    const int32_t *rows;         /* which of its rows are meant, [out]; NULL: all */
    struct int4 *int4;           /* NULL: plain */
    const struct tensor *bias;   /* [out] or NULL */
};
/* Reads zero points and g_idx of a quantized linear. Fails when they cannot be read. */
int model_linear(struct model *m, struct linear *l, const char *module, uint64_t in, uint64_t out, bool bias,
                 struct err *e);

/* A 4-bit linear that model_linear has given, by its module; NULL: none. */
const struct int4 *model_int4(const struct model *m, const char *module);

struct stored_format {
    const char *name;         /* for people */
    const char *quant_method; /* in config.json's quantization_config; NULL: none */
    const char *packed;       /* what a linear stored so has: ".qweight" */
    /* Takes what it needs of the quantization config, or refuses it. */
    int (*read)(struct model *m, const json_t *config, struct notes *notes, struct err *e);
    void (*load)(struct model *m, struct linear *l); /* of module, in and out: the rest but bias */
};
extern const struct stored_format stored_formats[];
extern const size_t stored_formats_n;
/* Which row reads the checkpoint: sets m->quantization. Refuses by name what none does: a quantization_config, the
 * packed tensors of a quantizer, or a quantizer whose tensors are not there. */
int stored_choose(struct model *m, struct notes *notes, struct err *e);

/* Tensors of the checkpoint that nobody asked for, grouped: numbers in names become N. */
struct unused_group {
    const char *pattern;
    uint64_t tensors, bytes;
};
void model_unused(const struct model *m, struct arena *a, struct unused_group **group, size_t *n);
/* "model.layers.N.mlp.up_proj.weight" */
const char *name_pattern(struct arena *a, const char *name);

#endif
