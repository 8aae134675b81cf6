/* plan.c - three steps: which items share a source tensor; how large the buffers may be;
 * and the cut of each group of items into panels of rows and those into tiles.
 *
 * An item that may be cut anywhere counts as one long row; a tile of it is a piece
 * of that row.  A transposed item is cut into whole rows, and only where a single
 * row is longer than a tile into pieces of a row.  So one loop cuts both, and
 * items of both kinds that share a source. */
#include "pipeline/plan.h"
#include <stdlib.h>
#include <string.h>
#include "base/least.h"
#include "emit/merger.h"
#include "io/io.h"
#include "pipeline/edges.h"
#include "transform/launch_merge.h"

enum {
    TILE_BYTES_MAX = 2 << 20, /* reads of 1-4 MiB are the quickest that a disk gives; larger ones touch more memory */
    TILE_BYTES_DEVICE = 4 << 20, /* the same of devices, which gain from fewer and larger turns */
    TILE_BYTES_MIN = 32 << 10,   /* PIECE elements of 8 bytes */
    READ_AHEAD = 6,              /* tiles in flight or waiting, besides those in work */
    STREAM_SLOTS = 4,
    STREAM_SLOTS_MORE = 8,   /* where memory is left over: small slabs hold one as long as large ones do */
    LANES = 3,               /* of a device: one tile comes in, one is worked on, one goes out */
    PANEL_USEFUL = 64 << 20, /* beside the largest panel, unless its neighbours are larger */
    PIECE = LAYOUT_ALIGN,    /* elements: a multiple of it is a multiple of LAYOUT_ALIGN bytes, for any dtype */
    LINE = 64,               /* bytes: two threads should not write to one cache line */
    BAND = 32,               /* rows: as many fp16 numbers fill a line */
    RUN_LEAST = 8 << 10,     /* of a row panel in whole blocks: below it, what is kept costs more than it gains */
    RUN_USEFUL = 32 << 10,   /* a disk takes runs of this length nearly as quickly as longer ones */
    RUN_LONG = 64 << 10,     /* where there is memory enough */
};

/* No tensor is larger than 4 PiB; so sums of a few sizes stay within 64 bits. */
#define BYTES_MAX (1ull << 52)

struct use { /* of a source tensor by an item */
    unsigned item;
    struct recipe_plain plain;
    unsigned dst;   /* bytes of a result element */
    bool panel;     /* its result collects all rows: TRANSFORM's CUT_ROWS */
    bool packed;    /* its result stands in a packed file */
    uint64_t slab;  /* that is being filled: its row panel */
    uint64_t edges; /* as struct slab_plan has it */
};

struct group { /* the items of one source tensor, or of the same rows of it; or one item that has parts */
    struct use *use;
    size_t uses;
    const struct tensor *source;
    const int32_t *gather; /* which rows; NULL: all */
    uint64_t rows, cols;
    unsigned src;                   /* bytes of a source element */
    unsigned streams, panels;       /* uses of either kind */
    unsigned stream_dst, panel_dst; /* bytes of their largest element; 1 when there is none */
    bool edged;                     /* its row panels are written in whole blocks */
    /* Of the first use that is waited for: */
    const char *file;
    uint64_t off;
};

struct demand {          /* of all groups */
    uint64_t tile_least; /* bytes that a tile needs at least */
    unsigned streams;    /* at most of a tile */
    bool panels;
    uint64_t panel_all; /* bytes of all whole tensors */
    const struct ckpt_file *adapter;
    uint64_t merge_rank;       /* of the adapter at most */
    size_t scratch;            /* bytes of a job on a device, at most, merges aside */
    uint64_t factors;          /* of the adapter, that are used */
    const struct group *group; /* all of them */
    size_t groups, items;
};

static uint64_t round_up(uint64_t v, uint64_t to) { return (v + to - 1) / to * to; }
static uint64_t round_down(uint64_t v, uint64_t to) { return v / to * to; }

size_t plan_tile_room(const struct plan *p) { return p->tile_bytes + 2 * IO_ALIGN; }

/* ---- what is used by whom ---- */

static int does_not_fit(const struct placed *item, const struct tensor *t, struct err *e)
{
    return err_set(e, ERR_INTERNAL, "%s: its place in the layout does not fit its source %s", item->name, t->name);
}

static int parts_check(const struct placed *item, const struct recipe_plain *plain, struct err *e)
{
    uint64_t bytes, units = recipe_units(plain);

    if (__builtin_mul_overflow(plain->rows * plain->cols, plain->dst, &bytes) || bytes != item->bytes ||
        item->off % LAYOUT_ALIGN || bytes > BYTES_MAX)
        return does_not_fit(item, plain->source, e);
    for (unsigned i = 0; i < plain->parts; i++) {
        struct recipe_span s = recipe_span(plain, i, 0, units);

        if (s.off || s.runs * s.run_bytes != plain->part[i].tensor->bytes)
            return does_not_fit(item, plain->part[i].tensor, e);
    }
    return 0;
}

