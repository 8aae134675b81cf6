/* Archives: what comes out is what went in, whatever the number of threads; every flipped byte and every cut is noticed
 * and named; work is handed out, waited for and given up in order. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <zstd.h>
#include "archive/archive.h"
#include "archive/crew.h"
#include "archive/pack.h"
#include "archive/planes.h"
#include "base/clock.h"
#include "io/file.h"
#include "scratch.h"
#include "weighbridge.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* ------------------------------------------------------------------------------------------------ helpers */

static unsigned char *bytes_of(const char *name, size_t *n)
{
    struct err e = { 0 };
    char *text;

    if (file_read(scratch_path(name), 1u << 30, &text, n, &e))
        fail_msg("%s", e.msg);
    return (unsigned char *)text;
}

/* Some of everything: 16-bit floats that are worth two planes, odd sizes, an empty file, a directory in a directory. */
static void make_tree(void)
{
    static unsigned char noise[300001], data[8 + 72 + 600000];
    const char *header = "{\"x\":{\"dtype\":\"BF16\",\"shape\":[300000],\"data_offsets\":[0,600000]}}";
    uint32_t state = 1;

    memset(data, ' ', 80);
    data[0] = 72;
    memset(data + 1, 0, 7);
    memcpy(data + 8, header, strlen(header));
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (unsigned char)((state = state * 1664525 + 1013904223) >> 24);
    for (size_t i = 80; i < sizeof data; i += 2) {
        data[i] = noise[i % sizeof noise];
        data[i + 1] = 0x3c;
    }
    scratch_dir("in");
    scratch_dir("in/sub");
    scratch_dir("in/sub/deeper");
    scratch_write("in/model.safetensors", data, sizeof data);
    scratch_write("in/sub/noise", noise, sizeof noise);
    scratch_write("in/sub/deeper/one", "x", 1);
    scratch_write("in/empty", "", 0);
}

static struct wb_options both(const char *dir, const char *archive)
{
    return (struct wb_options){ .out = dir, .archive = archive, .threads = 2 };
}

static int packed(void **state)
{
    struct wb_options o = { 0 };
    struct wb_error e = { 0 };

    if (scratch_make(state))
        return -1;
    make_tree();
    o = both(scratch_path("in"), scratch_path("a.wbz"));
    return wb_pack(&o, NULL, &e);
}

static int tested(const char *archive, struct wb_error *e)
{
    struct wb_options o = both(NULL, scratch_path(archive));

    *e = (struct wb_error){ 0 };
    return wb_unpack(&o, NULL, e);
}

/* ------------------------------------------------------------------------------------------------ planes */

static void planes_come_back(void **state)
{
    unsigned char in[99], split[99], back[99];

    (void)state;
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (unsigned char)(i * 7);
    for (size_t n = 0; n <= sizeof in; n++) {
        planes_split(in, n, split);
        planes_join(split, n, back);
        assert_memory_equal(in, back, n);
        for (size_t i = 0; i < n / 2; i++)
            assert_true(split[i] == in[2 * i] && split[n / 2 + i] == in[2 * i + 1]);
    }
}

/* ------------------------------------------------------------------------------------------------ the crew */

struct trace {
    uint64_t order[64], n, fails_at;
};

static void *no_desk(void *user, struct err *e)
{
    (void)e;
    return user;
}

static void no_free(void *desk) { (void)desk; }

static int note_turn(struct crew *c, void *desk, uint64_t piece, struct err *e)
{
    struct trace *t = desk;

    if (piece >= t->fails_at)
        return err_set(e, ERR_FORMAT, "piece %llu", (unsigned long long)piece);
    usleep((useconds_t)((64 - piece) * 20)); /* later ones are done sooner */
    if (!crew_turn(c, 0, piece))
        return -1;
    t->order[t->n++] = piece;
    crew_turned(c, 0);
    return 0;
}

static void turns_come_in_order(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads < 10; threads += 4) {
        struct trace t = { .fails_at = 64 };
        struct crew_job job = {
            .pieces = 64, .threads = threads, .desk_make = no_desk, .desk_free = no_free, .work = note_turn, .user = &t
        };
        struct err e = { 0 };

        assert_int_equal(crew_run(&job, &e), 0);
        assert_int_equal(t.n, 64);
        for (uint64_t i = 0; i < 64; i++)
            assert_int_equal(t.order[i], i);
    }
}

static void lowest_failure_is_told(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads < 10; threads += 2) {
        struct trace t = { .fails_at = 20 };
        struct crew_job job = {
            .pieces = 64, .threads = threads, .desk_make = no_desk, .desk_free = no_free, .work = note_turn, .user = &t
        };
        struct err e = { 0 };

        assert_int_equal(crew_run(&job, &e), -1);
        assert_string_equal(e.msg, "piece 20");
        assert_int_equal(t.n, 20);
    }
}

static int stop_at_once(void *user, uint64_t done, uint64_t bytes, double seconds)
{
    (void)user, (void)done, (void)bytes, (void)seconds;
    return 1;
}

