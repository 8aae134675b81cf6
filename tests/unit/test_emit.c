/* Every byte of the output has its place before any is written; model.onnx read back is the graph that was written;
 * what strangers write into a model.onnx is checked; config.json keeps numbers as they were spelled. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "exported.h"
#include "emit/runtime_config.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static void assert_words(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("\"%s\" does not say \"%s\"", text, words);
}

static void make(struct exported *x, const struct kind *k)
{
    if (exported_make(x, k))
        fail_msg("%s: %s", k->more, x->tiny.e.msg);
}

/* ------------------------------------------------------------------------------------------------ layout */

/* A graph of nothing but vectors of so many fp16 elements. */
static void graph_of(struct graph *g, struct arena *a, const uint64_t *elements, size_t n)
{
    *g = (struct graph){ .arena = a };
    for (size_t i = 0; i < n; i++) {
        struct tensor *t = arena_alloc(a, sizeof *t);

        *t = (struct tensor){ .name = "t", .dtype = DT_F16, .rank = 1, .shape = { elements[i] } };
        graph_init(g, arena_printf(a, "t%zu", i), recipe_source(a, t), i);
    }
}

/* From 991 bytes on a tensor stands in the data file: at a multiple of 4096, in the order of the graph. */
static void places(void **state)
{
    static const uint64_t elements[] = { 495, 496, 3, 2048, 2049, 700 };
    static const uint64_t expected[] = { 0, 4096, 8192, 16384 };
    struct arena a = { 0 };
    struct err e = { 0 };
    struct graph g;
    struct layout l;

    (void)state;
    graph_of(&g, &a, elements, LENGTH(elements));
    assert_false(layout_external(dialects[0], &g.init[0])); /* 990 */
    assert_true(layout_external(dialects[0], &g.init[1]));  /* 992 */
    assert_int_equal(layout_build(&l, &g, dialects[0], NULL, &a, &e), 0);
    assert_true(l.files_n == 1 && l.items_n == 4);
    assert_string_equal(l.file[0].name, "onnx_model.data");
    assert_null(l.file[0].head);
    for (size_t i = 0; i < l.items_n; i++)
        assert_int_equal(l.item[i].off, expected[i]);
    assert_string_equal(l.item[3].name, "t5");
    assert_int_equal(l.file[0].bytes, 16384 + 1400); /* ends with the last tensor's last byte */
    assert_int_equal(l.bytes, l.file[0].bytes);
    assert_ptr_equal(layout_find(&l, "onnx_model.data", "t3"), &l.item[1]);
    assert_null(layout_find(&l, "onnx_model.data", "t0"));
    assert_null(layout_find(&l, "embedding.safetensors", "t3"));
    graph_release(&g);
    arena_release(&a);
}

static void no_data_file_without_external_tensors(void **state)
{
    static const uint64_t elements[] = { 1, 0, 495 };
    struct arena a = { 0 };
    struct err e = { 0 };
    struct graph g;
    struct layout l;

    (void)state;
    graph_of(&g, &a, elements, LENGTH(elements));
    assert_int_equal(layout_build(&l, &g, dialects[0], NULL, &a, &e), 0);
    assert_true(l.files_n == 0 && l.items_n == 0 && l.bytes == 0);
    graph_release(&g);
    arena_release(&a);
}

/* Sparse files may be as large as an offset can say; several of them do not fit one. */
static void more_than_a_file_holds(void **state)
{
    static const uint64_t elements[][3] = { { 1ull << 62, 1, 1 }, { 1ull << 60, 1ull << 60, 1 << 20 } };
    struct arena a = { 0 };
    struct graph g;
    struct layout l;

    (void)state;
    for (size_t i = 0; i < LENGTH(elements); i++) {
        struct err e = { 0 };

        graph_of(&g, &a, elements[i], 3);
        assert_int_equal(layout_build(&l, &g, dialects[0], NULL, &a, &e), -1);
        assert_int_equal(e.kind, ERR_RANGE);
        assert_words(e.msg, "more than any file holds");
        graph_release(&g);
    }
    arena_release(&a);
}

