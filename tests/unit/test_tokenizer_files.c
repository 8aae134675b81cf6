/* Tokenizer files come out as they are in the checkpoint, to the byte, but for the chat template, which moves to a file
 * of its own; what is not there, broken or contradictory is named before anything is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/json.h"
#include "base/str.h"
#include "emit/tokenizer_files.h"
#include "io/file.h"

/* ---- a model directory for each test ------------------------------------------------------------------------------
 */

static char dir[64];

static void empty(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *f;
    char inside[400];

    while (d && (f = readdir(d))) {
        if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, ".."))
            continue;
        snprintf(inside, sizeof inside, "%s/%s", path, f->d_name);
        if (unlink(inside))
            rmdir(inside);
    }
    closedir(d);
}

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/weighbridge-tokenizer-XXXXXX");
    return !mkdtemp(dir);
}

static int remove_dir(void **state)
{
    (void)state;
    empty(dir);
    return rmdir(dir);
}

static const char *in_dir(const char *name)
{
    static char path[300];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put_bytes(const char *name, const char *text, size_t n)
{
    FILE *f = fopen(in_dir(name), "w");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

static void put(const char *name, const char *text) { put_bytes(name, text, strlen(text)); }

static const char *golden(const char *path)
{
    static char full[2][400];
    static int turn;

    snprintf(full[turn ^= 1], sizeof *full, "%s/tests/golden/%s", getenv("SOURCE_DIR"), path);
    return full[turn];
}

/* ---- one collection ------------------------------------------------------------------------------------------------
 */

struct outcome {
    int ret;
    struct arena arena;
    struct sidefiles out;
    struct tokenizer_result result;
    struct notes notes;
    struct err e;
};

static void collect(struct outcome *o, struct tokenizer_request r)
{
    *o = (struct outcome){ 0 };
    o->out.arena = &o->arena;
    o->ret = tokenizer_files_collect(&r, &o->out, &o->result, &o->notes, &o->e);
}

static void release(struct outcome *o)
{
    notes_release(&o->notes);
    arena_release(&o->arena);
}

/* Of the file as it will be written; NULL: there will be none. */
static const char *text_of(struct outcome *o, const char *name)
{
    const struct sidefile *f = sidefiles_find(&o->out, name);
    char *text, *kept;
    size_t n;

    if (!f || !f->copy_from)
        return f ? f->bytes : NULL;
    assert_int_equal(file_read(f->copy_from, 1 << 24, &text, &n, &o->e), 0);
    assert_int_equal(n, f->size);
    kept = arena_memdup(&o->arena, text, n);
    free(text);
    return kept;
}

static const struct note *note_with(const struct outcome *o, const char *text)
{
    for (size_t i = 0; i < o->notes.n; i++)
        if (strstr(o->notes.v[i].text, text))
            return &o->notes.v[i];
    return NULL;
}

static void expect_failure(struct tokenizer_request r, const char *const words[])
{
    struct outcome o;

    collect(&o, r);
    for (size_t i = 0; words[i]; i++)
        if (o.ret != -1 || !strstr(o.e.msg, words[i]))
            fail_msg("\"%s\" does not say \"%s\"", o.e.msg, words[i]);
    release(&o);
}

#define FAILS(request, ...)                                                                                            \
    expect_failure((struct tokenizer_request)request, (const char *const[]){ __VA_ARGS__, NULL })
#define REQUEST(...)                                                                                                   \
    {                                                                                                                  \
        .dir = dir, __VA_ARGS__                                                                                        \
    }
#define WAYS_OUT "--chat-template FILE", "--no-chat-template"

/* ---- goldens -------------------------------------------------------------------------------------------------------
 */

static void same_text(struct outcome *o, const char *name, const char *path)
{
    const char *ours = text_of(o, name);
    char *text;
    size_t n;

    if (!file_exists(path)) {
        assert_null(ours);
        return;
    }
    assert_non_null(ours);
    assert_int_equal(file_read(path, 1 << 24, &text, &n, &o->e), 0);
    assert_string_equal(ours, text);
    assert_int_equal(sidefiles_find(&o->out, name)->size, n);
    free(text);
}

static const struct {
    const char *checkpoint, *golden, *template_from;
    const char *chat_template;
} cases[] = {
    { "llama", "llama", "tokenizer_config.json", NULL },
    { "llama3_tied", "llama3_tied", "chat_template.jinja", NULL },
    { "llama_bias", "llama_bias", NULL, NULL },
    { "llama_bias", "llama_bias__chat_template", NULL, "checkpoints/custom_chat_template.json" },
    { "mistral", "mistral", "tokenizer_config.json", NULL },
    { "qwen2", "qwen2", "tokenizer_config.json", NULL },
    { "qwen2_5", "qwen2_5", "tokenizer_config.json", NULL },
    { "deepseek_qwen", "deepseek_qwen", "tokenizer_config.json", NULL },
    { "qwen3", "qwen3", "tokenizer_config.json", NULL },
};

static void equal_the_goldens(void **state)
{
    static const char *const same[] = { "tokenizer.json", "merges.txt", "chat_template.jinja",
                                        "processed_chat_template.json" };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct outcome o;
        char model[400], theirs[64], given[64], path[128];

        snprintf(given, sizeof given, "checkpoints/%s", cases[i].checkpoint);
        strcpy(model, golden(given));
        collect(&o, (struct tokenizer_request){ .dir = model,
                                                .model_path = given,
                                                .chat_template =
                                                    cases[i].chat_template ? golden(cases[i].chat_template) : NULL });
        assert_string_equal(o.e.msg, "");
        snprintf(theirs, sizeof theirs, "edgellm-0.5/%s", cases[i].golden);
        for (size_t k = 0; k < sizeof same / sizeof *same; k++) {
            snprintf(path, sizeof path, "%s/%s", theirs, same[k]);
            same_text(&o, same[k], golden(path));
        }
        if (cases[i].template_from)
            assert_string_equal(o.result.template_from, cases[i].template_from);
        else
            assert_null(o.result.template_from);
        assert_null(sidefiles_find(&o.out, "generation_config.json"));
        assert_null(sidefiles_find(&o.out, "config.json")); /* the runtime's own is another's work */
        release(&o);
    }
}

static void vision_templates_equal_the_goldens(void **state)
{
    static const char *const names[] = { "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl3" };

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128], given[64];
        struct outcome o;

        snprintf(path, sizeof path, "vision_templates/%s", names[i]);
        snprintf(given, sizeof given, "checkpoints/%s", names[i]);
        collect(&o, (struct tokenizer_request){ .dir = golden(path), .model_path = given, .multimodal = true });
        assert_string_equal(o.e.msg, "");
        snprintf(path, sizeof path, "vision_templates/%s/processed_chat_template.json", names[i]);
        same_text(&o, "processed_chat_template.json", golden(path));
        assert_non_null(sidefiles_find(&o.out, "chat_template.jinja"));
        assert_null(sidefiles_find(&o.out, "chat_template.json"));
        release(&o);
    }
}

