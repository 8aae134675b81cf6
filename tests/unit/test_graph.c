/* Nodes are named as torch names them, recipes refuse what cannot be, and the graph of a decoder is what the contract
 * says: inputs and outputs by name, initializers in their order, every value made before it is used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "kinds.h"

/* ------------------------------------------------------------------------------------------------ nodes */

static const struct value scalar = { .name = "x", .dtype = DT_F16, .shaped = true };

static void nodes_are_named_by_module_and_count(void **state)
{
    struct arena a = { 0 };
    struct graph g = { .arena = &a };
    struct scope mlp = scope_enter(&g, "/model/layers.0/mlp"), root = scope_enter(&g, "");
    const struct value *in[] = { &scalar }, *v;

    (void)state;
    v = node_add(&mlp, "Mul", in, 1, &scalar);
    assert_string_equal(v->name, "/model/layers.0/mlp/Mul_output_0");
    assert_string_equal(node_last(&g)->name, "/model/layers.0/mlp/Mul");
    assert_string_equal(node_last(&g)->op, "Mul");
    assert_string_equal(node_last(&g)->domain, "");
    assert_string_equal(node_last(&g)->in[0], "x");
    assert_string_equal(node_last(&g)->out[0], v->name);
    node_add(&mlp, "Add", in, 1, &scalar);
    assert_string_equal(node_last(&g)->name, "/model/layers.0/mlp/Add");
    node_add(&mlp, "Mul", in, 1, &scalar);
    assert_string_equal(node_last(&g)->name, "/model/layers.0/mlp/Mul_1");
    node_add(&mlp, "Mul", in, 1, &scalar);
    assert_string_equal(node_last(&g)->name, "/model/layers.0/mlp/Mul_2");
    node_add(&root, "Mul", in, 1, &scalar);
    assert_string_equal(node_last(&g)->name, "/Mul");
    assert_int_equal(g.node_n, 5);
    assert_int_equal(g.inner_n, 5);
    graph_release(&g);
    arena_release(&a);
}

/* More kinds of nodes in a module than are counted apart still have names of their own. */
static void names_never_repeat(void **state)
{
    struct arena a = { 0 };
    struct graph g = { .arena = &a };
    struct scope s = scope_enter(&g, "/m");

    (void)state;
    for (unsigned i = 0; i < 60; i++)
        node_add(&s, arena_printf(&a, "Op%c", 'A' + i % 25), NULL, 0, &scalar);
    for (size_t i = 0; i < g.node_n; i++)
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(g.node[i].name, g.node[k].name);
    graph_release(&g);
    arena_release(&a);
}

static void constants(void **state)
{
    struct arena a = { 0 };
    struct graph g = { .arena = &a };
    struct scope s = scope_enter(&g, "/m");
    const int64_t list[] = { -1, 1ll << 40 };
    const struct value *f = const_f32(&s, 2.5f), *i = const_i64(&s, -7), *v = const_i64s(&s, list, 2);
    const struct attr *attr[] = { g.node[0].attr, g.node[1].attr, g.node[2].attr };

    (void)state;
    assert_string_equal(g.node[2].name, "/m/Constant_2");
    for (unsigned n = 0; n < 3; n++) {
        assert_string_equal(g.node[n].op, "Constant");
        assert_int_equal(g.node[n].in_n, 0);
        assert_int_equal(g.node[n].attr_n, 1);
        assert_string_equal(attr[n]->name, "value");
        assert_int_equal(attr[n]->type, ATTR_TENSOR);
    }
    assert_true(f->dtype == DT_F32 && f->rank == 0 && attr[0]->rank == 0 && attr[0]->n == 1);
    assert_memory_equal(attr[0]->bytes, &(float){ 2.5f }, 4);
    assert_true(i->dtype == DT_I64 && i->rank == 0 && attr[1]->n == 1);
    assert_memory_equal(attr[1]->bytes, &(int64_t){ -7 }, 8);
    assert_true(v->dtype == DT_I64 && v->rank == 1 && v->dim[0].n == 2 && attr[2]->rank == 1 && attr[2]->n == 2);
    assert_memory_equal(attr[2]->bytes, list, 16);
    graph_release(&g);
    arena_release(&a);
}

