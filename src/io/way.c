#include "io/way.h"
#include <errno.h>
#include <sys/vfs.h>

#define MAP_FROM   0.9 /* of a file is cached: the rest comes by small reads */
#define CACHE_FROM 0.5 /* then 1 GB through the cache takes 0.3 s, past it 0.4 s */

const char *const io_way_names[IO_WAYS] = {
    [IO_MAPPED] = "mapped", [IO_DIRECT] = "direct", [IO_BUFFERED] = "buffered"
};
const char *const io_why_names[IO_WHYS] = {
    [IO_ASKED] = "asked for",       [IO_IN_MEMORY] = "file system in memory", [IO_CACHED] = "cached",
    [IO_NOT_CACHED] = "not cached", [IO_REMOTE] = "remote file system",       [IO_NO_DIRECT] = "no O_DIRECT there"
};

struct io_choice io_choose(const struct io_facts *f)
{
    enum io_way from_cache = f->can_map ? IO_MAPPED : IO_BUFFERED;

    if (f->only_map && f->can_map)
        return (struct io_choice){ IO_MAPPED, IO_ASKED };
    if (f->fs == IO_FS_MEMORY) /* may take O_DIRECT, which is a copy there */
        return (struct io_choice){ from_cache, IO_IN_MEMORY };
    if (f->fs == IO_FS_REMOTE) /* O_DIRECT waits for the network with every read, and a map breaks with the server */
        return (struct io_choice){ IO_BUFFERED, f->cached >= CACHE_FROM ? IO_CACHED : IO_REMOTE };
    if (f->cached >= CACHE_FROM)
        return (struct io_choice){ f->cached >= MAP_FROM ? from_cache : IO_BUFFERED, IO_CACHED };
    return f->direct ? (struct io_choice){ IO_DIRECT, IO_NOT_CACHED } : (struct io_choice){ IO_BUFFERED, IO_NO_DIRECT };
}

static const struct {
    uint64_t type;
    enum io_fs fs;
} types[] = {
    { 0x01021994, IO_FS_MEMORY }, /* tmpfs */
    { 0x858458f6, IO_FS_MEMORY }, /* ramfs */
    { 0x958458f6, IO_FS_MEMORY }, /* hugetlbfs */
    { 0x00006969, IO_FS_REMOTE }, /* NFS */
    { 0x0000517b, IO_FS_REMOTE }, /* SMB */
    { 0xfe534d42, IO_FS_REMOTE }, /* SMB2 */
    { 0xff534d42, IO_FS_REMOTE }, /* CIFS */
    { 0x00c36400, IO_FS_REMOTE }, /* Ceph */
    { 0x5346414f, IO_FS_REMOTE }, /* AFS */
    { 0x01021997, IO_FS_REMOTE }, /* 9P */
    { 0x65735546, IO_FS_REMOTE }, /* FUSE: sshfs, object stores */
};

enum io_fs io_fs_of_type(uint64_t type)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].type == type)
            return types[i].fs;
    return IO_FS_DISK;
}

enum io_fs io_fs(int fd)
{
    struct statfs s;
    int ret;

    do
        ret = fstatfs(fd, &s);
    while (ret && errno == EINTR);
    return ret ? IO_FS_DISK : io_fs_of_type((uint32_t)s.f_type);
}
