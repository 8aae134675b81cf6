/* options.h - tables of options: read by the parser and by the help, so that the two cannot disagree.
 *
 *   --name VALUE, --name=VALUE, -x; anywhere among the operands; "--" ends options.
 *
 * A row says where in `struct args` its value goes.  Of an option that is given
 * twice with different values, or of two that exclude each other, neither wins:
 * that is an error.  The reference's own programs are read as argparse reads them:
 * the last one wins, and a name may be cut short. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "weighbridge.h"

struct args {
    struct wb_options wb; /* what the library is asked; model and out are operands of most commands */
    const char *operand[3];
    unsigned operands_n;
    bool help, quiet, verbose, json, list, test, keep_going;
    unsigned jobs; /* at once */
    const char *report, *trace, *progress;
    const char
        *asked; /* of one of the reference's programs: the device by its name there; NULL: nothing to say of it */
    char device[32];
};

enum option_kind {
    OPTION_FLAG,   /* bool, takes no value */
    OPTION_TEXT,   /* const char * */
    OPTION_CHOICE, /* const char *, one of the words in `value` */
    OPTION_SIZE,   /* uint64_t, bytes with an optional unit */
    OPTION_COUNT   /* unsigned */
};

struct option_row {
    const char *name; /* without the dashes */
    char letter;      /* 0: no short form */
    enum option_kind kind;
    size_t place;         /* offsetof(struct args, ...) */
    const char *value;    /* in the help: "FILE", or the words of a choice: "auto|uring" */
    const char *initial;  /* the default, for the help; flags are off */
    const char *help;     /* in plain words, units named */
    const char *excludes; /* name of the option that this one contradicts */
    uint64_t least, most; /* of a number */
    bool required;
};

/* Rows that several commands have, but for what each says of them. */
#define OPTION_MEMORY(MIB)                                                                                             \
    "memory", .kind = OPTION_SIZE, .place = offsetof(struct args, wb.memory), .value = "SIZE",                         \
              .initial = "512M, less in a container of less than 1G", .least = (uint64_t)(MIB) << 20,                  \
              .most = UINT64_MAX
#define OPTION_THREADS                                                                                                 \
    "threads", .kind = OPTION_COUNT, .place = offsetof(struct args, wb.threads), .value = "N",                         \
               .initial = "one per processor, at most 8", .least = 1, .most = 256
#define OPTION_IO                                                                                                      \
    "io", .kind = OPTION_CHOICE, .place = offsetof(struct args, wb.io), .value = "auto|uring|mmap|pread|fault",        \
          .initial = "auto"

struct option_group {
    const char *title;
    const struct option_row *row; /* ends with a row without a name */
};

struct command {
    const char *name;
    const char *operands;                    /* as the help shows them */
    unsigned least, most;                    /* how many */
    const char *summary;                     /* in the list of commands */
    const char *text;                        /* paragraphs; a line is as it will be printed */
    const char *example;                     /* command line, then what it does */
    const struct option_group *const *group; /* ends with NULL */
    bool argparse;                           /* one of the reference's programs */
    int (*run)(struct args *a);              /* exit status */
};

enum { OPTION_WHY = 1024 };

/* Reads argv[0..argc-1] (command and program names already taken off) into `a`.  -1: `why` holds one sentence.
 * Stops at --help with a->help set. */
int options_parse(const struct command *c, int argc, char *const *argv, struct args *a, char why[OPTION_WHY]);

/* The row that an argument "--name", "--name=value" or "-x" names; NULL where the command has none. */
const struct option_row *option_find(const struct command *c, const char *argument);

/* "4096", "64K", "1.5" is refused.  K, M, G, T and KiB, MiB, ... are powers of 1024; KB, MB, ... of 1000. */
int option_size(const char *text, uint64_t *bytes);

/* Of `n` words the one that `word` was probably meant to be, or NULL. */
const char *option_nearest(const char *word, const char *const *words, size_t n);

#endif
