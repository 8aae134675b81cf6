/* roles.h - which weight an initializer must be, from how the graph uses it.
 *
 * Follows the data backwards from `logits` to `inputs_embeds`: the MatMul before
 * the logits is lm_head, the constant of the norm before it is norm.weight, and
 * so on through the layers.  Names of nodes and initializers are not looked at,
 * so that swapped or renamed weights show; nor is anything that the exporter's
 * own code built. */
#ifndef FRONT_ROLES_H
#define FRONT_ROLES_H
#include "base/arena.h"
#include "emit/onnx_read.h"

enum role_kind {
    ROLE_VECTOR,
    ROLE_MATRIX,   /* a linear's: [in, out], the transpose of the checkpoint's */
    ROLE_KV_SCALE, /* of a layer's FP8 cache: worked out, not a tensor of the checkpoint */
    /* of a 4-bit linear: */
    ROLE_PACK4,
    ROLE_SCALES,
    ROLE_ZEROS, /* what is added for zero points */
    ROLE_ORDER, /* of its inputs */
};

struct role {
    const char *weight; /* canonical: "layers.0.self_attn.q_proj.weight", of a 4-bit linear the module; NULL: the walk
                           did not come to it */
    enum role_kind kind;
    unsigned layer;
};

/* One role for each initializer of the graph, and the number of layers. Fails where the graph is not that of a decoder.
 */
int roles_find(const Onnx__GraphProto *g, struct role **role, unsigned *layers, struct arena *a, struct err *e);

#endif
