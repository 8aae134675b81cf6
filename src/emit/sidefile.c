#include "emit/sidefile.h"
#include "base/str.h"
#include "io/file.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

const struct sidefile *sidefiles_find(const struct sidefiles *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++)
        if (!strcmp(s->v[i].name, name))
            return &s->v[i];
    return NULL;
}

/* The list lives in the arena like all that it holds: growing leaves the old array there, and the list is short. */
static struct sidefile *add(struct sidefiles *s, const char *name, const char *origin, struct err *e)
{
    struct sidefile *grown;

    if (sidefiles_find(s, name)) {
        err_set(e, ERR_INTERNAL, "%s: the output would hold two files of this name: please report this", name);
        return NULL;
    }
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 16;
        grown = arena_array(s->arena, s->cap, sizeof *grown);
        if (s->n)
            memcpy(grown, s->v, s->n * sizeof *grown);
        s->v = grown;
    }
    s->v[s->n] = (struct sidefile){ .name = arena_strdup(s->arena, name), .origin = arena_strdup(s->arena, origin) };
    return &s->v[s->n++];
}

int sidefiles_add_bytes(struct sidefiles *s, const char *name, const void *bytes, size_t n, const char *origin,
                        struct err *e)
{
    struct sidefile *f = add(s, name, origin, e);

    if (!f)
        return -1;
    f->bytes = arena_memdup(s->arena, bytes, n);
    f->n = n;
    f->size = n;
    return 0;
}

int sidefiles_add_copy(struct sidefiles *s, const char *name, const char *path, const char *origin, struct err *e)
{
    struct sidefile *f;
    struct stat st;

    if (stat(path, &st))
        return err_errno(e, errno, "%s: cannot be copied into the output", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_FORMAT, "%s: is not a regular file, so it cannot be copied into the output", path);
    if (!(f = add(s, name, origin, e)))
        return -1;
    f->copy_from = arena_strdup(s->arena, path);
    f->size = (uint64_t)st.st_size;
    return 0;
}

/* A source that grew or shrank since it was looked at is not the file that was decided on. */
static int copy(const struct sidefile *f, int dir_fd, const char *shown, struct err *e)
{
    struct stat st;

    if (file_copy(f->copy_from, dir_fd, f->name, shown, e))
        return -1;
    if (fstatat(dir_fd, f->name, &st, AT_SYMLINK_NOFOLLOW))
        return err_errno(e, errno, "%s: cannot read its size", shown);
    if ((uint64_t)st.st_size != f->size)
        return err_set(e, ERR_FORMAT, "%s: changed while it was in use, from %llu to %llu bytes: start again",
                       f->copy_from, (unsigned long long)f->size, (unsigned long long)st.st_size);
    return 0;
}

static int write_one(const struct sidefile *f, int dir_fd, const char *dir, struct err *e)
{
    struct str shown = { 0 };
    int ret;

    str_addf(&shown, "%s/%s", dir, f->name);
    ret = f->copy_from ? copy(f, dir_fd, shown.s, e) : file_create_whole(dir_fd, f->name, shown.s, f->bytes, f->n, e);
    str_release(&shown);
    return ret;
}

int sidefiles_write(const struct sidefiles *s, int dir_fd, const char *dir, struct err *e)
{
    for (size_t i = 0; i < s->n; i++)
        if (write_one(&s->v[i], dir_fd, dir, e))
            return -1;
    return 0;
}
