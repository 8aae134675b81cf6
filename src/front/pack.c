/* pack.c - wb_pack and wb_unpack, and the archive of an export. */
#include "front/pack.h"
#include "base/clock.h"
#include "emit/outdir.h"
#include "front/document.h"
#include "front/front.h"
#include "front/job.h"
#include "io/file.h"
#include <stdlib.h>
#include <string.h>

/* Packing counts what is read, unpacking what is written. */
static int relay(const struct wb_options *o, const struct wb_progress *p)
{
    return o->progress ? o->progress(o->user, p) : 0;
}

static int relay_packed(void *user, uint64_t done, uint64_t bytes, double seconds)
{
    return relay(user, &(struct wb_progress){ .read = done, .to_read = bytes, .seconds = seconds });
}

static int relay_unpacked(void *user, uint64_t done, uint64_t bytes, double seconds)
{
    return relay(user, &(struct wb_progress){ .written = done, .to_write = bytes, .seconds = seconds });
}

static int check_memory(const struct plan_budget *b, struct err *e)
{
    char given[24], least[24];

    if (b->memory < PACK_MEMORY_MIN)
        return err_set(e, ERR_USAGE, "--memory %s is too little for an archive: expected at least %s",
                       str_size(given, b->memory), str_size(least, PACK_MEMORY_MIN));
    return 0;
}

/* Nothing is written inside what is read from. */
static int check_model(const struct wb_options *o, struct arena *a, struct err *e)
{
    const char *place = file_real_place(o->archive, a);

    if (o->model && place && file_within(file_parent(place, a), file_real_path(o->model, a)))
        return err_set(e, ERR_REFUSED, "%s: lies inside %s, which is read from: give a place beside it", o->archive,
                       o->model);
    return 0;
}

int packing_check(const struct wb_options *o, const struct plan_budget *b, bool *exists, struct arena *a, struct err *e)
{
    return check_memory(b, e) || check_model(o, a, e) || outfile_check(o->archive, o->out, o->overwrite, exists, a, e)
               ? -1
               : 0;
}

int packing_write(struct packing *p, const char *dir, const struct wb_options *o, const struct plan_budget *b,
                  struct arena *a, struct err *e)
{
    struct pack_options opt = {
        .memory = b->memory, .threads = b->threads, .progress = relay_packed, .user = (void *)o
    };
    double begin = clock_wall();
    int ret = pack(dir, &p->file, &opt, &p->result, a, e);

    p->wall = p->after = clock_wall() - begin;
    return ret;
}

json_t *packing_document(const struct pack_result *r, const char *path)
{
    json_t *o = json_object();

    put_text(o, "path", path);
    put_u64(o, "files", archive_files(&r->archive));
    put_u64(o, "bytes", r->archive.bytes);
    put_u64(o, "archive_bytes", r->archive.on_disk);
    put_u64(o, "chunks", r->archive.chunks_n);
    put_u64(o, "split", r->split);
    put_u64(o, "threads", r->threads);
    return o;
}

static char *report_text(const struct pack_result *r, const struct wb_options *o, double wall)
{
    json_t *doc = json_object();

    put_text(doc, "out", o->out);
    put(doc, "archive", packing_document(r, o->archive));
    put(doc, "wall", json_real(wall));
    put(doc, "gb_per_s", json_real(wall > 0 ? (double)r->archive.bytes / 1e9 / wall : 0));
    return document_text(doc);
}

static int check_given(const struct wb_options *o, struct plan_budget *b, struct err *e)
{
    if (!o->archive || !*o->archive)
        return err_set(e, ERR_USAGE, "no archive was given");
    if (job_budget(o, b, e))
        return -1;
    return check_memory(b, e);
}

int wb_pack(const struct wb_options *o, char **report, struct wb_error *error)
{
    struct packing p = { .file = { .fd = -1 } };
    struct plan_budget b = { 0 };
    struct arena a = { 0 };
    struct err e = { 0 };
    bool exists;

    if (check_given(o, &b, &e))
        goto out;
    if (!o->out || !*o->out) {
        err_set(&e, ERR_USAGE, "no directory was given");
        goto out;
    }
    if (packing_check(o, &b, &exists, &a, &e) || outdir_check_whole(o->out, &a, &e) ||
        outfile_create(&p.file, o->archive, exists, &a, &e) ||
        packing_write(&p, file_trimmed(o->out, &a), o, &b, &a, &e) || outfile_publish(&p.file, &a, &e))
        goto out;
    if (report)
        *report = report_text(&p.result, o, p.wall);
out:
    outfile_discard(&p.file);
    arena_release(&a);
    return front_result(&e, error);
}

