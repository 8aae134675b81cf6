/* verify.c - wb_verify: an export against its checkpoint, everything again by the slow way.
 *
 * What each initializer must be comes from its consumer in the graph of OUT
 * (roles.h), its bytes from the checkpoint by the plain scalar path, in bounded
 * memory.  Nodes, inputs, outputs (verify_graph.c) and side files are compared
 * with what this version would write; padding must be zero. */
#include <weighbridge.h>
#include "base/hash.h"
#include "base/json.h"
#include "emit/lora_insert.h"
#include "front/differences.h"
#include "front/document.h"
#include "front/front.h"
#include "front/merge.h"
#include "front/report.h"
#include "front/roles.h"
#include "front/verify_graph.h"
#include "front/verify_tensor.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define META_VOCAB    "weighbridge.reduced_vocab"
#define META_TEMPLATE "weighbridge.chat_template"

enum { TOLD_MOST = 1000, SIDEFILE_MOST = 1 << 28 };

void differ(struct differences *d, const char *what, const char *name, const char *fmt, ...)
{
    json_t *o;
    char text[1024];
    va_list ap;

    if (json_array_size(d->list) >= TOLD_MOST)
        return;
    va_start(ap, fmt);
    if (vsnprintf(text, sizeof text, fmt, ap) >= (int)sizeof text)
        strcpy(text + str_whole(text, sizeof text - 4), "...");
    va_end(ap);
    str_clean(text); /* one sentence, whatever is in a name */
    o = json_object();
    put_text(o, "what", what);
    put_text(o, "name", name);
    put_text(o, "text", text);
    json_array_append_new(d->list, o);
}

void differ_err(struct differences *d, const char *what, const char *name, struct err *e)
{
    differ(d, what, name, "%s", e->msg);
    *e = (struct err){ 0 };
}

struct verify {
    const struct wb_options *o;
    struct wb_options repeat; /* the options that the export was made with */
    struct export_job job;
    Onnx__ModelProto *onnx, *expected;
    struct differences d;
    struct arena arena;
};

static const char *out_path(struct verify *v, const char *name)
{
    return arena_printf(&v->arena, "%s/%s", v->o->out, name);
}

/* ------------------------------------------------------------------ what was asked for */

static bool given_template(const struct verify *v)
{
    const char *how = onnx_metadata(v->onnx, META_TEMPLATE);

    return how && !strncmp(how, JOB_TEMPLATE_FILE, strlen(JOB_TEMPLATE_FILE));
}

static bool is_meta(const struct verify *v, const char *key, const char *value)
{
    const char *found = onnx_metadata(v->onnx, key);

    return found && !strcmp(found, value);
}

/* The map that was given now, or else the export's copy. */
static const char *reduced_vocab(const struct verify *v)
{
    if (v->o->reduced_vocab)
        return v->o->reduced_vocab;
    return onnx_metadata(v->onnx, META_VOCAB) && !is_meta(v, META_VOCAB, "none") ? v->o->out : NULL;
}

/* Without the map nothing can be said about lm_head, nor about the graph that has its size. */
static bool vocab_map_spoilt(struct verify *v)
{
    struct err e = { 0 };
    const char *hash;

    if (!v->repeat.reduced_vocab)
        return false;
    hash = vocab_map_hash(v->repeat.reduced_vocab, &v->arena, &e);
    if (!hash)
        differ_err(&v->d, "file", VOCAB_MAP_FILE, &e);
    else if (!is_meta(v, META_VOCAB, hash))
        differ(&v->d, "file", VOCAB_MAP_FILE,
               "%s/%s: is not the map that the export was made with (its XXH3 differs); nothing else was compared",
               v->repeat.reduced_vocab, VOCAB_MAP_FILE);
    else
        return false;
    return true;
}

static int check_merge(const struct verify *v, struct err *e)
{
    const char *modules = onnx_metadata(v->onnx, META_MERGE);

    if (modules && !v->o->merge_lora)
        return err_set(e, ERR_USAGE,
                       "%s: a LoRA adapter was merged into it (%s): give the adapter again by --merge-lora ADAPTER",
                       v->o->out, modules);
    if (!modules && v->o->merge_lora)
        return err_set(e, ERR_USAGE, "%s: no LoRA adapter was merged into it: leave --merge-lora out", v->o->out);
    return 0;
}

