/* reduce_vocab.c - wb_reduce_vocab: which tokens a model needs, by the user's own text.
 *
 * The tokenizer counts in a helper process, vocab_choose decides, and two small
 * files are published in one step: the map that an export takes, and what it
 * was made from. */
#include <weighbridge.h>
#include "base/clock.h"
#include "base/json.h"
#include "emit/outdir.h"
#include "emit/safetensors_text.h"
#include "emit/tokenizer_files.h"
#include "emit/token_counts.h"
#include "front/document.h"
#include "front/front.h"
#include "front/report.h"
#include "model/model.h"
#include "model/vocab_map.h"
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MOST = 16 << 20 };

static const struct {
    const char *name, *written; /* in reduced_vocab.json, as the reference has it */
    bool answers;
} methods[] = { { "input-aware", "input_aware", true }, { "frequency", "frequency", false } };

struct reduce {
    const struct wb_options *o;
    struct arena arena;
    struct notes notes;
    struct outdir out;
    struct token_counts counts;
    double begun;                   /* seconds */
    const char *config, *tokenizer; /* paths */
    size_t method;
    uint64_t vocab;
    int32_t *required, *id; /* the latter [o->vocab_size], ascending */
    size_t required_n;
    uint64_t d2t_n; /* 0: none was given */
};

/* ---- what is asked for ---- */

static int check_options(struct reduce *r, struct err *e)
{
    const struct wb_options *o = r->o;
    const char *name = o->method ? o->method : methods[0].name;

    if (!o->model || !*o->model || !o->out || !*o->out)
        return err_set(e, ERR_USAGE, "a model and an output directory are needed");
    if (!o->corpus || !*o->corpus)
        return err_set(e, ERR_USAGE, "a corpus is needed: texts like those that the model will read and write");
    while (r->method < sizeof methods / sizeof *methods && strcmp(name, methods[r->method].name) &&
           strcmp(name, methods[r->method].written))
        r->method++;
    return r->method < sizeof methods / sizeof *methods
               ? 0
               : err_set(e, ERR_USAGE, "method \"%s\" is not one of input-aware, frequency", name);
}

static int read_vocab_size(struct reduce *r, struct err *e)
{
    json_t *config = NULL;
    char *text;
    size_t n;
    int ret = -1;

    if (file_read(r->config, CONFIG_MOST, &text, &n, e))
        return -1;
    if ((config = json_parse(text, n, r->config, e)))
        ret = model_vocab_size(config, r->config, &r->vocab, e);
    json_decref(config);
    free(text);
    if (!ret && (!r->o->vocab_size || r->o->vocab_size >= r->vocab))
        ret = err_set(e, ERR_RANGE, "--size %u does not reduce the vocabulary of %llu tokens of %s: expected 1 to %llu",
                      r->o->vocab_size, (unsigned long long)r->vocab, r->config, (unsigned long long)r->vocab - 1);
    return ret;
}

static int check_tokenizer(const struct reduce *r, struct err *e)
{
    return file_exists(r->tokenizer)
               ? 0
               : err_set(e, ERR_FORMAT,
                         "%s: is not there, and text cannot be cut into the model's tokens without it: fetch it, or "
                         "make it with transformers (AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL))",
                         r->tokenizer);
}

/* ---- tokens that are always kept ---- */

static int require_d2t(struct reduce *r, struct err *e)
{
    const char *path = r->o->d2t;
    struct checkpoint c = { 0 };
    const struct tensor *t;
    int ret = -1;

    if (ckpt_open_file(&c, path, &r->arena, e))
        return -1;
    t = ckpt_find(&c, "d2t");
    if (!t || t->rank != 1 || !t->elements || (t->dtype != DT_I32 && t->dtype != DT_I64)) {
        err_set(e, ERR_FORMAT, "%s: %s%s, expected a list of I32 or I64: give the d2t of an EAGLE3 draft", path,
                t ? "d2t is " : "has no tensor d2t", t ? ckpt_describe(&c, t, &r->arena) : "");
    } else if (t->elements >= r->o->vocab_size) {
        err_set(e, ERR_RANGE, "--size %u has no room for the draft's %llu tokens of %s: expected more than them",
                r->o->vocab_size, (unsigned long long)t->elements, path);
    } else {
        r->d2t_n = t->elements;
        ret = d2t_read(&c, t, r->vocab, path, r->required, e);
    }
    ckpt_close(&c);
    for (uint64_t i = 0; !ret && i < r->d2t_n; i++)
        r->required[r->required_n++] += (int32_t)i;
    return ret;
}