static void crew_stops_on_request(void **state)
{
    struct trace t = { .fails_at = 64 };
    struct crew_job job = { .pieces = 64,
                            .threads = 3,
                            .desk_make = no_desk,
                            .desk_free = no_free,
                            .work = note_turn,
                            .user = &t,
                            .progress = stop_at_once };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(crew_run(&job, &e), -1);
    assert_int_equal(e.kind, ERR_CANCELLED);
}

struct outside { /* pieces from `late` on wait for something that never comes, until all is given up */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t late;
    bool stays_away; /* at once: whoever was waited for has failed */
    unsigned given_up;
    int (*progress)(void *user, uint64_t done, uint64_t bytes, double seconds);
};

static void stop_waiting(void *user)
{
    struct outside *o = user;

    pthread_mutex_lock(&o->lock);
    o->given_up++;
    pthread_cond_broadcast(&o->changed);
    pthread_mutex_unlock(&o->lock);
}

static int wait_outside(struct crew *c, void *desk, uint64_t piece, struct err *e)
{
    struct outside *o = desk;

    if (piece == 9)
        return err_set(e, ERR_IO, "piece 9");
    if (piece < o->late)
        return crew_turn(c, 0, piece) ? (crew_turned(c, 0), 0) : -1;
    pthread_mutex_lock(&o->lock);
    while (!o->given_up && !o->stays_away)
        pthread_cond_wait(&o->changed, &o->lock);
    pthread_mutex_unlock(&o->lock);
    return -1;
}

static int run_outside(struct outside *o, unsigned threads, struct err *e)
{
    struct crew_job job = { .pieces = 64,
                            .threads = threads,
                            .desk_make = no_desk,
                            .desk_free = no_free,
                            .work = wait_outside,
                            .give_up = stop_waiting,
                            .progress = o->progress,
                            .user = o };
    int ret;

    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->changed, NULL);
    ret = crew_run(&job, e);
    pthread_cond_destroy(&o->changed);
    pthread_mutex_destroy(&o->lock);
    return ret;
}

/* A failure of another piece ends the waiting, and is what is told, also where the waiting piece is lower. */
static void a_failure_ends_waiting_outside(void **state)
{
    (void)state;
    for (uint64_t late = 4; late < 14; late += 6) {
        struct outside o = { .late = late };
        struct err e = { 0 };

        assert_int_equal(run_outside(&o, 8, &e), -1);
        assert_string_equal(e.msg, "piece 9");
        assert_true(o.given_up > 0);
    }
}

/* Whoever is waited for fails, or the caller wants no more: not a success, and nobody waits for a turn that never
 * comes. */
static void waiting_in_vain_is_a_stop(void **state)
{
    struct outside absent = { .late = 3, .stays_away = true }, asked = { .late = 3, .progress = stop_at_once };
    struct err e = { 0 }, e2 = { 0 };

    (void)state;
    assert_int_equal(run_outside(&absent, 3, &e), -1);
    assert_int_equal(e.kind, ERR_CANCELLED);
    assert_int_equal(run_outside(&asked, 3, &e2), -1);
    assert_int_equal(e2.kind, ERR_CANCELLED);
}

/* ------------------------------------------------------------------------------------------------ whole archives */

static void whole_archive_is_whole(void **state)
{
    struct wb_error e;
    char *text = NULL;

    (void)state;
    if (tested("a.wbz", &e))
        fail_msg("%s", e.message);
    assert_int_equal(wb_inspect(scratch_path("a.wbz"), &text, &e), 0);
    assert_non_null(strstr(text, "\"split\": 1"));
    wb_free(text);
}

/* Which part of the archive byte `at` is in, as a message must name it. */
/* ------------------------------------------------------------------------------------------------ while it is written
 */

struct written_slowly {
    struct outfile *out;
    uint64_t asked; /* chunks that were waited for */
};

/* The third chunk is only there when the first is in the archive. */
static bool wait_for_the_first(void *user, size_t i, uint64_t off, uint64_t bytes)
{
    struct written_slowly *w = user;
    double begin = clock_wall();
    struct stat st = { 0 };

    assert_int_equal(i, 0);
    assert_true(off + bytes <= 20 << 20);
    w->asked++;
    while (off >= 16 << 20 && !fstat(w->out->fd, &st) && st.st_size < 8 << 20)
        if (clock_wall() - begin > 20)
            return false;
    return true;
}

static bool all_is_there(void *user) { return user != NULL; }

static void no_matter(void *user) { (void)user; }

