/* nccl.c - what several devices do together, by NCCL, which is loaded for that.
 *
 * One thread speaks for all devices, so every exchange is one group of calls: none waits for another on the host. What
 * can wait without end is a device, for the part of another one; so an event behind the last exchange of each device
 * tells whether some are still under way, and while they are, whoever waits looks here for errors and at the clock. */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/str.h"
#include "base/thread.h"
#include "gpu/cuda.h"
#include "gpu/nccl_abi.h"

#define CHECK_EVERY 0.001 /* seconds from one look at the communicators to the next */
#define ABORT_TIME  2.0   /* seconds that aborted exchanges have to end */

struct nccl {
    struct nccl_calls call;
    nccl_comm comm[GPU_MOST];        /* by place, which is the rank */
    struct gpu_event *met[GPU_MOST]; /* behind the last exchange */
    bool used[GPU_MOST];             /* met was recorded */
    void *room[GPU_MOST];            /* of a reduction, and how much: */
    size_t room_bytes;
    bool pending;
    double moved, checked; /* when something ended last, when it was looked at last */
    double limit;          /* seconds without anything ending */
};

static struct nccl *nccl_of(struct gpu *g) { return cuda_of(g)->nccl; }

static double limit_seconds(void)
{
    const char *text = getenv("WEIGHBRIDGE_NCCL_TIMEOUT");
    double s = text ? strtod(text, NULL) : 0;

    return s > 0 ? s : 60;
}

static void add_rank(struct str *s, struct gpu *g, unsigned rank)
{
    str_addf(s, "%srank %u (device %u, %s)", s->n ? ", " : "", rank, g->info[rank].number, g->info[rank].name);
}

/* ---- loading ---- */

static int find_calls(void *library, struct nccl_calls *c)
{
    const struct library_call wanted[] = { { "ncclCommInitAll", &c->init_all },
                                           { "ncclCommDestroy", &c->destroy },
                                           { "ncclCommAbort", &c->abort },
                                           { "ncclCommGetAsyncError", &c->async_error },
                                           { "ncclGroupStart", &c->group_start },
                                           { "ncclGroupEnd", &c->group_end },
                                           { "ncclSend", &c->send },
                                           { "ncclRecv", &c->recv },
                                           { "ncclBroadcast", &c->broadcast },
                                           { "ncclAllReduce", &c->all_reduce },
                                           { "ncclGetErrorString", &c->error_text } };

    return cuda_find(library, wanted, sizeof wanted / sizeof *wanted);
}

/* No device in particular is at fault. */
static int failed_all(struct gpu *g)
{
    g->failed = GPU_MOST;
    g->exchange_failed = true;
    cuda_of(g)->failed = true;
    return -1;
}