static void attributes_and_outputs(void **state)
{
    struct arena a = { 0 };
    struct graph g = { .arena = &a };
    struct scope s = scope_enter(&g, "/m");
    const struct value *v = node_add(&s, "Cast", (const struct value *[]){ &scalar }, 1, &scalar);
    const struct value *in = graph_input(&g, "in", DT_I32, 2, (struct dim[]){ DIM_NAMED("batch"), DIM(3) });

    (void)state;
    node_attr_int(&g, "to", 10);
    node_attr_int(&g, "axis", -1);
    assert_int_equal(node_last(&g)->attr_n, 2);
    assert_string_equal(node_last(&g)->attr[0].name, "to");
    assert_int_equal(node_last(&g)->attr[1].i, -1);
    graph_output(&g, v);
    assert_true(g.input_n == 1 && g.input[0] == in && g.output_n == 1 && g.output[0] == v);
    assert_string_equal(in->dim[0].name, "batch");
    assert_int_equal(in->dim[1].n, 3);
    graph_release(&g);
    arena_release(&a);
}

/* ------------------------------------------------------------------------------------------------ recipes */

static const struct tensor matrix = {
    .name = "w", .dtype = DT_BF16, .dtype_text = "BF16", .rank = 2, .shape = { 3, 5 }, .elements = 15, .bytes = 30
};
static const struct tensor vector = {
    .name = "v", .dtype = DT_F32, .dtype_text = "F32", .rank = 1, .shape = { 7 }, .elements = 7, .bytes = 28
};
static const struct tensor strange = {
    .name = "s", .dtype = DT_I8, .dtype_text = "I8", .rank = 2, .shape = { 2, 2 }, .elements = 4, .bytes = 4
};

static void assert_describes(const struct recipe *r, const char *text)
{
    struct str s = { 0 };

    recipe_describe(r, &s);
    assert_string_equal(str_text(&s), text);
    str_release(&s);
}

static void recipes(void **state)
{
    static const int32_t rows[] = { 2, 0 };
    struct arena a = { 0 };
    struct err e = { 0 };
    const struct recipe *r = recipe_source(&a, &matrix), *some;

    (void)state;
    assert_true(r->op == RECIPE_SOURCE && r->dtype == DT_BF16 && r->rank == 2 && r->source == &matrix);
    some = recipe_rows(&a, r, rows, 2, &e);
    assert_true(some->shape[0] == 2 && some->shape[1] == 5 && some->dtype == DT_BF16 && some->rows == rows);
    assert_int_equal(recipe_bytes(some), 20);
    r = recipe_transpose(&a, recipe_cast(&a, some, DT_F16, &e), &e);
    assert_true(r->shape[0] == 5 && r->shape[1] == 2 && r->dtype == DT_F16);
    assert_int_equal(recipe_elements(r), 10);
    assert_int_equal(recipe_bytes(r), 20);
    assert_describes(r, "transpose(cast(rows(w, 2 of 3): BF16 -> F16))");
    r = recipe_constant(&a, DT_F32, 2, (const float[]){ 1, 2 });
    assert_true(r->rank == 1 && r->shape[0] == 2 && recipe_bytes(r) == 8);
    assert_describes(r, "constant");
    assert_int_equal(e.kind, ERR_NONE);
    arena_release(&a);
}

/* A value takes the shape of whatever a file may hold. */
static void initializers_of_every_rank(void **state)
{
    struct arena a = { 0 };
    struct graph g = { .arena = &a };
    struct tensor t = { .name = "w", .dtype = DT_F16, .dtype_text = "F16" };

    (void)state;
    for (t.rank = 0; t.rank <= TENSOR_RANK_MAX; t.rank++) {
        const struct value *v = graph_init(&g, "w", recipe_source(&a, &t), t.rank);

        assert_int_equal(v->rank, t.rank);
        for (unsigned i = 0; i < t.rank; i++)
            assert_int_equal(v->dim[i].n, t.shape[i]);
        if (t.rank < TENSOR_RANK_MAX)
            t.shape[t.rank] = 3 + t.rank;
    }
    graph_release(&g);
    arena_release(&a);
}