static int use_check(const struct layout *l, const struct placed *item, const struct use *u, struct err *e)
{
    const struct recipe_plain *plain = &u->plain;
    const struct tensor *t = plain->source;
    uint64_t rows = plain->gather ? t->shape[0] : plain->rows, elements, bytes;

    if (plain->rows > rows || __builtin_mul_overflow(rows, plain->cols, &elements) || elements != t->elements ||
        __builtin_mul_overflow(elements, dtype_bytes(plain->transform->src), &bytes) || bytes != t->bytes ||
        __builtin_mul_overflow(plain->rows * plain->cols, u->dst, &bytes) || bytes != item->bytes ||
        (item->off % LAYOUT_ALIGN && !l->file[item->file].packed) || bytes > BYTES_MAX)
        return does_not_fit(item, t, e);
    return 0;
}

static int use_order(const void *a, const void *b)
{
    const struct use *x = a, *y = b;
    const struct tensor *s = x->plain.source, *t = y->plain.source;

    if (s->file != t->file)
        return s->file < t->file ? -1 : 1;
    if (s->off != t->off)
        return s->off < t->off ? -1 : 1;
    if (!x->plain.gather != !y->plain.gather)
        return !x->plain.gather ? -1 : 1;
    if (!x->plain.parts != !y->plain.parts)
        return !x->plain.parts ? -1 : 1;
    return x->item < y->item ? -1 : 1;
}

static struct use *uses_collect(const struct layout *l, size_t *uses, struct err *e)
{
    struct use *use = xmalloc(l->items_n * sizeof *use);
    size_t n = 0;

    for (size_t i = 0; i < l->items_n; i++) {
        struct use *u = &use[n];

        if (l->item[i].done)
            continue;
        n++;

        *u = (struct use){ .item = (unsigned)i };
        if (recipe_plain(l->item[i].recipe, &u->plain, e))
            goto fail;
        u->dst = u->plain.dst;
        u->panel = u->plain.transform->cut == CUT_ROWS;
        u->packed = l->file[l->item[i].file].packed;
        if (u->plain.parts ? parts_check(&l->item[i], &u->plain, e) : use_check(l, &l->item[i], u, e))
            goto fail;
    }
    qsort(use, n, sizeof *use, use_order);
    *uses = n;
    return use;
fail:
    free(use);
    return NULL;
}

static void group_add(struct group *g, const struct use *u)
{
    g->uses++;
    if (u->panel || u->plain.gather || u->plain.merge || u->plain.parts) {
        g->rows = u->plain.rows;
        g->cols = u->plain.cols;
    }
    if (u->panel) {
        g->panels++;
        g->panel_dst = u->dst > g->panel_dst ? u->dst : g->panel_dst;
    } else {
        g->streams++;
        g->stream_dst = u->dst > g->stream_dst ? u->dst : g->stream_dst;
    }
}

static int output_order(const char *file, uint64_t off, const char *file2, uint64_t off2)
{
    int names = strcmp(file, file2);

    return names ? names : off < off2 ? -1 : off > off2;
}

static int group_order(const void *a, const void *b)
{
    const struct group *x = a, *y = b;

    if (x->source->file != y->source->file)
        return x->source->file < y->source->file ? -1 : 1;
    return output_order(x->file, x->off, y->file, y->off);
}

/* Real checkpoints have their tensors in the order of names: layer 10 behind layer 1. */
static void groups_sort(struct group *group, size_t n, const struct layout *l)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < group[i].uses; k++) {
            const struct placed *it = &l->item[group[i].use[k].item];
            const char *name = l->file[it->file].name;

            if (k && output_order(group[i].file, group[i].off, name, it->off) <= 0)
                continue;
            group[i].file = name;
            group[i].off = it->off;
        }
    qsort(group, n, sizeof *group, group_order);
}

/* Returns how many groups; at most as many as items. */
static size_t groups_make(struct group *group, struct use *use, size_t uses)
{
    size_t n = 0;

    for (size_t i = 0; i < uses; i++) {
        const struct tensor *t = use[i].plain.source;

        if (!n || group[n - 1].source != t || group[n - 1].gather != use[i].plain.gather || use[i].plain.parts)
            group[n++] = (struct group){ .use = &use[i],
                                         .source = t,
                                         .gather = use[i].plain.gather,
                                         .rows = 1,
                                         .cols = t->elements,
                                         .src = dtype_bytes(t->dtype),
                                         .stream_dst = 1,
                                         .panel_dst = 1 };
        group_add(&group[n - 1], &use[i]);
    }
    return n;
}

/* ---- sizes of buffers ---- */

/* From a row of the result to the next, in the buffer of a row panel. */
static uint64_t panel_pitch(uint64_t rows, unsigned dst)
{
    return rows * dst < LINE ? rows * dst : round_up(rows * dst, LINE);
}

static uint64_t panel_room(const struct group *g, uint64_t rows, unsigned dst)
{
    uint64_t pitch = rows == g->rows ? rows * dst : panel_pitch(rows, dst);

    return round_up(g->cols * pitch, LAYOUT_ALIGN);
}

static uint64_t whole_room(const struct group *g) { return g->panels * panel_room(g, g->rows, g->panel_dst); }

static bool fits_whole(const struct group *g, uint64_t panel_bytes) { return whole_room(g) <= panel_bytes; }

static void demand_merge(struct demand *d, const struct group *g)
{
    for (size_t i = 0; i < g->uses; i++)
        if (g->use[i].plain.merge) {
            d->adapter = g->use[i].plain.merge->file;
            d->factors += plan_factors(&g->use[i].plain);
            d->merge_rank = most(d->merge_rank, g->use[i].plain.merge->rank);
        }
}

