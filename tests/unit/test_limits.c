/* What control groups say of memory, as both versions and containers show it; and the processors of an affinity. */
#include "io/limits.h"
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include "scratch.h"

static uint64_t limit(const char *groups)
{
    scratch_text("groups", groups);
    return limits_of_groups(scratch_path("groups"), scratch_path("fs"));
}

static void make_group(const char *dir, const char *file, const char *text)
{
    char name[100];

    if (access(scratch_path(dir), F_OK))
        scratch_dir(dir);
    snprintf(name, sizeof name, "%s/%s", dir, file);
    scratch_text(name, text);
}

static void the_least_of_a_group_and_those_above(void **state)
{
    (void)state;
    scratch_dir("fs");
    make_group("fs/job", "memory.max", "1073741824\n");
    make_group("fs/job/step", "memory.max", "max\n");
    make_group("fs/other", "memory.max", "4096\n");
    assert_int_equal(limit("0::/job/step\n"), 1 << 30);
    make_group("fs/job/step", "memory.max", "536870912\n");
    assert_int_equal(limit("0::/job/step\n"), 512 << 20);
    assert_int_equal(limit("0::/job\n"), 1 << 30);
    assert_int_equal(limit("0::/\n"), UINT64_MAX); /* the root of a machine has no file */
    make_group("fs", "memory.max", "268435456\n"); /* that of a container has one */
    assert_int_equal(limit("0::/\n"), 256 << 20);
    assert_int_equal(limit("0::/job/step\n"), 256 << 20);
    assert_int_equal(limit("0::/not/seen/from/here\n"), 256 << 20);
}

static void version_one_names_its_controllers(void **state)
{
    (void)state;
    scratch_dir("fs");
    make_group("fs/memory", "memory.limit_in_bytes", "9223372036854771712\n");
    make_group("fs/memory/box", "memory.limit_in_bytes", "536870912\n");
    assert_int_equal(limit("12:pids:/x\n4:memory:/box\n0::/\n"), 512 << 20);
    assert_int_equal(limit("4:hugetlb,memory:/box/\n"), 512 << 20);
    assert_int_equal(limit("4:memoryless:/box\n"), UINT64_MAX);
    assert_true(limit("4:memory:/\n") > 1ull << 62);
}

static void nonsense_is_no_limit(void **state)
{
    (void)state;
    scratch_dir("fs");
    make_group("fs/a", "memory.max", "lots\n");
    assert_int_equal(limit("0::/a\n"), UINT64_MAX);
    assert_int_equal(limit(""), UINT64_MAX);
    assert_int_equal(limit("0:/a\nmemory\n::\n"), UINT64_MAX);
    assert_int_equal(limits_of_groups(scratch_path("none"), scratch_path("fs")), UINT64_MAX);
    assert_true(limits_memory() > 16 << 20);
}

static void processors_are_those_of_the_thread(void **state)
{
    cpu_set_t before, one;
    size_t first = 0;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(limits_processors(), CPU_COUNT(&before));
    while (!CPU_ISSET(first, &before))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(limits_processors(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_least_of_a_group_and_those_above, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(version_one_names_its_controllers, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(nonsense_is_no_limit, scratch_make, scratch_remove),
        cmocka_unit_test(processors_are_those_of_the_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