static void embedding_header(void **state)
{
    struct exported x;
    const struct data_file *f;
    const char *text, *brace;
    json_t *header, *t;

    (void)state;
    make(&x, &kinds[PLAIN]);
    assert_int_equal(x.layout.files_n, 2);
    f = &x.layout.file[1];
    text = f->head;
    assert_string_equal(f->name, "embedding.safetensors");
    assert_int_equal(f->head_bytes, LAYOUT_ALIGN);
    assert_int_equal(f->bytes, LAYOUT_ALIGN + VOCAB * HIDDEN * 2);
    assert_memory_equal(text, "\xf8\x0f\0\0\0\0\0\0", 8); /* 4088 */
    brace = memchr(text, '}', LAYOUT_ALIGN);
    header = json_loadb(text + 8, LAYOUT_ALIGN - 8, 0, NULL);
    t = json_object_get(header, "embedding");
    assert_int_equal(json_object_size(header), 1);
    assert_string_equal(json_string_value(json_object_get(t, "dtype")), "F16");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(t, "shape"), 0)), VOCAB);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(t, "shape"), 1)), HIDDEN);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 1)), VOCAB * HIDDEN * 2);
    for (const char *p = brace + 2; p < text + LAYOUT_ALIGN; p++)
        assert_int_equal(*p, ' ');
    assert_ptr_equal(layout_find(&x.layout, "embedding.safetensors", "embedding"),
                     &x.layout.item[x.layout.items_n - 1]);
    json_decref(header);
    exported_end(&x);
}

/* ------------------------------------------------------------------------------------------------ model.onnx */

static void assert_text(const char *found, const char *expected)
{
    assert_string_equal(found ? found : "", expected ? expected : "");
}

static void assert_value(const Onnx__ValueInfoProto *p, const struct value *v)
{
    const Onnx__TypeProto__Tensor *t = p->type->tensor_type;

    assert_text(p->name, v->name);
    assert_int_equal(t->elem_type, dtype_onnx(v->dtype));
    assert_int_equal(t->shape->n_dim, v->rank);
    for (size_t i = 0; i < v->rank; i++)
        if (v->dim[i].name)
            assert_string_equal(t->shape->dim[i]->dim_param, v->dim[i].name);
        else
            assert_int_equal(t->shape->dim[i]->dim_value, v->dim[i].n);
}

