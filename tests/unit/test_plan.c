/* Whatever the shapes and the budget: every byte of the output comes exactly once, from the right source element; every
 * source is read once, in order, or in that of outputs that are waited for; buffers keep to the budget; and the
 * pipeline cannot come to a halt. */
#include "pipeline/plan.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>
#include "layouts.h"
#include "pipeline/edges.h"
#include "pipeline/ring.h"

static uint64_t padded(uint64_t v) { return (v + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN; }

static void buffers_keep_to_the_budget(const struct plan *p, const struct plan_budget *b)
{
    uint64_t all = p->tile_slots * (p->tile_bytes + 2 * LAYOUT_ALIGN) + p->stream_slots * p->stream_bytes;
    uint64_t lane = p->lane_tiles + p->lane_results + p->lane_scratch + PLAN_NOTES;

    all += p->edges_bytes;
    all += p->devices ? p->devices * p->lanes * PLAN_NOTES + p->tile_bytes : p->panel_bytes;
    assert_int_equal(p->buffers, all);
    assert_true(all <= b->memory);
    assert_int_equal(p->devices, b->devices);
    assert_int_equal(p->panel_bytes % LAYOUT_ALIGN, 0);
    assert_int_equal(p->edges_bytes % LAYOUT_ALIGN, 0);
    assert_int_equal(p->edged > 0, p->edges_bytes > 0);
    assert_int_equal(p->stream_bytes % LAYOUT_ALIGN, 0);
    assert_int_equal(p->tile_bytes % LAYOUT_ALIGN, 0);
    if (!p->devices)
        return;
    assert_true(p->device_bytes <= b->device_memory);
    assert_true(p->device_bytes >=
                p->lanes * lane + p->lane_tiles + p->panel_bytes + p->layout->items_n * sizeof(struct counters));
    assert_true(p->lanes > 0 && p->lane_tiles >= p->tile_bytes);
}

static struct recipe_plain plain_of(const struct placed *it)
{
    struct recipe_plain plain;
    struct err e = { 0 };

    assert_int_equal(recipe_plain(it->recipe, &plain, &e), 0);
    return plain;
}

static struct recipe_plain tile_use(const struct plan *p, const struct tile_plan *t)
{
    return plain_of(&p->layout->item[p->slab[p->job[t->job].slab].item]);
}

/* Rows that are gathered are read once for each map. */
static void sources_are_read_once_and_in_order(const struct plan *p, const struct made *m)
{
    uint64_t want = 0, got = 0, source = 0;

    for (uint64_t t = 0; t < p->tiles_n; t++) {
        const struct tile_plan *a = &p->tile[t], *b = a + 1;

        assert_true(a->bytes > 0 && a->bytes <= p->tile_bytes);
        got += a->bytes;
        if (m->layout.awaited)
            continue;
        assert_true(tile_use(p, a).source - m->tensor >= (ptrdiff_t)source);
        source = (uint64_t)(tile_use(p, a).source - m->tensor);
        if (t + 1 < p->tiles_n && !tile_use(p, b).gather)
            assert_true(a->file < b->file || (a->file == b->file && a->off + a->bytes <= b->off));
    }
    for (size_t i = 0; i < m->ckpt.tensors_n; i++) {
        const int32_t *seen[3] = { 0 };
        bool whole = false;

        for (size_t k = 0; k < m->layout.items_n; k++) {
            struct recipe_plain plain = plain_of(&m->item[k]);
            size_t g = 0;

            if (plain.source != &m->tensor[i])
                continue;
            while (plain.gather && seen[g] && seen[g] != plain.gather)
                g++;
            if (plain.gather ? !seen[g] : !whole)
                want += recipe_plain_bytes(&plain);
            whole |= !plain.gather;
            if (plain.gather)
                seen[g] = plain.gather;
        }
    }
    assert_int_equal(got, want);
    assert_int_equal(p->to_read, want);
}

/* Byte `at` of a slab's buffer, as an offset in the file. */
static uint64_t file_offset(const struct slab_plan *s, uint64_t at)
{
    uint64_t run = s->runs > 1 ? at / s->buf_pitch : 0, in = s->runs > 1 ? at % s->buf_pitch : at;

    assert_true(run < s->runs && in < s->run_bytes);
    return s->off + run * s->file_pitch + in;
}

static void elements_land_in_their_place(const struct plan *p, const struct tile_plan *t, const struct job_plan *j,
                                         unsigned char *written)
{
    const struct slab_plan *s = &p->slab[j->slab];
    const struct placed *it = &p->layout->item[s->item];
    struct recipe_plain plain = plain_of(it);
    uint64_t src = dtype_bytes(plain.source->dtype), first = (t->off - plain.source->off) / src;

    assert_ptr_equal(plain.transform, j->transform);
    assert_int_equal((t->off - plain.source->off) % src, 0);
    assert_int_equal(j->src_pitch, j->cols * src);
    if (t->gather)
        assert_int_equal(t->row_bytes, j->src_pitch);
    assert_int_equal(j->rows * j->src_pitch, t->bytes);
    for (uint64_t r = 0; r < j->rows; r++)
        for (uint64_t c = 0; c < j->cols; c++) {
            bool across = plain.transform->cut == CUT_ROWS;
            uint64_t at = j->dst_off + (across ? c * j->dst_pitch + r * 2 : r * j->dst_pitch + c * 2);
            uint64_t i = first + (t->gather ? (uint64_t)t->gather[r] : r) * j->cols + c; /* in the source */
            uint64_t k = (file_offset(s, at) - it->off) / 2;                             /* in the item */
            uint64_t row = across ? k % plain.rows : k / plain.cols, col = across ? k / plain.rows : k % plain.cols;

            assert_int_equal(i, (plain.gather ? (uint64_t)plain.gather[row] : row) * plain.cols + col);
            written[k * 2]++;
        }
}

/* What it copies stands in the file where the panel says. */
static void drain_is_a_piece_of_its_panel(const struct plan *p, const struct slab_plan *d)
{
    const struct slab_plan *panel = &p->slab[d->panel];

    assert_true(panel->pool == SLAB_PANEL && panel->item == d->item && d->jobs == 1);
    for (uint64_t r = 0; r < d->runs; r++) {
        uint64_t own = d->runs > 1 || d->strewn ? d->run_bytes : d->payload, at = d->panel_off + r * d->buf_pitch;

        assert_true(own > 0 && at + own <= panel->buf_bytes);
        assert_int_equal(file_offset(panel, at), d->off + r * d->file_pitch);
        assert_int_equal(file_offset(panel, at + own - 1), d->off + r * d->file_pitch + own - 1);
    }
}

static void outputs_are_covered_once(const struct plan *p)
{
    for (size_t i = 0; i < p->layout->items_n; i++) {
        const struct placed *it = &p->layout->item[i];
        unsigned char *written = calloc(1, it->bytes), *sent = calloc(1, padded(it->bytes));
        uint64_t payload = 0;

        for (uint64_t t = 0; t < p->tiles_n; t++)
            for (uint64_t j = p->tile[t].job; j < p->tile[t].job + p->tile[t].jobs; j++)
                if (p->slab[p->job[j].slab].item == i)
                    elements_land_in_their_place(p, &p->tile[t], &p->job[j], written);
        for (uint64_t k = 0; k < it->bytes; k += 2)
            assert_int_equal(written[k], 1);
        for (uint64_t s = 0; s < p->slabs_n; s++) {
            const struct slab_plan *slab = &p->slab[s];

            if (slab->item != i || (p->devices && slab->pool == SLAB_PANEL))
                continue;
            payload += slab->payload;
            if (slab->pool == SLAB_DRAIN)
                drain_is_a_piece_of_its_panel(p, slab);
            for (uint64_t r = 0; r < slab->runs; r++)
                for (uint64_t k = 0; k < slab->run_bytes; k++)
                    sent[slab->off - it->off + r * slab->file_pitch + k]++;
        }
        assert_int_equal(payload, it->bytes);
        for (uint64_t k = 0; k < padded(it->bytes); k++)
            assert_true(k < it->bytes ? sent[k] == 1 : sent[k] <= 1);
        free(written);
        free(sent);
    }
}

/* What edges.h asks for, and a store that no other item uses meanwhile. */
static uint64_t runs_can_be_completed(const struct plan *p)
{
    uint64_t end = p->devices ? p->drains_from : 0, edged = 0, in_row[MADE_MAX] = { 0 };
    struct {
        uint64_t from, to, begin, end; /* of the store; slabs */
    } use[MADE_MAX];

    for (uint64_t i = end; i < p->slabs_n; i++) {
        const struct slab_plan *a = &p->slab[i];
        const struct placed *it = &p->layout->item[a->item];
        uint64_t room, rows;

        if (!a->edged)
            continue;
        rows = it->bytes / a->file_pitch;
        room = edges_room(a->file_pitch, rows);
        assert_true(a->strewn && a->row + a->runs <= rows && a->run_bytes < a->file_pitch);
        assert_int_equal(a->off, it->off + a->row * a->file_pitch + a->in_row);
        assert_int_equal(a->buf_off, (a->off - it->off) % 4096);
        assert_int_equal(a->buf_pitch % 4096, a->file_pitch % 4096);
        assert_int_equal(a->first, !a->in_row);
        assert_int_equal(a->last, a->in_row + a->run_bytes == a->file_pitch);
        assert_int_equal(a->buf_pitch, edges_pitch(a->file_pitch, a->run_bytes, a->last));
        assert_true(a->last || (a->run_bytes % 4096 == 0 && a->run_bytes >= 8192));
        assert_true(a->buf_off + a->runs * a->buf_pitch <= a->buf_bytes);
        assert_true(a->edges % 4096 == 0 && a->edges + room <= p->edges_bytes);
        if (a->first && !a->row) {
            use[edged].from = a->edges;
            use[edged].to = a->edges + room;
            use[edged].begin = i;
            edged++;
        }
        assert_true(a->in_row == in_row[a->item]); /* panels in order, and the rows of each */
        if (a->row + a->runs == rows)
            in_row[a->item] += a->run_bytes;
        for (uint64_t k = 0; k < edged; k++)
            if (p->slab[use[k].begin].item == a->item)
                use[k].end = i;
    }
    for (uint64_t i = 0; i < edged; i++)
        for (uint64_t k = 0; k < i; k++)
            assert_true(use[i].from >= use[k].to || use[k].from >= use[i].to || use[k].end < use[i].begin);
    assert_int_equal(edged, p->edged);
    return edged;
}

static void slabs_fit_and_are_aligned(const struct plan *p)
{
    uint64_t jobs = 0, drains = 0, opened = 0, panel = 0, end = p->devices ? p->drains_from : p->slabs_n;

    for (uint64_t s = 0; s < p->slabs_n; s++) {
        const struct slab_plan *a = &p->slab[s];
        bool leaves = p->devices && a->pool == SLAB_PANEL;

        assert_true(a->jobs > 0 && a->runs > 0 && a->payload > 0);
        assert_int_equal(a->file, p->layout->item[a->item].file);
        assert_int_equal(a->buf_bytes % LAYOUT_ALIGN, 0);
        assert_true(a->buf_bytes <= (a->pool == SLAB_PANEL ? p->panel_bytes : p->stream_bytes));
        assert_true((a->runs - 1) * a->buf_pitch + a->run_bytes <= a->buf_bytes);
        assert_int_equal(a->direct,
                         !leaves && (a->edged || (!a->strewn && a->off % 4096 == 0 && a->run_bytes % 4096 == 0)));
        assert_true(a->strewn || a->runs == 1);
        if (a->pool == SLAB_STREAM)
            assert_true(a->runs == 1 && a->jobs == 1 && !a->strewn);
        assert_int_equal(a->pool == SLAB_DRAIN, s >= end);
        if (a->pool == SLAB_DRAIN) { /* in the order of panels */
            assert_true(a->panel >= panel);
            panel = a->panel;
            drains++;
        } else {
            jobs += a->jobs;
        }
    }
    for (uint64_t s = 0; s < end; s++) {
        drains -= p->slab[s].drains;
        assert_int_equal(p->slab[s].drains > 0, p->devices && p->slab[s].pool == SLAB_PANEL);
    }
    assert_int_equal(drains, 0);
    assert_int_equal(jobs, p->jobs_n);
    for (uint64_t j = 0; j < p->jobs_n; j++) { /* slabs are opened in order */
        assert_true(p->job[j].slab <= opened);
        opened += p->job[j].slab == opened;
    }
    assert_int_equal(opened, end);
}

static uint64_t device_aligned(uint64_t v)
{
    return (v + PLAN_DEVICE_ALIGN - 1) / PLAN_DEVICE_ALIGN * PLAN_DEVICE_ALIGN;
}

static void tiles_fit_lanes(const struct plan *p)
{
    for (uint64_t t = 0; p->devices && t < p->tiles_n; t++) {
        uint64_t results = 0, scratch = 0;

        for (uint64_t j = p->tile[t].job; j < p->tile[t].job + p->tile[t].jobs; j++) {
            const struct slab_plan *s = &p->slab[p->job[j].slab];

            if (s->pool == SLAB_STREAM)
                results += device_aligned(s->payload);
            if (p->job[j].parts)
                scratch += device_aligned(p->job[j].parts->pack.in * 4);
        }
        assert_true(device_aligned(p->tile[t].bytes) <= p->lane_tiles);
        assert_true(results <= p->lane_results && scratch <= p->lane_scratch);
    }
}

struct sim {
    struct ring ring;
    struct made *made;
    struct tile_slot *reading[64], *busy[64];
    uint64_t writing[64], draining[64];
    unsigned reading_n, busy_n, writing_n, draining_n, loaded_n;
    uint64_t slabs, tiles, drains;
};

static unsigned any_of(struct sim *s, unsigned n) { return (unsigned)(made_random(s->made) % n); }

static struct tile_slot *pick(struct sim *s, struct tile_slot **v, unsigned *n)
{
    unsigned i = any_of(s, *n);
    struct tile_slot *t = v[i];

    v[i] = v[--*n];
    return t;
}

/* Devices that are now and then too busy; those that have nothing to do take anything. */
static bool room_for_tile(void *user, uint64_t tile, int device)
{
    struct sim *s = user;

    (void)tile;
    assert_true(device == ANY_DEVICE || device < (int)s->ring.plan->devices);
    return s->busy_n < 4 && (!s->busy_n || any_of(s, 3));
}

static bool room_for_drain(void *user, int device)
{
    struct sim *s = user;

    assert_in_range(device, 0, s->ring.plan->devices - 1);
    return s->draining_n < 3;
}

static bool sim_device(struct sim *s)
{
    struct device_room room = { room_for_tile, room_for_drain, s };
    const struct plan *p = s->ring.plan;
    struct device_work w;

    if (!ring_to_device(&s->ring, false, &room, &w))
        return false;
    if (w.tile) {
        for (uint64_t j = p->tile[w.tile->tile].job; j < p->tile[w.tile->tile].job + p->tile[w.tile->tile].jobs; j++) {
            const struct slab_state *slab = &s->ring.slab[p->job[j].slab];

            if (p->slab[p->job[j].slab].pool == SLAB_PANEL) { /* within the area of the device that is named */
                assert_true(slab->area == (unsigned)w.device && slab->buf >= s->ring.area[w.device].at);
                assert_true(slab->buf + p->slab[p->job[j].slab].buf_bytes <=
                            s->ring.area[w.device].at + p->panel_bytes);
            }
        }
        s->busy[s->busy_n++] = w.tile;
        s->loaded_n--;
    } else {
        assert_int_equal(w.drain, p->drains_from + s->drains); /* one after the other, of panels that are filled */
        assert_true(!s->ring.slab[p->slab[w.drain].panel].left && s->ring.slab[p->slab[w.drain].panel].buf);
        s->draining[s->draining_n++] = w.drain;
        s->drains++;
    }
    return true;
}

static bool sim_work(struct sim *s)
{
    if (s->ring.plan->devices)
        return sim_device(s);
    if (!s->loaded_n || s->busy_n == 4 || !(s->busy[s->busy_n] = ring_to_transform(&s->ring)))
        return false;
    s->busy_n++;
    s->loaded_n--;
    return true;
}

static bool sim_end(struct sim *s)
{
    if (s->draining_n && any_of(s, 2)) {
        unsigned i = any_of(s, s->draining_n);

        ring_drained(&s->ring, s->draining[i]);
        s->draining[i] = s->draining[--s->draining_n];
        return true;
    }
    if (s->busy_n)
        return ring_transformed(&s->ring, pick(s, s->busy, &s->busy_n)), true;
    if (s->draining_n)
        return ring_drained(&s->ring, s->draining[--s->draining_n]), true;
    return false;
}

static bool sim_write_end(struct sim *s)
{
    unsigned i;

    if (!s->writing_n)
        return false;
    i = any_of(s, s->writing_n);
    ring_written(&s->ring, s->writing[i]);
    s->writing[i] = s->writing[--s->writing_n];
    return s->slabs++, true;
}

/* One step of some stage that can make one; false: none can. */
static bool sim_step(struct sim *s)
{
    unsigned first = any_of(s, 6);

    for (unsigned k = 0; k < 6; k++) {
        uint64_t slab;

        switch ((first + k) % 6) {
        case 0:
            if (s->reading_n < 8 && (s->reading[s->reading_n] = ring_to_read(&s->ring, false)))
                return s->reading_n++, s->tiles++, true;
            break;
        case 1:
            if (s->reading_n)
                return ring_loaded(&s->ring, pick(s, s->reading, &s->reading_n)), s->loaded_n++, true;
            break;
        case 2:
            if (sim_work(s))
                return true;
            break;
        case 3:
            if (sim_end(s))
                return true;
            break;
        case 4:
            if (s->writing_n < 5 && ring_to_write(&s->ring, false, &slab))
                return s->writing[s->writing_n++] = slab, true;
            break;
        default:
            if (sim_write_end(s))
                return true;
        }
    }
    return false;
}

/* The stages in any order of steps, none of which ever waits. */
static void it_cannot_come_to_a_halt(const struct plan *p, struct made *m)
{
    struct sim s = { .made = m };
    struct err e = { 0 };
    uint64_t panels = 0;

    assert_int_equal(ring_init(&s.ring, p, &e), 0);
    for (unsigned i = 0; i < p->devices; i++)
        s.ring.area[i].at = (unsigned char *)((uintptr_t)(i + 1) << 44); /* nobody looks there */
    while (sim_step(&s))
        ;
    for (uint64_t i = 0; p->devices && i < p->slabs_n; i++)
        panels += p->slab[i].pool == SLAB_PANEL;
    assert_int_equal(s.tiles, p->tiles_n);
    assert_int_equal(s.slabs, p->slabs_n - panels);
    ring_release(&s.ring);
}

/* A refusal names a budget that will do. */
static void the_advice_is_good(const struct made *m, const struct plan_budget *b, const struct err *e)
{
    bool device = e->kind == ERR_DEVICE;
    const char *before = device ? "a device needs " : "use --memory ", *advice = strstr(e->msg, before);
    struct plan_budget better = *b;
    struct arena a = { 0 };
    struct err again = { 0 };
    struct plan p;

    assert_true(device ? b->devices > 0 : e->kind == ERR_RANGE);
    assert_non_null(advice);
    *(device ? &better.device_memory : &better.memory) = strtoull(advice + strlen(before), NULL, 10) << 20;
    assert_true(better.memory >= (device ? b->memory : PLAN_MEMORY_MIN));
    if (plan_make(&p, &m->ckpt, &m->layout, &better, &a, &again)) /* then the other one is too little */
        assert_true(!device && again.kind == ERR_DEVICE);
    arena_release(&a);
}

/* `edged`: counts items whose row panels are whole blocks. */
static bool check(struct made *m, const struct plan_budget *b, uint64_t *edged)
{
    struct arena a = { 0 };
    struct err e = { 0 };
    struct plan p;
    bool made = !plan_make(&p, &m->ckpt, &m->layout, b, &a, &e);

    if (!made) {
        the_advice_is_good(m, b, &e);
    } else {
        buffers_keep_to_the_budget(&p, b);
        slabs_fit_and_are_aligned(&p);
        *edged += runs_can_be_completed(&p);
        tiles_fit_lanes(&p);
        sources_are_read_once_and_in_order(&p, m);
        outputs_are_covered_once(&p);
        it_cannot_come_to_a_halt(&p, m);
    }
    arena_release(&a);
    return made;
}

static void any_layout_any_budget(void **state)
{
    static const uint64_t memories[] = { 200 << 10, 300 << 10, 500 << 10, 1 << 20, 2 << 20, 16 << 20, 512 << 20 };
    unsigned made_n = 0;
    uint64_t edged = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 140; seed++) {
        struct made m;
        struct plan_budget b;

        made_anything(&m, seed, 300000);
        b = (struct plan_budget){ .memory = memories[seed % 7], .threads = 1 + (unsigned)(made_random(&m) % 8) };
        made_n += check(&m, &b, &edged);
        m.layout.awaited = true;
        made_n += check(&m, &b, &edged);
        made_release(&m);
    }
    assert_true(made_n > 140);
}

