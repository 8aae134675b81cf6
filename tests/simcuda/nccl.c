/* nccl.c - stand-in for libnccl.so.2: exchanges between simulated devices.
 *
 * All calls of one group for one rank and stream are one operation there.  It goes on until each of its parts has met
 * its partners: the k-th message from one rank to another the k-th that the other takes, the k-th collective of a rank
 * the k-th of all others.  Until then it blocks its stream. */
#include "nvidia.h"
#include "sim.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum part_kind { SEND, RECV, BROADCAST, REDUCE };

struct part { /* of an operation */
    enum part_kind kind;
    int peer; /* of a message; a broadcast's root */
    uint64_t seq;
    const void *from;
    void *to;
    size_t bytes;
    ncclDataType_t type;
    ncclRedOp_t how;
    bool done;
};

struct ncclComm {
    struct clique *clique;
    int rank, device;
    bool live;
    uint64_t sent[SIM_DEVICES], taken[SIM_DEVICES], collectives;
    struct exchange *exchange; /* that are queued */
    struct ncclComm *next;     /* of all there ever were */
};

struct clique { /* communicators that belong together, by rank */
    int n;
    struct ncclComm *comm[SIM_DEVICES];
};

struct exchange {
    struct ncclComm *comm;
    cudaStream_t stream;
    const char *name;
    struct part *part;
    size_t n;
    struct sim_op *op;
    struct exchange *next;
};

static __thread unsigned depth; /* of groups */
static __thread struct exchange *group;
static __thread ncclResult_t group_error;
static __thread const struct ncclComm *alone; /* the last that was used without a group */
static struct ncclComm *comms;

static void *need(size_t n)
{
    void *p = calloc(1, n);

    if (!p)
        abort();
    return p;
}

static size_t bytes_of(ncclDataType_t t)
{
    switch (t) {
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
        return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
        return 8;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    default:
        return 1;
    }
}

/* ---- partners ---- */

static bool is_message(const struct part *p) { return p->kind == SEND || p->kind == RECV; }

static bool partners(const struct ncclComm *a, const struct part *p, const struct ncclComm *b, const struct part *q)
{
    if (q->done || q->seq != p->seq || is_message(p) != is_message(q))
        return false;
    return !is_message(p) || (p->kind != q->kind && p->peer == b->rank && q->peer == a->rank);
}

/* Rank `rank`'s side of part p of x, if that is queued. */
static struct part *partner(const struct exchange *x, const struct part *p, int rank, struct exchange **its)
{
    struct ncclComm *c = x->comm->clique->comm[rank];

    for (*its = c->exchange; *its; *its = (*its)->next)
        for (size_t i = 0; i < (*its)->n; i++)
            if (&(*its)->part[i] != p && partners(x->comm, p, c, &(*its)->part[i]))
                return &(*its)->part[i];
    return NULL;
}

/* ---- messages ---- */

static void deliver(const struct exchange *x, struct part *send, const struct exchange *y, struct part *recv)
{
    if (send->bytes != recv->bytes)
        sim_report("NCCL: rank %d sends %zu bytes, rank %d takes %zu", x->comm->rank, send->bytes, y->comm->rank,
                   recv->bytes);
    memcpy(sim_host(recv->to), sim_host(send->from), send->bytes < recv->bytes ? send->bytes : recv->bytes);
    send->done = recv->done = true;
    sim_after(y->op, x->op);
}

static bool step_message(struct exchange *x, struct part *p)
{
    struct exchange *y;
    struct part *q = partner(x, p, p->peer, &y);

    if (!q || !sim_started(y->op))
        return false;
    if (p->kind == SEND)
        deliver(x, p, y, q);
    else
        deliver(y, q, x, p);
    return true;
}

/* ---- collectives ---- */

struct side { /* what one rank brings */
    struct exchange *exchange;
    struct part *part;
};

/* False: not all of them have begun. */
static bool all_sides(struct exchange *x, struct part *p, struct side *side)
{
    const struct clique *c = x->comm->clique;

    for (int r = 0; r < c->n; r++) {
        side[r] = (struct side){ x, p };
        if (r != x->comm->rank)
            side[r].part = partner(x, p, r, &side[r].exchange);
        if (!side[r].part || !sim_started(side[r].exchange->op))
            return false;
    }
    return true;
}

