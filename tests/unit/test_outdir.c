/* The output appears whole or not at all, in a place that may be written to, and replaces nothing but an export. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "scratch.h"
#include "emit/outdir.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define MARK          "out.partial/.weighbridge-partial"

/* ------------------------------------------------------------------------------------------------ renames that fail */

/* Ours stand in front of libc's: a file system without exchange, or one that fails, is a matter of numbers. */
static int renameat2_code, rename_fails_at, renames, flock_code;
static const char *stuck; /* a file that cannot be removed */

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    if (renameat2_code) {
        errno = renameat2_code;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

int rename(const char *from, const char *to)
{
    if (++renames == rename_fails_at) {
        errno = EIO;
        return -1;
    }
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int flock(int fd, int how)
{
    if (flock_code) {
        errno = flock_code;
        return -1;
    }
    return (int)syscall(SYS_flock, fd, how);
}

int unlinkat(int fd, const char *name, int flags)
{
    if (stuck && !strcmp(name, stuck)) {
        errno = EACCES;
        return -1;
    }
    return (int)syscall(SYS_unlinkat, fd, name, flags);
}

/* ------------------------------------------------------------------------------------------------ helpers */

static struct arena arena;

static int begin(void **state)
{
    renameat2_code = rename_fails_at = renames = flock_code = 0;
    stuck = NULL;
    if (scratch_make(state))
        return -1;
    scratch_dir("model");
    scratch_text("model/config.json", "{}");
    return 0;
}

static int end(void **state)
{
    arena_release(&arena);
    return scratch_remove(state);
}

static void assert_says(const struct err *e, enum err_kind kind, const char *words)
{
    assert_int_equal(e->kind, kind);
    if (!strstr(e->msg, words))
        fail_msg("\"%s\" does not say \"%s\"", e->msg, words);
}

static void assert_file(const char *name, const char *text)
{
    char found[64] = "";
    FILE *f = fopen(scratch_path(name), "rb");

    if (!f)
        fail_msg("%s is not there", name);
    found[fread(found, 1, sizeof found - 1, f)] = 0;
    fclose(f);
    assert_string_equal(found, text);
}

static void make_export(const char *dir, const char *text)
{
    char path[100];

    scratch_dir(dir);
    snprintf(path, sizeof path, "%s/model.onnx", dir);
    scratch_text(path, text);
    snprintf(path, sizeof path, "%s/config.json", dir);
    scratch_text(path, "{\"edgellm_version\": \"0.5.0\"}");
}

static int check(const char *out, bool overwrite, bool *exists, struct err *e)
{
    *e = (struct err){ 0 };
    return outdir_check(out, scratch_path("model"), overwrite, exists, &arena, e);
}

static void allowed(const char *out, bool overwrite, bool exists)
{
    struct err e;
    bool found;

    if (check(out, overwrite, &found, &e))
        fail_msg("%s: refused: %s", out, e.msg);
    assert_int_equal(found, exists);
}

static void refused(const char *out, bool overwrite, enum err_kind kind, const char *words)
{
    struct err e;
    bool found;

    if (!check(out, overwrite, &found, &e))
        fail_msg("%s: not refused", out);
    assert_says(&e, kind, words);
}

static void create(struct outdir *o, bool replaces)
{
    struct err e = { 0 };

    if (outdir_create(o, scratch_path("out"), replaces, &arena, &e))
        fail_msg("%s", e.msg);
}

/* As the export would: one file in OUT.partial. */
static void write_in(const struct outdir *o, const char *text)
{
    int fd = openat(o->fd, "model.onnx", O_WRONLY | O_CREAT | O_EXCL, 0666);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* ------------------------------------------------------------------------------------------------ places */

static void places_that_are_refused(void **state)
{
    static const char *const around[] = { "model", "model/", "model//", "model/sub", "./model", "../%s/model" };
    char path[300];

    (void)state;
    for (size_t i = 0; i < LENGTH(around); i++) {
        snprintf(path, sizeof path, around[i], strrchr(scratch, '/') + 1);
        refused(scratch_path(path), true, ERR_REFUSED, "is, contains or lies inside");
    }
    refused(scratch, true, ERR_REFUSED, "is, contains or lies inside");
    refused(scratch_path("no/such"), false, ERR_IO, "its parent directory");
    refused("", false, ERR_USAGE, "cannot be an output directory");
    refused("/", false, ERR_USAGE, "cannot be an output directory");
    refused("///", false, ERR_USAGE, "cannot be an output directory");
    refused(".", false, ERR_USAGE, "cannot be an output directory");
    refused(scratch_path(".."), false, ERR_USAGE, "cannot be an output directory");
    refused(scratch_path("../."), false, ERR_USAGE, "cannot be an output directory");
    scratch_text("file", "x");
    refused(scratch_path("file"), true, ERR_REFUSED, "exists and is not a directory");
    assert_file("model/config.json", "{}");
}

/* A checkpoint that happens to be called as OUT is while it is written would be taken for a leftover. */
static void model_under_a_name_of_ours(void **state)
{
    static const char *const names[] = { "out.partial", "out.old" };

    (void)state;
    for (size_t i = 0; i < LENGTH(names); i++) {
        struct err e = { 0 };
        bool exists;

        scratch_dir(names[i]);
        assert_int_equal(outdir_check(scratch_path("out"), scratch_path(names[i]), true, &exists, &arena, &e), -1);
        assert_says(&e, ERR_REFUSED, "is, contains or lies inside");
    }
}

static void links(void **state)
{
    (void)state;
    make_export("old", "1");
    assert_int_equal(symlink("old", scratch_path("link")), 0);
    refused(scratch_path("link"), true, ERR_REFUSED, "symbolic link");
    refused(scratch_path("link/"), true, ERR_REFUSED, "symbolic link");
    assert_int_equal(symlink("nowhere", scratch_path("dangling")), 0);
    refused(scratch_path("dangling"), false, ERR_REFUSED, "symbolic link");
    assert_int_equal(symlink("model", scratch_path("other name")), 0);
    refused(scratch_path("other name/out"), false, ERR_REFUSED, "or lies inside");
    scratch_dir("elsewhere"); /* a parent may be reached through one */
    assert_int_equal(symlink("elsewhere", scratch_path("short")), 0);
    allowed(scratch_path("short/out"), false, false);
}

static void places_that_are_allowed(void **state)
{
    (void)state;
    allowed(scratch_path("out"), false, false);
    allowed(scratch_path("out///"), false, false);
    allowed(scratch_path("model2"), false, false); /* beside, however alike */
    allowed(scratch_path("mode"), false, false);
    scratch_dir("empty");
    allowed(scratch_path("empty"), false, true);
}

/* ModelProto{graph{}, metadata_props{"weighbridge.version": "0"}}, and one without our key. */
static const char ours[] = "\x3a\0\x72\x18\x0a\x13weighbridge.version\x12\1"
                           "0",
                  foreign[] = "\x3a\0\x72\x18\x0a\x13weighbridge.versiom\x12\1"
                              "0";

static void what_may_be_overwritten(void **state)
{
    (void)state;
    make_export("old", "not even an ONNX file");
    refused(scratch_path("old"), false, ERR_REFUSED, "holds an export already");
    allowed(scratch_path("old"), true, true);
    scratch_text("old/config.json", "{\"edgellm_version\": 5}");
    refused(scratch_path("old"), true, ERR_REFUSED, "is not an export");
    scratch_text("old/config.json", "{\"edgellm_version\": \"0.5.0\"");
    refused(scratch_path("old"), true, ERR_REFUSED, "is not an export");
    scratch_write("old/model.onnx", ours, sizeof ours - 1); /* config.json is broken or gone: the metadata counts */
    allowed(scratch_path("old"), true, true);
    refused(scratch_path("old"), false, ERR_REFUSED, "holds an export already");
    unlink(scratch_path("old/config.json"));
    allowed(scratch_path("old"), true, true);
    scratch_write("old/model.onnx", foreign, sizeof foreign - 1);
    refused(scratch_path("old"), true, ERR_REFUSED, "--overwrite replaces exports only");
    unlink(scratch_path("old/model.onnx"));
    scratch_text("old/config.json", "{\"edgellm_version\": \"0.5.0\"}");
    refused(scratch_path("old"), true, ERR_REFUSED, "is not an export");
    scratch_dir("mine");
    scratch_text("mine/.hidden", "");
    refused(scratch_path("mine"), true, ERR_REFUSED, "is not empty and is not an export");
}

/* ------------------------------------------------------------------------------------------------ publishing */

static void publishes(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    create(&o, false);
    assert_true(scratch_has(MARK));
    write_in(&o, "new");
    assert_false(scratch_has("out"));
    assert_int_equal(outdir_publish(&o, &e), 0);
    assert_file("out/model.onnx", "new");
    assert_false(scratch_has("out.partial"));
    assert_false(scratch_has("out/.weighbridge-partial"));
    outdir_discard(&o); /* nothing to do once published */
    assert_file("out/model.onnx", "new");
}

static void discards(void **state)
{
    struct outdir o = { .fd = -1 };

    (void)state;
    outdir_discard(&o);
    create(&o, false);
    write_in(&o, "new");
    outdir_discard(&o);
    assert_false(scratch_has("out.partial"));
    assert_false(scratch_has("out"));
    outdir_discard(&o);
}

/* The old one is whole until the new one stands in its place, and is gone then. */
static void replaces_an_export(void **state)
{
    static const int without_exchange[] = { 0, EINVAL, ENOSYS };

    (void)state;
    for (size_t i = 0; i < LENGTH(without_exchange); i++) {
        struct outdir o;
        struct err e = { 0 };

        make_export("out", "old");
        scratch_dir("out/sub");
        scratch_text("out/sub/deep", "x");
        create(&o, true);
        write_in(&o, "new");
        assert_file("out/model.onnx", "old");
        renameat2_code = without_exchange[i];
        if (outdir_publish(&o, &e))
            fail_msg("%s", e.msg);
        assert_file("out/model.onnx", "new");
        assert_false(scratch_has("out/config.json"));
        assert_false(scratch_has("out.partial"));
        assert_false(scratch_has("out.old"));
        unlink(scratch_path("out/model.onnx"));
        rmdir(scratch_path("out"));
        renameat2_code = 0;
    }
}

static void replaces_an_empty_directory(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    scratch_dir("out");
    create(&o, true);
    write_in(&o, "new");
    assert_int_equal(outdir_publish(&o, &e), 0);
    assert_file("out/model.onnx", "new");
    assert_false(scratch_has("out.partial"));
}

/* Whatever rename fails, the old export is whole, under its name, and nothing of ours is left. */
static void failed_renames(void **state)
{
    static const struct {
        int renameat2_code, rename_fails_at;
        const char *words;
    } rows[] = {
        { EIO, 0, "cannot be exchanged with" },
        { EACCES, 0, "cannot be exchanged with" },
        { EINVAL, 1, "cannot be moved aside" },
        { EINVAL, 2, "cannot be renamed to" },
    };

    (void)state;
    make_export("out", "old");
    for (size_t i = 0; i < LENGTH(rows); i++) {
        struct outdir o;
        struct err e = { 0 };

        create(&o, true);
        write_in(&o, "new");
        renameat2_code = rows[i].renameat2_code;
        rename_fails_at = rows[i].rename_fails_at;
        renames = 0;
        assert_int_equal(outdir_publish(&o, &e), -1);
        assert_says(&e, ERR_IO, rows[i].words);
        outdir_discard(&o);
        assert_file("out/model.onnx", "old");
        assert_true(scratch_has("out/config.json"));
        assert_false(scratch_has("out.partial"));
        assert_false(scratch_has("out.old"));
    }
}

static void failed_first_publication(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    create(&o, false);
    renameat2_code = EIO;
    assert_int_equal(outdir_publish(&o, &e), -1);
    assert_says(&e, ERR_IO, "cannot be renamed to");
    outdir_discard(&o);
    assert_false(scratch_has("out"));
    assert_false(scratch_has("out.partial"));
    renameat2_code = EINVAL; /* a file system without flags for renames */
    create(&o, false);
    write_in(&o, "new");
    e = (struct err){ 0 };
    assert_int_equal(outdir_publish(&o, &e), 0);
    assert_file("out/model.onnx", "new");
}

/* A run takes hours. What others have put under the name of OUT meanwhile stays theirs. */
static void out_that_changed_meanwhile(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    create(&o, false); /* there was none */
    make_export("out", "theirs");
    assert_int_equal(outdir_publish(&o, &e), -1);
    assert_says(&e, ERR_IO, "cannot be renamed to");
    outdir_discard(&o);
    assert_file("out/model.onnx", "theirs");

    create(&o, true); /* it was an export */
    unlink(scratch_path("out/config.json"));
    e = (struct err){ 0 };
    assert_int_equal(outdir_publish(&o, &e), -1);
    assert_says(&e, ERR_REFUSED, "is no longer what it was when this run began");
    outdir_discard(&o);
    assert_file("out/model.onnx", "theirs");

    unlink(scratch_path("out/model.onnx"));
    create(&o, true); /* it was empty */
    scratch_text("out/model.onnx", "theirs");
    scratch_text("out/config.json", "{\"edgellm_version\": \"0.5.0\"}");
    e = (struct err){ 0 };
    assert_int_equal(outdir_publish(&o, &e), -1);
    assert_says(&e, ERR_REFUSED, "is no longer what it was");
    outdir_discard(&o);
    assert_file("out/model.onnx", "theirs");
    assert_false(scratch_has("out.partial"));
}

static void out_that_vanished_meanwhile(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    scratch_dir("out");
    create(&o, true);
    write_in(&o, "new");
    rmdir(scratch_path("out"));
    if (outdir_publish(&o, &e))
        fail_msg("%s", e.msg);
    assert_file("out/model.onnx", "new");
}

/* What stands under the name of OUT.partial at the end may be another's; and ours may be wanted where it went. */
static void moved_meanwhile(bool replaces, bool strange)
{
    struct outdir o;
    struct err e = { 0 };

    if (replaces)
        make_export("out", "old");
    create(&o, replaces);
    write_in(&o, "new");
    assert_int_equal(rename(scratch_path("out.partial"), scratch_path("moved")), 0);
    if (strange)
        make_export("out.partial", "theirs");
    assert_int_equal(outdir_publish(&o, &e), -1);
    assert_says(&e, ERR_REFUSED, "out.partial: is no longer the directory that this run has written to");
    outdir_discard(&o);
    assert_file("moved/model.onnx", "new");
    assert_true(scratch_has("moved/.weighbridge-partial"));
    if (strange)
        assert_file("out.partial/model.onnx", "theirs");
    if (replaces)
        assert_file("out/model.onnx", "old");
    assert_int_equal(scratch_has("out.partial"), strange);
    assert_int_equal(scratch_has("out"), replaces);
}

static void partial_that_was_moved(void **state)
{
    (void)state;
    moved_meanwhile(false, false);
}

static void partial_that_was_replaced(void **state)
{
    (void)state;
    moved_meanwhile(false, true);
}

static void partial_that_was_replaced_beside_an_export(void **state)
{
    (void)state;
    moved_meanwhile(true, true);
}

/* ------------------------------------------------------------------------------------------------ OUT.partial */

static void leftovers(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    scratch_dir("out.partial"); /* marked: an earlier run was killed */
    scratch_text(MARK, "");
    scratch_text("out.partial/model.onnx", "half");
    scratch_dir("out.partial/sub");
    assert_int_equal(symlink("../../model", scratch_path("out.partial/sub/link")), 0);
    create(&o, false);
    assert_true(scratch_has(MARK));
    assert_false(scratch_has("out.partial/model.onnx"));
    assert_false(scratch_has("out.partial/sub"));
    assert_file("model/config.json", "{}");
    outdir_discard(&o);
    assert_false(scratch_has("out.partial"));

    scratch_dir("out.partial"); /* somebody's */
    scratch_text("out.partial/precious", "mine");
    assert_int_equal(outdir_create(&o, scratch_path("out"), false, &arena, &e), -1);
    assert_says(&e, ERR_REFUSED, "exists and was not left by an earlier run");
    assert_int_equal(o.fd, -1);
    outdir_discard(&o);
    assert_file("out.partial/precious", "mine");
    unlink(scratch_path("out.partial/precious"));
    create(&o, false); /* empty: nobody's loss */
    assert_true(scratch_has(MARK));
    outdir_discard(&o);
}

static void partial_that_is_a_link_or_a_file(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(symlink("model", scratch_path("out.partial")), 0);
    assert_int_equal(outdir_create(&o, scratch_path("out"), false, &arena, &e), -1);
    assert_says(&e, ERR_IO, "cannot be used as the place to write to, remove it");
    unlink(scratch_path("out.partial"));
    scratch_text("out.partial", "mine");
    e = (struct err){ 0 };
    assert_int_equal(outdir_create(&o, scratch_path("out"), false, &arena, &e), -1);
    assert_says(&e, ERR_IO, "cannot be used as the place to write to, remove it");
    assert_file("out.partial", "mine");
    assert_file("model/config.json", "{}");
}

/* Not even where it cannot be removed is a link followed. */
static void stuck_link(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    scratch_dir("out.partial");
    scratch_text(MARK, "");
    assert_int_equal(symlink("../model", scratch_path("out.partial/link")), 0);
    stuck = "link";
    assert_int_equal(outdir_create(&o, scratch_path("out"), false, &arena, &e), -1);
    assert_says(&e, ERR_IO, "what an earlier run left there cannot be removed");
    assert_file("model/config.json", "{}");
}

static void file_system_without_locks(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    flock_code = ENOLCK;
    assert_int_equal(outdir_create(&o, scratch_path("out"), false, &arena, &e), -1);
    assert_says(&e, ERR_IO, "cannot be locked: give an output directory on a file system with locks");
}

/* A child that holds OUT.partial until it is killed. */
static pid_t hold(void)
{
    int ready[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (!pid) {
        struct outdir o;
        struct err e = { 0 };

        if (!outdir_create(&o, scratch_path("out"), false, &arena, &e) && write(ready[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

/* Two runs never share a place; what a killed one leaves, the next one takes over. */
static void locked_by_another_process(void **state)
{
    struct outdir o;
    struct err e = { 0 };
    pid_t pid = hold();

    (void)state;
    assert_int_equal(outdir_create(&o, scratch_path("out"), false, &arena, &e), -1);
    assert_says(&e, ERR_REFUSED, "another run is writing to");
    assert_true(scratch_has(MARK));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    create(&o, false);
    outdir_discard(&o);
    assert_false(scratch_has("out.partial"));
}

/* A run that ends before the older export is gone leaves something that the next run may remove. */
static void older_export_is_marked_before_it_goes(void **state)
{
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    make_export("out", "old");
    scratch_text("out/tokenizer.json", "x");
    create(&o, true);
    write_in(&o, "new");
    stuck = "tokenizer.json";
    assert_int_equal(outdir_publish(&o, &e), 0);
    assert_file("out/model.onnx", "new");
    assert_true(scratch_has("out.partial/tokenizer.json"));
    stuck = NULL;
    create(&o, true);
    assert_false(scratch_has("out.partial/tokenizer.json"));
    outdir_discard(&o);
}

/* Nor is the mark gone before the rest when a run is given up. */
static void mark_goes_last(void **state)
{
    struct outdir o;

    (void)state;
    create(&o, false);
    write_in(&o, "new");
    stuck = "model.onnx";
    outdir_discard(&o);
    stuck = NULL;
    create(&o, false);
    outdir_discard(&o);
    assert_false(scratch_has("out.partial"));
}

/* ------------------------------------------------------------------------------------------------ going on */

static void recover(void)
{
    struct err e = { 0 };

    if (outdir_recover(scratch_path("out"), &arena, &e))
        fail_msg("%s", e.msg);
}

static void what_is_left_can_be_kept(void **state)
{
    static const char *const keep[] = { "model.onnx", NULL };
    struct outdir o;
    struct err e = { 0 };

    (void)state;
    create(&o, false);
    write_in(&o, "half");
    scratch_text("out.partial/other", "x");
    scratch_dir("out.partial/sub");
    assert_true(outdir_left(scratch_path("out"), &arena) >= 5);
    outdir_leave(&o);
    outdir_leave(&o);
    assert_int_equal(outdir_go_on(&o, scratch_path("out"), false, &arena, &e), 0);
    assert_true(o.resumed && scratch_has("out.partial/other"));
    assert_int_equal(outdir_clear(&o, keep, &e), 0);
    assert_true(scratch_has(MARK) && scratch_has("out.partial/model.onnx"));
    assert_false(scratch_has("out.partial/other") || scratch_has("out.partial/sub"));
    outdir_discard(&o);
    assert_false(scratch_has("out.partial"));
    assert_int_equal(outdir_go_on(&o, scratch_path("out"), false, &arena, &e), 0);
    assert_false(o.resumed); /* there was nothing */
    outdir_discard(&o);
    assert_true(outdir_left(scratch_path("out"), &arena) == 0);
}

/* The exchange was the last thing that a run did. */
static void killed_before_the_older_one_was_removed(void **state)
{
    struct outdir o;

    (void)state;
    make_export("out", "new");
    scratch_text("out/.weighbridge-partial", "journal");
    make_export("out.partial", "old");
    recover();
    assert_file("out/model.onnx", "new");
    assert_false(scratch_has("out/.weighbridge-partial") || scratch_has("out.partial"));
    recover(); /* nothing to do */

    scratch_text("out/.weighbridge-partial", "journal");
    scratch_text("out/.weighbridge-aside", "");
    make_export("out.old", "old");
    scratch_dir("out.partial"); /* somebody's */
    scratch_text("out.partial/precious", "mine");
    recover();
    assert_false(scratch_has("out/.weighbridge-partial") || scratch_has("out/.weighbridge-aside"));
    assert_false(scratch_has("out.old"));
    assert_file("out.partial/precious", "mine");
    unlink(scratch_path("out.partial/precious"));

    scratch_text("out/.weighbridge-partial", "journal"); /* and the older one was empty */
    recover();
    assert_false(scratch_has("out.partial"));
    create(&o, true);
    outdir_discard(&o);
}

/* Without exchange, between its two renames. */
static void killed_while_there_was_no_out(void **state)
{
    (void)state;
    make_export("out.old", "old");
    scratch_dir("out.partial");
    scratch_text(MARK, "journal");
    recover();
    assert_false(scratch_has("out")); /* an OUT.old of the user's own: nothing says that we put it there */
    scratch_text("out.partial/.weighbridge-aside", "");
    recover();
    assert_file("out/model.onnx", "old");
    assert_false(scratch_has("out.old") || scratch_has("out.partial/.weighbridge-aside"));
    assert_true(scratch_has(MARK));

    scratch_text("out.partial/.weighbridge-aside", ""); /* killed before the first */
    recover();
    assert_file("out/model.onnx", "old");
    assert_false(scratch_has("out.partial/.weighbridge-aside"));
}

static void a_run_that_lives_is_not_recovered(void **state)
{
    struct outdir o;

    (void)state;
    make_export("out.old", "old");
    create(&o, false);
    scratch_text("out.partial/.weighbridge-aside", "");
    recover();
    assert_false(scratch_has("out"));
    outdir_discard(&o);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(places_that_are_refused),
        TEST(model_under_a_name_of_ours),
        TEST(links),
        TEST(places_that_are_allowed),
        TEST(what_may_be_overwritten),
        TEST(publishes),
        TEST(discards),
        TEST(replaces_an_export),
        TEST(replaces_an_empty_directory),
        TEST(failed_renames),
        TEST(failed_first_publication),
        TEST(out_that_changed_meanwhile),
        TEST(out_that_vanished_meanwhile),
        TEST(partial_that_was_moved),
        TEST(partial_that_was_replaced),
        TEST(partial_that_was_replaced_beside_an_export),
        TEST(leftovers),
        TEST(partial_that_is_a_link_or_a_file),
        TEST(stuck_link),
        TEST(file_system_without_locks),
        TEST(locked_by_another_process),
        TEST(older_export_is_marked_before_it_goes),
        TEST(mark_goes_last),
        TEST(what_is_left_can_be_kept),
        TEST(killed_before_the_older_one_was_removed),
        TEST(killed_while_there_was_no_out),
        TEST(a_run_that_lives_is_not_recovered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
