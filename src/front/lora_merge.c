/* lora_merge.c - wb_lora_merge: a checkpoint in fp16 with a LoRA adapter merged into it.
 *
 * The same shards with the same tensors in the same order, through the pipeline
 * that exports use, so memory is bounded here too; config.json with its dtype set,
 * and the other small files as they are.  Two things are not as in the source: a
 * head that shares the embedding's weight gets one of its own where the adapter
 * changes it (the embedding stays, as it did in training), and linears that PEFT
 * wrapped lose the wrapper, with the adapters that were saved in it. */
#include <weighbridge.h>
#include "base/json.h"
#include "checkpoint/listing.h"
#include "emit/is_export.h"
#include "emit/outdir.h"
#include "emit/sidefile.h"
#include "front/document.h"
#include "front/front.h"
#include "front/merge.h"
#include "front/report.h"
#include <stdlib.h>
#include <string.h>

struct merging {
    const struct wb_options *o;
    struct arena arena;
    struct notes notes;
    struct plan_budget budget;
    struct checkpoint ckpt;
    struct model model;
    struct adapter adapter;
    const struct adapter_pair *head; /* of a tied head, which becomes a tensor of its own; NULL: none */
    const char *head_name;
    size_t dropped; /* tensors of adapters saved in the checkpoint */
    struct layout layout;
    struct sidefiles side;
    struct plan plan;
    struct outdir out;
    struct run_result run;
};

/* ---- which tensors, under which names ---- */

static bool is_factor(const char *name) { return strstr(name, ".lora_A.") || strstr(name, ".lora_B."); }

/* Without the wrapper. */
static const char *plain_name(struct merging *g, const char *name)
{
    static const char wrapper[] = ".base_layer.";
    const char *at = strstr(name, wrapper);

    return at ? arena_printf(&g->arena, "%.*s.%s", (int)(at - name), name, at + sizeof wrapper - 1) : name;
}

static bool is_wrapped(const struct checkpoint *c)
{
    for (size_t i = 0; i < c->tensors_n; i++)
        if (strstr(c->tensor[i].name, ".base_layer."))
            return true;
    return false;
}

/* A head that shares the embedding's weight has no tensor, or one that nobody reads. */
static void untie(struct merging *g)
{
    const struct model *m = &g->model;
    const char *prefix = m->prefix;

    if (!m->tied || !(g->head = adapter_take(&g->adapter, "lm_head")))
        return;
    g->head_name = m->head_name                              ? m->head_name
                   : !strncmp(prefix, "language_model.", 15) ? "language_model.lm_head.weight"
                   : !strncmp(prefix, "thinker.", 8)         ? "thinker.lm_head.weight"
                                                             : "lm_head.weight";
    notes_add(&g->notes, NOTE_WARNING,
              "%s: changes lm_head, whose weight is the embedding's: %s becomes a tensor of its own and "
              "\"tie_word_embeddings\" false",
              g->adapter.dir, g->head_name);
}

static const struct recipe *recipe_of(struct merging *g, const struct tensor *t, const struct adapter_pair *pair,
                                      struct err *e)
{
    const struct recipe *r = recipe_cast(&g->arena, recipe_source(&g->arena, t), DT_F16, e);

    return r && pair ? recipe_merge(&g->arena, r, pair, e) : r;
}

/* Offsets count from the end of the head until that is known. */
static int place(struct merging *g, unsigned file, const char *name, const struct recipe *r, json_t *header,
                 struct err *e)
{
    struct data_file *f = &g->layout.file[file];
    char q[STR_QUOTED];

    if (!r)
        return -1;
    if (json_object_get(header, name))
        return err_set(e, ERR_FORMAT, "%s: has a tensor %s beside the wrapped one: expected one of them", g->o->model,
                       str_quote(q, name));
    g->layout.item[g->layout.items_n++] =
        (struct placed){ .name = name, .recipe = r, .file = file, .off = f->bytes, .bytes = recipe_bytes(r) };
    put_f16(header, name, r->shape, r->rank, &f->bytes);
    return 0;
}

static int place_tensor(struct merging *g, unsigned file, const struct tensor *t, json_t *header, struct err *e)
{
    const char *name = plain_name(g, t->name), *module = merge_module(t->name, &g->arena);
    const struct adapter_pair *pair = NULL;

    if (g->head && !strcmp(name, g->head_name))
        return 0;
    if (module && t->rank >= 2)
        pair = adapter_take(&g->adapter, module);
    if (place(g, file, name, recipe_of(g, t, pair, e), header, e))
        return -1;
    return g->head && t == model_source(&g->model, "embed_tokens.weight")
               ? place(g, file, g->head_name, recipe_of(g, t, g->head, e), header, e)
               : 0;
}

static void make_head(struct merging *g, unsigned file, json_t *header, size_t first_item)
{
    struct data_file *f = &g->layout.file[file];
    char *text = json_dumps(header, JSON_COMPACT);
    size_t n = layout_head(f, text, &g->arena);

    free(text);
    for (size_t i = first_item; i < g->layout.items_n; i++)
        g->layout.item[i].off += n;
    g->layout.bytes += f->bytes;
}

