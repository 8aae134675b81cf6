/* safetensors.c - the header of a safetensors file, and everything it may get wrong.
 *
 * A file is: 8 bytes little-endian header length, the header (a JSON object), the
 * data.  The header maps each tensor's name to dtype, shape and data_offsets
 * [begin, end) from the start of the data; "__metadata__" maps strings to
 * strings.  The ranges must tile the data: no hole, no overlap, nothing behind
 * the last.  Nothing is aligned: a header may have any length. */
#include "base/json.h"
#include "checkpoint/container.h"
#include <stdlib.h>
#include <string.h>

enum { FIRST = 8, HEADER_MOST = 100000000 /* the format's own limit */ };

static unsigned long long llu(uint64_t v) { return v; }

static int truncated(const char *path, uint64_t file_bytes, const char *least, uint64_t expected, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s: truncated: %llu of %s%llu bytes: download it again", path, llu(file_bytes),
                   least, llu(expected));
}

int safetensors_header_bytes(const unsigned char first[8], const char *path, uint64_t file_bytes, size_t *n,
                             struct err *e)
{
    uint64_t length = 0;

    if (file_bytes < FIRST)
        return truncated(path, file_bytes, "at least ", FIRST + 2, e);
    for (unsigned i = FIRST; i-- > 0;)
        length = length << 8 | first[i];
    if (length > HEADER_MOST)
        return err_set(
            e, ERR_FORMAT,
            "%s: is not a safetensors file: its first 8 bytes give a header of %llu bytes, above the format's "
            "limit of %d: download it again",
            path, llu(length), HEADER_MOST);
    if (length > file_bytes - FIRST)
        return truncated(path, file_bytes, "at least ", FIRST + length, e);
    *n = (size_t)length;
    return 0;
}

