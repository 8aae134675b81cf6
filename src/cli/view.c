#include "cli/view.h"
#include "cli/say.h"
#include <inttypes.h>
#include <string.h>

json_t *view_parse(const char *text)
{
    json_error_t e;
    json_t *v = text ? json_loads(text, 0, &e) : NULL;

    if (!v)
        say_error("the library's answer is not JSON: please report this (%s)", text ? e.text : "no answer");
    return v;
}

const char *view_text(const json_t *object, const char *key, const char *otherwise)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s ? s : otherwise;
}

uint64_t view_count(const json_t *object, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(object, key));

    return v > 0 ? (uint64_t)v : 0;
}

double view_real(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

const char *view_shape(char out[128], const json_t *object)
{
    const json_t *shape = json_object_get(object, "shape"), *d;
    size_t i, n = 1;

    strcpy(out, "[");
    json_array_foreach(shape, i, d)
    {
        if (json_is_string(d))
            n += (size_t)snprintf(out + n, 128 - n, "%s%s", i ? ", " : "", json_string_value(d));
        else
            n += (size_t)snprintf(out + n, 128 - n, "%s%" JSON_INTEGER_FORMAT, i ? ", " : "", json_integer_value(d));
        if (n > 120) { /* room for the end */
            strcpy(out + 120, "...");
            n = 123;
            break;
        }
    }
    strcpy(out + n, "]");
    return out;
}

void view_print_notes(const json_t *object, FILE *f)
{
    const json_t *v;
    size_t i;

    json_array_foreach(json_object_get(object, "notes"), i, v)
        say(f, "%s: %s\n", json_is_true(json_object_get(v, "warning")) ? "warning" : "note", view_text(v, "text", ""));
}
