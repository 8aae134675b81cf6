#include "emit/chat_template.h"
#include "base/json.h"
#include "emit/chat_template_py.h"
#include "emit/helper.h"
#include <string.h>

/* ---- the processed form ------------------------------------------------------------------------------------------ */

/* Member `key` of the object at `path` ("" at the top); NULL and a message when it is there with another type, or is
 * missing although needed. */
static const json_t *member(const json_t *obj, const char *path, const char *key, json_type type, bool needed,
                            const char *name, struct err *e)
{
    const json_t *v = json_object_get(obj, key);

    if (v && json_typeof(v) == type)
        return v;
    if (v || needed)
        err_set(e, ERR_FORMAT, "%s: \"%s%s%s\" is %s, expected %s in a processed chat template", name, path,
                *path ? "." : "", key, v ? json_type_name(v) : "missing",
                type == JSON_STRING ? "a string" : "an object");
    return NULL;
}

static int check_roles(const json_t *root, const char *name, struct err *e)
{
    static const char *const roles[] = { "system", "user", "assistant" };
    const json_t *all = member(root, "", "roles", JSON_OBJECT, true, name, e), *role;
    char path[32];

    for (size_t i = 0; all && i < sizeof roles / sizeof *roles; i++) {
        if (!(role = member(all, "roles", roles[i], JSON_OBJECT, true, name, e)))
            return -1;
        snprintf(path, sizeof path, "roles.%s", roles[i]);
        if (!member(role, path, "prefix", JSON_STRING, true, name, e) ||
            !member(role, path, "suffix", JSON_STRING, true, name, e))
            return -1;
    }
    return all ? 0 : -1;
}

static int check_content_types(const json_t *root, const char *name, struct err *e)
{
    const json_t *all = member(root, "", "content_types", JSON_OBJECT, false, name, e);
    char quoted[STR_QUOTED];
    const char *kind;
    json_t *v;

    json_object_foreach((json_t *)all, kind, v)
    {
        if (!json_is_object(v))
            return err_set(e, ERR_FORMAT, "%s: %s in \"content_types\" is %s, expected an object with a \"format\"",
                           name, str_quote(quoted, kind), json_type_name(v));
        if (!json_is_string(json_object_get(v, "format")))
            return err_set(e, ERR_FORMAT, "%s: \"format\" of %s in \"content_types\" is %s, expected a string", name,
                           str_quote(quoted, kind), json_type_name(json_object_get(v, "format")));
    }
    return e->kind ? -1 : 0;
}

static int check_processed(const json_t *root, const char *name, struct err *e)
{
    static const char *const strings[] = { "model_path", "generation_prompt", "default_system_prompt",
                                           "generation_prompt_thinking" };

    if (!json_is_object(root))
        return err_set(e, ERR_FORMAT, "%s: is %s, expected an object with \"roles\"", name, json_type_name(root));
    if (check_roles(root, name, e) || check_content_types(root, name, e))
        return -1;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if (!member(root, "", strings[i], JSON_STRING, false, name, e) && e->kind)
            return -1;
    return 0;
}

int chat_template_check(const char *text, size_t n, const char *name, struct err *e)
{
    json_t *root = json_parse(text, n, name, e);
    int ret = root ? check_processed(root, name, e) : -1;

    json_decref(root);
    return ret;
}

