/* batch_jobs.c - JOBS.json: [{"model": ..., "out": ..., options by their names in export}, ...], or
 * {"defaults": {options}, "jobs": [...]}. Paths are relative to the directory of JOBS.json. */
#include "base/json.h"
#include "front/batch.h"
#include "io/file.h"
#include <stdlib.h>
#include <string.h>

enum { JOBS_BYTES_MOST = 64 << 20 };

enum kind { FLAG, TEXT, PATH, ADAPTER /* a path, or a name inside MODEL */ };

#define AT(member) offsetof(struct wb_options, member)

static const struct key {
    const char *name;
    enum kind kind;
    size_t place;
    bool own; /* each job has its own: not among the defaults */
} keys[] = {
    { "model", PATH, AT(model), false },
    { "out", PATH, AT(out), true },
    { "pack", PATH, AT(archive), true },
    { "draft", FLAG, AT(draft), false },
    { "base-model", PATH, AT(base_model), false },
    { "target", TEXT, AT(target), false },
    { "eagle-base", FLAG, AT(eagle_base), false },
    { "eagle-draft", PATH, AT(eagle_draft), false },
    { "reduced-vocab", PATH, AT(reduced_vocab), false },
    { "merge-lora", ADAPTER, AT(merge_lora), false },
    { "fp8-kv-cache", FLAG, AT(fp8_kv_cache), false },
    { "chat-template", PATH, AT(chat_template), false },
    { "no-chat-template", FLAG, AT(no_chat_template), false },
    { "zero-points", TEXT, AT(zero_points), false },
    { "strict", FLAG, AT(strict), false },
    { "overwrite", FLAG, AT(overwrite), false },
};
enum { KEYS = sizeof keys / sizeof *keys };

/* Of a command line, but not of a job. */
static const char *const shared[] = { "memory",        "threads", "io",     "device", "gpu-feed", "gpu-memory",
                                      "strict-device", "resume",  "report", "trace",  "sink" };

struct reading {
    const char *path, *dir; /* of JOBS.json; dir "" : the current one */
    struct arena *arena;
    struct err *e;
};

static const struct key *key_named(const char *name)
{
    for (size_t i = 0; i < KEYS; i++)
        if (!strcmp(keys[i].name, name))
            return &keys[i];
    return NULL;
}

static int unknown_key(const struct reading *r, const char *where, const char *name)
{
    struct str known = { 0 };
    char q[STR_QUOTED];

    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if (!strcmp(shared[i], name))
            return err_set(r->e, ERR_USAGE,
                           "%s: %s: key \"%s\" is not an option of one job: leave it out; memory, threads, io and "
                           "device are shared by all jobs, and each goes on where it was interrupted",
                           r->path, where, name);
    for (size_t i = 0; i < KEYS; i++)
        str_addf(&known, "%s%s", i ? ", " : "", keys[i].name);
    err_set(r->e, ERR_USAGE, "%s: %s: key %s is unknown: expected one of %s", r->path, where, str_quote(q, name),
            str_text(&known));
    str_release(&known);
    return -1;
}

static int check_value(const struct reading *r, const char *where, const struct key *k, const json_t *v)
{
    if (k->kind == FLAG ? json_is_boolean(v) : json_is_string(v) && *json_string_value(v))
        return 0;
    return err_set(r->e, ERR_USAGE, "%s: %s: key \"%s\" is %s, expected %s", r->path, where, k->name,
                   json_is_string(v) && k->kind != FLAG ? "empty" : json_type_name(v),
                   k->kind == FLAG ? "true or false" : "a text");
}

/* An object of options: the defaults, or a job. */
static int check_object(const struct reading *r, const char *where, json_t *o, bool defaults)
{
    const char *name;
    json_t *v;

    if (!json_is_object(o))
        return err_set(r->e, ERR_USAGE, "%s: %s is %s, expected an object with \"model\" and \"out\"", r->path, where,
                       json_type_name(o));
    json_object_foreach(o, name, v)
    {
        const struct key *k = key_named(name);

        if (!k)
            return unknown_key(r, where, name);
        if (defaults && k->own)
            return err_set(r->e, ERR_USAGE, "%s: %s: key \"%s\" is of one job only: give it there", r->path, where,
                           name);
        if (check_value(r, where, k, v))
            return -1;
    }
    return 0;
}