static void refused(const struct recipe *r, struct err *e, enum err_kind kind, const char *words)
{
    assert_null(r);
    assert_int_equal(e->kind, kind);
    if (!strstr(e->msg, words))
        fail_msg("\"%s\" does not say \"%s\"", e->msg, words);
    *e = (struct err){ 0 };
}

static void recipes_refused(void **state)
{
    static const int32_t negative[] = { 0, -1 }, beyond[] = { 3 }, four[4] = { 0 };
    struct arena a = { 0 };
    struct err e = { 0 };
    const struct recipe *m = recipe_source(&a, &matrix), *v = recipe_source(&a, &vector);

    (void)state;
    refused(recipe_cast(&a, recipe_source(&a, &strange), DT_F16, &e), &e, ERR_UNSUPPORTED,
            "s: is stored as I8, which cannot be converted to F16");
    refused(recipe_cast(&a, m, DT_I64, &e), &e, ERR_UNSUPPORTED, "I64");
    refused(recipe_transpose(&a, v, &e), &e, ERR_INTERNAL, "v: has 1 dimensions");
    refused(recipe_rows(&a, v, four, 1, &e), &e, ERR_INTERNAL, "v: has 1 dimensions");
    refused(recipe_rows(&a, recipe_transpose(&a, m, &e), four, 1, &e), &e, ERR_INTERNAL, "stored tensors of 2 only");
    refused(recipe_rows(&a, m, negative, 2, &e), &e, ERR_RANGE, "w: has 3 rows, and row -1 is to be taken");
    refused(recipe_rows(&a, m, beyond, 1, &e), &e, ERR_RANGE, "row 3 is to be taken");
    refused(recipe_rows(&a, m, four, 4, &e), &e, ERR_RANGE, "w: has 3 rows, and 4 are to be taken");
    arena_release(&a);
}

/* A recipe comes down to one source and one transform. */
static void plain(void **state)
{
    static const int32_t rows[] = { 2, 0 };
    struct arena a = { 0 };
    struct err e = { 0 };
    struct recipe_plain p;
    const struct recipe *source = recipe_source(&a, &matrix), *cast = recipe_cast(&a, source, DT_F16, &e);

    (void)state;
    assert_int_equal(recipe_plain(cast, &p, &e), 0);
    assert_true(p.source == &matrix && p.rows == 1 && p.cols == 15 && !p.gather);
    assert_ptr_equal(p.transform, transform_find(TRANSFORM_CAST, DT_BF16, DT_F16));
    assert_int_equal(recipe_plain_bytes(&p), 30);
    assert_int_equal(recipe_plain(recipe_transpose(&a, cast, &e), &p, &e), 0);
    assert_true(p.rows == 3 && p.cols == 5);
    assert_ptr_equal(p.transform, transform_find(TRANSFORM_TRANSPOSE, DT_BF16, DT_F16));
    cast = recipe_cast(&a, recipe_rows(&a, source, rows, 2, &e), DT_F16, &e);
    assert_int_equal(recipe_plain(cast, &p, &e), 0);
    assert_true(p.rows == 2 && p.cols == 5 && p.gather == rows);
    assert_int_equal(recipe_plain_bytes(&p), 20);
    assert_int_equal(recipe_plain(recipe_transpose(&a, cast, &e), &p, &e), 0);
    assert_true(p.rows == 2 && p.cols == 5 && p.gather == rows);
    assert_int_equal(recipe_plain(recipe_constant(&a, DT_F32, 1, &(float){ 1 }), &p, &e), -1);
    assert_int_equal(e.kind, ERR_INTERNAL);
    arena_release(&a);
}

/* ------------------------------------------------------------------------------------------------ decoders */

