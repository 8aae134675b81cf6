/* lora_process.c - wb_lora_process: a PEFT adapter as the runtime loads it.
 *
 * For each module A [k, r] and B [r, n], B times the scale, both fp16, under the
 * names of lora_model.onnx's inputs.  Halves are told apart by their names: of a
 * square matrix the shape says nothing.  One tensor at a time is in memory. */
#include <weighbridge.h>
#include "checkpoint/adapter.h"
#include "emit/outdir.h"
#include "emit/safetensors_text.h"
#include "front/document.h"
#include "front/front.h"
#include "front/report.h"
#include "transform/scale.h"
#include <stdlib.h>
#include <string.h>

enum {
    TENSOR_MOST = 256 << 20 /* bytes: rank 1024 of a linear with 65536 inputs, in F32 */
};

struct process {
    const struct wb_options *o;
    struct arena arena;
    struct notes notes;
    struct adapter adapter;
    struct adapter_pair *pair; /* of the decoder, by their canonical names, sorted */
    size_t pairs_n;
    struct outdir out;
    uint64_t off, all; /* of the next tensor in the file; bytes of the file */
    size_t lossy;      /* tensors that lost values */
};

/* ---- which pairs, under which names ---- */

struct left_out {
    size_t n;
    const char *first;
};

static void leave_out(struct left_out *l, const char *name)
{
    if (!l->n++)
        l->first = name;
}

static void note_left_out(struct process *p, const struct left_out *l, const char *thing, const char *why)
{
    char q[STR_QUOTED];

    if (l->n)
        notes_add(&p->notes, NOTE_STRICT, "%s: %zu %s%s left out, the first is %s: %s", p->o->model, l->n, thing,
                  l->n == 1 ? " is" : "s are", str_quote(q, l->first), why);
}

static int choose_pairs(struct process *p, struct err *e)
{
    const struct adapter *ad = &p->adapter;
    struct left_out head = { 0 }, other = { 0 }, norm = { ad->norms_n, ad->norms_n ? ad->norm[0]->name : NULL };
    char q[STR_QUOTED];

    p->pair = arena_array(&p->arena, ad->pairs_n, sizeof *p->pair);
    for (size_t i = 0; i < ad->pairs_n; i++) {
        const char *name = ad->pair[i].canonical;

        if (strstr(ad->pair[i].module, "lm_head")) {
            leave_out(&head, ad->pair[i].module);
        } else if (strncmp(name, "layers.", 7)) {
            leave_out(&other, ad->pair[i].module);
        } else {
            p->pair[p->pairs_n] = ad->pair[i];
            p->pair[p->pairs_n++].module = arena_printf(&p->arena, "model.%s", name);
        }
    }
    if (!p->pairs_n)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: none of its %zu modules is a linear of a text decoder's layers, the first is %s: expected "
                       "names such as base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                       p->o->model, ad->pairs_n, str_quote(q, ad->pairs_n ? ad->pair[0].module : ""));
    note_left_out(p, &head, "module", "the output head takes no adapter at run time; merge the adapter to have it");
    note_left_out(p, &norm, "tensor", "norms take no adapter at run time");
    note_left_out(p, &other, "module", "it lies outside the text decoder's layers");
    return 0;
}

/* ---- the file ---- */

static int check_size(const struct process *p, const struct tensor *t, struct err *e)
{
    char q[STR_QUOTED], have[24], most[24];

    return t->bytes <= TENSOR_MOST
               ? 0
               : err_set(e, ERR_UNSUPPORTED, "%s: tensor %s has %s, at most %s are supported in an adapter",
                         p->o->model, str_quote(q, t->name), str_bytes(have, t->bytes), str_bytes(most, TENSOR_MOST));
}

static void put_transposed(json_t *header, const char *name, const struct tensor *t, uint64_t *off)
{
    put_f16(header, name, (uint64_t[]){ t->shape[1], t->shape[0] }, 2, off);
}

static int make_header(struct process *p, struct str *out, struct err *e)
{
    json_t *header = json_object();
    uint64_t off = 0;
    char *text;

    for (size_t i = 0; i < p->pairs_n; i++) {
        if (check_size(p, p->pair[i].a, e) || check_size(p, p->pair[i].b, e)) {
            json_decref(header);
            return -1;
        }
        put_transposed(header, arena_printf(&p->arena, "%s.lora_A.weight", p->pair[i].module), p->pair[i].a, &off);
        put_transposed(header, arena_printf(&p->arena, "%s.lora_B.weight", p->pair[i].module), p->pair[i].b, &off);
    }
    text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    safetensors_head(out, text, 8);
    free(text);
    p->all = out->n + off;
    return 0;
}

static int write_tensor(struct process *p, int fd, const char *shown, const struct tensor *t, float scale,
                        struct err *e)
{
    const struct transform *transpose = transform_find(TRANSFORM_TRANSPOSE, t->dtype, DT_F16);
    struct job j = { .rows = t->shape[0], .cols = t->shape[1] };
    struct counters lost = { 0 };
    void *src = malloc(t->bytes), *dst = malloc(t->elements * 2);
    int ret = -1;

