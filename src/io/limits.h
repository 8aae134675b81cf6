/* limits.h - what this process may have of its machine. */
#ifndef IO_LIMITS_H
#define IO_LIMITS_H
#include <stdint.h>

/* Bytes of memory: the machine's, or less where a control group of ours or one above it has a limit (a container, a
 * Slurm job); versions 1 and 2 (Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst).  UINT64_MAX: unknown.
 */
uint64_t limits_memory(void);
/* The part of it that groups say: `groups` is a file like /proc/self/cgroup, `mount` where they are seen. */
uint64_t limits_of_groups(const char *groups, const char *mount);

/* Processors that this thread may run on: those of taskset, a cpuset, a Slurm job; at least 1. */
unsigned limits_processors(void);

#endif