static json_t *new_header(void)
{
    json_t *header = json_object(), *meta = json_object();

    put_text(meta, "format", "pt");
    put_text(meta, MERGED_KEY, WEIGHBRIDGE_VERSION);
    put(header, "__metadata__", meta);
    return header;
}

static int by_place(const void *pa, const void *pb)
{
    const struct tensor *a = *(const struct tensor *const *)pa, *b = *(const struct tensor *const *)pb;

    if (a->file != b->file)
        return a->file < b->file ? -1 : 1;
    return (a->off > b->off) - (a->off < b->off);
}

/* All tensors in the order of the files. */
static const struct tensor **in_order(struct merging *g)
{
    const struct checkpoint *c = &g->ckpt;
    const struct tensor **t = arena_array(&g->arena, c->tensors_n + 1, sizeof *t);

    for (size_t i = 0; i < c->tensors_n; i++)
        t[i] = &c->tensor[i];
    qsort(t, c->tensors_n, sizeof *t, by_place);
    return t;
}

static int decide_files(struct merging *g, struct err *e)
{
    const struct checkpoint *c = &g->ckpt;
    const struct tensor **t = in_order(g);
    bool wrapped = is_wrapped(c);
    size_t i = 0;
    int ret = 0;

    g->layout.file = arena_array(&g->arena, c->files_n, sizeof *g->layout.file);
    g->layout.item = arena_array(&g->arena, c->tensors_n + 2, sizeof *g->layout.item);
    for (unsigned f = 0; !ret && f < c->files_n; f++) {
        json_t *header = new_header();
        size_t first = g->layout.items_n;

        g->layout.file[g->layout.files_n++] = (struct data_file){ .name = c->file[f].name, .packed = true };
        for (; !ret && i < c->tensors_n && t[i]->file == f; i++) {
            if (wrapped && is_factor(t[i]->name))
                g->dropped++;
            else
                ret = place_tensor(g, f, t[i], header, e);
        }
        if (!ret)
            make_head(g, f, header, first);
        json_decref(header);
    }
    if (g->dropped)
        notes_add(&g->notes, NOTE_WARNING, "%s: %zu tensors of adapters that are saved in it are left out", c->dir,
                  g->dropped);
    return ret;
}

/* ---- small files ---- */

static void set_dtype(json_t *config, bool top)
{
    static const char *const keys[] = { "dtype", "torch_dtype" };
    bool found = false;

    for (size_t i = 0; i < 2; i++)
        if (json_object_get(config, keys[i])) {
            put_text(config, keys[i], "float16");
            found = true;
        }
    if (top && !found)
        put_text(config, "torch_dtype", "float16");
}

static int add_config(struct merging *g, struct err *e)
{
    json_t *config = json_deep_copy(g->ckpt.config), *v;
    const char *key;
    struct str text = { 0 };
    int ret;

    set_dtype(config, true);
    if (g->head)
        put(config, "tie_word_embeddings", json_false());
    json_object_foreach(config, key, v)
    {
        if (!json_is_object(v))
            continue;
        set_dtype(v, false);
        if (g->head && json_object_get(v, "tie_word_embeddings"))
            put(v, "tie_word_embeddings", json_false());
    }
    json_print(&text, config, true, true);
    str_adds(&text, "\n");
    ret = sidefiles_add_bytes(&g->side, "config.json", text.s, text.n, "the source's, with its dtype set", e);
    str_release(&text);
    json_decref(config);
    return ret;
}

static int add_index(struct merging *g, struct err *e)
{
    json_t *o = json_object(), *meta = json_object(), *map = json_object();
    uint64_t bytes = 0;
    struct str text = { 0 };
    int ret;

    for (size_t i = 0; i < g->layout.items_n; i++) {
        put_text(map, g->layout.item[i].name, g->layout.file[g->layout.item[i].file].name);
        bytes += g->layout.item[i].bytes;
    }
    put_u64(meta, "total_size", bytes);
    put(o, "metadata", meta);
    put(o, "weight_map", map);
    json_print(&text, o, true, true);
    str_adds(&text, "\n");
    ret = sidefiles_add_bytes(&g->side, "model.safetensors.index.json", text.s, text.n, "of the merged shards", e);
    str_release(&text);
    json_decref(o);
    return ret;
}

/* Weights, and what says where they are, are written anew. */
static bool is_copied(const char *name)
{
    static const char *const endings[] = { ".safetensors", ".bin",  ".pt",   ".pth",
                                           ".gguf",        ".onnx", ".data", ".index.json" };

    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (str_ends(name, endings[i]))
            return false;
    return *name != '.' && strcmp(name, "config.json");
}

static int add_copies(struct merging *g, struct err *e)
{
    struct listing l = { 0 };

    if (listing_read(&l, g->o->model, &g->arena, e))
        return -1;
    for (size_t i = 0; i < l.n; i++) {
        const char *path = arena_printf(&g->arena, "%s/%s", g->o->model, l.name[i]);

        if (is_copied(l.name[i]) && file_is_regular(path) && sidefiles_add_copy(&g->side, l.name[i], path, "copied", e))
            return -1;
    }
    return 0;
}