/* ---- unpacking ---- */

struct unpacking {
    const struct wb_options *o;
    struct plan_budget budget;
    int fd;
    struct archive archive;
    struct outdir out;
    bool exists;
    struct arena arena;
};

static int check_space(struct unpacking *u, struct err *e)
{
    char need[24], have[24];
    uint64_t bytes;

    if (file_space(file_parent(u->o->out, &u->arena), &bytes, e))
        return -1;
    if (bytes < u->archive.bytes)
        return err_set(e, ERR_SPACE, "%s: unpacking %s needs %s there, %s are free: make room or give another place",
                       u->o->out, u->o->archive, str_bytes(need, u->archive.bytes), str_bytes(have, bytes));
    return 0;
}

static int open_archive(struct unpacking *u, struct err *e)
{
    const struct wb_options *o = u->o;

    if (check_given(o, &u->budget, e) || (u->fd = file_open_read(o->archive, e)) < 0 ||
        archive_read(&u->archive, u->fd, o->archive, &u->arena, e))
        return -1;
    if (!o->out)
        return 0;
    return outdir_recover(o->out, &u->arena, e) ||
                   outdir_check(o->out, o->archive, o->overwrite, &u->exists, &u->arena, e) || check_space(u, e) ||
                   outdir_create(&u->out, o->out, u->exists, &u->arena, e)
               ? -1
               : 0;
}

int wb_unpack(const struct wb_options *o, char **report, struct wb_error *error)
{
    struct unpacking u = { .o = o, .fd = -1, .out = { .fd = -1 } };
    struct pack_result r = { 0 };
    struct err e = { 0 };
    double begin = clock_wall();

    if (open_archive(&u, &e))
        goto out;
    {
        struct pack_options opt = {
            .memory = u.budget.memory, .threads = u.budget.threads, .progress = relay_unpacked, .user = (void *)o
        };

        if (unpack(&u.archive, u.fd, o->archive, u.out.fd, u.out.partial, &opt, &r, &u.arena, &e))
            goto out;
    }
    if (o->out && outdir_publish(&u.out, &e))
        goto out;
    if (report)
        *report = report_text(&r, o, clock_wall() - begin);
out:
    outdir_discard(&u.out);
    if (u.fd >= 0)
        file_close(u.fd);
    arena_release(&u.arena);
    return front_result(&e, error);
}

/* ---- looking ---- */

static json_t *file_document(const struct archive *x, const struct archive_entry *f, struct arena *a)
{
    json_t *o = json_object();
    uint64_t packed = 0, split = 0;

    for (uint64_t i = f->chunk; i < f->chunk + f->chunks_n; i++) {
        packed += x->chunk[i].frame;
        split += x->chunk[i].planes == 2;
    }
    put_text(o, "name", f->name);
    put(o, "directory", json_boolean(f->dir));
    put_text(o, "mode", arena_printf(a, "%03o", f->mode));
    put_u64(o, "bytes", f->bytes);
    put_u64(o, "packed", packed);
    put_u64(o, "chunks", f->chunks_n);
    put_u64(o, "split", split);
    put(o, "xxh3", f->dir ? json_null() : json_string(arena_printf(a, "%016llx", (unsigned long long)f->hash)));
    return o;
}

json_t *packing_inspect(const char *path, struct arena *a, struct err *e)
{
    int fd = file_open_read(path, e);
    json_t *doc = NULL, *files;
    struct archive x;

    if (fd < 0)
        return NULL;
    if (!archive_read(&x, fd, path, a, e)) {
        doc = json_object();
        files = json_array();
        put_text(doc, "kind", "archive");
        put_text(doc, "path", path);
        put_text(doc, "container", arena_printf(a, "wbz %d", ARCHIVE_VERSION));
        for (size_t i = 0; i < x.entries_n; i++)
            json_array_append_new(files, file_document(&x, &x.entry[i], a));
        put(doc, "files", files);
        put_u64(doc, "bytes", x.bytes);
        put_u64(doc, "archive_bytes", x.on_disk);
        put_u64(doc, "chunks", x.chunks_n);
        put(doc, "problems", json_array());
    }
    file_close(fd);
    return doc;
}
