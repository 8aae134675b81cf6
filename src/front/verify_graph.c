#include "front/verify_graph.h"
#include "base/arena.h"
#include <stdlib.h>
#include <string.h>

struct list { /* of messages, each named by a function */
    const char *kind;
    void *const *found, *const *expected;
    size_t found_n, expected_n;
    const char *(*name)(const void *);
};

static bool same_bytes(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
    size_t n = protobuf_c_message_get_packed_size(a), m = protobuf_c_message_get_packed_size(b);
    uint8_t *p, *q;
    bool same;

    if (n != m)
        return false;
    p = xmalloc(n);
    q = xmalloc(n);
    protobuf_c_message_pack(a, p);
    protobuf_c_message_pack(b, q);
    same = !memcmp(p, q, n);
    free(p);
    free(q);
    return same;
}

static void compare_list(struct differences *d, const struct graph_pair *p, const struct list *l)
{
    if (l->found_n != l->expected_n)
        differ(d, "graph", l->kind, "%s%s: there are %zu, expected %zu", p->prefix, l->kind, l->found_n, l->expected_n);
    for (size_t i = 0; i < l->found_n && i < l->expected_n; i++)
        if (!same_bytes(l->found[i], l->expected[i]))
            differ(d, "graph", l->name(l->found[i]), "%s%s %s: differs from what %s gives", p->prefix, l->kind,
                   l->name(l->found[i]), p->source);
}

static const char *node_name(const void *p)
{
    return ((const Onnx__NodeProto *)p)->name ? ((const Onnx__NodeProto *)p)->name : "?";
}
static const char *value_name(const void *p)
{
    return ((const Onnx__ValueInfoProto *)p)->name ? ((const Onnx__ValueInfoProto *)p)->name : "?";
}
static const char *meta_name(const void *p)
{
    return ((const Onnx__StringStringEntryProto *)p)->key ? ((const Onnx__StringStringEntryProto *)p)->key : "?";
}
static const char *opset_name(const void *p)
{
    return ((const Onnx__OperatorSetIdProto *)p)->domain ? ((const Onnx__OperatorSetIdProto *)p)->domain : "";
}

/* Name, type, dims and place; the bytes too where the whole is asked for. */
static void compare_heads(struct differences *d, const struct graph_pair *p)
{
    const Onnx__GraphProto *g = p->found->graph, *x = p->expected->graph;

    if (g->n_initializer != x->n_initializer)
        differ(d, "graph", "initializers", "%sinitializers: there are %zu, expected %zu", p->prefix, g->n_initializer,
               x->n_initializer);
    for (size_t i = 0; i < g->n_initializer && i < x->n_initializer; i++) {
        Onnx__TensorProto a = *g->initializer[i], b = *x->initializer[i];

        if (!p->whole)
            a.has_raw_data = b.has_raw_data = 0;
        if (!same_bytes(&a.base, &b.base))
            differ(d, "tensor", onnx_name(&a), "%s%s: name, type, shape or place differ from what %s gives", p->prefix,
                   onnx_name(&a), p->source);
    }
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && !strcmp(a, b)); }

static void compare_model(struct differences *d, const struct graph_pair *p)
{
    const Onnx__ModelProto *m = p->found, *x = p->expected;

    if (!same_text(m->producer_name, x->producer_name) || !same_text(m->producer_version, x->producer_version) ||
        !same_text(m->graph->name, x->graph->name) || m->ir_version != x->ir_version)
        differ(d, "graph", p->file, "%s: producer, IR version or graph name differ from what this version writes",
               p->file);
}

#define LIST(kind, in, field, name)                                                                                    \
    {                                                                                                                  \
        kind, (void *const *)p->found->in field, (void *const *)p->expected->in field, p->found->in n_##field,         \
            p->expected->in n_##field, name                                                                            \
    }

void verify_graph(struct differences *d, const struct graph_pair *p)
{
    const struct list lists[] = {
        LIST("opset", , opset_import, opset_name),   LIST("metadata", , metadata_props, meta_name),
        LIST("node", graph->, node, node_name),      LIST("input", graph->, input, value_name),
        LIST("output", graph->, output, value_name), LIST("value_info", graph->, value_info, value_name),
    };
    size_t before = json_array_size(d->list);

    compare_model(d, p);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        compare_list(d, p, &lists[i]);
    compare_heads(d, p);
    if (p->whole && json_array_size(d->list) == before && !same_bytes(&p->found->base, &p->expected->base))
        differ(d, "graph", p->file, "%s: has other fields than %s gives", p->file, p->source);
}
