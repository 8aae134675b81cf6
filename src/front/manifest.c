#include "front/manifest.h"
#include "base/hash.h"
#include "base/json.h"
#include "front/document.h"
#include "io/file.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ANEW "run without --resume to begin anew"

static json_t *options(const struct export_job *j)
{
    json_t *o = json_object();

    for (size_t i = 0; i < j->meta_n; i++)
        put_text(o, j->meta[i].key, j->meta[i].value);
    return o;
}

static void add_source(json_t *list, const char *name, const struct file_id *id)
{
    json_t *o = json_object();

    put_text(o, "name", name);
    put_u64(o, "bytes", id->bytes);
    put(o, "mtime_ns", json_integer(id->mtime_ns));
    put_u64(o, "inode", id->ino);
    json_array_append_new(list, o);
}

static json_t *sources(const struct export_job *j)
{
    json_t *list = json_array();

    for (size_t i = 0; i < j->ckpt.files_n; i++)
        add_source(list, j->ckpt.file[i].name, &j->ckpt.file[i].id);
    if (j->plan.adapter)
        add_source(list, j->plan.adapter->name, &j->plan.adapter->id);
    return list;
}

static json_t *document(const struct export_job *j)
{
    json_t *o = json_object();
    char hex[17];

    snprintf(hex, sizeof hex, "%016" PRIx64, j->model_onnx_xxh3);
    put(o, "options", options(j));
    put(o, "sources", sources(j));
    put_text(o, "graph", hex);
    return o;
}

const char *manifest_make(struct export_job *j)
{
    char *text = document_text(document(j));
    const char *kept = arena_strdup(&j->arena, text);

    free(text);
    return kept;
}

/* Of a file that is copied its identity, of one that is made its hash. */
static void add_small_file(json_t *list, const struct sidefile *f)
{
    struct file_id id = { 0 };
    struct err ignored = { 0 }; /* who copies it will say so */
    int fd = f->copy_from ? file_open_read(f->copy_from, &ignored) : -1;
    char hex[17];

    if (fd >= 0) {
        file_identify(fd, f->copy_from, &id, &ignored);
        file_close(fd);
    }
    add_source(list, f->name, &id);
    if (f->copy_from)
        return;
    snprintf(hex, sizeof hex, "%016" PRIx64, (uint64_t)XXH3_64bits(f->bytes, f->n));
    put_text(json_array_get(list, json_array_size(list) - 1), "xxh3", hex);
}

json_t *manifest_whole(const struct export_job *j)
{
    json_t *o = document(j), *list = json_array();

    for (size_t i = 0; i < j->side.n; i++)
        add_small_file(list, &j->side.v[i]);
    put(o, "small_files", list);
    return o;
}

/* ---- what differs ---- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s ? s : "none";
}

static int check_options(const json_t *was, const json_t *is, const char *partial, struct err *e)
{
    static const char prefix[] = "weighbridge.";
    json_t *both = json_copy((json_t *)is), *v;
    const char *key;

    json_object_update_missing(both, (json_t *)was);
    json_object_foreach(both, key, v)
    {
        const char *name = strncmp(key, prefix, sizeof prefix - 1) ? key : key + sizeof prefix - 1;

        if (strcmp(text_of(was, key), text_of(is, key)))
            err_set(e, ERR_REFUSED, "%s: was begun with %s %s, and this run has %s: give the same options, or " ANEW,
                    partial, name, text_of(was, key), text_of(is, key));
    }
    json_decref(both);
    return e->kind ? -1 : 0;
}

static int check_source(const json_t *was, const json_t *is, const char *partial, struct err *e)
{
    static const struct {
        const char *key, *words;
    } members[] = { { "name", "its name" },
                    { "bytes", "its size" },
                    { "mtime_ns", "the time of its last change" },
                    { "inode", "its inode" } };
    char q[STR_QUOTED];

    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        if (!json_equal(json_object_get(was, members[i].key), json_object_get(is, members[i].key)))
            return err_set(e, ERR_REFUSED,
                           "%s: the source %s is not the file that it was begun with (%s differs): " ANEW, partial,
                           str_quote(q, text_of(is, "name")), members[i].words);
    return 0;
}

static int check_sources(const json_t *was, const json_t *is, const char *partial, struct err *e)
{
    if (json_array_size(was) != json_array_size(is))
        return err_set(e, ERR_REFUSED, "%s: was begun with %zu weight files, and this run has %zu: " ANEW, partial,
                       json_array_size(was), json_array_size(is));
    for (size_t i = 0; i < json_array_size(is); i++)
        if (check_source(json_array_get(was, i), json_array_get(is, i), partial, e))
            return -1;
    return 0;
}

int manifest_check(const struct export_job *j, const char *recorded, const char *partial, struct err *e)
{
    json_t *is = document(j), *was = json_parse_exact(recorded, strlen(recorded), partial, e);
    int ret = -1;

    if (!was)
        goto out;
    if (check_options(json_object_get(was, "options"), json_object_get(is, "options"), partial, e) ||
        check_sources(json_object_get(was, "sources"), json_object_get(is, "sources"), partial, e))
        goto out;
    ret = json_equal(was, is) ? 0
                              : err_set(e, ERR_REFUSED,
                                        "%s: was begun with another graph, so config.json or an option has changed "
                                        "since: " ANEW,
                                        partial);
out:
    json_decref(is);
    json_decref(was);
    return ret;
}
