#include "base/arena.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256 * 1024, ALIGN = 16 };

struct arena_chunk {
    struct arena_chunk *older;
    size_t used, size;
    _Alignas(ALIGN) unsigned char bytes[];
};

static void *no_memory(size_t bytes)
{
    fprintf(stderr, "weighbridge: no memory for %zu bytes of metadata\n", bytes);
    abort();
}

void *xmalloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);

    return p ? p : no_memory(bytes);
}

void *xrealloc(void *old, size_t bytes)
{
    void *p = realloc(old, bytes ? bytes : 1);

    return p ? p : no_memory(bytes);
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    struct arena_chunk *c = a->chunk;
    size_t need;
    void *p;

    if (bytes > SIZE_MAX - CHUNK)
        no_memory(bytes);
    need = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (!c || c->size - c->used < need) {
        size_t size = need > CHUNK ? need : CHUNK;

        c = xmalloc(sizeof *c + size);
        *c = (struct arena_chunk){ .older = a->chunk, .size = size };
        a->chunk = c;
    }
    p = c->bytes + c->used;
    c->used += need;
    a->bytes += need;
    return memset(p, 0, need);
}

void *arena_array(struct arena *a, size_t n, size_t each)
{
    size_t bytes;

    if (__builtin_mul_overflow(n, each, &bytes))
        no_memory(SIZE_MAX);
    return arena_alloc(a, bytes);
}

char *arena_memdup(struct arena *a, const void *p, size_t bytes)
{
    char *copy = arena_alloc(a, bytes + 1);

    if (bytes)
        memcpy(copy, p, bytes);
    return copy;
}

char *arena_strdup(struct arena *a, const char *s) { return arena_memdup(a, s, strlen(s)); }

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    char *s;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    s = arena_alloc(a, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(s, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return s;
}

void arena_release(struct arena *a)
{
    while (a->chunk) {
        struct arena_chunk *c = a->chunk;

        a->chunk = c->older;
        free(c);
    }
    a->bytes = 0;
}