/* ---- where the template is ------------------------------------------------------------------------------------------
 */

#define SAYS(word) "{% for m in messages %}<" word "{{ m.role }}>{{ m.content }}{% endfor %}"

static const char *system_prefix(struct outcome *o)
{
    json_t *root = json_loads(text_of(o, "processed_chat_template.json"), 0, NULL);
    json_t *system = json_object_get(json_object_get(root, "roles"), "system");
    const char *s = arena_strdup(&o->arena, json_string_value(json_object_get(system, "prefix")));

    json_decref(root);
    return s;
}

/* TMPL-01: each source alone, and all of them with different templates: .jinja, chat_template.json,
 * tokenizer_config.json. */
static void every_source_in_order(void **state)
{
    static const struct {
        const char *name, *text, *template;
    } sources[] = {
        { "chat_template.jinja", SAYS("jinja "), SAYS("jinja ") },
        { "chat_template.json", "{\"chat_template\": \"" SAYS("json ") "\"}", SAYS("json ") },
        { "tokenizer_config.json", "{\"a\": 1, \"chat_template\": \"" SAYS("config ") "\"}", SAYS("config ") },
    };
    static const char *const prefix[] = { "<jinja system>", "<json system>", "<config system>" };

    (void)state;
    for (unsigned set = 1; set < 8; set++) {
        unsigned first = set & 1 ? 0 : set & 2 ? 1 : 2, others = 0;
        struct outcome o;

        empty(dir);
        for (unsigned i = 0; i < 3; i++)
            if (set & 1u << i)
                put(sources[i].name, sources[i].text);
        collect(&o, (struct tokenizer_request)REQUEST(.model_path = "M"));
        assert_string_equal(o.e.msg, "");
        assert_string_equal(o.result.template_from, sources[first].name);
        assert_string_equal(o.result.processed_from, "model");
        assert_string_equal(text_of(&o, "chat_template.jinja"), sources[first].template);
        assert_string_equal(system_prefix(&o), prefix[first]);
        assert_null(text_of(&o, "chat_template.json"));
        if (set & 4)
            assert_string_equal(text_of(&o, "tokenizer_config.json"), "{\"a\": 1}");
        for (unsigned i = first + 1; i < 3; i++)
            others += set >> i & 1;
        for (size_t i = 0; i < o.notes.n; i++)
            others -= strstr(o.notes.v[i].text, "has another chat template than") != NULL;
        assert_int_equal(others, 0);
        release(&o);
    }
}

