/* cudart_kernel.c - libraries of kernels, and their launches.
 *
 * Beside the stand-in stands a folder `kernels`: for each fatbin of the program NAME.fatbin, the same bytes, and
 * NAME.so, its kernels translated from PTX.  So a program can only load what these were made from. */
#include "state.h"
#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARGS = 32, THREADS_MOST = 1024, BLOCK_Z_MOST = 64, GRID_YZ_MOST = 65535, SHARED_MOST = 48 << 10 };
enum { FATBIN = (int)0xba55ed50 };

struct fatbin { /* head of one */
    uint32_t magic;
    uint16_t version, head_bytes;
    uint64_t bytes; /* behind the head */
};

struct kernel {
    char name[64];
    const struct module *module;
    unsigned args;
    uint8_t bytes[ARGS];
    sim_kernel_fn *fn;
    struct kernel *next;
};

struct module {
    char *path; /* of the .so */
    void *image;
    size_t bytes;
    void *library;
    struct module *next;
};

struct loaded { /* a cudaLibrary_t */
    const struct module *module;
    bool live;
    struct loaded *next;
};

struct handle { /* a cudaKernel_t */
    const struct kernel *kernel;
    const struct loaded *from;
    struct handle *next;
};

unsigned sim_dynamic_shared;
static struct kernel *kernels;
static struct module *modules;
static struct loaded *libraries;
static struct handle *handles;
static const struct module *opening;

static void *need(size_t n)
{
    void *p = calloc(1, n);

    if (!p)
        abort();
    return p;
}

/* ---- the folder ---- */

void sim_register_kernel(const char *name, int nargs, const uint8_t *bytes, const uint8_t *kinds, sim_kernel_fn *fn)
{
    struct kernel *k = need(sizeof *k);

    (void)kinds;
    if (nargs < 0 || nargs > ARGS || strlen(name) >= sizeof k->name)
        abort();
    *k = (struct kernel){ .module = opening, .args = (unsigned)nargs, .fn = fn, .next = kernels };
    memcpy(k->name, name, strlen(name));
    memcpy(k->bytes, bytes, (size_t)nargs);
    kernels = k;
}

static void *read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    void *image = NULL;
    long n;

    if (f && !fseek(f, 0, SEEK_END) && (n = ftell(f)) > 0) {
        *bytes = (size_t)n;
        image = need(*bytes);
        rewind(f);
        if (fread(image, 1, *bytes, f) != *bytes) {
            free(image);
            image = NULL;
        }
    }
    if (f)
        fclose(f);
    return image;
}

static void add_module(const char *fatbin)
{
    struct module *m = need(sizeof *m);
    size_t stem = strlen(fatbin) - strlen("fatbin");

    m->path = need(stem + sizeof "so");
    snprintf(m->path, stem + sizeof "so", "%.*sso", (int)stem, fatbin);
    m->image = read_file(fatbin, &m->bytes);
    m->next = modules;
    modules = m;
}

static void find_modules(void)
{
    Dl_info self;
    char pattern[PATH_MAX];
    glob_t found;

    if (modules || !dladdr((void *)find_modules, &self))
        return;
    snprintf(pattern, sizeof pattern, "%.*skernels/*.fatbin", (int)(strrchr(self.dli_fname, '/') + 1 - self.dli_fname),
             self.dli_fname);
    if (!glob(pattern, 0, NULL, &found))
        for (size_t i = 0; i < found.gl_pathc; i++)
            add_module(found.gl_pathv[i]);
    globfree(&found);
    if (!modules)
        sim_report("no kernels: nothing is like %s", pattern);
}

static bool open_module(struct module *m)
{
    if (m->library)
        return true;
    opening = m;
    m->library = dlopen(m->path, RTLD_NOW | RTLD_LOCAL);
    opening = NULL;
    if (!m->library)
        sim_report("cannot load kernels: %s", dlerror());
    return m->library != NULL;
}

/* ---- libraries ---- */

static cudaError_t load(cudaLibrary_t *out, const void *image)
{
    const struct fatbin *head = image;
    struct module *m;
    struct loaded *l;

    if (!image || head->magic != (uint32_t)FATBIN) {
        sim_report("INVALID cudaLibraryLoadData: %p is no fatbin", image);
        return cudaErrorInvalidKernelImage;
    }
    find_modules();
    for (m = modules; m; m = m->next)
        if (m->image && m->bytes == head->head_bytes + head->bytes && !memcmp(m->image, image, m->bytes))
            break;
    if (!m || !open_module(m)) {
        sim_report("cudaLibraryLoadData: the simulated devices were made from other kernels: build them anew");
        return cudaErrorInvalidKernelImage;
    }
    l = need(sizeof *l);
    *l = (struct loaded){ m, true, libraries };
    libraries = l;
    sim_live("kernel libraries were not unloaded", 1);
    *out = (cudaLibrary_t)l;
    return cudaSuccess;
}

cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *jit, void **jit_values,
                                unsigned jit_n, enum cudaLibraryOption *options, void **values, unsigned n)
{
    int e = call_begin("cudaLibraryLoadData", call_device());

    (void)jit, (void)jit_values, (void)options, (void)values;
    if (jit_n || n)
        sim_report("UNSUPPORTED: options of cudaLibraryLoadData");
    return call_end(e ? (cudaError_t)e : load(library, code));
}

static struct loaded *library_of(cudaLibrary_t handle, const char *call)
{
    struct loaded *l = libraries;

    while (l && (l != (struct loaded *)handle || !l->live))
        l = l->next;
    if (!l)
        sim_report("INVALID %s: %p is no library, or one that was unloaded", call, (void *)handle);
    return l;
}

cudaError_t cudaLibraryUnload(cudaLibrary_t handle)
{
    int e = call_begin("cudaLibraryUnload", call_device());
    struct loaded *l = library_of(handle, "cudaLibraryUnload");

    if (!l)
        return call_end(cudaErrorInvalidResourceHandle);
    l->live = false;
    sim_live("kernel libraries were not unloaded", -1);
    return call_end((cudaError_t)e);
}

static cudaError_t find_kernel(cudaKernel_t *out, const struct loaded *l, const char *name)
{
    const struct kernel *k = kernels;
    struct handle *h;

    if (!l)
        return cudaErrorInvalidResourceHandle;
    while (k && (k->module != l->module || strcmp(k->name, name) != 0))
        k = k->next;
    if (!k)
        return cudaErrorSymbolNotFound;
    h = need(sizeof *h);
    *h = (struct handle){ k, l, handles };
    handles = h;
    *out = (cudaKernel_t)h;
    return cudaSuccess;
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name)
{
    int e = call_begin("cudaLibraryGetKernel", call_device());

    return call_end(e ? (cudaError_t)e : find_kernel(kernel, library_of(library, "cudaLibraryGetKernel"), name));
}

/* ---- launches ---- */

struct launch {
    const struct kernel *kernel;
    unsigned grid[3], block[3], shared;
    int device;
    uint64_t value[ARGS];
};

static bool launch_step(void *arg, bool *done)
{
    struct launch *l = arg;
    void *args[ARGS];

    for (unsigned i = 0; i < l->kernel->args; i++)
        args[i] = &l->value[i];
    sim_dynamic_shared = l->shared;
    l->kernel->fn(args, l->grid, l->block, l->device);
    return *done = true;
}

static bool can_launch(const struct launch *l)
{
    const unsigned *g = l->grid, *b = l->block;
    uint64_t threads = (uint64_t)b[0] * b[1] * b[2];

    return g[0] && g[1] && g[2] && g[0] <= INT_MAX && g[1] <= GRID_YZ_MOST && g[2] <= GRID_YZ_MOST && threads &&
           b[0] <= THREADS_MOST && b[1] <= THREADS_MOST && threads <= THREADS_MOST && b[2] <= BLOCK_Z_MOST &&
           l->shared <= SHARED_MOST;
}

static const struct kernel *kernel_of(const void *handle)
{
    const struct handle *h = handles;

    while (h && h != handle)
        h = h->next;
    if (h && h->from->live)
        return h->kernel;
    sim_report("INVALID cudaLaunchKernelExC: %p is no kernel, or of a library that was unloaded", handle);
    return NULL;
}

static cudaError_t launch(const struct kernel *k, const cudaLaunchConfig_t *c, void **args)
{
    struct launch *l = need(sizeof *l);
    struct sim_work w = { .kind = "exec:kernel", .arg = l, .step = launch_step, .end = free };
    cudaError_t e = cudaErrorInvalidConfiguration;

    *l = (struct launch){ .kernel = k,
                          .grid = { c->gridDim.x, c->gridDim.y, c->gridDim.z },
                          .block = { c->blockDim.x, c->blockDim.y, c->blockDim.z },
                          .shared = (unsigned)c->dynamicSmemBytes,
                          .device = call_device() };
    for (unsigned i = 0; i < k->args; i++)
        memcpy(&l->value[i], args[i], k->bytes[i]);
    if (can_launch(l))
        e = sim_queue(c->stream, l->device, k->name, &w, NULL, 0, NULL);
    else
        sim_report("INVALID launch of %s: grid %u,%u,%u, block %u,%u,%u, shared %u", k->name, l->grid[0], l->grid[1],
                   l->grid[2], l->block[0], l->block[1], l->block[2], l->shared);
    if (e)
        free(l);
    return e;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *handle, void **args)
{
    int e = call_begin("cudaLaunchKernelExC", call_device());
    const struct kernel *k = kernel_of(handle);

    if (config->numAttrs)
        sim_report("UNSUPPORTED: attributes of a launch");
    if (e || !k)
        return call_end(e ? (cudaError_t)e : cudaErrorInvalidResourceHandle);
    return call_end(launch(k, config, args));
}
