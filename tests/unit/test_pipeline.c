/* The bytes, hashes and counters of an output depend on the layout alone: not on engine, threads, memory or luck.  And
 * what goes wrong, wherever it does, is one clean error. */
#include "pipeline/pipeline.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/hash.h"
#include "io/engine_fault.h"
#include "io/file.h"
#include "io/io.h"
#include "layouts.h"
#include "pipeline/filled.h"

static char dir[] = "/tmp/test_pipeline_XXXXXX";
static int dir_fd;

static int set_up(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(dir_fd);
    return rmdir(dir);
}

/* ---- a checkpoint on disk, and what must come out of it ---- */

struct want { /* by the plainest means there are: whole tensors, one after the other, by the definitions */
    unsigned char *bytes[2];
    struct item_result item[MADE_MAX];
};

static void write_shards(struct made *m)
{
    for (size_t i = 0; i < m->ckpt.files_n; i++) {
        struct ckpt_file *f = &m->shard[i];
        unsigned char *bytes = malloc(f->id.bytes + 8);
        struct err e = { 0 };
        int fd;

        for (uint64_t k = 0; k < f->id.bytes; k += 4) { /* 16 random bits twice: all of bf16, f16; infinities, NaNs */
            uint32_t v = (uint32_t)made_random(m) & 0xffff;

            v |= (v * 40503u) << 16;
            memcpy(bytes + k, &v, 4);
        }
        f->path = arena_printf(&m->arena, "%s/%s", dir, f->name);
        fd = open(f->path, O_CREAT | O_TRUNC | O_RDWR, 0600);
        assert_int_equal(file_pwrite(fd, f->path, bytes, f->id.bytes, 0, &e), 0);
        assert_int_equal(file_identify(fd, f->path, &f->id, &e), 0);
        close(fd);
        free(bytes);
    }
}

static void remove_shards(const struct made *m)
{
    for (size_t i = 0; i < m->ckpt.files_n; i++)
        unlink(m->shard[i].path);
}

static void want_item(struct want *w, const struct made *m, size_t i)
{
    const struct placed *it = &m->item[i];
    unsigned char *src, *dst = w->bytes[it->file] + it->off;
    struct recipe_plain p;
    struct err e = { 0 };
    struct job j;
    uint64_t row;
    int fd;

    assert_int_equal(recipe_plain(it->recipe, &p, &e), 0);
    row = p.cols * dtype_bytes(p.source->dtype);
    src = malloc(p.rows * row + 1);
    fd = open(m->shard[p.source->file].path, O_RDONLY);
    for (uint64_t r = 0; r < p.rows; r++)
        assert_int_equal(file_pread(fd, "shard", src + r * row, row,
                                    p.source->off + (p.gather ? (uint64_t)p.gather[r] : r) * row, &e),
                         0);
    close(fd);
    j = (struct job){ .src = src,
                      .src_pitch = p.cols * dtype_bytes(p.source->dtype),
                      .dst = dst,
                      .dst_pitch = (p.transform->cut == CUT_ROWS ? p.rows : p.cols) * 2,
                      .rows = p.rows,
                      .cols = p.cols };
    p.transform->ref(&j);
    w->item[i] = (struct item_result){ .counters = j.counters, .hash = hash_tensor(dst, it->bytes) };
    free(src);
}

static void want_make(struct want *w, const struct made *m)
{
    memset(w, 0, sizeof *w);
    for (size_t f = 0; f < 2; f++) {
        w->bytes[f] = calloc(1, m->file[f].bytes + 1);
        if (m->file[f].head_bytes)
            memcpy(w->bytes[f], m->file[f].head, m->file[f].head_bytes);
    }
    for (size_t i = 0; i < m->layout.items_n; i++)
        want_item(w, m, i);
}

static void want_release(struct want *w)
{
    free(w->bytes[0]);
    free(w->bytes[1]);
}

static void remove_outputs(const struct made *m)
{
    for (size_t f = 0; f < 2; f++)
        unlinkat(dir_fd, m->file[f].name, 0);
}