static int read_options(struct verify *v, struct err *e)
{
    const char *target = onnx_metadata(v->onnx, "weighbridge.target"), *how = onnx_metadata(v->onnx, META_TEMPLATE);

    if (!target || !how)
        return err_set(
            e, ERR_FORMAT,
            "%s/model.onnx: has no weighbridge.* metadata, so it was not made by weighbridge: expected an export of "
            "ours",
            v->o->out);
    if (check_merge(v, e))
        return -1;
    v->repeat = (struct wb_options){ .model = v->o->model, .target = target, .memory = v->o->memory };
    v->repeat.draft = is_meta(v, "weighbridge.mode", "eagle3_draft");
    v->repeat.base_model = v->o->base_model;
    if (v->o->base_model && !v->repeat.draft)
        return err_set(e, ERR_USAGE, "%s: is not an EAGLE3 draft: leave --base-model out", v->o->out);
    v->repeat.eagle_base = is_meta(v, "weighbridge.mode", "eagle3_base");
    v->repeat.eagle_draft = v->o->eagle_draft;
    if (v->o->eagle_draft && !v->repeat.eagle_base)
        return err_set(e, ERR_USAGE, "%s: is not the base of an EAGLE3 draft: leave --eagle-draft out", v->o->out);
    v->repeat.reduced_vocab = reduced_vocab(v);
    v->repeat.merge_lora = v->o->merge_lora;
    v->repeat.fp8_kv_cache = is_meta(v, "weighbridge.fp8_kv_cache", "1");
    v->repeat.zero_points = onnx_metadata(v->onnx, META_ZEROS);
    v->repeat.no_chat_template = !strcmp(how, "none") || (given_template(v) && !v->o->chat_template);
    v->repeat.chat_template = given_template(v) ? v->o->chat_template : NULL;
    return 0;
}

/* The model path that the export names, when it means the same directory as the one given now; and its age. */
static void read_hints(struct verify *v, struct job_hints *h)
{
    const char *path = out_path(v, "processed_chat_template.json"), *model_path;
    const char *layers = onnx_metadata(v->onnx, "weighbridge.eagle_layers");
    struct err ignored = { 0 };
    struct file_id id;
    json_t *doc;
    char *text;
    size_t n;
    int fd;

    *h = (struct job_hints){ 0 };
    if (layers && !v->repeat.eagle_draft &&
        sscanf(layers, "%u,%u,%u", &h->hidden[0], &h->hidden[1], &h->hidden[2]) == 3)
        h->has_hidden = true;
    if ((fd = file_open_read(path, &ignored)) < 0)
        return;
    if (!file_identify(fd, path, &id, &ignored))
        h->now = id.mtime_ns / 1000000000;
    file_close(fd);
    if (file_read(path, SIDEFILE_MOST, &text, &n, &ignored))
        return;
    doc = json_parse(text, n, path, &ignored);
    model_path = json_string_value(json_object_get(doc, "model_path"));
    if (model_path && file_same_directory(model_path, v->o->model))
        h->model_path = arena_strdup(&v->arena, model_path);
    json_decref(doc);
    free(text);
}

/* ------------------------------------------------------------------ graph */

static int compare_graph(struct verify *v, struct err *e)
{
    struct export_job *j = &v->job;
    struct str bytes = { 0 };

    if (onnx_file(&j->graph, j->dialect, &j->layout, j->tensor, j->meta, j->meta_n, &bytes, e)) {
        str_release(&bytes);
        return -1;
    }
    v->expected = onnx__model_proto__unpack(NULL, bytes.n, (const uint8_t *)bytes.s);
    str_release(&bytes);
    if (!v->expected)
        return err_set(e, ERR_INTERNAL, "the graph that the checkpoint gives cannot be read back");
    verify_graph(&v->d, &(struct graph_pair){ "model.onnx", "", "the checkpoint", v->onnx, v->expected, false });
    if (onnx_has_more(v->onnx))
        differ(&v->d, "graph", "model.onnx",
               "model.onnx: has fields that this version does not write, such as functions or sparse initializers, "
               "which may change what it computes");
    v->d.files++;
    return 0;
}

