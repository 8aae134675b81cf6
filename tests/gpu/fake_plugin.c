/* fake_plugin.c - stands in for libweighbridge_cuda.so where gpu.c alone is tested.  FAKE_GPU in the environment says
 * how opening ends: "nothing", "broken", else well, with two devices. */
#include <stdlib.h>
#include <string.h>
#include "gpu/gpu_plugin.h"

#ifndef FAKE_ABI
#define FAKE_ABI GPU_PLUGIN_ABI
#endif

int absent(void); /* of a library that is not there at run time */

/* No base/err.c here. */
static int refuse(struct err *e, const char *msg)
{
    e->kind = ERR_DEVICE;
    strcpy(e->msg, msg);
    return -1;
}

static int fake_open(struct gpu *g, const struct gpu_choice *c, const unsigned *without, size_t without_n,
                     bool *nothing, struct err *e)
{
    const char *how = getenv("FAKE_GPU");

    (void)c;
    *nothing = how && !strcmp(how, "nothing");
    if (*nothing)
        return refuse(e, "the shelf is empty");
    g->n = 2;
    g->info[0].number = without_n ? without[0] : 7;
    if (how && !strcmp(how, "broken")) {
        g->failed = 0;
        g->n = 0;
        return refuse(e, "device 7 (Fake): is on fire");
    }
    g->self = &g->info;
    return 0;
}

static void fake_close(struct gpu *g) { g->info[0].memory++; }

static int fake_alloc(struct gpu *g, unsigned device, size_t bytes, void **at, struct err *e)
{
    *at = &g->info[device];
    return bytes ? 0 : refuse(e, "device 7 (Fake): no bytes");
}

static const struct gpu_calls calls = { .abi = FAKE_ABI, .open = fake_open, .close = fake_close, .alloc = fake_alloc };

const struct gpu_calls *weighbridge_gpu_calls(void);
#ifndef FAKE_NO_ENTRY
const struct gpu_calls *weighbridge_gpu_calls(void)
{
#ifdef FAKE_ABSENT
    absent();
#endif
    return &calls;
}
#else
const void *const fake_keep = &calls;
#endif