static void assert_attribute(const Onnx__AttributeProto *p, const struct attr *a)
{
    assert_text(p->name, a->name);
    if (a->type == ATTR_INT) {
        assert_int_equal(p->type, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
        assert_int_equal(p->i, a->i);
        return;
    }
    assert_int_equal(p->type, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR);
    assert_int_equal(p->t->n_dims, a->rank);
    assert_int_equal(p->t->data_type, dtype_onnx(a->dtype));
    assert_int_equal(p->t->raw_data.len, a->n * dtype_bytes(a->dtype));
    assert_memory_equal(p->t->raw_data.data, a->bytes, p->t->raw_data.len);
}

static void assert_node(const Onnx__NodeProto *p, const struct node *n)
{
    assert_text(p->name, n->name);
    assert_text(p->op_type, n->op);
    assert_text(p->domain, n->domain);
    assert_int_equal(p->n_input, n->in_n);
    assert_int_equal(p->n_output, n->out_n);
    assert_int_equal(p->n_attribute, n->attr_n);
    for (size_t i = 0; i < n->in_n; i++)
        assert_text(p->input[i], n->in[i]);
    for (size_t i = 0; i < n->out_n; i++)
        assert_text(p->output[i], n->out[i]);
    for (size_t i = 0; i < n->attr_n; i++)
        assert_attribute(p->attribute[i], &n->attr[i]);
}

/* Name, type, shape, and where its bytes are. */
static void assert_initializer(const struct exported *x, size_t i)
{
    const Onnx__TensorProto *p = x->onnx->graph->initializer[i];
    const struct initializer *init = &x->tiny.graph.init[i];
    const struct placed *placed = layout_find(&x->layout, "onnx_model.data", init->name);
    struct onnx_place place;
    struct err e = { 0 };

    assert_text(p->name, init->name);
    assert_int_equal(p->data_type, dtype_onnx(init->recipe->dtype));
    assert_int_equal(p->n_dims, init->recipe->rank);
    for (size_t k = 0; k < p->n_dims; k++)
        assert_int_equal(p->dims[k], init->recipe->shape[k]);
    assert_int_equal(onnx_place(p, &place, &e), 0);
    assert_int_equal(place.bytes, recipe_bytes(init->recipe));
    assert_int_equal(place.external, layout_external(dialects[0], init));
    assert_true(place.external == (placed != NULL));
    if (placed) {
        assert_string_equal(place.location, "onnx_model.data");
        assert_int_equal(place.off, placed->off);
    } else {
        assert_memory_equal(p->raw_data.data, x->tensor[i].bytes, place.bytes);
    }
}

static void assert_graph(const struct exported *x)
{
    const Onnx__GraphProto *p = x->onnx->graph;
    const struct graph *g = &x->tiny.graph;

    assert_text(p->name, g->name);
    assert_int_equal(p->n_node, g->node_n);
    assert_int_equal(p->n_initializer, g->init_n);
    assert_int_equal(p->n_input, g->input_n);
    assert_int_equal(p->n_output, g->output_n);
    for (size_t i = 0; i < g->node_n; i++)
        assert_node(p->node[i], &g->node[i]);
    for (size_t i = 0; i < g->init_n; i++)
        assert_initializer(x, i);
    for (size_t i = 0; i < g->input_n; i++)
        assert_value(p->input[i], g->input[i]);
    for (size_t i = 0; i < g->output_n; i++)
        assert_value(p->output[i], g->output[i]);
    for (size_t i = 0; i < p->n_value_info; i++) /* of inner values only */
        for (size_t k = 0; k < p->n_output; k++)
            assert_string_not_equal(p->value_info[i]->name, p->output[k]->name);
}

static void round_trip(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct exported x;
        const Onnx__ModelProto *m;

        make(&x, &kinds[k]);
        m = x.onnx;
        assert_int_equal(m->ir_version, dialects[0]->ir_version);
        assert_text(m->producer_name, dialects[0]->producer);
        assert_text(m->producer_version, dialects[0]->producer_version);
        assert_int_equal(m->n_opset_import, x.tiny.graph.opset_n);
        for (size_t i = 0; i < m->n_opset_import; i++) {
            assert_text(m->opset_import[i]->domain, x.tiny.graph.opset[i].domain);
            assert_int_equal(m->opset_import[i]->version, x.tiny.graph.opset[i].version);
        }
        assert_string_equal(onnx_metadata(m, "weighbridge.mode"), "x \"y\"");
        assert_null(onnx_metadata(m, "weighbridge.mod"));
        assert_false(onnx_has_more(m));
        assert_graph(&x);
        exported_end(&x);
    }
}

/* The plan knows the size of model.onnx before any weight is read. */
static void same_size_without_weights(void **state)
{
    struct exported x;
    struct inline_tensor *zeros;
    struct str again = { 0 }, blank = { 0 };
    struct tiny *t = &x.tiny;
    size_t differ = 0;

    (void)state;
    make(&x, &kinds[BIASED]);
    assert_int_equal(onnx_file(&t->graph, dialects[0], &x.layout, x.tensor, exported_meta, 2, &again, &t->e), 0);
    assert_int_equal(again.n, x.bytes.n);
    assert_memory_equal(again.s, x.bytes.s, again.n);
    assert_int_equal(inline_tensors(&t->graph, dialects[0], &t->ckpt, false, &zeros, &t->arena, &t->e), 0);
    assert_int_equal(onnx_file(&t->graph, dialects[0], &x.layout, zeros, exported_meta, 2, &blank, &t->e), 0);
    assert_int_equal(blank.n, x.bytes.n);
    for (size_t i = 0; i < t->graph.init_n; i++)
        differ += zeros[i].bytes && memcmp(zeros[i].bytes, x.tensor[i].bytes, zeros[i].n);
    assert_true(differ > 10);
    str_release(&again);
    str_release(&blank);
    exported_end(&x);
}

