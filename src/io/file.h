/* file.h - what we need of files besides streams of weights.
 *
 * Inputs may be symlinks (a hub cache is a directory of them); outputs are
 * created by us, in a directory that we hold open, never through a link. */
#ifndef IO_FILE_H
#define IO_FILE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

/* Says whether a path still names the same, unchanged file. */
struct file_id {
    uint64_t dev, ino, bytes;
    int64_t mtime_ns;
};

/* For reading; the caller gives it back with file_close. -1 and a message on failure. */
int file_open_read(const char *path, struct err *e);
void file_close(int fd);

/* Of an open file. */
int file_identify(int fd, const char *name, struct file_id *id, struct err *e);
bool file_same(const struct file_id *a, const struct file_id *b);

/* Regular file to memory with a 0 byte behind; more than `most` bytes is an error. The caller frees *text. */
int file_read(const char *path, size_t most, char **text, size_t *n, struct err *e);
bool file_is_regular(const char *path);                 /* or a link to one */
bool file_exists(const char *path);                     /* follows links; any kind of file */
bool file_same_directory(const char *a, const char *b); /* both are there and are one */
bool file_within(const char *inner, const char *outer); /* is it or lies below it; both are real paths */

/* Of a path, whether it is there or not: without slashes behind; the directory that it stands in, "." where it names
 * none; its last part, empty if a slash is behind. What these and the next return lives in the arena or is a part of
 * `path`. */
char *file_trimmed(const char *path, struct arena *a);
const char *file_parent(const char *path, struct arena *a);
const char *file_name(const char *path);
/* Where a name stands, or would: its parent's real path and its last part, which may be a link. NULL and errno: the
 * parent cannot be found. */
const char *file_real_place(const char *path, struct arena *a);
/* The same, with the last link followed, too. What has no parent is as it was given, without slashes behind: no real
 * path is that or lies inside it. */
const char *file_real_path(const char *path, struct arena *a);

/* Creates `name` in directory `dir_fd` (it must not exist, links are not followed), writes, flushes to disk.
 * `shown` is the path for messages. */
int file_create_whole(int dir_fd, const char *name, const char *shown, const void *bytes, size_t n, struct err *e);
/* Copies a regular file the same way, in pieces. */
int file_copy(const char *from, int dir_fd, const char *name, const char *shown, struct err *e);

/* The same in an existing directory, where an older file of that name is replaced in one step. */
int file_replace_whole(const char *dir, const char *name, const void *bytes, size_t n, struct err *e);
/* The halves of file_create_whole, for what is written piece by piece: a new file, and its flush and close, which may
 * turn `ret` 0 into -1. */
int file_create(int dir_fd, const char *name, const char *shown, struct err *e);
int file_finish(int fd, const char *shown, int ret, struct err *e);

/* Makes names in a directory last. */
int file_flush_directory(const char *dir, struct err *e);

/* Free bytes that we may use on the file system that holds `path`. */
int file_space(const char *path, uint64_t *bytes, struct err *e);

/* Whole positioned read of an open file, retried until n bytes are there; fewer is an error that says where it ended.
 */
int file_pread(int fd, const char *name, void *buf, size_t n, uint64_t off, struct err *e);
int file_pwrite(int fd, const char *name, const void *buf, size_t n, uint64_t off, struct err *e);
int file_too_large(const char *name, uint64_t bytes, struct err *e); /* says so, of EFBIG */

/* Behind a write: the disk may begin with it, so that the last flush has little left to do. */
void file_write_out(int fd, uint64_t off, uint64_t bytes);
/* Before the reads of a descriptor: they fetch no pages but those that they are for. */
void file_read_exactly(int fd);
/* Behind a read: these pages will not be wanted again. */
void file_forget(int fd, uint64_t off, uint64_t bytes);

/* Share (0..1) of pages in the page cache, of a file or a piece of it; -1 when the kernel does not tell. */
double file_cached(int fd, uint64_t bytes);
double file_cached_piece(int fd, uint64_t off, uint64_t bytes);

#endif