static void any_layout_any_devices(void **state)
{
    static const uint64_t memories[] = { 400 << 10, 1 << 20, 2 << 20, 16 << 20, 512 << 20 };
    static const uint64_t device_memories[] = { 300 << 10, 500 << 10, 1 << 20, 3 << 20, 1 << 30 };
    unsigned made_n = 0, paneled = 0;
    uint64_t edged = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct made m;
        struct plan_budget b;

        made_anything(&m, seed, 300000);
        b = (struct plan_budget){ .memory = memories[seed % 5],
                                  .threads = 1,
                                  .devices = 1 + (unsigned)(made_random(&m) % 4),
                                  .device_memory = device_memories[seed / 5 % 5] };
        made_n += check(&m, &b, &edged);
        b = (struct plan_budget){ 64 << 20, 1, 2, 1 << 20 };
        paneled += check(&m, &b, &edged);
        made_release(&m);
    }
    assert_true(made_n > 60 && paneled > 60);
}

static void heads_leave_in_whole_blocks(void **state)
{
    static const uint64_t memories[] = { 180 << 10, 300 << 10, 500 << 10, 700 << 10 };
    uint64_t edged = 0, on_devices = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        uint64_t memory = memories[seed % 4];
        struct made m;

        made_heads(&m, seed);
        check(&m, &(struct plan_budget){ .memory = memory, .threads = 1 + (unsigned)seed % 3 }, &edged);
        check(&m, &(struct plan_budget){ 2 << 20, 1, 1 + (unsigned)seed % 2, memory }, &on_devices);
        made_release(&m);
    }
    assert_true(edged > 60 && on_devices > 60);
}

