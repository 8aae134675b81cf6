/* ranks.h - the processes that mpirun or srun started to do one job together.
 *
 * MPI is in a plugin, libweighbridge_mpi.so, opened when a launcher is seen, so
 * that the plain program needs none.  All calls but ranks_alarmed are collective:
 * every rank makes them, in the same order, from the same thread.  Rank 0 decides
 * what is not divided. */
#ifndef IO_RANKS_H
#define IO_RANKS_H
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

enum { RANKS_PLUGIN_VERSION = 1 };

struct ranks_plugin { /* what the plugin exports, as `weighbridge_ranks`; 0 is success */
    int version;
    int (*join)(int *rank, int *size);
    int (*broadcast)(void *bytes, int n);              /* rank 0's to all */
    int (*gather)(const void *mine, int n, void *all); /* n bytes of each to all */
    int (*alarm)(void);                                /* all others will see it */
    bool (*alarmed)(void);                             /* whether anybody gave an alarm */
    int (*settle)(int rank);                           /* takes that rank's alarm, if it was not seen yet */
    void (*leave)(void);
};

struct wb_ranks {
    const struct ranks_plugin *plugin;
    void *library;
    int rank, size;
    bool gave_alarm;
};

/* *ranks stays NULL when there is one process only. */
int ranks_join(struct wb_ranks **ranks, struct err *e);
void ranks_leave(struct wb_ranks *r); /* NULL is allowed */

/* Whether this process is the only one or rank 0. The other calls take NULL too, and do nothing then. */
bool ranks_first(const struct wb_ranks *r);
/* Fails on every rank when one of them failed; `e` is then what the lowest of these says, with its number in front, and
 * *told on all others. */
int ranks_agree(struct wb_ranks *r, struct err *e, bool *told);
int ranks_broadcast(struct wb_ranks *r, void *bytes, size_t n, struct err *e);
/* `all`: size * n bytes. */
int ranks_gather(struct wb_ranks *r, const void *mine, size_t n, void *all, struct err *e);
/* Not collective: this rank fails, and the others need not go on with what takes long. */
void ranks_alarm(struct wb_ranks *r);
bool ranks_alarmed(const struct wb_ranks *r);

#endif