static void equal_templates_are_no_contradiction(void **state)
{
    struct outcome o;

    (void)state;
    put("chat_template.jinja", SAYS(""));
    put("tokenizer_config.json", "{\"chat_template\": \"" SAYS("") "\"}");
    collect(&o, (struct tokenizer_request)REQUEST(.model_path = "M"));
    assert_int_equal(o.ret, 0);
    assert_null(note_with(&o, "another chat template"));
    release(&o);
}

/* A processor's template counts for vision models only. */
static void processor_template(void **state)
{
    struct outcome o;

    (void)state;
    put("processor_config.json", "{\"chat_template\": \"" SAYS("processor ") "\"}");
    put("tokenizer_config.json", "{\"chat_template\": \"" SAYS("config ") "\"}");
    collect(&o, (struct tokenizer_request)REQUEST(.multimodal = true));
    assert_string_equal(o.result.template_from, "processor_config.json");
    assert_string_equal(text_of(&o, "processor_config.json"), "{\"chat_template\": \"" SAYS("processor ") "\"}");
    release(&o);
    collect(&o, (struct tokenizer_request)REQUEST(.multimodal = false));
    assert_string_equal(o.result.template_from, "tokenizer_config.json");
    release(&o);
}

/* TMPL-04 */
static void lists_of_templates(void **state)
{
    static const char with_default[] = "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}, "
                                       "{\"name\": \"default\", \"template\": \"" SAYS("list ") "\"}], \"a\": 1}";
    static const char without[] = "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}, "
                                  "{\"name\": \"rag\", \"template\": \"y\"}, 7]}";
    struct outcome o;

    (void)state;
    put("tokenizer_config.json", with_default);
    collect(&o, (struct tokenizer_request)REQUEST(.model_path = "M"));
    assert_string_equal(o.e.msg, "");
    assert_string_equal(system_prefix(&o), "<list system>");
    assert_string_equal(text_of(&o, "chat_template.jinja"), SAYS("list "));
    assert_string_equal(text_of(&o, "tokenizer_config.json"), "{\"a\": 1}");
    assert_non_null(note_with(&o, "\"tool_use\""));
    release(&o);

    put("tokenizer_config.json", without);
    FAILS(REQUEST(.model_path = "M"), "tokenizer_config.json", "none of them named \"default\"",
          "\"tool_use\", \"rag\"", WAYS_OUT);
    put("tokenizer_config.json", "{\"chat_template\": []}");
    FAILS(REQUEST(.model_path = "M"), "none of them named \"default\"", WAYS_OUT);
    put("tokenizer_config.json", "{\"chat_template\": 5}");
    FAILS(REQUEST(.model_path = "M"), "\"chat_template\" is an integer", WAYS_OUT);
    put("tokenizer_config.json", "{\"chat_template\": {\"default\": \"\"}}");
    FAILS(REQUEST(.model_path = "M"), "\"chat_template\" is an object", WAYS_OUT);

    /* both ways out lead out, and the list stays where it is */
    put("tokenizer_config.json", without);
    put("given.json",
        "{\"roles\": {\"system\": {\"prefix\": \"\", \"suffix\": \"\"}, \"user\": {\"prefix\": \"\", \"suffix\": "
        "\"\"}, \"assistant\": {\"prefix\": \"\", \"suffix\": \"\"}}}");
    for (int i = 0; i < 2; i++) {
        collect(&o, (struct tokenizer_request)REQUEST(.no_chat_template = i,
                                                      .chat_template = i ? NULL : in_dir("given.json")));
        assert_int_equal(o.ret, 0);
        assert_string_equal(text_of(&o, "tokenizer_config.json"), without);
        assert_null(text_of(&o, "chat_template.jinja"));
        assert_true(note_with(&o, "named \"default\"")->warning);
        release(&o);
    }
}

