/* differences.h - what verify found, as the list of its document. */
#ifndef FRONT_DIFFERENCES_H
#define FRONT_DIFFERENCES_H
#include <jansson.h>
#include <stdint.h>
#include "base/err.h"

struct differences {
    json_t *list;                   /* {what, name, text} */
    uint64_t tensors, files, bytes; /* compared */
    uint64_t merged, neighbours;    /* values with an adapter in them, and how many are the next in fp16 */
};

/* `what`: "tensor", "padding", "file", "graph"; the text is one sentence that begins with the name. */
void differ(struct differences *d, const char *what, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The message of an error as a difference; the error is over then. */
void differ_err(struct differences *d, const char *what, const char *name, struct err *e);

#endif
