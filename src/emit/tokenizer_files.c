#include "emit/tokenizer_files.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/str.h"
#include "emit/chat_template.h"
#include "io/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    JSON_MOST = 64 << 20,    /* of the JSON files that are read, not copied */
    TEMPLATE_MOST = 1 << 20, /* real ones have a few thousand bytes */
    EDGE = 4096              /* of a file that is copied: looked at from either end */
};

/* ---- looking at a file that a stranger wrote --------------------------------------------------------------------- */

static bool is_json(const char *name) { return strlen(name) > 5 && !strcmp(name + strlen(name) - 5, ".json"); }

/* A download that broke off, or a page in place of a file. */
static int check_json_ends(const char *head, size_t head_n, const char *tail, size_t tail_n, const char *path,
                           struct err *e)
{
    const char *tail_end = tail + tail_n, *head_end = head + head_n;

    while (head < head_end && strchr(" \t\r\n", *head) && *head)
        head++;
    while (tail_end > tail && strchr(" \t\r\n", tail_end[-1]) && tail_end[-1])
        tail_end--;
    if (head == head_end || *head != '{')
        return err_set(e, ERR_FORMAT,
                       "%s: is not a JSON object, since it does not begin with \"{\": fetch the file again", path);
    if (tail_end == tail || tail_end[-1] != '}')
        return err_set(e, ERR_FORMAT, "%s: is cut short, since it does not end with \"}\": fetch the file again", path);
    return 0;
}

static int check_edges(int fd, const char *path, uint64_t bytes, struct err *e)
{
    static const char lfs[] = "version https://git-lfs.github.com/";
    char head[EDGE], tail[EDGE];
    size_t n = bytes < EDGE ? (size_t)bytes : EDGE;

    if (file_pread(fd, path, head, n, 0, e) || file_pread(fd, path, tail, n, bytes - n, e))
        return -1;
    if (n >= sizeof lfs - 1 && !memcmp(head, lfs, sizeof lfs - 1))
        return err_set(e, ERR_FORMAT,
                       "%s: is a Git LFS pointer, not the file itself: run \"git lfs pull\" in the model directory",
                       path);
    return is_json(path) ? check_json_ends(head, n, tail, n, path, e) : 0;
}

/* Says whether the file is there; -1 when it is, but cannot be what its name says. */
static int look(const char *path, bool *found, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), ret;
    struct file_id id;
    struct stat st;

    *found = fd >= 0;
    if (fd < 0 && errno == ENOENT)
        return lstat(path, &st)
                   ? 0
                   : err_set(e, ERR_IO, "%s: is a symbolic link to a file that is not there: fetch the model again",
                             path);
    if (fd < 0)
        return err_errno(e, errno, "%s: cannot be opened", path);
    ret = file_identify(fd, path, &id, e) || check_edges(fd, path, id.bytes, e) ? -1 : 0;
    close(fd);
    return ret;
}

/* ---- one run ------------------------------------------------------------------------------------------------------
 */

struct document { /* a JSON file that is read */
    const char *name, *path;
    const char *text; /* NULL: not there */
    size_t n;
    json_t *root;
};

struct collect {
    const struct tokenizer_request *r;
    struct tokenizer_result *result;
    struct sidefiles *out;
    struct notes *notes;
    struct document config, special, legacy, processor;
    const char *text; /* the model's chat template; NULL: none */
    const char *from; /* its path */
    bool undecided;   /* a template is there, but cannot be taken: its file stays as it is */
};

