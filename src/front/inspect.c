/* inspect.c - wb_inspect: what a directory holds: a checkpoint, a draft, an adapter (inspect_adapter.c) or an export;
 * and what an archive does (pack.c), which is all that wb_list takes. */
#include <weighbridge.h>
#include "checkpoint/adapter.h"
#include "emit/onnx_read.h"
#include "emit/outdir.h"
#include "front/document.h"
#include "front/draft.h"
#include "front/front.h"
#include "front/inspect.h"
#include "front/pack.h"
#include "front/report.h"
#include <stdlib.h>
#include <string.h>

static json_t *tensor_entry(const char *name, const char *dtype, json_t *shape, uint64_t bytes, const char *file,
                            json_t *off)
{
    json_t *o = json_object();

    put_text(o, "name", name);
    put_text(o, "dtype", dtype);
    put(o, "shape", shape);
    put_u64(o, "bytes", bytes);
    put_text(o, "file", file);
    put(o, "offset", off);
    return o;
}

static uint64_t add(uint64_t a, uint64_t b)
{
    uint64_t sum;

    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum; /* files may claim anything */
}

/* Counts by dtype or by file: kind -> {tensors, bytes}, in the order in which they came. */
static void tally(json_t *by, const char *kind, uint64_t bytes)
{
    json_t *name = document_string(kind), *o = json_object_get(by, json_string_value(name));

    if (!o) {
        o = json_object();
        put(by, json_string_value(name), o);
    }
    put_u64(o, "tensors", (uint64_t)json_integer_value(json_object_get(o, "tensors")) + 1);
    put_u64(o, "bytes", add((uint64_t)json_integer_value(json_object_get(o, "bytes")), bytes));
    json_decref(name);
}

/* The same as a list of {key: kind, tensors, bytes}; takes the reference. */
static json_t *tally_list(json_t *by, const char *key)
{
    json_t *list = json_array(), *counts;
    const char *kind;

    json_object_foreach(by, kind, counts)
    {
        json_t *o = json_object();

        put_text(o, key, kind);
        json_object_update(o, counts);
        json_array_append_new(list, o);
    }
    json_decref(by);
    return list;
}

static json_t *ckpt_files(const struct checkpoint *c)
{
    uint64_t *n = xmalloc((c->files_n + 1) * sizeof *n);
    json_t *list = json_array();

    memset(n, 0, (c->files_n + 1) * sizeof *n);
    for (size_t i = 0; i < c->tensors_n; i++)
        n[c->tensor[i].file]++;
    for (size_t i = 0; i < c->files_n; i++) {
        json_t *o = json_object();

        put_text(o, "name", c->file[i].name);
        put_u64(o, "bytes", c->file[i].id.bytes);
        put_u64(o, "tensors", n[i]);
        json_array_append_new(list, o);
    }
    free(n);
    return list;
}

void inspect_tensors(json_t *doc, const struct checkpoint *c)
{
    json_t *tensors = json_array(), *dtypes = json_object();

    for (size_t i = 0; i < c->tensors_n; i++) {
        const struct tensor *t = &c->tensor[i];

        json_array_append_new(tensors, tensor_entry(t->name, t->dtype_text, document_shape(t->shape, t->rank), t->bytes,
                                                    c->file[t->file].name, document_u64(t->off)));
        tally(dtypes, t->dtype_text, t->bytes);
    }
    put(doc, "files", ckpt_files(c));
    put(doc, "tensors", tensors);
    put(doc, "dtypes", tally_list(dtypes, "dtype"));
    put_u64(doc, "bytes", c->bytes);
}

static json_t *config_summary(const struct model *m)
{
    const json_t *config = m->ckpt->config;
    json_t *o = json_object(), *architectures = json_object_get(config, "architectures");

    put_text(o, "model_type", json_string_value(json_object_get(config, "model_type")));
    put(o, "architectures", architectures ? json_incref(architectures) : json_null());
    put_u64(o, "hidden_size", m->hidden_size);
    put_u64(o, "layers", m->layers);
    put_u64(o, "heads", m->heads);
    put_u64(o, "kv_heads", m->kv_heads);
    put_u64(o, "head_dim", m->head_dim);
    put_u64(o, "vocab", m->vocab_size);
    if (m->draft) {
        put_u64(o, "draft_vocab", m->draft_vocab_size);
        put_u64(o, "target_hidden_size", m->target_hidden_size);
    } else {
        put(o, "tied", json_boolean(m->tied));
    }
    put_text(o, "stored", (m->quantization.format ? m->quantization.format : &stored_formats[0])->name);
    return o;
}

void inspect_problem(json_t *problems, struct err *e)
{
    if (e->kind)
        json_array_append_new(problems, document_string(e->msg));
    *e = (struct err){ 0 };
}