/* As launch_scratch has it, whatever the job. */
static size_t scratch_of(const struct recipe_plain *plain)
{
    return plain->parts ? plain->pack.in * sizeof(uint32_t) : 0;
}

static struct demand demand_of(const struct group *group, size_t groups, size_t items)
{
    struct demand d = { .group = group, .groups = groups, .items = items };

    for (size_t i = 0; i < groups; i++) {
        const struct group *g = &group[i];

        if (g->use->plain.parts)
            d.tile_least = most(d.tile_least, most(recipe_parts_bytes(&g->use->plain, 1), g->streams * g->stream_dst));
        d.streams = g->streams > d.streams ? g->streams : d.streams;
        d.panels |= g->panels > 0;
        d.scratch = most(d.scratch, scratch_of(&g->use->plain));
        demand_merge(&d, g);
        if (__builtin_add_overflow(d.panel_all, whole_room(g), &d.panel_all))
            d.panel_all = UINT64_MAX;
    }
    return d;
}

static uint64_t lanes_all(const struct plan *p) { return (uint64_t)p->devices * p->lanes; }

/* Of the host, its panel area aside. */
static uint64_t fixed_bytes(const struct plan *p)
{
    uint64_t notes = lanes_all(p) * PLAN_NOTES + (p->devices ? p->tile_bytes : 0); /* and a spare tile */

    return (uint64_t)p->tile_slots * plan_tile_room(p) + (uint64_t)p->stream_slots * p->stream_bytes + p->edges_bytes +
           (uint64_t)p->workers * p->merge_bytes + notes;
}

/* Of a device, its panel area aside: lanes, a tile that is passed on to another device, counters of all items. */
static uint64_t fixed_device(const struct plan *p, const struct demand *d)
{
    uint64_t lane = p->lane_tiles + p->lane_results + p->lane_scratch + PLAN_NOTES;

    return p->lanes * lane + p->factor_bytes + p->lane_tiles +
           round_up(d->items * sizeof(struct counters), LAYOUT_ALIGN);
}

uint64_t plan_factors(const struct recipe_plain *p)
{
    return plan_device_aligned(p->merge->a->bytes) + plan_device_aligned(p->merge->b->bytes) +
           (p->gather ? plan_device_aligned(p->rows * sizeof *p->gather) : 0);
}

size_t plan_merge_room(uint64_t rows, uint64_t cols, uint64_t rank)
{
    struct job j = { .rows = (size_t)rows, .cols = (size_t)cols };

    return (size_t)plan_device_aligned(launch_merge_room(&j, (size_t)rank));
}

/* What the largest tile of a group needs for a merge. */
static size_t merge_scratch(const struct plan *p, const struct group *g)
{
    uint64_t elements = p->tile_bytes / g->src, cols = least(g->cols, elements), rows = least(g->rows, elements / cols);
    size_t most_room = 0;

    for (size_t i = 0; i < g->uses; i++)
        if (g->use[i].plain.merge)
            most_room += plan_merge_room(rows, cols, g->use[i].plain.merge->rank);
    return most_room;
}

static void lane_size(struct plan *p, const struct demand *d)
{
    size_t scratch = d->scratch;

    p->stream_bytes = p->tile_bytes;
    if (!p->devices)
        return;
    p->lane_tiles = p->tile_bytes;
    p->lane_results = (d->streams ? d->streams : 1) * p->stream_bytes;
    for (size_t i = 0; i < d->groups && p->factor_bytes; i++)
        if (d->group[i].rows && d->group[i].cols)
            scratch = most(scratch, merge_scratch(p, &d->group[i]));
    p->lane_scratch = round_up(scratch + 1, LAYOUT_ALIGN);
}

/* LAYOUT_ALIGN is a power of two; so is this: the fewest rows whose results end at a multiple of it, in every stream
 * slab. */
static uint64_t rows_aligned(const struct group *g)
{
    uint64_t q = 1;

    for (size_t i = 0; i < g->uses; i++)
        while (!g->use[i].panel && q * (g->cols * g->use[i].dst % LAYOUT_ALIGN) % LAYOUT_ALIGN)
            q *= 2;
    return q;
}

/* ---- row panels in whole blocks ---- */

/* For all results that collect rows. */
static uint64_t edges_of(const struct group *g)
{
    uint64_t room = 0;

    for (size_t i = 0; i < g->uses; i++)
        if (g->use[i].panel)
            room += edges_room(g->rows * g->use[i].dst, g->cols);
    return room;
}

/* The fewest rows whose runs are whole blocks, and whose stream slabs end at one. */
static uint64_t edged_step(const struct group *g)
{
    uint64_t step = rows_aligned(g);

    for (size_t i = 0; i < g->uses; i++)
        if (g->use[i].panel)
            step = most(step, LAYOUT_ALIGN / (g->use[i].dst & -g->use[i].dst));
    return step;
}

/* Rows of a row panel whose runs are whole blocks, at most, where so much memory is for panels; 0: there is none whose
 * runs have `run` bytes. */
static uint64_t edged_rows(const struct plan *p, const struct group *g, uint64_t panel_bytes, uint64_t run)
{
    uint64_t pitch = round_down(panel_bytes / g->panels, LAYOUT_ALIGN) / g->cols;
    uint64_t rows = g->rows;
    unsigned dst = g->panel_dst;

    if (p->devices)
        pitch = least(pitch, p->stream_bytes - LAYOUT_ALIGN); /* a run leaves whole, and is completed there */
    for (size_t i = 0; i < g->uses; i++) {
        const struct use *u = &g->use[i];

        if (!u->panel)
            continue;
        if (u->packed || g->cols == 1)
            return 0;
        rows = least(rows, edges_run(g->rows * u->dst, pitch) / u->dst);
        dst = u->dst < dst ? u->dst : dst;
    }
    rows = round_down(rows, edged_step(g));
    return rows * dst >= run ? rows : 0;
}