static const char *path_of(struct collect *c, const char *name)
{
    const char *dir = c->r->dir;
    size_t n = strlen(dir);

    return arena_printf(c->out->arena, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

static int load_text(struct collect *c, const char *path, size_t most, const char **text, size_t *n, struct err *e)
{
    bool found;
    char *read;

    *text = NULL;
    if (look(path, &found, e))
        return -1;
    if (!found)
        return 0;
    if (file_read(path, most, &read, n, e))
        return -1;
    *text = arena_memdup(c->out->arena, read, *n);
    free(read);
    return 0;
}

static int load(struct collect *c, struct document *d, const char *name, struct err *e)
{
    d->name = name;
    d->path = path_of(c, name);
    if (load_text(c, d->path, JSON_MOST, &d->text, &d->n, e))
        return -1;
    if (!d->text)
        return 0;
    if (!(d->root = json_parse(d->text, d->n, d->path, e)))
        return -1;
    return json_is_object(d->root)
               ? 0
               : err_set(e, ERR_FORMAT, "%s: is %s, expected an object", d->path, json_type_name(d->root));
}

/* ---- the model's template ---------------------------------------------------------------------------------------- */

/* Of [{"name": ..., "template": ...}, ...] the one named default; the names of the others are listed. */
static const char *default_of(const json_t *list, struct str *others)
{
    const char *chosen = NULL;

    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(list, i), "name"));
        const char *text = json_string_value(json_object_get(json_array_get(list, i), "template"));
        char quoted[STR_QUOTED];

        if (name && text && !strcmp(name, "default"))
            chosen = text;
        else
            str_addf(others, "%s%s", others->n ? ", " : "", str_quote(quoted, name ? name : "?"));
    }
    return chosen;
}

static int choose(struct collect *c, const struct document *d, const json_t *v, const char **text, struct err *e)
{
    struct str others = { 0 };
    int ret = 0;

    *text = json_string_value(v);
    if (json_is_array(v)) {
        *text = default_of(v, &others);
        if (!*text)
            ret = err_set(
                e, ERR_UNSUPPORTED,
                "%s: \"chat_template\" is a list of templates, none of them named \"default\" (there is: %s), and "
                "which one to take is not ours to guess: %s",
                d->path, others.n ? others.s : "none", CHAT_TEMPLATE_WAYS_OUT);
        else if (others.n)
            notes_add(c->notes, NOTE_INFO, "%s: of its chat templates \"default\" is taken; left out: %s", d->path,
                      others.s);
    } else if (!json_is_string(v) && !json_is_null(v)) {
        ret = err_set(e, ERR_FORMAT, "%s: \"chat_template\" is %s, expected a string or a list: %s", d->path,
                      json_type_name(v), CHAT_TEMPLATE_WAYS_OUT);
    }
    str_release(&others);
    return ret;
}

/* The first source counts. One that says something else would be taken by other programs, so it is named. */
static void take(struct collect *c, const char *text, const char *name, const char *path)
{
    if (!text || !*text)
        return;
    if (!c->text) {
        c->text = arena_strdup(c->out->arena, text);
        c->from = path;
        c->result->template_from = name;
    } else if (strcmp(c->text, text)) {
        notes_add(c->notes, NOTE_WARNING, "%s: has another chat template than %s, which is the one that is taken", path,
                  c->result->template_from);
    }
}

static int take_member(struct collect *c, const struct document *d, struct err *e)
{
    const json_t *v = json_object_get(d->root, "chat_template");
    const char *text = NULL;

    if (v && !c->text && choose(c, d, v, &text, e))
        return -1;
    take(c, c->text ? json_string_value(v) : text, d->name, d->path);
    return 0;
}

static bool is_text(const char *text, size_t n)
{
    json_t *v = memchr(text, 0, n) ? NULL : json_stringn(text, n); /* jansson takes UTF-8 only */
    bool good = v;

    json_decref(v);
    return good;
}

static int take_jinja(struct collect *c, struct err *e)
{
    const char *path = path_of(c, "chat_template.jinja"), *text;
    size_t n = 0;

    if (load_text(c, path, TEMPLATE_MOST, &text, &n, e))
        return -1;
    if (text && !is_text(text, n))
        return err_set(e, ERR_FORMAT, "%s: is not UTF-8 text: fetch the file again, or remove it", path);
    take(c, text, "chat_template.jinja", path);
    return 0;
}

/* In the order of transformers; a processor's template is asked before the tokenizer's. */
static int find_template(struct collect *c, struct err *e)
{
    struct err why = { 0 };

    if (take_jinja(c, e))
        return -1;
    if (!take_member(c, &c->legacy, &why) && !take_member(c, &c->processor, &why) && !take_member(c, &c->config, &why))
        return 0;
    c->undecided = true;
    if (!c->r->chat_template && !c->r->no_chat_template)
        return err_set(e, why.kind, "%s", why.msg);
    notes_add(c->notes, NOTE_WARNING, "%s", why.msg);
    return 0;
}

/* ---- special tokens, which templates use as variables -------------------------------------------------------------
 */

