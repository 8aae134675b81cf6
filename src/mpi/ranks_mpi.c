/* ranks_mpi.c - libweighbridge_mpi.so: io/ranks.h over MPI.  The only code that includes <mpi.h>. */
#include <mpi.h>
#include <stdlib.h>
#include "io/ranks.h"

enum { TAG_ALARM = 1 };

static struct {
    int rank, size;
    bool *seen;        /* alarms, by rank */
    bool any;          /* of them */
    MPI_Request *sent; /* our own alarm, to each other rank */
    bool sending;
    bool ours; /* MPI was started by us */
} state;

/* MPI ends the whole job on errors unless it is told to return them. */
static int join(int *rank, int *size)
{
    int started = 0, provided;

    MPI_Initialized(&started);
    if (!started && MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided))
        return -1;
    state.ours = !started;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (MPI_Comm_rank(MPI_COMM_WORLD, &state.rank) || MPI_Comm_size(MPI_COMM_WORLD, &state.size))
        return -1;
    state.seen = calloc((size_t)state.size, sizeof *state.seen);
    state.sent = calloc((size_t)state.size, sizeof(MPI_Request));
    *rank = state.rank;
    *size = state.size;
    return state.seen && state.sent ? 0 : -1;
}

static int broadcast(void *bytes, int n) { return MPI_Bcast(bytes, n, MPI_BYTE, 0, MPI_COMM_WORLD); }

static int gather(const void *mine, int n, void *all)
{
    return MPI_Allgather(mine, n, MPI_BYTE, all, n, MPI_BYTE, MPI_COMM_WORLD);
}

static int alarm_others(void)
{
    static char nothing;
    int bad = 0;

    for (int i = 0; i < state.size; i++) {
        state.sent[i] = MPI_REQUEST_NULL;
        if (i != state.rank)
            bad |= MPI_Isend(&nothing, 1, MPI_BYTE, i, TAG_ALARM, MPI_COMM_WORLD, &state.sent[i]);
    }
    state.sending = true;
    return bad;
}

static int take(int rank)
{
    char nothing;
    int bad = MPI_Recv(&nothing, 1, MPI_BYTE, rank, TAG_ALARM, MPI_COMM_WORLD, MPI_STATUS_IGNORE);

    state.seen[rank] = true;
    state.any = true;
    return bad;
}

static bool alarmed(void)
{
    MPI_Status status;
    int there = 0;

    if (!MPI_Iprobe(MPI_ANY_SOURCE, TAG_ALARM, MPI_COMM_WORLD, &there, &status) && there)
        take(status.MPI_SOURCE);
    return state.any;
}

static int settle(int rank) { return state.seen[rank] ? 0 : take(rank); }

static void leave(void)
{
    int ended = 0;

    if (state.sending)
        MPI_Waitall(state.size, state.sent, MPI_STATUSES_IGNORE);
    MPI_Finalized(&ended);
    if (state.ours && !ended)
        MPI_Finalize();
    free(state.seen);
    free(state.sent);
}

__attribute__((visibility("default"))) extern const struct ranks_plugin weighbridge_ranks;

const struct ranks_plugin weighbridge_ranks = {
    .version = RANKS_PLUGIN_VERSION,
    .join = join,
    .broadcast = broadcast,
    .gather = gather,
    .alarm = alarm_others,
    .alarmed = alarmed,
    .settle = settle,
    .leave = leave,
};
