/* gpu.c - finds the plugin, reads which devices are asked for, and passes calls on. */
#include "gpu/gpu.h"
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "gpu/gpu_plugin.h"

#define PLUGIN "libweighbridge_cuda.so"

/* ---- which devices ---- */

/* The number at *at, behind which *at then stands; false: there is none, or one that no device can have. */
static bool take_number(const char **at, unsigned *number)
{
    char *end;
    unsigned long n;

    if (**at < '0' || **at > '9')
        return false;
    n = strtoul(*at, &end, 10);
    *at = end;
    *number = (unsigned)n;
    return n < GPU_MOST;
}

static int take_list(const char *which, const char *at, struct gpu_choice *c, struct err *e)
{
    for (;; at++) {
        unsigned number;

        if (!take_number(&at, &number) || (*at && *at != ','))
            return err_set(e, ERR_USAGE,
                           "--device '%s': expected numbers from 0 to %d, as in cuda:0 or cuda:0,2, or "
                           "cuda:all",
                           which, GPU_MOST - 1);
        for (unsigned i = 0; i < c->n; i++)
            if (c->number[i] == number)
                return err_set(e, ERR_USAGE, "--device '%s' names device %u twice: give each once", which, number);
        c->number[c->n++] = number;
        if (!*at)
            return 0;
    }
}

int gpu_choose(const char *which, struct gpu_choice *c, struct err *e)
{
    *c = (struct gpu_choice){ 0 };
    if (!strcmp(which, "cuda")) {
        c->n = 1;
        return 0;
    }
    if (!strcmp(which, "cuda:all")) {
        c->all = true;
        return 0;
    }
    if (!strncmp(which, "cuda:", 5))
        return take_list(which, which + 5, c, e);
    return err_set(e, ERR_USAGE, "--device '%s' is not one of cuda, cuda:N, cuda:N,M, cuda:all", which);
}

bool gpu_known(const char *which)
{
    struct gpu_choice ignored;
    struct err e = { 0 };

    return !gpu_choose(which, &ignored, &e);
}

/* ---- the plugin ---- */

/* The folder of the program, or of the library where this code is in one; "" where it cannot be known. */
static void own_folder(char folder[PATH_MAX])
{
    struct link_map *map = NULL;
    Dl_info info;
    char *slash;

    *folder = 0;
    if (!dladdr1((const void *)gpu_open, &info, (void **)&map, RTLD_DL_LINKMAP) || !map)
        return;
    if (!realpath(*map->l_name ? map->l_name : "/proc/self/exe", folder))
        *folder = 0;
    if ((slash = strrchr(folder, '/')))
        *slash = 0;
}

/* Where it was built, where it is installed, else its name alone, for which the system's folders are asked. */
static void find_plugin(char *path, size_t size)
{
    static const char *const places[] = { "", "/" GPU_PLUGIN_FOLDER };
    const char *named = getenv("WEIGHBRIDGE_CUDA");
    char folder[PATH_MAX];

    snprintf(path, size, "%s", named && *named ? named : PLUGIN);
    if (named && *named)
        return;
    own_folder(folder);
    for (size_t i = 0; *folder && i < sizeof places / sizeof *places; i++) {
        snprintf(path, size, "%s%s/%s", folder, places[i], PLUGIN);
        if (!access(path, F_OK))
            return;
    }
    snprintf(path, size, "%s", PLUGIN);
}

/* Kept open for good: what CUDA's libraries start does not end with them. */
static const struct gpu_calls *load_calls(struct err *e)
{
    char path[PATH_MAX + sizeof "/" GPU_PLUGIN_FOLDER "/" PLUGIN];
    const struct gpu_calls *(*entry)(void), *calls;
    void *library;

    find_plugin(path, sizeof path);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror(), *self = strstr(why, path);

        err_set(e, ERR_DEVICE, "%s: %s, or use --device cpu", why,
                self == why ? "build weighbridge with -DWEIGHBRIDGE_CUDA=ON, or give the plugin's path by "
                              "WEIGHBRIDGE_CUDA in the environment"
                            : "install the CUDA 13 runtime");
        return NULL;
    }
    *(void **)&entry = dlsym(library, GPU_PLUGIN_ENTRY);
    calls = entry ? entry() : NULL;
    if (calls && calls->abi == GPU_PLUGIN_ABI)
        return calls;
    dlclose(library);
    err_set(e, ERR_DEVICE, "%s is of another version of weighbridge: install both together", PLUGIN);
    return NULL;
}

