/* memory.c - blocks of memory, by address.
 *
 * Each device has a range of addresses that is reserved and never backed, so that a host that touches them faults; the
 * bytes are at the same distance in a second range, the aliases.  No address is used twice: what is freed stays an
 * error.  A block ends at a page's end, with a page behind that is nobody's. */
#include "state.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const size_t SPAN = (size_t)32 << 30; /* addresses of a device */
enum { FILL = 0xcd /* what new memory holds */, ALIGNED = 256, UNIT = 512 /* of what counts as used */ };

static struct range_of { /* addresses of a device */
    uintptr_t at;
    ptrdiff_t alias; /* from there to the alias */
    size_t taken, used;
    struct block **page; /* whose it is */
} ranges[SIM_DEVICES];
static struct block *blocks;

static void *reserve(size_t bytes, int protection)
{
    void *at = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED) {
        perror("simcuda: cannot reserve addresses for a device");
        report_end(2);
    }
    return at;
}

void memory_init(void)
{
    for (struct range_of *r = ranges; r < ranges + settings.devices; r++) {
        unsigned char *at = reserve(SPAN, PROT_NONE), *alias = reserve(SPAN, PROT_NONE);

        r->at = (uintptr_t)at;
        r->alias = (ptrdiff_t)((uintptr_t)alias - (uintptr_t)at);
        r->taken = PAGE;
        r->page = reserve(SPAN / PAGE * sizeof *r->page, PROT_READ | PROT_WRITE);
    }
}

struct block *memory_blocks(void) { return blocks; }
size_t memory_used(int device) { return ranges[device].used; }

int memory_device(const void *at)
{
    for (int d = 0; d < settings.devices; d++)
        if ((uintptr_t)at - ranges[d].at < SPAN)
            return d;
    return HOST;
}

static bool inside(const struct block *b, uintptr_t at) { return b && b->live && at - b->at < b->bytes; }

static struct block *pinned_at(uintptr_t at)
{
    for (struct block *b = blocks; b; b = b->next)
        if (b->device == HOST && inside(b, at))
            return b;
    return NULL;
}

struct block *memory_at(const void *at)
{
    int d = memory_device(at);
    struct block *b;

    if (d == HOST)
        return pinned_at((uintptr_t)at);
    b = ranges[d].page[((uintptr_t)at - ranges[d].at) / PAGE];
    return inside(b, (uintptr_t)at) ? b : NULL;
}

void *memory_host(const void *at)
{
    struct block *b = memory_at(at);

    return b ? b->alias + ((uintptr_t)at - b->at) : (void *)(uintptr_t)at;
}

bool memory_has(const struct block *b, const struct sim_range *r)
{
    size_t from = (uintptr_t)r->at - b->at, bytes = r->rows ? (r->rows - 1) * r->pitch + r->bytes : 0;

    return from <= b->bytes && bytes <= b->bytes - from;
}

void memory_add(struct block *b)
{
    b->live = true;
    b->next = blocks;
    blocks = b;
}

static size_t up(size_t n, size_t to) { return (n + to - 1) / to * to; }

size_t memory_size(int device) { return device == 1 ? settings.small : settings.memory; }

cudaError_t memory_alloc(int device, size_t bytes, void **at)
{
    struct range_of *r = &ranges[device];
    size_t room = up(bytes, ALIGNED), mapped = up(room, PAGE);
    struct block *b;
    unsigned char *alias = (unsigned char *)r->at + r->alias + r->taken;

    *at = NULL;
    if (!bytes)
        return cudaSuccess;
    if (bytes > memory_size(device) || up(bytes, UNIT) > memory_size(device) - r->used)
        return cudaErrorMemoryAllocation;
    if (mapped + PAGE > SPAN - r->taken ||
        mmap(alias, mapped, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) {
        sim_report("device %d: the simulation has no room for %zu bytes more", device, bytes);
        return cudaErrorMemoryAllocation;
    }
    b = calloc(1, sizeof *b);
    if (!b)
        abort();
    memset(alias, FILL, mapped);
    *b = (struct block){ .at = r->at + r->taken + mapped - room, .bytes = bytes, .mapped = mapped, .device = device };
    b->alias = (unsigned char *)b->at + r->alias;
    memory_add(b);
    for (size_t i = 0; i < mapped / PAGE; i++)
        r->page[r->taken / PAGE + i] = b;
    r->taken += mapped + PAGE;
    r->used += up(bytes, UNIT);
    *at = (void *)b->at;
    return cudaSuccess;
}

cudaError_t memory_free(void *at)
{
    struct block *b = memory_at(at);
    size_t room;

    if (!b || b->device == HOST || b->at != (uintptr_t)at) {
        sim_report("INVALID cudaFree: %p is no live block of a device", at);
        return cudaErrorInvalidValue;
    }
    queue_wait_device(b->device); /* as CUDA does */
    b->live = false;
    ranges[b->device].used -= up(b->bytes, UNIT);
    order_forget(b);
    room = up(b->bytes, ALIGNED);
    mmap(b->alias + room - b->mapped, b->mapped, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
         0);
    return cudaSuccess;
}

void memory_leaks(void)
{
    for (const struct block *b = blocks; b; b = b->next)
        if (b->live && b->device == HOST)
            sim_report("LEAK: %zu bytes at %p are still registered", b->bytes, (void *)b->at);
        else if (b->live)
            sim_report("LEAK: a block of %zu bytes of device %d was not freed", b->bytes, b->device);
}

/* ---- for kernels ---- */

void *sim_host(const void *device_address) { return memory_host(device_address); }

void *sim_touch(uint64_t address, uint32_t bytes, int rw, int device)
{
    size_t from = (size_t)address - ranges[device].at;
    struct block *b = from < SPAN ? ranges[device].page[from / PAGE] : NULL;

    if (!inside(b, (uintptr_t)address) || bytes > b->bytes - ((size_t)address - b->at)) {
        queue_break(device, cudaErrorIllegalAddress);
        return NULL;
    }
    from = (size_t)address - b->at;
    order_touched(b, from, bytes, rw == 1 ? SIM_READ : rw == 2 ? SIM_WRITE : SIM_ATOMIC);
    return b->alias + from;
}

/* ---- faults ---- */

static const char *device_fault(uintptr_t at, int *device)
{
    for (*device = 0; *device < settings.devices; ++*device) {
        const struct range_of *r = &ranges[*device];

        if (at - r->at < SPAN)
            return "the host touched";
        if (at - (r->at + (uintptr_t)r->alias) < SPAN)
            return "an operation touched what is no live block:";
    }
    return NULL;
}

int memory_fault(const void *at, char *text, size_t size)
{
    int device;
    const char *what = device_fault((uintptr_t)at, &device);

    if (what)
        return snprintf(text, size, "simcuda: FAULT: %s address %p of device %d%s%s\n", what, at, device,
                        *queue_running ? " while running " : "", queue_running);
    for (const struct block *b = blocks; b; b = b->next)
        if (b->device == HOST && b->live && (uintptr_t)at - b->at < b->mapped) {
            size_t page = ((uintptr_t)at - b->at) / PAGE;

            return snprintf(
                text, size,
                "simcuda: FAULT: the host touched pinned memory %p, at %zu of the block %p of %zu bytes, while "
                "a copy %s it is pending\n",
                at, (size_t)((uintptr_t)at - b->at), (void *)b->at, b->bytes, b->copies[1][page] ? "into" : "from");
        }
    return 0;
}
