/* lora.c - wb_lora_insert: room for LoRA adapters in the graph of an export. */
#include <weighbridge.h>
#include "emit/lora_insert.h"
#include "emit/onnx_read.h"
#include "emit/outdir.h"
#include "front/document.h"
#include "front/front.h"
#include <stdlib.h>
#include <string.h>

enum { MOST = 2147483647 }; /* protobuf readers refuse larger messages */

static int write_model(const char *dir, const Onnx__ModelProto *m, size_t *bytes, struct err *e)
{
    size_t n = onnx__model_proto__get_packed_size(m);
    uint8_t *packed;
    int ret;

    if (n > MOST)
        return err_set(e, ERR_RANGE,
                       "%s/" LORA_MODEL ": would have %zu bytes, more than the 2 GiB that protobuf readers accept", dir,
                       n);
    packed = xmalloc(n + 1);
    onnx__model_proto__pack(m, packed);
    ret = file_replace_whole(dir, LORA_MODEL, packed, n, e);
    free(packed);
    *bytes = n;
    return ret;
}

static json_t *inserted(const char *dir, const struct lora_places *places, size_t bytes)
{
    json_t *o = json_object(), *list = json_array();

    put_text(o, "out", dir);
    put_text(o, "file", LORA_MODEL);
    put_u64(o, "bytes", bytes);
    for (size_t i = 0; i < places->n; i++) {
        const struct lora_place *p = &places->v[i];
        json_t *module = json_object();

        put_text(module, "name", p->module);
        put(module, "shape", document_shape((uint64_t[]){ p->k, p->n }, 2));
        put(module, "int4", json_boolean(p->int4));
        json_array_append_new(list, module);
    }
    put(o, "modules", list);
    return o;
}

int wb_lora_insert(const struct wb_options *o, char **report, struct wb_error *error)
{
    struct lora_places places;
    struct arena a = { 0 };
    struct err e = { 0 };
    Onnx__ModelProto *m = NULL;
    const char *dir, *path;
    size_t bytes = 0;

    if (!o->out || !*o->out) {
        err_set(&e, ERR_USAGE, "no directory of an export was given");
        goto out;
    }
    dir = file_trimmed(o->out, &a); /* "out/" would open through a link */
    path = arena_printf(&a, "%s/model.onnx", dir);
    if (outdir_check_whole(dir, &a, &e) || !(m = onnx_load(path, &e)))
        goto out;
    if (lora_insert(m, &places, &a, &e)) {
        err_at(&e, "%s", path);
        goto out;
    }
    if (!write_model(dir, m, &bytes, &e) && report)
        *report = document_text(inserted(dir, &places, bytes));
out:
    onnx_free(m);
    arena_release(&a);
    return front_result(&e, error);
}