/* How many there had better be. */
static void slots_wish(struct plan *p, const struct plan_budget *b, const struct demand *d)
{
    unsigned work = p->devices ? p->devices * p->lanes : b->threads;
    bool streams = d->streams || (p->devices && d->panels); /* a drain takes a stream slot, too */

    p->tile_slots = work + READ_AHEAD;
    p->stream_slots = streams ? (unsigned)most(STREAM_SLOTS, 2 * d->streams) : 0;
    if (p->devices && streams)
        p->stream_slots += work + READ_AHEAD; /* what is on its way has its slots already */
}

enum fit { FITS, HOST_LITTLE, DEVICE_LITTLE };

/* Of `room` no more than keeps reading and writing busy: memory that was never touched costs as much as it saves. For
 * whole tensors that is the largest and something beside it, or the largest two that come one behind the other; for one
 * in row panels, two of these with long runs. */
static uint64_t panels_choose(uint64_t room, const struct demand *d)
{
    uint64_t bytes = 0, before = 0;

    for (size_t i = 0; i < d->groups; i++) {
        const struct group *g = &d->group[i];
        uint64_t whole = whole_room(g), row = 2 * g->panels * (RUN_LONG + LAYOUT_ALIGN);

        if (whole > room) {
            bytes = most(bytes, g->cols > room / row ? room : g->cols * row);
            before = 0;
        } else if (whole) {
            bytes = most(bytes, most(whole + PANEL_USEFUL, before + whole));
            before = whole;
        }
    }
    return least(round_down(least(bytes, room), LAYOUT_ALIGN), d->panel_all);
}

/* Bytes of the panel area that no group may lose: all of a group that fits whole, one row of the others. */
static uint64_t panels_least(const struct demand *d, uint64_t panel_bytes)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < d->groups; i++) {
        const struct group *g = &d->group[i];

        bytes = most(bytes, g->panels * panel_room(g, fits_whole(g, panel_bytes) ? g->rows : 1, g->panel_dst));
    }
    return bytes;
}

/* The panel area, of so many bytes at most, and what row panels keep at their edges, which takes some of these unless
 * the area is a device's: of `host` then. What would be whole stays so: it is more, in all, than the few that are
 * not, and a run of its own is better than row panels. */
static void panels_size(struct plan *p, const struct demand *d, uint64_t room, uint64_t host)
{
    uint64_t all = panels_choose(room, d), least_bytes = panels_least(d, all);

    for (size_t i = 0; i < d->groups; i++) {
        const struct group *g = &d->group[i];
        uint64_t edges = fits_whole(g, all) ? 0 : edges_of(g), left;

        if (edges <= p->edges_bytes || edges >= host)
            continue;
        left = panels_choose(p->devices ? room : room - edges, d);
        if (left >= least_bytes && edged_rows(p, g, left, RUN_LEAST))
            p->edges_bytes = edges;
    }
    p->panel_bytes = panels_choose(p->devices ? room : room - p->edges_bytes, d);
}

/* The size of tiles, and with it all that there is a number of. */
static void tile_choose(struct plan *p, const struct plan_budget *b, const struct demand *d)
{
    uint64_t least_bytes = most(TILE_BYTES_MIN, round_up(d->tile_least, LAYOUT_ALIGN));
    uint64_t share = d->panels && !p->devices ? b->memory / 5 * 2 : b->memory;
    uint64_t device_share = d->panels ? b->device_memory / 5 * 2 : b->device_memory;
    unsigned streams_least = p->stream_slots && !d->streams ? 1 : d->streams;

    for (p->tile_bytes = most(p->devices ? TILE_BYTES_DEVICE : TILE_BYTES_MAX, least_bytes);;
         p->tile_bytes = most(p->tile_bytes / 2, least_bytes)) {
        lane_size(p, d);
        if ((fixed_bytes(p) <= share && (!p->devices || fixed_device(p, d) <= device_share)) ||
            p->tile_bytes == least_bytes)
            break;
    }
    while (p->devices && fixed_device(p, d) > device_share && p->lanes > 1)
        p->lanes--;
    while (fixed_bytes(p) > share && p->tile_slots > 2)
        p->tile_slots--;
    while (fixed_bytes(p) > share && p->stream_slots > streams_least)
        p->stream_slots--;
}

/* Tiles and stream slabs get two fifths of the memory at most, as long as row panels want the rest; so do lanes of a
 * device's memory. */
static enum fit sizes_choose(struct plan *p, const struct plan_budget *b, const struct demand *d)
{
    uint64_t host;

