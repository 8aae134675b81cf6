/* transpose.cu - element (r, c) becomes fp16 at row c, column r; with `order`, source row r is order[r].
 *
 * A block turns TILE x TILE elements through shared memory, where a word holds one column of two rows.  Loading, a warp
 * takes V row pairs x 32 columns, V = elements in 16 bytes; storing, 4 columns x 8 chunks of 8 rows.  A pitch of
 * TILE + 1 words puts the 32 words of either pattern into different banks, as it does those of a row or a column, which
 * tiles at the border and tiles that are not aligned to 16 bytes are moved by. */
#include "transform/device.cuh"

enum { TILE = 64, PAIRS = TILE / 2, WARPS = 8 };

struct tile {
    uint32_t at[PAIRS][TILE + 1];
};

/* Where a block's tile begins in the source, and how much of it there is. */
struct place {
    const uint8_t *src;
    uint64_t pitch;
    const uint32_t *order;
    uint32_t row, rows, cols;
};

DEVICE const uint8_t *row_at(const struct place *p, uint32_t r)
{
    return p->src + (uint64_t)(p->order ? p->order[p->row + r] : p->row + r) * p->pitch;
}

/* 16 bytes of two rows. */
template <typename F>
DEVICE void load_pair(struct tile *t, const struct place *p, uint32_t pr, uint32_t c, lane_counters *n)
{
    enum { BYTES = sizeof(typename F::bits), V = 16 / BYTES };
    uint4 x = __ldg((const uint4 *)(row_at(p, 2 * pr) + c * BYTES)),
          y = __ldg((const uint4 *)(row_at(p, 2 * pr + 1) + c * BYTES));
    uint32_t a[4] = { x.x, x.y, x.z, x.w }, b[4] = { y.x, y.y, y.z, y.w };

    for (unsigned i = 0; i < V; i++) {
        unsigned word = i * BYTES / 4, shift = i * BYTES % 4 * 8;
        uint16_t low = F::half((typename F::bits)(a[word] >> shift), n);

        t->at[pr][c + i] = pair(low, F::half((typename F::bits)(b[word] >> shift), n));
    }
}

template <typename F> DEVICE void load_tile(struct tile *t, const struct place *p, unsigned warp, lane_counters *n)
{
    enum { V = 16 / sizeof(typename F::bits), ACROSS = WARP / V, ITEMS = PAIRS / V * 2 };
    unsigned lane = threadIdx.x;

    for (unsigned i = warp; i < ITEMS; i += WARPS)
        load_pair<F>(t, p, i / 2 * V + lane / ACROSS, i % 2 * WARP + lane % ACROSS * V, n);
}

/* By rows; what the source does not have stays unwritten, and is not read. */
template <typename F> DEVICE void load_border(struct tile *t, const struct place *p, unsigned warp, lane_counters *n)
{
    for (unsigned pr = warp; 2 * pr < p->rows; pr += WARPS) {
        const uint8_t *even = row_at(p, 2 * pr), *odd = 2 * pr + 1 < p->rows ? row_at(p, 2 * pr + 1) : NULL;

        for (unsigned c = threadIdx.x; c < p->cols; c += WARP) {
            uint16_t low = half_at<F>(even + c * sizeof(typename F::bits), n);

            t->at[pr][c] = pair(low, odd ? half_at<F>(odd + c * sizeof(typename F::bits), n) : 0);
        }
    }
}

DEVICE void store_tile(const struct tile *t, uint8_t *dst, uint64_t pitch, unsigned warp)
{
    unsigned q = threadIdx.x % 8 * 4;

    for (unsigned c = warp * 4 + threadIdx.x / 8; c < TILE; c += WARPS * 4)
        __stcs((uint4 *)(dst + c * pitch + q * 4),
               make_uint4(t->at[q][c], t->at[q + 1][c], t->at[q + 2][c], t->at[q + 3][c]));
}

/* By columns. */
DEVICE void store_border(const struct tile *t, uint8_t *dst, uint64_t pitch, uint32_t rows, uint32_t cols,
                         unsigned warp)
{
    unsigned pr = threadIdx.x;

    for (unsigned c = warp; c < cols; c += WARPS) {
        uint8_t *to = dst + c * pitch + pr * 4;

        if (2 * pr + 1 < rows)
            store(to, t->at[pr][c]);
        else if (2 * pr < rows)
            store(to, (uint16_t)t->at[pr][c]);
    }
}

template <typename F>
DEVICE void transpose(const uint8_t *src, uint64_t src_pitch, uint8_t *dst, uint64_t dst_pitch, const uint32_t *order,
                      uint32_t rows, uint32_t cols, struct counters *counters)
{
    __shared__ struct tile t;
    uint32_t across = (cols + TILE - 1) / TILE, r = blockIdx.x / across * TILE, c = blockIdx.x % across * TILE;
    const uint8_t *from = src + c * (uint64_t)sizeof(typename F::bits);
    struct place p = { from, src_pitch, order, r, min(rows - r, (uint32_t)TILE), min(cols - c, (uint32_t)TILE) };
    uint8_t *to = dst + c * dst_pitch + r * (uint64_t)2;
    bool whole = p.rows == TILE && p.cols == TILE;
    lane_counters mine = {};

    if (whole && ((uintptr_t)from | src_pitch) % 16 == 0)
        load_tile<F>(&t, &p, threadIdx.y, &mine);
    else
        load_border<F>(&t, &p, threadIdx.y, &mine);
    __syncthreads();
    if (whole && ((uintptr_t)to | dst_pitch) % 16 == 0)
        store_tile(&t, to, dst_pitch, threadIdx.y);
    else
        store_border(&t, to, dst_pitch, p.rows, p.cols, threadIdx.y);
    count_casts(counters, &mine);
}

#define TRANSPOSE(from)                                                                                                \
    KERNEL gpu_transpose_##from(const uint8_t *__restrict__ src, uint64_t src_pitch, uint8_t *__restrict__ dst,        \
                                uint64_t dst_pitch, const uint32_t *__restrict__ order, uint32_t rows, uint32_t cols,  \
                                struct counters *counters)                                                             \
    {                                                                                                                  \
        transpose<from_##from>(src, src_pitch, dst, dst_pitch, order, rows, cols, counters);                           \
    }

TRANSPOSE(bf16)
TRANSPOSE(f32)
TRANSPOSE(f16)
