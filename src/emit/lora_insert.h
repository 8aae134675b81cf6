/* lora_insert.h - makes room for LoRA adapters in a finished graph.
 *
 * Every linear gets two graph inputs, behind all that the graph has:
 *
 *     {module}.lora_A.weight  fp16 [k, {module}.rank]
 *     {module}.lora_B.weight  fp16 [{module}.rank, n]
 *
 * and y becomes y + (x A) B, before a bias is added.  The sum takes over the
 * name y, and what the linear gives gets a new one: so no consumer changes, and
 * none can get its inputs in another order.  Whatever else the model holds,
 * fields unknown here too, stays as it is. */
#ifndef EMIT_LORA_INSERT_H
#define EMIT_LORA_INSERT_H
#include <stdbool.h>
#include "base/arena.h"
#include "base/err.h"
#include "emit/onnx.pb-c.h"

#define LORA_MODEL "lora_model.onnx" /* what the graph is called, beside model.onnx */

struct lora_place {
    const char *module; /* "model.layers.0.self_attn.q_proj" */
    uint64_t k, n;      /* inputs and outputs of the linear */
    size_t node;        /* of the graph as it was */
    bool int4;          /* Int4GroupwiseGemmPlugin; else a MatMul with a constant */
};

struct lora_places { /* in the order of the graph inputs: quantized linears first, then plain ones */
    struct lora_place *v;
    size_t n;
};

/* Fails on a graph without linears, with LoRA inputs already, or with a linear whose module cannot be told from its
 * node's name; then nothing was changed. Names in `done` live in the arena. */
int lora_insert(Onnx__ModelProto *m, struct lora_places *done, struct arena *a, struct err *e);

#endif
