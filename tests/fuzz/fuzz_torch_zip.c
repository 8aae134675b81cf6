/* Any bytes as pytorch_model.bin: refused with a message that names the file, or tensors that lie within it. */
#include "fuzz.h"
#include "checkpoint/container.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static int fd = -1;
    struct tensors list = { 0 };
    struct arena a = { 0 };
    struct err e = { 0 };

    if (fd < 0)
        fd = memfd_create("input", MFD_CLOEXEC);
    REQUIRE(fd >= 0 && !ftruncate(fd, (off_t)n) && pwrite(fd, data, n, 0) == (ssize_t)n);
    if (torch_zip_read(fd, "x.bin", n, &list, &a, &e))
        REQUIRE(e.kind != ERR_NONE && !strncmp(e.msg, "x.bin: ", 7));
    else
        for (size_t i = 0; i < list.n; i++)
            REQUIRE(list.v[i].off <= n && list.v[i].bytes <= n - list.v[i].off);
    free(list.v);
    arena_release(&a);
    return 0;
}