/* What is inline went through the plain scalar path: bf16 1/128 is fp16 0x2000, and a matrix is turned. */
static void inline_values(void **state)
{
    struct exported x;
    const struct tensor *source;
    struct recipe_plain p;
    size_t i = 0;

    (void)state;
    make(&x, &kinds[PLAIN]);
    while (strcmp(x.tiny.graph.init[i].name, "model.layers.0.self_attn.q_proj.weight"))
        i++;
    assert_int_equal(recipe_plain(x.tiny.graph.init[i].recipe, &p, &x.tiny.e), 0);
    source = p.source;
    {
        unsigned char raw[HEADS * HEAD_DIM][HIDDEN][2];
        const uint16_t *turned = x.tensor[i].bytes;

        assert_int_equal(sizeof raw, source->bytes);
        assert_int_equal(ckpt_read(&x.tiny.ckpt, source, raw, &x.tiny.e), 0);
        for (size_t r = 0; r < HEADS * HEAD_DIM; r++)
            for (size_t c = 0; c < HIDDEN; c++) { /* 0x3cmm: exponent 120 or 121, both fit fp16 exactly */
                unsigned bits = raw[r][c][0] | (unsigned)raw[r][c][1] << 8;
                unsigned expected = ((bits >> 7) - 127 + 15) << 10 | (bits & 0x7f) << 3;

                assert_int_equal(turned[c * HEADS * HEAD_DIM + r], expected);
            }
    }
    exported_end(&x);
}

/* ------------------------------------------------------------------------------------------------ hostile model.onnx
 */

static void broken_encodings(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *words;
    } rows[] = {
        { "", 0, "it has no graph" },
        { "\x08\x09", 2, "it has no graph" },
        { "\x3a\x05", 2, "its protobuf encoding is broken" },
        { "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11, "its protobuf encoding is broken" },
        { "\x3a\xff\xff\xff\xff\x0f", 6, "its protobuf encoding is broken" },
        { "garbage", 7, "its protobuf encoding is broken" },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(rows); i++) {
        struct err e = { 0 };

        assert_null(onnx_parse(rows[i].bytes, rows[i].n, "a/model.onnx", &e));
        assert_int_equal(e.kind, ERR_FORMAT);
        assert_words(e.msg, "a/model.onnx: is not an ONNX model that can be read: ");
        assert_words(e.msg, rows[i].words);
    }
}

/* Two bytes in the file, two hundred in memory: a graph of so many empty initializers is refused before it fills both.
 */
static void bounded_memory(void **state)
{
    enum { PARTS = 1500000 };
    unsigned char *bytes = malloc(2 * PARTS + 5);
    struct err e = { 0 };

    (void)state;
    assert_non_null(bytes);
    bytes[0] = 0x3a; /* the graph, of a length in 4 bytes of 7 bits */
    for (unsigned i = 0; i < 4; i++)
        bytes[1 + i] = (unsigned char)((2 * PARTS) >> (7 * i) & 0x7f) | (i < 3 ? 0x80 : 0);
    for (size_t i = 0; i < PARTS; i++) {
        bytes[5 + 2 * i] = 0x2a;
        bytes[6 + 2 * i] = 0;
    }
    assert_null(onnx_parse(bytes, 2 * PARTS + 5, "model.onnx", &e));
    assert_words(e.msg, "far too many parts");
    free(bytes);
}

static void fields_that_we_never_write(void **state)
{
    static const unsigned char functions[] = { 0xca, 0x01, 0x00 }, sparse[] = { 0x3a, 0x02, 0x7a, 0x00 };
    struct exported x;
    struct str more = { 0 };
    Onnx__ModelProto *m;

    (void)state;
    make(&x, &kinds[PLAIN]);
    str_add(&more, x.bytes.s, x.bytes.n);
    str_add(&more, functions, sizeof functions);
    m = onnx_parse(more.s, more.n, "m", &x.tiny.e);
    assert_true(m && onnx_has_more(m));
    onnx_free(m);
    more.n = x.bytes.n;
    str_add(&more, sparse, sizeof sparse); /* merged into the graph */
    m = onnx_parse(more.s, more.n, "m", &x.tiny.e);
    assert_true(m && onnx_has_more(m));
    onnx_free(m);
    str_release(&more);
    exported_end(&x);
}

