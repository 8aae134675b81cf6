/* Which weight an initializer must be follows from how the graph uses it: right for every graph that we write, for
 * swapped weights, and an answer instead of a crash for whatever else is in a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "exported.h"
#include "front/roles.h"

static void make(struct exported *x, const struct kind *k)
{
    if (exported_make(x, k))
        fail_msg("%s: %s", k->more, x->tiny.e.msg);
}

/* "model.layers.0.x" of the file is "layers.0.x" here. */
static const char *canonical(const char *name) { return strncmp(name, "model.", 6) ? name : name + 6; }

static Onnx__TensorProto *init_of(Onnx__GraphProto *g, const char *name)
{
    for (size_t i = 0; i < g->n_initializer; i++)
        if (!strcmp(g->initializer[i]->name, name))
            return g->initializer[i];
    fail_msg("no initializer %s", name);
    return NULL;
}

static Onnx__NodeProto *node_of(Onnx__GraphProto *g, const char *name)
{
    for (size_t i = 0; i < g->n_node; i++)
        if (!strcmp(g->node[i]->name, name))
            return g->node[i];
    fail_msg("no node %s", name);
    return NULL;
}

static const struct role *role_of(const Onnx__GraphProto *g, const struct role *role, const char *name)
{
    for (size_t i = 0; i < g->n_initializer; i++)
        if (!strcmp(g->initializer[i]->name, name))
            return &role[i];
    fail_msg("no initializer %s", name);
    return NULL;
}

static void of_every_graph(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct exported x;
        struct role *role;
        unsigned layers;
        const struct graph *g = &x.tiny.graph;

        make(&x, &kinds[k]);
        if (roles_find(x.onnx->graph, &role, &layers, &x.tiny.arena, &x.tiny.e))
            fail_msg("%s: %s", kinds[k].more, x.tiny.e.msg);
        assert_int_equal(layers, x.tiny.model.layers);
        for (size_t i = 0; i < g->init_n; i++) {
            bool scale = strstr(g->init[i].name, "k_v_scale_quant_orig");

            assert_string_equal(role[i].weight, canonical(g->init[i].name));
            assert_int_equal(role[i].kind, scale                          ? ROLE_KV_SCALE
                                           : g->init[i].recipe->rank == 2 ? ROLE_MATRIX
                                                                          : ROLE_VECTOR);
            assert_true(!scale || strstr(role[i].weight, arena_printf(&x.tiny.arena, "layers.%u.", role[i].layer)));
        }
        exported_end(&x);
    }
}

/* Names say nothing: after a swap the roles follow the use. */
static void swapped_names(void **state)
{
    static const char a[] = "model.layers.0.mlp.gate_proj.weight", b[] = "model.layers.1.mlp.up_proj.weight";
    struct exported x;
    struct role *role;
    unsigned layers;
    Onnx__TensorProto *p, *q;
    char *name;

    (void)state;
    make(&x, &kinds[PLAIN]);
    p = init_of(x.onnx->graph, a);
    q = init_of(x.onnx->graph, b);
    name = p->name;
    p->name = q->name;
    q->name = name;
    for (size_t i = 0; i < x.onnx->graph->n_node; i++) {
        free(x.onnx->graph->node[i]->name);
        x.onnx->graph->node[i]->name = NULL;
    }
    assert_int_equal(roles_find(x.onnx->graph, &role, &layers, &x.tiny.arena, &x.tiny.e), 0);
    assert_string_equal(role_of(x.onnx->graph, role, a)->weight, "layers.0.mlp.gate_proj.weight");
    assert_string_equal(role_of(x.onnx->graph, role, b)->weight, "layers.1.mlp.up_proj.weight");
    exported_end(&x);
}

static void swap_inputs(Onnx__NodeProto *a, size_t i, Onnx__NodeProto *b, size_t k)
{
    char *name = a->input[i];

    a->input[i] = b->input[k];
    b->input[k] = name;
}

static void swapped_uses(void **state)
{
    struct exported x;
    struct role *role;
    unsigned layers;
    Onnx__GraphProto *g;

    (void)state;
    make(&x, &kinds[PLAIN]);
    g = x.onnx->graph;
    swap_inputs(node_of(g, "/model/layers.0/self_attn/k_proj/MatMul"), 1,
                node_of(g, "/model/layers.0/self_attn/v_proj/MatMul"), 1);
    swap_inputs(node_of(g, "/model/layers.0/input_layernorm/Mul_1"), 0, node_of(g, "/model/norm/Mul_1"), 0);
    assert_int_equal(roles_find(g, &role, &layers, &x.tiny.arena, &x.tiny.e), 0);
    assert_string_equal(role_of(g, role, "model.layers.0.self_attn.k_proj.weight")->weight,
                        "layers.0.self_attn.v_proj.weight");
    assert_string_equal(role_of(g, role, "model.layers.0.self_attn.v_proj.weight")->weight,
                        "layers.0.self_attn.k_proj.weight");
    assert_string_equal(role_of(g, role, "model.norm.weight")->weight, "layers.0.input_layernorm.weight");
    assert_string_equal(role_of(g, role, "model.layers.0.input_layernorm.weight")->weight, "norm.weight");
    exported_end(&x);
}

/* The graph is refused, and the sentence says `words`. */
static void refuse(struct exported *x, const char *words)
{
    struct role *role;
    unsigned layers;
    struct err e = { 0 };

    assert_int_equal(roles_find(x->onnx->graph, &role, &layers, &x->tiny.arena, &e), -1);
    assert_int_equal(e.kind, ERR_FORMAT);
    if (!strstr(e.msg, words))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, words);
    assert_null(strchr(e.msg, '\n'));
    exported_end(x);
}

