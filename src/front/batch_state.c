/* batch_state.c - JOBS.json.state: {"outs": {OUT: {"job", "manifest", "now", "files", "pack"}}}. */
#include "base/json.h"
#include "front/batch.h"
#include "front/document.h"
#include "io/file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

enum { STATE_BYTES_MOST = 1 << 30 };

static int lock_jobs(struct batch_state *s, const char *jobs, struct err *e)
{
    if ((s->lock = file_open_read(jobs, e)) < 0)
        return -1;
    if (flock(s->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) /* a file system without locks has to do without */
        return err_set(e, ERR_REFUSED, "%s: another batch is doing these jobs at this moment: wait for it", jobs);
    return 0;
}

static int read_outs(struct batch_state *s, const char *path, struct err *e)
{
    json_t *document, *outs;
    struct err why = { 0 };
    char *text;
    size_t n;

    if (!file_exists(path)) {
        s->outs = json_object();
        return 0;
    }
    if (file_read(path, STATE_BYTES_MOST, &text, &n, e))
        return -1;
    document = json_parse_exact(text, n, path, &why);
    free(text);
    outs = json_object_get(document, "outs");
    if (json_is_object(outs))
        s->outs = json_incref(outs);
    else if (document)
        err_set(&why, ERR_FORMAT, "%s: \"outs\" is %s, expected an object", path, json_type_name(outs));
    json_decref(document);
    return s->outs ? 0
                   : err_set(e, why.kind,
                             "%s: remove this state, and all jobs are done again; those whose \"out\" or \"pack\" is "
                             "there need \"overwrite\": true for it",
                             why.msg);
}

int batch_state_open(struct batch_state *s, const char *jobs, struct arena *a, struct err *e)
{
    *s = (struct batch_state){ .dir = file_parent(jobs, a),
                               .name = arena_printf(a, "%s.state", file_name(jobs)),
                               .lock = -1 };
    return lock_jobs(s, jobs, e) || read_outs(s, arena_printf(a, "%s.state", jobs), e) ? -1 : 0;
}

void batch_state_close(struct batch_state *s)
{
    json_decref(s->outs);
    if (s->lock >= 0)
        file_close(s->lock);
}

const json_t *batch_state_of(const struct batch_state *s, const struct batch_job *job)
{
    const json_t *record = json_object_get(s->outs, job->name);

    return json_is_object(record) ? record : NULL;
}

int batch_state_set(struct batch_state *s, const struct batch_job *job, json_t *record, struct err *e)
{
    json_t *document = json_object();
    char *text;
    int ret;

    if (record)
        put(s->outs, job->name, record);
    else
        json_object_del(s->outs, job->name);
    put(document, "outs", json_incref(s->outs));
    text = document_text(document);
    ret = file_replace_whole(s->dir, s->name, text, strlen(text), e);
    free(text);
    return ret;
}

/* ---- records ---- */

static json_t *identity(const struct stat *st)
{
    json_t *o = json_object();

    put_u64(o, "bytes", (uint64_t)st->st_size);
    put(o, "mtime_ns", json_integer((json_int_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec));
    return o;
}

static json_t *identify(const char *path, struct err *e)
{
    struct stat st;

    if (!lstat(path, &st))
        return identity(&st);
    err_errno(e, errno, "%s: cannot be examined", path);
    return NULL;
}

/* What an export has just left in its OUT: regular files only. */
static json_t *identify_files(const char *out, struct err *e)
{
    json_t *files = json_object(), *id;
    DIR *d = opendir(out);
    struct dirent *entry;
    struct stat st;

    while (d && (entry = readdir(d))) {
        if (fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
            continue;
        id = identity(&st);
        put(files, entry->d_name, id);
    }
    if (!d)
        err_errno(e, errno, "%s: cannot be listed", out);
    else
        closedir(d);
    return files;
}

json_t *batch_record_begun(const struct batch_job *job)
{
    json_t *o = json_object();

    put(o, "job", json_deep_copy(job->given));
    return o;
}

json_t *batch_record_done(const struct batch_job *job, json_t *manifest, int64_t now, struct err *e)
{
    json_t *o = batch_record_begun(job);

    put(o, "manifest", manifest);
    put(o, "now", json_integer(now));
    put(o, "files", identify_files(job->opt.out, e));
    if (job->opt.archive)
        put(o, "pack", identify(job->opt.archive, e));
    return o;
}

int64_t batch_record_now(const json_t *record) { return json_integer_value(json_object_get(record, "now")); }

static bool looks_so(const json_t *recorded, const char *path)
{
    struct stat st;
    json_t *is = lstat(path, &st) ? NULL : identity(&st);
    bool same = is && S_ISREG(st.st_mode) && json_equal(is, recorded);

    json_decref(is);
    return same;
}

/* What somebody added since (lora_model.onnx) is his own affair. */
static bool files_hold(const json_t *record, const struct batch_job *job)
{
    json_t *files = json_object_get(record, "files"), *id;
    struct arena a = { 0 };
    bool hold = json_object_size(files) > 0;
    const char *name;

    json_object_foreach(files, name, id) hold =
        hold && !strchr(name, '/') && looks_so(id, arena_printf(&a, "%s/%s", job->opt.out, name));
    if (job->opt.archive)
        hold = hold && looks_so(json_object_get(record, "pack"), job->opt.archive);
    arena_release(&a);
    return hold;
}

/* Whether OUT may be replaced changes nothing in it. */
static json_t *lasting(const json_t *given)
{
    json_t *o = json_copy((json_t *)given);

    json_object_del(o, "overwrite");
    return o;
}

bool batch_record_holds(const json_t *record, const struct batch_job *job, const json_t *manifest)
{
    json_t *was = lasting(json_object_get(record, "job")), *is = lasting(job->given);
    bool same = json_equal(was, is) && json_equal(manifest, json_object_get(record, "manifest"));

    json_decref(was);
    json_decref(is);
    return same && files_hold(record, job);
}

bool batch_record_archive(const json_t *record, const struct batch_job *job)
{
    const char *was = json_string_value(json_object_get(json_object_get(record, "job"), "pack"));

    return was && job->archive && !strcmp(was, job->archive);
}