static void outputs_are(const struct made *m, const struct want *w, const struct run_result *r)
{
    for (size_t f = 0; f < 2; f++) {
        struct err e = { 0 };
        char *path = arena_printf((struct arena *)&m->arena, "%s/%s", dir, m->file[f].name), *bytes;
        size_t n;

        assert_int_equal(file_read(path, SIZE_MAX, &bytes, &n, &e), 0);
        assert_int_equal(n, m->file[f].bytes);
        assert_int_equal(memcmp(bytes, w->bytes[f], n), 0);
        free(bytes);
    }
    for (size_t i = 0; i < m->layout.items_n; i++) {
        assert_true(r->item[i].hash == w->item[i].hash);
        assert_int_equal(r->item[i].counters.overflow, w->item[i].counters.overflow);
        assert_int_equal(r->item[i].counters.flushed, w->item[i].counters.flushed);
        assert_int_equal(r->item[i].counters.nan, w->item[i].counters.nan);
        assert_int_equal(r->item[i].counters.worst, w->item[i].counters.worst);
    }
}

/* ---- runs ---- */

struct setup {
    const char *io;
    unsigned threads;
    uint64_t memory;
    int (*progress)(void *user, const struct run_progress *p);
    void (*change)(struct plan *p); /* before the run */
    bool joint;
    struct filled *filled;
};

static int run(struct made *m, const struct setup *s, struct run_result *r, struct plan *p, struct err *e)
{
    struct plan_budget b = { .memory = s->memory, .threads = s->threads };
    struct run_options o = {
        .io = s->io, .threads = s->threads, .joint = s->joint, .filled = s->filled, .progress = s->progress, .user = m
    };

    if (plan_make(p, &m->ckpt, &m->layout, &b, &m->arena, e))
        return -1;
    if (s->change)
        s->change(p);
    return pipeline_run(p, dir_fd, dir, &o, r, e);
}

static bool have(const char *engine)
{
    struct err e = { 0 };
    struct io io;
    bool can = !io_open(&io, engine, 1, &e);

    io_close(&io);
    return can;
}

static unsigned shards_of(const struct run_result *r, enum io_way way)
{
    unsigned n = 0;

    for (unsigned why = 0; why < IO_WHYS; why++)
        n += r->shards[way][why];
    return n;
}

struct panels { /* how many tensors left in row panels, over all setups, and how many of them in whole blocks */
    uint64_t all, edged;
};

static struct panels same_in_all(struct made *m, const uint64_t *memory, size_t memories)
{
    static const unsigned threads[] = { 1, 2, 8 };
    struct panels panels = { 0 };
    struct want w;

    write_shards(m);
    want_make(&w, m);
    for (size_t i = 0; i <= io_engines_n; i++)
        for (size_t k = 0; k < memories * 3; k++) {
            struct setup s = { .io = i < io_engines_n ? io_engines[i]->name : "mmap",
                               .threads = threads[k % 3],
                               .memory = memory[k / 3] };
            struct run_result r;
            struct err e = { 0 };
            struct plan p;

            if (!have(s.io))
                continue;
            io_fault_set(&(struct io_fault){ .at_most = 20480 });
            if (run(m, &s, &r, &p, &e))
                fail_msg("%s: %s", s.io, e.msg);
            outputs_are(m, &w, &r);
            if (i < io_engines_n)
                assert_string_equal(r.engine, s.io);
            assert_int_equal(shards_of(&r, IO_MAPPED) > 0, i == io_engines_n);
            assert_true(r.buffers <= s.memory && r.read >= p.to_read && r.written >= p.to_write && r.wall > 0);
            remove_outputs(m);
            panels.all += p.paneled;
            panels.edged += p.edged;
        }
    want_release(&w);
    remove_shards(m);
    return panels;
}

static void any_layout_in_any_setup(void **state)
{
    static const uint64_t memory[] = { 700 << 10, 2 << 20, 64 << 20 };
    uint64_t paneled = 0;

    (void)state;
    for (uint64_t seed = 1000; seed < 1005; seed++) {
        struct made m;

        made_anything(&m, seed, 400000);
        paneled += same_in_all(&m, memory, 3).all;
        made_release(&m);
    }
    assert_true(paneled > 10);
}