/* An initializer: of two dimensions, and where it says that its bytes are. */
struct claim {
    int64_t dim[2];
    int type;
    const char *location, *offset, *length; /* NULL: not said; all NULL: inline */
    size_t raw;
    const char *words; /* of the refusal; NULL: none */
    uint64_t off, bytes;
};

static void check_claim(const struct claim *c)
{
    Onnx__TensorProto t = ONNX__TENSOR_PROTO__INIT;
    Onnx__StringStringEntryProto entry[3], *entries[3];
    const char *const keys[] = { "location", "offset", "length" }, *const values[] = { c->location, c->offset,
                                                                                       c->length };
    unsigned char raw[16] = { 0 };
    struct onnx_place p;
    struct err e = { 0 };

    t.n_dims = 2;
    t.dims = (int64_t *)c->dim;
    t.has_data_type = 1;
    t.data_type = c->type;
    t.external_data = entries;
    for (size_t i = 0; i < 3; i++) {
        if (!values[i])
            continue;
        entries[t.n_external_data] = &entry[i];
        entry[i] = (Onnx__StringStringEntryProto)ONNX__STRING_STRING_ENTRY_PROTO__INIT;
        entry[i].key = (char *)keys[i];
        entry[i].value = (char *)values[i];
        t.n_external_data++;
    }
    if (t.n_external_data)
        t.data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    t.raw_data = (ProtobufCBinaryData){ c->raw, raw };
    if (c->words) {
        assert_int_equal(onnx_place(&t, &p, &e), -1);
        assert_words(e.msg, c->words);
        assert_words(e.msg, "\"?\": ");
        assert_null(strchr(e.msg, '\n'));
        return;
    }
    if (onnx_place(&t, &p, &e))
        fail_msg("refused: %s", e.msg);
    assert_int_equal(p.external, c->location != NULL);
    assert_int_equal(p.off, c->off);
    assert_int_equal(p.bytes, c->bytes);
}

static void claims(void **state)
{
    enum { FLOAT = 1, STRING = 8, HALF = 10 };
    static const struct claim rows[] = {
        { { 2, 3 }, HALF, "d", "4096", "12", 0, NULL, 4096, 12 },
        { { 2, 3 }, HALF, "d", NULL, "12", 0, NULL, 0, 12 },
        { { 2, 3 }, HALF, "d", "8", NULL, 0, NULL, 8, 12 },
        { { 2, 2 }, FLOAT, .raw = 16, .bytes = 16 },
        { { 0, 7 }, HALF, .raw = 0, .bytes = 0 },
        { { 0, 7 }, HALF, "d", "5", "0", .off = 5, .bytes = 0 },
        { { 2, 3 }, HALF, "d", "4096", "13", .words = "has 13 bytes, expected 12 for 6 elements of 2 bytes" },
        { { 2, 3 }, HALF, "d", "4096", "18446744073709551615", .words = "expected 12" },
        { { 2, 3 },
          HALF,
          "d",
          "4096",
          "18446744073709551616",
          .words = "length is \"18446744073709551616\", expected" },
        { { 2, 3 }, HALF, "d", "-1", "12", .words = "external offset is \"-1\", expected a number" },
        { { 2, 3 }, HALF, "d", " 1", "12", .words = "offset" },
        { { 2, 3 }, HALF, "d", "+1", "12", .words = "offset" },
        { { 2, 3 }, HALF, "d", "0x10", "12", .words = "offset" },
        { { 2, 3 }, HALF, "d", "1\n2", "12", .words = "external offset is \"1?2\"" },
        { { 2, 3 }, HALF, "d", "", "12", .words = "offset" },
        { { 2, 3 }, HALF, "d", "18446744073709551612", "12", .words = "beyond the end of any file" },
        { { -1, 3 }, HALF, "d", "0", "12", .words = "dimension 0 is -1" },
        { { 2, INT64_MIN }, HALF, "d", "0", "12", .words = "dimension 1 is -9223372036854775808" },
        { { 1ll << 40, 1ll << 40 }, HALF, "d", "0", "12", .words = "dimension 1 is 1099511627776" },
        { { INT64_MAX, 2 }, HALF, "d", "0", "12", .words = "more than any file holds" },
        { { 2, 3 }, STRING, "d", "0", "12", .words = "element type 8, which is not known" },
        { { 2, 3 }, 0, "d", "0", "12", .words = "element type 0" },
        { { 2, 3 }, -7, "d", "0", "12", .words = "element type -7" },
        { { 2, 3 },
          HALF,
          "../d",
          "0",
          "12",
          .words = "external location is \"../d\", expected the name of a file beside" },
        { { 2, 3 }, HALF, "/etc/passwd", "0", "12", .words = "/etc/passwd" },
        { { 2, 3 }, HALF, "a/b", "0", "12", .words = "location" },
        { { 2, 3 }, HALF, "..", "0", "12", .words = "location" },
        { { 2, 3 }, HALF, ".", "0", "12", .words = "location" },
        { { 2, 3 }, HALF, "", "0", "12", .words = "external location is \"\"" },
        { { 2, 3 }, HALF, NULL, "0", "12", .words = "location" },
        { { 2, 3 }, HALF, .raw = 11, .words = "has 11 bytes, expected 12" },
        { { 2, 3 }, HALF, .raw = 0, .words = "has no raw_data" },
        { { 0, 3 }, HALF, .raw = 2, .words = "has 2 bytes, expected 0" },
    };

    (void)state;
    for (size_t i = 0; i < LENGTH(rows); i++)
        check_claim(&rows[i]);
}