/* ---- what is copied -------------------------------------------------------------------------------------------------
 */

static void configs_stay_to_the_byte(void **state)
{
    static const struct {
        const char *before, *after;
    } texts[] = {
        { "{\"model_max_length\": 1000000000000000019884624838656, \"chat_template\": \"" SAYS("") "\"}",
          "{\"model_max_length\": 1000000000000000019884624838656}" },
        { "{\n  \"chat_template\": \"" SAYS("") "\",\n  \"a\" : [1e5,\t\"\\u00e9\\/\"]\n}\n",
          "{\n  \"a\" : [1e5,\t\"\\u00e9\\/\"]\n}\n" },
        { "{\"a\": {\"chat_template\": \"inner\"}, \"\\u0063hat_template\" : \"" SAYS("") "\" , \"b\": 2}",
          "{\"a\": {\"chat_template\": \"inner\"}, \"b\": 2}" },
        { "{\"chat_template\": null, \"a\": 1}", "{\"a\": 1}" },
        { "{ \"a\": \"\xc3\xa9\" }\r\n", "{ \"a\": \"\xc3\xa9\" }\r\n" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct outcome o;

        put("tokenizer_config.json", texts[i].before);
        collect(&o, (struct tokenizer_request)REQUEST(.no_chat_template = true));
        assert_string_equal(o.e.msg, "");
        assert_string_equal(text_of(&o, "tokenizer_config.json"), texts[i].after);
        release(&o);
    }
}

static const char *const all[] = { "tokenizer.json",
                                   "vocab.json",
                                   "merges.txt",
                                   "special_tokens_map.json",
                                   "added_tokens.json",
                                   "tokenizer.model",
                                   "tokenizer_config.json",
                                   "preprocessor_config.json",
                                   "video_preprocessor_config.json",
                                   "processor_config.json",
                                   "chat_template.jinja" };

static const char *const never[] = { "generation_config.json", "quantize_config.json", "modeling_x.py", "config.json",
                                     "README.md" };

enum { ALL = sizeof all / sizeof *all };

static void known_files_are_copied_and_no_others(void **state)
{
    char out[80], path[200];
    struct outcome o;
    int fd;

    (void)state;
    for (size_t i = 0; i < ALL; i++) { /* as in a hub's cache: links to other places */
        snprintf(path, sizeof path, "blob%zu", i);
        put(path, "{\"x\": \"y\"}\n ");
        assert_int_equal(symlink(path, in_dir(all[i])), 0);
    }
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        put(never[i], "{}");
    collect(&o, (struct tokenizer_request)REQUEST(.no_chat_template = true));
    assert_string_equal(o.e.msg, "");
    assert_int_equal(o.out.n, ALL);
    assert_int_equal(o.notes.n, 0);

    strcpy(out, "/tmp/weighbridge-out-XXXXXX");
    assert_non_null(mkdtemp(out));
    fd = open(out, O_RDONLY | O_DIRECTORY);
    assert_int_equal(sidefiles_write(&o.out, fd, out, &o.e), 0);
    for (size_t i = 0; i < ALL; i++) {
        struct stat st;
        char *text;
        size_t n;

        snprintf(path, sizeof path, "%s/%s", out, all[i]);
        assert_int_equal(lstat(path, &st), 0);
        assert_true(S_ISREG(st.st_mode));
        assert_int_equal(file_read(path, 100, &text, &n, &o.e), 0);
        assert_string_equal(text, "{\"x\": \"y\"}\n ");
        free(text);
    }
    assert_int_equal(sidefiles_write(&o.out, fd, out, &o.e), -1); /* nothing is replaced */
    assert_non_null(strstr(o.e.msg, "cannot be created"));
    close(fd);
    empty(out);
    rmdir(out);
    release(&o);
}

static void copies_that_change_are_noticed(void **state)
{
    char out[] = "/tmp/weighbridge-out-XXXXXX";
    struct outcome o;
    int fd;

    (void)state;
    put("tokenizer.json", "{}");
    collect(&o, (struct tokenizer_request)REQUEST(.no_chat_template = true));
    put("tokenizer.json", "{\"longer\": 1}");
    assert_non_null(mkdtemp(out));
    fd = open(out, O_RDONLY | O_DIRECTORY);
    assert_int_equal(sidefiles_write(&o.out, fd, out, &o.e), -1);
    assert_non_null(strstr(o.e.msg, "changed while it was in use, from 2 to 13 bytes"));
    close(fd);
    empty(out);
    rmdir(out);
    release(&o);
}

/* TMPL-05 */
static void missing_tokenizer_is_named(void **state)
{
    static const struct {
        const char *there, *note; /* NULL: none */
    } cases_of[] = {
        { "tokenizer.json", NULL },
        { "merges.txt", "no tokenizer.json, and the runtime cannot" },
        { "tokenizer.model", "no tokenizer.json, only tokenizer.model" },
        { "vocab.json", "no tokenizer.json, only vocab.json" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases_of / sizeof *cases_of; i++) {
        struct outcome o;

        empty(dir);
        put(cases_of[i].there, "{}");
        collect(&o, (struct tokenizer_request)REQUEST(.no_chat_template = true));
        assert_int_equal(o.ret, 0);
        if (cases_of[i].note)
            assert_true(note_with(&o, cases_of[i].note)->strict);
        else
            assert_int_equal(o.notes.n, 0);
        release(&o);
    }
}

static void broken_files_are_named(void **state)
{
    static const struct {
        const char *name, *text, *message;
    } broken[] = {
        { "tokenizer_config.json", "{\"a\": }", "tokenizer_config.json: not valid JSON" },
        { "tokenizer_config.json", "{\"a\": 1, \"a\": 2}", "tokenizer_config.json: key \"a\" is there twice" },
        { "tokenizer_config.json", "[]", "tokenizer_config.json: is not a JSON object" },
        { "tokenizer_config.json", "", "tokenizer_config.json: is not a JSON object" },
        { "tokenizer_config.json", "<html>", "tokenizer_config.json: is not a JSON object" },
        { "tokenizer_config.json", "{\"a\": \"\xff\"}", "tokenizer_config.json: not valid JSON" },
        { "special_tokens_map.json", "{\"a\": ", "special_tokens_map.json: is cut short" },
        { "chat_template.json", "{\"a\"}", "chat_template.json: not valid JSON" },
        { "tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 1, ", "tokenizer.json: is cut short" },
        { "tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
          "is a Git LFS pointer" },
        { "tokenizer.model", "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
          "is a Git LFS pointer" },
        { "chat_template.jinja", "version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
          "is a Git LFS pointer" },
        { "chat_template.jinja", "\xff\xfe<\0", "chat_template.jinja: is not UTF-8 text" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        empty(dir);
        put(broken[i].name, broken[i].text);
        FAILS(REQUEST(.no_chat_template = true), dir, broken[i].message);
    }
    empty(dir);
    put_bytes("chat_template.jinja", "a\0b", 3);
    FAILS(REQUEST(.no_chat_template = true), "chat_template.jinja: is not UTF-8 text");
    empty(dir);
    assert_int_equal(symlink("no such blob", in_dir("tokenizer.json")), 0);
    FAILS(REQUEST(.no_chat_template = true), "tokenizer.json: is a symbolic link to a file that is not there");
    empty(dir);
    assert_int_equal(mkdir(in_dir("merges.txt"), 0755), 0);
    FAILS(REQUEST(.no_chat_template = true), "merges.txt: is not a regular file");
    empty(dir);
    assert_int_equal(mkfifo(in_dir("tokenizer_config.json"), 0644), 0); /* would wait for a writer for ever */
    FAILS(REQUEST(.no_chat_template = true), "tokenizer_config.json: is not a regular file");
}

/* ---- the processed template
 * ------------------------------------------------------------------------------------------ */

static void special_tokens_of_either_file(void **state)
{
    static const char template[] =
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ additional_special_tokens | join('+') }}"
        "{{ image_token }}" SAYS("");
    static const struct {
        const char *config, *map, *prefix;
    } files[] = {
        { "{\"bos_token\": \"B\", \"eos_token\": {\"content\": \"E\", \"lstrip\": false}, \"unk_token\": null}", NULL,
          "BE<system>" },
        { "{\"additional_special_tokens\": [\"x\", {\"content\": \"y\"}], \"extra_special_tokens\": {\"image_token\": "
          "\"I\"}}",
          NULL, "x+yI<system>" },
        { "{}", "{\"bos_token\": {\"content\": \"b\"}, \"eos_token\": \"e\"}", "be<system>" },
        /* who has the say depends on added_tokens_decoder, as in transformers */
        { "{\"bos_token\": \"B\"}", "{\"bos_token\": \"b\", \"eos_token\": \"e\"}", "be<system>" },
        { "{\"bos_token\": \"B\", \"unk_token\": null, \"added_tokens_decoder\": {}}",
          "{\"bos_token\": \"b\", \"eos_token\": \"e\", \"unk_token\": \"u\"}", "Be<system>" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct outcome o;

        empty(dir);
        put("chat_template.jinja", template);
        put("tokenizer_config.json", files[i].config);
        if (files[i].map)
            put("special_tokens_map.json", files[i].map);
        collect(&o, (struct tokenizer_request)REQUEST(.model_path = "M"));
        assert_string_equal(o.e.msg, "");
        assert_string_equal(system_prefix(&o), files[i].prefix);
        release(&o);
    }
}

static void model_path_is_as_given(void **state)
{
    struct outcome o;

    (void)state;
    put("chat_template.jinja", SAYS(""));
    collect(&o, (struct tokenizer_request)REQUEST(.model_path = NULL));
    assert_non_null(strstr(text_of(&o, "processed_chat_template.json"), dir));
    release(&o);
    collect(&o, (struct tokenizer_request)REQUEST(.model_path = "a/\xc3\xa9/\"b\""));
    assert_non_null(strstr(text_of(&o, "processed_chat_template.json"), "\"model_path\": \"a/\\u00e9/\\\"b\\\"\""));
    release(&o);
    collect(&o, (struct tokenizer_request)REQUEST(.model_path = "a/\xff")); /* not Unicode, so not JSON */
    assert_non_null(strstr(text_of(&o, "processed_chat_template.json"), "\"model_path\": \"a/?\""));
    release(&o);
}

/* The same request gives the same bytes on any day. */
static void the_date_can_be_given(void **state)
{
    struct outcome o;

    (void)state;
    put("chat_template.jinja", "{{ strftime_now('%d %b %Y') }}" SAYS(""));
    collect(&o, (struct tokenizer_request)REQUEST(.now = 1721995200));
    assert_string_equal(system_prefix(&o), "26 Jul 2024<system>");
    assert_true(o.result.uses_clock);
    assert_true(note_with(&o, "writes the current date")->warning);
    release(&o);
}

static void no_template_is_said(void **state)
{
    struct outcome o;

    (void)state;
    put("tokenizer.json", "{}");
    put("chat_template.jinja", "");
    put("tokenizer_config.json", "{\"chat_template\": \"\"}");
    collect(&o, (struct tokenizer_request)REQUEST(.model_path = "M"));
    assert_int_equal(o.ret, 0);
    assert_null(o.result.template_from);
    assert_string_equal(o.result.processed_from, "none");
    assert_false(note_with(&o, "has no chat template")->warning);
    assert_null(text_of(&o, "processed_chat_template.json"));
    release(&o);
}

static void a_bad_template_is_refused(void **state)
{
    (void)state;
    put("tokenizer_config.json", "{\"chat_template\": \"{{ raise_exception('no system role') }}\"}");
    FAILS(REQUEST(.model_path = "M"), "tokenizer_config.json", "\"no system role\"", WAYS_OUT);
}

static void given_templates_are_copied(void **state)
{
    struct outcome o;

    (void)state;
    put("chat_template.jinja", "{{ never rendered");
    collect(&o, (struct tokenizer_request)REQUEST(.chat_template = golden("checkpoints/custom_chat_template.json")));
    assert_string_equal(o.e.msg, "");
    assert_string_equal(o.result.processed_from, "file");
    assert_true(o.result.processed_xxh3 == 0x2d6b988895ef8c0a);
    same_text(&o, "processed_chat_template.json", golden("checkpoints/custom_chat_template.json"));
    assert_string_equal(text_of(&o, "chat_template.jinja"), "{{ never rendered");
    release(&o);

    put("given.json", "{\"roles\": {\"system\": 1}}");
    FAILS(REQUEST(.chat_template = in_dir("given.json")),
          "--chat-template: ", "given.json: ", "\"roles.system\" is an integer");
    FAILS(REQUEST(.chat_template = "/no/such/file"), "--chat-template: /no/such/file");
    FAILS(REQUEST(.chat_template = "/dev/zero"), "--chat-template: /dev/zero: is not a regular file");
    assert_int_equal(truncate(in_dir("given.json"), (1 << 20) + 1), 0);
    FAILS(REQUEST(.chat_template = in_dir("given.json")), "at most 1048576 are accepted");
    FAILS(REQUEST(.chat_template = "x", .no_chat_template = true), "contradict each other");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(equal_the_goldens),
        TEST(vision_templates_equal_the_goldens),
        TEST(every_source_in_order),
        TEST(equal_templates_are_no_contradiction),
        TEST(processor_template),
        TEST(lists_of_templates),
        TEST(configs_stay_to_the_byte),
        TEST(known_files_are_copied_and_no_others),
        TEST(copies_that_change_are_noticed),
        TEST(missing_tokenizer_is_named),
        TEST(broken_files_are_named),
        TEST(special_tokens_of_either_file),
        TEST(model_path_is_as_given),
        TEST(the_date_can_be_given),
        TEST(no_template_is_said),
        TEST(a_bad_template_is_refused),
        TEST(given_templates_are_copied),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