static void plan(struct plan *p, struct made *m, uint64_t memory, unsigned threads)
{
    struct plan_budget b = { memory, threads, 0, 0 };
    struct err e = { 0 };

    made_size(m);
    if (plan_make(p, &m->ckpt, &m->layout, &b, &m->arena, &e))
        fail_msg("%s", e.msg);
    buffers_keep_to_the_budget(p, &b);
}

/* Within a shard as the outputs are wanted, by the names of files: the embedding before the rest. */
static void tiles_come_as_outputs_are_awaited(void **state)
{
    static const unsigned order[] = { 1, 2, 0, 3 };
    struct made m;
    struct plan p;

    (void)state;
    made_init(&m, 1);
    for (unsigned i = 0; i < 4; i++)
        made_tensor(&m, i == 3, DT_BF16, 100, 100, 0);
    made_item(&m, 0, &m.tensor[3], true);
    made_item(&m, 0, &m.tensor[2], true);
    made_item(&m, 0, &m.tensor[1], false);
    made_item(&m, 0, &m.tensor[0], true);
    made_item(&m, 1, &m.tensor[1], false);
    m.layout.awaited = true;
    plan(&p, &m, 16 << 20, 2);
    assert_int_equal(p.tiles_n, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_ptr_equal(tile_use(&p, &p.tile[i]).source, &m.tensor[order[i]]);
    made_release(&m);
}

static void real_shapes_in_128M(void **state)
{
    struct made m;
    struct plan p;

    (void)state;
    made_init(&m, 1);
    made_item(&m, 1, made_tensor(&m, 0, DT_BF16, 32000, 2048, 1003), false);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 5632, 2048, 0), true);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 32000, 2048, 0), true);
    plan(&p, &m, 128 << 20, 2);
    assert_int_equal(p.tile_slots, 8);
    assert_int_equal(p.tile_bytes, 2 << 20);
    assert_int_equal(p.stream_slots, 4);
    assert_int_equal(p.paneled, 1); /* the head: 131 MB */
    assert_int_equal(p.slab[p.slabs_n - 1].runs, 2048);
    for (uint64_t s = 0; s < p.slabs_n; s++) {
        assert_true(p.slab[s].direct);
        assert_true(p.slab[s].runs == 1 || p.slab[s].last || p.slab[s].run_bytes >= 20000);
    }
    made_release(&m);
}

