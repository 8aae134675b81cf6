/* order.c - which operations come before which, by vector clocks, and whether those that touched the same bytes do.
 *
 * When an operation has run, the exact bytes that it touched are compared with those of earlier ones: two of which
 * neither comes before the other are a race, if one of them writes.  Atomic accesses don't race with each other. */
#include "state.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HOWS = 3, CHUNK = 4096 /* bytes of a block that have a mark together */, WORD = 64, FORGET_AT = 32 };

struct run { /* of bytes, by offset */
    size_t from, to;
};

struct access {
    struct run *run; /* ascending */
    size_t n;
    enum sim_how how;
    unsigned stream;
    uint64_t seq, number;
    const char *name;
};

struct history {
    struct access *access;
    size_t n, room, forget_at;
};

struct touched { /* a bit for each byte */
    uint64_t *bits[HOWS];
    unsigned char *chunk;       /* has a bit; by SIM_READ ... */
    size_t from, to;            /* chunks that may have one */
    struct block *block, *next; /* whose it is; another block with bits */
};

static struct block *touched_now; /* the first block with bits */

/* ---- clocks ---- */

static struct host { /* a thread of the program */
    uint64_t clock[STREAMS];
    bool queues; /* operations, and is not at its end */
    struct host *next;
} * hosts;
static __thread struct host *me;
static pthread_key_t at_exit;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *need(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);

    if (!p)
        abort();
    return p;
}

static void host_gone(void *h) { ((struct host *)h)->queues = false; }
static void make_key(void) { pthread_key_create(&at_exit, host_gone); }

void order_join(uint64_t *clock, const uint64_t *other)
{
    for (int i = 0; i < STREAMS; i++)
        if (other[i] > clock[i])
            clock[i] = other[i];
}

/* A thread begins with what the others have waited for so far: one of them has started it. */
uint64_t *order_host(void)
{
    if (!me) {
        me = need(1, sizeof *me);
        for (const struct host *h = hosts; h; h = h->next)
            order_join(me->clock, h->clock);
        me->next = hosts;
        hosts = me;
        pthread_once(&once, make_key);
        pthread_setspecific(at_exit, me);
    }
    return me->clock;
}

void order_join_all(const uint64_t *clock)
{
    for (struct host *h = hosts; h; h = h->next)
        order_join(h->clock, clock);
}

uint64_t *order_queues(void)
{
    uint64_t *clock = order_host();

    me->queues = true;
    return clock;
}

static void keep_least(uint64_t *least, const uint64_t *clock)
{
    for (int i = 0; i < STREAMS; i++)
        if (clock[i] < least[i])
            least[i] = clock[i];
}

/* What comes before all that runs from now on; threads that have queued nothing so far are left out, or one that only
 * opens devices would keep everything. */
static void floor_now(uint64_t *least)
{
    memset(least, 0xff, STREAMS * sizeof *least);
    for (const struct host *h = hosts; h; h = h->next)
        if (h->queues)
            keep_least(least, h->clock);
    for (const struct stream *s = queue_streams(); s; s = s->next)
        for (const struct sim_op *o = s->head; o; o = o->next) {
            uint64_t clock[STREAMS];

            memcpy(clock, o->clock, sizeof clock);
            order_join(clock, s->clock);
            keep_least(least, clock);
        }
}

/* ---- what was touched ---- */

static void access_end(struct access *a) { free(a->run); }

void order_forget(struct block *b)
{
    struct history *h = b->history;

    for (size_t i = 0; h && i < h->n; i++)
        access_end(&h->access[i]);
    if (h)
        free(h->access);
    free(h);
    b->history = NULL;
    if (b->touched) {
        for (int k = 0; k < HOWS; k++)
            munmap(b->touched->bits[k], (b->mapped / WORD + 1) * sizeof(uint64_t));
        free(b->touched->chunk);
    }
    free(b->touched);
    b->touched = NULL;
}

static void forget_old(struct history *h)
{
    uint64_t least[STREAMS];
    size_t n = 0;

    floor_now(least);
    for (size_t i = 0; i < h->n; i++)
        if (h->access[i].seq > least[h->access[i].stream])
            h->access[n++] = h->access[i];
        else
            access_end(&h->access[i]);
    h->n = n;
    h->forget_at = n < FORGET_AT / 2 ? FORGET_AT : 2 * n;
}

static bool conflict(enum sim_how a, enum sim_how b) { return (a | b) != SIM_READ && (a | b) != SIM_ATOMIC; }

/* A byte that both have, or SIZE_MAX. */
static size_t common(const struct access *a, const struct access *b)
{
    size_t i = 0, j = 0;

    while (i < a->n && j < b->n)
        if (a->run[i].to <= b->run[j].from)
            i++;
        else if (b->run[j].to <= a->run[i].from)
            j++;
        else
            return a->run[i].from > b->run[j].from ? a->run[i].from : b->run[j].from;
    return SIZE_MAX;
}

static const char *verb(enum sim_how how)
{
    return how == SIM_READ ? "reads" : how == SIM_WRITE ? "writes" : "counts in";
}

static void report_race(const struct block *b, const struct access *x, const struct access *y, size_t at)
{
    char whose[32] = "pinned memory";

    if (b->device != HOST)
        snprintf(whose, sizeof whose, "device %d", b->device);
    sim_report("RACE: operation %llu (%s) %s offset %zu of a block of %zu bytes of %s, operation %llu (%s) %s it, and "
               "nothing orders them",
               (unsigned long long)x->number, x->name, verb(x->how), at, b->bytes, whose, (unsigned long long)y->number,
               y->name, verb(y->how));
}

