#include "pipeline/filled.h"

void filled_init(struct filled *f, const struct layout *l, struct arena *a)
{
    *f = (struct filled){ .layout = l, .bytes = arena_array(a, l->items_n + 1, sizeof *f->bytes) };
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    for (size_t i = 0; i < l->items_n; i++)
        f->bytes[i] = l->item[i].done ? l->item[i].bytes : 0;
}

void filled_release(struct filled *f)
{
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
}

void filled_reach(struct filled *f, enum filled_stage stage)
{
    pthread_mutex_lock(&f->lock);
    f->stage = stage;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

void filled_item(struct filled *f, unsigned item, uint64_t bytes)
{
    pthread_mutex_lock(&f->lock);
    if (bytes > f->bytes[item]) {
        f->bytes[item] = bytes;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
}

void filled_stop(struct filled *f)
{
    pthread_mutex_lock(&f->lock);
    f->stopped = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

bool filled_stopped(struct filled *f)
{
    bool stopped;

    pthread_mutex_lock(&f->lock);
    stopped = f->stopped;
    pthread_mutex_unlock(&f->lock);
    return stopped;
}

bool filled_wait(struct filled *f, enum filled_stage stage)
{
    bool reached;

    pthread_mutex_lock(&f->lock);
    while (f->stage < stage && !f->stopped)
        pthread_cond_wait(&f->changed, &f->lock);
    reached = !f->stopped;
    pthread_mutex_unlock(&f->lock);
    return reached;
}

/* The first item that ends behind `off` in this file, or in a later one. */
static size_t first_behind(const struct layout *l, size_t file, uint64_t off)
{
    size_t low = 0, high = l->items_n;

    while (low < high) {
        size_t i = low + (high - low) / 2;
        const struct placed *it = &l->item[i];

        if (it->file < file || (it->file == file && it->off + it->bytes <= off))
            low = i + 1;
        else
            high = i;
    }
    return low;
}

/* Whether bytes of the item below `end`, an offset in its file, are written. */
static bool item_there(const struct filled *f, size_t item, uint64_t end)
{
    const struct placed *it = &f->layout->item[item];
    uint64_t wanted = end - it->off < it->bytes ? end - it->off : it->bytes;

    return f->bytes[item] >= wanted;
}

bool filled_wait_bytes(struct filled *f, size_t file, uint64_t off, uint64_t bytes)
{
    const struct layout *l = f->layout;
    uint64_t end = off + bytes;
    bool there;

    pthread_mutex_lock(&f->lock);
    for (size_t i = first_behind(l, file, off); i < l->items_n && l->item[i].file == file && l->item[i].off < end; i++)
        while (!f->stopped && !item_there(f, i, end))
            pthread_cond_wait(&f->changed, &f->lock);
    there = !f->stopped;
    pthread_mutex_unlock(&f->lock);
    return there;
}
