/* choose.c - which files of a directory hold the weights.
 *
 * The one that the caller prefers.  Else, for each container and in this order:
 * the index by its usual name; the one file by its usual name; a single other
 * index; a single other file (older quantizers named them freely).  Several are a
 * question that only the user can answer.  An index wins over model.safetensors, with a warning, unless none of
 * its files is there: then it is left over from another form of the model. */
#include "base/json.h"
#include "checkpoint/container.h"
#include <stdio.h>
#include <string.h>

#define INDEX ".index.json"
enum { NAMES_SHOWN = 8, ADAPTER_CONFIG_MOST = 1 << 20 };

/* clang-format off */
const struct container containers[] = {
    /* name           usual name           suffix          never the model's                           reads one file */
    { "safetensors", "model.safetensors", ".safetensors", { "adapter_model.safetensors" },            safetensors_read },
    { "PyTorch zip", "pytorch_model.bin", ".bin",         { "adapter_model.bin", "training_args.bin",
                                                            "optimizer.bin", "scheduler.bin" },       torch_zip_read },
};
/* clang-format on */
const size_t containers_n = sizeof containers / sizeof *containers;

struct chooser {
    struct choice *w;
    const char *dir;
    const struct listing *l;
    struct arena *a;
    struct notes *notes;
    struct faults *f;
};

static const char *path_of(const struct chooser *s, const char *name)
{
    return arena_printf(s->a, "%s/%s", s->dir, name);
}

static bool never_the_model(const struct container *container, const char *name)
{
    bool never = false;

    for (size_t i = 0; i < CONTAINER_NEVER && container->never[i]; i++)
        never |= !strcmp(container->never[i], name);
    return never;
}

/* Names that end so, but for LoRA adapters and what else is never the model. */
static struct listing matching(const struct chooser *s, const char *suffix)
{
    struct listing found = { .name = arena_array(s->a, s->l->n, sizeof *found.name) };

    for (size_t i = 0; i < s->l->n; i++)
        if (str_ends(s->l->name[i], suffix) && !never_the_model(s->w->container, s->l->name[i]))
            found.name[found.n++] = s->l->name[i];
    return found;
}

static const char *names_text(const struct chooser *s, const struct listing *names)
{
    const char *text = names->name[0];

    for (size_t i = 1; i < names->n && i < NAMES_SHOWN; i++)
        text = arena_printf(s->a, "%s, %s", text, names->name[i]);
    return names->n > NAMES_SHOWN ? arena_printf(s->a, "%s and %zu more", text, names->n - NAMES_SHOWN) : text;
}

/* 3 for "model-00001-of-00003.safetensors", 1 for a file that is not one of several. */
static unsigned shards_by_name(const char *name, const char *suffix)
{
    enum { TAIL = sizeof "-00001-of-00003" - 1 };
    size_t behind = TAIL + strlen(suffix), n = strlen(name);
    unsigned i, of;
    int used = 0;

    if (n < behind || sscanf(name + n - behind, "-%5u-of-%5u%n", &i, &of, &used) != 2 || used != TAIL)
        return 1;
    return of;
}

static void take_one(struct chooser *s, const char *name)
{
    unsigned n = shards_by_name(name, s->w->container->suffix);
    struct listing one = { .name = arena_array(s->a, 1, sizeof *one.name), .n = 1 };

    one.name[0] = name;
    s->w->files = one;
    if (n > 1)
        faults_addf(s->f, "%s/%s: is one of %u files, and neither the others nor %s" INDEX " are there: download them",
                    s->dir, name, n, s->w->container->single);
}

static void take_none(struct chooser *s, const struct listing *several, const char *what)
{
    faults_addf(s->f,
                "%s: has %zu %s and no %s" INDEX " that says which belong to the model: %s: add it, or keep only one",
                s->dir, several->n, what, s->w->container->single, names_text(s, several));
    s->w->files = matching(s, s->w->container->suffix); /* may be bad as well */
}

static bool any_present(const struct chooser *s, const struct listing *names)
{
    bool any = false;

    for (size_t i = 0; i < names->n && !any; i++)
        any = file_exists(path_of(s, names->name[i]));
    return any;
}

/* Says what lies beside the index's files and is not read. */
static void note_unread(const struct chooser *s, const struct listing *named, const char *index)
{
    struct listing all = matching(s, s->w->container->suffix), unread = { .name = all.name };

    for (size_t i = 0; i < all.n; i++)
        if (!listing_has(named, all.name[i]) && strcmp(all.name[i], s->w->container->single))
            unread.name[unread.n++] = all.name[i];
    if (unread.n)
        notes_add(s->notes, NOTE_INFO, "%s/%s does not name %s: not read", s->dir, index, names_text(s, &unread));
}