static void heads_leave_in_whole_blocks(void **state)
{
    static const uint64_t memory[] = { 500 << 10, 900 << 10 };
    struct panels panels = { 0 };

    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct panels more;
        struct made m;

        made_heads(&m, seed);
        more = same_in_all(&m, memory, 2);
        panels.all += more.all;
        panels.edged += more.edged;
        made_release(&m);
    }
    assert_true(panels.edged > 100);
}

/* Like a small model: tied, a vocabulary of 61 or one like Qwen's, mixed dtypes, odd starts, several shards. */
static void a_model(struct made *m, uint64_t vocab, uint64_t hidden)
{
    struct tensor *embed;

    made_init(m, vocab);
    embed = made_tensor(m, 0, DT_BF16, vocab, hidden, 1003);
    for (unsigned l = 0; l < 2; l++) {
        made_item(m, 0, made_tensor(m, l, DT_F32, 1, hidden, 0), false);
        made_item(m, 0, made_tensor(m, l, DT_BF16, hidden, hidden, 3), true);
        made_item(m, 0, made_tensor(m, l, DT_F16, 3 * hidden + 1, hidden, 0), true);
        made_item(m, 0, made_tensor(m, l, DT_F32, hidden, 3 * hidden + 1, 0), true);
    }
    made_item(m, 0, embed, true);
    made_item(m, 1, embed, false);
    made_size(m);
}

struct chase {
    const struct made *m;
    const struct want *w;
    struct filled *filled;
    uint64_t pieces, early; /* those that were there before all was written */
    bool wrong;
};

static bool piece_is_right(const struct chase *c, int fd, size_t file, uint64_t off, size_t n)
{
    unsigned char *bytes = malloc(n);
    struct err e = { 0 };
    bool right =
        !file_pread(fd, c->m->file[file].name, bytes, n, off, &e) && !memcmp(bytes, c->w->bytes[file] + off, n);

    free(bytes);
    return right;
}

/* Reads each piece as soon as it is said to be there. */
static void *chase_main(void *arg)
{
    struct chase *c = arg;
    enum { PIECE = 30011 };

    c->wrong = !filled_wait(c->filled, FILLED_OPEN);
    for (size_t i = 2; i-- > 0;) {
        const struct data_file *f = &c->m->file[i];
        int fd = openat(dir_fd, f->name, O_RDONLY);

        file_read_exactly(fd);
        for (uint64_t off = 0; off < f->bytes; off += PIECE) {
            size_t n = f->bytes - off < PIECE ? (size_t)(f->bytes - off) : PIECE;

            c->wrong |= !filled_wait_bytes(c->filled, i, off, n) || !piece_is_right(c, fd, i, off, n);
            c->pieces++;
            pthread_mutex_lock(&c->filled->lock);
            c->early += c->filled->stage < FILLED_WHOLE;
            pthread_mutex_unlock(&c->filled->lock);
        }
        close(fd);
    }
    return NULL;
}

static void chased(struct made *m, const struct want *w, struct setup s, struct chase *c)
{
    struct filled filled;
    struct run_result r;
    struct err e = { 0 };
    struct plan p;
    pthread_t thread;

    filled_init(&filled, &m->layout, &m->arena);
    c->m = m;
    c->w = w;
    c->filled = s.filled = &filled;
    assert_int_equal(pthread_create(&thread, NULL, chase_main, c), 0);
    if (run(m, &s, &r, &p, &e))
        fail_msg("%s: %s", s.io, e.msg);
    filled_reach(&filled, FILLED_WHOLE);
    pthread_join(thread, NULL);
    assert_false(c->wrong);
    outputs_are(m, w, &r);
    remove_outputs(m);
    filled_release(&filled);
}

static int by_place(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;

    return x->file != y->file ? (x->file < y->file ? -1 : 1) : x->off < y->off ? -1 : x->off > y->off;
}

/* Not a byte before it is there, in slabs, panels and row panels, and in whatever order writes end; but some
 * of them long before the end, where writing takes its time. */
