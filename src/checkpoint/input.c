/* input.c - files that strangers wrote: opened, read, and named for what they really are. */
#include "base/json.h"
#include "checkpoint/container.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LFS_MOST = 1024 /* a pointer file is shorter, says the Git LFS specification */ };

static int not_openable(const char *path, int code, struct err *e)
{
    struct stat st;

    if (code == ENOENT && !lstat(path, &st) && S_ISLNK(st.st_mode))
        return err_set(e, ERR_IO, "%s: is a link to a file that is not there: download it again", path);
    return err_errno(e, code, "%s: cannot be opened", path);
}

/* -1 when the text is that of a pointer. */
static int refuse_lfs_pointer(const char *text, const char *path, struct err *e)
{
    static const char first[] = "version https://git-lfs.github.com/spec/v1", size[] = "\nsize ";
    const char *line = strstr(text, size);
    char real[64] = "";

    if (strncmp(text, first, sizeof first - 1))
        return 0;
    if (line) {
        int digits = (int)strspn(line + sizeof size - 1, "0123456789");

        snprintf(real, sizeof real, " of %.*s bytes", digits < 20 ? digits : 20, line + sizeof size - 1);
    }
    return err_set(e, ERR_FORMAT,
                   "%s: is a Git LFS pointer, not the file%s itself: run `git lfs pull` in its directory", path, real);
}

int open_input(const char *path, struct file_id *id, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */
    char text[LFS_MOST + 1] = "";

    if (fd < 0)
        return not_openable(path, errno, e);
    if (file_identify(fd, path, id, e) ||
        (id->bytes <= LFS_MOST &&
         (file_pread(fd, path, text, (size_t)id->bytes, 0, e) || refuse_lfs_pointer(text, path, e)))) {
        close(fd);
        return -1;
    }
    return fd;
}

json_t *read_json(const char *path, size_t most, struct err *e)
{
    struct file_id id;
    int fd = open_input(path, &id, e);
    json_t *v = NULL;
    char *text;
    size_t n;

    if (fd < 0)
        return NULL;
    close(fd);
    if (file_read(path, most, &text, &n, e))
        return NULL;
    v = json_parse(text, n, path, e);
    free(text);
    if (v && !json_is_object(v)) {
        err_set(e, ERR_FORMAT, "%s: holds %s, expected an object", path, json_type_name(v));
        json_decref(v);
        v = NULL;
    }
    return v;
}
