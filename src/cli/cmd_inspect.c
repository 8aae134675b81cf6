#include "cli/archive.h"
#include "cli/cli.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/table.h"
#include "cli/view.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void show_value(const char *name, const json_t *v);

/* The members of an object, or the items of a list, on one line. */
static void show_members(const json_t *v)
{
    const char *key, *comma = "";
    const json_t *item;
    size_t i;

    json_object_foreach((json_t *)(uintptr_t)v, key, item)
    {
        say(stdout, "%s", comma);
        show_value(key, item);
        comma = ", ";
    }
    json_array_foreach(v, i, item)
    {
        say(stdout, "%s", comma);
        show_value(NULL, item);
        comma = ", ";
    }
}

static void show_value(const char *name, const json_t *v)
{
    if (name)
        say(stdout, "%s ", name);
    if (json_is_string(v))
        say(stdout, "%s", json_string_value(v));
    else if (json_is_integer(v))
        say(stdout, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        say(stdout, "%g", json_real_value(v));
    else if (json_is_boolean(v))
        say(stdout, "%s", json_is_true(v) ? "yes" : "no");
    else if (json_is_null(v))
        say(stdout, "-");
    else
        show_members(v);
}

static void show_line(const json_t *description, const char *key)
{
    const json_t *v = json_object_get(description, key);

    if (!v || json_is_null(v))
        return;
    say(stdout, "%s: ", key);
    show_value(NULL, v);
    say(stdout, "\n");
}

/* "linears: 14 GPTQ INT4, 1 plain" */
static void show_linears(const json_t *description)
{
    const json_t *list = json_object_get(description, "linears"), *v;
    size_t i;

    json_array_foreach(list, i, v)
        say(stdout, "%s%" PRIu64 " %s", i ? ", " : "linears: ", view_count(v, "linears"), view_text(v, "stored", "?"));
    if (json_array_size(list))
        say(stdout, "\n");
}

/* One line for each: "weighbridge.target  edgellm-0.5". */
static void show_metadata(const json_t *description)
{
    struct table t = { "metadata", .head = "|" };
    json_t *all = json_object_get(description, "metadata");
    const char *key;
    const json_t *v;

    json_object_foreach(all, key, v)
    {
        if (json_is_string(v)) {
            table_cell(&t, "%s", key);
            table_cell(&t, "%s", json_string_value(v));
        } else {
            char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);

            table_cell(&t, "%s", key);
            table_cell(&t, "%s", text ? text : "?");
            free(text);
        }
    }
    table_print(&t, stdout);
}

static void show_files(const json_t *description)
{
    struct table t = { "files", .head = "file|>bytes|>tensors" };
    const json_t *v;
    size_t i;

    json_array_foreach(json_object_get(description, "files"), i, v)
    {
        table_cell(&t, "%s", view_text(v, "name", ""));
        table_cell(&t, "%" PRIu64, view_count(v, "bytes"));
        table_cell(&t, "%" PRIu64, view_count(v, "tensors"));
    }
    table_print(&t, stdout);
}

static void show_dtypes(const json_t *description)
{
    struct table t = { "dtypes", .head = "dtype|>tensors|>bytes" };
    const json_t *v;
    size_t i;

    json_array_foreach(json_object_get(description, "dtypes"), i, v)
    {
        table_cell(&t, "%s", view_text(v, "dtype", "?"));
        table_cell(&t, "%" PRIu64, view_count(v, "tensors"));
        table_cell(&t, "%" PRIu64, view_count(v, "bytes"));
    }
    table_print(&t, stdout);
}

static void show_ports(const json_t *description, const char *key)
{
    struct table t = { key, .head = "name|dtype|shape" };
    const json_t *v;
    char shape[128];
    size_t i;

    json_array_foreach(json_object_get(description, key), i, v)
    {
        table_cell(&t, "%s", view_text(v, "name", ""));
        table_cell(&t, "%s", view_text(v, "dtype", "?"));
        table_cell(&t, "%s", view_shape(shape, v));
    }
    table_print(&t, stdout);
}

static void show_tensors(const json_t *description)
{
    struct table t = { "tensors", .head = "name|dtype|shape|>bytes|file|>offset" };
    const json_t *v;
    char shape[128];
    size_t i;

    json_array_foreach(json_object_get(description, "tensors"), i, v)
    {
        const json_t *offset = json_object_get(v, "offset");

        table_cell(&t, "%s", view_text(v, "name", ""));
        table_cell(&t, "%s", view_text(v, "dtype", "?"));
        table_cell(&t, "%s", view_shape(shape, v));
        table_cell(&t, "%" PRIu64, view_count(v, "bytes"));
        table_cell(&t, "%s", view_text(v, "file", "-"));
        if (json_is_integer(offset))
            table_cell(&t, "%" PRIu64, view_count(v, "offset"));
        else
            table_cell(&t, "inline");
    }
    table_print(&t, stdout);
}

static void show_problems(const json_t *description)
{
    const json_t *v;
    size_t i;

    json_array_foreach(json_object_get(description, "problems"), i, v)
        say(stdout, "problem: %s\n", json_string_value(v) ? json_string_value(v) : "?");
}

static void show_text(const json_t *description)
{
    char bytes[24], count[64];

    say(stdout, "%s: %s, %s, %s, %s\n", view_text(description, "path", "?"), view_text(description, "kind", "?"),
        view_text(description, "container", "no known container"),
        say_count(count, json_array_size(json_object_get(description, "tensors")), "tensor"),
        say_bytes(bytes, view_count(description, "bytes")));
    show_line(description, "family");
    show_line(description, "config");
    show_linears(description);
    show_line(description, "adapter");
    show_metadata(description);
    show_files(description);
    show_dtypes(description);
    show_ports(description, "inputs");
    show_ports(description, "outputs");
    show_tensors(description);
    view_print_notes(description, stdout);
    show_problems(description);
}

static int show(const char *text, const struct args *a)
{
    json_t *description = view_parse(text);
    int status = STATUS_DONE;

    if (!description)
        return STATUS_FAILED;
    if (json_array_size(json_object_get(description, "problems")))
        status = STATUS_FAILED;
    if (a->json)
        fputs(text, stdout);
    else if (!strcmp(view_text(description, "kind", ""), "archive"))
        archive_show(description);
    else
        show_text(description);
    json_decref(description);
    return status;
}

static int run(struct args *a)
{
    struct wb_error e = { 0 };
    char *text = NULL;
    int status = wb_inspect(a->operand[0], &text, &e) ? run_refused(&e) : show(text, a);

    wb_free(text);
    return status;
}

static const struct option_group *const groups[] = { &options_json, &options_help, NULL };

const struct command command_inspect = {
    .name = "inspect",
    .operands = "PATH",
    .least = 1,
    .most = 1,
    .summary = "describe a checkpoint, a draft, an adapter, an export or an archive",
    .text =
        "Says what PATH is (a checkpoint, an EAGLE3 draft, a LoRA adapter, an export, an archive), and lists its\n"
        "files, dtypes and tensors (shape, bytes, place), from metadata alone, and every problem found; where there\n"
        "is one the exit status is 1.",
    .example = "weighbridge inspect Llama-3.2-1B-Instruct --json",
    .group = groups,
    .run = run,
};
