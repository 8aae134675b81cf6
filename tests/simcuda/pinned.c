/* pinned.c - memory of the program that was registered, for copies.
 *
 * Its pages are put into a memory file, in place, so that there is an alias: while a copy from a page is in flight the
 * program may not write to it, while one into it is in flight not even read it, and does so with a fault.  That holds
 * for pages that a row of the copy covers whole; what shares a page with others is left open.  The kernel obeys too:
 * reads and writes of files fail with EFAULT. */
#include "state.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FROM, INTO, ROWS_MOST = 512 /* of a copy that are protected: each may be a mapping of its own */ };

static bool is_zero(const unsigned char *page)
{
    const uint64_t *word = (const uint64_t *)(const void *)page;

    for (size_t i = 0; i < PAGE / sizeof *word; i++)
        if (word[i])
            return false;
    return true;
}

/* By the system: the address sanitizer may have forbidden the program to touch it. */
static bool keep_pages(int file, const unsigned char *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PAGE)
        if (!is_zero(from + at) && syscall(SYS_pwrite64, file, from + at, (size_t)PAGE, (off_t)at) != PAGE)
            return false;
    return true;
}

static bool is_mapped(unsigned char *at, size_t bytes)
{
    unsigned char *there = malloc(bytes / PAGE);
    int bad = there ? mincore(at, bytes, there) : -1;

    free(there);
    return !bad;
}

/* Puts a file with the same contents in place of the block's pages; false: impossible. */
static bool replace(struct block *b)
{
    unsigned char *at = (unsigned char *)b->at;

    b->file = memfd_create("simcuda-pinned", MFD_CLOEXEC);
    if (b->file >= 0 && !ftruncate(b->file, (off_t)b->mapped) && is_mapped(at, b->mapped) &&
        keep_pages(b->file, at, b->mapped)) {
        b->alias = mmap(NULL, b->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, b->file, 0);
        if (b->alias != MAP_FAILED)
            return mmap(at, b->mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, b->file, 0) != MAP_FAILED;
    }
    if (b->file >= 0)
        close(b->file);
    return false;
}

static bool overlaps(uintptr_t from, size_t bytes)
{
    for (const struct block *b = memory_blocks(); b; b = b->next)
        if (b->device == HOST && b->live && from < b->at + b->mapped && b->at < from + bytes)
            return true;
    return false;
}

cudaError_t pinned_add(void *at, size_t bytes)
{
    uintptr_t from = (uintptr_t)at / PAGE * PAGE;
    size_t mapped = ((uintptr_t)at + bytes - from + PAGE - 1) / PAGE * PAGE;
    struct block *b;

    if (!at || !bytes || memory_device(at) != HOST)
        return cudaErrorInvalidValue;
    if (overlaps(from, mapped))
        return cudaErrorHostMemoryAlreadyRegistered;
    b = calloc(1, sizeof *b);
    if (!b)
        abort();
    *b = (struct block){ .at = from, .bytes = (uintptr_t)at + bytes - from, .mapped = mapped, .device = HOST };
    if (!replace(b)) {
        sim_report("INVALID cudaHostRegister: %zu bytes at %p are not mapped, or cannot be replaced", bytes, at);
        free(b);
        return cudaErrorInvalidValue;
    }
    for (int k = 0; k < 2; k++)
        b->copies[k] = calloc(mapped / PAGE, sizeof *b->copies[k]);
    if (!b->copies[FROM] || !b->copies[INTO])
        abort();
    memory_add(b);
    return cudaSuccess;
}

static bool in_flight(const struct block *b)
{
    for (size_t i = 0; i < b->mapped / PAGE; i++)
        if (b->copies[FROM][i] || b->copies[INTO][i])
            return true;
    return false;
}

/* Plain memory again, with what it holds; what was never touched is not now, either. */
static void put_back(const struct block *b)
{
    unsigned char *to = (unsigned char *)b->at;
    off_t at = 0, end;

    mmap(to, b->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    while ((at = lseek(b->file, at, SEEK_DATA)) >= 0 && (end = lseek(b->file, at, SEEK_HOLE)) > at)
        for (; at < end; at += (off_t)sizeof(uint64_t)) /* one by one, past the address sanitizer */
            *(volatile uint64_t *)(void *)(to + at) = *(const uint64_t *)(const void *)(b->alias + at);
}

cudaError_t pinned_remove(void *at)
{
    struct block *b = memory_at(at);

    if (!b || b->device != HOST || b->at != (uintptr_t)at / PAGE * PAGE) {
        sim_report("INVALID cudaHostUnregister: %p is not registered", at);
        return cudaErrorHostMemoryNotRegistered;
    }
    if (in_flight(b)) {
        sim_report("INVALID cudaHostUnregister: a copy from or into the block %p of %zu bytes is pending", at,
                   b->bytes);
        for (int d = 0; d < settings.devices; d++)
            queue_wait_device(d);
    }
    b->live = false;
    put_back(b);
    munmap(b->alias, b->mapped);
    close(b->file);
    order_forget(b);
    return cudaSuccess;
}

/* ---- copies ---- */

static int protection(const struct block *b, size_t page)
{
    return b->copies[INTO][page] ? PROT_NONE : b->copies[FROM][page] ? PROT_READ : PROT_READ | PROT_WRITE;
}

/* Runs of pages that are protected alike, one call each. */
static void protect(const struct block *b, size_t page, size_t end)
{
    while (page < end) {
        size_t n = 1;

        while (page + n < end && protection(b, page + n) == protection(b, page))
            n++;
        mprotect((void *)(b->at + page * PAGE), n * PAGE, protection(b, page));
        page += n;
    }
}

/* Of one row; the end of the block counts as the end of its page. */
static void row_copies(struct block *b, size_t from, size_t bytes, int way, int change)
{
    size_t page = (from + PAGE - 1) / PAGE, end = (from + bytes == b->bytes ? b->mapped : from + bytes) / PAGE;

    for (size_t i = page; i < end; i++)
        b->copies[way][i] = (unsigned short)(b->copies[way][i] + change);
    if (page < end)
        protect(b, page, end);
}

void pinned_copies(const struct sim_range *r, int change)
{
    struct block *b = memory_at(r->at);
    bool whole = r->pitch == r->bytes;
    size_t rows = whole ? 1 : r->rows < ROWS_MOST ? r->rows : ROWS_MOST, bytes = whole ? r->rows * r->bytes : r->bytes;

    if (!b || b->device != HOST || !r->rows)
        return;
    for (size_t i = 0; i < rows; i++)
        row_copies(b, (uintptr_t)r->at - b->at + i * r->pitch, bytes, r->how == SIM_READ ? FROM : INTO, change);
}