static void what_is_said_to_be_written_is_there(void **state)
{
    static const uint64_t memory[] = { 700 << 10, 2 << 20, 64 << 20 };
    struct chase slow = { 0 }, quick = { 0 };

    (void)state;
    for (uint64_t seed = 1000; seed < 1008; seed++)
        for (size_t i = 0; i < io_engines_n; i++) {
            struct setup s = { .io = io_engines[i]->name,
                               .threads = 1 + (unsigned)seed % 3,
                               .memory = memory[seed % 3] };
            struct made m;
            struct want w;

            if (!have(s.io))
                continue;
            io_fault_set(&(struct io_fault){ .at_most = 20480, .delay = 300 });
            made_anything(&m, seed, 400000);
            qsort(m.item, m.layout.items_n, sizeof *m.item, by_place);
            m.layout.awaited = seed % 2;
            write_shards(&m);
            want_make(&w, &m);
            chased(&m, &w, s, strcmp(s.io, "fault") ? &quick : &slow);
            want_release(&w);
            remove_shards(&m);
            made_release(&m);
        }
    assert_true(quick.pieces > 200 && slow.pieces > 200 && slow.early > slow.pieces / 8);
}

static void a_model_in_any_setup(void **state)
{
    static const uint64_t memory[] = { 1 << 20, 16 << 20, 64 << 20, 512 << 20 };
    struct made m;

    (void)state;
    a_model(&m, 61, 128);
    same_in_all(&m, memory, 4);
    made_release(&m);
    a_model(&m, 7583, 96);
    assert_true(same_in_all(&m, memory, 2).all > 0);
    made_release(&m);
}

/* Tied or not, in row panels, by rows shorter and longer than a tile. */
static void a_reduced_vocabulary_in_any_setup(void **state)
{
    static const uint64_t memory[] = { 700 << 10, 64 << 20 };
    static const struct shape {
        uint64_t rows, cols, n;
    } shapes[] = { { 61, 128, 17 }, { 7583, 96, 3000 }, { 40, 30001, 9 } };
    struct made m;

    (void)state;
    for (size_t i = 0; i < 3; i++)
        for (unsigned tied = 0; tied < 2; tied++) {
            const struct shape *s = &shapes[i];
            struct tensor *t;

            made_init(&m, i);
            t = made_tensor(&m, 0, DT_BF16, s->rows, s->cols, 1003);
            made_rows(&m, 0, t, made_map(&m, s->rows, s->n), s->n, true);
            if (tied)
                made_item(&m, 1, t, false);
            made_item(&m, 0, made_tensor(&m, 0, DT_F32, 50, 70, 0), true);
            made_size(&m);
            same_in_all(&m, memory, 2);
            made_release(&m);
        }
}

