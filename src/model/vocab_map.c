#include "model/vocab_map.h"
#include "base/hash.h"
#include "checkpoint/checkpoint.h"
#include "io/file.h"
#include <stdlib.h>
#include <string.h>

enum { FILE_MOST = 64 << 20 }; /* 16 million ids: no vocabulary comes near it */

static int read_bytes(struct vocab_map *v, const char *dir, struct arena *a, struct err *e)
{
    char *text;

    v->path = arena_printf(a, "%s/%s", dir, VOCAB_MAP_FILE);
    if (file_read(v->path, FILE_MOST, &text, &v->file_bytes, e))
        return -1;
    v->file = arena_memdup(a, text, v->file_bytes);
    free(text);
    v->hash = arena_printf(a, "xxh3:%016llx", (unsigned long long)XXH3_64bits(v->file, v->file_bytes));
    return 0;
}

const char *vocab_map_hash(const char *dir, struct arena *a, struct err *e)
{
    struct vocab_map v;

    return read_bytes(&v, dir, a, e) ? NULL : v.hash;
}

static int check_tensor(const struct vocab_map *v, const struct tensor *t, uint64_t vocab, struct err *e)
{
    if (!t)
        return err_set(e, ERR_FORMAT, "%s: has no tensor vocab_map: expected an int32 list of the token ids to keep",
                       v->path);
    if (t->dtype != DT_I32)
        return err_set(e, ERR_FORMAT, "%s: vocab_map is stored as %s, expected I32: convert it to int32", v->path,
                       t->dtype_text);
    if (t->rank != 1)
        return err_set(e, ERR_FORMAT, "%s: vocab_map has %u dimensions, expected 1: the list of token ids to keep",
                       v->path, t->rank);
    if (!t->elements || t->elements > vocab)
        return err_set(e, ERR_RANGE,
                       "%s: vocab_map holds %llu token ids, expected 1 to %llu, the size of the vocabulary", v->path,
                       (unsigned long long)t->elements, (unsigned long long)vocab);
    return 0;
}

static int by_id(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

/* Ids that have come before. */
static uint64_t repeated(const int32_t *id, uint64_t n, struct arena *a)
{
    int32_t *sorted = arena_array(a, n, sizeof *sorted);
    uint64_t again = 0;

    memcpy(sorted, id, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_id);
    for (uint64_t i = 1; i < n; i++)
        again += sorted[i] == sorted[i - 1];
    return again;
}

static int check_ids(const struct vocab_map *v, uint64_t vocab, struct arena *a, struct notes *notes, struct err *e)
{
    uint64_t again;

    for (uint64_t i = 0; i < v->n; i++)
        if (v->id[i] < 0 || (uint64_t)v->id[i] >= vocab)
            return err_set(e, ERR_RANGE,
                           "%s: vocab_map[%llu] is %d, expected a token id from 0 to %llu: make the map for this "
                           "model's vocabulary",
                           v->path, (unsigned long long)i, v->id[i], (unsigned long long)vocab - 1);
    again = repeated(v->id, v->n, a);
    if (again)
        notes_add(notes, NOTE_WARNING, "%s: %llu of its %llu token ids have come before; their rows are written again",
                  v->path, (unsigned long long)again, (unsigned long long)v->n);
    return 0;
}

int vocab_map_open(struct vocab_map *v, const char *dir, uint64_t vocab, struct arena *a, struct notes *notes,
                   struct err *e)
{
    struct checkpoint c = { 0 };
    const struct tensor *t;
    int ret = -1;

    *v = (struct vocab_map){ 0 };
    if (read_bytes(v, dir, a, e) || ckpt_open_file(&c, v->path, a, e))
        goto out;
    t = ckpt_find(&c, "vocab_map");
    if (check_tensor(v, t, vocab, e))
        goto out;
    if (c.file->id.bytes != v->file_bytes) {
        err_set(e, ERR_FORMAT, "%s: changed while it was being read: start again", v->path);
        goto out;
    }
    v->n = t->elements;
    v->id = memcpy(arena_array(a, v->n, sizeof *v->id), v->file + t->off, t->bytes); /* aligned */
    ret = check_ids(v, vocab, a, notes, e);
out:
    ckpt_close(&c);
    return ret;
}
