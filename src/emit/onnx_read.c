#include "emit/onnx_read.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 2147483647 };

Onnx__ModelProto *onnx_load(const char *path, struct err *e)
{
    Onnx__ModelProto *m;
    char *text;
    size_t n;

    if (file_read(path, MOST, &text, &n, e))
        return NULL;
    m = onnx__model_proto__unpack(NULL, n, (const uint8_t *)text);
    free(text);
    if (m && m->graph)
        return m;
    err_set(e, ERR_FORMAT, "%s: is not an ONNX model: %s", path,
            m ? "it has no graph" : "its protobuf encoding is broken");
    onnx_free(m);
    return NULL;
}

void onnx_free(Onnx__ModelProto *m)
{
    if (m)
        onnx__model_proto__free_unpacked(m, NULL);
}

const char *onnx_metadata(const Onnx__ModelProto *m, const char *key)
{
    for (size_t i = 0; i < m->n_metadata_props; i++)
        if (m->metadata_props[i]->key && !strcmp(m->metadata_props[i]->key, key))
            return m->metadata_props[i]->value;
    return NULL;
}

enum dtype onnx_dtype(int data_type)
{
    for (int t = DT_UNKNOWN + 1; t < DT_COUNT; t++)
        if (dtype_onnx((enum dtype)t) == data_type)
            return (enum dtype)t;
    return DT_UNKNOWN;
}

int onnx_elements(const Onnx__TensorProto *t, uint64_t *n, struct err *e)
{
    *n = 1;
    for (size_t i = 0; i < t->n_dims; i++)
        if (t->dims[i] < 0 || __builtin_mul_overflow(*n, (uint64_t)t->dims[i], n))
            return err_set(e, ERR_FORMAT, "%s: dimension %zu is %lld, which no tensor can have",
                           t->name ? t->name : "?", i, (long long)t->dims[i]);
    return 0;
}

static int number(const char *text, uint64_t *v)
{
    char *end;

    errno = 0;
    *v = strtoull(text ? text : "", &end, 10);
    return !text || *text < '0' || *text > '9' || *end || errno;
}

static int external_place(const Onnx__TensorProto *t, struct onnx_place *p, struct err *e)
{
    const char *name = t->name ? t->name : "?";

    for (size_t i = 0; i < t->n_external_data; i++) {
        const Onnx__StringStringEntryProto *x = t->external_data[i];
        int bad = 0;

        if (!x->key || !x->value)
            continue;
        if (!strcmp(x->key, "location"))
            p->location = x->value;
        else if (!strcmp(x->key, "offset"))
            bad = number(x->value, &p->off);
        else if (!strcmp(x->key, "length"))
            bad = number(x->value, &p->bytes);
        if (bad)
            return err_set(e, ERR_FORMAT, "%s: external %s is \"%s\", expected a number", name, x->key, x->value);
    }
    if (!p->location || !*p->location || strchr(p->location, '/') || !strcmp(p->location, ".."))
        return err_set(e, ERR_FORMAT, "%s: external location is \"%s\", expected the name of a file beside model.onnx",
                       name, p->location ? p->location : "");
    return 0;
}

int onnx_place(const Onnx__TensorProto *t, struct onnx_place *p, struct err *e)
{
    const char *name = t->name ? t->name : "?";
    uint64_t n, bytes;

    *p = (struct onnx_place){ .external = t->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL };
    if (onnx_elements(t, &n, e) || (p->external && external_place(t, p, e)))
        return -1;
    if (!p->external)
        p->bytes = t->raw_data.len;
    if (__builtin_mul_overflow(n, dtype_bytes(onnx_dtype(t->data_type)), &bytes) || bytes != p->bytes)
        return err_set(e, ERR_FORMAT, "%s: has %llu bytes, expected %llu for %llu elements of type %d", name,
                       (unsigned long long)p->bytes, (unsigned long long)bytes, (unsigned long long)n, t->data_type);
    return 0;
}