static void a_qwen_vocabulary_in_panels(void **state)
{
    struct setup s = { .io = "auto", .threads = 2, .memory = 5 << 20 };
    struct run_result r;
    struct err e = { 0 };
    struct plan p;
    struct made m;
    struct want w;

    (void)state;
    made_init(&m, 1);
    made_tensor(&m, 0, DT_BF16, 151665, 24, 5);
    made_item(&m, 0, &m.tensor[0], true);
    made_item(&m, 1, &m.tensor[0], false);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 1, 64, 0), false); /* so that there is padding behind the panels */
    made_size(&m);
    write_shards(&m);
    want_make(&w, &m);
    if (run(&m, &s, &r, &p, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(p.paneled, 1);
    outputs_are(&m, &w, &r);
    remove_outputs(&m);
    remove_shards(&m);
    want_release(&w);
    made_release(&m);
}

/* What has not been read lately comes by direct I/O, where the file system lets it; what has, from the cache. */
static void cold_and_cached_shards(void **state)
{
    struct setup s = { .io = "auto", .threads = 2, .memory = 2 << 20 };
    struct run_result r;
    struct err e = { 0 };
    struct plan p;
    struct made m;
    struct want w;
    int fd;

    (void)state;
    a_model(&m, 5000, 96);
    write_shards(&m);
    want_make(&w, &m);
    for (int cold = 0; cold < 2; cold++) {
        bool dropped = true, direct = true;

        for (size_t i = 0; i < m.ckpt.files_n; i++) {
            fd = open(m.shard[i].path, O_RDWR);
            if (cold) {
                fsync(fd);
                posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            }
            dropped &= file_cached(fd, m.shard[i].id.bytes) < 0.1;
            direct &= io_direct(fd, true);
            close(fd);
        }
        assert_int_equal(run(&m, &s, &r, &p, &e), 0);
        outputs_are(&m, &w, &r);
        assert_int_equal(r.direct_read, dropped && direct);
        assert_int_equal(r.shards[IO_DIRECT][IO_NOT_CACHED], dropped && direct ? m.ckpt.files_n : 0);
        assert_int_equal(shards_of(&r, IO_MAPPED), dropped ? 0 : m.ckpt.files_n);
        assert_int_equal(r.direct_write, direct);
        remove_outputs(&m);
    }
    remove_shards(&m);
    want_release(&w);
    made_release(&m);
}

static void many_shards_need_few_descriptors(void **state)
{
    struct setup s = { .io = "auto", .threads = 8, .memory = 16 << 20 };
    struct rlimit before, few = { 40, 40 };
    struct run_result r;
    struct err e = { 0 };
    struct plan p;
    struct made m;
    struct want w;

    (void)state;
    made_init(&m, 3);
    for (unsigned i = 0; i < 200; i++)
        made_item(&m, 0, made_tensor(&m, i, DT_BF16, 40, 50, i), true);
    made_size(&m);
    write_shards(&m);
    want_make(&w, &m);
    getrlimit(RLIMIT_NOFILE, &before);
    few.rlim_max = before.rlim_max;
    setrlimit(RLIMIT_NOFILE, &few);
    assert_int_equal(run(&m, &s, &r, &p, &e), 0);
    setrlimit(RLIMIT_NOFILE, &before);
    outputs_are(&m, &w, &r);
    remove_outputs(&m);
    remove_shards(&m);
    want_release(&w);
    made_release(&m);
}

static void nothing_to_move_still_makes_the_files(void **state)
{
    struct setup s = { .io = "auto", .threads = 1, .memory = 16 << 20 };
    struct run_result r;
    struct err e = { 0 };
    struct plan p;
    struct made m;
    struct want w;

    (void)state;
    made_init(&m, 3);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 0, 50, 0), true);
    made_size(&m);
    write_shards(&m);
    want_make(&w, &m);
    assert_int_equal(run(&m, &s, &r, &p, &e), 0);
    outputs_are(&m, &w, &r);
    remove_outputs(&m);
    remove_shards(&m);
    want_release(&w);
    made_release(&m);
}

/* ---- what goes wrong ---- */

/* sqlite's way: fail the n-th op for n = 1, 2, ... until the run succeeds. */
static void sweep(int error, enum err_kind kind)
{
    struct made m;
    struct want w;
    unsigned long n;

    made_init(&m, 9);
    made_tensor(&m, 0, DT_BF16, 3000, 48, 5);
    made_item(&m, 0, made_tensor(&m, 0, DT_F32, 100, 150, 0), true);
    made_item(&m, 0, &m.tensor[0], true); /* in row panels: also read back */
    made_item(&m, 1, &m.tensor[0], false);
    made_rows(&m, 0, &m.tensor[0], made_map(&m, 3000, 40), 40, true);
    made_item(&m, 0, made_tensor(&m, 1, DT_F16, 60, 50, 0), false);
    made_size(&m);
    write_shards(&m);
    want_make(&w, &m);
    for (n = 1;; n++) {
        struct setup s = { .io = "fault", .threads = 1 + n % 2, .memory = 400 << 10 };
        struct run_result r;
        struct err e = { 0 };
        struct plan p;
        int ret;

        io_fault_set(&(struct io_fault){ .at_most = 65536, .fail = n, .error = error });
        ret = run(&m, &s, &r, &p, &e);
        assert_int_equal(p.paneled, 1);
        if (!ret)
            outputs_are(&m, &w, &r);
        remove_outputs(&m);
        if (!ret && io_fault_count() < n)
            break;
        if (kind == ERR_NONE) {
            assert_int_equal(ret, 0);
            continue;
        }
        assert_int_equal(ret, -1);
        assert_true(e.kind == kind);
        assert_true(strstr(e.msg, "onnx_model.data: ") || strstr(e.msg, "embedding.safetensors: ") ||
                    strstr(e.msg, "model-0000"));
        assert_non_null(strstr(e.msg, dir));
    }
    assert_true(n > 60);
    remove_shards(&m);
    want_release(&w);
    made_release(&m);
}

