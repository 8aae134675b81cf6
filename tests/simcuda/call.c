/* call.c - what every call of the stand-ins begins and ends with: the lock, the thread's device, failures. */
#include "state.h"
#include <errno.h>
#include <pthread.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool ready;
static __thread int current;
static __thread cudaError_t last;

static void get_ready(void)
{
    ready = true;
    settings_read();
    memory_init();
    queue_init();
    report_init();
}

/* After one of these a device can't be used any more (CUDA: the context is lost), wherever it shows. */
static bool breaks(int code)
{
    switch (code) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
        return true;
    default:
        return false;
    }
}

int sim_begin(const char *name, int device)
{
    int code;

    pthread_mutex_lock(&lock);
    if (!ready)
        get_ready();
    order_host(); /* a thread begins with its first call */
    code = fault_now(name, device);
    queue_some();
    return code;
}

void sim_end(void)
{
    if (settings.schedule == EAGER)
        queue_some();
    queue_drain();
    pthread_mutex_unlock(&lock);
}

int call_begin(const char *name, int device)
{
    int code = sim_begin(name, device);

    if (code && device >= 0 && breaks(code))
        queue_break(device, code);
    return code || device < 0 ? code : (int)sim_broken(device);
}

cudaError_t call_end(cudaError_t e)
{
    sim_end();
    if (e && e != cudaErrorNotReady)
        last = e;
    return e;
}

bool call_wait(int milliseconds)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += milliseconds / 1000;
    until.tv_nsec += milliseconds % 1000 * 1000000l;
    if (until.tv_nsec >= 1000000000l)
        until.tv_sec++, until.tv_nsec -= 1000000000l;
    return pthread_cond_timedwait(&changed, &lock, &until) != ETIMEDOUT;
}

void call_wake(void) { pthread_cond_broadcast(&changed); }
int call_device(void) { return current; }
void call_set_device(int device) { current = device; }

cudaError_t call_last(void)
{
    cudaError_t e = last;

    last = cudaSuccess;
    return e;
}

int sim_device(void) { return current; }
int sim_devices(void) { return settings.devices; }