int gpu_open(struct gpu *g, const char *which, const unsigned *without, size_t without_n, struct err *e)
{
    struct gpu_choice c;
    bool nothing = true;

    *g = (struct gpu){ .failed = GPU_MOST };
    if (gpu_choose(which, &c, e))
        return -1;
    g->call = load_calls(e);
    if (g->call && !g->call->open(g, &c, without, without_n, &nothing, e))
        return 0;
    g->call = NULL;
    return nothing ? err_at(e, "no CUDA device") : -1;
}

void gpu_close(struct gpu *g)
{
    if (g->call)
        g->call->close(g);
    g->call = NULL;
    g->self = NULL;
    g->joined = false;
    g->n = 0;
}

/* ---- passed on ---- */

int gpu_alloc(struct gpu *g, unsigned device, size_t bytes, void **at, struct err *e)
{
    return g->call->alloc(g, device, bytes, at, e);
}

int gpu_free(struct gpu *g, unsigned device, void *at, struct err *e) { return g->call->free(g, device, at, e); }

int gpu_pin(struct gpu *g, void *at, size_t bytes, struct err *e) { return g->call->pin(g, at, bytes, e); }

int gpu_unpin(struct gpu *g, void *at, struct err *e) { return g->call->unpin(g, at, e); }

int gpu_copy_in(struct gpu *g, unsigned device, void *dst, const void *src, const struct gpu_piece *p, struct err *e)
{
    return g->call->copy_in(g, device, dst, src, p, e);
}

int gpu_copy_out(struct gpu *g, unsigned device, void *dst, const void *src, const struct gpu_piece *p, struct err *e)
{
    return g->call->copy_out(g, device, dst, src, p, e);
}

int gpu_copy_within(struct gpu *g, unsigned device, void *dst, const void *src, size_t bytes, struct err *e)
{
    return g->call->copy_within(g, device, dst, src, bytes, e);
}

int gpu_clear(struct gpu *g, unsigned device, enum gpu_stream s, void *at, size_t bytes, struct err *e)
{
    return g->call->clear(g, device, s, at, bytes, e);
}

int gpu_launch(struct gpu *g, unsigned device, const struct gpu_kernel *k, struct err *e)
{
    return g->call->launch(g, device, k, e);
}

int gpu_product(struct gpu *g, unsigned device, const struct gpu_product *p, struct err *e)
{
    return g->call->product(g, device, p, e);
}

int gpu_event_make(struct gpu *g, unsigned device, bool timed, struct gpu_event **v, struct err *e)
{
    return g->call->event_make(g, device, timed, v, e);
}

int gpu_event_free(struct gpu *g, unsigned device, struct gpu_event *v, struct err *e)
{
    return g->call->event_free(g, device, v, e);
}

int gpu_record(struct gpu *g, unsigned device, enum gpu_stream s, struct gpu_event *v, struct err *e)
{
    return g->call->record(g, device, s, v, e);
}

int gpu_after(struct gpu *g, unsigned device, enum gpu_stream s, struct gpu_event *v, struct err *e)
{
    return g->call->after(g, device, s, v, e);
}

int gpu_done(struct gpu *g, unsigned device, struct gpu_event *v, bool *done, struct err *e)
{
    return g->call->done(g, device, v, done, e);
}

int gpu_wait(struct gpu *g, unsigned device, struct gpu_event *v, struct err *e)
{
    return g->call->wait(g, device, v, e);
}

int gpu_elapsed(struct gpu *g, unsigned device, struct gpu_event *from, struct gpu_event *to, double *seconds,
                struct err *e)
{
    return g->call->elapsed(g, device, from, to, seconds, e);
}

int gpu_join(struct gpu *g, struct err *e) { return g->call->join(g, e); }

int gpu_send(struct gpu *g, unsigned from, const void *src, unsigned to, void *dst, size_t bytes, struct err *e)
{
    return g->call->send(g, from, src, to, dst, bytes, e);
}

int gpu_broadcast(struct gpu *g, unsigned from, void *const *at, size_t bytes, struct err *e)
{
    return g->call->broadcast(g, from, at, bytes, e);
}

int gpu_reduce(struct gpu *g, void *const *at, size_t n, size_t pitch, enum gpu_sum how, struct err *e)
{
    return g->call->reduce(g, at, n, pitch, how, e);
}