/* What `lora insert` makes of the model.onnx that is there; the data file is the same. */
static void compare_lora(struct verify *v)
{
    const char *path = out_path(v, LORA_MODEL), *plain = out_path(v, "model.onnx");
    Onnx__ModelProto *found = NULL, *expected = NULL;
    struct lora_places places;
    struct err e = { 0 };

    if (!file_exists(path))
        return;
    if ((found = onnx_load(path, &e)) && (expected = onnx_load(plain, &e)) &&
        lora_insert(expected, &places, &v->arena, &e))
        err_at(&e, "%s", plain);
    if (e.kind)
        differ_err(&v->d, "graph", LORA_MODEL, &e);
    else
        verify_graph(&v->d, &(struct graph_pair){ LORA_MODEL, LORA_MODEL ": ", "an insertion into model.onnx", found,
                                                  expected, true });
    onnx_free(found);
    onnx_free(expected);
    v->d.files++;
}

/* ------------------------------------------------------------------ tensors */

/* An external tensor stands in the data file, at this place of it. */
static bool place_piece(struct verify *v, const struct onnx_place *place, struct verify_piece *p, uint64_t data_n)
{
    if (!place->external)
        return true;
    p->bytes = NULL;
    p->file = place->location;
    p->off = place->off;
    if (!strcmp(place->location, v->job.dialect->data_file) && place->off <= data_n &&
        place->bytes <= data_n - place->off)
        return true;
    differ(&v->d, "tensor", p->name, "%s: stands at %llu of %s, beyond the end of %s (%llu bytes)", p->name,
           (unsigned long long)place->off, place->location, v->job.dialect->data_file, (unsigned long long)data_n);
    return false;
}

/* One initializer of OUT against the source that its role names. */
static int compare_initializer(struct verify *v, const Onnx__TensorProto *t, const struct role *role, int data_fd,
                               uint64_t data_n, struct err *e)
{
    struct verify_piece p = { .name = onnx_name(t), .bytes = t->raw_data.data, .fd = data_fd };
    struct model *m = &v->job.model;
    const struct tensor *source;
    struct onnx_place place;
    uint64_t n;

    if (onnx_place(t, &place, e) || onnx_elements(t, &n, e)) {
        differ_err(&v->d, "tensor", p.name, e);
        return 0;
    }
    source = model_source(m, role->weight);
    if (v->job.mode.merge && role->kind == ROLE_MATRIX && source && source->rank == 2)
        p.merge = adapter_find(&v->job.adapter, merge_module(role->weight, &v->arena));
    if (v->job.mode.vocab && source && !strcmp(role->weight, "lm_head.weight")) {
        p.rows = v->job.vocab.id;
        p.rows_n = v->job.vocab.n;
    }
    if (!source || (p.rows ? p.rows_n * source->shape[1] : source->elements) != n || !n ||
        t->data_type != dtype_onnx(DT_F16) || !transform_find(TRANSFORM_CAST, source->dtype, DT_F16)) {
        differ(&v->d, "tensor", p.name, "%s: is used as %s, which %s", p.name, role->weight,
               source ? "has another size or type in the checkpoint" : "the checkpoint does not have");
        return 0;
    }
    if (!place_piece(v, &place, &p, data_n))
        return 0;
    return verify_tensor(&v->d, &v->job.ckpt, source, role->kind == ROLE_MATRIX && source->rank == 2, &p, e);
}

/* What a tensor of a 4-bit linear must be; NULL: the linear has none of that kind. */
static const struct recipe *int4_recipe(struct verify *v, const struct int4 *q, enum role_kind kind, struct err *e)
{
    struct arena *a = &v->arena;

    if (kind == ROLE_PACK4)
        return recipe_pack4(a, q);
    if (kind == ROLE_ORDER)
        return q->g_idx ? recipe_order(a, q) : NULL;
    if (kind == ROLE_ZEROS)
        return q->kept == ZEROS_ADDED ? recipe_zeros(a, q) : NULL;
    return recipe_cast(a, recipe_source(a, q->scales), DT_F16, e);
}

