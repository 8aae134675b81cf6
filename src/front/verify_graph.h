/* verify_graph.h - inside the front folder: a graph as it was found against the one that it should be. */
#ifndef FRONT_VERIFY_GRAPH_H
#define FRONT_VERIFY_GRAPH_H
#include "emit/onnx_read.h"
#include "front/differences.h"

struct graph_pair {
    const char *file;   /* "model.onnx" */
    const char *prefix; /* of each sentence, to tell files apart: "" or "lora_model.onnx: " */
    const char *source; /* what gives the expected one: "the checkpoint" */
    const Onnx__ModelProto *found, *expected;
    bool whole; /* also inline bytes, and whatever this version does not know */
};

/* Nodes, inputs, outputs, value_info, metadata, and the initializers' name, type, dims and place. */
void verify_graph(struct differences *d, const struct graph_pair *p);

#endif
