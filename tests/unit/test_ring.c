/* Slabs come out whole and in order, whatever the number of threads and slots and whoever is late; memory stays within
 * its bounds; a failure in any stage ends every thread. */
#include "pipeline/ring.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

enum { SLABS = 400, JOBS = 3000, TILES = 2000, MARK = sizeof(uint64_t), STREAM = 4096, PANEL_MOST = 5 * 4096 };

/* A plan by hand: panels of several tiles, some two of them at once, and tiles that also, or only, fill stream slabs. A
 * job's result is one mark. */
static struct slab_plan slab[SLABS];
static struct job_plan job[JOBS];
static struct tile_plan tile[TILES];
static struct plan plan;
static uint64_t fail_at; /* tile */

static uint64_t rng = 1;
static uint64_t rnd(uint64_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (rng >> 33) % n;
}

static uint64_t slab_new(enum slab_pool pool, uint64_t bytes)
{
    slab[plan.slabs_n] = (struct slab_plan){ .pool = pool, .runs = 1, .run_bytes = bytes, .buf_bytes = bytes };
    return plan.slabs_n++;
}

static void job_new(uint64_t s)
{
    job[plan.jobs_n] = (struct job_plan){ .slab = s, .dst_off = MARK * slab[s].jobs++ };
    plan.jobs_n++;
}

static void plan_begin(unsigned tile_slots, unsigned stream_slots, size_t panel_bytes)
{
    memset(slab, 0, sizeof slab);
    plan = (struct plan){ .slab = slab,
                          .job = job,
                          .tile = tile,
                          .tile_slots = tile_slots,
                          .tile_bytes = 4096,
                          .stream_slots = stream_slots,
                          .stream_bytes = STREAM,
                          .panel_bytes = panel_bytes };
    plan.buffers = tile_slots * plan_tile_room(&plan) + stream_slots * STREAM + panel_bytes;
}

static void plan_by_hand(unsigned tile_slots, unsigned stream_slots, size_t panel_bytes)
{
    plan_begin(tile_slots, stream_slots, panel_bytes);
    while (plan.slabs_n < SLABS - 20) {
        bool panel = rnd(3) > 0;
        uint64_t n = panel ? 1 + rnd(9) : 1, at = UINT64_MAX, streams = panel ? rnd(3) : 1 + rnd(2);
        unsigned panels = panel ? 1 + (rnd(4) == 0) : 0;

        if (streams > stream_slots)
            streams = stream_slots;
        for (uint64_t k = 0; k < n && plan.slabs_n < SLABS - 5; k++) {
            struct tile_plan *t = &tile[plan.tiles_n++];

            *t = (struct tile_plan){ .job = plan.jobs_n };
            for (unsigned i = 0; i < panels; i++) {
                if (!k)
                    at = slab_new(SLAB_PANEL, 4096 * (1 + rnd(PANEL_MOST / panels / 4096))) - i;
                job_new(at + i);
            }
            for (uint64_t s = 0; s < streams; s++)
                job_new(slab_new(SLAB_STREAM, STREAM));
            t->jobs = (unsigned)(plan.jobs_n - t->job);
        }
    }
}

static uint64_t mark(uint64_t j) { return j * 0x9e3779b97f4a7c15u + 7; }

