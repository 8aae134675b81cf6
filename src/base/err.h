/* err.h - what went wrong, in one sentence that names the file or tensor.
 *
 * A function that can fail takes a `struct err *` last and returns 0 or -1
 * (or a pointer or NULL).  The place that detects a fault writes the message;
 * the places it passes through may put a place in front of it, never print.
 * The sentence says: where, what was found, what was expected, what to do.
 * Where several faults are found in one pass (bad shards, missing tensors) the
 * message has one line for each, at most ERR_LINES, and says how many more. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

enum err_kind {
    ERR_NONE,
    ERR_USAGE,       /* the call was wrong: exit status 2 */
    ERR_IO,          /* the system refused a file operation */
    ERR_FORMAT,      /* a file is not what its format says */
    ERR_UNSUPPORTED, /* a right input that we cannot convert */
    ERR_RANGE,       /* a number out of its range */
    ERR_REFUSED,     /* we could, but must not: --strict, an OUT that is not ours, ... */
    ERR_SPACE,       /* no room on disk */
    ERR_NOMEM,       /* no memory for a buffer */
    ERR_DEVICE,      /* a GPU or its libraries */
    ERR_HELPER,      /* the chat-template helper process */
    ERR_CANCELLED,   /* the caller's progress function asked to stop */
    ERR_INTERNAL     /* a fault of ours */
};

enum { ERR_LINES = 20 };

struct err {
    enum err_kind kind;
    char msg[4096];
};

/* Always -1, so that a caller can write `return err_set(...)`.  The first fault is kept; later calls change nothing. */
int err_set(struct err *e, enum err_kind kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "PLACE: " in front of the message.  Always -1. */
int err_at(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* err_set with ": " and strerror(code) at the end; code is an errno value. */
int err_errno(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The compiler should know that it is -1: what a failed call leaves unset is then never used. */
static inline int err_minus_one(void) { return -1; }
#define err_set(...)   ((void)(err_set)(__VA_ARGS__), err_minus_one())
#define err_at(...)    ((void)(err_at)(__VA_ARGS__), err_minus_one())
#define err_errno(...) ((void)(err_errno)(__VA_ARGS__), err_minus_one())

#endif