/* What the head's row panels keep at their edges takes no room from tensors that are whole without it. */
static void edges_leave_whole_tensors_whole(void **state)
{
    (void)state;
    for (uint64_t memory = 16; memory <= 128; memory++) {
        uint64_t paneled[2], edged[2];

        for (unsigned head = 0; head < 2; head++) {
            struct made m;
            struct plan p;

            made_init(&m, 1);
            made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 8192, 2048, 0), true);
            made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 2048, 8192, 0), true);
            if (head)
                made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 128256, 2048, 0), true);
            plan(&p, &m, memory << 20, 2);
            paneled[head] = p.paneled;
            edged[head] = p.edged;
            made_release(&m);
        }
        assert_int_equal(paneled[1], paneled[0] + 1);
        assert_true(edged[1] >= edged[0] && (memory < 72 || edged[1] > edged[0]));
    }
}

/* Nor from one row of a tensor, which must fit: what is planned without a head is not refused with one. */
static void edges_leave_room_for_rows(void **state)
{
    uint64_t refused[2] = { 0 }, edged = 0;

    (void)state;
    for (uint64_t memory = 16; memory <= 32; memory++)
        for (unsigned head = 0; head < 2; head++) {
            struct plan_budget b = { memory << 20, 2, 0, 0 };
            struct err e = { 0 };
            struct made m;
            struct plan p;

            made_init(&m, 1);
            made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 4, 5500000, 0), true); /* rows of 11 MB */
            if (head)
                made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 128257, 512, 0), true);
            made_size(&m);
            refused[head] += plan_make(&p, &m.ckpt, &m.layout, &b, &m.arena, &e) != 0;
            edged += e.kind ? 0 : p.edged;
            made_release(&m);
        }
    assert_int_equal(refused[1], refused[0]);
    assert_true(refused[0] < 16 && edged > 0);
}

