/* dialect.h - how a target spells what every decoder has.
 *
 * decoder.c walks the layers once, for all families and targets; a dialect says
 * which nodes a norm, a linear, attention and the head become, and in which
 * order initializers stand in the file.  To add a target: dialect_x.c and a row
 * in dialects[]. */
#ifndef GRAPH_DIALECT_H
#define GRAPH_DIALECT_H
#include "graph/graph.h"
#include "model/model.h"
#include "model/vocab_map.h"

struct decoder_mode {   /* what is built of a model; zero: a plain decoder */
    bool eagle_base;    /* tree attention, and the hidden states that an EAGLE3 draft reads */
    unsigned hidden[3]; /* with eagle_base: which states, 0 = the input of layer 0, layers = the normed output */
    const struct vocab_map *vocab; /* rows of lm_head that are kept; NULL: all */
    struct adapter *merge;         /* is added to the linears that it names, and takes note of them; NULL: none */
    bool fp8_kv_cache;             /* keys and values in FP8, with scales per layer */
};
/* The rule of the exporter that we replace for `hidden`; fails on fewer than 3 layers. */
int decoder_eagle_layers(struct decoder_mode *mode, uint64_t layers, struct err *e);

struct decoder { /* the state of one walk */
    struct graph *g;
    struct model *m;
    const struct dialect *d;
    struct err *e;
    /* graph inputs that later nodes need; which of them exist is the dialect's business */
    struct scope root;          /* nodes outside any module; one for the whole walk, so that names do not repeat */
    const char *path, *weights; /* of the decoder: node paths "/model", weight names "model."; of a draft: "" */
    bool tree;                  /* tree attention: EAGLE base or draft */
    const struct value *tokens; /* embedded */
    const struct value *hidden_base, *hidden_draft; /* inputs of a draft */
    const struct value *deepstack[8];
    const struct value *context_lengths, *rope, *cache_start, *last_token_ids, *mask, *positions;
    const struct value **past; /* by layer */
    const struct value **present;
    const struct decoder_mode *mode;
    const struct value **state; /* layers + 1: the input of each layer, and the normed output */
};

struct dialect {
    const char *target;  /* --target */
    const char *version; /* "edgellm_version" of its config.json */
    const char *producer, *producer_version;
    int64_t ir_version;
    const struct opset *opset;
    size_t opset_n;
    uint64_t external_from; /* initializers of this many bytes and more go to the data file */
    const char *data_file;
    /* Declares the graph's inputs in their order; gives the embedded tokens [B, S, hidden]. */
    const struct value *(*inputs)(struct decoder *w);
    /* RMSNorm of the last axis; `path` is the module ("/model/norm"), `name` its canonical weight. */
    const struct value *(*norm)(struct decoder *w, const char *path, const char *name, const struct value *x,
                                uint64_t width);
    /* The residual stream: x + delta. */
    const struct value *(*add)(struct decoder *w, struct scope *layer, const struct value *x,
                               const struct value *delta);
    const struct value *(*linear)(struct decoder *w, const char *path, const struct linear *l, const struct value *x);
    /* From the normed layer input to the input of o_proj. */
    const struct value *(*attention)(struct decoder *w, unsigned layer, const struct value *x);
    const struct value *(*silu_mul)(struct decoder *w, struct scope *mlp, const struct value *gate,
                                    const struct value *up);
    /* Columns from..to of the last axis of [B, S, width]. */
    const struct value *(*slice)(struct scope *s, const struct value *x, uint64_t from, uint64_t to);
    /* An EAGLE3 draft's first state, from the base's hidden states and its own; and its outputs. */
    const struct value *(*draft_start)(struct decoder *w);
    void (*draft_head)(struct decoder *w, const struct value *x);
    const struct value *(*beside)(struct scope *s, const struct value *a,
                                  const struct value *b); /* joined on the last axis */
    /* Picks the tokens that are asked for, applies lm_head, declares all outputs. */
    void (*head)(struct decoder *w, const struct value *x);
    /* Place of an initializer in the file. */
    uint64_t (*order)(const char *name);
};

extern const struct dialect *const dialects[];
extern const size_t dialects_n;
const struct dialect *dialect_find(const char *target); /* NULL: unknown */

/* The graph of a model in a dialect. Initializers are in their final order. Missing weights show in model_check, which
 * the caller asks next. */
int decoder_build(struct graph *g, struct model *m, const struct dialect *d, const struct decoder_mode *mode,
                  struct arena *a, struct err *e);

/* For dialects: the initializer of a weight, cast to fp16, and transposed to [in, out] where it is a linear's. */
const struct value *weight_vector(struct decoder *w, const char *name, uint64_t n);
const struct value *weight_matrix(struct decoder *w, const char *name, const struct linear *l);
const struct value *weight_bias(struct decoder *w, const char *name, const struct tensor *t);
/* Of a quantized linear: fp16 [groups, out]. */
const struct value *weight_scales(struct decoder *w, const char *name, const struct int4 *q);
/* An initializer whose values are known, or that is no cast or transpose of one tensor. */
const struct value *decoder_constant(struct decoder *w, const char *name, const struct recipe *r);
/* "lm_head", or the embedding again when tied: [vocab, hidden], or the rows of a reduced vocabulary. */
void decoder_head(struct decoder *w, struct linear *l);

/* Linear block.proj of layer i ("self_attn", "q_proj": node path "/model/layers.i/self_attn/q_proj") applied to x. */
const struct value *decoder_linear(struct decoder *w, unsigned i, const char *block, const char *proj,
                                   const struct value *x, uint64_t in, uint64_t out, bool bias);

/* A linear beside the layers, as a draft's "fc". */
const struct value *decoder_module(struct decoder *w, const char *module, const struct value *x, uint64_t in,
                                   uint64_t out, bool bias);

extern const struct dialect dialect_edgellm05;

#endif