static void every_failing_op_is_one_clean_error(void **state)
{
    (void)state;
    sweep(EIO, ERR_IO);
    sweep(ENOSPC, ERR_SPACE);
}

static void every_interrupted_op_goes_on(void **state)
{
    (void)state;
    sweep(EINTR, ERR_NONE);
}

/* Neither to transform it nor for its hash. */
static void what_other_ranks_write_is_not_read(void **state)
{
    unsigned long ops[2];

    (void)state;
    for (unsigned others = 0; others < 2; others++) {
        struct setup s = { .io = "fault", .threads = 1, .memory = 400 << 10, .joint = true };
        struct run_result r;
        struct err e = { 0 };
        struct plan p;
        struct made m;

        made_init(&m, 3);
        made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 300, 200, 0), true);
        for (unsigned i = 0; i < others; i++) {
            made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 500, 600, 0), i)->done = true;
            made_item(&m, 1, made_tensor(&m, 0, DT_BF16, 500, 600, 0), i)->done = true;
        }
        made_size(&m);
        write_shards(&m);
        for (size_t f = 0; f < 2; f++)
            close(io_create(dir_fd, m.file[f].name, m.file[f].name, m.file[f].bytes, &e));
        io_fault_set(&(struct io_fault){ .at_most = 4096 });
        if (run(&m, &s, &r, &p, &e))
            fail_msg("%s", e.msg);
        ops[others] = io_fault_count();
        remove_outputs(&m);
        remove_shards(&m);
        made_release(&m);
    }
    assert_int_equal(ops[0], ops[1]);
}

/* One run that must fail, with a message that has `text` in it. */
static void refused(struct made *m, const struct setup *s, enum err_kind kind, const char *text)
{
    struct run_result r;
    struct err e = { 0 };
    struct plan p;

    assert_int_equal(run(m, s, &r, &p, &e), -1);
    if (e.kind != kind || !strstr(e.msg, text))
        fail_msg("expected \"%s\", got kind %d: %s", text, e.kind, e.msg);
    remove_outputs(m);
}

static void a_source_that_has_changed_is_refused(void **state)
{
    static const struct setup s = { .io = "auto", .threads = 2, .memory = 2 << 20 };
    static const struct timespec now[2] = { { 0, UTIME_NOW }, { 0, UTIME_NOW } };
    const char *shard;
    struct err e = { 0 };
    struct made m;
    int fd;

    (void)state;
    a_model(&m, 1000, 96);
    write_shards(&m);
    shard = m.shard[1].path;
    nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    utimensat(AT_FDCWD, shard, now, 0);
    refused(&m, &s, ERR_FORMAT, "model-00001.safetensors: has changed since its header was read");
    assert_int_equal(truncate(shard, (off_t)m.shard[1].id.bytes - 100), 0);
    refused(&m, &s, ERR_FORMAT, "model-00001.safetensors: has changed since its header was read");
    fd = open(shard, O_RDONLY);
    assert_int_equal(file_identify(fd, shard, &m.shard[1].id, &e), 0); /* as if it had been so short all along */
    refused(&m, &s, ERR_FORMAT, "bytes too early");
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    refused(&m, &s, ERR_FORMAT, "bytes too early");
    close(fd);
    unlink(shard);
    refused(&m, &s, ERR_IO, "model-00001.safetensors: cannot be opened");
    assert_int_equal(mkfifo(shard, 0600), 0);
    refused(&m, &s, ERR_FORMAT, "model-00001.safetensors: is not a regular file");
    remove_shards(&m);
    made_release(&m);
}

