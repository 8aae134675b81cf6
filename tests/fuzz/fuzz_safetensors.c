/* Any bytes as a safetensors file: refused with a message that names the file and is valid UTF-8, or tensors with
 * distinct names that tile the data. */
#include "fuzz.h"
#include "checkpoint/container.h"
#include <string.h>

static void check_message(const struct err *e)
{
    json_t *text = json_string(e->msg); /* NULL for what is not UTF-8 */

    REQUIRE(e->kind != ERR_NONE && !strncmp(e->msg, "x.safetensors: ", 15) && text);
    json_decref(text);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static void check_tensors(const struct tensors *list, uint64_t data, uint64_t file_bytes)
{
    uint64_t end = data;

    for (size_t i = 0; i < list->n; i++) {
        const struct tensor *t = &list->v[i];

        REQUIRE(t->off == end && t->bytes <= file_bytes - end && t->rank <= TENSOR_RANK_MAX);
        REQUIRE(t->dtype == DT_UNKNOWN || t->bytes == t->elements * dtype_bytes(t->dtype));
        end += t->bytes;
    }
    REQUIRE(end == file_bytes);
    if (list->n)
        qsort(list->v, list->n, sizeof *list->v, by_name);
    for (size_t i = 1; i < list->n; i++)
        REQUIRE(strcmp(list->v[i - 1].name, list->v[i].name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct tensors list = { 0 };
    struct arena a = { 0 };
    struct err e = { 0 };
    unsigned char first[8] = { 0 };
    size_t header = 0;
    char *text = NULL;

    memcpy(first, data, n < sizeof first ? n : sizeof first);
    if (safetensors_header_bytes(first, "x.safetensors", n, &header, &e)) {
        check_message(&e);
        return 0;
    }
    REQUIRE(header <= n - sizeof first && (text = malloc(header ? header : 1)));
    memcpy(text, data + sizeof first, header); /* a block of its own: the data behind is out of bounds */
    if (safetensors_header(text, header, "x.safetensors", n, &list, &a, &e))
        check_message(&e);
    else
        check_tensors(&list, sizeof first + header, n);
    free(text);
    free(list.v);
    arena_release(&a);
    return 0;
}