static const char *joined(const struct reading *r, const char *path)
{
    return *path == '/' ? path : arena_printf(r->arena, "%s%s", r->dir, path);
}

static void set_option(const struct reading *r, struct wb_options *o, const struct key *k, const json_t *v)
{
    void *place = (char *)o + k->place;
    const char *text = json_string_value(v);

    if (k->kind == FLAG)
        *(bool *)place = json_is_true(v);
    else if (k->kind == TEXT)
        *(const char **)place = text;
    else if (k->kind == PATH || file_exists(joined(r, text)))
        *(const char **)place = joined(r, text);
    else
        *(const char **)place = arena_printf(r->arena, "%s/%s", o->model, text);
}

static int read_job(const struct reading *r, struct batch_job *job, size_t index, json_t *given, json_t *defaults)
{
    const char *where = arena_printf(r->arena, "jobs[%zu]", index);
    const json_t *v;

    if (check_object(r, where, given, false))
        return -1;
    if (defaults)
        json_object_update_missing(given, defaults);
    for (size_t i = 0; i < 2; i++)
        if (!json_object_get(given, keys[i].name))
            return err_set(r->e, ERR_USAGE, "%s: %s: key \"%s\" is missing", r->path, where, keys[i].name);
    job->given = given;
    for (size_t i = 0; i < KEYS; i++) /* "model" comes first */
        if ((v = json_object_get(given, keys[i].name)))
            set_option(r, &job->opt, &keys[i], v);
    job->model = json_string_value(json_object_get(given, "model"));
    job->archive = json_string_value(json_object_get(given, "pack"));
    job->name = file_trimmed(json_string_value(json_object_get(given, "out")), r->arena);
    return 0;
}

/* ---- places ---- */

struct place {
    size_t job;
    const char *key, *real;
};

/* Of the names that a run may give to what it writes. */
static const char *const suffix[] = { "", ".partial", ".old" };

enum { SUFFIXES = sizeof suffix / sizeof *suffix };

/* Under any name that a run may give them. */
static bool collide(const struct place *p, const struct place *q, struct arena *a)
{
    size_t n = strlen(p->real), m = strlen(q->real);

    if (strncmp(p->real, q->real, n < m ? n : m)) /* then not with anything behind them either; so it is mostly */
        return false;
    for (size_t i = 0; i < SUFFIXES; i++)
        for (size_t k = 0; k < SUFFIXES; k++) {
            const char *one = arena_printf(a, "%s%s", p->real, suffix[i]);
            const char *other = arena_printf(a, "%s%s", q->real, suffix[k]);

            if (file_within(one, other) || file_within(other, one))
                return true;
        }
    return false;
}

static int refuse_pair(const struct reading *r, const struct place *p, const struct place *q)
{
    struct arena scratch = { 0 };
    bool bad = collide(p, q, &scratch);

    arena_release(&scratch);
    if (!bad)
        return 0;
    return err_set(r->e, ERR_USAGE,
                   "%s: jobs[%zu]: key \"%s\": is, contains or lies inside \"%s\" of jobs[%zu], also while it is "
                   "written (.partial, .old): give each job a place of its own",
                   r->path, q->job, q->key, p->key, p->job);
}

/* What a job writes must be apart from what the others write, and from the models they read. */
static int check_places(const struct reading *r, const struct batch_jobs *b)
{
    struct place *written = arena_array(r->arena, 2 * b->n, sizeof *written), model = { .key = "model" };
    size_t n = 0;

    for (size_t i = 0; i < b->n; i++) {
        written[n++] = (struct place){ i, "out", file_real_path(b->v[i].opt.out, r->arena) };
        if (b->v[i].opt.archive)
            written[n++] = (struct place){ i, "pack", file_real_path(b->v[i].opt.archive, r->arena) };
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++)
            if (written[i].job != written[k].job && refuse_pair(r, &written[k], &written[i]))
                return -1;
    for (model.job = 0; model.job < b->n; model.job++) {
        model.real = file_real_path(b->v[model.job].opt.model, r->arena);
        for (size_t i = 0; i < n; i++)
            if (written[i].job != model.job && refuse_pair(r, &model, &written[i]))
                return -1;
    }
    return 0;
}

static int refuse_report(const struct reading *r, const char *report, const char *what)
{
    return err_set(r->e, ERR_USAGE, "--report %s: %s: choose another place", report, what);
}

