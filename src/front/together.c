#include "front/together.h"
#include "base/hash.h"
#include "front/manifest.h"
#include "io/io.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *journal_name(struct export_job *j, int rank)
{
    return arena_printf(&j->arena, "%s.%d", OUTDIR_MARK, rank);
}

/* ---- what an interrupted run left ---- */

static int take_over(struct export_job *j, const struct outdir *out, struct journal *journal, const char *manifest,
                     const char *name, struct err *e)
{
    const char *shown = arena_printf(&j->arena, "%s/%s", out->partial, name), *head;
    struct journal other;
    int ret = -1;

    if (journal_open(&other, &j->layout, out->fd, name, shown, &j->arena, e) ||
        journal_head(&other, &head, &j->arena, e))
        goto out;
    ret = head && !strcmp(head, manifest)
              ? journal_resume(&other, e) || journal_add(journal, other.finished, other.finished_n, e)
              : 0; /* of a rank that was killed before it began, or of another run */
out:
    journal_close(&other);
    return ret ? -1 : 0;
}

int together_take_over(struct export_job *j, const struct outdir *out, struct journal *journal, const char *manifest,
                       struct err *e)
{
    const char *const *name = outdir_names(out, OUTDIR_MARK ".", &j->arena);

    for (; *name; name++)
        if (take_over(j, out, journal, manifest, *name, e))
            return -1;
    return 0;
}

/* ---- shares ---- */

struct weight { /* of a source tensor that items come from */
    unsigned item;
    unsigned file;
    uint64_t off, bytes;
};

static int by_place(const void *a, const void *b)
{
    const struct weight *x = a, *y = b;

    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->off != y->off)
        return x->off < y->off ? -1 : 1;
    return x->item < y->item ? -1 : x->item > y->item;
}

/* Where a source ends that items come from; its bytes in all of them. */
static size_t source_end(const struct weight *w, size_t n, size_t i, uint64_t *bytes)
{
    size_t end = i;

    for (*bytes = 0; end < n && w[end].file == w[i].file && w[end].off == w[i].off; end++)
        *bytes += w[end].bytes;
    return end;
}

/* Items of one source stay together, as it is read once, and each rank's lie side by side. A source goes to the rank in
 * whose equal share its middle lies: so a large one at the end does not leave the last rank without any. */
static void share_out(struct together *t, const struct weight *w, size_t n)
{
    uint64_t all = 0, before = 0, bytes;
    int rank = 0;

    for (size_t i = 0; i < n; i++)
        all += w[i].bytes;
    for (size_t i = 0, end; i < n; before += bytes) {
        end = source_end(w, n, i, &bytes);
        while (rank + 1 < t->ranks->size && before + bytes / 2 >= all / (uint64_t)t->ranks->size * ((uint64_t)rank + 1))
            rank++;
        while (i < end)
            t->owner[w[i++].item] = rank;
    }
}

static int divide(struct together *t, struct export_job *j, struct err *e)
{
    const struct layout *l = &j->layout;
    struct weight *w = xmalloc((l->items_n + 1) * sizeof *w);
    struct recipe_plain plain;
    size_t n = 0;
    int ret = 0;

    t->owner = arena_array(&j->arena, l->items_n + 1, sizeof *t->owner);
    for (unsigned i = 0; !ret && i < l->items_n; i++) {
        t->owner[i] = -1;
        if (l->item[i].done)
            continue;
        ret = recipe_plain(l->item[i].recipe, &plain, e);
        if (!ret)
            w[n++] = (struct weight){ i, plain.source->file, plain.source->off, l->item[i].bytes };
    }
    qsort(w, n, sizeof *w, by_place);
    if (!ret)
        share_out(t, w, n);
    for (size_t i = 0; i < l->items_n; i++)
        l->item[i].done = t->owner[i] != t->ranks->rank;
    free(w);
    return ret ? -1 : job_plan_rest(j, e);
}

/* ---- beginning ---- */

/* So that every rank opens what is there. */
static int create_files(const struct export_job *j, const struct outdir *out, const struct journal *journal,
                        struct err *e)
{
    for (size_t i = 0; !journal->finished_n && i < j->layout.files_n; i++) {
        const struct data_file *f = &j->layout.file[i];
        int fd = io_create(out->fd, f->name, f->name, f->bytes, e);

        if (fd < 0)
            return -1;
        close(fd);
    }
    return 0;
}

