#include "pipeline/ring.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/arena.h"
#include "base/clock.h"
#include "base/poison.h"

enum { HUGE_PAGE = 2 << 20 };

/* ---- memory ---- */

/* Begins at a huge page, so that the kernel can use them: first touch of small pages takes four times as long. */
static unsigned char *map(size_t bytes)
{
    unsigned char *at = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t before;

    if (at == MAP_FAILED)
        return NULL;
    before = -(uintptr_t)at % HUGE_PAGE;
    if (before)
        munmap(at, before);
    if (HUGE_PAGE - before)
        munmap(at + before + bytes, HUGE_PAGE - before);
    madvise(at + before, bytes, MADV_HUGEPAGE);
    return at + before;
}

static void share_out(struct ring *r)
{
    const struct plan *p = r->plan;
    unsigned char *at = r->memory;

    r->panels = at; /* first: it gains most from huge pages */
    at += p->panel_bytes;
    r->streams = at;
    at += p->stream_slots * p->stream_bytes;
    for (unsigned i = 0; i < p->tile_slots; i++, at += plan_tile_room(p))
        r->slot[i].buf = at;
    poison(r->memory, p->buffers, 1);
    r->merge = at;
    poison(r->merge, p->workers * p->merge_bytes, 0);
}

static uint64_t next_in_pool(const struct ring *r, enum slab_pool pool, uint64_t from)
{
    while (from < r->plan->slabs_n && r->plan->slab[from].pool != pool)
        from++;
    return from;
}

int ring_init(struct ring *r, const struct plan *p, struct err *e)
{
    *r = (struct ring){ .plan = p };
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    r->memory = map(p->buffers);
    if (!r->memory) {
        *r = (struct ring){ 0 };
        return err_set(e, ERR_NOMEM, "no memory for buffers of %llu bytes: use a smaller --memory",
                       (unsigned long long)p->buffers);
    }
    r->slot = calloc(p->tile_slots, sizeof *r->slot);
    r->stream_used = calloc(p->stream_slots + 1, sizeof *r->stream_used);
    r->slab = calloc(p->slabs_n + 1, sizeof *r->slab);
    if (!r->slot || !r->stream_used || !r->slab) {
        ring_release(r);
        return err_set(e, ERR_NOMEM, "no memory for the state of %llu slabs", (unsigned long long)p->slabs_n);
    }
    share_out(r);
    for (enum slab_pool pool = 0; pool < SLAB_POOLS; pool++)
        r->next_slab[pool] = next_in_pool(r, pool, 0);
    r->oldest_panel = r->next_slab[SLAB_PANEL];
    return 0;
}

void ring_release(struct ring *r)
{
    if (!r->plan)
        return;
    poison(r->memory, r->plan->buffers, 0);
    munmap(r->memory, r->plan->buffers);
    free(r->slot);
    free(r->stream_used);
    free(r->slab);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    *r = (struct ring){ 0 };
}

unsigned char *ring_scratch(struct ring *r, size_t *bytes)
{
    poison(r->memory, r->plan->buffers, 0);
    *bytes = r->plan->buffers;
    return r->memory;
}

/* ---- room ---- */

static bool panel_any(const struct ring *r)
{
    return r->oldest_panel < r->plan->slabs_n && r->slab[r->oldest_panel].buf;
}

/* Room for `bytes` in the panel area behind `*end`, or at its front; moves *end behind it. `any`: something stands
 * there. */
static unsigned char *panel_place(const struct ring *r, uint64_t bytes, bool any, uint64_t *end)
{
    uint64_t all = r->plan->panel_bytes, begin = any ? (uint64_t)(r->slab[r->oldest_panel].buf - r->panels) : 0;
    bool wrapped = any && *end <= begin; /* equal: full */
    uint64_t at = *end;

    if (wrapped ? begin - at < bytes : all - at < bytes) {
        if (wrapped || begin < bytes)
            return NULL;
        at = 0;
    }
    *end = at + bytes;
    return r->panels + at;
}

static struct tile_slot *slot_free(struct ring *r)
{
    for (unsigned i = 0; i < r->plan->tile_slots; i++)
        if (r->slot[i].state == SLOT_FREE)
            return &r->slot[i];
    return NULL;
}