static void dtypes_both_ways(void **state)
{
    (void)state;
    for (int t = DT_UNKNOWN + 1; t < DT_COUNT; t++)
        if (dtype_onnx((enum dtype)t))
            assert_int_equal(onnx_dtype(dtype_onnx((enum dtype)t)), t);
    assert_int_equal(onnx_dtype(0), DT_UNKNOWN);
    assert_int_equal(onnx_dtype(-1), DT_UNKNOWN);
    assert_int_equal(onnx_dtype(INT32_MAX), DT_UNKNOWN);
}

/* ------------------------------------------------------------------------------------------------ config.json */

static void assert_config(const char *more, const char *expected)
{
    struct tiny t;
    struct str out = { 0 };

    tiny_begin(&t);
    tiny_decoder(&t, "model.", 2, 0);
    if (tiny_open(&t, more) || runtime_config(&t.model, dialects[0], "llm", 0, &out, &t.e))
        fail_msg("%s: %s", more, t.e.msg);
    assert_words(str_text(&out), expected);
    str_release(&out);
    tiny_end(&t);
}

static void config_is_what_the_runtime_reads(void **state)
{
    struct tiny t;
    struct str out = { 0 };

    (void)state;
    tiny_begin(&t);
    tiny_decoder(&t, "model.", 2, 0);
    assert_int_equal(tiny_open(&t, "{}"), 0);
    assert_int_equal(runtime_config(&t.model, dialects[0], "eagle3_base", 17, &out, &t.e), 0);
    assert_string_equal(str_text(&out), "{\n"
                                        "  \"vocab_size\": 70,\n"
                                        "  \"max_position_embeddings\": 128,\n"
                                        "  \"hidden_size\": 8,\n"
                                        "  \"intermediate_size\": 64,\n"
                                        "  \"num_hidden_layers\": 2,\n"
                                        "  \"num_attention_heads\": 2,\n"
                                        "  \"num_key_value_heads\": 1,\n"
                                        "  \"rope_theta\": 10000.0,\n"
                                        "  \"rope_scaling\": null,\n"
                                        "  \"head_dim\": 6,\n"
                                        "  \"partial_rotary_factor\": 1.0,\n"
                                        "  \"model_type\": \"eagle3_base\",\n"
                                        "  \"model\": \"llama\",\n"
                                        "  \"edgellm_version\": \"0.5.0\",\n"
                                        "  \"reduced_vocab_size\": 17\n"
                                        "}");
    str_release(&out);
    tiny_end(&t);
}

