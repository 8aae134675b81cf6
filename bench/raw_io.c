/* raw_io.c - what the disk gives: reads files past the page cache while another thread writes as many bytes as asked
 * into a new file, flushed, by the engine and with the sizes and depths of an export, but without any work between.
 *
 *     raw_io OUT BYTES [FILE...]       # no FILE: writes alone; BYTES 0: reads alone
 *
 * A contender of export_bench.py. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "io/file.h"
#include "io/io.h"

enum { DEPTH = 8, READ_BYTES = 4 << 20, WRITE_BYTES = 8 << 20 };

struct side { /* one direction of one file */
    int fd;
    bool write;
    const char *name;
    uint64_t bytes;
};

static void check(int ret, const struct err *e)
{
    if (ret) {
        fprintf(stderr, "raw_io: %s\n", e->msg);
        exit(1);
    }
}

static unsigned char *buffers(size_t bytes)
{
    unsigned char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        perror("raw_io: no memory");
        exit(1);
    }
    madvise(p, bytes, MADV_HUGEPAGE);
    memset(p, 1, bytes);
    return p;
}

/* The next piece, by an op that is not in flight. */
static void issue(const struct side *s, struct io *io, struct io_op *op, unsigned char *buf, uint64_t at, size_t n)
{
    *op = (struct io_op){ .fd = s->fd,
                          .write = s->write,
                          .direct = true,
                          .buf = buf,
                          .len = (n + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN,
                          .enough = s->write ? 0 : n,
                          .off = at,
                          .name = s->name };
    io_submit(io, op);
}

static void move(const struct side *s)
{
    size_t piece = s->write ? WRITE_BYTES : READ_BYTES;
    unsigned char *room = buffers(DEPTH * piece);
    struct io_op op[DEPTH], *idle[DEPTH];
    unsigned idle_n = DEPTH;
    struct err e = { 0 };
    struct io io = { 0 };

    for (unsigned i = 0; i < DEPTH; i++)
        idle[i] = &op[i];
    check(io_open(&io, "auto", DEPTH, &e), &e);
    for (uint64_t at = 0; at < s->bytes || idle_n < DEPTH;) {
        size_t n = (size_t)(s->bytes - at < piece ? s->bytes - at : piece);

        if (n && idle_n) {
            struct io_op *next = idle[--idle_n];

            issue(s, &io, next, room + (size_t)(next - op) * piece, at, n);
            at += n;
        } else {
            idle[idle_n] = io_wait(&io, &e);
            check(!idle[idle_n++], &e);
        }
    }
    io_close(&io);
    munmap(room, DEPTH * piece);
}

static void *read_all(void *argument)
{
    for (char **path = argument; *path; path++) {
        struct side s = { .name = *path };
        struct file_id id;
        struct err e = { 0 };

        s.fd = io_open_read(*path, &e);
        check(s.fd < 0 || file_identify(s.fd, *path, &id, &e), &e);
        io_direct(s.fd, true);
        s.bytes = id.bytes;
        move(&s);
        close(s.fd);
    }
    return NULL;
}

static void write_all(const char *path, uint64_t bytes)
{
    struct side s = { .write = true, .name = path, .bytes = bytes };
    struct err e = { 0 };

    s.fd = io_create(AT_FDCWD, path, path, (bytes + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN, &e);
    check(s.fd < 0, &e);
    io_direct(s.fd, true);
    move(&s);
    if (fsync(s.fd)) {
        perror(path);
        exit(1);
    }
    close(s.fd);
}

int main(int argc, char **argv)
{
    pthread_t reader;
    uint64_t bytes = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;

    if (argc < 3) {
        fprintf(stderr, "usage: raw_io OUT BYTES [FILE...]\n");
        return 2;
    }
    if (pthread_create(&reader, NULL, read_all, argv + 3)) {
        fprintf(stderr, "raw_io: no thread\n");
        return 1;
    }
    if (bytes)
        write_all(argv[1], bytes);
    pthread_join(reader, NULL);
    return 0;
}
