#include "base/json.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Behind a string that begins at text[i]. */
static size_t skip_string(const char *text, size_t n, size_t i)
{
    for (i++; i < n && text[i] != '"'; i++)
        if (text[i] == '\\')
            i++;
    return i < n ? i + 1 : n;
}

/* The string whose last byte is text[end - 1], as spelled there. jansson leaves long ones out of its messages. */
static const char *string_before(const char *text, size_t end)
{
    for (size_t i = 0; i < end; i++)
        if (text[i] == '"') {
            size_t behind = skip_string(text, end, i);

            if (behind >= end)
                return text + i;
            i = behind - 1;
        }
    return text;
}

/* jansson quotes the text near a fault byte by byte, so it may end within a character: that would be no UTF-8. */
static void make_printable(char *s)
{
    for (; *s; s++)
        if (*s < 0x20 || *s > 0x7e)
            *s = '?';
}

static void set_parse_error(const char *text, size_t n, json_error_t *err, const char *name, struct err *e)
{
    size_t end = err->position > 0 && (size_t)err->position <= n ? (size_t)err->position : 0;

    if (json_error_code(err) == json_error_duplicate_key && end) {
        const char *key = string_before(text, end);
        size_t len = (size_t)(text + end - key);

        err_set(e, ERR_FORMAT, "%s: key %.*s is there twice, the second time at line %d, column %d", name,
                (int)str_whole(key, len < 200 ? len : 200), key, err->line, err->column);
    } else {
        make_printable(err->text);
        err_set(e, ERR_FORMAT, "%s: not valid JSON: %s (line %d, column %d)", name, err->text, err->line, err->column);
    }
}

static json_t *parse(const char *text, size_t n, const char *name, bool exact, struct err *e)
{
    json_error_t err;
    json_t *v;

    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) {
        err_set(e, ERR_FORMAT, "%s: begins with a byte order mark, which JSON does not allow: save it without one",
                name);
        return NULL;
    }
    v = json_loadb(text, n, JSON_REJECT_DUPLICATES, &err);
    if (!v && !exact && json_error_code(&err) == json_error_numeric_overflow)
        v = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &err);
    if (!v)
        set_parse_error(text, n, &err, name, e);
    return v;
}

json_t *json_parse(const char *text, size_t n, const char *name, struct err *e)
{
    return parse(text, n, name, false, e);
}

json_t *json_parse_exact(const char *text, size_t n, const char *name, struct err *e)
{
    return parse(text, n, name, true, e);
}

static void print_string(struct str *out, const char *s, size_t n, bool ascii)
{
    const unsigned char *p = (const unsigned char *)s, *end = p + n;

    str_adds(out, "\"");
    while (p < end) {
        unsigned c = *p;

        if (c == '"' || c == '\\') {
            str_addf(out, "\\%c", c);
        } else if (c == '\n' || c == '\r' || c == '\t' || c == '\b' || c == '\f') {
            str_addf(out, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c == '\b' ? 'b' : 'f');
        } else if (c < 0x20) {
            str_addf(out, "\\u%04x", c);
        } else if (c < 0x80 || !ascii) {
            str_add(out, p, 1);
        } else { /* jansson holds valid UTF-8 only */
            unsigned len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;

            c &= 0xffu >> (len + 1);
            for (unsigned i = 1; i < len; i++)
                c = c << 6 | (p[i] & 0x3fu);
            if (c >= 0x10000)
                str_addf(out, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 0x3ff));
            else
                str_addf(out, "\\u%04x", c);
            p += len - 1;
        }
        p++;
    }
    str_adds(out, "\"");
}

/* The shortest digits that give the same double: at most 17. Takes what printf writes apart rather than printing it,
 * so that a host program's locale cannot put a decimal comma into our JSON. */
static unsigned shortest(double v, char digit[18], int *exp10)
{
    char s[40];
    unsigned n = 0;

    for (int more = 0; more < 17; more++) {
        snprintf(s, sizeof s, "%.*e", more, v);
        if (strtod(s, NULL) == v)
            break;
        /* Above a power of two doubles lie half as dense as below: the nearest such digits may miss v, the next not. */
        snprintf(s, sizeof s, "%.*Le", more, (long double)v + (long double)(nextafter(v, INFINITY) - v) / 8);
        if (strtod(s, NULL) == v)
            break;
    }
    *exp10 = atoi(strchr(s, 'e') + 1);
    for (const char *p = s; *p != 'e'; p++)
        if (*p >= '0' && *p <= '9')
            digit[n++] = *p;
    digit[n] = 0;
    return n;
}

/* As Python's repr lays them out: 0.0001, 1e-05, 1000000.0, 1.5e+16. */
static void print_real(struct str *out, double v)
{
    char digit[18];
    int exp10, n = (int)shortest(fabs(v), digit, &exp10);

    if (signbit(v))
        str_adds(out, "-");
    if (exp10 < -4 || exp10 >= 16)
        str_addf(out, "%c%s%se%c%02d", digit[0], n > 1 ? "." : "", digit + 1, exp10 < 0 ? '-' : '+', abs(exp10));
    else if (exp10 < 0)
        str_addf(out, "0.%.*s%s", -exp10 - 1, "000", digit);
    else if (n <= exp10 + 1)
        str_addf(out, "%s%.*s.0", digit, exp10 + 1 - n, "000000000000000");
    else
        str_addf(out, "%.*s.%s", exp10 + 1, digit, digit + exp10 + 1);
}

static void newline(struct str *out, bool pretty, unsigned depth)
{
    if (pretty)
        str_addf(out, "\n%*s", (int)depth * 2, "");
}

