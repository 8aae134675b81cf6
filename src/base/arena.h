/* arena.h - memory for what is decided before the first weight byte moves.
 *
 * Names, graph, layout and plan live as long as the run, so they come from one
 * arena and die with it.  Its size follows the number of tensors, not their
 * bytes.  Like malloc in most programs that hold metadata only, an arena that
 * finds no memory ends the process with a message: there is nothing to undo,
 * since no output has been published. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H
#include <stdarg.h>
#include <stddef.h>

struct arena {
    struct arena_chunk *chunk; /* the newest */
    size_t bytes;              /* handed out so far */
};

/* Zeroed bytes, aligned to 16. Never NULL. */
void *arena_alloc(struct arena *a, size_t bytes);
/* n things of `each` bytes; checks the product. */
void *arena_array(struct arena *a, size_t n, size_t each);
char *arena_strdup(struct arena *a, const char *s);
char *arena_memdup(struct arena *a, const void *p, size_t bytes); /* with a 0 byte behind */
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void arena_release(struct arena *a);

/* malloc and realloc that end the process when there is no memory: for what grows before its size is known. */
void *xmalloc(size_t bytes);
void *xrealloc(void *p, size_t bytes);

#endif
