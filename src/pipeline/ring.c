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

static unsigned char *take(unsigned char **at, size_t bytes)
{
    *at += bytes;
    return *at - bytes;
}

static void share_out(struct ring *r)
{
    const struct plan *p = r->plan;
    unsigned char *at = r->memory;

    if (!p->devices)
        r->area[0].at = take(&at, p->panel_bytes); /* first: it gains most from huge pages */
    r->streams = take(&at, p->stream_slots * p->stream_bytes);
    for (unsigned i = 0; i < p->tile_slots; i++)
        r->slot[i].buf = take(&at, plan_tile_room(p));
    poison(r->memory, (size_t)(at - r->memory), 1);
    r->notes = take(&at, (size_t)p->devices * p->lanes * PLAN_NOTES);
    r->spare = take(&at, p->devices ? p->tile_bytes : 0);
    r->edges = take(&at, p->edges_bytes);
    r->merge = at;
}

static uint64_t next_in_pool(const struct ring *r, enum slab_pool pool, uint64_t from)
{
    while (from < r->plan->slabs_n && r->plan->slab[from].pool != pool)
        from++;
    return from;
}

static void orders_begin(struct ring *r)
{
    for (enum slab_pool pool = 0; pool < SLAB_POOLS; pool++)
        r->next_slab[pool] = next_in_pool(r, pool, 0);
    r->next_drain = r->next_slab[SLAB_DRAIN];
    if (r->plan->devices) /* panels are not the writer's */
        r->next_slab[SLAB_PANEL] = r->plan->slabs_n;
    for (unsigned i = 0; i < r->areas; i++)
        r->area[i].lowest = r->plan->slabs_n;
}

int ring_init(struct ring *r, const struct plan *p, struct err *e)
{
    *r = (struct ring){ .plan = p, .areas = p->devices ? p->devices : 1 };
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
    r->area = calloc(r->areas, sizeof *r->area);
    if (!r->slot || !r->stream_used || !r->slab || !r->area) {
        ring_release(r);
        return err_set(e, ERR_NOMEM, "no memory for the state of %llu slabs", (unsigned long long)p->slabs_n);
    }
    share_out(r);
    orders_begin(r);
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
    free(r->area);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    *r = (struct ring){ 0 };
}

unsigned char *ring_scratch(struct ring *r, size_t *bytes)
{
    poison(r->memory, r->plan->buffers, 0);
    *bytes = (size_t)(r->notes - r->memory);
    return r->memory;
}

/* ---- room ---- */

/* The lowest room for a panel in an area; NULL: there is none. */
static unsigned char *panel_take(struct ring *r, uint64_t slab, struct panel_area *a)
{
    uint64_t bytes = r->plan->slab[slab].buf_bytes, at = 0, *next = &a->lowest;

    for (; *next < r->plan->slabs_n; next = &r->slab[*next].above) {
        uint64_t begin = (uint64_t)(r->slab[*next].buf - a->at);

        if (begin - at >= bytes)
            break;
        at = begin + r->plan->slab[*next].buf_bytes;
    }
    if (r->plan->panel_bytes - at < bytes)
        return NULL;
    r->slab[slab].above = *next;
    *next = slab;
    a->used += bytes;
    return a->at + at;
}