static const char *const token_names[] = { "bos_token", "eos_token", "unk_token",  "sep_token",
                                           "pad_token", "cls_token", "mask_token", "additional_special_tokens" };

/* "x", or {"content": "x", ...}; the list of additional ones. NULL: not set. */
static json_t *token(const json_t *v)
{
    json_t *list, *one;

    if (json_is_object(v))
        v = json_object_get(v, "content");
    if (json_is_string(v))
        return json_copy((json_t *)v);
    if (!json_is_array(v))
        return NULL;
    list = json_array();
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!json_is_array(json_array_get(v, i)) && (one = token(json_array_get(v, i))))
            json_array_append_new(list, one);
    return list;
}

/* As transformers reads them: with added_tokens_decoder tokenizer_config.json has the say, without it
 * special_tokens_map.json does. */
static json_t *special_tokens(const struct collect *c)
{
    bool config_first = json_object_get(c->config.root, "added_tokens_decoder");
    const json_t *first = config_first ? c->config.root : c->special.root;
    const json_t *second = config_first ? c->special.root : c->config.root;
    json_t *all = json_object(), *v;
    const char *key;

    json_object_foreach(json_object_get(c->config.root, "extra_special_tokens"), key, v)
    {
        if ((v = token(v)))
            json_object_set_new(all, key, v);
    }
    for (size_t i = 0; i < sizeof token_names / sizeof *token_names; i++) {
        const json_t *set = json_object_get(first, token_names[i]);

        if ((v = token(set ? set : json_object_get(second, token_names[i]))))
            json_object_set_new(all, token_names[i], v);
    }
    return all;
}

json_t *tokenizer_special_tokens(const char *dir, struct arena *a, struct err *e)
{
    const struct tokenizer_request r = { .dir = dir };
    struct sidefiles none = { .arena = a };
    struct collect c = { .r = &r, .out = &none };
    json_t *all = NULL;

    if (!load(&c, &c.config, "tokenizer_config.json", e) && !load(&c, &c.special, "special_tokens_map.json", e))
        all = special_tokens(&c);
    json_decref(c.config.root);
    json_decref(c.special.root);
    return all;
}

/* ---- the files ----------------------------------------------------------------------------------------------------
 */

static const char *const copied[] = { "tokenizer.json",
                                      "vocab.json",
                                      "merges.txt",
                                      "special_tokens_map.json",
                                      "added_tokens.json",
                                      "tokenizer.model",
                                      "preprocessor_config.json",
                                      "video_preprocessor_config.json",
                                      "processor_config.json" };

static int copy_files(struct collect *c, struct err *e)
{
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
        const char *path = path_of(c, copied[i]);
        bool found;

        if (look(path, &found, e) || (found && sidefiles_add_copy(c->out, copied[i], path, "copied", e)))
            return -1;
    }
    return 0;
}

/* The template moves to a file of its own; all else stays as it is, to the byte. */
static int add_config(struct collect *c, struct err *e)
{
    const struct document *d = &c->config;
    struct str rest = { 0 };
    size_t begin, end;
    int ret;

    if (!d->text)
        return 0;
    if (c->undecided || !json_find_member(d->text, d->n, "chat_template", &begin, &end))
        return sidefiles_add_copy(c->out, d->name, d->path, "copied", e);
    str_add(&rest, d->text, begin);
    str_add(&rest, d->text + end, d->n - end);
    ret = sidefiles_add_bytes(c->out, d->name, rest.s, rest.n, "copied without its chat template", e);
    str_release(&rest);
    return ret;
}

static int add_template(struct collect *c, struct err *e)
{
    static const char name[] = "chat_template.jinja";

    if (!c->text)
        return c->undecided && c->legacy.text ? sidefiles_add_copy(c->out, c->legacy.name, c->legacy.path, "copied", e)
                                              : 0;
    if (!strcmp(c->result->template_from, name))
        return sidefiles_add_copy(c->out, name, c->from, "copied", e);
    return sidefiles_add_bytes(c->out, name, c->text, strlen(c->text),
                               arena_printf(c->out->arena, "from %s", c->result->template_from), e);
}

/* ---- processed_chat_template.json ---------------------------------------------------------------------------------
 */