static bool same_call(const struct side *side, int n)
{
    const struct part *p = side[0].part;

    for (int r = 1; r < n; r++) {
        const struct part *q = side[r].part;

        if (q->kind != p->kind || q->bytes != p->bytes || q->type != p->type || q->how != p->how ||
            q->peer != p->peer) {
            sim_report("NCCL: rank 0 and rank %d disagree: kind, bytes, type, operation or root of a collective", r);
            return false;
        }
    }
    return true;
}

static void broadcast(const struct side *side, int n)
{
    int root = side[0].part->peer;
    const void *from = sim_host(side[root].part->from);

    for (int r = 0; r < n; r++) {
        void *to = sim_host(side[r].part->to);

        if (to != from)
            memcpy(to, from, side[r].part->bytes);
        sim_after(side[r].exchange->op, side[root].exchange->op);
    }
}

static uint64_t combine(ncclRedOp_t how, uint64_t a, uint64_t b)
{
    switch (how) {
    case ncclSum:
        return a + b;
    case ncclMax:
        return a > b ? a : b;
    default:
        return a < b ? a : b;
    }
}

static void reduce(const struct side *side, int n)
{
    size_t size = bytes_of(side[0].part->type), bytes = side[0].part->bytes;
    unsigned char *sum = need(bytes);

    for (size_t at = 0; at < bytes; at += size) {
        uint64_t total = 0;

        for (int r = 0; r < n; r++) {
            uint64_t v = 0;

            memcpy(&v, (const unsigned char *)sim_host(side[r].part->from) + at, size); /* little-endian */
            total = r ? combine(side[0].part->how, total, v) : v;
        }
        memcpy(sum + at, &total, size);
    }
    for (int r = 0; r < n; r++) {
        memcpy(sim_host(side[r].part->to), sum, bytes);
        for (int other = 0; other < n; other++)
            sim_after(side[r].exchange->op, side[other].exchange->op);
    }
    free(sum);
}

static bool step_collective(struct exchange *x, struct part *p)
{
    struct side side[SIM_DEVICES] = { 0 };
    int n = x->comm->clique->n;

    if (!all_sides(x, p, side))
        return false;
    if (same_call(side, n)) {
        if (p->kind == BROADCAST)
            broadcast(side, n);
        else
            reduce(side, n);
    }
    for (int r = 0; r < n; r++)
        side[r].part->done = true;
    return true;
}

/* ---- as an operation ---- */

static bool step(void *arg, bool *done)
{
    struct exchange *x = arg;
    bool moved = false;

    *done = true;
    for (size_t i = 0; i < x->n; i++) {
        struct part *p = &x->part[i];

        if (!p->done && x->comm->live)
            moved |= is_message(p) ? step_message(x, p) : step_collective(x, p);
        *done &= p->done || !x->comm->live; /* what was aborted ends */
    }
    return moved || *done;
}

/* The i-th that is queued and could be further: of every part all partners, in turn. */
static struct sim_op *needs(void *arg, unsigned i)
{
    const struct exchange *x = arg;

    for (size_t k = 0; k < x->n; k++)
        for (int r = 0; r < x->comm->clique->n && !x->part[k].done; r++) {
            struct exchange *y;

            if (is_message(&x->part[k]) && r != x->part[k].peer)
                continue;
            if (partner(x, &x->part[k], r, &y) && y != x && i-- == 0)
                return y->op;
        }
    return NULL;
}

static void print(void *arg)
{
    static const char *const verbs[] = { "sends to", "takes from", "broadcasts with root", "reduces with all, its" };
    const struct exchange *x = arg;

    for (size_t i = 0; i < x->n; i++)
        if (!x->part[i].done)
            fprintf(stderr, ", rank %d %s %d (%zu bytes)", x->comm->rank, verbs[x->part[i].kind], x->part[i].peer,
                    x->part[i].bytes);
}

static void drop(struct exchange *x)
{
    free(x->part);
    free(x);
}

static void end(void *arg)
{
    struct exchange *x = arg, **at = &x->comm->exchange;

    while (*at && *at != x)
        at = &(*at)->next;
    if (*at)
        *at = x->next;
    drop(x);
}

static struct sim_range *ranges_of(const struct exchange *x, size_t *n)
{
    struct sim_range *r = need(2 * x->n * sizeof *r);

