#include "io/ranks.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"

#define PLUGIN "libweighbridge_mpi.so"

/* What launchers leave in the environment: Open MPI, PMI (MPICH, Slurm), PMIx under Slurm. */
static const char *const sizes[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS" };

static long launched(const char **by)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char *text = getenv(sizes[i]);

        *by = sizes[i];
        if (text)
            return strtol(text, NULL, 10);
    }
    return 1;
}

/* Beside the library or program that this code is in, or in lib beside the program's folder. */
static void *open_beside(const char *folder)
{
    char path[PATH_MAX];
    Dl_info info;
    const char *slash;

    if (!dladdr((const void *)sizes, &info) || !info.dli_fname || !(slash = strrchr(info.dli_fname, '/')))
        return NULL;
    snprintf(path, sizeof path, "%.*s/%s%s", (int)(slash - info.dli_fname), info.dli_fname, folder, PLUGIN);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static void *open_plugin(void)
{
    const char *named = getenv("WEIGHBRIDGE_MPI");
    void *library = named ? dlopen(named, RTLD_NOW | RTLD_LOCAL) : open_beside("");

    if (!library && !named)
        library = open_beside("../lib/");
    return library || named ? library : dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
}

int ranks_join(struct wb_ranks **ranks, struct err *e)
{
    const struct ranks_plugin *plugin;
    const char *by;
    long size = launched(&by);
    void *library;

    *ranks = NULL;
    if (size <= 1)
        return 0;
    if (!(library = open_plugin()))
        return err_set(e, ERR_UNSUPPORTED,
                       "%ld processes were started together (%s), but there is no %s that loads: build with "
                       "-DWEIGHBRIDGE_MPI=ON, or start one process (%s)",
                       size, by, PLUGIN, dlerror());
    plugin = dlsym(library, "weighbridge_ranks");
    if (!plugin || plugin->version != RANKS_PLUGIN_VERSION) {
        dlclose(library);
        return err_set(e, ERR_UNSUPPORTED, "%s is of another version of weighbridge: install both together", PLUGIN);
    }
    *ranks = xmalloc(sizeof **ranks);
    **ranks = (struct wb_ranks){ .plugin = plugin, .library = library };
    if (!plugin->join(&(*ranks)->rank, &(*ranks)->size))
        return 0;
    free(*ranks);
    *ranks = NULL;
    return err_set(e, ERR_UNSUPPORTED, "MPI cannot be started with %ld processes (%s)", size, by);
}

/* MPI libraries do not like to be unloaded. */
void ranks_leave(struct wb_ranks *r)
{
    if (r)
        r->plugin->leave();
    free(r);
}

bool ranks_first(const struct wb_ranks *r) { return !r || !r->rank; }

static int lost(struct err *e) { return err_set(e, ERR_IO, "MPI failed between the ranks: see its own messages"); }

int ranks_broadcast(struct wb_ranks *r, void *bytes, size_t n, struct err *e)
{
    return r && (n > INT_MAX || r->plugin->broadcast(bytes, (int)n)) ? lost(e) : 0;
}

int ranks_gather(struct wb_ranks *r, const void *mine, size_t n, void *all, struct err *e)
{
    if (r)
        return n > INT_MAX || r->plugin->gather(mine, (int)n, all) ? lost(e) : 0;
    memcpy(all, mine, n);
    return 0;
}

struct state { /* of a rank, as all of them see it */
    int kind;
    bool alarm;
    char msg[sizeof((struct err *)0)->msg];
};

int ranks_agree(struct wb_ranks *r, struct err *e, bool *told)
{
    struct state mine = { .kind = (int)e->kind }, *all;
    int first = -1;

    if (!r)
        return e->kind ? -1 : 0;
    mine.alarm = r->gave_alarm;
    memcpy(mine.msg, e->msg, sizeof mine.msg);
    all = xmalloc((size_t)r->size * sizeof *all);
    if (r->plugin->gather(&mine, sizeof mine, all)) {
        free(all);
        return lost(e);
    }
    for (int i = 0; i < r->size; i++) {
        if (all[i].alarm && i != r->rank)
            r->plugin->settle(i);
        /* Who was only stopped has nothing to say beside the one who stopped it. */
        if (all[i].kind && (first < 0 || (all[first].kind == ERR_CANCELLED && all[i].kind != ERR_CANCELLED)))
            first = i;
    }
    r->gave_alarm = false;
    if (first >= 0) {
        *told = first != r->rank;
        *e = (struct err){ 0 };
        all[first].msg[sizeof all[first].msg - 1] = 0;
        err_set(e, (enum err_kind)all[first].kind, "%s", all[first].msg);
        err_at(e, "rank %d of %d", first, r->size);
    }
    free(all);
    return first >= 0 ? -1 : 0;
}

void ranks_alarm(struct wb_ranks *r)
{
    if (r && !r->gave_alarm)
        r->gave_alarm = !r->plugin->alarm();
}

bool ranks_alarmed(const struct wb_ranks *r) { return r && r->plugin->alarmed(); }
