/* A directory becomes name -> {file, offset, dtype, shape}, or one message that names all its bad files; either way no
 * descriptor stays open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>
#include "checkpoint/container.h"
#include "scratch.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define T(name, dtype, shape, offsets)                                                                                 \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(name) "{" T(name, "U8", "[4]", "[0,4]") "}" /* with 4 bytes of data */
#define LFS(size) "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize " size "\n"
#define INDEX     "model.safetensors.index.json"

/* The i-th byte of every file's data. */
static unsigned char byte_at(size_t i) { return (unsigned char)(i * 7 + 3); }

static void put_weights(const char *name, const char *header, size_t data_bytes)
{
    size_t n = strlen(header);
    unsigned char *file = malloc(8 + n + data_bytes);

    for (unsigned i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)n >> 8 * i);
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++)
        file[8 + n + i] = byte_at(i);
    scratch_write(name, file, 8 + n + data_bytes);
    free(file);
}

static size_t open_descriptors(void)
{
    size_t n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

struct opened {
    struct checkpoint c;
    struct arena a;
    struct notes notes;
    struct err e;
    int ret;
};

static struct opened open_path(const char *path, const char *preferred)
{
    struct opened o = { 0 };
    size_t before = open_descriptors();

    o.ret = ckpt_open_preferring(&o.c, path, preferred, &o.a, &o.notes, &o.e);
    assert_int_equal(open_descriptors(), before);
    if (o.ret) {
        json_t *text = json_string(o.e.msg); /* a report holds it */

        assert_int_not_equal(o.e.kind, ERR_NONE);
        assert_non_null(text);
        json_decref(text);
        assert_null(o.c.config);
    }
    return o;
}

static void close_opened(struct opened *o)
{
    ckpt_close(&o->c);
    ckpt_close(&o->c); /* does no harm */
    notes_release(&o->notes);
    arena_release(&o->a);
}

static struct opened open_good(void)
{
    struct opened o = open_path(scratch, NULL);

    if (o.ret)
        fail_msg("%s", o.e.msg);
    return o;
}

static void assert_says(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("\"%s\" does not say \"%s\"", text, words);
}

#define REFUSED(...) refused_path(scratch, (const char *const[]){ __VA_ARGS__, NULL })

static void refused_path(const char *path, const char *const *words)
{
    struct opened o = open_path(path, NULL);

    if (!o.ret)
        fail_msg("opened, but should say \"%s\"", *words);
    for (; *words; words++)
        assert_says(o.e.msg, *words);
    close_opened(&o);
}

static size_t lines_of(const char *text)
{
    size_t n = 1;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void assert_bytes_are(const struct checkpoint *c, const struct tensor *t, size_t begin)
{
    unsigned char buf[256];
    struct err e = { 0 };

    assert_in_range(t->bytes, 0, sizeof buf);
    if (ckpt_read(c, t, buf, &e))
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < t->bytes; i++)
        assert_int_equal(buf[i], byte_at(begin + i));
}

static void assert_note(const struct opened *o, const char *words, bool warning, bool strict)
{
    assert_int_equal(o->notes.n, 1);
    assert_says(o->notes.v[0].text, words);
    assert_int_equal(o->notes.v[0].warning, warning);
    assert_int_equal(o->notes.v[0].strict, strict);
}

/* ------------------------------------------------------------------------------------------------ what is read */

static void one_file(void **state)
{
    struct opened o;

    (void)state;
    put_weights(
        "model.safetensors",
        "{" T("b", "F32", "[2,3]", "[3,27]") "," T("a", "U8", "[3]", "[0,3]") "," T("c", "BF16", "[]", "[27,29]") "}",
        29);
    scratch_text("config.json", "{\"model_type\": \"llama\"}");
    o = open_good();
    assert_string_equal(o.c.container, "safetensors");
    assert_int_equal(o.c.files_n, 1);
    assert_int_equal(o.c.tensors_n, 3);
    assert_int_equal(o.c.bytes, 29);
    assert_string_equal(json_string_value(json_object_get(o.c.config, "model_type")), "llama");
    for (size_t i = 0; i < 3; i++) {
        static const size_t begins[] = { 0, 3, 27 };

        assert_int_equal(o.c.tensor[i].name[0], 'a' + (char)i);
        assert_ptr_equal(ckpt_find(&o.c, o.c.tensor[i].name), &o.c.tensor[i]);
        assert_bytes_are(&o.c, &o.c.tensor[i], begins[i]);
    }
    assert_string_equal(ckpt_describe(&o.c, ckpt_find(&o.c, "b"), &o.a), "[2, 3] F32 in model.safetensors");
    assert_string_equal(ckpt_describe(&o.c, ckpt_find(&o.c, "c"), &o.a), "[] BF16 in model.safetensors");
    assert_null(ckpt_find(&o.c, ""));
    assert_null(ckpt_find(&o.c, "bb"));
    assert_null(ckpt_find(&o.c, "d"));
    assert_int_equal(o.notes.n, 0);
    close_opened(&o);
}

/* ST-07: nothing is aligned. */
static void headers_of_any_length(void **state)
{
    static const char text[] = "{" T("u", "U8", "[3]", "[0,3]") "," T("h", "F16", "[2]", "[3,7]") "," T(
        "f", "F32", "[2]", "[7,15]") "}        ";

    (void)state;
    for (int pad = 0; pad < 8; pad++) {
        char header[sizeof text];
        struct opened o;

        snprintf(header, sizeof header, "%.*s", (int)sizeof text - 1 - pad, text);
        put_weights("model.safetensors", header, 15);
        o = open_good();
        assert_bytes_are(&o.c, ckpt_find(&o.c, "u"), 0);
        assert_bytes_are(&o.c, ckpt_find(&o.c, "h"), 3);
        assert_bytes_are(&o.c, ckpt_find(&o.c, "f"), 7);
        close_opened(&o);
    }
}

static void an_index_over_shards(void **state)
{
    struct opened o;

    (void)state;
    scratch_dir("sub");
    put_weights("m-00001-of-00002.safetensors", ONE("x"), 4);
    put_weights("sub/rest.safetensors", "{" T("w", "U8", "[1]", "[0,1]") "," T("y", "U8", "[2]", "[1,3]") "}", 3);
    scratch_text(INDEX, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {\"y\": \"sub/rest.safetensors\","
                        "\"x\": \"m-00001-of-00002.safetensors\", \"w\": \"sub/rest.safetensors\"}}");
    o = open_good();
    assert_string_equal(o.c.container, "safetensors (index)");
    assert_int_equal(o.c.files_n, 2);
    assert_int_equal(o.c.tensors_n, 3);
    assert_null(o.c.config);
    assert_int_equal(o.notes.n, 0);
    assert_bytes_are(&o.c, ckpt_find(&o.c, "x"), 0);
    assert_bytes_are(&o.c, ckpt_find(&o.c, "y"), 1);
    assert_string_equal(ckpt_describe(&o.c, ckpt_find(&o.c, "x"), &o.a), "[4] U8 in m-00001-of-00002.safetensors");
    assert_string_equal(ckpt_describe(&o.c, ckpt_find(&o.c, "y"), &o.a), "[2] U8 in sub/rest.safetensors");
    close_opened(&o);
}

/* One file is one file, however the index spells it. */
static void an_index_that_spells_a_file_in_two_ways(void **state)
{
    struct opened o;

    (void)state;
    put_weights("m.safetensors",
                "{" T("w", "U8", "[1]", "[0,1]") "," T("x", "U8", "[2]", "[1,3]") "," T("y", "U8", "[1]", "[3,4]") "}",
                4);
    scratch_text(INDEX, "{\"weight_map\": {\"w\": \"./m.safetensors\", \"x\": \"m.safetensors\", "
                        "\"y\": \"././m.safetensors\"}}");
    o = open_good();
    assert_int_equal(o.c.files_n, 1);
    assert_int_equal(o.c.tensors_n, 3);
    assert_int_equal(o.notes.n, 0);
    assert_string_equal(o.c.file[0].name, "m.safetensors");
    close_opened(&o);
}

/* ST-15 */
static void an_index_of_the_one_file(void **state)
{
    struct opened o;

    (void)state;
    put_weights("model.safetensors", ONE("x"), 4);
    scratch_text(INDEX, "{\"weight_map\": {\"x\": \"model.safetensors\"}}");
    o = open_good();
    assert_int_equal(o.c.files_n, 1);
    assert_int_equal(o.notes.n, 0);
    close_opened(&o);
}

static void other_names(void **state)
{
    struct opened o;

    (void)state;
    put_weights("gptq_model-4bit-128g.safetensors", ONE("x"), 4);
    put_weights("adapter_model.safetensors", ONE("lora"), 4); /* never the model's */
    put_weights("._model.safetensors", ONE("macos"), 4);      /* hidden */
    scratch_text("optimizer.bin", "?");
    o = open_good();
    assert_string_equal(o.c.file[0].name, "gptq_model-4bit-128g.safetensors");
    close_opened(&o);

    scratch_text("q.safetensors.index.json", "{\"weight_map\": {\"x\": \"gptq_model-4bit-128g.safetensors\"}}");
    put_weights("other.safetensors", ONE("y"), 4);
    o = open_good();
    assert_int_equal(o.c.files_n, 1);
    assert_note(&o, "q.safetensors.index.json does not name other.safetensors: not read", false, false);
    close_opened(&o);
}

/* A hub cache is a directory of links. */
static void links(void **state)
{
    struct opened o;

    (void)state;
    scratch_dir("blobs");
    scratch_dir("snapshot");
    put_weights("blobs/1", ONE("x"), 4);
    scratch_text("blobs/2", "{}");
    scratch_text("blobs/3", "{\"weight_map\": {\"x\": \"m.safetensors\"}}");
    assert_false(symlink("../blobs/1", scratch_path("snapshot/m.safetensors")));
    assert_false(symlink("../blobs/2", scratch_path("snapshot/config.json")));
    assert_false(symlink("../blobs/3", scratch_path("snapshot/" INDEX)));
    assert_false(symlink("snapshot", scratch_path("main")));
    o = open_path(scratch_path("main"), NULL);
    assert_int_equal(o.ret, 0);
    assert_non_null(o.c.config);
    assert_bytes_are(&o.c, ckpt_find(&o.c, "x"), 0);
    close_opened(&o);

    unlink(scratch_path("blobs/1"));
    refused_path(scratch_path("main"),
                 (const char *const[]){ "m.safetensors: is a link to a file that is not there", NULL });
}

static void slashes_behind_the_directory(void **state)
{
    char path[100];
    struct opened o;

    (void)state;
    put_weights("model.safetensors", ONE("x"), 4);
    snprintf(path, sizeof path, "%s///", scratch);
    o = open_path(path, NULL);
    assert_int_equal(o.ret, 0);
    assert_string_equal(o.c.dir, scratch);
    assert_string_equal(o.c.file[0].path, scratch_path("model.safetensors"));
    close_opened(&o);
}

static void a_preferred_file_wins(void **state)
{
    struct opened o;

    (void)state;
    put_weights("model.safetensors", ONE("x"), 4);
    put_weights("draft.safetensors", ONE("y"), 4);
    o = open_path(scratch, "draft.safetensors");
    assert_int_equal(o.ret, 0);
    assert_non_null(ckpt_find(&o.c, "y"));
    assert_int_equal(o.c.tensors_n, 1);
    close_opened(&o);
    o = open_path(scratch, "absent.safetensors");
    assert_int_equal(o.ret, 0);
    assert_non_null(ckpt_find(&o.c, "x"));
    close_opened(&o);
}

static void a_file_alone(void **state)
{
    static const char *const spoiled[] = { "absent.safetensors", "empty.safetensors", "lfs.safetensors" };
    struct checkpoint c;
    struct arena a = { 0 };
    struct err e = { 0 };
    size_t before = open_descriptors();

    (void)state;
    put_weights("embedding.bin.of.any.name", ONE("x"), 4);
    scratch_text("model.safetensors", "not looked at");
    assert_int_equal(ckpt_open_file(&c, scratch_path("embedding.bin.of.any.name"), &a, &e), 0);
    assert_string_equal(c.dir, scratch);
    assert_string_equal(c.file[0].name, "embedding.bin.of.any.name");
    assert_bytes_are(&c, ckpt_find(&c, "x"), 0);
    ckpt_close(&c);
    scratch_text("empty.safetensors", "");
    scratch_text("lfs.safetensors", LFS("9"));
    for (size_t i = 0; i < LENGTH(spoiled); i++) {
        e = (struct err){ 0 };
        assert_int_equal(ckpt_open_file(&c, scratch_path(spoiled[i]), &a, &e), -1);
        assert_says(e.msg, scratch_path(spoiled[i]));
        ckpt_close(&c);
    }
    assert_int_equal(open_descriptors(), before);
    arena_release(&a);
}

static void rows_in_any_order(void **state)
{
    static const int32_t rows[] = { 4, 0, 2, 2 };
    unsigned char buf[4 * 6];
    struct err e = { 0 };
    struct opened o;

    (void)state;
    put_weights(
        "model.safetensors",
        "{" T("z", "U8", "[0,7]", "[0,0]") "," T("p", "U8", "[1]", "[0,1]") "," T("t", "F16", "[5,3]", "[1,31]") "}",
        31);
    o = open_good();
    assert_int_equal(ckpt_read_rows(&o.c, ckpt_find(&o.c, "t"), rows, 4, buf, &e), 0);
    for (size_t i = 0; i < sizeof buf; i++)
        assert_int_equal(buf[i], byte_at(1 + (size_t)rows[i / 6] * 6 + i % 6));
    assert_int_equal(ckpt_read_rows(&o.c, ckpt_find(&o.c, "z"), rows, 0, buf, &e), 0);
    close_opened(&o);
}

static void adopted_tensors_are_found(void **state)
{
    struct opened o, from;

    (void)state;
    scratch_dir("from");
    put_weights("model.safetensors", "{" T("b", "U8", "[1]", "[0,1]") "," T("d", "U8", "[2]", "[1,3]") "}", 3);
    put_weights("from/model.safetensors", "{" T("p", "U8", "[5]", "[0,5]") "," T("q", "U8", "[4]", "[5,9]") "}", 9);
    o = open_good();
    from = open_path(scratch_path("from"), NULL);
    ckpt_adopt(&o.c, &from.c, ckpt_find(&from.c, "q"), "c", &o.a);
    ckpt_close(&from.c);
    assert_int_equal(o.c.tensors_n, 3);
    assert_int_equal(o.c.bytes, 7);
    assert_bytes_are(&o.c, ckpt_find(&o.c, "b"), 0);
    assert_bytes_are(&o.c, ckpt_find(&o.c, "c"), 5);
    assert_bytes_are(&o.c, ckpt_find(&o.c, "d"), 1);
    close_opened(&o);
    close_opened(&from);
}

/* ------------------------------------------------------------------------------------------------ size */

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* 20,000 tensors in 191 shards, while the process may have 64 descriptors. */
static void large_models_open_quickly(void **state)
{
    enum { SHARDS = 191, TENSORS = 20000 };
    struct rlimit before, few = { 64, 64 };
    struct str index = { 0 };
    double begin;
    struct opened o;

    (void)state;
    str_adds(&index, "{\"weight_map\":{");
    for (size_t s = 0, t = 0; s < SHARDS; s++) {
        struct str header = { 0 };
        char file[60];

        snprintf(file, sizeof file, "model-%05zu-of-%05d.safetensors", s + 1, SHARDS);
        for (size_t at = 0; t < TENSORS * (s + 1) / SHARDS; t++, at++) {
            str_addf(&header, "%c\"layers.%zu.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
                     at ? ',' : '{', t, at, at + 1);
            str_addf(&index, "%s\"layers.%zu.weight\":\"%s\"", t ? "," : "", t, file);
        }
        str_adds(&header, "}");
        put_weights(file, header.s, TENSORS * (s + 1) / SHARDS - TENSORS * s / SHARDS);
        str_release(&header);
    }
    str_adds(&index, "}}");
    scratch_text(INDEX, index.s);
    str_release(&index);

    assert_false(getrlimit(RLIMIT_NOFILE, &before));
    few.rlim_max = before.rlim_max;
    assert_false(setrlimit(RLIMIT_NOFILE, &few));
    begin = seconds();
    o = open_path(scratch, NULL);
    begin = seconds() - begin;
    setrlimit(RLIMIT_NOFILE, &before);
    if (o.ret)
        fail_msg("%s", o.e.msg);
    assert_int_equal(o.c.files_n, SHARDS);
    assert_int_equal(o.c.tensors_n, TENSORS);
    assert_int_equal(o.c.bytes, TENSORS);
    assert_true(begin < 5); /* with sanitizers; else some 50 ms */
    for (size_t i = 0; i < TENSORS; i += 997)
        assert_ptr_equal(ckpt_find(&o.c, o.c.tensor[i].name), &o.c.tensor[i]);
    close_opened(&o);
}

/* ------------------------------------------------------------------------------------------------ bad files */

static void put_shards(size_t n)
{
    struct str index = { 0 };

    for (size_t i = 0; i < n; i++) {
        char name[40], header[100];

        snprintf(name, sizeof name, "shard-%02zu.safetensors", i);
        snprintf(header, sizeof header, "{\"t%02zu\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", i);
        put_weights(name, header, 4);
        str_addf(&index, "%s\"t%02zu\":\"%s\"", i ? "," : "{\"weight_map\":{", i, name);
    }
    str_adds(&index, "}}");
    scratch_text(INDEX, index.s);
    str_release(&index);
}

static void cut_file(const char *name, off_t bytes)
{
    struct stat st;

    assert_false(stat(scratch_path(name), &st));
    assert_false(truncate(scratch_path(name), bytes < 0 ? st.st_size + bytes : bytes));
}

/* ST-11: all in one run. */
static void truncated_shards(void **state)
{
    struct opened o;

    (void)state;
    put_shards(7);
    cut_file("shard-00.safetensors", 0);
    cut_file("shard-01.safetensors", 4);
    cut_file("shard-03.safetensors", -4); /* header whole, no data: a middle shard */
    cut_file("shard-05.safetensors", 30);
    cut_file("shard-06.safetensors", -1);
    o = open_path(scratch, NULL);
    assert_int_equal(o.ret, -1);
    assert_int_equal(lines_of(o.e.msg), 6);
    assert_says(o.e.msg, "cannot be used as it is, 5 faults:");
    assert_says(o.e.msg, "\n  shard-00.safetensors: truncated: 0 of at least 10 bytes: download it again\n");
    assert_says(o.e.msg, "\n  shard-01.safetensors: truncated: 4 of at least 10 bytes: download it again\n");
    assert_says(o.e.msg, "\n  shard-03.safetensors: truncated: 63 of 67 bytes: download it again\n");
    assert_says(o.e.msg, "\n  shard-05.safetensors: truncated: 30 of at least 63 bytes: download it again\n");
    assert_says(o.e.msg, "\n  shard-06.safetensors: truncated: 66 of 67 bytes: download it again");
    close_opened(&o);
}

static void a_lone_fault_is_one_sentence(void **state)
{
    struct opened o;

    (void)state;
    put_weights("model.safetensors", ONE("x"), 3);
    o = open_path(scratch, NULL);
    assert_int_equal(o.ret, -1);
    assert_int_equal(lines_of(o.e.msg), 1);
    assert_memory_equal(o.e.msg, scratch_path("model.safetensors"), strlen(scratch_path("model.safetensors")));
    close_opened(&o);
}

static void many_bad_shards(void **state)
{
    (void)state;
    for (size_t bad = 19; bad <= 22; bad++) {
        struct opened o;
        char says[60];

        put_shards(bad + 1); /* the last is good */
        for (size_t i = 0; i < bad; i++) {
            snprintf(says, sizeof says, "shard-%02zu.safetensors", i);
            cut_file(says, -1);
        }
        o = open_path(scratch, NULL);
        assert_int_equal(o.ret, -1);
        snprintf(says, sizeof says, " %zu faults:", bad);
        assert_says(o.e.msg, says);
        assert_int_equal(lines_of(o.e.msg), 1 + (bad > ERR_LINES ? ERR_LINES + 1 : bad));
        snprintf(says, sizeof says, "\n  and %zu more", bad - ERR_LINES);
        assert_int_equal(!!strstr(o.e.msg, " more"), bad > ERR_LINES);
        if (bad > ERR_LINES)
            assert_says(o.e.msg, says);
        close_opened(&o);
    }
}

/* Lines of strangers: what is shown and "and N more" are all faults, and the message stays UTF-8 and within its size.
 */
static void faults_with_long_names(void **state)
{
    struct faults f = { 0 };
    struct err e = { 0 };
    struct str dir = { 0 };
    size_t lines;
    json_t *text;
    const char *more;

    (void)state;
    str_adds(&dir, "x");
    for (size_t i = 0; i < 300; i++)
        str_adds(&dir, "\xc3\xa9");
    f.dir = dir.s;
    for (size_t i = 0; i < 30; i++)
        faults_addf(&f, "%s/%zu%s%s: is bad", dir.s, i, dir.s, i % 2 ? dir.s : "");
    assert_int_equal(faults_raise(&f, &e), -1);
    lines = lines_of(e.msg);
    assert_non_null(more = strstr(e.msg, "\n  and "));
    assert_int_equal(lines - 2 + strtoul(more + 7, NULL, 10), 30);
    assert_true(lines > 8);
    assert_non_null(text = json_string(e.msg));
    json_decref(text);
    e = (struct err){ 0 };
    for (size_t i = 0; i < 2500; i++) /* longer than any message */
        str_adds(&dir, "\xc3\xa9");
    f = (struct faults){ .dir = "d" };
    faults_addf(&f, "%s", dir.s + 1);
    assert_int_equal(faults_raise(&f, &e), -1);
    assert_non_null(text = json_string(e.msg));
    json_decref(text);
    assert_int_equal(faults_raise(&(struct faults){ .dir = "d" }, &e), 0);
    str_release(&dir);
}

static void git_lfs_pointers(void **state)
{
    (void)state;
    scratch_text("config.json", LFS("660"));
    put_shards(2);
    scratch_text("shard-01.safetensors", LFS("4988025760"));
    REFUSED("config.json: is a Git LFS pointer, not the file of 660 bytes itself: run `git lfs pull`",
            "shard-01.safetensors: is a Git LFS pointer, not the file of 4988025760 bytes itself");
    scratch_text(INDEX, LFS("26788"));
    unlink(scratch_path("config.json"));
    REFUSED(INDEX ": is a Git LFS pointer, not the file of 26788 bytes", "shard-01.safetensors: is a Git LFS pointer");
    unlink(scratch_path(INDEX));
    unlink(scratch_path("shard-00.safetensors"));
    scratch_text("shard-01.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    REFUSED("shard-01.safetensors: is a Git LFS pointer, not the file itself");
}

static void not_regular_files(void **state)
{
    (void)state;
    scratch_dir("model.safetensors");
    assert_false(mkfifo(scratch_path("config.json"), 0666));
    REFUSED("model.safetensors: is not a regular file", "config.json: is not a regular file");
}

static void bad_configs(void **state)
{
    (void)state;
    put_weights("model.safetensors", ONE("x"), 4);
    scratch_text("config.json", "[]");
    REFUSED("config.json: holds a list, expected an object");
    scratch_text("config.json", "{\"a\": 1, \"a\": 2}");
    REFUSED("config.json: key \"a\" is there twice");
    scratch_text("config.json", "");
    REFUSED("config.json: not valid JSON");
    scratch_text("config.json", "\xef\xbb\xbf{}");
    REFUSED("config.json: begins with a byte order mark");
}

static void bad_indexes(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        { "{}", "\"weight_map\" is nothing, expected an object that maps tensor names to files" },
        { "{\"weight_map\": {}}", "\"weight_map\" is empty" },
        { "{\"weight_map\": []}", "\"weight_map\" is a list" },
        { "[]", "holds a list, expected an object" },
        { "{\"weight_map\": {\"x\": \"a\", \"x\": \"b\"}}", "key \"x\" is there twice" },
        { "{\"weight_map\": {\"x\": 1}}", "\"weight_map\" has an integer for tensor \"x\", expected a file name" },
        { "{\"weight_map\": {\"x\": \"../m.safetensors\"}}",
          "has \"../m.safetensors\" for tensor \"x\", expected a file inside" },
        { "{\"weight_map\": {\"x\": \"..\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"a/../../m\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"a/..\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"/etc/passwd\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"a//b\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"a/\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"a/./b\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"./../m\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \".//m\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"./\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \".\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"\"}}", "expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"a\\nb\"}}",
          "has \"a?b\" for tensor \"x\", expected a file inside the directory" },
        { "{\"weight_map\": {\"x\": \"a\\u007fb\"}}", "expected a file inside the directory" },
    };

    (void)state;
    put_weights("m.safetensors", ONE("x"), 4);
    for (size_t i = 0; i < LENGTH(cases); i++) {
        scratch_text(INDEX, cases[i].text);
        REFUSED(INDEX ": ", cases[i].says);
    }
    scratch_text(INDEX, "{\"weight_map\": {\"x\": \"..m.safetensors\"}}"); /* dots alone do not lead out */
    put_weights("..m.safetensors", ONE("x"), 4);
    struct opened o = open_good();
    close_opened(&o);
}

static void indexes_that_the_files_contradict(void **state)
{
    (void)state;
    put_weights("a.safetensors", ONE("x"), 4);
    put_weights("b.safetensors", ONE("y"), 4);
    scratch_text(INDEX, "{\"weight_map\": {\"x\": \"b.safetensors\", \"y\": \"a.safetensors\"}}");
    REFUSED(INDEX ": puts tensor \"x\" into b.safetensors, which does not hold it; it is in a.safetensors",
            "puts tensor \"y\" into a.safetensors, which does not hold it; it is in b.safetensors");
    scratch_text(INDEX, "{\"weight_map\": {\"x\": \"a.safetensors\", \"z\": \"b.safetensors\"}}");
    REFUSED(INDEX ": puts tensor \"z\" into b.safetensors, which does not hold it: download both again");
    scratch_text(INDEX, "{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"c.safetensors\"}}");
    REFUSED("c.safetensors: is not there, but ", INDEX " names it: download it");
}

static void duplicates_across_shards(void **state)
{
    (void)state;
    put_weights("a.safetensors", "{" T("x", "U8", "[1]", "[0,1]") "," T("y", "U8", "[3]", "[1,4]") "}", 4);
    put_weights("b.safetensors", ONE("y"), 4);
    put_weights("c.safetensors", "{" T("\\u0078", "U8", "[4]", "[0,4]") "," T("z", "U8", "[0]", "[0,0]") "}", 4);
    scratch_text(INDEX,
                 "{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"b.safetensors\", \"z\": \"c.safetensors\"}}");
    REFUSED("tensor \"y\" is in both a.safetensors and b.safetensors: remove the file",
            "tensor \"x\" is in both a.safetensors and c.safetensors");
}

static void duplicates_within_a_file(void **state) /* ST-01 */
{
    (void)state;
    put_weights("model.safetensors", "{" T("a", "F16", "[2]", "[0,4]") "," T("\\u0061", "F16", "[2]", "[4,8]") "}", 8);
    REFUSED("model.safetensors: header: key \"\\u0061\" is there twice");
}

static void doubts_about_indexes(void **state)
{
    struct opened o;

    (void)state;
    put_weights("a.safetensors", "{" T("x", "U8", "[1]", "[0,1]") "," T("extra", "U8", "[3]", "[1,4]") "}", 4);
    scratch_text(INDEX, "{\"weight_map\": {\"x\": \"a.safetensors\"}}");
    o = open_good();
    assert_note(&o, "does not name 1 of the tensors that its files hold, the first is \"extra\" in a.safetensors", true,
                false);
    assert_non_null(ckpt_find(&o.c, "extra"));
    close_opened(&o);

    put_weights("a.safetensors", ONE("x"), 4);
    put_weights("model.safetensors", ONE("whole"), 4);
    o = open_good();
    assert_note(&o, INDEX " does not name model.safetensors, which is there too: it is not read", true, true);
    assert_null(ckpt_find(&o.c, "whole"));
    close_opened(&o);

    unlink(scratch_path("a.safetensors"));
    o = open_good();
    assert_note(&o, "names files of which none is there: model.safetensors is read instead", true, true);
    assert_string_equal(o.c.container, "safetensors");
    assert_non_null(ckpt_find(&o.c, "whole"));
    close_opened(&o);
}

/* ------------------------------------------------------------------------------------------------ which file */

static void several_and_none_named(void **state)
{
    (void)state;
    put_weights("one.safetensors", ONE("x"), 4);
    put_weights("two.safetensors", ONE("y"), 3);
    REFUSED("has 2 weight files and no " INDEX, "one.safetensors, two.safetensors: add it, or keep only one",
            "two.safetensors: truncated"); /* said at once */
    scratch_text("a.safetensors.index.json", "{}");
    scratch_text("b.safetensors.index.json", "{}");
    REFUSED("has 2 indexes and no " INDEX, "a.safetensors.index.json, b.safetensors.index.json");
}

static void one_of_several(void **state)
{
    struct opened o;

    (void)state;
    put_weights("model-00002-of-00003.safetensors", ONE("x"), 4);
    REFUSED("model-00002-of-00003.safetensors: is one of 3 files, and neither the others nor " INDEX " are there");
    assert_false(
        rename(scratch_path("model-00002-of-00003.safetensors"), scratch_path("model-00001-of-00001.safetensors")));
    o = open_good();
    close_opened(&o);
}

/* ST-19: what is there, and what to do with it. */
static void nothing_to_read(void **state)
{
    static const struct {
        const char *name, *says, *remedy;
    } cases[] = {
        { "model.pt", "model.pt (a PyTorch pickle)", "save_pretrained" },
        { "consolidated.00.pth", "consolidated.00.pth (a PyTorch pickle)", "save_pretrained" },
        { "model.gguf", "model.gguf (a GGUF file)", "give the checkpoint that it was made from" },
        { "model.onnx", "model.onnx (an ONNX file)", "give the checkpoint" },
        { "tf_model.h5", "tf_model.h5 (a Keras file)", "safetensors" },
        { "flax_model.msgpack", "flax_model.msgpack (a Flax file)", "safetensors" },
        { "model.safetensors.incomplete", "model.safetensors.incomplete (an unfinished download)", "download" },
        { "model.safetensors.part", "(an unfinished download)", "download" },
    };

    (void)state;
    scratch_text("config.json", "{}");
    REFUSED("holds no weights: expected model.safetensors, or " INDEX, "or pytorch_model.bin");
    for (size_t i = 0; i < LENGTH(cases); i++) {
        scratch_text(cases[i].name, "?");
        REFUSED("holds no *.safetensors file, but ", cases[i].says, cases[i].remedy);
        unlink(scratch_path(cases[i].name));
    }
    scratch_text("training_args.bin", "?");
    REFUSED("holds no weights");
}

static void pytorch_files_are_read_where_nothing_else_is(void **state)
{
    (void)state;
    scratch_text("pytorch_model.bin", "?");
    REFUSED("pytorch_model.bin: ");
    put_weights("model.safetensors", ONE("x"), 4);
    struct opened o = open_good();
    assert_string_equal(o.c.container, "safetensors");
    close_opened(&o);
}

/* CFG-11 */
static void adapters(void **state)
{
    struct opened o;

    (void)state;
    scratch_text("adapter_config.json", "{\"base_model_name_or_path\": \"meta-llama/Llama-2\\n7b\"}");
    put_weights("adapter_model.safetensors", ONE("lora"), 4);
    REFUSED(
        "this is a LoRA adapter, not a model: give its base model \"meta-llama/Llama-2?7b\", or a model that it has "
        "been merged into");
    scratch_text("config.json", "{}");
    REFUSED("this is a LoRA adapter, not a model");
    scratch_text("adapter_config.json", "no JSON");
    REFUSED("this is a LoRA adapter, not a model: give its base model, or");
    put_weights("model.safetensors", ONE("x"), 4); /* merged into a model: its own */
    o = open_good();
    assert_non_null(ckpt_find(&o.c, "x"));
    assert_int_equal(o.c.tensors_n, 1);
    close_opened(&o);
}

static void not_directories(void **state)
{
    (void)state;
    scratch_text("file", "");
    refused_path(scratch_path("file"), (const char *const[]){ "/file: is not a directory: give the directory", NULL });
    refused_path(scratch_path("absent"),
                 (const char *const[]){ "/absent: no such directory", "must be downloaded first", NULL });
}

/* ------------------------------------------------------------------------------------------------ afterwards */

static void touch(void)
{
    const struct timespec t[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };

    assert_false(utimensat(AT_FDCWD, scratch_path("model.safetensors"), t, 0));
}

static void grow(void)
{
    struct stat st;
    struct timespec t[2];

    assert_false(stat(scratch_path("model.safetensors"), &st));
    t[0] = t[1] = st.st_mtim;
    assert_false(truncate(scratch_path("model.safetensors"), st.st_size + 1));
    assert_false(utimensat(AT_FDCWD, scratch_path("model.safetensors"), t, 0));
}

static void replace(void) /* same bytes, same time, another file */
{
    struct stat st;
    struct timespec t[2];

    assert_false(stat(scratch_path("model.safetensors"), &st));
    t[0] = t[1] = st.st_mtim;
    put_weights("new", ONE("x"), 4);
    assert_false(rename(scratch_path("new"), scratch_path("model.safetensors")));
    assert_false(utimensat(AT_FDCWD, scratch_path("model.safetensors"), t, 0));
}

static void files_that_change_while_we_read(void **state)
{
    void (*const changes[])(void) = { touch, grow, replace };
    const int32_t row = 0;

    (void)state;
    for (size_t i = 0; i < LENGTH(changes); i++) {
        unsigned char buf[4];
        struct err e = { 0 };
        struct opened o;
        size_t before = open_descriptors();

        put_weights("model.safetensors", ONE("x"), 4);
        o = open_good();
        assert_bytes_are(&o.c, ckpt_find(&o.c, "x"), 0);
        changes[i]();
        assert_int_equal(ckpt_read(&o.c, o.c.tensor, buf, &e), -1);
        assert_says(e.msg, "model.safetensors: has changed since this run began to read it: run again");
        e = (struct err){ 0 };
        assert_int_equal(ckpt_read_rows(&o.c, o.c.tensor, &row, 1, buf, &e), -1);
        assert_says(e.msg, "has changed");
        unlink(scratch_path("model.safetensors"));
        e = (struct err){ 0 };
        assert_int_equal(ckpt_read(&o.c, o.c.tensor, buf, &e), -1);
        assert_says(e.msg, "model.safetensors: cannot be opened");
        assert_int_equal(open_descriptors(), before);
        close_opened(&o);
    }
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(one_file),
        IN_SCRATCH(headers_of_any_length),
        IN_SCRATCH(an_index_over_shards),
        IN_SCRATCH(an_index_that_spells_a_file_in_two_ways),
        IN_SCRATCH(an_index_of_the_one_file),
        IN_SCRATCH(other_names),
        IN_SCRATCH(links),
        IN_SCRATCH(slashes_behind_the_directory),
        IN_SCRATCH(a_preferred_file_wins),
        IN_SCRATCH(a_file_alone),
        IN_SCRATCH(rows_in_any_order),
        IN_SCRATCH(adopted_tensors_are_found),
        IN_SCRATCH(large_models_open_quickly),
        IN_SCRATCH(truncated_shards),
        IN_SCRATCH(a_lone_fault_is_one_sentence),
        IN_SCRATCH(many_bad_shards),
        IN_SCRATCH(faults_with_long_names),
        IN_SCRATCH(git_lfs_pointers),
        IN_SCRATCH(not_regular_files),
        IN_SCRATCH(bad_configs),
        IN_SCRATCH(bad_indexes),
        IN_SCRATCH(indexes_that_the_files_contradict),
        IN_SCRATCH(duplicates_across_shards),
        IN_SCRATCH(duplicates_within_a_file),
        IN_SCRATCH(doubts_about_indexes),
        IN_SCRATCH(several_and_none_named),
        IN_SCRATCH(one_of_several),
        IN_SCRATCH(nothing_to_read),
        IN_SCRATCH(pytorch_files_are_read_where_nothing_else_is),
        IN_SCRATCH(adapters),
        IN_SCRATCH(not_directories),
        IN_SCRATCH(files_that_change_while_we_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