static void add_stored(json_t *list, const char *stored, uint64_t n)
{
    json_t *o = json_object();

    put_text(o, "stored", stored);
    put_u64(o, "linears", n);
    if (n)
        json_array_append_new(list, o);
    else
        json_decref(o);
}

/* How the linears of a graph that was built are stored: a quantized checkpoint may leave some plain. */
static json_t *linears(const struct model *m)
{
    const struct tensor *embedding = model_source(m, "embed_tokens.weight");
    json_t *list = json_array();
    uint64_t plain = 0;

    for (size_t i = 0; i < m->ckpt->tensors_n; i++) {
        const struct tensor *t = &m->ckpt->tensor[i];

        plain += m->used[i] && t->rank == 2 && t != embedding && str_ends(t->name, stored_formats[0].packed);
    }
    if (m->quantization.format)
        add_stored(list, m->quantization.format->name, m->int4_n);
    add_stored(list, stored_formats[0].name, plain);
    return list;
}

/* What a base model and a draft have besides layers. */
static void check_rest(struct model *m, struct err *e)
{
    int32_t *d2t;

    if (!m->draft)
        model_weight(m, "embed_tokens.weight", m->vocab_size, m->hidden_size);
    if (!model_check(m, e) && m->draft && !model_d2t(m, &d2t, e))
        draft_check_unused(m, e);
}

/* What an export would stumble over, besides the files themselves. */
static void model_part(json_t *doc, const struct checkpoint *c, bool draft, struct notes *notes, struct arena *a,
                       json_t *problems)
{
    struct decoder_mode mode = { 0 };
    struct graph g = { 0 };
    struct model m = { 0 };
    struct err e = { 0 };

    if (!(draft ? model_open_draft : model_open)(&m, c, a, notes, &e)) {
        put(doc, "config", config_summary(&m));
        if (!decoder_build(&g, &m, dialects[0], &mode, a, &e)) {
            put(doc, "linears", linears(&m));
            check_rest(&m, &e);
        }
    }
    put_text(doc, "family", m.family ? m.family->model_type : NULL);
    inspect_problem(problems, &e);
    put(doc, "notes", report_notes(notes));
    graph_release(&g);
    model_close(&m);
}

/* Only an open directory shows that it is a draft, and of a draft another file may be the one that counts. */
static int open_any(struct checkpoint *c, const char *path, bool *draft, struct arena *a, struct notes *notes,
                    struct err *e)
{
    if (ckpt_open(c, path, a, notes, e))
        return -1;
    *draft = model_is_draft(c);
    if (!*draft)
        return 0;
    ckpt_close(c);
    notes_release(notes);
    return draft_open(c, path, a, notes, e);
}

static json_t *inspect_checkpoint(const char *path, struct arena *a, struct err *e)
{
    json_t *doc = NULL, *problems;
    struct notes notes = { 0 };
    struct checkpoint c = { 0 };
    bool draft = false;

    if (!open_any(&c, path, &draft, a, &notes, e)) {
        doc = json_object();
        problems = json_array();
        put_text(doc, "kind", draft ? "draft" : "checkpoint");
        put_text(doc, "path", path);
        put_text(doc, "container", c.container);
        model_part(doc, &c, draft, &notes, a, problems);
        inspect_tensors(doc, &c);
        put(doc, "problems", problems);
    }
    ckpt_close(&c);
    notes_release(&notes);
    return doc;
}

static json_t *onnx_dim(const Onnx__TensorShapeProto__Dimension *d)
{
    if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM)
        return document_string(d->dim_param);
    if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE)
        return json_integer(d->dim_value);
    return json_string("?"); /* any size, without a name */
}

static json_t *onnx_values(Onnx__ValueInfoProto *const *v, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++) {
        const Onnx__TypeProto *type = v[i]->type;
        const Onnx__TypeProto__Tensor *t =
            type && type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE ? type->tensor_type : NULL;
        json_t *o = json_object(), *shape = json_array();

        for (size_t k = 0; t && t->shape && k < t->shape->n_dim; k++) {
            json_array_append_new(shape, onnx_dim(t->shape->dim[k]));
        }
        put_text(o, "name", v[i]->name);
        put_text(o, "dtype", dtype_name(onnx_dtype(t ? t->elem_type : 0)));
        put(o, "shape", shape);
        json_array_append_new(list, o);
    }
    return list;
}

/* A member whose name comes from the file. */
static void put_named(json_t *o, const char *key, json_t *v)
{
    json_t *name = document_string(key ? key : "");

    put(o, json_string_value(name), v);
    json_decref(name);
}

static json_t *onnx_facts(const Onnx__ModelProto *m)
{
    json_t *o = json_object(), *opsets = json_object();

    for (size_t i = 0; i < m->n_metadata_props; i++)
        put_named(o, m->metadata_props[i]->key, document_string(m->metadata_props[i]->value));
    put_text(o, "producer", m->producer_name);
    put_text(o, "producer_version", m->producer_version);
    put(o, "ir_version", json_integer(m->ir_version));
    for (size_t i = 0; i < m->n_opset_import; i++)
        put_named(opsets, m->opset_import[i]->domain, json_integer(m->opset_import[i]->version));
    put(o, "opsets", opsets);
    put(o, "nodes", json_integer((json_int_t)m->graph->n_node));
    return o;
}