static unsigned char *stream_take(struct ring *r)
{
    for (unsigned i = 0; i < r->plan->stream_slots; i++)
        if (!r->stream_used[i]) {
            r->stream_used[i] = true;
            return r->streams + i * r->plan->stream_bytes;
        }
    return NULL;
}

static void stream_give(struct ring *r, const unsigned char *buf)
{
    r->stream_used[(size_t)(buf - r->streams) / r->plan->stream_bytes] = false;
}

static void slab_open(struct ring *r, uint64_t s, unsigned char *buf)
{
    r->slab[s] = (struct slab_state){ .buf = buf, .left = r->plan->slab[s].jobs };
    poison(buf, r->plan->slab[s].buf_bytes, 0);
}

/* Takes back what slabs_open took for the slabs from `first` on. */
static void slabs_undo(struct ring *r, uint64_t first, uint64_t end)
{
    for (uint64_t s = first; s < end; s++) {
        poison(r->slab[s].buf, r->plan->slab[s].buf_bytes, 1);
        if (r->plan->slab[s].pool == SLAB_STREAM)
            stream_give(r, r->slab[s].buf);
        r->slab[s].buf = NULL;
    }
}

/* All slabs that a tile opens, or none. */
static bool slabs_open(struct ring *r, const struct tile_plan *t)
{
    uint64_t next = r->opened, end = panel_any(r) ? r->panel_end : 0;

    for (uint64_t j = t->job; j < t->job + t->jobs; j++) {
        const struct slab_plan *s = &r->plan->slab[next];
        unsigned char *buf;

        if (r->plan->job[j].slab != next)
            continue; /* an earlier tile has opened it */
        buf = s->pool == SLAB_STREAM ? stream_take(r) : panel_place(r, s->buf_bytes, panel_any(r), &end);
        if (!buf) {
            slabs_undo(r, r->opened, next);
            return false;
        }
        slab_open(r, next++, buf);
    }
    r->opened = next;
    r->panel_end = end;
    return true;
}

/* ---- stages ---- */

static void wait_begin(struct ring *r, enum stage s)
{
    r->waits[s].waiting++;
    r->waits[s].seconds -= clock_wall();
}

static void wait_change(struct ring *r, enum stage s)
{
    wait_begin(r, s);
    pthread_cond_wait(&r->changed, &r->lock);
    r->waits[s].waiting--;
    r->waits[s].seconds += clock_wall();
}

void ring_waited(struct ring *r, double waited[STAGES])
{
    double now;

    pthread_mutex_lock(&r->lock);
    now = clock_wall();
    for (enum stage s = 0; s < STAGES; s++)
        waited[s] = r->waits[s].seconds + r->waits[s].waiting * now;
    pthread_mutex_unlock(&r->lock);
}