static void panel_give(struct ring *r, uint64_t slab)
{
    struct panel_area *a = &r->area[r->slab[slab].area];
    uint64_t *next = &a->lowest;

    while (*next != slab)
        next = &r->slab[*next].above;
    *next = r->slab[slab].above;
    a->used -= r->plan->slab[slab].buf_bytes;
    r->slab[slab].buf = NULL;
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

static void stream_give(struct ring *r, uint64_t slab)
{
    r->stream_used[(size_t)(r->slab[slab].buf - r->streams) / r->plan->stream_bytes] = false;
    r->slab[slab].buf = NULL;
}

static bool on_device(const struct ring *r, uint64_t s)
{
    return r->plan->devices && r->plan->slab[s].pool == SLAB_PANEL;
}

static void guard(const struct ring *r, uint64_t s, int on)
{
    if (!on_device(r, s))
        poison(r->slab[s].buf, r->plan->slab[s].buf_bytes, on);
}

static void slab_open(struct ring *r, uint64_t s, unsigned char *buf, unsigned area)
{
    const struct slab_plan *p = &r->plan->slab[s];

    r->slab[s].buf = buf;
    r->slab[s].left = p->jobs;
    r->slab[s].drains = p->drains;
    r->slab[s].area = area;
    guard(r, s, 0);
}

static void slab_close(struct ring *r, uint64_t s)
{
    guard(r, s, 1);
    (r->plan->slab[s].pool == SLAB_PANEL ? panel_give : stream_give)(r, s);
}

/* All slabs that a tile opens, or none; panels in this area. */
static bool slabs_open_in(struct ring *r, const struct tile_plan *t, unsigned area)
{
    uint64_t next = r->opened;

    for (uint64_t j = t->job; j < t->job + t->jobs; j++) {
        unsigned char *buf;

        if (r->plan->job[j].slab != next)
            continue; /* an earlier tile has opened it */
        buf = r->plan->slab[next].pool == SLAB_STREAM ? stream_take(r) : panel_take(r, next, &r->area[area]);
        if (!buf) {
            while (next > r->opened)
                slab_close(r, --next);
            return false;
        }
        slab_open(r, next++, buf, area);
    }
    r->opened = next;
    return true;
}

/* In the emptiest area, or any other. */
static bool slabs_open(struct ring *r, const struct tile_plan *t)
{
    unsigned first = 0;

    for (unsigned i = 1; i < r->areas; i++)
        if (r->area[i].used < r->area[first].used)
            first = i;
    for (unsigned i = 0; i < r->areas; i++)
        if (slabs_open_in(r, t, (first + i) % r->areas))
            return true;
    return false;
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

/* ---- devices ---- */

/* Which holds a panel of the tile's. */
static int device_of(const struct ring *r, uint64_t tile)
{
    const struct tile_plan *t = &r->plan->tile[tile];

    for (uint64_t j = t->job; j < t->job + t->jobs; j++)
        if (r->plan->slab[r->plan->job[j].slab].pool == SLAB_PANEL)
            return (int)r->slab[r->plan->job[j].slab].area;
    return ANY_DEVICE;
}

static bool drain_take(struct ring *r, const struct device_room *room, struct device_work *w)
{
    uint64_t s = r->next_drain;
    const struct slab_state *panel = s < r->plan->slabs_n ? &r->slab[r->plan->slab[s].panel] : NULL;
    unsigned char *buf;

    if (!panel || !panel->buf || panel->left || !room->drain(room->user, (int)panel->area) || !(buf = stream_take(r)))
        return false;
    slab_open(r, s, buf, panel->area);
    r->next_drain++;
    *w = (struct device_work){ .device = (int)panel->area, .drain = s };
    return true;
}

static bool tile_to_device(struct ring *r, const struct device_room *room, struct device_work *w)
{
    *w = (struct device_work){ .tile = NULL };
    for (unsigned i = 0; i < r->plan->tile_slots; i++) {
        struct tile_slot *t = &r->slot[i];
        int device = t->state == SLOT_LOADED ? device_of(r, t->tile) : 0;

        if (t->state == SLOT_LOADED && (!w->tile || t->tile < w->tile->tile) &&
            room->tile(room->user, t->tile, device)) {
            w->tile = t;
            w->device = device;
        }
    }
    if (w->tile)
        w->tile->state = SLOT_BUSY;
    return w->tile;
}

static bool work_left(const struct ring *r)
{
    bool more = r->next_tile < r->plan->tiles_n || r->next_drain < r->plan->slabs_n;

    for (unsigned i = 0; i < r->plan->tile_slots; i++)
        more |= r->slot[i].state == SLOT_READING || r->slot[i].state == SLOT_LOADED;
    return more;
}

bool ring_to_device(struct ring *r, bool wait, const struct device_room *room, struct device_work *w)
{
    bool taken = false;

    pthread_mutex_lock(&r->lock);
    while (!r->stop && !(taken = drain_take(r, room, w) || tile_to_device(r, room, w)) && wait && work_left(r))
        wait_change(r, STAGE_TRANSFORM);
    if (!taken && wait)
        wait_begin(r, STAGE_TRANSFORM);
    pthread_mutex_unlock(&r->lock);
    return taken;
}

void ring_drained(struct ring *r, uint64_t slab)
{
    uint64_t panel = r->plan->slab[slab].panel;

    pthread_mutex_lock(&r->lock);
    r->slab[slab].left = 0;
    if (!--r->slab[panel].drains)
        slab_close(r, panel);
    unlock_changed(r);
}

/* ---- the writer ---- */

/* A drain is as old as its panel. */
static uint64_t age(const struct ring *r, uint64_t s)
{
    return r->plan->slab[s].pool == SLAB_DRAIN ? r->plan->slab[s].panel : s;
}

/* The oldest one of those that are next in their pools and filled. */
static bool slab_take(struct ring *r, uint64_t *slab)
{
    uint64_t best = UINT64_MAX;
    enum slab_pool from = SLAB_STREAM;

    for (enum slab_pool pool = 0; pool < SLAB_POOLS; pool++) {
        uint64_t s = r->next_slab[pool];

        if (s < r->plan->slabs_n && r->slab[s].buf && !r->slab[s].left &&
            (best == UINT64_MAX || age(r, s) < age(r, best))) {
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
    for (enum slab_pool pool = 0; pool < SLAB_POOLS; pool++)
        if (r->next_slab[pool] < r->plan->slabs_n)
            return true;
    return false;
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

void ring_written(struct ring *r, uint64_t slab)
{
    pthread_mutex_lock(&r->lock);
    slab_close(r, slab);
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