static void memory_that_is_left_makes_slots(void **state)
{
    static const unsigned slots[] = { 4, 7, 12 };
    static const uint64_t memory[] = { 135, 141, 160 };

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct made m;
        struct plan p;

        made_init(&m, 1);
        made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 8192, 2048, 0), true); /* 32 MiB, and 64 beside it */
        made_item(&m, 1, made_tensor(&m, 0, DT_BF16, 20000, 2048, 0), true);
        made_item(&m, 1, made_tensor(&m, 0, DT_BF16, 20000, 2048, 0), false);
        plan(&p, &m, memory[i] << 20, 2);
        assert_int_equal(p.stream_slots, slots[i]);
        made_release(&m);
    }
}

/* More would be touched for nothing: two panels with runs of 64 KiB, though 455 MiB are there. */
static void a_head_takes_what_long_runs_need(void **state)
{
    struct made m;
    struct plan p;

    (void)state;
    made_init(&m, 1);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 2048, 8192, 0), true);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 128256, 2048, 0), true);
    plan(&p, &m, 512 << 20, 2);
    assert_int_equal(p.edged, 1);
    assert_int_equal(p.panel_bytes, 2 * 2048 * (65536 + 4096));
    for (uint64_t s = 0; s < p.slabs_n; s++)
        assert_true(!p.slab[s].edged || (p.slab[s].run_bytes <= 65536 && p.slab[s].buf_bytes <= p.panel_bytes / 2));
    made_release(&m);
}