static int whole_number(const json_t *v, const char *what, uint64_t *out, struct err *e)
{
    if (!json_is_integer(v))
        return err_set(e, ERR_FORMAT, "%s holds %s, expected whole numbers", what, json_type_name(v));
    if (json_integer_value(v) < 0)
        return err_set(e, ERR_FORMAT, "%s holds %lld, expected whole numbers of at least 0", what,
                       (long long)json_integer_value(v));
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

static int read_shape(const json_t *shape, struct tensor *t, struct err *e)
{
    if (!json_is_array(shape))
        return err_set(e, ERR_FORMAT, "\"shape\" is %s, expected a list", json_type_name(shape));
    if (json_array_size(shape) > TENSOR_RANK_MAX)
        return err_set(e, ERR_UNSUPPORTED, "\"shape\" has %zu dimensions, at most %d are supported",
                       json_array_size(shape), TENSOR_RANK_MAX);
    t->rank = (unsigned)json_array_size(shape);
    t->elements = 1;
    for (unsigned i = 0; i < t->rank; i++) {
        if (whole_number(json_array_get(shape, i), "\"shape\"", &t->shape[i], e))
            return -1;
        if (__builtin_mul_overflow(t->elements, t->shape[i], &t->elements))
            return err_set(e, ERR_RANGE, "\"shape\" has more elements than 64 bits can count");
    }
    return 0;
}

/* Leaves the beginning, counted from the start of the data, in t->off. */
static int read_range(const json_t *range, struct tensor *t, struct err *e)
{
    uint64_t end;

    if (!json_is_array(range) || json_array_size(range) != 2)
        return err_set(e, ERR_FORMAT, "\"data_offsets\" is %s, expected a list of two offsets", json_type_name(range));
    if (whole_number(json_array_get(range, 0), "\"data_offsets\"", &t->off, e) ||
        whole_number(json_array_get(range, 1), "\"data_offsets\"", &end, e))
        return -1;
    if (t->off > end)
        return err_set(e, ERR_RANGE, "\"data_offsets\" is [%llu, %llu], which ends before it begins", llu(t->off),
                       llu(end));
    t->bytes = end - t->off;
    return 0;
}

static int check_bytes(const struct tensor *t, struct err *e)
{
    struct str shape = { 0 };
    uint64_t bytes;

    if (t->dtype == DT_UNKNOWN)
        return 0;
    if (__builtin_mul_overflow(t->elements, dtype_bytes(t->dtype), &bytes))
        return err_set(e, ERR_RANGE, "\"shape\" has more bytes than 64 bits can count");
    if (bytes == t->bytes)
        return 0;
    shape_print(&shape, t);
    err_set(e, ERR_FORMAT, "shape %s of %s needs %llu bytes, but \"data_offsets\" [%llu, %llu] has %llu",
            str_text(&shape), t->dtype_text, llu(bytes), llu(t->off), llu(t->off + t->bytes), llu(t->bytes));
    str_release(&shape);
    return -1;
}

/* A type that we do not know, as a stranger spells it, for messages: without the quotes of a name. */
static const char *unknown_type(const char *text, struct arena *a)
{
    char q[STR_QUOTED];

    str_quote(q, text);
    return arena_memdup(a, q + 1, strlen(q) - 2);
}

static int read_entry(const json_t *entry, struct tensor *t, struct arena *a, struct err *e)
{
    const json_t *dtype = json_object_get(entry, "dtype");

    if (!json_is_object(entry))
        return err_set(e, ERR_FORMAT, "is %s, expected an object", json_type_name(entry));
    if (!json_is_string(dtype))
        return err_set(e, ERR_FORMAT, "\"dtype\" is %s, expected a string", json_type_name(dtype));
    t->dtype = dtype_by_name(json_string_value(dtype));
    t->dtype_text = t->dtype == DT_UNKNOWN ? unknown_type(json_string_value(dtype), a) : dtype_name(t->dtype);
    if (read_shape(json_object_get(entry, "shape"), t, e) || read_range(json_object_get(entry, "data_offsets"), t, e))
        return -1;
    return check_bytes(t, e);
}

static int check_metadata(const json_t *meta, const char *path, struct err *e)
{
    const char *key;
    json_t *value;

    if (!json_is_object(meta) && !json_is_null(meta))
        return err_set(e, ERR_FORMAT, "%s: \"__metadata__\" is %s, expected an object", path, json_type_name(meta));
    json_object_foreach((json_t *)meta, key, value)
    {
        char q[STR_QUOTED];

        if (!json_is_string(value))
            return err_set(e, ERR_FORMAT, "%s: \"__metadata__\" has %s under %s, expected a string", path,
                           json_type_name(value), str_quote(q, key));
    }
    return 0;
}

static int read_entries(const json_t *header, const char *path, struct tensors *out, struct arena *a, struct err *e)
{
    char q[STR_QUOTED];
    const char *key;
    json_t *entry;

    json_object_foreach((json_t *)header, key, entry)
    {
        struct tensor t = { .name = key };

        if (!strcmp(key, "__metadata__")) {
            if (check_metadata(entry, path, e))
                return -1;
            continue;
        }
        if (read_entry(entry, &t, a, e))
            return err_at(e, "%s: tensor %s", path, str_quote(q, key));
        t.name = arena_strdup(a, key);
        tensors_add(out, &t);
    }
    return 0;
}

static int by_range(const void *pa, const void *pb)
{
    const struct tensor *a = pa, *b = pb;

    if (a->off != b->off)
        return a->off < b->off ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

/* Sorted by range, the file's tensors must tile the data, which begins at byte `data` of the file. */
static int check_tiling(struct tensors *list, size_t first, const char *path, uint64_t data, uint64_t file_bytes,
                        struct err *e)
{
    char q[STR_QUOTED], q2[STR_QUOTED];
    struct tensor *t = list->v;
    uint64_t end = 0;

    if (list->n > first)
        qsort(t + first, list->n - first, sizeof *t, by_range);
    for (size_t i = first; i < list->n; i++) {
        if (t[i].off < end)
            return err_set(e, ERR_FORMAT, "%s: tensors %s [%llu, %llu) and %s [%llu, %llu) overlap", path,
                           str_quote(q, t[i - 1].name), llu(t[i - 1].off), llu(end), str_quote(q2, t[i].name),
                           llu(t[i].off), llu(t[i].off + t[i].bytes));
        if (t[i].off > end)
            return err_set(e, ERR_FORMAT,
                           "%s: hole of %llu bytes at offset %llu of the data (byte %llu of the file), before "
                           "tensor %s: tensors must lie end to end",
                           path, llu(t[i].off - end), llu(end), llu(data + end), str_quote(q, t[i].name));
        end += t[i].bytes;
    }
    if (end > file_bytes - data)
        return truncated(path, file_bytes, "", data + end, e);
    if (end < file_bytes - data)
        return err_set(e, ERR_FORMAT,
                       "%s: %llu bytes behind the last tensor, at offset %llu of the data (byte %llu of the "
                       "file), belong to nothing: the file must end with that tensor",
                       path, llu(file_bytes - data - end), llu(end), llu(data + end));
    return 0;
}

int safetensors_header(const char *text, size_t n, const char *path, uint64_t file_bytes, struct tensors *out,
                       struct arena *a, struct err *e)
{
    uint64_t data = FIRST + (uint64_t)n;
    size_t before = out->n;
    json_t *header;
    int ret = -1;

    if (!n || text[0] != '{')
        return err_set(e, ERR_FORMAT, "%s: is not a safetensors file: its header does not begin with \"{\"", path);
    if (!(header = json_parse_exact(text, n, "header", e)))
        return err_at(e, "%s", path);
    if (read_entries(header, path, out, a, e) || check_tiling(out, before, path, data, file_bytes, e))
        goto out;
    for (size_t i = before; i < out->n; i++)
        out->v[i].off += data;
    ret = 0;
out:
    json_decref(header);
    return ret;
}

int safetensors_read(int fd, const char *path, uint64_t file_bytes, struct tensors *out, struct arena *a, struct err *e)
{
    unsigned char first[FIRST];
    char *text = NULL;
    size_t n = 0;
    int ret = -1;

    if (file_pread(fd, path, first, file_bytes < FIRST ? (size_t)file_bytes : FIRST, 0, e) ||
        safetensors_header_bytes(first, path, file_bytes, &n, e))
        return -1;
    if (!(text = malloc(n + 1)))
        return err_set(e, ERR_NOMEM, "%s: no memory for its header of %zu bytes", path, n);
    if (!file_pread(fd, path, text, n, FIRST, e))
        ret = safetensors_header(text, n, path, file_bytes, out, a, e);
    free(text);
    return ret;
}