/* A rank that sees other files, or has other options, must not write. */
static int same_export(struct together *t, const char *manifest, struct err *e)
{
    uint64_t mine = XXH3_64bits(manifest, strlen(manifest)), first = mine;

    if (ranks_broadcast(t->ranks, &first, sizeof first, e))
        return -1;
    return first == mine ? 0
                         : err_set(e, ERR_REFUSED,
                                   "its options, or the checkpoint as it sees it, are not those of rank 0: give all "
                                   "ranks the same command and one shared file system");
}

static int join_out(struct export_job *j, struct outdir *out, struct journal *journal, const char *manifest, int rank,
                    struct err *e)
{
    const char *name = journal_name(j, rank);
    const char *shown;

    if (outdir_join(out, j->options->out, &j->arena, e))
        return -1;
    shown = arena_printf(&j->arena, "%s/%s", out->partial, name);
    return file_create_whole(out->fd, name, shown, "", 0, e) ||
                   journal_open(journal, &j->layout, out->fd, name, shown, &j->arena, e) ||
                   journal_begin(journal, manifest, e)
               ? -1
               : 0;
}

int together_begin(struct together *t, struct export_job *j, struct outdir *out, struct journal *journal, struct err *e)
{
    const char *manifest;
    unsigned char *done;

    if (!t->ranks)
        return e->kind ? -1 : 0;
    if (ranks_first(t->ranks) && !e->kind)
        create_files(j, out, journal, e);
    if (ranks_agree(t->ranks, e, &t->told)) /* on rank 0's right to write */
        return -1;
    manifest = manifest_make(j);
    done = arena_array(&j->arena, j->layout.items_n + 1, 1);
    same_export(t, manifest, e);
    if (ranks_agree(t->ranks, e, &t->told)) /* so that what follows has one size */
        return -1;
    for (size_t i = 0; i < j->layout.items_n; i++)
        done[i] = j->layout.item[i].done;
    ranks_broadcast(t->ranks, done, j->layout.items_n, e);
    for (size_t i = 0; i < j->layout.items_n; i++)
        j->layout.item[i].done = done[i];
    if (!e->kind && !ranks_first(t->ranks))
        join_out(j, out, journal, manifest, t->ranks->rank, e);
    if (!e->kind)
        divide(t, j, e);
    return ranks_agree(t->ranks, e, &t->told);
}

/* ---- the end ---- */

struct moved { /* by a rank */
    uint64_t read, written;
    double busy[STAGES], waiting[STAGES];
};

static void add_moved(struct run_result *r, const struct moved *m)
{
    r->read += m->read;
    r->written += m->written;
    for (unsigned i = 0; i < STAGES; i++) {
        r->busy[i] += m->busy[i];
        r->waiting[i] += m->waiting[i];
    }
}

static int collect(struct together *t, struct export_job *j, struct run_result *r, struct err *e)
{
    size_t items = j->layout.items_n, size = (size_t)t->ranks->size;
    struct item_result *all = xmalloc((items * size + 1) * sizeof *all);
    struct moved mine = { .read = r->read, .written = r->written };
    struct moved *moved = xmalloc(size * sizeof *moved);
    int ret;

    memcpy(mine.busy, r->busy, sizeof mine.busy);
    memcpy(mine.waiting, r->waiting, sizeof mine.waiting);
    ret = ranks_gather(t->ranks, r->item, items * sizeof *all, all, e) ||
                  ranks_gather(t->ranks, &mine, sizeof mine, moved, e)
              ? -1
              : 0;

    for (size_t i = 0; !ret && i < items; i++)
        if (t->owner[i] >= 0)
            r->item[i] = all[(size_t)t->owner[i] * items + i];
    for (size_t i = 0; !ret && i < size; i++)
        if (i != (size_t)t->ranks->rank)
            add_moved(r, &moved[i]);
    free(all);
    free(moved);
    return ret;
}

int together_end(struct together *t, struct export_job *j, const struct outdir *out, struct journal *journal,
                 struct run_result *r, struct err *e)
{
    if (!t->ranks)
        return e->kind ? -1 : 0;
    if (ranks_agree(t->ranks, e, &t->told)) /* that all is written, and recorded by whoever wrote it */
        return -1;
    if (!collect(t, j, r, e) && ranks_first(t->ranks))
        journal_add_rest(journal, r->item, !j->options->no_hashes, e);
    if (ranks_agree(t->ranks, e, &t->told)) /* that rank 0's journal says all: only now may the others go */
        return -1;
    if (!ranks_first(t->ranks) && unlinkat(out->fd, journal_name(j, t->ranks->rank), 0))
        err_errno(e, errno, "%s/%s: cannot be removed", out->partial, journal_name(j, t->ranks->rank));
    return ranks_agree(t->ranks, e, &t->told);
}
