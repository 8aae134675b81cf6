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

char *document_text(json_t *v)
{
    struct str s = { 0 };

    json_print(&s, v, true, false);
    str_adds(&s, "\n");
    json_decref(v);
    return s.s;
}