static void chunks_are_packed_while_later_ones_are_written(void **state)
{
    unsigned char *noise = malloc(20 << 20);
    struct arena a = { 0 };
    struct err e = { 0 };
    struct outfile out = { .fd = -1 };
    struct written_slowly w = { .out = &out };
    const struct tree_growing file = { "noise", 20 << 20 };
    struct pack_growth growth = { &file, 1, wait_for_the_first, all_is_there, no_matter, &w };
    struct pack_options o = { .memory = 64 << 20, .threads = 1, .growth = &growth };
    struct pack_result r;
    uint32_t next = 1;

    (void)state;
    for (size_t i = 0; i < 20 << 20; i++)
        noise[i] = (unsigned char)((next = next * 1664525 + 1013904223) >> 24);
    scratch_dir("growing");
    scratch_write("growing/noise", noise, 20 << 20);
    if (outfile_create(&out, scratch_path("growing.wbz"), false, &a, &e) ||
        pack(scratch_path("growing"), &out, &o, &r, &a, &e) || outfile_publish(&out, &a, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(r.archive.chunks_n, 3);
    assert_int_equal(w.asked, 3);
    arena_release(&a);
    free(noise);
}

static const char *part_of(const struct archive *x, size_t at)
{
    static char text[300];

    for (uint64_t i = 0; i < x->chunks_n; i++)
        if (at >= x->chunk[i].frame_off && at < x->chunk[i].frame_off + x->chunk[i].frame) {
            snprintf(text, sizeof text, "file \"%s\", chunk %llu of ", x->entry[x->chunk[i].entry].name,
                     (unsigned long long)(i - x->entry[x->chunk[i].entry].chunk + 1));
            return text;
        }
    return at < ARCHIVE_HEAD ? "a.wbz: " : at < x->index ? "?" : "damaged";
}

static void every_flipped_byte_is_named(void **state)
{
    struct arena a = { 0 };
    struct err read = { 0 };
    struct archive x;
    size_t n;
    unsigned char *bytes = bytes_of("a.wbz", &n);
    int fd = file_open_read(scratch_path("a.wbz"), &read);

    (void)state;
    assert_int_equal(archive_read(&x, fd, "a.wbz", &a, &read), 0);
    file_close(fd);
    for (size_t i = 0, step = 1; i < n; i += step) {
        struct wb_error e;

        /* all of what is short, some of the long frames */
        step = i >= ARCHIVE_HEAD + 40 && i + 40 < x.index ? 4999 : 1;
        bytes[i] ^= 0x40;
        scratch_write("a.wbz", bytes, n);
        bytes[i] ^= 0x40;
        if (!tested("a.wbz", &e))
            fail_msg("byte %zu of %zu: was not noticed", i, n);
        if (!strstr(e.message, part_of(&x, i)))
            fail_msg("byte %zu of %zu: expected \"%s\" in: %s", i, n, part_of(&x, i), e.message);
    }
    free(bytes);
    arena_release(&a);
}

static void every_cut_is_noticed(void **state)
{
    struct arena a = { 0 };
    struct err read = { 0 };
    struct archive x;
    size_t n;
    unsigned char *bytes = bytes_of("a.wbz", &n);
    int fd = file_open_read(scratch_path("a.wbz"), &read);
    size_t cut[64], cuts = 0;

    (void)state;
    assert_int_equal(archive_read(&x, fd, "a.wbz", &a, &read), 0);
    file_close(fd);
    for (uint64_t i = 0; i < x.chunks_n; i++)
        cut[cuts++] = x.chunk[i].frame_off;
    for (size_t less = 1; less < 45; less++)
        cut[cuts++] = n - less;
    cut[cuts++] = x.index;
    cut[cuts++] = 1;
    cut[cuts++] = 0;
    for (size_t i = 0; i < cuts; i++) {
        struct wb_error e;

        scratch_write("a.wbz", bytes, cut[i]);
        assert_int_equal(tested("a.wbz", &e), -1);
        if (!strstr(e.message, cut[i] < ARCHIVE_HEAD ? "is not an archive" : "cut short"))
            fail_msg("cut at %zu of %zu: %s", cut[i], n, e.message);
    }
    scratch_write("a.wbz", bytes, n);
    {
        FILE *f = fopen(scratch_path("a.wbz"), "ab");
        struct wb_error e;

        fputc(0, f);
        fclose(f);
        assert_int_equal(tested("a.wbz", &e), -1); /* nor may there be more */
    }
    free(bytes);
    arena_release(&a);
}

/* An archive says where it ends, in every place it can: the longest file that zstd takes is not more than what the
 * memory of a thread was counted for. */
static void zstd_needs_what_is_counted(void **state)
{
    size_t n = 8 << 20, room = ZSTD_compressBound(n);
    unsigned char *in = calloc(1, n), *out = malloc(room);
    ZSTD_CCtx *c = ZSTD_createCCtx();

    (void)state;
    ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, 3);
    assert_false(ZSTD_isError(ZSTD_compress2(c, out, room, in, n)));
    assert_true(ZSTD_sizeof_CCtx(c) < 3 << 20);
    ZSTD_freeCCtx(c);
    free(in);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planes_come_back),
        cmocka_unit_test(turns_come_in_order),
        cmocka_unit_test(lowest_failure_is_told),
        cmocka_unit_test(crew_stops_on_request),
        cmocka_unit_test(a_failure_ends_waiting_outside),
        cmocka_unit_test(waiting_in_vain_is_a_stop),
        cmocka_unit_test_setup_teardown(chunks_are_packed_while_later_ones_are_written, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(whole_archive_is_whole, packed, scratch_remove),
        cmocka_unit_test_setup_teardown(every_flipped_byte_is_named, packed, scratch_remove),
        cmocka_unit_test_setup_teardown(every_cut_is_noticed, packed, scratch_remove),
        cmocka_unit_test(zstd_needs_what_is_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