static void set(char **text, const char *value)
{
    free(*text);
    *text = strdup(value);
}

static void graphs_of_something_else(void **state)
{
    struct exported x;
    Onnx__GraphProto *g;

    (void)state;
    make(&x, &kinds[PLAIN]);
    g = x.onnx->graph;
    set(&node_of(g, "/model/layers.1/self_attn/AttentionPlugin")->input[1], "past_key_values_0");
    refuse(&x, "layer 1: the attention plugin takes \"past_key_values_0\", expected \"past_key_values_1\"");
    make(&x, &kinds[PLAIN]);
    set(&init_of(x.onnx->graph, "model.norm.weight")->name, "/model/norm/Mul_output_0");
    refuse(&x, "value \"/model/norm/Mul_output_0\" is made twice");
    make(&x, &kinds[PLAIN]);
    set(&node_of(x.onnx->graph, "/model/norm/Mul_1")->input[0], "model.layers.0.mlp.up_proj.weight");
    refuse(&x, "initializer \"model.layers.0.mlp.up_proj.weight\" is used as norm.weight and as layers.0.mlp.up_proj");
    make(&x, &kinds[PLAIN]);
    set(&node_of(x.onnx->graph, "/lm_head/MatMul")->output[0], "a\nb");
    refuse(&x, "is not made by a MatMul with a constant weight");
    make(&x, &kinds[PLAIN]);
    set(&node_of(x.onnx->graph, "/lm_head/MatMul")->output[0], "a\nb");
    set(&node_of(x.onnx->graph, "/Cast")->input[0], "a\nb");
    set(&node_of(x.onnx->graph, "/lm_head/MatMul")->op_type, "Gemm");
    refuse(&x, "value \"a?b\" is not made by a MatMul");
    make(&x, &kinds[DRAFT]);
    set(&node_of(x.onnx->graph, "/fc/MatMul")->input[0], "hidden_states_from_draft");
    refuse(&x, "fc takes \"hidden_states_from_draft\", expected \"hidden_states_input\"");
}

/* "" names nothing: neither a missing input nor an output that nobody wants. */
static void empty_names(void **state)
{
    struct exported x;

    (void)state;
    make(&x, &kinds[PLAIN]);
    set(&node_of(x.onnx->graph, "/lm_head/MatMul")->output[0], "");
    set(&node_of(x.onnx->graph, "/Cast")->input[0], "");
    refuse(&x, "value \"\" is not made by a MatMul");
    make(&x, &kinds[PLAIN]);
    set(&init_of(x.onnx->graph, "lm_head.weight")->name, "");
    set(&node_of(x.onnx->graph, "/lm_head/MatMul")->input[1], "");
    refuse(&x, "is not made by a MatMul with a constant weight");
}

/* Either the same roles or a refusal, and in bounded time, whatever one change to a node makes of the graph. */
static void answer_to(struct exported *x)
{
    struct role *role;
    unsigned layers;
    struct err e = { 0 };
    struct arena a = { 0 };

    if (roles_find(x->onnx->graph, &role, &layers, &a, &e)) {
        assert_int_equal(e.kind, ERR_FORMAT);
        assert_true(e.msg[0]);
    }
    for (size_t i = 0; i < x->onnx->graph->n_initializer; i++)
        assert_true(!role[i].weight || *role[i].weight);
    arena_release(&a);
}

static void change_node(struct exported *x, Onnx__NodeProto *n)
{
    size_t in = n->n_input, out = n->n_output;
    char *op = n->op_type, *first = in ? n->input[0] : NULL;

    n->op_type = NULL; /* as in a file that leaves it out */
    answer_to(x);
    n->op_type = (char *)"Add";
    answer_to(x);
    n->op_type = op;
    n->n_input = 0;
    answer_to(x);
    if (in) { /* an array of its own, so that a sanitizer sees the first input too many */
        char **all = n->input, **one = malloc(sizeof *one);

        *one = first;
        n->input = one;
        n->n_input = 1;
        answer_to(x);
        n->input = all;
        free(one);
    }
    n->n_input = in;
    n->n_output = 0;
    answer_to(x);
    n->n_output = out;
    if (in) {
        n->input[0] = n->output[0]; /* a cycle */
        answer_to(x);
        n->input[0] = x->onnx->graph->initializer[0]->name;
        answer_to(x);
        n->input[0] = first;
    }
}

static void any_change_of_a_node(void **state)
{
    static const unsigned some[] = { BIASED, FUSED, QWEN3_VL, FP8_REDUCED, DRAFT };

    (void)state;
    for (size_t k = 0; k < sizeof some / sizeof *some; k++) {
        struct exported x;

        make(&x, &kinds[some[k]]);
        for (size_t i = 0; i < x.onnx->graph->n_node; i++)
            change_node(&x, x.onnx->graph->node[i]);
        exported_end(&x);
    }
}

static void nothing_at_all(void **state)
{
    Onnx__GraphProto g = ONNX__GRAPH_PROTO__INIT;
    Onnx__TensorProto nameless = ONNX__TENSOR_PROTO__INIT, *list[] = { &nameless };
    struct arena a = { 0 };
    struct err e = { 0 };
    struct role *role;
    unsigned layers;

    (void)state;
    g.n_initializer = 1;
    g.initializer = list;
    assert_int_equal(roles_find(&g, &role, &layers, &a, &e), -1);
    assert_non_null(strstr(e.msg, "value \"logits\" is not made by a Cast"));
    assert_null(role[0].weight);
    arena_release(&a);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(of_every_graph),
        TEST(swapped_names),
        TEST(swapped_uses),
        TEST(graphs_of_something_else),
        TEST(empty_names),
        TEST(any_change_of_a_node),
        cmocka_unit_test(nothing_at_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
