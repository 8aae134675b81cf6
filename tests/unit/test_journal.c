/* A journal gives back what was put in, up to where it was torn, and nothing that another one or chance has written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include "scratch.h"
#include "pipeline/journal.h"

enum { ITEMS = 200, RECORD = 40 + sizeof(struct counters), HEAD = 32 };

static struct arena arena;
static struct placed item[ITEMS];
static const struct layout layout = { .item = item, .items_n = ITEMS, .files_n = 2 };
static int dir;

static int begin(void **state)
{
    if (scratch_make(state))
        return -1;
    for (unsigned i = 0; i < ITEMS; i++)
        item[i] = (struct placed){ .name = "x", .file = i / 100, .off = i % 100 * 4096, .bytes = 1 + i % 2 * 4000 };
    dir = open(scratch, O_RDONLY | O_DIRECTORY);
    scratch_text("journal", "");
    return 0;
}

static int end(void **state)
{
    close(dir);
    arena_release(&arena);
    return scratch_remove(state);
}

static struct finished of(unsigned i)
{
    return (struct finished){ .item = i,
                              .hashed = i % 3,
                              .result = { .counters = { .overflow = i,
                                                        .flushed = i * 2,
                                                        .nan = i * 3,
                                                        .worst = i * 4,
                                                        .clamped = i * 5,
                                                        .clamped_most = i * 6 },
                                          .hash = (uint64_t)i << 60 | i } };
}

static void open_it(struct journal *j)
{
    struct err e = { 0 };

    if (journal_open(j, &layout, dir, "journal", "shown/journal", &arena, &e))
        fail_msg("%s", e.msg);
}

static void write_it(const char *head, unsigned from, unsigned n)
{
    struct finished f[ITEMS];
    struct err e = { 0 };
    struct journal j;

    for (unsigned i = 0; i < n; i++)
        f[i] = of(from + i);
    open_it(&j);
    assert_int_equal(journal_begin(&j, head, &e), 0);
    assert_int_equal(journal_add(&j, f, n / 2, &e), 0);
    assert_int_equal(journal_add(&j, f + n / 2, n - n / 2, &e), 0);
    assert_int_equal(journal_add(&j, f, 0, &e), 0);
    assert_int_equal(j.finished_n, n);
    journal_close(&j);
}

/* How many records come back; each must be what was put in. */
static size_t read_it(const char *head, unsigned from)
{
    struct err e = { 0 };
    struct journal j;
    const char *found;

    open_it(&j);
    assert_int_equal(journal_head(&j, &found, &arena, &e), 0);
    if (!head) {
        assert_null(found);
        journal_close(&j);
        return 0;
    }
    assert_string_equal(found, head);
    if (journal_resume(&j, &e))
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < j.finished_n; i++) {
        struct finished want = of(from + (unsigned)i), *got = &j.finished[i];

        assert_int_equal(got->item, want.item);
        assert_int_equal(got->hashed, want.hashed);
        assert_true(got->result.hash == want.result.hash);
        assert_int_equal(got->result.counters.overflow, want.result.counters.overflow);
        assert_int_equal(got->result.counters.flushed, want.result.counters.flushed);
        assert_int_equal(got->result.counters.nan, want.result.counters.nan);
        assert_int_equal(got->result.counters.worst, want.result.counters.worst);
        assert_int_equal(got->result.counters.clamped, want.result.counters.clamped);
        assert_int_equal(got->result.counters.clamped_most, want.result.counters.clamped_most);
        assert_true(j.done[got->item]);
    }
    journal_close(&j);
    return j.finished_n;
}

static void gives_back_what_was_put_in(void **state)
{
    (void)state;
    write_it("{\"a\": 1}", 3, 150);
    assert_int_equal(read_it("{\"a\": 1}", 3), 150);
    write_it("", 0, ITEMS); /* begins anew */
    assert_int_equal(read_it("", 0), ITEMS);
    write_it("head", 0, 0);
    assert_int_equal(read_it("head", 0), 0);
}