    p->devices = b->devices;
    p->lanes = p->devices ? LANES : 0;
    p->factor_bytes = p->devices && d->factors <= b->device_memory / 4 ? d->factors : 0;
    p->adapter = d->adapter;
    p->merge_rank = d->merge_rank;
    p->workers = !d->adapter ? 0 : b->devices ? 1 : b->threads;
    p->merge_bytes = d->adapter ? merger_bytes(d->merge_rank) : 0;
    p->edges_bytes = 0;
    slots_wish(p, b, d);
    tile_choose(p, b, d);
    if (fixed_bytes(p) > b->memory)
        return HOST_LITTLE;
    if (p->devices && fixed_device(p, d) > b->device_memory)
        return DEVICE_LITTLE;
    host = b->memory - fixed_bytes(p);
    panels_size(p, d, p->devices ? b->device_memory - fixed_device(p, d) : host, host);
    if (!p->devices && p->stream_slots)
        p->stream_slots +=
            (unsigned)least(STREAM_SLOTS_MORE, (host - p->edges_bytes - p->panel_bytes) / p->stream_bytes);
    p->buffers = fixed_bytes(p) + (p->devices ? 0 : p->panel_bytes);
    p->device_bytes = p->devices ? fixed_device(p, d) + p->panel_bytes : 0;
    return FITS;
}

/* The least memory, in MiB, that leaves `panel` bytes for row panels. */
static uint64_t memory_for(const struct plan_budget *b, const struct demand *d, uint64_t panel)
{
    struct plan p = { 0 };
    struct plan_budget more = *b;

    more.memory = round_up(most(panel, PLAN_MEMORY_MIN), 1 << 20);
    while (sizes_choose(&p, &more, d) == HOST_LITTLE || p.panel_bytes < panel)
        more.memory += 1 << 20;
    return more.memory >> 20;
}

/* The same of a device. */
static uint64_t device_memory_for(const struct plan_budget *b, const struct demand *d, uint64_t panel)
{
    struct plan p = { 0 };
    struct plan_budget more = *b;

    more.device_memory = round_up(panel + 1, 1 << 20);
    while (sizes_choose(&p, &more, d) == DEVICE_LITTLE || p.panel_bytes < panel)
        more.device_memory += 1 << 20;
    return more.device_memory >> 20;
}

static int too_little(const struct plan_budget *b, const struct demand *d, enum fit fit, struct err *e)
{
    if (fit == DEVICE_LITTLE)
        return err_set(e, ERR_DEVICE,
                       "%llu bytes of device memory are too little: a device needs %lluM of its memory, or use "
                       "--device cpu",
                       (unsigned long long)b->device_memory, (unsigned long long)device_memory_for(b, d, 0));
    return err_set(e, ERR_RANGE, "a memory budget of %llu bytes is too little for %u %s: use --memory %lluM",
                   (unsigned long long)b->memory, b->devices ? b->devices : b->threads,
                   b->devices ? "devices" : "threads", (unsigned long long)memory_for(b, d, 0));
}

static int row_too_long(const struct plan *p, const struct plan_budget *b, const struct demand *d,
                        const struct tensor *t, uint64_t row, struct err *e)
{
    if (p->devices)
        return err_set(e, ERR_DEVICE,
                       "%s: one of its rows needs %llu bytes of device memory, and %zu of %llu are left for it: a "
                       "device needs %lluM of its memory, or use --device cpu",
                       t->name, (unsigned long long)row, p->panel_bytes, (unsigned long long)b->device_memory,
                       (unsigned long long)device_memory_for(b, d, row));
    return err_set(e, ERR_RANGE,
                   "%s: one of its rows needs %llu bytes of the memory budget, and --memory %lluM leaves %zu "
                   "for it: use --memory %lluM",
                   t->name, (unsigned long long)row, (unsigned long long)(b->memory >> 20), p->panel_bytes,
                   (unsigned long long)memory_for(b, d, row));
}

static int sizes_check(const struct plan *p, const struct plan_budget *b, const struct demand *d,
                       const struct group *group, size_t groups, struct err *e)
{
    for (size_t i = 0; i < groups; i++) {
        const struct group *g = &group[i];
        uint64_t row = g->panels * panel_room(g, 1, g->panel_dst);

        if (g->panels && g->rows && row > p->panel_bytes)
            return row_too_long(p, b, d, g->source, row, e);
    }
    return 0;
}

/* ---- the cut ---- */

struct cutter {
    struct plan *p;
    uint64_t slabs_cap, jobs_cap, tiles_cap;
};

static void *room_for_one(void *v, uint64_t n, uint64_t *cap, size_t each)
{
    if (n < *cap)
        return v;
    *cap = *cap ? *cap * 2 : 256;
    return xrealloc(v, *cap * each);
}

/* Preferred steps in rows, best first: aligned and whole lines, aligned, whole lines, any. */
struct steps {
    uint64_t step[4];
};

static struct steps steps_of(const struct group *g)
{
    uint64_t q = rows_aligned(g);

    return (struct steps){ { most(q, BAND), q, BAND, 1 } };
}

/* As few panels as can be of at most `fit` rows, evenly; of whole steps, which `fit` is of, too. */
static uint64_t rows_evenly(uint64_t rows, uint64_t fit, uint64_t step)
{
    uint64_t panels = (rows + fit - 1) / fit;

    return round_up((rows + panels - 1) / panels, step);
}

/* Of panels that are written in whole blocks; 0: they are not. Two of them at once, so that one is filled while the
 * other is written, unless their runs were short. */