static int compare_int4(struct verify *v, const Onnx__TensorProto *t, const struct role *role, int data_fd,
                        uint64_t data_n, struct err *e)
{
    const struct int4 *q = model_int4(&v->job.model, role->weight);
    const struct recipe *r = q ? int4_recipe(v, q, role->kind, e) : NULL;
    struct verify_piece p = { .name = onnx_name(t), .bytes = t->raw_data.data, .fd = data_fd };
    struct recipe_plain plain;
    struct onnx_place place;
    uint64_t n;

    if (e->kind)
        return -1;
    if (onnx_place(t, &place, e) || onnx_elements(t, &n, e)) {
        differ_err(&v->d, "tensor", p.name, e);
        return 0;
    }
    if (!r || recipe_elements(r) != n || t->data_type != dtype_onnx(r->dtype)) {
        differ(&v->d, "tensor", p.name, "%s: is used as a tensor of the 4-bit linear %s, which %s", p.name,
               role->weight, r ? "has another size or type" : "the checkpoint does not have");
        return 0;
    }
    if (!place_piece(v, &place, &p, data_n))
        return 0;
    if (role->kind == ROLE_SCALES)
        return verify_tensor(&v->d, &v->job.ckpt, q->scales, q->packing == INT4_OUT, &p, e);
    return recipe_plain(r, &plain, e) || verify_units(&v->d, &v->job.ckpt, &plain, &p, e) ? -1 : 0;
}

/* Two floats from the calibration, inline. */
static int compare_scale(struct verify *v, const Onnx__TensorProto *t, const struct role *role, struct err *e)
{
    const char *name = onnx_name(t);
    float scale[2] = { 0 };

    if (role->layer < v->job.model.layers && model_kv_scale(&v->job.model, role->layer, scale, e))
        return -1;
    if (t->raw_data.len != sizeof scale || memcmp(t->raw_data.data, scale, sizeof scale))
        differ(&v->d, "tensor", name, "%s: differs from the calibration's {%g, %g}", name, (double)scale[0],
               (double)scale[1]);
    v->d.tensors++;
    return 0;
}

static int compare_role(struct verify *v, const Onnx__TensorProto *t, const struct role *role, int data_fd,
                        uint64_t data_n, struct err *e)
{
    switch (role->kind) {
    case ROLE_VECTOR:
    case ROLE_MATRIX:
        return compare_initializer(v, t, role, data_fd, data_n, e);
    case ROLE_KV_SCALE:
        return compare_scale(v, t, role, e);
    default:
        return compare_int4(v, t, role, data_fd, data_n, e);
    }
}

static int compare_initializers(struct verify *v, int data_fd, uint64_t data_n, struct err *e)
{
    const Onnx__GraphProto *g = v->onnx->graph;
    struct role *role;
    unsigned layers;

    if (roles_find(g, &role, &layers, &v->arena, e))
        differ_err(&v->d, "graph", "model.onnx", e);
    for (size_t i = 0; i < g->n_initializer; i++) {
        const char *name = onnx_name(g->initializer[i]);

        if (!role[i].weight)
            differ(&v->d, "tensor", name, "%s: the graph does not show what it is", name);
        else if (compare_role(v, g->initializer[i], &role[i], data_fd, data_n, e))
            return -1;
    }
    return 0;
}

/* What stands between two tensors, or behind the last, must be zeros. */
static int compare_padding(struct verify *v, int fd, const char *name, uint64_t from, uint64_t to, struct err *e)
{
    unsigned char buf[LAYOUT_ALIGN];

    while (from < to) {
        size_t n = to - from < sizeof buf ? (size_t)(to - from) : sizeof buf;

        if (file_pread(fd, name, buf, n, from, e))
            return -1;
        for (size_t i = 0; i < n; i++)
            if (buf[i]) {
                differ(&v->d, "padding", name, "%s: the padding byte at %llu is 0x%02x, expected 0", name,
                       (unsigned long long)(from + i), buf[i]);
                return 0;
            }
        from += n;
    }
    return 0;
}

