#include "io/limits.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/least.h"

/* "max", a missing file, and what version 1 has for no limit are all none. */
static uint64_t limit_in(const char *path)
{
    FILE *f = fopen(path, "re");
    uint64_t limit = UINT64_MAX;

    if (!f)
        return UINT64_MAX;
    if (fscanf(f, "%" SCNu64, &limit) != 1)
        limit = UINT64_MAX;
    fclose(f);
    return limit;
}

/* Of the group at `path` below `root` and of all above it.  In a container the path may be the host's, of which only
 * the end is seen, or nothing but the root: what is not there is passed over. */
static uint64_t limit_upwards(const char *root, const char *path, const char *name)
{
    char group[PATH_MAX], file[PATH_MAX + 64];
    uint64_t limit = UINT64_MAX;
    size_t n = strlen(path);

    if (n >= sizeof group)
        return UINT64_MAX;
    memcpy(group, path, n + 1);
    for (;;) {
        char *slash;

        while (n && group[n - 1] == '/')
            group[--n] = 0;
        if (snprintf(file, sizeof file, "%s%s/%s", root, group, name) < (int)sizeof file)
            limit = least(limit, limit_in(file));
        slash = strrchr(group, '/');
        if (!slash)
            return limit;
        n = (size_t)(slash - group);
        group[n] = 0;
    }
}

static bool has_memory(const char *controllers)
{
    for (const char *at = controllers; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (!strncmp(at, "memory", 6) && (!at[6] || at[6] == ','))
            return true;
    return false;
}

/* A line is NUMBER:CONTROLLERS:PATH; without controllers it is of version 2. */
static uint64_t limit_of_line(char *line, const char *mount)
{
    char root[PATH_MAX], *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;

    if (!path)
        return UINT64_MAX;
    *controllers++ = 0;
    *path++ = 0;
    path[strcspn(path, "\n")] = 0;
    if (!*controllers)
        return limit_upwards(mount, path, "memory.max");
    if (!has_memory(controllers) || snprintf(root, sizeof root, "%s/memory", mount) >= (int)sizeof root)
        return UINT64_MAX;
    return limit_upwards(root, path, "memory.limit_in_bytes");
}

uint64_t limits_of_groups(const char *groups, const char *mount)
{
    FILE *f = fopen(groups, "re");
    uint64_t limit = UINT64_MAX;
    char *line = NULL;
    size_t room = 0;

    if (!f)
        return UINT64_MAX;
    while (getline(&line, &room, f) >= 0)
        limit = least(limit, limit_of_line(line, mount));
    free(line);
    fclose(f);
    return limit;
}

uint64_t limits_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t machine = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_MAX;

    return least(machine, limits_of_groups("/proc/self/cgroup", "/sys/fs/cgroup"));
}

unsigned limits_processors(void)
{
    long all = sysconf(_SC_NPROCESSORS_CONF);

    for (size_t n = all > 1024 ? (size_t)all : 1024; n <= 1 << 20;
         n *= 2) { /* the kernel's set may be larger than ours */
        size_t bytes = CPU_ALLOC_SIZE(n);
        cpu_set_t *set = CPU_ALLOC(n);
        int mine = set && !sched_getaffinity(0, bytes, set) ? CPU_COUNT_S(bytes, set) : 0;
        bool too_small = set && !mine && errno == EINVAL;

        CPU_FREE(set);
        if (mine > 0)
            return (unsigned)mine;
        if (!too_small)
            break;
    }
    return 1;
}
