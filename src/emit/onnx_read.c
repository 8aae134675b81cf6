#include "emit/onnx_read.h"
#include "base/str.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 2147483647, STRUCTS_MOST = 128 << 20 /* a graph of a quarter million nodes */ };

/* Two bytes of a file may become a message of two hundred in memory: what it grows to is bounded. */
struct budget {
    size_t left;
    bool spent;
};

static void *budget_alloc(void *budget, size_t n)
{
    struct budget *b = budget;

    b->spent |= n > b->left;
    if (b->spent)
        return NULL;
    b->left -= n;
    return malloc(n);
}

static void budget_free(void *budget, void *p)
{
    (void)budget;
    free(p);
}

Onnx__ModelProto *onnx_parse(const void *bytes, size_t n, const char *name, struct err *e)
{
    struct budget budget = { n + STRUCTS_MOST, false };
    ProtobufCAllocator allocator = { budget_alloc, budget_free, &budget };
    Onnx__ModelProto *m = onnx__model_proto__unpack(&allocator, n, bytes);

    if (m && m->graph)
        return m;
    err_set(e, ERR_FORMAT, "%s: is not an ONNX model that can be read: %s", name,
            m              ? "it has no graph"
            : budget.spent ? "its graph has far too many parts"
                           : "its protobuf encoding is broken");
    onnx_free(m);
    return NULL;
}

Onnx__ModelProto *onnx_load(const char *path, struct err *e)
{
    Onnx__ModelProto *m;
    char *text;
    size_t n;

    if (file_read(path, MOST, &text, &n, e))
        return NULL;
    m = onnx_parse(text, n, path, e);
    free(text);
    return m;
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

bool onnx_has_more(const Onnx__ModelProto *m) { return m->base.n_unknown_fields || m->graph->base.n_unknown_fields; }

const char *onnx_name(const Onnx__TensorProto *t) { return t->name ? t->name : "?"; }

enum dtype onnx_dtype(int data_type)
{
    for (int t = DT_UNKNOWN + 1; t < DT_COUNT; t++)
        if (dtype_onnx((enum dtype)t) == data_type)
            return (enum dtype)t;
    return DT_UNKNOWN;
}

int onnx_elements(const Onnx__TensorProto *t, uint64_t *n, struct err *e)
{
    char q[STR_QUOTED];

    *n = 1;
    for (size_t i = 0; i < t->n_dims; i++)
        if (t->dims[i] < 0 || __builtin_mul_overflow(*n, (uint64_t)t->dims[i], n))
            return err_set(e, ERR_FORMAT, "%s: dimension %zu is %lld, which no tensor can have",
                           str_quote(q, onnx_name(t)), i, (long long)t->dims[i]);
    return 0;
}

static int number(const char *text, uint64_t *v)
{
    char *end;

    errno = 0;
    *v = strtoull(text, &end, 10);
    return *text < '0' || *text > '9' || *end || errno;
}

/* `bytes`: taken where the length is left out, as ONNX allows. */
static int external_place(const Onnx__TensorProto *t, uint64_t bytes, struct onnx_place *p, struct err *e)
{
    char q[STR_QUOTED], q2[STR_QUOTED];

    p->bytes = bytes;
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
            return err_set(e, ERR_FORMAT, "%s: external %s is %s, expected a number", str_quote(q, onnx_name(t)),
                           x->key, str_quote(q2, x->value));
    }
    if (!p->location || !*p->location || strchr(p->location, '/') || !strcmp(p->location, ".") ||
        !strcmp(p->location, ".."))
        return err_set(e, ERR_FORMAT, "%s: external location is %s, expected the name of a file beside model.onnx",
                       str_quote(q, onnx_name(t)), str_quote(q2, p->location ? p->location : ""));
    return 0;
}

int onnx_place(const Onnx__TensorProto *t, struct onnx_place *p, struct err *e)
{
    char q[STR_QUOTED];
    uint64_t n, bytes, end;
    unsigned size = dtype_bytes(onnx_dtype(t->data_type));

    *p = (struct onnx_place){ .external = t->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL };
    if (onnx_elements(t, &n, e))
        return -1;
    str_quote(q, onnx_name(t));
    if (!size)
        return err_set(e, ERR_UNSUPPORTED, "%s: has ONNX element type %d, which is not known here", q, t->data_type);
    if (__builtin_mul_overflow(n, size, &bytes))
        return err_set(e, ERR_FORMAT, "%s: %llu elements of %u bytes are more than any file holds", q,
                       (unsigned long long)n, size);
    if (p->external && external_place(t, bytes, p, e))
        return -1;
    if (!p->external && n && !t->raw_data.len)
        return err_set(e, ERR_UNSUPPORTED, "%s: has no raw_data; values in other fields are not read here", q);
    if (!p->external)
        p->bytes = t->raw_data.len;
    if (bytes != p->bytes)
        return err_set(e, ERR_FORMAT, "%s: has %llu bytes, expected %llu for %llu elements of %u bytes", q,
                       (unsigned long long)p->bytes, (unsigned long long)bytes, (unsigned long long)n, size);
    if (__builtin_add_overflow(p->off, p->bytes, &end))
        return err_set(e, ERR_FORMAT, "%s: begins at byte %llu, beyond the end of any file", q,
                       (unsigned long long)p->off);
    return 0;
}