static const char *touched; /* by the transform */

static void touch_and_do_nothing(struct job *j)
{
    utimensat(AT_FDCWD, touched, NULL, 0);
    j->counters = (struct counters){ 0 };
}

static void transforms_touch(struct plan *p)
{
    static const struct transform touch = { .name = "touch", .ref = touch_and_do_nothing };

    for (uint64_t j = 0; j < p->jobs_n; j++)
        p->job[j].transform = &touch;
}

static void a_source_that_changes_meanwhile_is_refused(void **state)
{
    static const struct setup s = { .io = "auto", .threads = 1, .memory = 2 << 20, .change = transforms_touch };
    struct made m;

    (void)state;
    made_init(&m, 1);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 20000, 100, 0), true);
    made_size(&m);
    write_shards(&m);
    nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    touched = m.shard[0].path;
    refused(&m, &s, ERR_FORMAT, "model-00000.safetensors: has changed while it was being read");
    remove_shards(&m);
    made_release(&m);
}

/* The shard is there and mapped when its first tile is transformed; then it loses its end. */
static void cut_and_do_nothing(struct job *j)
{
    if (truncate(touched, 100000))
        abort();
    for (size_t i = 0; i < j->rows * j->cols * 2; i++)
        if (((const volatile unsigned char *)j->src)[i] == 255)
            j->counters.nan++;
    j->counters = (struct counters){ 0 };
}

static void transforms_cut(struct plan *p)
{
    static const struct transform cut = { .name = "cut", .ref = cut_and_do_nothing };

    for (uint64_t j = 0; j < p->jobs_n; j++)
        p->job[j].transform = &cut;
}

static void a_mapped_source_that_loses_its_end_is_refused(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads < 4; threads++) {
        struct setup s = { .io = "mmap", .threads = threads, .memory = 2 << 20, .change = transforms_cut };
        struct made m;

        made_init(&m, 1);
        made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 20000, 100, 0), true);
        made_size(&m);
        write_shards(&m);
        touched = m.shard[0].path;
        refused(&m, &s, ERR_FORMAT, "model-00000.safetensors: ");
        remove_shards(&m);
        made_release(&m);
    }
}

static void outputs_that_cannot_be_made_are_refused(void **state)
{
    static const struct setup s = { .io = "auto", .threads = 1, .memory = 2 << 20 };
    struct made m;

    (void)state;
    a_model(&m, 61, 96);
    write_shards(&m);
    close(openat(dir_fd, "embedding.safetensors", O_CREAT | O_WRONLY, 0600));
    refused(&m, &s, ERR_IO, "embedding.safetensors: cannot be created");
    refused(&m, &(struct setup){ .io = "magic", .threads = 1, .memory = 2 << 20 }, ERR_USAGE, "\"magic\" is unknown");
    assert_int_equal(faccessat(dir_fd, "onnx_model.data", F_OK, 0), -1); /* nothing was made before that was found */
    remove_shards(&m);
    made_release(&m);
}

static void slow(struct job *j)
{
    nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    j->counters = (struct counters){ 0 };
}

static void transforms_sleep(struct plan *p)
{
    static const struct transform t = { .name = "slow", .ref = slow };

    for (uint64_t j = 0; j < p->jobs_n; j++)
        p->job[j].transform = &t;
}

static unsigned calls;
static int stop_at_once(void *user, const struct run_progress *p) { return (void)user, p->to_read > 0; }
static int stop_later(void *user, const struct run_progress *p) { return (void)user, ++calls == 3 && p->read > 0; }

static void the_caller_can_stop_it(void **state)
{
    struct setup s = {
        .io = "auto", .threads = 2, .memory = 1 << 20, .progress = stop_at_once, .change = transforms_sleep
    };
    struct made m;
    double begin;

    (void)state;
    made_init(&m, 1);
    made_item(&m, 0, made_tensor(&m, 0, DT_BF16, 60000, 100, 0), true);
    made_size(&m);
    write_shards(&m);
    begin = clock_wall();
    refused(&m, &s, ERR_CANCELLED, "stopped on request");
    s.progress = stop_later;
    refused(&m, &s, ERR_CANCELLED, "stopped on request");
    assert_int_equal(calls, 3);
    assert_true(clock_wall() - begin < 5);
    remove_shards(&m);
    made_release(&m);
}