/* ---- what is refused ---- */

static int check_pairs(struct merging *g, struct err *e)
{
    const struct adapter *ad = &g->adapter;
    size_t merged = merge_modules(ad), i = 0;

    if (merged == ad->pairs_n) {
        notes_add(&g->notes, NOTE_INFO, "%s: all of its %zu modules are merged into the weights", ad->dir, merged);
        return 0;
    }
    while (ad->pair[i].taken)
        i++;
    return merge_refuse(ad, g->o->model, ad->pairs_n - merged, ad->pair[i].module, e);
}

static int check_place(struct merging *g, bool *exists, struct err *e)
{
    const struct wb_options *o = g->o;
    uint64_t need = g->layout.bytes, have;

    if (outdir_recover(o->out, &g->arena, e) || outdir_check(o->out, o->model, o->overwrite, exists, &g->arena, e) ||
        outdir_check(o->out, g->adapter.dir, o->overwrite, exists, &g->arena, e))
        return -1;
    for (size_t i = 0; i < g->side.n; i++)
        need += g->side.v[i].size;
    if (file_space(file_parent(o->out, &g->arena), &have, e) || job_space(o->out, need, have, e))
        return -1;
    return o->strict ? notes_strict(&g->notes, e) : 0;
}

/* ---- the whole ---- */

static int prepare(struct merging *g, struct err *e)
{
    const struct wb_options *o = g->o;

    if (job_budget(o, &g->budget, e) || ckpt_open(&g->ckpt, o->model, &g->arena, &g->notes, e))
        return -1;
    if (strncmp(g->ckpt.container, "safetensors", 11))
        return err_set(e, ERR_UNSUPPORTED, "%s: is a %s: expected safetensors, whose shards are kept as they are",
                       o->model, g->ckpt.container);
    if (model_open(&g->model, &g->ckpt, &g->arena, &g->notes, e) ||
        merge_open(&g->adapter, &g->model, o->merge_lora, &g->arena, &g->notes, e))
        return -1;
    g->side.arena = &g->arena;
    untie(g);
    if (decide_files(g, e) || check_pairs(g, e) || add_config(g, e) ||
        (strchr(g->ckpt.container, '(') && add_index(g, e)) || add_copies(g, e))
        return -1;
    return plan_make(&g->plan, &g->ckpt, &g->layout, &g->budget, &g->arena, e);
}

static int write_all(struct merging *g, struct err *e)
{
    const struct wb_options *o = g->o;
    struct run_options run = {
        .io = o->io ? o->io : "auto", .threads = g->budget.threads, .progress = front_progress, .user = (void *)o
    };
    size_t told = g->notes.n, lossy = 0;
    bool exists;

    if (check_place(g, &exists, e) || outdir_create(&g->out, o->out, exists, &g->arena, e) ||
        sidefiles_write(&g->side, g->out.fd, g->out.partial, e) ||
        pipeline_run(&g->plan, g->out.fd, g->out.partial, &run, &g->run, e))
        return -1;
    for (size_t i = 0; i < g->layout.items_n; i++)
        front_note_losses(&g->notes, g->layout.item[i].name, recipe_elements(g->layout.item[i].recipe),
                          &g->run.item[i].counters, &lossy);
    front_note_more_losses(&g->notes, lossy);
    front_warn(o, &g->notes, told);
    if (o->strict && notes_strict(&g->notes, e))
        return -1;
    return outdir_publish(&g->out, e);
}

static json_t *document(const struct merging *g)
{
    json_t *o = json_object(), *files = json_array();

    put_text(o, "model", g->o->model);
    put_text(o, "out", g->o->out);
    put(o, "merge_lora", report_merge(&g->adapter));
    for (size_t i = 0; i < g->layout.files_n; i++) {
        json_t *file = json_object();

        put_text(file, "name", g->layout.file[i].name);
        put_u64(file, "bytes", g->layout.file[i].bytes);
        json_array_append_new(files, file);
    }
    put(o, "files", files);
    put_u64(o, "tensors", g->layout.items_n);
    put_u64(o, "bytes", g->layout.bytes);
    put_u64(o, "buffers", g->plan.buffers);
    put(o, "notes", report_notes(&g->notes));
    return o;
}

int wb_lora_merge(const struct wb_options *o, char **report, struct wb_error *error)
{
    struct merging g = { .o = o, .out = { .fd = -1 } };
    struct err e = { 0 };

    if (!o->model || !*o->model || !o->merge_lora || !*o->merge_lora || !o->out || !*o->out) {
        err_set(&e, ERR_USAGE, "a checkpoint, an adapter and an output directory are needed");
        goto out;
    }
    if (prepare(&g, &e))
        goto out;
    front_warn(o, &g.notes, 0);
    if (!write_all(&g, &e) && report)
        *report = document_text(document(&g));
out:
    outdir_discard(&g.out);
    adapter_close(&g.adapter);
    model_close(&g.model);
    ckpt_close(&g.ckpt);
    notes_release(&g.notes);
    arena_release(&g.arena);
    return front_result(&e, error);
}