static void stall(uint64_t n) /* makes some stages late on purpose */
{
    if (n % 11 == 3)
        nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

/* Several tiles in flight, which end in any order. */
static void *reader(void *a)
{
    struct tile_slot *flight[4], *t;
    unsigned n = 0;
    uint64_t next = 0;

    for (;;) {
        while (n < 4 && (t = ring_to_read(a, n == 0))) {
            assert_int_equal(t->tile, next++); /* in plan order */
            memset(t->buf, (int)t->tile, plan_tile_room(&plan));
            flight[n++] = t;
        }
        if (!n)
            return NULL;
        unsigned i = (unsigned)(next * 7 % n);

        stall(next);
        t = flight[i];
        flight[i] = flight[--n];
        ring_loaded(a, t);
    }
}

static void *worker(void *a)
{
    struct ring *r = a;
    struct tile_slot *t;

    while ((t = ring_to_transform(r))) {
        stall(t->tile / 3);
        if (t->tile >= fail_at) {
            struct err e = { 0 };

            err_set(&e, ERR_RANGE, "zero point 3 cannot be folded");
            err_at(&e, "layers.%d.q_proj", 7);
            ring_fail(r, &e);
            return NULL;
        }
        assert_int_equal(t->buf[100], (unsigned char)t->tile);
        for (uint64_t j = tile[t->tile].job; j < tile[t->tile].job + tile[t->tile].jobs; j++) {
            uint64_t m = mark(j);

            memcpy(r->slab[job[j].slab].buf + job[j].dst_off, &m, MARK);
        }
        ring_transformed(r, t);
    }
    return NULL;
}

static void whole_and_within_bounds(const struct ring *r, uint64_t s)
{
    const unsigned char *buf = r->slab[s].buf;
    unsigned found = 0;

    assert_true(buf >= r->memory && buf + slab[s].buf_bytes <= r->memory + plan.buffers);
    for (uint64_t j = 0; j < plan.jobs_n; j++) {
        uint64_t m;

        if (job[j].slab != s)
            continue;
        memcpy(&m, buf + job[j].dst_off, MARK);
        assert_true(m == mark(j));
        found++;
    }
    assert_int_equal(found, slab[s].jobs);
}

/* Several slabs in flight; each is looked at when its turn has come and again when its write ends, in any order. */
static uint64_t write_all(struct ring *r)
{
    uint64_t flight[3], done = 0, last[SLAB_POOLS] = { 0 };
    unsigned n = 0;

    for (;;) {
        uint64_t s;

        while (n < 3 && ring_to_write(r, n == 0, &s)) {
            assert_true(s >= last[slab[s].pool]);
            last[slab[s].pool] = s + 1;
            whole_and_within_bounds(r, s);
            flight[n++] = s;
        }
        if (!n)
            return done;
        unsigned i = (unsigned)(done * 5 % n);

        stall(done);
        s = flight[i];
        flight[i] = flight[--n];
        whole_and_within_bounds(r, s);
        ring_written(r, s);
        done++;
    }
}

static uint64_t run(unsigned workers, struct err *failure)
{
    pthread_t thread[16];
    struct ring r;
    struct err e = { 0 };
    uint64_t done;

    assert_int_equal(ring_init(&r, &plan, &e), 0);
    for (unsigned i = 0; i <= workers; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, i ? worker : reader, &r), 0);
    done = write_all(&r);
    for (unsigned i = 0; i <= workers; i++)
        pthread_join(thread[i], NULL);
    *failure = r.err;
    assert_true(r.stop == ring_stopped(&r));
    ring_release(&r);
    return done;
}

static void every_slab_whole_and_in_order(void **state)
{
    static const unsigned workers[] = { 1, 2, 3, 8, 15 }, tiles[] = { 1, 2, 9 }, streams[] = { 2, 5 };

    (void)state;
    fail_at = UINT64_MAX;
    for (size_t w = 0; w < 5; w++)
        for (size_t t = 0; t < 3; t++)
            for (size_t s = 0; s < 2; s++) {
                struct err e;

                plan_by_hand(tiles[t], streams[s], PANEL_MOST * (1 + (w + t) % 3) + 4096 * w);
                assert_int_equal(run(workers[w], &e), plan.slabs_n);
                assert_int_equal(e.kind, ERR_NONE);
            }
}

static void a_failure_ends_all(void **state)
{
    (void)state;
    for (unsigned workers = 1; workers <= 8; workers += 7)
        for (fail_at = 0; fail_at < 100; fail_at += 13) {
            struct err e;

            plan_by_hand(4, 3, PANEL_MOST);
            assert_true(run(workers, &e) < plan.slabs_n);
            assert_string_equal(e.msg, "layers.7.q_proj: zero point 3 cannot be folded");
        }
}