static int add_given(struct collect *c, struct err *e)
{
    const char *path = c->r->chat_template;
    char *text;
    size_t n;
    int ret = -1;

    if (file_read(path, TEMPLATE_MOST, &text, &n, e))
        return err_at(e, "--chat-template");
    if (chat_template_check(text, n, path, e)) {
        err_at(e, "--chat-template");
    } else {
        c->result->processed_from = "file";
        c->result->processed_xxh3 = XXH3_64bits(text, n);
        ret = sidefiles_add_bytes(c->out, "processed_chat_template.json", text, n, "from --chat-template", e);
    }
    free(text);
    return ret;
}

static int add_rendered(struct collect *c, struct err *e)
{
    struct chat_template t = { .text = c->text,
                               .from = c->from,
                               .special_tokens = special_tokens(c),
                               .multimodal = c->r->multimodal,
                               .now = c->r->now ? c->r->now : (int64_t)time(NULL),
                               .model_path = c->r->model_path ? c->r->model_path : c->r->dir };
    struct str processed = { 0 };
    int ret = chat_template_process(&t, &processed, &c->result->uses_clock, c->notes, e);

    if (!ret) {
        c->result->processed_from = "model";
        ret = sidefiles_add_bytes(c->out, "processed_chat_template.json", processed.s, processed.n,
                                  "rendered from the chat template", e);
    }
    str_release(&processed);
    json_decref((json_t *)t.special_tokens);
    return ret;
}

/* The family's own: its runtime is given this one whatever the model's template says. */
static int add_builtin(struct collect *c, struct err *e)
{
    json_t *v = json_parse(c->r->builtin, strlen(c->r->builtin), "the built-in chat template", e);
    struct str text = { 0 };
    int ret;

    if (!v)
        return -1;
    json_print(&text, v, true, true);
    c->result->processed_from = "model";
    ret = sidefiles_add_bytes(c->out, "processed_chat_template.json", text.s, text.n, "built in for this family", e);
    str_release(&text);
    json_decref(v);
    return ret;
}

static int add_processed(struct collect *c, struct err *e)
{
    c->result->processed_from = "none";
    if (c->r->chat_template)
        return add_given(c, e);
    if (c->r->no_chat_template)
        return 0;
    if (c->r->builtin)
        return add_builtin(c, e);
    if (c->text)
        return add_rendered(c, e);
    notes_add(
        c->notes, NOTE_INFO,
        "%s: has no chat template, so there will be no processed_chat_template.json: --chat-template FILE gives one",
        c->r->dir);
    return 0;
}

/* The runtime reads tokenizer.json and nothing else. */
static void note_missing(const struct collect *c)
{
    const char *instead = sidefiles_find(c->out, "tokenizer.model") ? "tokenizer.model"
                          : sidefiles_find(c->out, "vocab.json")    ? "vocab.json"
                                                                    : NULL;

    if (sidefiles_find(c->out, "tokenizer.json"))
        return;
    if (instead)
        notes_add(c->notes, NOTE_STRICT,
                  "%s: has no tokenizer.json, only %s, which the runtime does not read: make one with transformers "
                  "(AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL)) before the model is used",
                  c->r->dir, instead);
    else
        notes_add(
            c->notes, NOTE_STRICT,
            "%s: has no tokenizer.json, and the runtime cannot turn text into tokens without it: fetch it before the "
            "model is used",
            c->r->dir);
}

int tokenizer_files_collect(const struct tokenizer_request *r, struct sidefiles *out, struct tokenizer_result *result,
                            struct notes *notes, struct err *e)
{
    struct collect c = { .r = r, .out = out, .result = result, .notes = notes };
    int ret = -1;

    *result = (struct tokenizer_result){ 0 };
    if (r->chat_template && r->no_chat_template)
        return err_set(e, ERR_USAGE, "--chat-template and --no-chat-template contradict each other: give one of them");
    if (load(&c, &c.config, "tokenizer_config.json", e) || load(&c, &c.special, "special_tokens_map.json", e) ||
        load(&c, &c.legacy, "chat_template.json", e) ||
        (r->multimodal && load(&c, &c.processor, "processor_config.json", e)) || find_template(&c, e))
        goto out;
    if (copy_files(&c, e) || add_config(&c, e) || add_template(&c, e) || add_processed(&c, e))
        goto out;
    note_missing(&c);
    ret = 0;
out:
    json_decref(c.config.root);
    json_decref(c.special.root);
    json_decref(c.legacy.root);
    json_decref(c.processor.root);
    return ret;
}
