#include "cli/report_file.h"
#include "cli/say.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAMES = 100 };

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

/* Where `path` is, or would be, without links on the way; NULL: its directory is not there. */
static char *real_place(const char *path)
{
    char *real = realpath(path, NULL), *directory, *parent, *place = NULL;
    const char *slash = strrchr(path, '/');

    if (real)
        return real;
    directory = directory_of(path);
    parent = directory ? realpath(directory, NULL) : NULL;
    if (parent && asprintf(&place, "%s/%s", strcmp(parent, "/") ? parent : "", slash ? slash + 1 : path) < 0)
        place = NULL;
    free(parent);
    free(directory);
    return place;
}

/* Whether `file` is `root` with `suffix`, or lies in it; both as real_place has them. */
static bool is_within(const char *file, const char *root, const char *suffix)
{
    size_t n = strlen(root), more = strlen(suffix);

    return !strncmp(file, root, n) && !strncmp(file + n, suffix, more) && (!file[n + more] || file[n + more] == '/');
}

/* NULL, or why a file must not be there. */
static const char *taken(const char *file, const struct args *a)
{
    const struct {
        const char *path, *suffix[3], *why;
    } places[] = {
        { a->wb.model, { "" }, "lies inside MODEL, where nothing is written: choose another place" },
        { a->wb.out,
          { "", ".partial", ".old" },
          "is OUT, or lies inside it or where it is made, which is replaced whole: choose another place" },
        { a->wb.archive, { "", ".partial" }, "is where the archive goes: name another file" },
    };
    const char *why = NULL;

    for (size_t i = 0; i < sizeof places / sizeof *places && !why; i++) {
        char *root = places[i].path ? real_place(places[i].path) : NULL;

        for (size_t k = 0; root && k < 3 && places[i].suffix[k]; k++)
            why = is_within(file, root, places[i].suffix[k]) ? places[i].why : why;
        free(root);
    }
    return why;
}

/* In a directory such as /tmp only a file's owner can replace it. */
static bool is_not_ours_to_replace(const char *directory, const struct stat *file)
{
    struct stat st;

    return !stat(directory, &st) && st.st_mode & S_ISVTX && geteuid() && file->st_uid != geteuid() &&
           st.st_uid != geteuid();
}

/* Beside `path`, so that the rename stays within a file system. The first name that is free: one that a killed run has
 * left stays. */
static int with_a_name(struct report_file *r, int (*make)(struct report_file *r))
{
    int ret = -1;

    for (unsigned i = 0; ret && i < NAMES; i++) {
        free(r->temporary);
        if (asprintf(&r->temporary, "%s.%ld-%u.tmp", r->path, (long)getpid(), i) < 0)
            abort(); /* no memory for a file's name */
        ret = make(r);
        if (ret && errno != EEXIST)
            break;
    }
    return ret;
}

static int create(struct report_file *r)
{
    r->fd = open(r->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    return r->fd < 0 ? -1 : 0;
}

static int link_to(struct report_file *r)
{
    char self[40];

    snprintf(self, sizeof self, "/proc/self/fd/%d", r->fd);
    return linkat(AT_FDCWD, self, AT_FDCWD, r->temporary, AT_SYMLINK_FOLLOW);
}

/* Without a name until it is whole, where that can be had, so that a run that is killed leaves nothing. */
static int open_temporary(struct report_file *r, const char *directory)
{
    r->fd = access("/proc/self/fd", X_OK) ? -1 : open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    if (r->fd >= 0)
        return 0;
    r->named = !with_a_name(r, create);
    return r->named ? 0 : -1;
}

static int give_name(struct report_file *r)
{
    r->named = r->named || !with_a_name(r, link_to);
    return r->named ? 0 : -1;
}

/* Of a regular file, or of one that is not there: where it will be. */
static int find_place(struct report_file *r, const struct stat *old)
{
    struct stat st;

    if (old && access(r->name, W_OK))
        return refuse(r, strerror(errno));
    if (!old && !lstat(r->name, &st))
        return refuse(r, "is a link to what does not exist: name a file");
    r->path = real_place(r->name); /* the file itself where the name is a link to it */
    return r->path ? 0 : refuse(r, strerror(errno));
}

static int open_regular(struct report_file *r, const struct args *a, const struct stat *old)
{
    const char *why;
    char *directory;
    int ret = -1;

    if (find_place(r, old))
        return -1;
    why = taken(r->path, a);
    directory = directory_of(r->path);
    if (why || !directory)
        refuse(r, why ? why : strerror(errno));
    else if (old && is_not_ours_to_replace(directory, old))
        refuse(r, "belongs to somebody else, in a directory where only he may replace it: choose another place");
    else if (open_temporary(r, directory))
        refuse(r, strerror(errno));
    else
        ret = old && fchmod(r->fd, old->st_mode & 0777) ? refuse(r, strerror(errno)) : 0;
    free(directory);
    return ret;
}

int report_open(struct report_file *r, const char *option, const char *name, const struct args *a)
{
    struct stat st;
    bool exists;
    int ret;

    *r = (struct report_file){ .fd = -1, .option = option, .name = name };
    if (!name)
        return 0;
    if (!strcmp(name, "-")) {
        r->fd = dup(STDOUT_FILENO);
        return r->fd < 0 ? refuse(r, strerror(errno)) : 0;
    }
    exists = !stat(name, &st);
    if (exists && S_ISDIR(st.st_mode))
        return refuse(r, "is a directory: name a file");
    if (exists && !S_ISREG(st.st_mode)) {
        r->fd = open(name, O_WRONLY | O_CLOEXEC);
        return r->fd < 0 ? refuse(r, strerror(errno)) : 0;
    }
    ret = open_regular(r, a, exists ? &st : NULL);
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
    if (!r->path || r->shown || r->failed)
        return;
    if (give_name(r) || rename(r->temporary, r->path)) {
        r->failed = errno;
        return;
    }
    r->named = false;
    r->shown = true;
}

int report_publish(struct report_file *r)
{
    if (r->path && !r->failed && fsync(r->fd))
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
    if (r->named)
        unlink(r->temporary);
    if (r->fd >= 0)
        close(r->fd);
    free(r->temporary);
    free(r->path);
    *r = (struct report_file){ .fd = -1 };
}