static struct run_progress seen;
static bool limits[STAGES + 1];
static int look(void *user, const struct run_progress *p)
{
    (void)user;
    assert_true(p->read >= seen.read && p->written >= seen.written && p->seconds >= seen.seconds);
    seen = *p;
    limits[p->limit] = true;
    return 0;
}

static void progress_ends_at_the_end_and_at_once(void **state)
{
    struct setup s = { .io = "auto", .threads = 2, .memory = 16 << 20, .progress = look };
    struct run_result r;
    struct err e = { 0 };
    struct plan p;
    struct made m;

    (void)state;
    a_model(&m, 61, 96);
    write_shards(&m);
    assert_int_equal(run(&m, &s, &r, &p, &e), 0);
    assert_int_equal(seen.read, seen.to_read);
    assert_int_equal(seen.written, seen.to_write);
    assert_int_equal(seen.to_read, p.to_read);
    remove_outputs(&m);
    remove_shards(&m);
    made_release(&m);
}

/* One that sleeps is waited for, and the time of each stage adds up to that of the run. */
static void the_slow_stage_is_named(void **state)
{
    struct setup s = { .io = "auto", .threads = 2, .memory = 1 << 20, .change = transforms_sleep, .progress = look };
    struct run_result r;
    struct err e = { 0 };
    struct plan p;
    struct made m;

    (void)state;
    seen = (struct run_progress){ 0 };
    memset(limits, 0, sizeof limits);
    a_model(&m, 2003, 96);
    write_shards(&m);
    assert_int_equal(run(&m, &s, &r, &p, &e), 0);
    assert_true(limits[STAGE_TRANSFORM]);
    assert_true(r.waiting[STAGE_READ] > 0 && r.waiting[STAGE_WRITE] > 0);
    assert_true(r.busy[STAGE_TRANSFORM] > 0.1 * (double)p.jobs_n);
    for (enum stage i = 0; i < STAGES; i++) {
        double all = (r.busy[i] + r.waiting[i]) / (i == STAGE_TRANSFORM ? 2 : 1);

        assert_true(r.busy[i] > 0 && all <= r.wall);
    }
    assert_in_range(r.series_n, 2, METER_SAMPLES);
    assert_int_equal(r.series[r.series_n - 1].read, p.to_read);
    assert_int_equal(r.series[r.series_n - 1].written, p.to_write);
    remove_outputs(&m);
    remove_shards(&m);
    made_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_layout_in_any_setup),
        cmocka_unit_test(heads_leave_in_whole_blocks),
        cmocka_unit_test(what_is_said_to_be_written_is_there),
        cmocka_unit_test(a_model_in_any_setup),
        cmocka_unit_test(a_reduced_vocabulary_in_any_setup),
        cmocka_unit_test(a_qwen_vocabulary_in_panels),
        cmocka_unit_test(cold_and_cached_shards),
        cmocka_unit_test(many_shards_need_few_descriptors),
        cmocka_unit_test(nothing_to_move_still_makes_the_files),
        cmocka_unit_test(every_failing_op_is_one_clean_error),
        cmocka_unit_test(every_interrupted_op_goes_on),
        cmocka_unit_test(what_other_ranks_write_is_not_read),
        cmocka_unit_test(a_source_that_has_changed_is_refused),
        cmocka_unit_test(a_source_that_changes_meanwhile_is_refused),
        cmocka_unit_test(a_mapped_source_that_loses_its_end_is_refused),
        cmocka_unit_test(outputs_that_cannot_be_made_are_refused),
        cmocka_unit_test(the_caller_can_stop_it),
        cmocka_unit_test(progress_ends_at_the_end_and_at_once),
        cmocka_unit_test(the_slow_stage_is_named),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