static void unlock_changed(struct ring *r)
{
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static struct tile_slot *tile_take(struct ring *r)
{
    struct tile_slot *t = slot_free(r);

    if (!t || !slabs_open(r, &r->plan->tile[r->next_tile]))
        return NULL;
    t->tile = r->next_tile++;
    t->state = SLOT_READING;
    t->src = t->buf;
    poison(t->buf, plan_tile_room(r->plan), 0);
    return t;
}

struct tile_slot *ring_to_read(struct ring *r, bool wait)
{
    struct tile_slot *t = NULL;

    pthread_mutex_lock(&r->lock);
    while (!r->stop && r->next_tile < r->plan->tiles_n && !(t = tile_take(r)) && wait)
        wait_change(r, STAGE_READ);
    if (!t && wait)
        wait_begin(r, STAGE_READ);
    pthread_mutex_unlock(&r->lock);
    return t;
}

void ring_loaded(struct ring *r, struct tile_slot *t)
{
    pthread_mutex_lock(&r->lock);
    t->state = SLOT_LOADED;
    unlock_changed(r);
}

/* The oldest loaded tile: the writer waits for the oldest slab. */
static struct tile_slot *oldest_loaded(struct ring *r, bool *more)
{
    struct tile_slot *oldest = NULL;

    *more = r->next_tile < r->plan->tiles_n;
    for (unsigned i = 0; i < r->plan->tile_slots; i++) {
        struct tile_slot *t = &r->slot[i];

        *more |= t->state == SLOT_READING;
        if (t->state == SLOT_LOADED && (!oldest || t->tile < oldest->tile))
            oldest = t;
    }
    return oldest;
}

struct tile_slot *ring_to_transform(struct ring *r)
{
    struct tile_slot *t = NULL;
    bool more = true;

    pthread_mutex_lock(&r->lock);
    while (!r->stop && !(t = oldest_loaded(r, &more)) && more)
        wait_change(r, STAGE_TRANSFORM);
    if (r->stop)
        t = NULL;
    if (t)
        t->state = SLOT_BUSY;
    else
        wait_begin(r, STAGE_TRANSFORM);
    pthread_mutex_unlock(&r->lock);
    return t;
}

void ring_transformed(struct ring *r, struct tile_slot *t)
{
    const struct tile_plan *tile = &r->plan->tile[t->tile];

    pthread_mutex_lock(&r->lock);
    for (uint64_t j = tile->job; j < tile->job + tile->jobs; j++)
        r->slab[r->plan->job[j].slab].left--;
    poison(t->buf, plan_tile_room(r->plan), 1);
    t->state = SLOT_FREE;
    unlock_changed(r);
}

/* The older one of the two that are next in their pools, if it is filled; else the other. */
static bool slab_take(struct ring *r, uint64_t *slab)
{
    uint64_t best = UINT64_MAX;
    enum slab_pool from = SLAB_STREAM;

    for (enum slab_pool pool = 0; pool < SLAB_POOLS; pool++) {
        uint64_t s = r->next_slab[pool];

        if (s < r->opened && !r->slab[s].left && s < best) {
            best = s;
            from = pool;
        }
    }
    if (best == UINT64_MAX)
        return false;
    r->next_slab[from] = next_in_pool(r, from, best + 1);
    *slab = best;
    return true;
}

static bool slabs_left(const struct ring *r)
{
    return r->next_slab[SLAB_STREAM] < r->plan->slabs_n || r->next_slab[SLAB_PANEL] < r->plan->slabs_n;
}

bool ring_to_write(struct ring *r, bool wait, uint64_t *slab)
{
    bool taken = false;

    pthread_mutex_lock(&r->lock);
    while (!r->stop && slabs_left(r) && !(taken = slab_take(r, slab)) && wait)
        wait_change(r, STAGE_WRITE);
    pthread_mutex_unlock(&r->lock);
    return taken;
}

/* Panels give their room back in the order of opening. */
static void panels_give(struct ring *r)
{
    while (panel_any(r) && r->slab[r->oldest_panel].written) {
        r->slab[r->oldest_panel].buf = NULL;
        r->oldest_panel = next_in_pool(r, SLAB_PANEL, r->oldest_panel + 1);
    }
}

void ring_written(struct ring *r, uint64_t slab)
{
    struct slab_state *s = &r->slab[slab];

    pthread_mutex_lock(&r->lock);
    s->written = true;
    poison(s->buf, r->plan->slab[slab].buf_bytes, 1);
    if (r->plan->slab[slab].pool == SLAB_STREAM) {
        stream_give(r, s->buf);
        s->buf = NULL;
    } else {
        panels_give(r);
    }
    unlock_changed(r);
}

void ring_fail(struct ring *r, const struct err *e)
{
    pthread_mutex_lock(&r->lock);
    if (!r->stop)
        r->err = *e;
    r->stop = true;
    unlock_changed(r);
}

static bool in_use(const struct ring *r)
{
    for (unsigned i = 0; i < r->plan->tile_slots; i++)
        if (r->slot[i].state == SLOT_BUSY || (r->slot[i].state == SLOT_LOADED && !r->stop))
            return true;
    return false;
}

void ring_settle(struct ring *r)
{
    pthread_mutex_lock(&r->lock);
    while (in_use(r))
        pthread_cond_wait(&r->changed, &r->lock); /* a reader that has ended waits already */
    pthread_mutex_unlock(&r->lock);
}

bool ring_stopped(struct ring *r)
{
    bool stop;

    pthread_mutex_lock(&r->lock);
    stop = r->stop;
    pthread_mutex_unlock(&r->lock);
    return stop;
}