static uint64_t rows_of_edged(const struct plan *p, struct group *g)
{
    uint64_t fit = edged_rows(p, g, p->panel_bytes / 2, RUN_USEFUL), edges = 0;

    if (!fit)
        fit = edged_rows(p, g, p->panel_bytes, RUN_LEAST);
    if (!fit || edges_of(g) > p->edges_bytes)
        return 0;
    for (size_t i = 0; i < g->uses; i++) {
        struct use *u = &g->use[i];

        if (!u->panel)
            continue;
        u->edges = edges;
        edges += edges_room(g->rows * u->dst, g->cols);
    }
    g->edged = true;
    return rows_evenly(g->rows, fit, edged_step(g));
}

/* Rows of a row panel: as many as fit, evenly over the panels. */
static uint64_t rows_of_panel(const struct plan *p, struct group *g)
{
    struct steps s = steps_of(g);
    uint64_t pitch, fit, rows;

    if (fits_whole(g, p->panel_bytes))
        return g->rows;
    rows = rows_of_edged(p, g);
    if (rows)
        return rows;
    pitch = round_down(p->panel_bytes / g->panels, LAYOUT_ALIGN) / g->cols;
    if (p->devices)
        pitch = least(pitch, p->stream_bytes); /* a run leaves whole */
    fit = (pitch < LINE ? pitch : round_down(pitch, LINE)) / g->panel_dst;
    for (size_t i = 0;; i++) {
        rows = rows_evenly(g->rows, fit, s.step[i]);
        if (rows <= fit)
            return rows;
    }
}

/* Elements of a tile. */
static uint64_t elements_of_tile(const struct plan *p, const struct group *g)
{
    return least(p->tile_bytes / g->src, g->streams ? p->stream_bytes / g->stream_dst : UINT64_MAX);
}

/* Rows of a tile; 0: not even one, rows are cut. */
static uint64_t rows_of_tile(const struct plan *p, const struct group *g)
{
    struct steps s = steps_of(g);
    uint64_t n = elements_of_tile(p, g) / g->cols;

    for (size_t i = 0; n && n < g->rows; i++)
        if (n >= s.step[i])
            return round_down(n, s.step[i]);
    return n;
}

/* `last`: it ends the item. */
static uint64_t slab_add(struct cutter *c, struct slab_plan s, bool last)
{
    struct plan *p = c->p;
    const struct placed *item = &p->layout->item[s.item];
    bool leaves = s.pool == SLAB_PANEL && p->devices; /* piece by piece */

    s.file = item->file;
    s.payload = s.runs * s.run_bytes;
    s.strewn |= s.runs > 1;
    if (!s.strewn && !leaves && last && s.off % LAYOUT_ALIGN == 0 && !p->layout->file[s.file].packed)
        s.run_bytes = round_up(s.run_bytes, LAYOUT_ALIGN);
    s.direct = !leaves && (s.edged || (!s.strewn && s.off % LAYOUT_ALIGN == 0 && s.run_bytes % LAYOUT_ALIGN == 0));
    p->slab = room_for_one(p->slab, p->slabs_n, &c->slabs_cap, sizeof *p->slab);
    p->slab[p->slabs_n] = s;
    p->to_write += leaves ? 0 : s.runs * s.run_bytes;
    if (s.last && !leaves && s.row + s.runs == item->bytes / s.file_pitch) /* the last block is whole, too */
        p->to_write += round_up(item->bytes, LAYOUT_ALIGN) - item->bytes;
    return p->slabs_n++;
}

static uint64_t slab_stream(struct cutter *c, const struct use *u, uint64_t first, uint64_t n)
{
    const struct placed *item = &c->p->layout->item[u->item];
    struct slab_plan s = { .pool = SLAB_STREAM,
                           .item = u->item,
                           .off = item->off + first * u->dst,
                           .runs = 1,
                           .run_bytes = n * u->dst,
                           .buf_bytes = c->p->stream_bytes };

    return slab_add(c, s, (first + n) * u->dst == item->bytes);
}

static uint64_t slab_panel(struct cutter *c, const struct group *g, const struct use *u, uint64_t r0, uint64_t rows)
{
    const struct placed *item = &c->p->layout->item[u->item];
    bool whole = rows == g->rows, last = r0 + rows == g->rows;
    uint64_t run = rows * u->dst, row = g->rows * u->dst;
    struct slab_plan s = { .pool = SLAB_PANEL,
                           .item = u->item,
                           .off = item->off + r0 * u->dst,
                           .runs = whole ? 1 : g->cols,
                           .run_bytes = whole ? g->cols * run : run,
                           .buf_pitch = whole ? run : panel_pitch(rows, u->dst),
                           .file_pitch = row,
                           .buf_bytes = panel_room(g, rows, u->dst) };

    if (!whole && g->edged) {
        s.edged = true;
        s.first = !r0;
        s.last = last;
        s.in_row = r0 * u->dst;
        s.edges = u->edges;
        s.buf_pitch = edges_pitch(row, run, last);
        s.buf_bytes = round_up(g->cols * s.buf_pitch, LAYOUT_ALIGN);
    }
    c->p->paneled += !whole && !r0;
    c->p->edged += s.first;
    return slab_add(c, s, last);
}

static void job_add(struct cutter *c, const struct use *u, struct job_plan j)
{
    struct plan *p = c->p;

    j.transform = u->plain.transform;
    p->job = room_for_one(p->job, p->jobs_n, &c->jobs_cap, sizeof *p->job);
    p->job[p->jobs_n++] = j;
    p->slab[j.slab].jobs++;
}

struct rect { /* of the source; either whole rows or a piece of one row */
    uint64_t row, rows, col, cols;
};

