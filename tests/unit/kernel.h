/* kernel.h - what confined processes stand on and a kernel may lack; emulators of single programs (qemu-user) pass
 * neither on.  Each is tried in a child, by other means than the product's. */
#ifndef TESTS_KERNEL_H
#define TESTS_KERNEL_H
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static inline bool kernel_passes(bool (*probe)(void))
{
    int status;
    pid_t child = fork();

    if (!child)
        _exit(!probe());
    return waitpid(child, &status, 0) == child && !status;
}

static inline bool kernel_takes_a_filter(void)
{
    struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog prog = { 1, &all };

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static inline bool kernel_keeps_a_limit(void)
{
    struct rlimit set = { 1u << 30, 1u << 30 }, now;

    return !setrlimit(RLIMIT_AS, &set) && !getrlimit(RLIMIT_AS, &now) && now.rlim_cur == set.rlim_cur;
}

static inline bool kernel_has_filters(void) { return kernel_passes(kernel_takes_a_filter); }
static inline bool kernel_limits_memory(void) { return kernel_passes(kernel_keeps_a_limit); }

#endif
