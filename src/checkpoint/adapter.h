/* adapter.h - a PEFT LoRA adapter: adapter_config.json and adapter_model.safetensors.
 *
 * Opening checks that every tensor is half of a pair A [r, k], B [n, r], and
 * refuses by name whatever would make the pairs mean something else (DoRA, other
 * kinds of adapters, whole modules saved, biases).  Each pair comes with its
 * scale: alpha / r, or alpha / sqrt(r) with rsLoRA, by module where rank_pattern
 * and alpha_pattern say so. */
#ifndef CHECKPOINT_ADAPTER_H
#define CHECKPOINT_ADAPTER_H
#include "checkpoint/checkpoint.h"

#define ADAPTER_CONFIG    "adapter_config.json"
#define ADAPTER_WEIGHTS   "adapter_model.safetensors"
#define ADAPTER_PROCESSED "processed_adapter_model.safetensors" /* as the runtime loads it, beside config.json */

struct adapter_pair {
    const char *module;           /* as the adapter spells it, without "base_model.model." */
    const char *canonical;        /* the same without the decoder's wrappers: "layers.0.self_attn.q_proj", "lm_head" */
    const struct ckpt_file *file; /* that both stand in */
    const struct tensor *a, *b;   /* [r, k], [n, r]; one dtype of F32, BF16, F16 each */
    uint64_t rank;
    double scale;
    bool taken; /* somebody asked for it */
};

struct adapter {
    const char *dir, *config_path;
    json_t *config;
    struct checkpoint file;
    struct adapter_pair *pair; /* sorted by canonical name, each once */
    size_t pairs_n;
    const struct tensor **norm; /* tensors of norms, which are in no pair */
    size_t norms_n;
};

/* Is `dir` an adapter, processed or not, and not a model with an adapter beside it? */
bool adapter_is_there(const char *dir, struct arena *a);
bool adapter_is_processed(const char *dir, struct arena *a);
/* What can be said of a processed adapter: modules and ranks; its scale is in the weights. */
int adapter_open_processed(struct adapter *ad, const char *dir, struct arena *a, struct err *e);
/* Everything lives in the arena but config, which adapter_close gives back; no file stays open. */
int adapter_open(struct adapter *ad, const char *dir, struct arena *a, struct notes *notes, struct err *e);
void adapter_close(struct adapter *ad);

/* "language_model.model.layers.0.mlp.up_proj" -> "layers.0.mlp.up_proj", whichever wrapper of the decoder stands in
 * front; other modules lose a "model." only. A part of `module`. */
const char *adapter_canonical(const char *module);
/* The pair of a canonical name, NULL: there is none; the second one takes it. */
const struct adapter_pair *adapter_find(const struct adapter *ad, const char *canonical);
const struct adapter_pair *adapter_take(struct adapter *ad, const char *canonical);
/* Whether the pair can be merged into this weight [out, in]; where the shapes do not fit both are named. */
int adapter_check_fit(const struct adapter_pair *p, const struct tensor *weight, struct err *e);

#endif
