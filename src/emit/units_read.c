#include "emit/units_read.h"

static int part_read(const struct checkpoint *c, const struct tensor *t, const struct recipe_span *s,
                     unsigned char *buf, struct err *e)
{
    const struct ckpt_file *file = &c->file[t->file];
    int fd = ckpt_open_source(file, e), ret = fd < 0 ? -1 : 0;

    for (uint64_t i = 0; !ret && i < s->runs; i++)
        ret =
            file_pread(fd, file->name, buf + i * s->run_bytes, (size_t)s->run_bytes, t->off + s->off + i * s->pitch, e);
    if (fd >= 0)
        file_close(fd);
    return ret;
}

int units_read(const struct checkpoint *c, const struct recipe_plain *p, uint64_t first, uint64_t n, void *buf,
               struct err *e)
{
    for (unsigned i = 0; i < p->parts; i++) {
        struct recipe_span s = recipe_span(p, i, first, n);

        if (part_read(c, p->part[i].tensor, &s, (unsigned char *)buf + recipe_part_at(p, i, first, n), e))
            return -1;
    }
    return 0;
}