/* A device that is large enough transposes whole tensors, and all that is written is contiguous and direct. */
static void whole_tensors_on_devices(void **state)
{
    struct plan_budget b = { 128 << 20, 1, 2, 4ull << 30 };
    struct err e = { 0 };
    struct made m;
    struct plan p;

    (void)state;
    made_init(&m, 1);
    made_item(&m, 1, made_tensor(&m, 0, DT_BF16, 32000, 2048, 1003), false);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 5632, 2048, 0), true);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 32000, 2048, 0), true);
    made_size(&m);
    assert_int_equal(plan_make(&p, &m.ckpt, &m.layout, &b, &m.arena, &e), 0);
    buffers_keep_to_the_budget(&p, &b);
    assert_int_equal(p.paneled, 0);
    assert_int_equal(p.tile_bytes, 4 << 20);
    assert_int_equal(p.tile_slots, 12);
    assert_true(p.panel_bytes >= 32000 * 2048 * 2);
    for (uint64_t s = 0; s < p.slabs_n; s++)
        assert_int_equal(p.slab[s].direct, p.slab[s].pool != SLAB_PANEL);
    b.device_memory = 100 << 20; /* too small for the head */
    assert_int_equal(plan_make(&p, &m.ckpt, &m.layout, &b, &m.arena, &e), 0);
    assert_int_equal(p.paneled, 1);
    assert_true(p.slab[p.slabs_n - 1].strewn);
    made_release(&m);
}