/* What a job reads, and what it writes under any name that a run may give it. `real` is the report's own place. */
static int check_report_by(const struct reading *r, const struct batch_jobs *b, size_t job, const struct key *k,
                           const char *report, const char *real)
{
    const char *path = *(const char *const *)((const char *)&b->v[job].opt + k->place);

    for (size_t i = 0; path && i < (k->own ? SUFFIXES : 1); i++) {
        const char *name = arena_printf(r->arena, "%s%s", file_trimmed(path, r->arena), suffix[i]);

        if (file_within(real, file_real_path(name, r->arena)))
            return refuse_report(r, report,
                                 arena_printf(r->arena, "is, or lies inside, \"%s\" of jobs[%zu]%s", k->name, job,
                                              i ? " while that is written" : ""));
    }
    return 0;
}

static int check_report(const struct reading *r, const struct batch_jobs *b, const char *report)
{
    static const char *const own[] = { "", ".state", ".state.partial" };
    const char *real = file_real_path(report, r->arena);

    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (!strcmp(real, file_real_path(arena_printf(r->arena, "%s%s", r->path, own[i]), r->arena)))
            return refuse_report(r, report, i ? "is where this batch remembers what is done" : "is JOBS.json itself");
    for (size_t i = 0; i < b->n; i++)
        for (size_t k = 0; k < KEYS; k++)
            if ((keys[k].kind == PATH || keys[k].kind == ADAPTER) && check_report_by(r, b, i, &keys[k], report, real))
                return -1;
    return 0;
}

/* ---- what a job is told ---- */

const char *batch_jobs_words(const char *message, struct arena *a)
{
    const char *text;
    struct str s = { 0 };

    for (const char *p = message; *p;) {
        bool begins = !strncmp(p, "--", 2) && (p == message || strchr(" (", p[-1]));
        size_t n = begins ? 2 + strspn(p + 2, "abcdefghijklmnopqrstuvwxyz0123456789-") : 1;
        const struct key *k = begins ? key_named(arena_printf(a, "%.*s", (int)n - 2, p + 2)) : NULL;

        if (k)
            str_addf(&s, "\"%s\"%s", k->name, k->kind == FLAG && p[n] != ':' ? ": true" : "");
        else
            str_add(&s, p, n);
        p += n;
    }
    text = arena_strdup(a, str_text(&s));
    str_release(&s);
    return text;
}

/* ---- the whole ---- */

static int read_list(const struct reading *r, struct batch_jobs *b)
{
    json_t *list = b->document, *defaults = NULL, *v;
    const char *key;
    size_t i;

    if (json_is_object(list)) {
        json_object_foreach(list, key, v) if (strcmp(key, "jobs") && strcmp(key, "defaults")) return err_set(
            r->e, ERR_USAGE, "%s: key \"%s\" is unknown: expected \"defaults\" and \"jobs\"", r->path, key);
        defaults = json_object_get(list, "defaults");
        list = json_object_get(list, "jobs");
        if (defaults && check_object(r, "defaults", defaults, true))
            return -1;
    }
    if (!json_array_size(list))
        return err_set(r->e, ERR_USAGE, "%s: its jobs are %s, expected a list of at least one", r->path,
                       json_is_array(list) ? "an empty list" : json_type_name(list));
    b->v = arena_array(r->arena, json_array_size(list), sizeof *b->v);
    json_array_foreach(list, i, v)
    {
        if (read_job(r, &b->v[i], i, v, defaults))
            return -1;
        b->n++;
    }
    return 0;
}

int batch_jobs_read(struct batch_jobs *b, const char *path, const char *report, struct arena *a, struct err *e)
{
    const char *slash = strrchr(path, '/');
    struct reading r = { .path = path, .dir = "", .arena = a, .e = e };
    char *text;
    size_t n;

    if (slash)
        r.dir = arena_memdup(a, path, (size_t)(slash - path) + 1);
    if (file_read(path, JOBS_BYTES_MOST, &text, &n, e))
        return -1;
    b->document = json_parse(text, n, path, e);
    free(text);
    if (b->document)
        return read_list(&r, b) || check_places(&r, b) || (report && check_report(&r, b, report)) ? -1 : 0;
    e->kind = ERR_USAGE; /* it is as good as a command line */
    return -1;
}

void batch_jobs_release(struct batch_jobs *b) { json_decref(b->document); }
