/* exported.h - the model.onnx of a tiny checkpoint, in memory. */
#ifndef TESTS_EXPORTED_H
#define TESTS_EXPORTED_H
#include "kinds.h"
#include "emit/onnx_file.h"
#include "emit/onnx_read.h"

struct exported {
    struct tiny tiny;
    const struct recipe *embedding; /* NULL for drafts */
    struct layout layout;
    struct inline_tensor *tensor;
    struct str bytes;
    Onnx__ModelProto *onnx; /* read back from them */
};

static const struct metadata exported_meta[] = { { "weighbridge.version", "0" }, { "weighbridge.mode", "x \"y\"" } };

static inline int exported_make(struct exported *x, const struct kind *k)
{
    struct tiny *t = &x->tiny;
    const struct dialect *d = dialects[0];

    *x = (struct exported){ 0 };
    if (kind_build(t, k))
        return -1;
    if (!k->draft)
        x->embedding = recipe_cast(
            &t->arena, recipe_source(&t->arena, model_weight(&t->model, "embed_tokens.weight", VOCAB, HIDDEN)), DT_F16,
            &t->e);
    if (layout_build(&x->layout, &t->graph, d, x->embedding, &t->arena, &t->e) ||
        inline_tensors(&t->graph, d, &t->ckpt, true, &x->tensor, &t->arena, &t->e) ||
        onnx_file(&t->graph, d, &x->layout, x->tensor, exported_meta, 2, &x->bytes, &t->e))
        return -1;
    x->onnx = onnx_parse(x->bytes.s, x->bytes.n, "model.onnx", &t->e);
    return x->onnx ? 0 : -1;
}

static inline void exported_end(struct exported *x)
{
    onnx_free(x->onnx);
    str_release(&x->bytes);
    tiny_end(&x->tiny);
}

#endif
