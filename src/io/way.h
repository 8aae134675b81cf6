/* way.h - how the bytes of a source file are come by: the one rule, and the facts that it rests on.
 *
 * GB/s on one machine with ext4 on a virtual disk (bench/README.md has more):
 *
 *                       cold    cached
 *   O_DIRECT            2.6     2.7      leaves the cache alone, tenth of the system time
 *   through the cache   1.9     15.8     one copy more; what was not there before is dropped again
 *   mapped              1.7     31       no copy; cold, pages come by small reads
 *
 * So nothing is mapped that has to come from a disk, and nothing is read past a
 * cache that holds it. */
#ifndef IO_WAY_H
#define IO_WAY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum io_way { IO_MAPPED, IO_DIRECT, IO_BUFFERED, IO_WAYS };
enum io_why { IO_ASKED, IO_IN_MEMORY, IO_CACHED, IO_NOT_CACHED, IO_REMOTE, IO_NO_DIRECT, IO_WHYS };

struct io_choice {
    enum io_way way;
    enum io_why why;
};

enum io_fs { IO_FS_DISK, IO_FS_MEMORY, IO_FS_REMOTE };

struct io_facts {
    bool can_map;  /* the engine was not chosen by name, and a guard is held */
    bool only_map; /* --io mmap */
    enum io_fs fs;
    double cached; /* share of the file; less than 0: the kernel does not tell */
    bool direct;   /* the file takes O_DIRECT */
};

struct io_choice io_choose(const struct io_facts *f);

/* By file system type, as fstatfs gives it. */
enum io_fs io_fs_of_type(uint64_t type);
enum io_fs io_fs(int fd);

extern const char *const io_way_names[IO_WAYS]; /* words of reports */
extern const char *const io_why_names[IO_WHYS];

#endif