static void tile_source(struct tile_plan *tile, const struct group *g, struct rect t)
{
    tile->file = g->source->file;
    tile->off = g->source->off;
    if (!g->gather) {
        tile->off += (t.row * g->cols + t.col) * g->src;
    } else if (t.cols < g->cols) { /* a piece of one row */
        tile->off += ((uint64_t)g->gather[t.row] * g->cols + t.col) * g->src;
    } else {
        tile->gather = g->gather + t.row;
        tile->row_bytes = g->cols * g->src;
    }
}

/* `r0`, `panel`: the row panel that the tile is a part of, and its rows. */
static void tile_add(struct cutter *c, struct group *g, struct rect t, uint64_t r0, uint64_t panel)
{
    struct plan *p = c->p;
    uint64_t first = t.row * g->cols + t.col, n = t.rows * t.cols;
    struct tile_plan tile = { .bytes = (size_t)(n * g->src), .job = p->jobs_n, .jobs = (unsigned)g->uses };

    tile_source(&tile, g, t);

    for (size_t i = 0; i < g->uses; i++) {
        struct use *u = &g->use[i];
        struct job_plan j = { .rows = t.rows,
                              .cols = t.cols,
                              .src_pitch = t.cols * g->src,
                              .row = t.row,
                              .col = t.col,
                              .gather = g->gather };

        if (u->panel) {
            if (t.row == r0 && !t.col)
                u->slab = slab_panel(c, g, u, r0, panel);
            j.slab = u->slab;
            j.dst_pitch = p->slab[j.slab].buf_pitch;
            j.dst_off = t.col * j.dst_pitch + (t.row - r0) * u->dst;
        } else {
            j.slab = slab_stream(c, u, first, n);
            j.dst_pitch = t.cols * u->dst;
        }
        j.merge = u->plain.merge;
        job_add(c, u, j);
    }
    p->tile = room_for_one(p->tile, p->tiles_n, &c->tiles_cap, sizeof *p->tile);
    p->tile[p->tiles_n++] = tile;
    p->to_read += tile.bytes;
}

static void panel_cut(struct cutter *c, struct group *g, uint64_t r0, uint64_t panel)
{
    uint64_t rows = rows_of_tile(c->p, g), cols = round_down(elements_of_tile(c->p, g), PIECE);

    for (uint64_t r = r0; r < r0 + panel; r += rows ? rows : 1) {
        if (rows) {
            tile_add(c, g, (struct rect){ r, least(rows, r0 + panel - r), 0, g->cols }, r0, panel);
            continue;
        }
        for (uint64_t at = 0; at < g->cols; at += cols)
            tile_add(c, g, (struct rect){ r, 1, at, least(cols, g->cols - at) }, r0, panel);
    }
}

/* ---- the cut of an item that has parts ---- */

static uint64_t units_of_tile(const struct plan *p, const struct group *g)
{
    const struct recipe_plain *plain = &g->use->plain;
    uint64_t n = p->tile_bytes / (recipe_parts_bytes(plain, 1) - recipe_parts_bytes(plain, 0)) + 1, aligned = 1;

    if (g->streams)
        n = least(n, p->stream_bytes / g->stream_dst);
    while (n > 1 && recipe_parts_bytes(plain, n) > p->tile_bytes)
        n--;
    while (g->streams && aligned * (plain->dst % LAYOUT_ALIGN) % LAYOUT_ALIGN)
        aligned *= 2;
    return n >= aligned ? round_down(n, aligned) : n;
}

/* Its parts, unless they are one piece of one tensor. */
static struct tile_plan tile_of_parts(struct cutter *c, const struct recipe_plain *plain, uint64_t first, uint64_t n)
{
    struct recipe_span s = recipe_span(plain, 0, first, n);
    struct tile_plan tile = { .file = plain->source->file, .off = plain->source->off + s.off, .jobs = 1 };
    struct part_plan *part;

    if (plain->parts == 1 && s.runs == 1) {
        tile.bytes = (size_t)s.run_bytes;
        return tile;
    }
    tile.parts = plain->parts;
    tile.part = part = arena_array(c->p->arena, plain->parts, sizeof *part);
    for (unsigned i = 0; i < plain->parts; i++) {
        const struct tensor *t = plain->part[i].tensor;

        s = recipe_span(plain, i, first, n);
        part[i] = (struct part_plan){ .file = t->file,
                                      .off = t->off + s.off,
                                      .pitch = s.pitch,
                                      .runs = s.runs,
                                      .run_bytes = s.run_bytes,
                                      .ahead = s.runs > 1 && !first ? t->bytes : 0,
                                      .at = (size_t)recipe_part_at(plain, i, first, n) };
        tile.bytes += (size_t)(s.runs * s.run_bytes);
    }
    return tile;
}

static void parts_tile(struct cutter *c, struct group *g, const struct recipe_plain *plain, uint64_t first, uint64_t n,
                       uint64_t r0, uint64_t panel)
{
    struct plan *p = c->p;
    struct use *u = g->use;
    struct tile_plan tile = tile_of_parts(c, plain, first, n);
    struct job_plan j = { .parts = plain, .first = first, .units = n };

    tile.job = p->jobs_n;
    if (u->panel) {
        if (first == r0)
            u->slab = slab_panel(c, g, u, r0, panel);
        j.slab = u->slab;
        j.dst_pitch = p->slab[j.slab].buf_pitch;
        j.dst_off = (first - r0) * u->dst;
    } else {
        j.slab = slab_stream(c, u, first, n);
    }
    job_add(c, u, j);
    p->tile = room_for_one(p->tile, p->tiles_n, &c->tiles_cap, sizeof *p->tile);
    p->tile[p->tiles_n++] = tile;
    p->to_read += tile.bytes;
}