/* Takes over the runs. */
static void note(struct block *b, const struct sim_op *o, struct run *run, size_t n, enum sim_how how)
{
    struct access a = { run, n, how, o->stream->id, o->seq, o->number, o->name };
    struct history *h = b->history = b->history ? b->history : need(1, sizeof *h);

    for (size_t i = 0; i < h->n; i++) {
        const struct access *x = &h->access[i];

        if (x->number != a.number && x->seq > o->clock[x->stream] && conflict(x->how, how)) {
            size_t at = common(x, &a);

            if (at != SIZE_MAX)
                report_race(b, x, &a, at);
        }
    }
    if (h->n >= h->forget_at)
        forget_old(h);
    if (h->n == h->room) {
        h->room = h->room ? 2 * h->room : FORGET_AT;
        h->access = realloc(h->access, h->room * sizeof *h->access);
        if (!h->access)
            abort();
    }
    h->access[h->n++] = a;
}

static void note_range(const struct sim_op *o, const struct sim_range *r)
{
    struct block *b = memory_at(r->at);
    bool whole = r->pitch == r->bytes;
    size_t n = whole ? 1 : r->rows;
    struct run *run;

    if (!b || !r->rows || !r->bytes)
        return;
    run = need(n, sizeof *run);
    for (size_t i = 0; i < n; i++) {
        run[i].from = (uintptr_t)r->at - b->at + i * r->pitch;
        run[i].to = run[i].from + (whole ? r->rows : 1) * r->bytes;
    }
    note(b, o, run, n, r->how);
}

/* ---- kernels ---- */

static struct touched *touched_new(struct block *b)
{
    struct touched *t = need(1, sizeof *t);

    for (int k = 0; k < HOWS; k++)
        t->bits[k] = mmap(NULL, (b->mapped / WORD + 1) * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    t->chunk = need(b->mapped / CHUNK + 1, 1);
    t->from = SIZE_MAX;
    t->block = b;
    return t;
}

static void touch_chunk(struct touched *t, size_t chunk, enum sim_how how)
{
    if (t->from == SIZE_MAX) {
        t->next = touched_now;
        touched_now = t->block;
    }
    t->chunk[chunk] = (unsigned char)(t->chunk[chunk] | how);
    if (chunk < t->from)
        t->from = chunk;
    if (chunk >= t->to)
        t->to = chunk + 1;
}

void order_touched(struct block *b, size_t at, uint32_t bytes, enum sim_how how)
{
    struct touched *t = b->touched ? b->touched : (b->touched = touched_new(b));
    uint64_t *word = &t->bits[how / 2][at / WORD], bits = ((uint64_t)1 << bytes) - 1;
    unsigned shift = at % WORD;

    if (!(t->chunk[at / CHUNK] & how))
        touch_chunk(t, at / CHUNK, how);
    *word |= bits << shift;
    if (shift + bytes > WORD) { /* not aligned, and the next chunk may be another */
        word[1] |= bits >> (WORD - shift);
        touch_chunk(t, (at + bytes - 1) / CHUNK, how);
    }
}

struct runs {
    struct run *run;
    size_t n, room;
};

/* The bytes of one word, which begin at `at`. */
static void add_bits(struct runs *r, size_t at, uint64_t bits)
{
    while (bits) {
        unsigned skip = (unsigned)__builtin_ctzll(bits), n;

        at += skip;
        bits >>= skip;
        n = ~bits ? (unsigned)__builtin_ctzll(~bits) : WORD;
        if (r->n && r->run[r->n - 1].to == at) {
            r->run[r->n - 1].to += n;
        } else {
            if (r->n == r->room) {
                r->room = r->room ? 2 * r->room : 16;
                r->run = realloc(r->run, r->room * sizeof *r->run);
                if (!r->run)
                    abort();
            }
            r->run[r->n++] = (struct run){ at, at + n };
        }
        at += n;
        bits = n < WORD ? bits >> n : 0;
    }
}

/* Takes the bits away. */
static struct runs take_runs(struct touched *t, enum sim_how how)
{
    struct runs r = { 0 };

    for (size_t c = t->from; c < t->to; c++) {
        uint64_t *word = t->bits[how / 2] + c * (CHUNK / WORD);

        if (!(t->chunk[c] & how))
            continue;
        for (size_t i = 0; i < CHUNK / WORD; i++)
            add_bits(&r, c * CHUNK + i * WORD, word[i]);
        memset(word, 0, CHUNK / WORD * sizeof *word);
    }
    return r;
}

static void note_touched(const struct sim_op *o, struct block *b, bool count)
{
    struct touched *t = b->touched;

    for (int k = 0; k < HOWS; k++) {
        enum sim_how how = (enum sim_how)(1 << k);
        struct runs r = take_runs(t, how);

        if (r.n && count)
            note(b, o, r.run, r.n, how);
        else
            free(r.run);
    }
    memset(t->chunk + t->from, 0, t->to - t->from);
    t->from = SIZE_MAX;
    t->to = 0;
}

void order_ran(struct sim_op *o)
{
    bool count = !sim_broken(o->stream->device);

    for (size_t i = 0; i < o->range_n && count; i++)
        note_range(o, &o->range[i]);
    for (struct block *b = touched_now; b; b = b->touched->next)
        note_touched(o, b, count);
    touched_now = NULL;
}
