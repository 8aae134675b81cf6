/* graph.h - an ONNX graph in memory: values, nodes, initializers with recipes.
 *
 * Knows ONNX's terms but no file and no byte of a weight.  Everything lives in
 * one arena.  Node names are module paths, values are "<node>_output_0", as
 * torch's exporter names them: a runtime's LoRA loader derives names from them. */
#ifndef GRAPH_GRAPH_H
#define GRAPH_GRAPH_H
#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/dtype.h"
#include "graph/recipe.h"

struct dim {
    const char *name; /* a dynamic axis; NULL: a number */
    uint64_t n;
};

enum { VALUE_RANK_MAX = TENSOR_RANK_MAX }; /* whatever a file may hold */

struct value { /* a tensor that flows along an edge; its shape as far as it is known */
    const char *name;
    enum dtype dtype;
    unsigned rank;
    struct dim dim[VALUE_RANK_MAX];
    bool shaped; /* false: dims are not known, no value_info is written */
};

enum attr_type { ATTR_INT, ATTR_TENSOR };

struct attr {
    const char *name;
    enum attr_type type;
    int64_t i;
    /* ATTR_TENSOR, for Constant nodes: little-endian bytes of at most a few elements */
    enum dtype dtype;
    unsigned rank;
    uint64_t n;
    const void *bytes;
};

struct node {
    const char *name, *op, *domain; /* domain "": ONNX's own */
    const char **in, **out;
    size_t in_n, out_n;
    struct attr *attr;
    size_t attr_n;
};

struct initializer {
    const char *name;
    const struct recipe *recipe; /* gives dtype, shape and bytes */
    uint64_t order;              /* place in the file; unique */
};

struct opset {
    const char *domain;
    int64_t version;
};

struct graph {
    struct arena *arena;
    const char *name;
    const struct opset *opset;
    size_t opset_n;
    struct node *node;
    size_t node_n, node_cap;
    const struct value **input, **output, **inner; /* inner: for value_info */
    size_t input_n, input_cap, output_n, output_cap, inner_n, inner_cap;
    struct initializer *init;
    size_t init_n, init_cap;
};

/* Lists grow by malloc; names and values are the arena's. */
void graph_release(struct graph *g);

/* A module: its nodes are named "<path>/<Op>", "<path>/<Op>_1", ... */
struct scope {
    struct graph *g;
    const char *path; /* "" at the root, else "/model/layers.0/self_attn" */
    struct {
        const char *op;
        unsigned n;
    } seen[16];
};

struct scope scope_enter(struct graph *g, const char *path);

struct value *graph_value(struct graph *g, const char *name, enum dtype t, unsigned rank, const struct dim *dim);
const struct value *graph_input(struct graph *g, const char *name, enum dtype t, unsigned rank, const struct dim *dim);
void graph_output(struct graph *g, const struct value *v);

/* A node with one output, whose name is made from the scope; `like` gives the output's dtype and shape, which the
 * caller may change before the value is used. */
struct value *node_add(struct scope *s, const char *op, const struct value *const *in, size_t in_n,
                       const struct value *like);
/* The newest node, to add attributes or further outputs. */
struct node *node_last(struct graph *g);
void node_attr_int(struct graph *g, const char *name, int64_t v);

/* Constant nodes. */
const struct value *const_f32(struct scope *s, float v);
const struct value *const_i64(struct scope *s, int64_t v);                   /* scalar */
const struct value *const_i64s(struct scope *s, const int64_t *v, size_t n); /* [n] */

/* A new initializer and its value. */
const struct value *graph_init(struct graph *g, const char *name, const struct recipe *r, uint64_t order);
/* In their final order. */
void graph_sort_inits(struct graph *g);

#define DIM(n_)          ((struct dim){ NULL, (n_) })
#define DIM_NAMED(name_) ((struct dim){ (name_), 0 })

#endif
