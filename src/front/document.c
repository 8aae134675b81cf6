#include "front/document.h"
#include "base/arena.h"
#include "base/json.h"
#include <stdlib.h>
#include <string.h>

json_t *document_u64(uint64_t v) { return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v); }

json_t *document_string(const char *text)
{
    json_t *v = text ? json_string(text) : json_null();
    char *copy;

    if (v)
        return v;
    copy = xmalloc(strlen(text) + 1); /* names of files and tensors may be anything, JSON may not */
    strcpy(copy, text);
    for (char *p = copy; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    v = json_string(copy);
    free(copy);
    return v;
}

json_t *document_shape(const uint64_t *shape, unsigned rank)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < rank; i++)
        json_array_append_new(list, document_u64(shape[i]));
    return list;
}

void put_f16(json_t *header, const char *name, const uint64_t *shape, unsigned rank, uint64_t *off)
{
    json_t *o = json_object(), *range = json_array();
    uint64_t bytes = 2;

    for (unsigned i = 0; i < rank; i++)
        bytes *= shape[i];
    put_text(o, "dtype", "F16");
    put(o, "shape", document_shape(shape, rank));
    json_array_append_new(range, document_u64(*off));
    json_array_append_new(range, document_u64(*off += bytes));
    put(o, "data_offsets", range);
    put(header, name, o);
}

char *document_text(json_t *v)
{
    struct str s = { 0 };

    json_print(&s, v, true, false);
    str_adds(&s, "\n");
    json_decref(v);
    return s.s;
}