static void print_value(struct str *out, const json_t *v, bool pretty, bool ascii, unsigned depth)
{
    const char *key;
    json_t *item;
    size_t i = 0;

    switch (json_typeof(v)) {
    case JSON_OBJECT:
        if (!json_object_size(v)) {
            str_adds(out, "{}");
            return;
        }
        str_adds(out, "{");
        json_object_foreach((json_t *)v, key, item)
        {
            if (i++)
                str_adds(out, pretty ? "," : ", ");
            newline(out, pretty, depth + 1);
            print_string(out, key, strlen(key), ascii);
            str_adds(out, ": ");
            print_value(out, item, pretty, ascii, depth + 1);
        }
        newline(out, pretty, depth);
        str_adds(out, "}");
        break;
    case JSON_ARRAY:
        if (!json_array_size(v)) {
            str_adds(out, "[]");
            return;
        }
        str_adds(out, "[");
        for (; i < json_array_size(v); i++) {
            if (i)
                str_adds(out, pretty ? "," : ", ");
            newline(out, pretty, depth + 1);
            print_value(out, json_array_get(v, i), pretty, ascii, depth + 1);
        }
        newline(out, pretty, depth);
        str_adds(out, "]");
        break;
    case JSON_STRING:
        print_string(out, json_string_value(v), json_string_length(v), ascii);
        break;
    case JSON_INTEGER:
        str_addf(out, "%lld", (long long)json_integer_value(v));
        break;
    case JSON_REAL:
        print_real(out, json_real_value(v));
        break;
    case JSON_TRUE:
        str_adds(out, "true");
        break;
    case JSON_FALSE:
        str_adds(out, "false");
        break;
    case JSON_NULL:
        str_adds(out, "null");
        break;
    }
}

void json_print(struct str *out, const json_t *v, bool pretty, bool ascii) { print_value(out, v, pretty, ascii, 0); }

static size_t skip_space(const char *text, size_t n, size_t i)
{
    while (i < n && strchr(" \t\r\n", text[i]) && text[i])
        i++;
    return i;
}

static size_t skip_value(const char *text, size_t n, size_t i)
{
    unsigned depth = 0;

    for (; i < n; i++) {
        char c = text[i];

        if (c == '"') {
            i = skip_string(text, n, i) - 1;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (!depth)
                return i;
            depth--;
        } else if (c == ',' && !depth) {
            return i;
        }
    }
    return i;
}

static bool key_is(const char *text, size_t begin, size_t end, const char *key)
{
    json_t *s = json_loadb(text + begin, end - begin, JSON_DECODE_ANY, NULL);
    bool same = s && !strcmp(json_string_value(s), key);

    json_decref(s);
    return same;
}

bool json_find_member(const char *text, size_t n, const char *key, size_t *begin, size_t *end)
{
    size_t i = skip_space(text, n, 0), comma = 0; /* the comma before the member */

    if (i >= n || text[i] != '{')
        return false;
    for (i = skip_space(text, n, i + 1); i < n && text[i] == '"';) {
        size_t start = i, key_end = skip_string(text, n, i), value_end;
        bool found = key_is(text, start, key_end, key);

        i = skip_space(text, n, key_end);
        value_end = skip_value(text, n, i < n ? i + 1 : n); /* behind the colon */
        if (found) {
            bool last = value_end >= n || text[value_end] != ',';

            while (last && value_end > key_end && strchr(" \t\r\n", text[value_end - 1]))
                value_end--;
            *begin = last && comma ? comma : start;
            *end = last ? value_end : skip_space(text, n, value_end + 1);
            return true;
        }
        comma = value_end;
        i = skip_space(text, n, value_end + 1);
    }
    return false;
}

const char *json_type_name(const json_t *v)
{
    if (!v)
        return "nothing";
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    case JSON_NULL:
        return "null";
    }
    return "unknown";
}

static json_t *member(const json_t *obj, const char *key, bool *found)
{
    json_t *v = json_object_get(obj, key);

    *found = v && !json_is_null(v);
    return v;
}

static int wrong(const char *key, const json_t *v, const char *expected, struct err *e)
{
    return err_set(e, ERR_FORMAT, "\"%s\" is %s, expected %s", key, json_type_name(v), expected);
}

int json_get_u64(const json_t *obj, const char *key, uint64_t *v, bool *found, struct err *e)
{
    json_t *j = member(obj, key, found);

    if (!*found)
        return 0;
    if (json_is_integer(j) && json_integer_value(j) >= 0) {
        *v = (uint64_t)json_integer_value(j);
        return 0;
    }
    if (json_is_real(j) && json_real_value(j) >= 0 && json_real_value(j) < 9e15 &&
        json_real_value(j) == floor(json_real_value(j))) {
        *v = (uint64_t)json_real_value(j);
        return 0;
    }
    return json_is_number(j)
               ? err_set(e, ERR_RANGE, "\"%s\" is %g, expected a whole number of at least 0", key, json_number_value(j))
               : wrong(key, j, "a whole number", e);
}

int json_get_bool(const json_t *obj, const char *key, bool *v, bool *found, struct err *e)
{
    json_t *j = member(obj, key, found);

    if (*found && !json_is_boolean(j))
        return wrong(key, j, "true or false", e);
    if (*found)
        *v = json_is_true(j);
    return 0;
}

int json_get_double(const json_t *obj, const char *key, double *v, bool *found, struct err *e)
{
    json_t *j = member(obj, key, found);

    if (*found && !json_is_number(j))
        return wrong(key, j, "a number", e);
    if (*found)
        *v = json_number_value(j);
    return 0;
}

int json_get_string(const json_t *obj, const char *key, const char **v, bool *found, struct err *e)
{
    json_t *j = member(obj, key, found);

    if (*found && !json_is_string(j))
        return wrong(key, j, "a string", e);
    if (*found)
        *v = json_string_value(j);
    return 0;
}
