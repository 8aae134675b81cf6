/* helper.h - a Python script in a confined child process: one request in, one answer out.
 *
 * Chat templates are programs of whoever made the checkpoint, written for
 * Jinja2, which is Python.  They run in a child that can neither write, nor
 * reach the network, nor start processes, within limits of time and memory
 * (confine.h); all that comes back is bounded text, checked by the caller.
 * The interpreter is WEIGHBRIDGE_PYTHON, else the first python3 on PATH that is a
 * program (a wrapper script, as version managers have, would need to start processes).
 * The script must read its request to the end before it answers.
 *
 * Tokenizers are native code that works on a stranger's tables, so they run there too; their request is a corpus, which
 * is handed over piece by piece and is held whole by nobody. */
#ifndef EMIT_HELPER_H
#define EMIT_HELPER_H
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/str.h"

struct helper {
    const char *script; /* its whole text, ASCII, below 128 KiB */
    const char *name;   /* for messages: "the chat-template helper" */
    /* 0: the default */
    unsigned cpu_seconds;  /* 10 */
    unsigned wall_seconds; /* 180; of a request in pieces: without taking any more of it */
    uint64_t memory;       /* address space: 1 GiB */
    size_t answer_most;    /* 16 MiB */
};

/* Bytes in, bytes out.  Fails with ERR_HELPER and one sentence when there is no Python, when the script ends with other
 * than status 0 (the last line it wrote on stderr is quoted), or when a limit ends it.  Any number of threads may call
 * at once. */
int helper_run(const struct helper *h, const void *request, size_t n, struct str *answer, struct err *e);
/* A request in pieces. next() sets *n to 0 at the end; what it gave stays valid until it is asked again. Where it
 * fails, the child is ended and its error is that of the run. */
struct helper_source {
    int (*next)(void *user, const void **piece, size_t *n, struct err *e);
    void *user;
};
int helper_stream(const struct helper *h, const struct helper_source *request, struct str *answer, struct err *e);
/* helper_run with JSON on both sides. NULL: failed. */
json_t *helper_ask(const struct helper *h, const json_t *request, struct err *e);

/* Appends a stranger's text to a message: one line, no control characters, at most 400 bytes. */
void helper_quote(struct str *out, const char *text, size_t n);

#endif