enum { SPECIAL_MOST = 4 };

struct special { /* tokens that the tokenizer's files set, in the order of `names` */
    const char *role[SPECIAL_MOST], *token[SPECIAL_MOST];
    size_t n;
};

static int find_special(struct reduce *r, struct special *s, struct err *e)
{
    static const char *const names[SPECIAL_MOST] = { "eos_token", "pad_token", "bos_token", "unk_token" };
    json_t *all = tokenizer_special_tokens(r->o->model, &r->arena, e);

    if (!all)
        return -1;
    for (size_t i = 0; i < SPECIAL_MOST; i++) {
        const char *token = json_string_value(json_object_get(all, names[i]));

        if (!token)
            continue;
        s->role[s->n] = names[i];
        s->token[s->n++] = arena_strdup(&r->arena, token);
    }
    json_decref(all);
    return 0;
}

static int beyond(const struct reduce *r, const char *what, int32_t id, struct err *e)
{
    return err_set(e, ERR_RANGE,
                   "%s: %s has token id %d, but %s says that the vocabulary has %llu: take both from the same model",
                   r->tokenizer, what, id, r->config, (unsigned long long)r->vocab);
}

/* A reply must be able to end: eos, or what stands in for it. */
static int require_special(struct reduce *r, const struct special *s, struct err *e)
{
    bool ends = false;
    char q[STR_QUOTED];

    for (size_t i = 0; i < s->n; i++) {
        int32_t id = r->counts.asked[i];

        if (id < 0) {
            notes_add(&r->notes, NOTE_WARNING, "%s: %s is %s, which %s does not know, so it is not kept", r->o->model,
                      s->role[i], str_quote(q, s->token[i]), r->tokenizer);
            continue;
        }
        if ((uint64_t)id >= r->vocab)
            return beyond(r, str_quote(q, s->token[i]), id, e);
        ends |= !strcmp(s->role[i], "eos_token") || !strcmp(s->role[i], "pad_token");
        r->required[r->required_n++] = id;
    }
    return ends ? 0
                : err_set(e, ERR_FORMAT,
                          "%s: its tokenizer_config.json and special_tokens_map.json set neither an eos_token nor a "
                          "pad_token that the tokenizer knows, and without one no reply could end: add \"eos_token\"",
                          r->o->model);
}

/* ---- counting ---- */

static int on_progress(void *user, uint64_t done, uint64_t all)
{
    const struct reduce *r = user;
    const struct wb_progress p = { .read = done, .to_read = all, .seconds = clock_wall() - r->begun };

    return r->o->progress ? r->o->progress(r->o->user, &p) : 0;
}

static int check_ids(const struct reduce *r, struct err *e)
{
    for (size_t i = 0; i < r->counts.counted_n; i++)
        if ((uint64_t)r->counts.counted[i].id >= r->vocab)
            return beyond(r, "a piece of the corpus", r->counts.counted[i].id, e);
    for (size_t i = 0; i < r->counts.seen_n; i++)
        if ((uint64_t)r->counts.seen[i] >= r->vocab)
            return beyond(r, "a piece of the corpus", r->counts.seen[i], e);
    return 0;
}

static int count(struct reduce *r, const struct special *s, struct err *e)
{
    const struct token_request request = { .tokenizer = r->tokenizer,
                                           .asked = s->token,
                                           .asked_n = s->n,
                                           .corpus = r->o->corpus,
                                           .answers = methods[r->method].answers,
                                           .records_most = r->o->max_samples,
                                           .progress = on_progress,
                                           .user = r };

    r->begun = clock_wall();
    if (token_counts_make(&request, &r->counts, &r->arena, e))
        return -1;
    if (!r->counts.records)
        return err_set(e, ERR_FORMAT,
                       "%s: holds no record: expected texts like those that the model will read and write",
                       r->o->corpus);
    return check_ids(r, e) || require_special(r, s, e) ? -1 : 0;
}

