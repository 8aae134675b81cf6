/* confine.h - a process gives up what it does not need, before it runs what a stranger wrote.
 *
 * Several fences, each enough against most of what a script could try, so that
 * a kernel without one of them still has the others:
 *   limits    CPU time, address space, no file may grow (RLIMIT_FSIZE 0), no core
 *   Landlock  nothing on any file system may be created, changed or removed; no TCP
 *   seccomp   no sockets, no new processes, no exec but the one that was asked for,
 *             no opening for writing, no signals, nothing of ptrace, mount, keys, ...
 *   rights    PR_SET_NO_NEW_PRIVS; root keeps nothing but reading what it may read
 * What remains is reading files and talking over the descriptors that are open.
 * A script shuts that too, by RLIMIT_NOFILE 0, once it has loaded its modules. */
#ifndef EMIT_CONFINE_H
#define EMIT_CONFINE_H
#include <stddef.h>
#include <stdint.h>
#include <linux/filter.h>

enum { CONFINE_FILTER_MAX = 512 };

struct confine {
    unsigned cpu_seconds;
    uint64_t memory; /* bytes of address space */
    size_t filter_n; /* 0: no filter is known for this architecture */
    struct sock_filter filter[CONFINE_FILTER_MAX];
};

/* Makes the seccomp filter; `program` is the path that may be executed, told by its address in memory. */
void confine_prepare(struct confine *c, unsigned cpu_seconds, uint64_t memory, const char *program);
/* For the child between fork and exec: async-signal-safe, allocates nothing.  -1 with errno when a limit cannot be
 * set; the kernel's other fences are used where it has them. */
int confine_self(const struct confine *c);

#endif