/* Size, head and padding of a data file; the tensors of embedding.safetensors too. */
static int compare_data_file(struct verify *v, unsigned file, int fd, uint64_t bytes, struct err *e)
{
    const struct layout *l = &v->job.layout;
    const struct data_file *f = &l->file[file];
    unsigned char head[LAYOUT_ALIGN];
    uint64_t at = f->head_bytes;

    if (bytes != f->bytes) {
        differ(&v->d, "file", f->name, "%s: has %llu bytes, expected %llu", f->name, (unsigned long long)bytes,
               (unsigned long long)f->bytes);
        return 0;
    }
    if (f->head_bytes) {
        if (file_pread(fd, f->name, head, f->head_bytes, 0, e))
            return -1;
        if (memcmp(head, f->head, f->head_bytes))
            differ(&v->d, "file", f->name, "%s: its header differs from what the checkpoint gives", f->name);
    }
    for (size_t i = 0; i < l->items_n; i++) {
        if (l->item[i].file != file)
            continue;
        if (compare_padding(v, fd, f->name, at, l->item[i].off, e))
            return -1;
        at = l->item[i].off + l->item[i].bytes;
    }
    v->d.files++;
    return 0;
}

static int open_data(struct verify *v, const char *name, int *fd, uint64_t *bytes, struct err *e)
{
    const char *path = out_path(v, name);
    struct file_id id = { 0 };

    *fd = file_open_read(path, e);
    if (*fd >= 0 && !file_identify(*fd, path, &id, e)) {
        *bytes = id.bytes;
        return 0;
    }
    differ_err(&v->d, "file", name, e);
    return 0;
}

static int compare_embedding(struct verify *v, int fd, struct err *e)
{
    const struct placed *item = layout_find(&v->job.layout, "embedding.safetensors", "embedding");
    struct verify_piece p = { .name = "embedding", .fd = fd, .file = "embedding.safetensors", .off = item->off };

    return verify_tensor(&v->d, &v->job.ckpt, model_source(&v->job.model, "embed_tokens.weight"), false, &p, e);
}

static int compare_data(struct verify *v, struct err *e)
{
    const struct layout *l = &v->job.layout;
    int ret = 0;

    for (unsigned i = 0; !ret && i < l->files_n; i++) {
        bool weights = !strcmp(l->file[i].name, v->job.dialect->data_file);
        uint64_t bytes = 0;
        int fd;

        ret = open_data(v, l->file[i].name, &fd, &bytes, e);
        if (!ret && fd >= 0) {
            ret = compare_data_file(v, i, fd, bytes, e);
            if (!ret && !weights && bytes == l->file[i].bytes)
                ret = compare_embedding(v, fd, e);
        }
        if (!ret && weights)
            ret = compare_initializers(v, fd, bytes, e);
        if (fd >= 0)
            file_close(fd);
    }
    if (!ret && (!l->files_n || strcmp(l->file[0].name, v->job.dialect->data_file))) /* all of them are inline */
        ret = compare_initializers(v, -1, 0, e);
    return ret;
}

/* ------------------------------------------------------------------ side files */

static int load_expected(const struct sidefile *f, char **bytes, size_t *n, struct err *e)
{
    if (f->copy_from)
        return file_read(f->copy_from, SIDEFILE_MOST, bytes, n, e);
    *bytes = xmalloc(f->n);
    memcpy(*bytes, f->bytes, f->n);
    *n = f->n;
    return 0;
}

static void compare_sidefile(struct verify *v, const struct sidefile *f, struct err *e)
{
    char *expected = NULL, *found = NULL;
    size_t expected_n, found_n, at = 0;

    if (load_expected(f, &expected, &expected_n, e) ||
        file_read(out_path(v, f->name), SIDEFILE_MOST, &found, &found_n, e)) {
        differ_err(&v->d, "file", f->name, e);
        free(expected);
        return;
    }
    while (at < expected_n && at < found_n && expected[at] == found[at])
        at++;
    if (at < expected_n || at < found_n)
        differ(&v->d, "file", f->name, "%s: differs at byte %zu (%zu bytes, expected %zu)%s", f->name, at, found_n,
               expected_n,
               v->job.tokenizer.uses_clock ? "; the chat template writes the date, taken from the file's time" : "");
    v->d.files++;
    v->d.bytes += found_n;
    free(expected);
    free(found);
}