static void numbers_as_they_were_spelled(void **state)
{
    (void)state;
    assert_config("{\"rope_theta\": 1000000}", "\"rope_theta\": 1000000,");
    assert_config("{\"rope_theta\": 1000000.0}", "\"rope_theta\": 1000000.0,");
    assert_config("{\"rope_theta\": 1e16}", "\"rope_theta\": 1e+16,");
    assert_config("{\"partial_rotary_factor\": 0.1}", "\"partial_rotary_factor\": 0.1,");
    assert_config("{\"partial_rotary_factor\": 1}", "\"partial_rotary_factor\": 1,");
    assert_config(
        "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low\": 1, \"x\": 1e-05}}",
        "\"rope_scaling\": {\n    \"rope_type\": \"llama3\",\n    \"factor\": 8.0,\n    \"low\": 1,\n    \"x\": "
        "1e-05\n  },");
    assert_config("{\"rope_scaling\": {\"t\": \"\\u00e9\"}}", "\"t\": \"\\u00e9\"");
}

/* A longrope model says what length it was trained for: beside the scaling or in it, in the old spelling or the new. */
static void original_length(void **state)
{
    static const char *const spelled[] = {
        "{\"original_max_position_embeddings\": 64, \"rope_scaling\": {\"type\": \"longrope\"}}",
        "{\"rope_scaling\": {\"type\": \"longrope\", \"original_max_position_embeddings\": 64}}",
        "{\"rope_scaling\": {\"rope_type\": \"longrope\", \"original_max_position_embeddings\": 64}}",
        "{\"rope_parameters\": {\"rope_type\": \"longrope\", \"original_max_position_embeddings\": 64}}",
    };
    struct tiny t;
    struct str out = { 0 };

    (void)state;
    for (size_t i = 0; i < LENGTH(spelled); i++)
        assert_config(spelled[i], "},\n  \"original_max_position_embeddings\": 64,\n  \"head_dim\"");
    tiny_begin(&t);
    tiny_decoder(&t, "model.", 2, 0);
    assert_int_equal(tiny_open(&t, "{\"rope_scaling\": {\"type\": \"longrope\"}}"), 0);
    assert_int_equal(runtime_config(&t.model, dialects[0], "llm", 0, &out, &t.e), -1);
    assert_words(t.e.msg, "config.json: \"original_max_position_embeddings\" is nothing, expected an integer");
    assert_int_equal(out.n, 0);
    tiny_end(&t);
}

static void config_of_a_draft(void **state)
{
    struct tiny t;
    struct str out = { 0 };

    (void)state;
    tiny_begin(&t);
    tiny_draft(&t);
    assert_int_equal(tiny_open_as(&t, "{\"draft_vocab_size\": 35, \"target_hidden_size\": 9}", true), 0);
    runtime_config_draft(&t.model, dialects[0], &out);
    assert_string_equal(str_text(&out), "{\n"
                                        "  \"hidden_size\": 8,\n"
                                        "  \"max_position_embeddings\": 128,\n"
                                        "  \"intermediate_size\": 64,\n"
                                        "  \"num_hidden_layers\": 1,\n"
                                        "  \"num_attention_heads\": 2,\n"
                                        "  \"num_key_value_heads\": 1,\n"
                                        "  \"rope_theta\": 10000.0,\n"
                                        "  \"rope_scaling\": null,\n"
                                        "  \"head_dim\": 6,\n"
                                        "  \"draft_vocab_size\": 35,\n"
                                        "  \"base_model_hidden_size\": 27,\n"
                                        "  \"model_type\": \"eagle3_draft\",\n"
                                        "  \"model\": \"llama\",\n"
                                        "  \"edgellm_version\": \"0.5.0\"\n"
                                        "}");
    str_release(&out);
    tiny_end(&t);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places),
        cmocka_unit_test(no_data_file_without_external_tensors),
        cmocka_unit_test(more_than_a_file_holds),
        TEST(embedding_header),
        TEST(round_trip),
        TEST(same_size_without_weights),
        TEST(inline_values),
        cmocka_unit_test(broken_encodings),
        cmocka_unit_test(bounded_memory),
        TEST(fields_that_we_never_write),
        cmocka_unit_test(claims),
        cmocka_unit_test(dtypes_both_ways),
        TEST(config_is_what_the_runtime_reads),
        TEST(numbers_as_they_were_spelled),
        TEST(original_length),
        TEST(config_of_a_draft),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
