#include "pipeline/device_merge.h"
#include <string.h>
#include "base/arena.h"
#include "base/dtype.h"
#include "io/file.h"

struct loader {
    struct device_merges *m;
    struct run *run;
    struct gpu_event *done[GPU_MOST];
};

/* All that was asked for has come. */
static int settle(struct loader *l, unsigned device, struct err *e)
{
    struct gpu *g = l->m->gpu;

    return gpu_record(g, device, GPU_IN, l->done[device], e) || gpu_wait(g, device, l->done[device], e) ? -1 : 0;
}

/* What stands in the spare tile; to the first device only, where it goes on to the others from there. */
static int send(struct loader *l, size_t at, size_t bytes, struct err *e)
{
    struct gpu *g = l->m->gpu;
    struct gpu_piece all = { .rows = 1, .row_bytes = bytes };
    unsigned n = g->joined ? 1 : g->n;

    for (unsigned i = 0; i < n; i++)
        if (gpu_copy_in(g, i, l->m->at[i] + at, l->run->ring.spare, &all, e))
            return -1;
    for (unsigned i = 0; i < n; i++)
        if (settle(l, i, e))
            return -1;
    return 0;
}

static int load_factor(struct loader *l, const struct tensor *t, size_t at, struct err *e)
{
    const struct ckpt_file *f = l->run->plan->adapter;

    for (size_t done = 0, n; done < t->bytes; done += n) {
        n = t->bytes - done < l->run->plan->tile_bytes ? (size_t)t->bytes - done : l->run->plan->tile_bytes;
        if (file_pread(l->run->adapter_fd, f->path, l->run->ring.spare, n, t->off + done, e) ||
            send(l, at + done, n, e))
            return -1;
    }
    return 0;
}

static int load_order(struct loader *l, const int32_t *rows, uint64_t rows_n, size_t at, struct err *e)
{
    size_t bytes = (size_t)rows_n * sizeof *rows;

    for (size_t done = 0, n; done < bytes; done += n) {
        n = bytes - done < l->run->plan->tile_bytes ? bytes - done : l->run->plan->tile_bytes;
        memcpy(l->run->ring.spare, (const unsigned char *)rows + done, n);
        if (send(l, at + done, n, e))
            return -1;
    }
    return 0;
}

static int load_item(struct loader *l, size_t item, size_t *end, struct err *e)
{
    const struct placed *it = &l->run->plan->layout->item[item];
    struct merge_place *p = &l->m->place[item];
    struct recipe_plain plain;

    if (it->done)
        return 0;
    if (recipe_plain(it->recipe, &plain, e))
        return -1;
    if (!plain.merge)
        return 0;
    *p = (struct merge_place){ .a = *end, .any = true };
    p->b = p->a + plan_device_aligned((size_t)plain.merge->a->bytes);
    p->order = p->b + plan_device_aligned((size_t)plain.merge->b->bytes);
    *end += (size_t)plan_factors(&plain);
    return load_factor(l, plain.merge->a, p->a, e) || load_factor(l, plain.merge->b, p->b, e) ||
                   (plain.gather && load_order(l, plain.gather, plain.rows, p->order, e))
               ? -1
               : 0;
}

static int spread(struct loader *l, struct err *e)
{
    struct device_merges *m = l->m;
    void *at[GPU_MOST];

    if (!m->gpu->joined)
        return 0;
    for (unsigned i = 0; i < m->gpu->n; i++)
        at[i] = m->at[i];
    if (gpu_broadcast(m->gpu, 0, at, (size_t)m->plan->factor_bytes, e))
        return -1;
    for (unsigned i = 0; i < m->gpu->n; i++)
        if (settle(l, i, e))
            return -1;
    return 0;
}

static int load_all(struct loader *l, struct err *e)
{
    struct device_merges *m = l->m;
    size_t end = 0;

    for (unsigned i = 0; i < m->gpu->n; i++)
        if (gpu_alloc(m->gpu, i, (size_t)m->plan->factor_bytes, (void **)&m->at[i], e) ||
            gpu_event_make(m->gpu, i, false, &l->done[i], e))
            return -1;
    for (size_t i = 0; i < m->plan->layout->items_n; i++)
        if (load_item(l, i, &end, e))
            return -1;
    if (spread(l, e))
        return -1;
    for (unsigned i = 0; i < m->gpu->n; i++)
        if (gpu_event_free(m->gpu, i, l->done[i], e))
            return -1;
    return 0;
}

int device_merges_load(struct device_merges *m, struct run *r, struct gpu *g, struct err *e)
{
    struct loader l = { .m = m, .run = r };

    *m = (struct device_merges){ .plan = r->plan, .gpu = g };
    m->place = arena_array(r->plan->arena, r->plan->layout->items_n + 1, sizeof *m->place);
    return r->plan->factor_bytes ? load_all(&l, e) : 0;
}

void device_merges_free(struct device_merges *m, struct err *e)
{
    for (unsigned i = 0; m->gpu && i < m->gpu->n; i++)
        if (m->at[i])
            gpu_free(m->gpu, i, m->at[i], e);
}

bool device_merges_launch(const struct device_merges *m, unsigned device, const struct job_plan *plan,
                          const struct job *j, const struct launch_memory *memory, void *room, struct merge_launch *out)
{
    const struct merge_place *p = &m->place[m->plan->slab[plan->slab].item];
    const struct tensor *a = plan->merge->a, *b = plan->merge->b;
    struct merge_job merge = { .rank = (size_t)plan->merge->rank, .scale = (float)plan->merge->scale, .room = room };

    if (!p->any)
        return false;
    merge.a.dtype = a->dtype;
    merge.a.pitch = (size_t)a->shape[1] * dtype_bytes(a->dtype);
    merge.a.at = m->at[device] + p->a + plan->col * dtype_bytes(a->dtype);
    merge.b.dtype = b->dtype;
    merge.b.pitch = (size_t)b->shape[1] * dtype_bytes(b->dtype);
    merge.b.at = m->at[device] + p->b + (plan->gather ? 0 : plan->row * merge.b.pitch);
    if (plan->gather)
        merge.order = (const uint32_t *)(const void *)(m->at[device] + p->order) + plan->row;
    return launch_merge(plan->transform, j, memory, &merge, out);
}