static int choose(struct reduce *r, struct err *e)
{
    struct vocab_wanted w = { .vocab = r->vocab, .size = r->o->vocab_size, .input_aware = methods[r->method].answers };
    struct special s = { .n = 0 };

    r->required = arena_array(&r->arena, r->vocab + SPECIAL_MOST, sizeof *r->required);
    r->id = arena_array(&r->arena, r->o->vocab_size, sizeof *r->id);
    if ((r->o->d2t && require_d2t(r, e)) || find_special(r, &s, e) || count(r, &s, e))
        return -1;
    w.required = r->required;
    w.required_n = r->required_n;
    w.counted = r->counts.counted;
    w.counted_n = r->counts.counted_n;
    w.seen = r->counts.seen;
    w.seen_n = r->counts.seen_n;
    return vocab_choose(&w, r->id, &r->arena, e) ? err_at(e, "%s", r->o->corpus) : 0;
}

/* ---- what is written ---- */

static json_t *description(const struct reduce *r)
{
    json_t *o = json_object();

    put_u64(o, "vocab_size", r->vocab);
    put_u64(o, "reduced_vocab_size", r->o->vocab_size);
    put_text(o, "method", methods[r->method].written);
    put_text(o, "dataset", file_name(r->o->corpus));
    put_u64(o, "max_samples", r->o->max_samples ? r->o->max_samples : r->counts.records);
    if (r->d2t_n)
        put_u64(o, "d2t_tensor_size", r->d2t_n);
    return o;
}

static int write_file(struct reduce *r, const char *name, const struct str *bytes, struct err *e)
{
    return file_create_whole(r->out.fd, name, arena_printf(&r->arena, "%s/%s", r->out.partial, name), bytes->s,
                             bytes->n, e);
}

static int write_files(struct reduce *r, struct err *e)
{
    struct str map = { 0 }, text = { 0 };
    json_t *o = description(r);
    int ret;

    safetensors_i32(&map, "vocab_map", r->id, r->o->vocab_size);
    json_print(&text, o, true, true);
    ret = write_file(r, VOCAB_MAP_FILE, &map, e) || write_file(r, "reduced_vocab.json", &text, e) ? -1 : 0;
    json_decref(o);
    str_release(&map);
    str_release(&text);
    return ret;
}

/* Of the tokens that were counted: how many are kept. */
static uint64_t covered(struct reduce *r)
{
    bool *kept = arena_array(&r->arena, r->vocab, sizeof *kept);
    uint64_t n = 0;

    for (unsigned i = 0; i < r->o->vocab_size; i++)
        kept[r->id[i]] = true;
    for (size_t i = 0; i < r->counts.counted_n; i++)
        n += kept[r->counts.counted[i].id] ? r->counts.counted[i].n : 0;
    return n;
}

static json_t *document(struct reduce *r)
{
    json_t *o = description(r);

    put_text(o, "model", r->o->model);
    put_text(o, "out", r->o->out);
    put_text(o, "file", VOCAB_MAP_FILE);
    put_text(o, "corpus", r->o->corpus);
    put_u64(o, "records", r->counts.records);
    put_u64(o, "tokens", r->counts.tokens);
    put_u64(o, "tokens_kept", covered(r));
    put_u64(o, "different_tokens", r->counts.counted_n);
    put(o, "notes", report_notes(&r->notes));
    return o;
}

/* ---- the whole ---- */

static int reduce(struct reduce *r, struct err *e)
{
    const struct wb_options *o = r->o;
    bool exists;

    if (check_options(r, e))
        return -1;
    r->config = arena_printf(&r->arena, "%s/config.json", o->model);
    r->tokenizer = arena_printf(&r->arena, "%s/tokenizer.json", o->model);
    if (read_vocab_size(r, e) || check_tokenizer(r, e) || outdir_recover(o->out, &r->arena, e) ||
        outdir_check(o->out, o->model, o->overwrite, &exists, &r->arena, e) || choose(r, e))
        return -1;
    front_warn(o, &r->notes, 0);
    return outdir_create(&r->out, o->out, exists, &r->arena, e) || write_files(r, e) || outdir_publish(&r->out, e) ? -1
                                                                                                                   : 0;
}

int wb_reduce_vocab(const struct wb_options *o, char **report, struct wb_error *error)
{
    struct reduce r = { .o = o, .out = { .fd = -1 } };
    struct err e = { 0 };

    if (!reduce(&r, &e) && report)
        *report = document_text(document(&r));
    outdir_discard(&r.out);
    notes_release(&r.notes);
    arena_release(&r.arena);
    return front_result(&e, error);
}
