#include "cli/report_file.h"
#include "cli/say.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int refuse(const struct report_file *r, const char *why)
{
    say_error("%s %s: %s", r->option, r->name, why);
    return -1;
}

static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

/* Whether the directory `path` is `root` or lies somewhere in it; false where either does not exist. */
static bool is_inside(const char *path, const char *root)
{
    char *p = realpath(path, NULL), *r = root ? realpath(root, NULL) : NULL;
    size_t n = r ? strlen(r) : 0;
    bool inside = p && r && !strncmp(p, r, n) && (!p[n] || p[n] == '/');

    free(p);
    free(r);
    return inside;
}

/* Beside `path`, so that the rename stays within a file system; without a name until it is whole, where that can be
 * had, so that a run that is killed leaves nothing. */
static int open_temporary(struct report_file *r, const char *directory)
{
    if (asprintf(&r->temporary, "%s.%ld.tmp", r->path, (long)getpid()) < 0)
        abort(); /* no memory for a file's name */
    r->fd = access("/proc/self/fd", X_OK) ? -1 : open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    r->nameless = r->fd >= 0;
    if (!r->nameless)
        r->fd = open(r->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (r->fd >= 0)
        return 0;
    free(r->temporary);
    r->temporary = NULL;
    return -1;
}

static int give_name(struct report_file *r)
{
    char self[40];

    if (!r->nameless)
        return 0;
    snprintf(self, sizeof self, "/proc/self/fd/%d", r->fd);
    if (linkat(AT_FDCWD, self, AT_FDCWD, r->temporary, AT_SYMLINK_FOLLOW))
        return -1;
    r->nameless = false;
    return 0;
}

int report_open(struct report_file *r, const char *option, const char *name, const struct args *a)
{
    struct stat st;
    char *directory = NULL;
    int ret = -1;

    *r = (struct report_file){ .fd = -1, .option = option, .name = name };
    if (!name)
        return 0;
    if (!strcmp(name, "-")) {
        r->fd = dup(STDOUT_FILENO);
        return r->fd < 0 ? refuse(r, strerror(errno)) : 0;
    }
    if (!stat(name, &st)) {
        if (S_ISDIR(st.st_mode))
            return refuse(r, "is a directory: name a file");
        if (!S_ISREG(st.st_mode)) {
            r->fd = open(name, O_WRONLY | O_CLOEXEC);
            return r->fd < 0 ? refuse(r, strerror(errno)) : 0;
        }
        if (access(name, W_OK))
            return refuse(r, strerror(errno));
        r->path = realpath(name, NULL); /* the file itself where the name is a link to it */
    } else {
        r->path = strdup(name);
    }
    directory = r->path ? directory_of(r->path) : NULL;
    if (!directory)
        refuse(r, strerror(errno));
    else if (is_inside(directory, a->wb.model))
        refuse(r, "lies inside MODEL, where nothing is written: choose another place");
    else if (is_inside(directory, a->wb.out))
        refuse(r, "lies inside OUT, which is replaced whole: choose another place");
    else if (open_temporary(r, directory))
        refuse(r, strerror(errno));
    else
        ret = 0;
    free(directory);
    if (ret)
        report_close(r);
    return ret;
}

static int write_whole(int fd, const char *text, size_t n)
{
    while (n) {
        ssize_t done = write(fd, text, n);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        text += done;
        n -= (size_t)done;
    }
    return 0;
}

void report_add(struct report_file *r, const char *text, size_t n)
{
    if (r->fd >= 0 && !r->failed && write_whole(r->fd, text, n))
        r->failed = errno;
}

void report_show(struct report_file *r)
{
    if (!r->temporary || r->failed)
        return;
    if (give_name(r) || rename(r->temporary, r->path)) {
        r->failed = errno;
        return;
    }
    free(r->temporary);
    r->temporary = NULL;
}

int report_publish(struct report_file *r)
{
    if (r->temporary && !r->failed && fsync(r->fd))
        r->failed = errno;
    report_show(r);
    return r->failed ? refuse(r, strerror(r->failed)) : 0;
}

int report_write(struct report_file *r, const char *text)
{
    report_add(r, text, strlen(text));
    return report_publish(r);
}

void report_close(struct report_file *r)
{
    if (r->temporary && !r->nameless)
        unlink(r->temporary);
    if (r->fd >= 0)
        close(r->fd);
    free(r->temporary);
    free(r->path);
    *r = (struct report_file){ .fd = -1 };
}