static void build(struct tiny *t, const struct kind *k)
{
    if (kind_build(t, k))
        fail_msg("%s: %s", k->more, t->e.msg);
}

static bool known(const struct graph *g, size_t nodes, const char *name)
{
    for (size_t i = 0; i < g->input_n; i++)
        if (!strcmp(g->input[i]->name, name))
            return true;
    for (size_t i = 0; i < g->init_n; i++)
        if (!strcmp(g->init[i].name, name))
            return true;
    for (size_t i = 0; i < nodes; i++)
        for (size_t k = 0; k < g->node[i].out_n; k++)
            if (!strcmp(g->node[i].out[k], name))
                return true;
    return false;
}

static unsigned uses(const struct graph *g, const char *name)
{
    unsigned n = 0;

    for (size_t i = 0; i < g->node_n; i++)
        for (size_t k = 0; k < g->node[i].in_n; k++)
            n += !strcmp(g->node[i].in[k], name);
    return n;
}

/* What ONNX asks of any graph: nodes in order, names once, outputs made, every weight and input used. */
static void every_graph_is_sound(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct tiny t;
        const struct graph *g = &t.graph;

        build(&t, &kinds[k]);
        for (size_t i = 0; i < g->node_n; i++) {
            for (size_t n = 0; n < g->node[i].in_n; n++)
                if (!known(g, i, g->node[i].in[n]))
                    fail_msg("%s: %s takes %s, which is not made yet", kinds[k].more, g->node[i].name,
                             g->node[i].in[n]);
            for (size_t n = 0; n < i; n++)
                assert_string_not_equal(g->node[i].name, g->node[n].name);
            for (size_t n = 0; n < g->node[i].out_n; n++)
                assert_false(known(g, i, g->node[i].out[n]));
        }
        for (size_t i = 0; i < g->output_n; i++)
            assert_true(known(g, g->node_n, g->output[i]->name));
        for (size_t i = 0; i < g->init_n; i++) {
            assert_int_equal(uses(g, g->init[i].name), 1);
            assert_true(!i || g->init[i].order > g->init[i - 1].order);
        }
        for (size_t i = 0; i < g->input_n; i++)
            assert_true(uses(g, g->input[i]->name) > 0);
        tiny_end(&t);
    }
}

static void assert_names(const struct value *const *v, size_t n, const char *expected)
{
    struct str s = { 0 };

    for (size_t i = 0; i < n; i++)
        str_addf(&s, "%s%s", i ? " " : "", v[i]->name);
    assert_string_equal(str_text(&s), expected);
    str_release(&s);
}

static void assert_inits(const struct graph *g, const char *expected)
{
    struct str s = { 0 };

    for (size_t i = 0; i < g->init_n; i++)
        str_addf(&s, "%s%s", i ? " " : "", g->init[i].name);
    assert_string_equal(str_text(&s), expected);
    str_release(&s);
}