    *n = 0;
    for (size_t i = 0; i < x->n; i++) {
        const struct part *p = &x->part[i];
        bool writes = p->to && !(p->kind == BROADCAST && p->peer == x->comm->rank && p->to == p->from);

        if (p->from && p->bytes)
            r[(*n)++] = (struct sim_range){ p->from, p->bytes, p->bytes, 1, SIM_READ };
        if (writes && p->bytes)
            r[(*n)++] = (struct sim_range){ p->to, p->bytes, p->bytes, 1, SIM_WRITE };
    }
    return r;
}

/* Takes x over. */
static ncclResult_t queue(struct exchange *x)
{
    struct sim_work w = { "exec:comm", x, step, needs, print, end };
    struct exchange **last = &x->comm->exchange;
    size_t n;
    struct sim_range *r = ranges_of(x, &n);
    cudaError_t e = sim_queue(x->stream, x->comm->device, x->name, &w, r, n, &x->op);

    free(r);
    x->next = NULL;
    if (e) {
        drop(x);
        return ncclUnhandledCudaError;
    }
    while (*last)
        last = &(*last)->next;
    *last = x;
    return ncclSuccess;
}

/* ---- groups ---- */

static struct exchange *group_exchange(struct ncclComm *c, cudaStream_t s, const char *name)
{
    struct exchange **x = &group;

    while (*x && ((*x)->comm != c || (*x)->stream != s))
        x = &(*x)->next;
    if (!*x) {
        *x = need(sizeof **x);
        **x = (struct exchange){ .comm = c, .stream = s, .name = name };
    }
    return *x;
}

static ncclResult_t queue_group(void)
{
    ncclResult_t result = group_error;

    while (group) {
        struct exchange *x = group;

        group = x->next;
        if (result) {
            drop(x);
            continue;
        }
        result = queue(x);
    }
    group_error = ncclSuccess;
    return result;
}

/* Outside of a group a call may wait, on the host, for those of the other ranks. */
static void warn_alone(const struct ncclComm *c, const char *name)
{
    if (alone && alone != c && alone->clique == c->clique)
        sim_report("NCCL: %s without a group, by a thread that speaks for several ranks: it may wait for ever", name);
    alone = c;
}

static ncclResult_t add_part(struct ncclComm *c, cudaStream_t s, const char *name, struct part p)
{
    struct exchange *x = group_exchange(c, s, name);

    if (p.kind == SEND)
        p.seq = c->sent[p.peer]++;
    else if (p.kind == RECV)
        p.seq = c->taken[p.peer]++;
    else
        p.seq = c->collectives++;
    x->part = realloc(x->part, (x->n + 1) * sizeof p);
    if (!x->part)
        abort();
    x->part[x->n++] = p;
    return depth ? ncclSuccess : queue_group();
}

static struct ncclComm *comm_of(ncclComm_t handle, const char *name)
{
    struct ncclComm *c = comms;

    while (c && (c != handle || !c->live))
        c = c->next;
    if (!c)
        sim_report("INVALID %s: %p is no communicator, or one that was destroyed", name, (void *)handle);
    return c;
}

static ncclResult_t call(const char *name, ncclComm_t handle, cudaStream_t s, struct part p, size_t n)
{
    int e = sim_begin(name, -1);
    struct ncclComm *c = comm_of(handle, name);
    ncclResult_t r = e ? (ncclResult_t)e : c ? ncclSuccess : ncclInvalidArgument;

    p.bytes = n * bytes_of(p.type);
    if (!r && (p.peer < 0 || p.peer >= c->clique->n)) {
        sim_report("INVALID %s: there is no rank %d", name, p.peer);
        r = ncclInvalidArgument;
    }
    if (!r && !depth)
        warn_alone(c, name);
    if (!r)
        r = add_part(c, s, name, p);
    if (r && depth && !group_error)
        group_error = r;
    sim_end();
    return r;
}

ncclResult_t ncclGroupStart(void)
{
    int e = sim_begin("ncclGroupStart", -1);

    if (!e)
        depth++;
    sim_end();
    return (ncclResult_t)e;
}

ncclResult_t ncclGroupEnd(void)
{
    ncclResult_t r = (ncclResult_t)sim_begin("ncclGroupEnd", -1);

    if (!depth)
        sim_report("INVALID ncclGroupEnd: no group was begun");
    if (r && !group_error)
        group_error = r;
    alone = NULL;
    if (!depth)
        r = ncclInvalidUsage;
    else if (--depth == 0)
        r = queue_group();
    sim_end();
    return r;
}

