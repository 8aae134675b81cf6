/* Any bytes as a model: refused, or every linear has got two inputs and three nodes, and the whole can be read again.
 */
#include "fuzz.h"
#include "emit/lora_insert.h"
#include "emit/onnx_read.h"

static void check_again(const Onnx__ModelProto *m)
{
    size_t n = onnx__model_proto__get_packed_size(m);
    uint8_t *packed = malloc(n + 1);
    Onnx__ModelProto *again;
    struct err e = { 0 };

    REQUIRE(packed && onnx__model_proto__pack(m, packed) == n);
    again = onnx_parse(packed, n, "again", &e);
    REQUIRE(again && again->graph->n_node == m->graph->n_node && again->graph->n_input == m->graph->n_input);
    onnx_free(again);
    free(packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct lora_places places = { 0 };
    struct arena a = { 0 };
    struct err e = { 0 };
    Onnx__ModelProto *m = onnx_parse(data, n, "input", &e);
    size_t nodes = m ? m->graph->n_node : 0, inputs = m ? m->graph->n_input : 0;

    if (m && !lora_insert(m, &places, &a, &e)) {
        REQUIRE(places.n && m->graph->n_node == nodes + 3 * places.n && m->graph->n_input == inputs + 2 * places.n);
        check_again(m);
    } else {
        REQUIRE(e.kind != ERR_NONE && e.msg[0]);
        REQUIRE(!m || (m->graph->n_node == nodes && m->graph->n_input == inputs));
    }
    onnx_free(m);
    arena_release(&a);
    return 0;
}