/* What has a record keeps it; what has no bytes gets none. */
static void rest_is_taken(bool hashed)
{
    struct item_result result[ITEMS];
    struct err e = { 0 };
    struct journal j;
    const char *head;

    write_it("head", 150, 7);
    for (unsigned i = 0; i < ITEMS; i++)
        result[i] = of(i).result;
    item[3].bytes = 0;
    open_it(&j);
    assert_int_equal(journal_head(&j, &head, &arena, &e) || journal_resume(&j, &e), 0);
    assert_int_equal(journal_add_rest(&j, result, hashed, &e), 0);
    assert_int_equal(j.finished_n, ITEMS - 1);
    assert_int_equal(journal_add_rest(&j, result, hashed, &e), 0); /* once */
    journal_close(&j);
    open_it(&j);
    assert_int_equal(journal_head(&j, &head, &arena, &e) || journal_resume(&j, &e), 0);
    assert_int_equal(j.finished_n, ITEMS - 1);
    assert_int_equal(j.end, HEAD + 4 + (ITEMS - 1) * RECORD);
    for (size_t i = 0; i < j.finished_n; i++) {
        const struct finished *f = &j.finished[i];

        assert_true(f->item != 3 && f->result.hash == result[f->item].hash);
        assert_true(f->hashed == (i >= 7 ? hashed : f->item % 3 != 0));
        assert_int_equal(f->result.counters.clamped, f->item * 5);
    }
    journal_close(&j);
}

static void takes_the_rest(void **state)
{
    (void)state;
    rest_is_taken(true);
    rest_is_taken(false);
}

static void size_is(const char *name, off_t n)
{
    struct stat st;

    assert_int_equal(stat(scratch_path(name), &st), 0);
    assert_int_equal(st.st_size, n);
}

/* Cut anywhere, or with any byte changed: the records before it, and what comes next is added behind them. */
static void is_read_up_to_a_tear(void **state)
{
    static const char head[] = "the head";
    enum { N = 3, FIRST = HEAD + 8, ALL = FIRST + N * RECORD };
    char whole[ALL];
    FILE *f;

    (void)state;
    write_it(head, 7, N);
    size_is("journal", ALL);
    f = fopen(scratch_path("journal"), "rb");
    assert_int_equal(fread(whole, 1, ALL, f), ALL);
    fclose(f);
    for (size_t at = 0; at < ALL; at++) {
        size_t n = at < FIRST ? 0 : (at - FIRST) / RECORD;

        scratch_write("journal", whole, at);
        assert_int_equal(read_it(at < FIRST ? NULL : head, 7), n);
        if (at >= FIRST)
            size_is("journal", (off_t)(FIRST + n * RECORD));
        whole[at] ^= 1;
        scratch_write("journal", whole, ALL);
        assert_int_equal(read_it(at < FIRST ? NULL : head, 7), n);
        whole[at] ^= 1;
    }
}

static void goes_on_behind_the_last_record(void **state)
{
    struct err e = { 0 };
    struct finished f = of(9), again = of(4);
    struct journal j;
    const char *head;

    (void)state;
    write_it("h", 4, 5);
    assert_int_equal(truncate(scratch_path("journal"), HEAD + 1 + 5 * RECORD - 1), 0);
    open_it(&j);
    assert_int_equal(journal_head(&j, &head, &arena, &e), 0);
    assert_int_equal(journal_resume(&j, &e), 0);
    assert_int_equal(j.finished_n, 4);
    f = of(8);
    assert_int_equal(journal_add(&j, &f, 1, &e), 0);
    assert_int_equal(journal_add(&j, &again, 1, &e), 0); /* twice counts once */
    assert_int_equal(j.finished_n, 5);
    journal_close(&j);
    assert_int_equal(read_it("h", 4), 5);
}

/* Records are bound to their head: those that an older journal left behind it do not count. */
static void records_of_another_head_do_not_count(void **state)
{
    char record[RECORD];
    FILE *f;

    (void)state;
    write_it("head 1", 0, 1);
    f = fopen(scratch_path("journal"), "rb");
    fseek(f, HEAD + 6, SEEK_SET);
    assert_int_equal(fread(record, 1, RECORD, f), RECORD);
    fclose(f);
    write_it("head 2", 0, 0);
    f = fopen(scratch_path("journal"), "ab");
    fwrite(record, 1, RECORD, f);
    fclose(f);
    assert_int_equal(read_it("head 2", 0), 0);
}

static void a_range_that_is_no_tensor_is_refused(void **state)
{
    struct err e = { 0 };
    struct journal j;
    const char *head;

    (void)state;
    write_it("h", 50, 1);
    item[50].bytes++;
    open_it(&j);
    assert_int_equal(journal_head(&j, &head, &arena, &e), 0);
    assert_int_equal(journal_resume(&j, &e), -1);
    assert_non_null(
        strstr(e.msg, "shown/journal: has a finished tensor at 204800 of file 0, where this export has none"));
    journal_close(&j);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(gives_back_what_was_put_in),
        TEST(takes_the_rest),
        TEST(is_read_up_to_a_tear),
        TEST(goes_on_behind_the_last_record),
        TEST(records_of_another_head_do_not_count),
        TEST(a_range_that_is_no_tensor_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