ncclResult_t ncclSend(const void *at, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t s)
{
    return call("ncclSend", comm, s, (struct part){ .kind = SEND, .peer = peer, .from = at, .type = type }, n);
}

ncclResult_t ncclRecv(void *at, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t s)
{
    return call("ncclRecv", comm, s, (struct part){ .kind = RECV, .peer = peer, .to = at, .type = type }, n);
}

/* Only the root's `from` counts. */
ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t s)
{
    struct part p = { .kind = BROADCAST, .peer = root, .to = to, .type = type };

    if (comm && comm->rank == root)
        p.from = from;
    return call("ncclBroadcast", comm, s, p, n);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t how, ncclComm_t comm,
                           cudaStream_t s)
{
    struct part p = { .kind = REDUCE, .from = from, .to = to, .type = type, .how = how };

    if ((type != ncclUint32 && type != ncclUint64) || (how != ncclSum && how != ncclMax && how != ncclMin)) {
        sim_report("UNSUPPORTED: ncclAllReduce of type %d by operation %d", (int)type, (int)how);
        return ncclInvalidArgument;
    }
    return call("ncclAllReduce", comm, s, p, n);
}

/* ---- communicators ---- */

static bool can_join(int n, const int *devices)
{
    bool used[SIM_DEVICES] = { false };

    for (int i = 0; i < n; i++) {
        int d = devices ? devices[i] : i;

        if (d < 0 || d >= sim_devices() || used[d]) {
            sim_report("INVALID ncclCommInitAll: device %d does not exist, or is named twice", d);
            return false;
        }
        used[d] = true;
    }
    return n > 0 && n <= SIM_DEVICES;
}

static void join(ncclComm_t *out, int n, const int *devices)
{
    struct clique *q = need(sizeof *q);

    q->n = n;
    for (int i = 0; i < n; i++) {
        struct ncclComm *c = need(sizeof *c);

        *c = (struct ncclComm){
            .clique = q, .rank = i, .device = devices ? devices[i] : i, .live = true, .next = comms
        };
        q->comm[i] = comms = out[i] = c;
        sim_live("communicators were not destroyed", 1);
    }
}

ncclResult_t ncclCommInitAll(ncclComm_t *out, int n, const int *devices)
{
    ncclResult_t r = (ncclResult_t)sim_begin("ncclCommInitAll", -1);

    if (!r && !can_join(n, devices))
        r = ncclInvalidUsage;
    for (int i = 0; i < n && !r; i++)
        if (sim_broken(devices ? devices[i] : i))
            r = ncclUnhandledCudaError;
    if (!r)
        join(out, n, devices);
    sim_end();
    return r;
}

static ncclResult_t leave(ncclComm_t handle, const char *call, bool done)
{
    ncclResult_t r = (ncclResult_t)sim_begin(call, -1);
    struct ncclComm *c = comm_of(handle, call);

    if (c && done && c->exchange && !sim_broken(c->device))
        sim_report("NCCL: rank %d is destroyed before its exchanges are done", c->rank);
    if (c) {
        c->live = false;
        sim_live("communicators were not destroyed", -1);
    } else {
        r = ncclInvalidArgument;
    }
    sim_end();
    return r;
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) { return leave(handle, "ncclCommDestroy", true); }

ncclResult_t ncclCommAbort(ncclComm_t handle) { return leave(handle, "ncclCommAbort", false); }

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t *error)
{
    ncclResult_t r = (ncclResult_t)sim_begin("ncclCommGetAsyncError", -1);
    struct ncclComm *c = comm_of(handle, "ncclCommGetAsyncError");

    *error = c && sim_broken(c->device) ? ncclUnhandledCudaError : ncclSuccess;
    sim_end();
    return !r && !c ? ncclInvalidArgument : r;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static unsigned n;

    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "simulated %u", ++n);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t r)
{
    static const char *const texts[] = { "no error",
                                         "unhandled cuda error",
                                         "unhandled system error",
                                         "internal error",
                                         "invalid argument",
                                         "invalid usage",
                                         "remote process exited or there was a network error",
                                         "in progress" };

    return (unsigned)r < sizeof texts / sizeof *texts ? texts[r] : "unknown result code";
}