static int load(struct gpu *g, struct err *e)
{
    void *library = dlopen(NCCL_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    struct nccl *n = NULL;

    if (library && !(n = calloc(1, sizeof *n)))
        return err_set(e, ERR_NOMEM, "no memory for NCCL");
    if (!library || find_calls(library, &n->call)) {
        free(n);
        err_set(e, ERR_DEVICE,
                "%u devices work together by NCCL, which does not load: %s: install NCCL 2 (libnccl2), or "
                "use one device",
                g->n, dlerror());
        return failed_all(g);
    }
    n->limit = limit_seconds();
    cuda_of(g)->nccl = n;
    return 0;
}

/* ---- failures ---- */

/* Not yet behind its last exchange; *bad: and never will be. */
static bool under_way(struct gpu *g, unsigned device, bool *bad)
{
    struct nccl *n = nccl_of(g);
    struct err ignored = { 0 };
    cudaError_t r = cudaSuccess;

    if (n->used[device] && !cuda_use(g, device, &ignored))
        r = cudaEventQuery(n->met[device]->event);
    *bad = r && r != cudaErrorNotReady;
    return r;
}

/* Those that do not end even when told to are left alone from now on. */
static void mark_lost(struct gpu *g)
{
    double until = clock_wall() + ABORT_TIME;
    struct timespec nap = { .tv_nsec = 1000000 };
    bool bad;

    for (unsigned i = 0; i < g->n; i++) {
        while (under_way(g, i, &bad) && !bad && clock_wall() < until)
            nanosleep(&nap, NULL);
        cuda_device(g, i)->lost = under_way(g, i, &bad) && !bad;
    }
}

static void disconnect(struct gpu *g, bool at_once)
{
    struct nccl *n = nccl_of(g);
    bool were = false;

    for (unsigned i = 0; i < g->n; i++) {
        were |= n->comm[i] != NULL;
        if (n->comm[i])
            (at_once ? n->call.abort : n->call.destroy)(n->comm[i]);
        n->comm[i] = NULL;
    }
    n->pending = false;
    g->joined = false;
    if (were && at_once)
        mark_lost(g);
}

/* The only device that is broken, else none in particular. */
static unsigned broken_one(struct gpu *g)
{
    unsigned found = GPU_MOST, broken = 0;
    bool bad;

    for (unsigned i = 0; i < g->n; i++)
        if (under_way(g, i, &bad) && bad) {
            found = i;
            broken++;
        }
    return broken == 1 ? found : GPU_MOST;
}

static int failed(struct gpu *g, nccl_result r, struct err *e, const char *what)
{
    unsigned broken = broken_one(g);

    err_set(e, ERR_DEVICE, "NCCL, %u devices: %s: %s (%d)", g->n, what, nccl_of(g)->call.error_text(r), r);
    disconnect(g, true);
    failed_all(g);
    g->failed = broken;
    return -1;
}

static int too_late(struct gpu *g, struct err *e)
{
    struct str ranks = { 0 };
    unsigned late = 0, last = GPU_MOST;
    bool bad;

    for (unsigned i = 0; i < g->n; i++)
        if (under_way(g, i, &bad)) {
            add_rank(&ranks, g, i);
            last = i;
            late++;
        }
    err_set(e, ERR_DEVICE,
            "NCCL, %u devices: no end of what %s %s to do within %g s: check the links between the devices, use one "
            "device, or give more time by WEIGHBRIDGE_NCCL_TIMEOUT",
            g->n, str_text(&ranks), late == 1 ? "has" : "have", nccl_of(g)->limit);
    str_release(&ranks);
    disconnect(g, true);
    failed_all(g);
    g->failed = late == 1 ? last : GPU_MOST;
    return -1;
}

static int rank_failed(struct gpu *g, unsigned rank, nccl_result r, struct err *e)
{
    struct str text = { 0 };

    add_rank(&text, g, rank);
    err_set(e, ERR_DEVICE, "NCCL, %u devices: %s: %s (%d)", g->n, str_text(&text), nccl_of(g)->call.error_text(r), r);
    str_release(&text);
    disconnect(g, true);
    failed_all(g);
    g->failed = rank;
    return -1;
}

/* ---- waiting ---- */

bool nccl_pending(struct gpu *g) { return nccl_of(g) && nccl_of(g)->pending; }

void nccl_moved(struct gpu *g)
{
    if (nccl_pending(g))
        nccl_of(g)->moved = clock_wall();
}

static bool any_under_way(struct gpu *g)
{
    bool bad;

    for (unsigned i = 0; i < g->n; i++)
        if (under_way(g, i, &bad))
            return true;
    return false;
}

int nccl_watch(struct gpu *g, struct err *e)
{
    struct nccl *n = nccl_of(g);
    double now = clock_wall();

    if (now - n->checked < CHECK_EVERY)
        return 0;
    n->checked = now;
    n->pending = any_under_way(g);
    for (unsigned i = 0; n->pending && i < g->n; i++) {
        nccl_result state = NCCL_OK, r = n->call.async_error(n->comm[i], &state);

        if (r || (state && state != NCCL_IN_PROGRESS))
            return rank_failed(g, i, r ? r : state, e);
    }
    return n->pending && now - n->moved > n->limit ? too_late(g, e) : 0;
}

/* ---- connecting, in a thread of its own, since it may never return ---- */

struct joining {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    unsigned users; /* the last one frees it */
    bool done;
    nccl_result (*init_all)(nccl_comm *comm, int n, const int *devices);
    nccl_result result;
    int n, number[GPU_MOST];
    nccl_comm comm[GPU_MOST];
};

static void leave(struct joining *j)
{
    unsigned users = --j->users;

    pthread_mutex_unlock(&j->lock);
    if (users)
        return;
    pthread_cond_destroy(&j->ended);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

static void *join_thread(void *arg)
{
    struct joining *j = arg;
    nccl_result r = j->init_all(j->comm, j->n, j->number);

    pthread_mutex_lock(&j->lock);
    j->result = r;
    j->done = true;
    pthread_cond_signal(&j->ended);
    leave(j);
    return NULL;
}

static struct joining *joining_make(struct gpu *g)
{
    struct joining *j = calloc(1, sizeof *j);

    if (!j)
        return NULL;
    cond_init_timed(&j->ended);
    pthread_mutex_init(&j->lock, NULL);
    j->users = 1;
    j->init_all = nccl_of(g)->call.init_all;
    j->n = (int)g->n;
    for (unsigned i = 0; i < g->n; i++)
        j->number[i] = (int)g->info[i].number;
    return j;
}

/* With the lock held. */
static void wait_for(struct joining *j, double seconds)
{
    struct timespec until = clock_in((int64_t)(seconds * 1e9));

    while (!j->done && pthread_cond_timedwait(&j->ended, &j->lock, &until) != ETIMEDOUT)
        ;
}

static int not_up(struct gpu *g, struct err *e)
{
    struct str ranks = { 0 };

    for (unsigned i = 0; i < g->n; i++)
        add_rank(&ranks, g, i);
    err_set(e, ERR_DEVICE,
            "NCCL, %u devices: %s are not connected within %g s: check the links between the devices, use one device, "
            "or give more time by WEIGHBRIDGE_NCCL_TIMEOUT",
            g->n, str_text(&ranks), nccl_of(g)->limit);
    str_release(&ranks);
    return failed_all(g);
}

static int connect_all(struct gpu *g, struct err *e)
{
    struct joining *j = joining_make(g);
    nccl_result r;
    pthread_t t;
    bool done;

    if (!j)
        return err_set(e, ERR_NOMEM, "no memory for NCCL");
    pthread_mutex_lock(&j->lock);
    if (thread_start(&t, join_thread, j)) {
        leave(j);
        return err_set(e, ERR_NOMEM, "no thread for NCCL");
    }
    j->users++;
    wait_for(j, nccl_of(g)->limit);
    done = j->done;
    r = j->result;
    memcpy(nccl_of(g)->comm, j->comm, sizeof j->comm);
    if (!done || r)
        memset(nccl_of(g)->comm, 0, sizeof j->comm);
    leave(j);
    if (done)
        pthread_join(t, NULL);
    else
        pthread_detach(t);
    if (!done)
        return not_up(g, e);
    return r ? failed(g, r, e, "connecting them") : 0;
}

int nccl_join(struct gpu *g, struct err *e)
{
    if (g->n == 1 || g->joined)
        return 0;
    if (!nccl_of(g) && load(g, e))
        return -1;
    for (unsigned i = 0; i < g->n; i++)
        if (!nccl_of(g)->met[i] && cuda_event_make(g, i, false, &nccl_of(g)->met[i], e))
            return -1;
    if (connect_all(g, e))
        return -1;
    g->joined = true;
    return 0;
}

void nccl_leave(struct gpu *g)
{
    if (!nccl_of(g))
        return;
    disconnect(g, cuda_of(g)->failed);
    free(nccl_of(g));
    cuda_of(g)->nccl = NULL;
}

/* ---- exchanges ---- */

static cudaStream_t stream_of(struct gpu *g, unsigned device) { return cuda_device(g, device)->stream[GPU_IN]; }

static int start(struct gpu *g, struct err *e)
{
    nccl_result r;

    if (!g->joined)
        return err_set(e, ERR_INTERNAL, "devices exchange something before they are connected");
    r = nccl_of(g)->call.group_start();
    return r ? failed(g, r, e, "beginning an exchange") : 0;
}

/* `r`: of the calls since. The group ends in any case. */
static int end(struct gpu *g, nccl_result r, struct err *e, const char *what)
{
    nccl_result end = nccl_of(g)->call.group_end();

    return r || end ? failed(g, r ? r : end, e, what) : 0;
}

static int mark(struct gpu *g, unsigned device, struct err *e)
{
    struct nccl *n = nccl_of(g);
    cudaError_t r;

    if (cuda_use(g, device, e))
        return -1;
    if ((r = cudaEventRecord(n->met[device]->event, stream_of(g, device))))
        return cuda_failed(g, device, r, e, "recording an event");
    n->used[device] = true;
    n->pending = true;
    n->moved = clock_wall();
    return 0;
}

static int mark_all(struct gpu *g, struct err *e)
{
    for (unsigned i = 0; i < g->n; i++)
        if (mark(g, i, e))
            return -1;
    return 0;
}

int nccl_send(struct gpu *g, unsigned from, const void *src, unsigned to, void *dst, size_t bytes, struct err *e)
{
    struct nccl *n = nccl_of(g);
    nccl_result r;

    if (from == to)
        return cuda_copy_on(g, from, GPU_IN, dst, src, bytes, e);
    if (start(g, e))
        return -1;
    r = n->call.send(src, bytes, NCCL_U8, (int)to, n->comm[from], stream_of(g, from));
    if (!r)
        r = n->call.recv(dst, bytes, NCCL_U8, (int)from, n->comm[to], stream_of(g, to));
    return end(g, r, e, "sending from one to another") || mark(g, from, e) || mark(g, to, e) ? -1 : 0;
}

int nccl_broadcast(struct gpu *g, unsigned from, void *const *at, size_t bytes, struct err *e)
{
    struct nccl *n = nccl_of(g);
    nccl_result r = NCCL_OK;

    if (g->n == 1)
        return 0;
    if (start(g, e))
        return -1;
    for (unsigned i = 0; !r && i < g->n; i++)
        r = n->call.broadcast(at[i], at[i], bytes, NCCL_U8, (int)from, n->comm[i], stream_of(g, i));
    return end(g, r, e, "sending from one to all") || mark_all(g, e) ? -1 : 0;
}

/* ---- sums: values are gathered side by side, since each call has its price, and a group holds some 2000 only ---- */

static int need_room(struct gpu *g, size_t bytes, struct err *e)
{
    struct nccl *n = nccl_of(g);

    if (bytes <= n->room_bytes)
        return 0;
    n->room_bytes = 0;
    for (unsigned i = 0; i < g->n; i++) {
        if (n->room[i] && cuda_free(g, i, n->room[i], e))
            return -1;
        if (cuda_alloc(g, i, bytes, &n->room[i], e))
            return -1;
    }
    n->room_bytes = bytes;
    return 0;
}

static int spread(struct gpu *g, unsigned device, void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                  size_t bytes, size_t n, struct err *e)
{
    cudaError_t r;

    if (cuda_use(g, device, e))
        return -1;
    r = cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch, bytes, n, cudaMemcpyDeviceToDevice, stream_of(g, device));
    return r ? cuda_failed(g, device, r, e, "copying counters") : 0;
}

static int reduce_room(struct gpu *g, size_t count, enum gpu_sum how, struct err *e)
{
    struct nccl *n = nccl_of(g);
    int type = how == GPU_SUM_64 ? NCCL_U64 : NCCL_U32, op = how == GPU_SUM_64 ? NCCL_ADD : NCCL_MAX;
    nccl_result r = NCCL_OK;

    if (start(g, e))
        return -1;
    for (unsigned i = 0; !r && i < g->n; i++)
        r = n->call.all_reduce(n->room[i], n->room[i], count, type, op, n->comm[i], stream_of(g, i));
    return end(g, r, e, "adding up counters");
}

int nccl_reduce(struct gpu *g, void *const *at, size_t n, size_t pitch, enum gpu_sum how, struct err *e)
{
    size_t bytes = how == GPU_SUM_64 ? sizeof(uint64_t) : sizeof(uint32_t);

    if (g->n == 1 || !n)
        return 0;
    if (!g->joined)
        return start(g, e);
    if (need_room(g, n * bytes, e))
        return -1;
    for (unsigned i = 0; i < g->n; i++)
        if (spread(g, i, nccl_of(g)->room[i], bytes, at[i], pitch, bytes, n, e))
            return -1;
    if (reduce_room(g, n, how, e))
        return -1;
    for (unsigned i = 0; i < g->n; i++)
        if (spread(g, i, at[i], pitch, nccl_of(g)->room[i], bytes, bytes, n, e))
            return -1;
    return mark_all(g, e);
}