static void take_index(struct chooser *s, const char *name)
{
    const char *single = s->w->container->single;
    struct index *ix = &s->w->index;
    struct err e = { 0 };

    if (index_open(ix, path_of(s, name), s->a, &e)) {
        faults_add(s->f, &e);
        s->w->files = matching(s, s->w->container->suffix);
        return;
    }
    if (listing_has(s->l, single) && !listing_has(&ix->files, single)) {
        if (!any_present(s, &ix->files)) {
            notes_add(s->notes, NOTE_STRICT, "%s/%s names files of which none is there: %s is read instead", s->dir,
                      name, single);
            index_close(ix);
            take_one(s, single);
            return;
        }
        notes_add(s->notes, NOTE_STRICT, "%s/%s does not name %s, which is there too: it is not read", s->dir, name,
                  single);
    }
    note_unread(s, &ix->files, name);
    s->w->files = ix->files;
}

/* False: no file of this container. */
static bool choose_from(struct chooser *s, const struct container *container)
{
    const char *index = arena_printf(s->a, "%s" INDEX, container->single);
    struct listing files, indexes;

    s->w->container = container;
    files = matching(s, container->suffix);
    indexes = matching(s, arena_printf(s->a, "%s" INDEX, container->suffix));
    if (listing_has(s->l, index))
        take_index(s, index);
    else if (listing_has(s->l, container->single))
        take_one(s, container->single);
    else if (indexes.n == 1)
        take_index(s, indexes.name[0]);
    else if (indexes.n)
        take_none(s, &indexes, "indexes");
    else if (files.n == 1)
        take_one(s, files.name[0]);
    else if (files.n)
        take_none(s, &files, "weight files");
    else
        return false;
    return true;
}

/* False: not asked for, or not there. */
static bool choose_preferred(struct chooser *s)
{
    const char *file = s->w->prefer;

    if (!file || !listing_has(s->l, file))
        return false;
    for (size_t i = 0; i < containers_n; i++) {
        const char *other = containers[i].single;

        if (str_ends(file, containers[i].suffix))
            s->w->container = &containers[i];
        else if (listing_has(s->l, other))
            notes_add(s->notes, NOTE_INFO, "%s/%s is read, not %s beside it", s->dir, file, other);
    }
    take_one(s, file);
    return true;
}

static const struct {
    const char *suffix, *what, *remedy;
} foreign[] = {
#define SAVE   "save the model as safetensors with the program that wrote it (transformers: save_pretrained)"
#define FINISH "finish the download"
    { ".pt", "a PyTorch pickle", SAVE },
    { ".pth", "a PyTorch pickle", SAVE },
    { ".ckpt", "a PyTorch pickle", SAVE },
    { ".h5", "a Keras file", SAVE },
    { ".msgpack", "a Flax file", SAVE },
    { ".npz", "a NumPy archive", SAVE },
    { ".gguf", "a GGUF file", "give the checkpoint that it was made from" },
    { ".onnx", "an ONNX file", "give the checkpoint that it was made from" },
    { ".incomplete", "an unfinished download", FINISH },
    { ".part", "an unfinished download", FINISH },
    { ".crdownload", "an unfinished download", FINISH },
    { ".aria2", "an unfinished download", FINISH },
};

static void nothing_found(const struct chooser *s)
{
    const char *found = NULL, *remedy = NULL;

    for (size_t k = 0; k < sizeof foreign / sizeof *foreign; k++) {
        struct listing names = matching(s, foreign[k].suffix);

        if (!names.n)
            continue;
        found = arena_printf(s->a, "%s%s%s (%s)", found ? found : "", found ? ", " : "", names_text(s, &names),
                             foreign[k].what);
        remedy = remedy ? remedy : foreign[k].remedy;
    }
    if (found)
        faults_addf(s->f, "%s: holds no *.safetensors file, but %s: %s", s->dir, found, remedy);
    else
        faults_addf(s->f,
                    "%s: holds no weights: expected model.safetensors, or model.safetensors" INDEX
                    " and its files, or pytorch_model.bin",
                    s->dir);
}

static void is_adapter(const struct chooser *s)
{
    struct err ignored = { 0 };
    json_t *config = read_json(path_of(s, "adapter_config.json"), ADAPTER_CONFIG_MOST, &ignored);
    const char *base = json_string_value(json_object_get(config, "base_model_name_or_path"));
    char q[STR_QUOTED];

    faults_addf(
        s->f,
        "%s: this is a LoRA adapter, not a model: give its base model%s%s, or a model that it has been merged into",
        s->dir, base ? " " : "", base ? str_quote(q, base) : "");
    json_decref(config);
}

void choose_files(struct choice *w, const char *dir, const struct listing *l, struct arena *a, struct notes *notes,
                  struct faults *f)
{
    struct chooser s = { w, dir, l, a, notes, f };
    bool adapter = listing_has(l, "adapter_config.json");

    if (adapter && !listing_has(l, "config.json")) {
        is_adapter(&s);
        return;
    }
    if (choose_preferred(&s))
        return;
    for (size_t i = 0; i < containers_n; i++)
        if (choose_from(&s, &containers[i]))
            return;
    if (adapter)
        is_adapter(&s);
    else
        nothing_found(&s);
}
