#include "io/cached.h"
#include <stdlib.h>
#include "io/file.h"

enum { PIECE = 4 << 20 };

void io_cached_look(struct io_cached *c, int fd, uint64_t bytes)
{
    uint64_t pieces = (bytes + PIECE - 1) / PIECE;

    *c = (struct io_cached){ .share = file_cached(fd, bytes), .bytes = bytes };
    if (c->share <= 0 || c->share >= 1)
        return;
    if (!(c->piece = malloc(pieces * sizeof *c->piece))) {
        c->share = -1;
        return;
    }
    for (uint64_t i = 0; i < pieces; i++) {
        uint64_t left = bytes - i * PIECE;

        c->piece[i] = file_cached_piece(fd, i * PIECE, left < PIECE ? left : PIECE) >= 0.5;
    }
}

void io_cached_drop(const struct io_cached *c, int fd, uint64_t off, uint64_t bytes)
{
    uint64_t end = off + bytes < c->bytes ? off + bytes : c->bytes;

    if (!c->piece && c->share != 0)
        return;
    while (off < end) {
        uint64_t stop = (off / PIECE + 1) * PIECE;

        if (stop > end)
            stop = end;
        if (!c->piece || !c->piece[off / PIECE])
            file_forget(fd, off, stop - off);
        off = stop;
    }
}

void io_cached_release(struct io_cached *c)
{
    free(c->piece);
    *c = (struct io_cached){ 0 };
}
