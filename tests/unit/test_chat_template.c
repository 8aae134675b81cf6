/* A chat template becomes the prefixes and suffixes that the reference finds, and a template that cannot be used, or
 * that tries something else than rendering, ends in one sentence that names the way out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/json.h"
#include "base/str.h"
#include "emit/chat_template.h"
#include "emit/helper.h"
#include "kernel.h"

struct outcome {
    int ret;
    json_t *root; /* of the processed file */
    struct err e;
    struct notes notes;
    bool uses_clock;
};

static struct outcome process(const char *text, const char *tokens, bool multimodal)
{
    json_t *special_tokens = json_loads(tokens, 0, NULL);
    struct chat_template t = { .text = text,
                               .from = "MODEL/chat_template.jinja",
                               .special_tokens = special_tokens,
                               .multimodal = multimodal,
                               .now = 1721995200, /* noon, 26 July 2024 */
                               .model_path = "MODEL",
                               .cpu_seconds = 2 };
    struct outcome o = { 0 };
    struct str s = { 0 };

    o.ret = chat_template_process(&t, &s, &o.uses_clock, &o.notes, &o.e);
    if (!o.ret)
        o.root = json_loadb(s.s, s.n, 0, NULL);
    str_release(&s);
    json_decref(special_tokens);
    return o;
}

static void release(struct outcome *o)
{
    json_decref(o->root);
    notes_release(&o->notes);
}

static const char *at(const json_t *root, const char *a, const char *b, const char *c)
{
    const json_t *v = json_object_get(root, a);

    v = b ? json_object_get(v, b) : v;
    v = c ? json_object_get(v, c) : v;
    return json_is_string(v) ? json_string_value(v) : "(no string)";
}

/* ---- what is found ------------------------------------------------------------------------------------------------
 */

#define CHATML "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
#define PROMPT "{% if add_generation_prompt %}<assistant>{% endif %}"

static const struct {
    const char *template, *tokens;
    const char *system, *user, *assistant, *prompt, *thinking, *by_default; /* roles: prefix|suffix */
} found[] = {
    { CHATML PROMPT, "{}", "<system>|</>", "<user>|</>", "<assistant>|</>", "<assistant>", "(no string)", "" },
    /* a default system prompt */
    { "{% if messages[0].role != 'system' %}<system>Be brief.</>{% endif %}" CHATML, "{}", "<system>|</>", "<user>|</>",
      "<assistant>|</>", "", "(no string)", "Be brief." },
    /* thinking is on unless it is switched off */
    { CHATML
      "{% if add_generation_prompt %}<assistant>{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}",
      "{}", "<system>|</>", "<user>|</>", "<assistant>|</>", "<assistant><think></think>", "<assistant>", "" },
    /* special tokens are variables, also lists; those that are not set are undefined */
    { "{{ bos_token }}{{ pad_token is defined }}{{ additional_special_tokens[1] }}" CHATML,
      "{\"bos_token\": \"<s>\", \"additional_special_tokens\": [\"a\", \"b\"]}", "<s>Falseb<system>|</>", "<user>|</>",
      "<assistant>|</>", "", "(no string)", "" },
    /* white space as transformers treats it: trim_blocks, lstrip_blocks, one final newline dropped */
    { "{% for m in messages %}\n    {% if true %}\n[{{ m.content }}]\n    {% endif %}\n{% endfor %}\n", "{}", "[|]\n",
      "[|]\n", "[|]\n", "", "(no string)", "" },
    /* its extensions, filters, functions, and what it passes */
    { "{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{% generation %}{{ m.content }}{% "
      "endgeneration %}"
      "{{ {'k': 'é<'} | tojson }}{{ strftime_now('%d %b %Y') }}{{ tools is none }}{{ documents is none }}{% endfor %}",
      "{}", "|{\"k\": \"é<\"}26 Jul 2024TrueTrue", "|{\"k\": \"é<\"}26 Jul 2024TrueTrue",
      "|{\"k\": \"é<\"}26 Jul 2024TrueTrue", "", "(no string)", "" },
    /* cut by characters, not bytes */
    { "{% for m in messages %}<｜{{ m.role }}｜>{{ m.content }}<｜😀｜>{% endfor %}", "{}", "<｜system｜>|<｜😀｜>",
      "<｜user｜>|<｜😀｜>", "<｜assistant｜>|<｜😀｜>", "", "(no string)", "" },
};

