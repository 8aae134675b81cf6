/* Any bytes as model.onnx: refused with a message, or messages whose every claim is checked before it is used: places
 * of initializers, and roles by the walk over the graph. */
#include "fuzz.h"
#include "emit/onnx_read.h"
#include "front/roles.h"
#include <string.h>

static void require_message(struct err *e)
{
    REQUIRE(e->kind != ERR_NONE && e->msg[0] && !strchr(e->msg, '\n'));
    *e = (struct err){ 0 };
}

static void check_place(const Onnx__TensorProto *t)
{
    struct err e = { 0 };
    struct onnx_place p;
    uint64_t n;

    if (onnx_elements(t, &n, &e))
        require_message(&e);
    if (onnx_place(t, &p, &e)) {
        require_message(&e);
        return;
    }
    REQUIRE(p.bytes == n * dtype_bytes(onnx_dtype(t->data_type)) && p.off + p.bytes >= p.off);
    if (p.external)
        REQUIRE(*p.location && !strchr(p.location, '/') && strcmp(p.location, "..") && strcmp(p.location, "."));
    else
        REQUIRE(p.bytes == t->raw_data.len);
}

static void check_roles(const Onnx__GraphProto *g)
{
    struct arena a = { 0 };
    struct err e = { 0 };
    struct role *role;
    unsigned layers;

    if (roles_find(g, &role, &layers, &a, &e))
        require_message(&e);
    else
        REQUIRE(layers <= g->n_node);
    for (size_t i = 0; i < g->n_initializer; i++)
        REQUIRE(!role[i].weight || (*role[i].weight && role[i].layer <= layers));
    arena_release(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct err e = { 0 };
    Onnx__ModelProto *m = onnx_parse(data, n, "model.onnx", &e);

    if (!m) {
        require_message(&e);
        return 0;
    }
    (void)onnx_has_more(m);
    (void)onnx_metadata(m, "weighbridge.version");
    for (size_t i = 0; i < m->graph->n_initializer; i++)
        check_place(m->graph->initializer[i]);
    check_roles(m->graph);
    onnx_free(m);
    return 0;
}