    if (!src || !dst) {
        err_set(e, ERR_NOMEM, "%s: no memory for its %llu bytes", t->name, (unsigned long long)t->bytes);
        goto out;
    }
    if (ckpt_read(&p->adapter.file, t, src, e))
        goto out;
    if (scale != 1)
        scale_elements(src, t->dtype, t->elements, scale, &lost);
    j.src = src;
    j.dst = dst;
    j.src_pitch = j.cols * dtype_bytes(t->dtype);
    j.dst_pitch = j.rows * 2;
    transform_best(transpose)(&j);
    counters_add(&lost, &j.counters);
    front_note_losses(&p->notes, t->name, t->elements, &lost, &p->lossy);
    ret = file_pwrite(fd, shown, dst, t->elements * 2, p->off, e);
    p->off += t->elements * 2;
out:
    free(src);
    free(dst);
    return ret;
}

static int cancelled(const struct process *p, struct err *e)
{
    struct wb_progress now = { .read = p->off, .written = p->off, .to_read = p->all, .to_write = p->all };

    return p->o->progress && p->o->progress(p->o->user, &now) ? err_set(e, ERR_CANCELLED, "stopped by the caller") : 0;
}

static int write_weights(struct process *p, const struct str *header, struct err *e)
{
    const char *shown = arena_printf(&p->arena, "%s/" ADAPTER_PROCESSED, p->out.partial);
    int fd = file_create(p->out.fd, ADAPTER_PROCESSED, shown, e), ret;

    if (fd < 0)
        return -1;
    ret = file_pwrite(fd, shown, header->s, header->n, 0, e);
    p->off = header->n;
    for (size_t i = 0; !ret && i < p->pairs_n; i++)
        ret = cancelled(p, e) || write_tensor(p, fd, shown, p->pair[i].a, 1, e) ||
                      write_tensor(p, fd, shown, p->pair[i].b, (float)p->pair[i].scale, e)
                  ? -1
                  : 0;
    front_note_more_losses(&p->notes, p->lossy);
    return file_finish(fd, shown, ret, e);
}

/* ---- the whole ---- */

static int check_strict(const struct process *p, struct err *e)
{
    return p->o->strict ? notes_strict(&p->notes, e) : 0;
}

static int process(struct process *p, const struct str *header, struct err *e)
{
    const struct wb_options *o = p->o;
    size_t told = p->notes.n;
    bool exists;

    if (check_strict(p, e) || outdir_recover(o->out, &p->arena, e) ||
        outdir_check(o->out, o->model, o->overwrite, &exists, &p->arena, e) ||
        outdir_create(&p->out, o->out, exists, &p->arena, e) || write_weights(p, header, e) ||
        file_copy(p->adapter.config_path, p->out.fd, "config.json",
                  arena_printf(&p->arena, "%s/config.json", p->out.partial), e))
        return -1;
    front_warn(o, &p->notes, told);
    return check_strict(p, e) || outdir_publish(&p->out, e) ? -1 : 0;
}

static json_t *document(const struct process *p)
{
    json_t *o = json_object(), *list = json_array();

    put_text(o, "adapter", p->o->model);
    put_text(o, "out", p->o->out);
    put_text(o, "file", ADAPTER_PROCESSED);
    put_u64(o, "bytes", p->all);
    for (size_t i = 0; i < p->pairs_n; i++) {
        const struct adapter_pair *pair = &p->pair[i];
        json_t *module = json_object();

        put_text(module, "name", pair->module);
        put(module, "shape", document_shape((uint64_t[]){ pair->a->shape[1], pair->b->shape[0] }, 2));
        put_u64(module, "rank", pair->rank);
        put(module, "scale", json_real(pair->scale));
        json_array_append_new(list, module);
    }
    put(o, "modules", list);
    put(o, "notes", report_notes(&p->notes));
    return o;
}

int wb_lora_process(const struct wb_options *o, char **report, struct wb_error *error)
{
    struct process p = { .o = o, .out = { .fd = -1 } };
    struct str header = { 0 };
    struct err e = { 0 };

    if (!o->model || !*o->model || !o->out || !*o->out) {
        err_set(&e, ERR_USAGE, "an adapter and an output directory are needed");
        goto out;
    }
    if (adapter_open(&p.adapter, o->model, &p.arena, &p.notes, &e) || choose_pairs(&p, &e) ||
        make_header(&p, &header, &e))
        goto out;
    front_warn(o, &p.notes, 0);
    if (!process(&p, &header, &e) && report)
        *report = document_text(document(&p));
out:
    outdir_discard(&p.out);
    adapter_close(&p.adapter);
    str_release(&header);
    notes_release(&p.notes);
    arena_release(&p.arena);
    return front_result(&e, error);
}