static void parts_cut(struct cutter *c, struct group *g)
{
    struct recipe_plain *plain = arena_alloc(c->p->arena, sizeof *plain);
    uint64_t units = recipe_units(&g->use->plain), step = units_of_tile(c->p, g);
    uint64_t panel = g->panels ? rows_of_panel(c->p, g) : units;

    *plain = g->use->plain;
    for (uint64_t r0 = 0; r0 < units; r0 += panel)
        for (uint64_t at = r0, end = least(units, r0 + panel); at < end; at += step)
            parts_tile(c, g, plain, at, least(step, end - at), r0, end - r0);
}

static void group_cut(struct cutter *c, struct group *g)
{
    uint64_t panel;

    if (!g->rows || !g->cols)
        return;
    if (g->use->plain.parts) {
        parts_cut(c, g);
        return;
    }
    panel = rows_of_panel(c->p, g);
    for (uint64_t r0 = 0; r0 < g->rows; r0 += panel)
        panel_cut(c, g, r0, least(panel, g->rows - r0));
}

/* ---- how panels leave a device ---- */

static void drain_add(struct cutter *c, uint64_t panel, struct slab_plan s)
{
    const struct slab_plan *from = &c->p->slab[panel];
    const struct placed *item = &c->p->layout->item[from->item];

    s.pool = SLAB_DRAIN;
    s.item = from->item;
    s.buf_bytes = c->p->stream_bytes;
    s.jobs = 1;
    s.panel = panel;
    slab_add(c, s, s.off + s.run_bytes == item->off + item->bytes);
    c->p->slab[panel].drains++;
}

static void drain_contiguous(struct cutter *c, uint64_t panel)
{
    const struct slab_plan from = c->p->slab[panel];
    uint64_t n;

    for (uint64_t at = 0; at < from.payload; at += n) {
        n = least(c->p->stream_bytes, from.payload - at);
        drain_add(c, panel, (struct slab_plan){ .off = from.off + at, .runs = 1, .run_bytes = n, .panel_off = at });
    }
}

static void drain_runs(struct cutter *c, uint64_t panel)
{
    const struct slab_plan from = c->p->slab[panel];
    uint64_t runs = (c->p->stream_bytes - (from.edged ? LAYOUT_ALIGN : 0)) / from.buf_pitch;

    for (uint64_t r = 0; r < from.runs; r += runs) {
        struct slab_plan s = from;

        s.strewn = true;
        s.off += r * from.file_pitch;
        s.runs = least(runs, from.runs - r);
        s.row = r;
        s.panel_off = r * from.buf_pitch;
        s.buf_off = from.edged ? s.panel_off % LAYOUT_ALIGN : 0; /* as in the file */
        s.drains = 0;
        drain_add(c, panel, s);
    }
}

static void drains_cut(struct cutter *c)
{
    uint64_t slabs = c->p->slabs_n;

    c->p->drains_from = slabs;
    for (uint64_t s = 0; s < slabs && c->p->devices; s++)
        if (c->p->slab[s].pool == SLAB_PANEL)
            (c->p->slab[s].runs == 1 ? drain_contiguous : drain_runs)(c, s);
}

/* From a growing array to the arena. */
static void *settle(struct arena *a, void *v, uint64_t n, size_t each)
{
    void *kept = arena_array(a, n, each);

    if (n)
        memcpy(kept, v, n * each);
    free(v);
    return kept;
}

static void cut(struct plan *p, struct group *group, size_t groups)
{
    struct cutter c = { .p = p };

    for (size_t i = 0; i < p->layout->files_n; i++)
        p->to_write += p->layout->file[i].head_bytes;
    for (size_t i = 0; i < groups; i++)
        group_cut(&c, &group[i]);
    drains_cut(&c);
    p->slab = settle(p->arena, p->slab, p->slabs_n, sizeof *p->slab);
    p->job = settle(p->arena, p->job, p->jobs_n, sizeof *p->job);
    p->tile = settle(p->arena, p->tile, p->tiles_n, sizeof *p->tile);
}

int plan_make(struct plan *p, const struct checkpoint *c, const struct layout *l, const struct plan_budget *b,
              struct arena *a, struct err *e)
{
    size_t uses, groups;
    struct use *use = uses_collect(l, &uses, e);
    struct group *group = NULL;
    struct demand d;
    enum fit fit;
    int ret = -1;

    *p = (struct plan){ .ckpt = c, .layout = l, .arena = a };
    if (!use)
        return -1;
    group = xmalloc(l->items_n * sizeof *group);
    groups = groups_make(group, use, uses);
    if (l->awaited)
        groups_sort(group, groups, l);
    d = demand_of(group, groups, l->items_n);
    fit = sizes_choose(p, b, &d);
    if (fit != FITS) {
        too_little(b, &d, fit, e);
        goto out;
    }
    if (sizes_check(p, b, &d, group, groups, e))
        goto out;
    cut(p, group, groups);
    ret = 0;
out:
    free(group);
    free(use);
    return ret;
}