static void the_first_failure_is_kept(void **state)
{
    struct err one = { 0 }, two = { 0 }, e = { 0 };
    struct ring r;
    uint64_t s;

    (void)state;
    err_set(&one, ERR_IO, "first");
    err_set(&two, ERR_IO, "second");
    plan_by_hand(4, 3, PANEL_MOST);
    assert_int_equal(ring_init(&r, &plan, &e), 0);
    assert_false(ring_stopped(&r));
    ring_fail(&r, &one);
    ring_fail(&r, &two);
    assert_string_equal(r.err.msg, "first");
    assert_null(ring_to_read(&r, true));
    assert_null(ring_to_transform(&r));
    assert_false(ring_to_write(&r, true, &s));
    ring_release(&r);
    ring_release(&r);
}

static void memory_that_is_not_there_is_an_error(void **state)
{
    struct err e = { 0 };
    struct ring r;

    (void)state;
    plan_by_hand(4, 3, PANEL_MOST);
    plan.buffers = 1ull << 50;
    assert_int_equal(ring_init(&r, &plan, &e), -1);
    assert_int_equal(e.kind, ERR_NOMEM);
    assert_non_null(strstr(e.msg, "--memory"));
    ring_release(&r);
}

static void tiles_wait_for_room(void **state)
{
    struct err e = { 0 };
    struct tile_slot *t[3];
    struct ring r;

    (void)state;
    plan_by_hand(3, 2, PANEL_MOST);
    assert_int_equal(ring_init(&r, &plan, &e), 0);
    for (unsigned i = 0; i < 3 && (t[i] = ring_to_read(&r, false)); i++)
        ;
    while (ring_to_read(&r, false))
        fail_msg("more tiles than slots");
    assert_true(r.next_tile <= 3);
    ring_release(&r);
}

/* What was used before is used again, so that no more is touched than is needed at once. */
static void panels_take_the_lowest_room(void **state)
{
    static const unsigned char blocks[] = { 2, 1, 1, 1, 2, 1, 5 };
    enum { PANELS = sizeof blocks };
    struct err e = { 0 };
    struct ring r;
    const unsigned char *area;

    (void)state;
    plan_begin(PANELS, 0, PANEL_MOST);
    for (unsigned i = 0; i < PANELS; i++) {
        tile[plan.tiles_n++] = (struct tile_plan){ .job = plan.jobs_n, .jobs = 1 };
        job_new(slab_new(SLAB_PANEL, 4096 * blocks[i]));
    }
    assert_int_equal(ring_init(&r, &plan, &e), 0);
    area = r.area[0].at;
    for (unsigned i = 0; i < 4; i++)
        assert_non_null(ring_to_read(&r, false));
    assert_null(ring_to_read(&r, false)); /* the area is full */
    for (unsigned i = 0; i < 4; i++)
        assert_ptr_equal(r.slab[i].buf, area + 4096 * (i ? i + 1 : 0));
    ring_written(&r, 2); /* its block is too small for the next one */
    assert_null(ring_to_read(&r, false));
    ring_written(&r, 0);
    assert_non_null(ring_to_read(&r, false));
    assert_ptr_equal(r.slab[4].buf, area);
    assert_non_null(ring_to_read(&r, false));
    assert_ptr_equal(r.slab[5].buf, area + 4096 * 3);
    ring_written(&r, 5);
    ring_written(&r, 1);
    ring_written(&r, 4);
    assert_null(ring_to_read(&r, false));
    ring_written(&r, 3);
    assert_int_equal(r.area[0].used, 0);
    assert_non_null(ring_to_read(&r, false)); /* all of it */
    assert_ptr_equal(r.slab[6].buf, area);
    ring_release(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_slab_whole_and_in_order), cmocka_unit_test(a_failure_ends_all),
        cmocka_unit_test(the_first_failure_is_kept),     cmocka_unit_test(tiles_wait_for_room),
        cmocka_unit_test(panels_take_the_lowest_room),   cmocka_unit_test(memory_that_is_not_there_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