static void inputs_and_outputs(void **state)
{
    struct tiny t;

    (void)state;
    build(&t, &kinds[PLAIN]);
    assert_names(t.graph.input, t.graph.input_n,
                 "inputs_embeds past_key_values_0 past_key_values_1 rope_rotary_cos_sin context_lengths last_token_ids "
                 "kvcache_start_index");
    assert_names(t.graph.output, t.graph.output_n, "logits present_key_values_0 present_key_values_1");
    assert_int_equal(t.graph.input[1]->dim[2].n, KV_HEADS);
    assert_int_equal(t.graph.input[1]->dim[4].n, HEAD_DIM);
    assert_int_equal(t.graph.input[3]->dim[2].n, HEAD_DIM);
    assert_int_equal(t.graph.output[0]->dtype, DT_F32);
    assert_int_equal(t.graph.output[0]->dim[1].n, 1);
    assert_int_equal(t.graph.output[0]->dim[2].n, VOCAB);
    tiny_end(&t);
    build(&t, &kinds[FUSED]); /* rotary_dim = int(6 * 0.75) */
    assert_int_equal(t.graph.input[3]->dim[2].n, 4);
    tiny_end(&t);
    build(&t, &kinds[FP8_REDUCED]);
    assert_int_equal(t.graph.input[1]->dtype, DT_F8_E4M3);
    assert_int_equal(t.graph.output[1]->dtype, DT_F8_E4M3);
    assert_int_equal(t.graph.output[0]->dim[2].n, 3);
    tiny_end(&t);
    build(&t, &kinds[EAGLE_BASE_VL]);
    assert_names(t.graph.input, t.graph.input_n,
                 "inputs_embeds past_key_values_0 past_key_values_1 past_key_values_2 rope_rotary_cos_sin "
                 "context_lengths last_token_ids kvcache_start_index attention_pos_id attention_mask "
                 "deepstack_embeds_0 deepstack_embeds_1 "
                 "deepstack_embeds_2");
    assert_names(t.graph.output, t.graph.output_n,
                 "logits hidden_states present_key_values_0 present_key_values_1 present_key_values_2");
    assert_int_equal(t.graph.output[1]->dim[2].n, 3 * HIDDEN);
    tiny_end(&t);
    build(&t, &kinds[DRAFT]);
    assert_names(
        t.graph.input, t.graph.input_n,
        "inputs_embeds past_key_values_0 rope_rotary_cos_sin context_lengths last_token_ids kvcache_start_index "
        "hidden_states_input hidden_states_from_draft attention_pos_id attention_mask");
    assert_names(t.graph.output, t.graph.output_n, "logits hidden_states present_key_values_0");
    assert_int_equal(t.graph.output[0]->dim[2].n, VOCAB / 2);
    tiny_end(&t);
}

/* As torch's exporter leaves them: vectors by module, then matrices by use, lm_head last. */
static void order_of_initializers(void **state)
{
    struct tiny t;

    (void)state;
    build(&t, &kinds[BIASED]);
    assert_inits(&t.graph,
                 "model.norm.weight "
                 "model.layers.0.mlp.gate_proj.bias model.layers.0.mlp.up_proj.bias model.layers.0.mlp.down_proj.bias "
                 "model.layers.0.input_layernorm.weight model.layers.0.post_attention_layernorm.weight "
                 "model.layers.0.self_attn.q_proj.bias model.layers.0.self_attn.k_proj.bias "
                 "model.layers.0.self_attn.v_proj.bias model.layers.0.self_attn.o_proj.bias "
                 "model.layers.1.mlp.gate_proj.bias model.layers.1.mlp.up_proj.bias model.layers.1.mlp.down_proj.bias "
                 "model.layers.1.input_layernorm.weight model.layers.1.post_attention_layernorm.weight "
                 "model.layers.1.self_attn.q_proj.bias model.layers.1.self_attn.k_proj.bias "
                 "model.layers.1.self_attn.v_proj.bias model.layers.1.self_attn.o_proj.bias "
                 "model.layers.0.self_attn.q_proj.weight model.layers.0.self_attn.k_proj.weight "
                 "model.layers.0.self_attn.v_proj.weight model.layers.0.self_attn.o_proj.weight "
                 "model.layers.0.mlp.gate_proj.weight model.layers.0.mlp.up_proj.weight "
                 "model.layers.0.mlp.down_proj.weight "
                 "model.layers.1.self_attn.q_proj.weight model.layers.1.self_attn.k_proj.weight "
                 "model.layers.1.self_attn.v_proj.weight model.layers.1.self_attn.o_proj.weight "
                 "model.layers.1.mlp.gate_proj.weight model.layers.1.mlp.up_proj.weight "
                 "model.layers.1.mlp.down_proj.weight lm_head.weight");
    tiny_end(&t);
    build(&t, &kinds[DRAFT]);
    assert_inits(
        &t.graph,
        "norm.weight layers.0.input_layernorm.weight layers.0.post_attention_layernorm.weight "
        "layers.0.hidden_norm.weight fc.weight layers.0.self_attn.q_proj.weight layers.0.self_attn.k_proj.weight "
        "layers.0.self_attn.v_proj.weight layers.0.self_attn.o_proj.weight layers.0.mlp.gate_proj.weight "
        "layers.0.mlp.up_proj.weight layers.0.mlp.down_proj.weight lm_head.weight");
    tiny_end(&t);
}

