/* cudart_device.c - devices, versions, errors. */
#include "state.h"
#include <stdio.h>
#include <string.h>

enum { VERSION = 13000, COMPUTE = 9 /* whose PTX the kernels are made from */ };

static bool known(int device) { return device >= 0 && device < settings.devices; }

cudaError_t cudaGetDeviceCount(int *n)
{
    int e = call_begin("cudaGetDeviceCount", HOST);

    if (!e) {
        *n = settings.devices;
        e = settings.devices ? cudaSuccess : cudaErrorNoDevice;
    }
    return call_end((cudaError_t)e);
}

cudaError_t cudaSetDevice(int device)
{
    int e = call_begin("cudaSetDevice", known(device) ? device : HOST);

    if (!e && !known(device))
        e = cudaErrorInvalidDevice;
    if (known(device))
        call_set_device(device); /* of a broken one, too, so that what it has can be given back */
    return call_end((cudaError_t)e);
}

cudaError_t cudaGetDevice(int *device)
{
    int e = call_begin("cudaGetDevice", HOST);

    *device = call_device();
    return call_end((cudaError_t)e);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    int e = call_begin("cudaGetDeviceProperties", HOST);

    if (!e && !known(device))
        e = cudaErrorInvalidDevice;
    if (!e) {
        memset(p, 0, sizeof *p);
        snprintf(p->name, sizeof p->name, "Simulated device %d", device);
        p->totalGlobalMem = memory_size(device);
        p->major = COMPUTE;
        p->multiProcessorCount = 8;
        p->warpSize = 32;
        p->maxThreadsPerBlock = 1024;
        p->sharedMemPerBlock = 48 << 10;
        p->asyncEngineCount = 2;
        p->unifiedAddressing = 1;
        p->pciBusID = device + 1;
    }
    return call_end((cudaError_t)e);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    int e = call_begin("cudaMemGetInfo", call_device());

    *total = memory_size(call_device());
    *free_bytes = *total - memory_used(call_device());
    return call_end((cudaError_t)e);
}

cudaError_t cudaDeviceSynchronize(void)
{
    int e = call_begin("cudaDeviceSynchronize", call_device());

    return call_end(e ? (cudaError_t)e : queue_wait_device(call_device()));
}

static cudaError_t version(const char *call, int *v)
{
    int e = call_begin(call, HOST);

    *v = VERSION;
    return call_end((cudaError_t)e);
}

cudaError_t cudaDriverGetVersion(int *v) { return version("cudaDriverGetVersion", v); }
cudaError_t cudaRuntimeGetVersion(int *v) { return version("cudaRuntimeGetVersion", v); }

/* ---- errors ---- */

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = (cudaError_t)sim_begin("cudaGetLastError", HOST), last = call_last();

    e = e ? e : last ? last : sim_broken(call_device());
    sim_end();
    return e;
}

#define NAME(code)                                                                                                     \
    {                                                                                                                  \
        code, #code                                                                                                    \
    }
static const struct {
    cudaError_t code;
    const char *name;
} names[] = {
    NAME(cudaSuccess),
    NAME(cudaErrorInvalidValue),
    NAME(cudaErrorMemoryAllocation),
    NAME(cudaErrorInitializationError),
    NAME(cudaErrorInvalidConfiguration),
    NAME(cudaErrorInvalidPitchValue),
    NAME(cudaErrorInvalidMemcpyDirection),
    NAME(cudaErrorInsufficientDriver),
    NAME(cudaErrorDevicesUnavailable),
    NAME(cudaErrorNoDevice),
    NAME(cudaErrorInvalidDevice),
    NAME(cudaErrorInvalidKernelImage),
    NAME(cudaErrorNoKernelImageForDevice),
    NAME(cudaErrorECCUncorrectable),
    NAME(cudaErrorInvalidResourceHandle),
    NAME(cudaErrorSymbolNotFound),
    NAME(cudaErrorNotReady),
    NAME(cudaErrorIllegalAddress),
    NAME(cudaErrorLaunchOutOfResources),
    NAME(cudaErrorLaunchTimeout),
    NAME(cudaErrorHostMemoryAlreadyRegistered),
    NAME(cudaErrorHostMemoryNotRegistered),
    NAME(cudaErrorLaunchFailure),
    NAME(cudaErrorNotSupported),
    NAME(cudaErrorSystemNotReady),
    NAME(cudaErrorUnknown),
};

const char *cudaGetErrorName(cudaError_t e)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == e)
            return names[i].name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t e) { return e ? cudaGetErrorName(e) : "no error"; }