static void the_least_budgets_do(void **state)
{
    static const struct plan_budget budgets[] = {
        { 16 << 20, 1, 0, 0 }, { 16 << 20, 8, 0, 0 }, { 64 << 20, 8, 0, 0 }, { 16 << 20, 64, 0, 0 }
    };

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct made m;
        struct plan p;

        made_init(&m, 1);
        made_item(&m, 1, made_tensor(&m, 0, DT_BF16, 151936, 8192, 3), false);
        made_item(&m, 0, made_tensor(&m, 0, DT_F32, 8192, 28672, 0), true);
        made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 128256, 16384, 0), true);
        plan(&p, &m, budgets[i].memory, budgets[i].threads);
        assert_int_equal(p.paneled, 2);
        made_release(&m);
    }
}

static void tied_weights_stay_aligned_in_row_panels(void **state)
{
    struct made m;
    struct plan p;
    struct tensor *t;

    (void)state;
    made_init(&m, 1);
    t = made_tensor(&m, 0, DT_BF16, 151665, 96, 7); /* 64 rows end at a multiple of 4096 bytes */
    made_item(&m, 0, t, true);
    made_item(&m, 1, t, false);
    plan(&p, &m, 16 << 20, 2);
    assert_int_equal(p.paneled, 1);
    for (uint64_t s = 0; s < p.slabs_n; s++)
        assert_true(p.slab[s].direct && p.slab[s].edged == (p.slab[s].pool == SLAB_PANEL));
    made_release(&m);
}