/* JSON holds Unicode only, file names any bytes. */
static json_t *path_string(const char *path)
{
    json_t *v = json_string(path);
    struct str s = { 0 };

    if (v)
        return v;
    str_adds(&s, path);
    for (char *p = s.s; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    v = json_string(s.s);
    str_release(&s);
    return v;
}

static void print_processed(const json_t *result, const char *model_path, struct str *out)
{
    static const char *const order[] = { "roles", "content_types", "generation_prompt", "default_system_prompt",
                                         "generation_prompt_thinking" };
    json_t *root = json_object();

    json_object_set_new(root, "model_path", path_string(model_path));
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (json_object_get(result, order[i]))
            json_object_set(root, order[i], json_object_get(result, order[i]));
    json_print(out, root, true, true);
    json_decref(root);
}

/* ---- asking the helper ------------------------------------------------------------------------------------------- */

static json_t *ask(const struct chat_template *t, struct err *e)
{
    const struct helper helper = { .script = chat_template_py,
                                   .name = "the chat-template helper",
                                   .cpu_seconds = t->cpu_seconds };
    json_t *request = json_pack("{s:s, s:O, s:b, s:I}", "template", t->text, "special_tokens", t->special_tokens,
                                "multimodal", (int)t->multimodal, "now", (json_int_t)t->now);
    struct err why = { 0 };
    json_t *answer = NULL;

    if (!request)
        err_set(&why, ERR_FORMAT, "the chat template is not UTF-8 text");
    else
        answer = helper_ask(&helper, request, &why);
    if (!answer)
        err_set(e, why.kind, "%s: the chat template cannot be rendered: %s: mend that, or %s", t->from, why.msg,
                CHAT_TEMPLATE_WAYS_OUT);
    json_decref(request);
    return answer;
}

static const char *text_of(const json_t *answer, const char *key)
{
    const char *s = json_string_value(json_object_get(answer, key));

    return s ? s : "";
}

static int failed(const struct chat_template *t, const json_t *answer, struct err *e)
{
    const char *kind = text_of(answer, "failed"), *message = text_of(answer, "message");
    const char *roles = text_of(answer, "conversation");
    struct str said = { 0 };

    helper_quote(&said, message, strlen(message));
    if (!strcmp(kind, "jinja2"))
        err_set(e, ERR_HELPER,
                "%s: the chat template can only be rendered by Jinja2, and Python cannot import it (%s): install the "
                "package "
                "python3-jinja2 (or set WEIGHBRIDGE_PYTHON to a Python that has it), or %s",
                t->from, str_text(&said), CHAT_TEMPLATE_WAYS_OUT);
    else if (!strcmp(kind, "syntax"))
        err_set(e, ERR_UNSUPPORTED, "%s: the chat template does not compile: \"%s\": %s", t->from, str_text(&said),
                CHAT_TEMPLATE_WAYS_OUT);
    else
        err_set(e, ERR_UNSUPPORTED, "%s: the chat template fails on a conversation of %s: \"%s\": %s", t->from, roles,
                str_text(&said), CHAT_TEMPLATE_WAYS_OUT);
    str_release(&said);
    return -1;
}

static void list_strings(struct str *out, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));

        str_adds(out, i ? ", " : "");
        helper_quote(out, s ? s : "?", s ? strlen(s) : 1);
    }
}

static void note_list(const json_t *list, const char *what, const char *from, struct notes *notes)
{
    struct str names = { 0 };

    list_strings(&names, list);
    if (json_array_size(list))
        notes_add(
            notes, NOTE_STRICT,
            "%s: the chat template %s (%s): the runtime's prompts will differ from the model's, unless you give a "
            "processed template with --chat-template FILE",
            from, what, names.s);
    str_release(&names);
}

/* What a prefix and a suffix for each role cannot say, a runtime will get wrong. */
static void note_limits(const struct chat_template *t, const json_t *answer, struct notes *notes)
{
    const json_t *formats = json_object_get(json_object_get(answer, "result"), "content_types");

    note_list(json_object_get(answer, "lost"), "does not show the text of each role on its own", t->from, notes);
    note_list(json_object_get(answer, "leaked"), "mixes roles, so that a placeholder stays in the prompts", t->from,
              notes);
    if (t->multimodal && !json_object_size(formats))
        notes_add(notes, NOTE_WARNING, "%s: the chat template shows neither images nor videos", t->from);
    if (json_is_true(json_object_get(answer, "uses_clock")))
        notes_add(
            notes, NOTE_WARNING,
            "%s: the chat template writes the current date, and processed_chat_template.json keeps that of this export",
            t->from);
}

int chat_template_process(const struct chat_template *t, struct str *processed, bool *uses_clock, struct notes *notes,
                          struct err *e)
{
    json_t *answer = ask(t, e);
    int ret = -1;

    if (!answer)
        return -1;
    if (json_object_get(answer, "failed")) {
        failed(t, answer, e);
    } else if (!check_processed(json_object_get(answer, "result"), "the chat-template helper's answer", e)) {
        note_limits(t, answer, notes);
        *uses_clock = json_is_true(json_object_get(answer, "uses_clock"));
        print_processed(json_object_get(answer, "result"), t->model_path, processed);
        ret = 0;
    }
    json_decref(answer);
    return ret;
}