/* Linears are [in, out], everything is fp16; a tied head is the embedding's transpose. */
static void weights(void **state)
{
    struct tiny t;
    const struct initializer *head;
    struct recipe_plain p;

    (void)state;
    build(&t, &kinds[TIED]);
    head = &t.graph.init[t.graph.init_n - 1];
    assert_string_equal(head->name, "lm_head.weight");
    assert_true(head->recipe->shape[0] == HIDDEN && head->recipe->shape[1] == VOCAB);
    assert_int_equal(recipe_plain(head->recipe, &p, &t.e), 0);
    assert_string_equal(p.source->name, "model.embed_tokens.weight");
    for (size_t i = 0; i < t.graph.init_n; i++)
        assert_int_equal(t.graph.init[i].recipe->dtype, DT_F16);
    tiny_end(&t);
    build(&t, &kinds[FP8_REDUCED]);
    head = &t.graph.init[t.graph.init_n - 1];
    assert_true(head->recipe->shape[0] == HIDDEN && head->recipe->shape[1] == 3);
    assert_int_equal(recipe_plain(head->recipe, &p, &t.e), 0);
    assert_ptr_equal(p.gather, kept);
    tiny_end(&t);
}

static void eagle_layers(void **state)
{
    struct decoder_mode mode = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(decoder_eagle_layers(&mode, 6, &e), 0);
    assert_true(mode.hidden[0] == 2 && mode.hidden[1] == 3 && mode.hidden[2] == 3);
    assert_int_equal(decoder_eagle_layers(&mode, 3, &e), 0);
    assert_true(mode.hidden[0] == 2 && mode.hidden[1] == 1 && mode.hidden[2] == 0);
    assert_int_equal(decoder_eagle_layers(&mode, 2, &e), -1);
    assert_int_equal(e.kind, ERR_UNSUPPORTED);
}

/* A graph of stand-ins is built whole, so that all that is missing is told at once. */
static void missing_weights(void **state)
{
    struct tiny t;

    (void)state;
    tiny_begin(&t);
    tiny_tensor(&t, "model.embed_tokens.weight", "F16", VOCAB, HIDDEN);
    tiny_tensor(&t, "model.norm.weight", "I32", HIDDEN, 0);
    tiny_tensor(&t, "x", "I32", HIDDEN, 0);
    tiny_tensor(&t, "y", "I32", HIDDEN, 0);
    assert_int_equal(tiny_open(&t, "{}"), 0);
    assert_int_equal(decoder_build(&t.graph, &t.model, dialects[0], &(struct decoder_mode){ 0 }, &t.arena, &t.e), 0);
    assert_int_equal(t.graph.init_n, 1 + 2 * 9 + 1);
    assert_int_equal(model_check(&t.model, &t.e), -1);
    assert_non_null(strstr(t.e.msg, ": 20 needed tensors are missing or unfit"));
    tiny_end(&t);
}

static void targets(void **state)
{
    (void)state;
    assert_ptr_equal(dialect_find("edgellm-0.5"), &dialect_edgellm05);
    assert_null(dialect_find("edgellm"));
    assert_null(dialect_find(""));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_are_named_by_module_and_count),
        cmocka_unit_test(names_never_repeat),
        cmocka_unit_test(constants),
        cmocka_unit_test(attributes_and_outputs),
        cmocka_unit_test(recipes),
        cmocka_unit_test(initializers_of_every_rank),
        cmocka_unit_test(recipes_refused),
        cmocka_unit_test(plain),
        TEST(every_graph_is_sound),
        TEST(inputs_and_outputs),
        TEST(order_of_initializers),
        TEST(weights),
        cmocka_unit_test(eagle_layers),
        TEST(missing_weights),
        cmocka_unit_test(targets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
