/* stuck_nccl.c - a libnccl.so.2 whose exchanges never end, for what the product does then.  STUCK_NCCL says how, in the
 * environment:
 * - init: ranks never get connected;
 * - exchange: what is exchanged ends only when it is broken off;
 * - deaf: not even then;
 * - rank: rank 1 says that it has failed.
 *
 * It says "broken off" on the standard error for each rank that is. */
#include "nvidia.h"
#include "sim.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHOWN __attribute__((visibility("default")))

struct ncclComm {
    int rank, device;
};

static bool over;

static bool is(const char *how) { return !strcmp(getenv("STUCK_NCCL"), how); }

static bool step(void *arg, bool *done)
{
    (void)arg;
    *done = over;
    return over;
}

SHOWN ncclResult_t ncclCommInitAll(ncclComm_t *comm, int n, const int *devices)
{
    while (is("init"))
        sleep(1);
    for (int i = 0; i < n; i++) {
        comm[i] = malloc(sizeof **comm);
        *comm[i] = (struct ncclComm){ i, devices ? devices[i] : i };
    }
    return ncclSuccess;
}

SHOWN ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    free(c);
    return ncclSuccess;
}

SHOWN ncclResult_t ncclCommAbort(ncclComm_t c)
{
    fprintf(stderr, "broken off: rank %d\n", c->rank);
    over |= !is("deaf");
    return ncclCommDestroy(c);
}

SHOWN ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *r)
{
    *r = is("rank") && c->rank == 1 ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}

SHOWN ncclResult_t ncclGroupStart(void) { return ncclSuccess; }
SHOWN ncclResult_t ncclGroupEnd(void) { return ncclSuccess; }
SHOWN const char *ncclGetErrorString(ncclResult_t r) { return r == ncclRemoteError ? "remote error" : "error"; }

/* What never ends. */
static ncclResult_t stay(const char *name, ncclComm_t c, cudaStream_t s)
{
    struct sim_work w = { .step = step };
    struct sim_op *op;

    sim_begin(name, -1);
    sim_queue(s, c->device, name, &w, NULL, 0, &op);
    sim_end();
    return ncclSuccess;
}

SHOWN ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t type, int root, ncclComm_t c,
                                 cudaStream_t s)
{
    (void)from, (void)to, (void)n, (void)type, (void)root;
    return stay("ncclBroadcast", c, s);
}

SHOWN ncclResult_t ncclSend(const void *at, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s)
{
    (void)at, (void)n, (void)type, (void)peer;
    return stay("ncclSend", c, s);
}

SHOWN ncclResult_t ncclRecv(void *at, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s)
{
    (void)at, (void)n, (void)type, (void)peer;
    return stay("ncclRecv", c, s);
}

SHOWN ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t op,
                                 ncclComm_t c, cudaStream_t s)
{
    (void)from, (void)to, (void)n, (void)type, (void)op;
    return stay("ncclAllReduce", c, s);
}