static void check_role(const json_t *root, const char *role, const char *expected)
{
    struct str s = { 0 };

    str_addf(&s, "%s|%s", at(root, "roles", role, "prefix"), at(root, "roles", role, "suffix"));
    assert_string_equal(s.s, expected);
    str_release(&s);
}

static void finds_roles_and_prompts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof found / sizeof *found; i++) {
        struct outcome o = process(found[i].template, found[i].tokens, false);

        assert_string_equal(o.e.msg, "");
        check_role(o.root, "system", found[i].system);
        check_role(o.root, "user", found[i].user);
        check_role(o.root, "assistant", found[i].assistant);
        assert_string_equal(at(o.root, "generation_prompt", NULL, NULL), found[i].prompt);
        assert_string_equal(at(o.root, "generation_prompt_thinking", NULL, NULL), found[i].thinking);
        assert_string_equal(at(o.root, "default_system_prompt", NULL, NULL), found[i].by_default);
        assert_string_equal(at(o.root, "model_path", NULL, NULL), "MODEL");
        assert_int_equal(json_object_size(json_object_get(o.root, "content_types")), 0);
        assert_int_equal(o.uses_clock, strstr(found[i].template, "strftime_now") != NULL);
        assert_int_equal(o.notes.n, o.uses_clock);
        release(&o);
    }
}

#define PARTS(image)                                                                                                   \
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content " \
    "%}"                                                                                                               \
    "{% if p.type == 'image' %}" image "{% elif p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endif %}</>"  \
    "{% endfor %}"

static void finds_content_types(void **state)
{
    static const struct {
        const char *template, *image;
    } cases[] = {
        { PARTS("<img>"), "<img>" },
        { PARTS("Image 12: <img>"), "<img>" },
        { PARTS("Image: <img>"), "Image: <img>" },
        { PARTS(""), "(no string)" },
        { "{% for m in messages %}[{{ m.content + '' }}]{% endfor %}",
          "(no string)" }, /* fails on lists, is asked again with their text */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct outcome o = process(cases[i].template, "{}", true);

        assert_string_equal(o.e.msg, "");
        assert_string_equal(at(o.root, "content_types", "image", "format"), cases[i].image);
        assert_string_equal(at(o.root, "content_types", "video", "format"), "(no string)");
        release(&o);
    }
}