static int file_bytes(const char *path, uint64_t *bytes, struct err *e)
{
    int fd = file_open_read(path, e), ret;
    struct file_id id;

    if (fd < 0)
        return -1;
    ret = file_identify(fd, path, &id, e);
    *bytes = id.bytes;
    file_close(fd);
    return ret;
}

/* An initializer's place against the size of its file. */
static void check_place(const char *dir, const Onnx__TensorProto *t, const struct onnx_place *p, struct arena *a,
                        struct err *e)
{
    char q[STR_QUOTED], q2[STR_QUOTED];
    uint64_t bytes;

    if (!p->external || file_bytes(arena_printf(a, "%s/%s", dir, p->location), &bytes, e))
        return;
    if (p->off + p->bytes > bytes)
        err_set(e, ERR_FORMAT, "%s: reaches to byte %llu of %s, which has %llu: the file is cut short",
                str_quote(q, onnx_name(t)), (unsigned long long)(p->off + p->bytes), str_quote(q2, p->location),
                (unsigned long long)bytes);
}

static void onnx_tensors(json_t *doc, const Onnx__ModelProto *m, const char *dir, struct arena *a, json_t *problems)
{
    json_t *tensors = json_array(), *dtypes = json_object(), *files = json_object();
    uint64_t all = 0;

    for (size_t i = 0; i < m->graph->n_initializer; i++) {
        const Onnx__TensorProto *t = m->graph->initializer[i];
        const char *dtype = dtype_name(onnx_dtype(t->data_type)), *file;
        json_t *shape = json_array();
        struct onnx_place p;
        struct err e = { 0 };

        if (!onnx_place(t, &p, &e))
            check_place(dir, t, &p, a, &e);
        file = p.external && p.location ? p.location : "model.onnx";
        for (size_t k = 0; k < t->n_dims; k++)
            json_array_append_new(shape, json_integer(t->dims[k]));
        json_array_append_new(tensors, tensor_entry(t->name, dtype, shape, p.bytes, file,
                                                    p.external ? document_u64(p.off) : json_null()));
        tally(dtypes, dtype, p.bytes);
        tally(files, file, p.bytes);
        all = add(all, p.bytes);
        if (json_array_size(problems) < ERR_LINES)
            inspect_problem(problems, &e);
    }
    put(doc, "tensors", tensors);
    put(doc, "dtypes", tally_list(dtypes, "dtype"));
    put(doc, "files", tally_list(files, "name"));
    put_u64(doc, "bytes", all);
}

static json_t *inspect_export(const char *path, struct arena *a, struct err *e)
{
    Onnx__ModelProto *m = onnx_load(arena_printf(a, "%s/model.onnx", path), e);
    json_t *doc, *problems;

    if (!m)
        return NULL;
    doc = json_object();
    problems = json_array();
    put_text(doc, "kind", "export");
    put_text(doc, "path", path);
    put_text(doc, "container", "onnx");
    put(doc, "metadata", onnx_facts(m));
    put(doc, "inputs", onnx_values(m->graph->input, m->graph->n_input));
    put(doc, "outputs", onnx_values(m->graph->output, m->graph->n_output));
    onnx_tensors(doc, m, path, a, problems);
    put(doc, "problems", problems);
    onnx_free(m);
    return doc;
}

static json_t *inspect(const char *path, struct arena *a, struct err *e)
{
    if (archive_is(path))
        return packing_inspect(path, a, e);
    if (file_exists(arena_printf(a, "%s/model.onnx", path)))
        return inspect_export(path, a, e);
    return adapter_is_there(path, a) ? inspect_adapter(path, a, e) : inspect_checkpoint(path, a, e);
}

int wb_list(const char *archive, char **description, struct wb_error *error)
{
    struct arena a = { 0 };
    struct err e = { 0 };
    json_t *doc = packing_inspect(archive, &a, &e);

    if (doc)
        *description = document_text(doc);
    arena_release(&a);
    return front_result(&e, error);
}

int wb_inspect(const char *path, char **description, struct wb_error *error)
{
    struct arena a = { 0 };
    struct err e = { 0 };
    json_t *doc = inspect(path, &a, &e);
    struct err unfinished = { 0 };

    if (outdir_check_whole(path, &a, &unfinished) && !doc)
        e = unfinished; /* which is why there is nothing to describe yet */
    if (doc) {
        inspect_problem(json_object_get(doc, "problems"), &unfinished);
        *description = document_text(doc);
    }
    arena_release(&a);
    return front_result(&e, error);
}
