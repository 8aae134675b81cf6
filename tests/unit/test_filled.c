/* Who waits for bytes of the data files gets them when the last of them is written, not before and not never. */
#include "pipeline/filled.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>
#include <cmocka.h>

/* Two files; in the first three items with padding between them, an empty one, and one that an earlier run has done. */
static struct placed items[] = { { .name = "a", .file = 0, .off = 0, .bytes = 5000 },
                                 { .name = "b", .file = 0, .off = 8192, .bytes = 100 },
                                 { .name = "empty", .file = 0, .off = 12288, .bytes = 0 },
                                 { .name = "c", .file = 0, .off = 12288, .bytes = 9000 },
                                 { .name = "done", .file = 0, .off = 24576, .bytes = 50, .done = true },
                                 { .name = "d", .file = 1, .off = 4096, .bytes = 70 } };
static const struct layout layout = { .item = items, .items_n = sizeof items / sizeof *items, .files_n = 2 };

struct waiter {
    struct filled *filled;
    size_t file;
    uint64_t off, bytes;
    pthread_t thread;
    pthread_mutex_t lock;
    bool back, there;
};

static void *wait_main(void *arg)
{
    struct waiter *w = arg;
    bool there = filled_wait_bytes(w->filled, w->file, w->off, w->bytes);

    pthread_mutex_lock(&w->lock);
    w->back = true;
    w->there = there;
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void start(struct waiter *w, struct filled *f)
{
    w->filled = f;
    pthread_mutex_init(&w->lock, NULL);
    assert_int_equal(pthread_create(&w->thread, NULL, wait_main, w), 0);
}

static bool is_back(struct waiter *w)
{
    bool back;

    usleep(20000); /* one that should not come back has the time to */
    pthread_mutex_lock(&w->lock);
    back = w->back;
    pthread_mutex_unlock(&w->lock);
    return back;
}

static bool end(struct waiter *w)
{
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->lock);
    return w->there;
}

static void what_is_no_tensor_s_is_there(void **state)
{
    struct arena a = { 0 };
    struct filled f;

    (void)state;
    filled_init(&f, &layout, &a);
    assert_true(filled_wait_bytes(&f, 0, 5000, 3192));  /* padding */
    assert_true(filled_wait_bytes(&f, 0, 8292, 3996));  /* up to the empty one */
    assert_true(filled_wait_bytes(&f, 0, 21288, 4000)); /* what was done before, and beyond the end */
    assert_true(filled_wait_bytes(&f, 1, 0, 4096));     /* a head */
    filled_release(&f);
    arena_release(&a);
}

static void bytes_are_waited_for(void **state)
{
    struct waiter begin = { .bytes = 4000 }, across = { .off = 4999, .bytes = 12288 - 4999 + 10 };
    struct waiter other = { .file = 1, .bytes = 4097 };
    struct arena a = { 0 };
    struct filled f;

    (void)state;
    filled_init(&f, &layout, &a);
    start(&begin, &f);
    start(&across, &f);
    start(&other, &f);
    filled_item(&f, 0, 3999);
    filled_item(&f, 0, 100); /* an older word of the same */
    assert_false(is_back(&begin));
    filled_item(&f, 0, 4000);
    assert_true(end(&begin));
    filled_item(&f, 3, 10);
    filled_item(&f, 0, 5000);
    assert_false(is_back(&across));
    filled_item(&f, 1, 100);
    assert_true(end(&across));
    assert_false(is_back(&other));
    filled_item(&f, 5, 1);
    assert_true(end(&other));
    filled_release(&f);
    arena_release(&a);
}

static void *wait_whole(void *f) { return filled_wait(f, FILLED_WHOLE) ? f : NULL; }

static void giving_up_ends_all_waiting(void **state)
{
    struct waiter w = { .bytes = 1 };
    struct arena a = { 0 };
    struct filled f;
    pthread_t thread;
    void *whole;

    (void)state;
    filled_init(&f, &layout, &a);
    filled_reach(&f, FILLED_OPEN);
    assert_true(filled_wait(&f, FILLED_OPEN));
    start(&w, &f);
    assert_int_equal(pthread_create(&thread, NULL, wait_whole, &f), 0);
    assert_false(is_back(&w) || filled_stopped(&f));
    filled_stop(&f);
    assert_false(end(&w));
    pthread_join(thread, &whole);
    assert_null(whole);
    assert_true(filled_stopped(&f));
    assert_false(filled_wait_bytes(&f, 0, 24576, 1)); /* not even what is there */
    filled_release(&f);
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_tensor_s_is_there),
        cmocka_unit_test(bytes_are_waited_for),
        cmocka_unit_test(giving_up_ends_all_waiting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