/* Prefixes and suffixes cannot say everything: what they lose is a warning that --strict refuses. */
static void names_what_is_lost(void **state)
{
    static const struct {
        const char *template, *note;
    } cases[] = {
        { "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "on its own (system)" },
        { "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}", "on its own (assistant)" },
        { "{% for m in messages %}{{ m.content }}{{ messages[0].content }}{% endfor %}",
          "<placeholder_system_prompt>" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct outcome o = process(cases[i].template, "{}", false);
        bool said = false;

        assert_int_equal(o.ret, 0);
        for (size_t k = 0; k < o.notes.n; k++)
            said = said || (o.notes.v[k].strict && strstr(o.notes.v[k].text, cases[i].note));
        assert_true(said);
        release(&o);
    }
}

/* ---- templates that cannot be used --------------------------------------------------------------------------------
 */

static const struct {
    const char *template, *message;
} refused[] = {
    /* by its author */
    { "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
      "fails on a conversation of system: \"System role not supported\"" },
    { "{% for m in messages if m.role == 'assistant' %}{{ raise_exception('no assistants') }}{% endfor %}",
      "fails on a conversation of system and user and assistant: \"no assistants\"" },
    { "{% if messages[0].role == 'user' %}{{ raise_exception('system first') }}{% endif %}",
      "fails on a conversation of user: \"system first\"" },
    { "{{ raise_exception('\\x1b[31mred\\nlines') }}", "\"[31mred lines\"" },
    { "{{ raise_exception('x' * 5000) }}", "\"xxxx" },
    { "{{ raise_exception('\\ud800') }}", "\"?\"" },
    { "{{ raise_exception('a\\x00b') }}", "\"a b\"" },
    /* by mistake */
    { "{% if %}", "does not compile" },
    { "{{ messages[7].content }}", "has no element 7" },
    { "{{ nothing.at.all }}", "'nothing' is undefined" },
    { "{{ 1 / 0 }}", "ZeroDivisionError" },
    { "{{ m | no_such_filter }}", "no_such_filter" },
    { "{{ '\\ud800' }}{{ messages[0].content }}", "not Unicode" },
    { "{{ '\\x00' }}{{ messages[0].content }}", "not Unicode" },
    /* files */
    { "{% include '/etc/passwd' %}", "no loader" },
    { "{% import '/etc/passwd' as p %}", "no loader" },
    { "{% extends '/etc/passwd' %}", "no loader" },
    { "{{ raise_exception.__globals__['__builtins__']['open']('/etc/passwd').read() }}", "unsafe" },
    { "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "unsafe" },
    { "{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe" },
    { "{{ strftime_now.__self__.compiled }}", "unsafe" },
    { "{{ ('{0.__class__.__mro__}' | string).format(messages).x.y }}", "unsafe" },
    { "{{ messages.append(1) }}", "unsafe" },
    { "{{ messages[0].update(role='x') }}", "unsafe" },
    /* memory, time, depth, size */
    { "{{ 'x' * 10**10 }}", "too much memory" },
    { "{% set x = messages[0].content * 10**9 %}{{ x }}", "too much memory" },
    { "{% for i in range(10**9) %}x{% endfor %}", "Range too big" },
    { "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "2 seconds of processor time" },
    { "{% set n = 9 ** (9 ** 9) %}", "2 seconds of processor time" },
    { "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nests too deeply" },
    { "{% for i in range(99999) %}" CHATML "{% endfor %}", "more than 1048576 characters" },
    { "{{ 'x' * 10**7 }}", "more than 1048576 characters" },
};

static void check_refusal(const char *template, const struct outcome *o, const char *message)
{
    if (o->ret != -1 || !strstr(o->e.msg, message))
        fail_msg("%.100s: \"%s\" does not say \"%s\"", template, o->e.msg, message);
    assert_non_null(strstr(o->e.msg, "MODEL/chat_template.jinja: "));
    assert_non_null(strstr(o->e.msg, "--chat-template FILE"));
    assert_non_null(strstr(o->e.msg, "--no-chat-template"));
    assert_true(strlen(o->e.msg) < 1000);
    for (const char *p = o->e.msg; *p; p++)
        assert_true((unsigned char)*p >= ' ');
}

static void refuses_bad_templates(void **state)
{
    bool limited = kernel_limits_memory();

    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct outcome o;

        if (!strcmp(refused[i].message, "too much memory") && !limited) {
            print_message("no limits on memory in this kernel: not tried\n");
            continue;
        }
        o = process(refused[i].template, "{}", false);
        check_refusal(refused[i].template, &o, refused[i].message);
        release(&o);
    }
}

/* However deep: Python may run out of its stack in many ways, and each of them is a refusal. */
static void refuses_deep_nesting(void **state)
{
    struct str s = { 0 };
    struct outcome o;

    (void)state;
    str_adds(&s, "{{ ");
    for (int i = 0; i < 100000; i++)
        str_adds(&s, i % 2 ? "(" : "[");
    o = process(s.s, "{}", false);
    check_refusal("brackets", &o, "");
    release(&o);
    str_release(&s);
    for (int i = 0; i < 5000; i++)
        str_adds(&s, "{% if true %}");
    for (int i = 0; i < 5000; i++)
        str_adds(&s, "{% endif %}");
    o = process(s.s, "{}", false);
    check_refusal("conditions", &o, "");
    release(&o);
    str_release(&s);
}

/* ---- no Python, no Jinja2 -----------------------------------------------------------------------------------------
 */

static void with_python(const char *python, const char *message, const char *package)
{
    char *old = getenv("WEIGHBRIDGE_PYTHON");
    struct outcome o;

    old = old ? strdup(old) : NULL;
    setenv("WEIGHBRIDGE_PYTHON", python, 1);
    o = process(CHATML, "{}", false);
    if (old)
        setenv("WEIGHBRIDGE_PYTHON", old, 1);
    else
        unsetenv("WEIGHBRIDGE_PYTHON");
    free(old);
    check_refusal("any template", &o, message);
    assert_non_null(strstr(o.e.msg, package));
    release(&o);
}

/* A virtual environment of the same Python with nothing in it. */
static void make_bare_python(char python[256], const char *dir)
{
    static const struct helper where = { .script = "import os, sys\nsys.stdin.read()\n"
                                                   "print(end=os.path.realpath(sys.executable))",
                                         .name = "the test helper" };
    struct str real = { 0 };
    struct err e = { 0 };
    FILE *f;

    assert_int_equal(helper_run(&where, "", 0, &real, &e), 0);
    snprintf(python, 256, "%s/pyvenv.cfg", dir);
    f = fopen(python, "w");
    assert_non_null(f);
    fprintf(f, "home = %.*s\ninclude-system-site-packages = false\n", (int)(strrchr(real.s, '/') - real.s), real.s);
    fclose(f);
    snprintf(python, 256, "%s/bin", dir);
    assert_int_equal(mkdir(python, 0755), 0);
    snprintf(python, 256, "%s/bin/python3", dir);
    assert_int_equal(symlink(real.s, python), 0);
    str_release(&real);
}

static void names_what_is_missing(void **state)
{
    char dir[] = "/tmp/weighbridge-bare-XXXXXX", path[256];

    (void)state;
    with_python("/no/such/python", "WEIGHBRIDGE_PYTHON names \"/no/such/python\"", "Python");
    assert_non_null(mkdtemp(dir));
    make_bare_python(path, dir);
    with_python(path, "No module named 'jinja2'", "package python3-jinja2");
    unlink(path);
    snprintf(path, sizeof path, "%s/pyvenv.cfg", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/bin", dir);
    rmdir(path);
    assert_int_equal(rmdir(dir), 0);
}

/* ---- processed templates that users give --------------------------------------------------------------------------
 */

#define ROLE(name) "\"" name "\": {\"prefix\": \"\", \"suffix\": \"\"}"
#define ROLES      "\"roles\": {" ROLE("system") ", " ROLE("user") ", " ROLE("assistant") "}"

static const struct {
    const char *text, *message; /* NULL: it is good */
} given[] = {
    { "{" ROLES "}", NULL },
    { "{" ROLES ", \"content_types\": {\"image\": {\"format\": \"<i>\"}}, \"more\": 1, \"model_path\": \"\"}", NULL },
    { "{" ROLES ", \"content_types\": {}, \"generation_prompt\": \"\", \"default_system_prompt\": \"\"}\n", NULL },
    { "", "FILE: not valid JSON" },
    { "\xef\xbb\xbf{}", "byte order mark" },
    { "{\"roles\": 1, \"roles\": 2}", "\"roles\" is there twice" },
    { "[]", "is a list, expected an object" },
    { "{}", "\"roles\" is missing, expected an object" },
    { "{\"roles\": []}", "\"roles\" is a list, expected an object" },
    { "{\"roles\": {" ROLE("system") ", " ROLE("assistant") "}}", "\"roles.user\" is missing" },
    { "{\"roles\": {" ROLE("system") ", " ROLE("user") ", \"assistant\": \"A\"}}", "\"roles.assistant\" is a string" },
    { "{\"roles\": {\"system\": {\"prefix\": \"\"}}}", "\"roles.system.suffix\" is missing" },
    { "{\"roles\": {\"system\": {\"prefix\": 1, \"suffix\": \"\"}}}", "\"roles.system.prefix\" is an integer" },
    { "{\"roles\": {\"system\": {\"prefix\": null, \"suffix\": \"\"}}}", "\"roles.system.prefix\" is null" },
    { "{" ROLES ", \"generation_prompt\": null}", "\"generation_prompt\" is null, expected a string" },
    { "{" ROLES ", \"default_system_prompt\": {}}", "\"default_system_prompt\" is an object" },
    { "{" ROLES ", \"model_path\": 3}", "\"model_path\" is an integer" },
    { "{" ROLES ", \"generation_prompt_thinking\": []}", "\"generation_prompt_thinking\" is a list" },
    { "{" ROLES ", \"content_types\": []}", "\"content_types\" is a list, expected an object" },
    { "{" ROLES ", \"content_types\": {\"image\": \"<i>\"}}", "\"image\" in \"content_types\" is a string" },
    { "{" ROLES ", \"content_types\": {\"video\": {}}}", "\"format\" of \"video\" in \"content_types\" is nothing" },
    { "{" ROLES ", \"content_types\": {\"video\": {\"format\": 1}}}", "is an integer, expected a string" },
};

static void checks_given_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        struct err e = { 0 };
        int ret = chat_template_check(given[i].text, strlen(given[i].text), "FILE", &e);

        if (given[i].message ? ret != -1 || !strstr(e.msg, given[i].message) || strncmp(e.msg, "FILE: ", 6) : ret)
            fail_msg("%s: \"%s\" does not say \"%s\"", given[i].text, e.msg,
                     given[i].message ? given[i].message : "nothing");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_roles_and_prompts), cmocka_unit_test(finds_content_types),
        cmocka_unit_test(names_what_is_lost),      cmocka_unit_test(refuses_bad_templates),
        cmocka_unit_test(refuses_deep_nesting),    cmocka_unit_test(names_what_is_missing),
        cmocka_unit_test(checks_given_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