/* A head of 128256 x 1024 of which 32000 rows are kept: nothing else is read, and it goes through a small budget. */
static void a_reduced_vocabulary_reads_its_rows_only(void **state)
{
    struct made m;
    struct plan p;
    struct tensor *t;

    (void)state;
    made_init(&m, 1);
    t = made_tensor(&m, 0, DT_BF16, 128256, 1024, 3);
    made_rows(&m, 0, t, made_map(&m, 128256, 32000), 32000, true);
    plan(&p, &m, 64 << 20, 2);
    assert_int_equal(p.to_read, 32000 * 1024 * 2);
    assert_int_equal(p.paneled, 1);
    made_item(&m, 1, t, false); /* tied: the embedding is whole */
    plan(&p, &m, 64 << 20, 2);
    assert_int_equal(p.to_read, (32000 + 128256) * 1024 * 2);
    made_release(&m);
}

static void rows_that_are_not_there_cannot_be_taken(void **state)
{
    static const int32_t map[] = { 3, 99, 100 }, below[] = { 0, -1 };
    const struct recipe *r;
    struct made m;
    struct str s = { 0 };
    struct err e = { 0 };

    (void)state;
    made_init(&m, 1);
    r = recipe_source(&m.arena, made_tensor(&m, 0, DT_BF16, 100, 8, 0));
    assert_null(recipe_rows(&m.arena, r, map, 3, &e));
    assert_non_null(strstr(e.msg, "tensor.1: has 100 rows, and row 100 is to be taken"));
    e = (struct err){ 0 };
    assert_null(recipe_rows(&m.arena, r, below, 2, &e));
    assert_int_equal(e.kind, ERR_RANGE);
    e = (struct err){ 0 };
    assert_null(recipe_rows(&m.arena, r, map, 101, &e));
    e = (struct err){ 0 };
    r = recipe_rows(&m.arena, r, map, 2, &e);
    assert_null(recipe_rows(&m.arena, r, map, 2, &e));
    recipe_describe(r, &s);
    assert_string_equal(s.s, "rows(tensor.1, 2 of 100)");
    str_release(&s);
    made_release(&m);
}

static void a_layout_that_does_not_fit_its_sources_is_refused(void **state)
{
    struct plan_budget b = { 16 << 20, 1, 0, 0 };
    struct made m;
    struct plan p;

    (void)state;
    for (int how = 0; how < 3; how++) {
        struct err e = { 0 };
        struct placed *it;

        made_init(&m, 1);
        it = made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 100, 100, 0), true);
        it->bytes += how == 0;
        it->off += how == 1;
        m.tensor[0].bytes += how == 2;
        assert_int_equal(plan_make(&p, &m.ckpt, &m.layout, &b, &m.arena, &e), -1);
        assert_int_equal(e.kind, ERR_INTERNAL);
        made_release(&m);
    }
}

static void nothing_to_do_is_a_plan_too(void **state)
{
    struct made m;
    struct plan p;

    (void)state;
    made_init(&m, 1);
    plan(&p, &m, 16 << 20, 2);
    assert_int_equal(p.tiles_n + p.slabs_n + p.panel_bytes + p.stream_slots, 0);
    made_tensor(&m, 0, DT_BF16, 0, 100, 0);
    made_item(&m, 0, &m.tensor[0], true);
    plan(&p, &m, 16 << 20, 2);
    assert_int_equal(p.tiles_n, 0);
    made_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_layout_any_budget),
        cmocka_unit_test(any_layout_any_devices),
        cmocka_unit_test(heads_leave_in_whole_blocks),
        cmocka_unit_test(memory_that_is_left_makes_slots),
        cmocka_unit_test(a_head_takes_what_long_runs_need),
        cmocka_unit_test(whole_tensors_on_devices),
        cmocka_unit_test(tiles_come_as_outputs_are_awaited),
        cmocka_unit_test(real_shapes_in_128M),
        cmocka_unit_test(edges_leave_whole_tensors_whole),
        cmocka_unit_test(edges_leave_room_for_rows),
        cmocka_unit_test(the_least_budgets_do),
        cmocka_unit_test(tied_weights_stay_aligned_in_row_panels),
        cmocka_unit_test(a_reduced_vocabulary_reads_its_rows_only),
        cmocka_unit_test(rows_that_are_not_there_cannot_be_taken),
        cmocka_unit_test(a_layout_that_does_not_fit_its_sources_is_refused),
        cmocka_unit_test(nothing_to_do_is_a_plan_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
