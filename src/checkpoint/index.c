/* index.c - model.safetensors.index.json: which tensor lies in which file.
 *
 * Only its weight_map counts.  What "metadata" says (total_size) is wrong in many
 * real files and is not looked at.  The files themselves say what they hold; the
 * index is checked against them, not believed. */
#include "base/json.h"
#include "checkpoint/container.h"
#include <stdlib.h>
#include <string.h>

enum { INDEX_MOST = 100000000 };

/* "./x" is x: one spelling for each file. */
static const char *plain_name(const char *name)
{
    while (!strncmp(name, "./", 2))
        name += 2;
    return name;
}

/* Inside the directory, without detours, and fit to be shown in a message. */
static bool file_name_ok(const char *name)
{
    const char *part = name = plain_name(name);

    for (const char *p = name;; p++) {
        if (*p && ((unsigned char)*p < 0x20 || *p == 0x7f))
            return false;
        if (*p && *p != '/')
            continue;
        if (p == part || (p - part <= 2 && !memcmp(part, "..", (size_t)(p - part))))
            return false;
        if (!*p)
            return true;
        part = p + 1;
    }
}

static int check_map(const struct index *ix, struct err *e)
{
    char q[STR_QUOTED], q2[STR_QUOTED];
    const char *key;
    json_t *value;

    if (!json_is_object(ix->map) || !json_object_size(ix->map))
        return err_set(e, ERR_FORMAT, "%s: \"weight_map\" is %s, expected an object that maps tensor names to files",
                       ix->path, json_is_object(ix->map) ? "empty" : json_type_name(ix->map));
    json_object_foreach(ix->map, key, value)
    {
        if (!json_is_string(value))
            return err_set(e, ERR_FORMAT, "%s: \"weight_map\" has %s for tensor %s, expected a file name", ix->path,
                           json_type_name(value), str_quote(q, key));
        if (!file_name_ok(json_string_value(value)))
            return err_set(e, ERR_FORMAT,
                           "%s: \"weight_map\" has %s for tensor %s, expected a file inside the directory", ix->path,
                           str_quote(q, json_string_value(value)), str_quote(q2, key));
    }
    return 0;
}

static void list_files(struct index *ix, struct arena *a)
{
    size_t n = 0;
    const char **name = arena_array(a, json_object_size(ix->map), sizeof *name);
    const char *key;
    json_t *value;

    json_object_foreach(ix->map, key, value) name[n++] = plain_name(json_string_value(value));
    ix->files = listing_of(name, n);
    for (size_t i = 0; i < ix->files.n; i++)
        name[i] = arena_strdup(a, name[i]);
}

int index_open(struct index *ix, const char *path, struct arena *a, struct err *e)
{
    ix->path = path;
    if (!(ix->json = read_json(path, INDEX_MOST, e)))
        return -1;
    ix->map = json_object_get(ix->json, "weight_map");
    if (check_map(ix, e)) {
        index_close(ix);
        return -1;
    }
    list_files(ix, a);
    return 0;
}

void index_close(struct index *ix)
{
    json_decref(ix->json);
    ix->json = ix->map = NULL;
}

void index_compare(const struct index *ix, const struct checkpoint *c, struct faults *f, struct notes *notes)
{
    size_t unnamed = 0;
    const struct tensor *first = NULL;
    char q[STR_QUOTED];
    const char *key;
    json_t *value;

    json_object_foreach(ix->map, key, value)
    {
        const struct tensor *t = ckpt_find(c, key);
        const char *file = plain_name(json_string_value(value));

        if (!t || strcmp(c->file[t->file].name, file))
            faults_addf(f, "%s: puts tensor %s into %s, which does not hold it%s%s: download both again", ix->path,
                        str_quote(q, key), file, t ? "; it is in " : "", t ? c->file[t->file].name : "");
    }
    for (size_t i = 0; i < c->tensors_n; i++)
        if (!json_object_get(ix->map, c->tensor[i].name) && !unnamed++)
            first = &c->tensor[i];
    if (unnamed)
        notes_add(notes, NOTE_WARNING,
                  "%s does not name %zu of the tensors that its files hold, the first is %s in %s; the "
                  "files count",
                  ix->path, unnamed, str_quote(q, first->name), c->file[first->file].name);
}
