/* Which devices are asked for, and what is said where there are none; the plugin is a fake one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "gpu/gpu_plugin.h"

static void choose_fails(const char *which, const char *says)
{
    struct gpu_choice c;
    struct err e = { 0 };

    assert_int_equal(gpu_choose(which, &c, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    assert_non_null(strstr(e.msg, which));
    if (!strstr(e.msg, says))
        fail_msg("%s", e.msg);
    assert_false(gpu_known(which));
}

static void test_choose(void **state)
{
    struct gpu_choice c;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(gpu_choose("cuda", &c, &e), 0);
    assert_true(!c.all && c.n == 1 && c.number[0] == 0);
    assert_int_equal(gpu_choose("cuda:all", &c, &e), 0);
    assert_true(c.all && c.n == 0);
    assert_int_equal(gpu_choose("cuda:5", &c, &e), 0);
    assert_true(!c.all && c.n == 1 && c.number[0] == 5);
    assert_int_equal(gpu_choose("cuda:3,0,63", &c, &e), 0);
    assert_true(!c.all && c.n == 3 && c.number[0] == 3 && c.number[1] == 0 && c.number[2] == 63);
    assert_true(gpu_known("cuda:0,2"));
}

static void test_choose_refuses(void **state)
{
    (void)state;
    choose_fails("tpu", "is not one of");
    choose_fails("cuda0", "is not one of");
    choose_fails("Cuda", "is not one of");
    choose_fails("", "is not one of");
    choose_fails("cuda:", "expected numbers from 0 to 63");
    choose_fails("cuda:,1", "expected numbers");
    choose_fails("cuda:1,", "expected numbers");
    choose_fails("cuda:1,,2", "expected numbers");
    choose_fails("cuda:-1", "expected numbers");
    choose_fails("cuda: 1", "expected numbers");
    choose_fails("cuda:1x", "expected numbers");
    choose_fails("cuda:64", "expected numbers");
    choose_fails("cuda:18446744073709551616", "expected numbers");
    choose_fails("cuda:all,1", "expected numbers");
    choose_fails("cuda:2,1,2", "names device 2 twice");
    choose_fails("cuda:1,01", "names device 1 twice");
}

/* `plugin`: NULL: the one beside this program. */
static int open_with(struct gpu *g, const char *plugin, const char *how, struct err *e)
{
    if (plugin)
        setenv("WEIGHBRIDGE_CUDA", plugin, 1);
    else
        unsetenv("WEIGHBRIDGE_CUDA");
    setenv("FAKE_GPU", how, 1);
    *e = (struct err){ 0 };
    return gpu_open(g, "cuda:1,0", NULL, 0, e);
}

static void open_fails(const char *plugin, const char *how, const char *begins, const char *says)
{
    struct gpu g;
    struct err e;

    assert_int_equal(open_with(&g, plugin, how, &e), -1);
    assert_int_equal(e.kind, ERR_DEVICE);
    if (strncmp(e.msg, begins, strlen(begins)) || !strstr(e.msg, says) || strchr(e.msg, '\n'))
        fail_msg("%s", e.msg);
    gpu_close(&g);
}

static void test_no_device(void **state)
{
    (void)state;
    open_fails("/nowhere/x.so", "well", "no CUDA device: /nowhere/x.so: ", "-DWEIGHBRIDGE_CUDA=ON");
    open_fails(FAKE_EMPTY, "well", "no CUDA device: libweighbridge_cuda.so is of another version", "both together");
    open_fails(FAKE_OLD, "well", "no CUDA device: libweighbridge_cuda.so is of another version", "both together");
    open_fails(FAKE_ABSENT, "well", "no CUDA device: libabsent.so: cannot open shared object file", "CUDA 13 runtime");
    open_fails(FAKE_RIGHT, "nothing", "no CUDA device: the shelf is empty", "");
}

static void test_usage_comes_before_the_plugin(void **state)
{
    struct gpu g;
    struct err e = { 0 };

    (void)state;
    setenv("WEIGHBRIDGE_CUDA", "/nowhere/x.so", 1);
    assert_int_equal(gpu_open(&g, "cuda:1,1", NULL, 0, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    gpu_close(&g);
}

static void test_a_device_that_does_not_open(void **state)
{
    struct gpu g;
    struct err e;

    (void)state;
    open_fails(FAKE_RIGHT, "broken", "device 7 (Fake): is on fire", "");
    assert_int_equal(open_with(&g, FAKE_RIGHT, "broken", &e), -1);
    assert_int_equal(g.failed, 0);
    assert_int_equal(g.info[g.failed].number, 7);
    assert_null(g.call);
}

static void test_calls_are_passed_on(void **state)
{
    unsigned without = 9;
    struct gpu g;
    struct err e;
    void *at;

    (void)state;
    assert_int_equal(open_with(&g, FAKE_RIGHT, "well", &e), 0);
    assert_int_equal(g.n, 2);
    assert_int_equal(g.failed, GPU_MOST);
    assert_int_equal(gpu_alloc(&g, 1, 5, &at, &e), 0);
    assert_ptr_equal(at, &g.info[1]);
    assert_int_equal(gpu_alloc(&g, 1, 0, &at, &e), -1);
    assert_string_equal(e.msg, "device 7 (Fake): no bytes");
    gpu_close(&g);
    gpu_close(&g);
    assert_int_equal(g.info[0].memory, 1);
    e = (struct err){ 0 };
    assert_int_equal(gpu_open(&g, "cuda", &without, 1, &e), 0);
    assert_int_equal(g.info[0].number, 9);
    gpu_close(&g);
}

static void test_beside_the_program(void **state)
{
    struct gpu g;
    struct err e;

    (void)state;
    if (open_with(&g, NULL, "well", &e))
        fail_msg("%s", e.msg);
    gpu_close(&g);
}

static void test_close_of_nothing(void **state)
{
    struct gpu g = { 0 };

    (void)state;
    gpu_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose),
        cmocka_unit_test(test_choose_refuses),
        cmocka_unit_test(test_no_device),
        cmocka_unit_test(test_usage_comes_before_the_plugin),
        cmocka_unit_test(test_a_device_that_does_not_open),
        cmocka_unit_test(test_calls_are_passed_on),
        cmocka_unit_test(test_beside_the_program),
        cmocka_unit_test(test_close_of_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