/* A chat template that was given as a file and is not given now: its hash stands in the metadata. */
static void compare_given_template(struct verify *v, struct err *e)
{
    const char *name = "processed_chat_template.json", *how = onnx_metadata(v->onnx, META_TEMPLATE);
    char *text;
    size_t n;

    if (!given_template(v) || v->repeat.chat_template)
        return;
    if (file_read(out_path(v, name), SIDEFILE_MOST, &text, &n, e)) {
        differ_err(&v->d, "file", name, e);
        return;
    }
    if (strcmp(job_template_file(XXH3_64bits(text, n), &v->arena), how))
        differ(&v->d, "file", name, "%s: is not the file that was given to the export (its XXH3 differs)", name);
    v->d.files++;
    free(text);
}

static void compare_sidefiles(struct verify *v, struct err *e)
{
    for (size_t i = 0; i < v->job.side.n; i++)
        compare_sidefile(v, &v->job.side.v[i], e);
    compare_given_template(v, e);
    if (v->repeat.no_chat_template && !given_template(v) && file_exists(out_path(v, "processed_chat_template.json")))
        differ(&v->d, "file", "processed_chat_template.json", "processed_chat_template.json: is there, expected none");
}

/* ------------------------------------------------------------------ the whole */

/* Of a template that was given as a file then and is not now, the metadata is taken as it is. */
static void take_template_metadata(struct verify *v)
{
    struct metadata *meta = v->job.meta;

    for (size_t i = 0; i < v->job.meta_n; i++)
        if (given_template(v) && !v->repeat.chat_template && !strcmp(meta[i].key, META_TEMPLATE))
            meta[i].value = onnx_metadata(v->onnx, META_TEMPLATE);
}

static int verify_all(struct verify *v, struct err *e)
{
    struct job_hints hints;

    if (!(v->onnx = onnx_load(out_path(v, "model.onnx"), e)) || read_options(v, e))
        return -1;
    if (vocab_map_spoilt(v))
        return 0;
    read_hints(v, &hints);
    if (job_prepare(&v->job, &v->repeat, &hints, e))
        return -1;
    take_template_metadata(v);
    if (compare_graph(v, e) || compare_data(v, e))
        return -1;
    compare_lora(v);
    compare_sidefiles(v, e);
    return 0;
}

static json_t *document(const struct verify *v)
{
    json_t *o = json_object();

    put_text(o, "out", v->o->out);
    put_text(o, "model", v->o->model);
    put(o, "ok", json_boolean(!json_array_size(v->d.list)));
    put_u64(o, "tensors", v->d.tensors);
    put_u64(o, "files", v->d.files);
    put_u64(o, "bytes", v->d.bytes);
    if (v->job.mode.merge) {
        put_u64(o, "merged", v->d.merged);
        put_u64(o, "neighbours", v->d.neighbours);
    }
    put(o, "differences", json_incref(v->d.list));
    return o;
}

int wb_verify(const struct wb_options *o, char **report, struct wb_error *error)
{
    struct verify v = { .o = o };
    struct err e = { 0 };

    v.d.list = json_array();
    if (!o->out || !o->model)
        err_set(&e, ERR_USAGE, "verify needs an export and its checkpoint");
    else if (!verify_all(&v, &e)) {
        if (json_array_size(v.d.list))
            err_set(&e, ERR_FORMAT, "%s: differs from %s in %zu place%s; the first: %s", o->out, o->model,
                    json_array_size(v.d.list), json_array_size(v.d.list) == 1 ? "" : "s",
                    json_string_value(json_object_get(json_array_get(v.d.list, 0), "text")));
        if (report)
            *report = document_text(document(&v));
    }
    json_decref(v.d.list);
    onnx_free(v.onnx);
    onnx_free(v.expected);
    job_release(&v.job);
    arena_release(&v.arena);
    return front_result(&e, error);
}
