/* pack4.cu - 4-bit weights of any storage into the layout of the runtime's group-wise GEMM (pack4_lane.h).
 *
 * Four words of one output, 32 inputs, make 16 bytes of the result: a thread takes those of four outputs, or of one
 * where the storage has an output's words side by side.  The two halves of a cell are neighbouring threads, so that
 * stores fill sectors.  Rows, columns and zero points are those of a job (pack4.c); src_pitch is that of one row of
 * words.  `order` tells which input comes at which place, NULL: in order. */
#include "transform/device.cuh"
#include "transform/pack4_lane.h"

enum { QUAD = 4 /* outputs, or words, of a thread */ };

struct zeros {
    const uint8_t *at; /* NULL: nothing to fold */
    uint64_t pitch;
    uint32_t group, first_group; /* of inputs; the group with which `at` begins */
    int add;
    bool clamp;
};

/* How far the weights of output n of unit u move, by its word of zero points. */
DEVICE int moves(const struct zeros *z, uint32_t word, unsigned n, bool awq)
{
    return PACK4_ZERO - (int)(word >> 4 * (awq ? awq_place(n) : n) & 15) - z->add;
}

/* Words of inputs k, k + 8, .. of four outputs, from output n of unit u on: w[word][output]. */
DEVICE void fold_quads(uint32_t w[QUAD][QUAD], const struct zeros *z, uint32_t k, uint32_t u, unsigned n, bool awq,
                       lane_counters *c)
{
    if (!z->at)
        return;
#pragma unroll
    for (unsigned i = 0; i < QUAD; i++) {
        uint32_t g = (k + i * PACK4_WORD) / z->group - z->first_group;
        uint32_t word = load<uint32_t>(z->at + g * z->pitch + u * (uint64_t)4);

#pragma unroll
        for (unsigned o = 0; o < QUAD; o++)
            w[i][o] = word_move(w[i][o], moves(z, word, n + o, awq), z->clamp, c);
    }
}

/* Half a line of the result, of one output. */
DEVICE void store_half(uint8_t *dst, uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3)
{
    store16(dst, make_uint4(pack4_turn(w0, w1, w2, w3, 0), pack4_turn(w0, w1, w2, w3, 1), pack4_turn(w0, w1, w2, w3, 2),
                            pack4_turn(w0, w1, w2, w3, 3)));
}

DEVICE void store_quads(uint8_t *dst, uint32_t w[QUAD][QUAD])
{
#pragma unroll
    for (unsigned o = 0; o < QUAD; o++)
        store_half(dst + o * 32, w[0][o], w[1][o], w[2][o], w[3][o]);
}

DEVICE void load_quad(uint32_t w[QUAD], const uint8_t *p)
{
    uint4 x = load16(p);

    w[0] = x.x, w[1] = x.y, w[2] = x.z, w[3] = x.w;
}

/* ---- eight inputs of an output in a word, words [in/8, out] ---- */

/* Nibbles of eight rows, by order, of four outputs. */
DEVICE void gather_quad(uint32_t w[QUAD], const uint8_t *src, uint64_t pitch, const uint32_t *order)
{
    for (unsigned o = 0; o < QUAD; o++)
        w[o] = 0;
#pragma unroll 4 /* all at once would take 160 registers */
    for (unsigned b = 0; b < PACK4_WORD; b++) {
        uint32_t k = order[b], x[QUAD];

        load_quad(x, src + k / PACK4_WORD * pitch);
        for (unsigned o = 0; o < QUAD; o++)
            w[o] |= (x[o] >> k % PACK4_WORD * 4 & 15) << 4 * b;
    }
}

/* A thread: half h of cell r, outputs 4 q.. of `quads`. */
template <bool ACT>
DEVICE void pack_in(const uint8_t *src, uint64_t src_pitch, uint8_t *dst, uint64_t dst_pitch, uint32_t quads,
                    const struct zeros *z, uint32_t first, const uint32_t *order, struct counters *counters)
{
    uint32_t across = (2 * quads + blockDim.x - 1) / blockDim.x, r = blockIdx.x / across;
    uint32_t t = blockIdx.x % across * blockDim.x + threadIdx.x, h = t % 2, q = t / 2;
    uint32_t w[QUAD][QUAD], i = (2 * r + h) * QUAD; /* word */
    lane_counters mine = {};

    if (q < quads) {
        const uint8_t *from = src + q * (uint64_t)16;

#pragma unroll
        for (unsigned n = 0; n < QUAD; n++)
            if (ACT)
                gather_quad(w[n], from, src_pitch, order + (i + n) * PACK4_WORD);
            else
                load_quad(w[n], from + (i + n) * src_pitch);
        fold_quads(w, z, first + i * PACK4_WORD, q / 2, q % 2 * QUAD, false, &mine);
        store_quads(dst + q * dst_pitch + r * (uint64_t)PACK4_CELL + h * 16, w);
    }
    if (z->clamp)
        count_clamps(counters, &mine);
}

KERNEL gpu_pack4_in(const uint8_t *__restrict__ src, uint64_t src_pitch, uint8_t *__restrict__ dst, uint64_t dst_pitch,
                    uint32_t quads, const uint8_t *__restrict__ zeros, uint64_t zeros_pitch, uint32_t first,
                    uint32_t group, uint32_t zero_add, uint32_t clamp, struct counters *counters)
{
    struct zeros z = { zeros, zeros_pitch, group, first / group, (int)zero_add, zeros && clamp };

    pack_in<false>(src, src_pitch, dst, dst_pitch, quads, &z, first, NULL, counters);
}

KERNEL gpu_pack4_in_act(const uint8_t *__restrict__ src, uint64_t src_pitch, uint8_t *__restrict__ dst,
                        uint64_t dst_pitch, uint32_t quads, const uint8_t *__restrict__ zeros, uint64_t zeros_pitch,
                        const uint32_t *__restrict__ order, uint32_t group, uint32_t zero_add, uint32_t clamp,
                        struct counters *counters)
{
    struct zeros z = { zeros, zeros_pitch, group, 0, (int)zero_add, zeros && clamp };

    pack_in<true>(src, src_pitch, dst, dst_pitch, quads, &z, 0, order, counters);
}

/* ---- eight outputs of an input in a word, interleaved, words [in, out/8] ---- */

enum { AWQ_UNITS = 32, AWQ_THREADS = 128 };

/* Words of a cell, turned to be of eight inputs: [word][place of the output][unit].  Padded, so that what two halves of
 * two quads of eight units read lies in different banks. */
struct awq_cell {
    uint32_t at[8][8 * (AWQ_UNITS + 4) + 4];
};

DEVICE uint32_t *awq_at(struct awq_cell *cell, unsigned i, unsigned place, unsigned u)
{
    return &cell->at[i][place * (AWQ_UNITS + 4) + u];
}

/* Word i of unit u; src is that unit's in the cell's first row. */
DEVICE void awq_turn(struct awq_cell *cell, const uint8_t *src, uint64_t pitch, unsigned i, unsigned u)
{
    uint32_t x[8];

    for (unsigned k = 0; k < 8; k++)
        x[k] = load<uint32_t>(src + (i * 8 + k) * pitch);
    for (unsigned step = 4; step; step /= 2)
        for (unsigned k = 0; k < 8; k++)
            if (!(k & step))
                nibbles_swap(&x[k], &x[k + step], step);
    for (unsigned k = 0; k < 8; k++)
        *awq_at(cell, i, k, u) = x[k];
}

KERNEL gpu_pack4_awq(const uint8_t *__restrict__ src, uint64_t src_pitch, uint8_t *__restrict__ dst, uint64_t dst_pitch,
                     uint32_t quads, const uint8_t *__restrict__ zeros, uint64_t zeros_pitch, uint32_t first,
                     uint32_t group, uint32_t zero_add, uint32_t clamp, struct counters *counters)
{
    __shared__ struct awq_cell cell;
    struct zeros z = { zeros, zeros_pitch, group, first / group, (int)zero_add, zeros && clamp };
    uint32_t across = (quads / 2 + AWQ_UNITS - 1) / AWQ_UNITS, r = blockIdx.x / across;
    uint32_t unit = blockIdx.x % across * AWQ_UNITS, lane = threadIdx.x % WARP, h = threadIdx.x % 2;
    uint32_t q = threadIdx.x / 2, at = unit * 2 + q, w[QUAD][QUAD]; /* the quad in the block; in the job */
    lane_counters mine = {};

    for (unsigned i = threadIdx.x / WARP; i < 8 && unit + lane < quads / 2; i += AWQ_THREADS / WARP)
        awq_turn(&cell, src + (uint64_t)r * PACK4_IN * src_pitch + (unit + lane) * (uint64_t)4, src_pitch, i, lane);
    __syncthreads();
    if (at < quads) {
#pragma unroll
        for (unsigned i = 0; i < QUAD; i++)
            for (unsigned o = 0; o < QUAD; o++)
                w[i][o] = *awq_at(&cell, h * QUAD + i, awq_place(q % 2 * QUAD + o), q / 2);
        fold_quads(w, &z, first + r * PACK4_IN + h * 32, at / 2, q % 2 * QUAD, true, &mine);
        store_quads(dst + at * dst_pitch + r * (uint64_t)PACK4_CELL + h * 16, w);
    }
    if (z.clamp)
        count_clamps(counters, &mine);
}

/* ---- eight inputs of an output in a word, words [out, in/8] ---- */

DEVICE uint32_t gather_word(const uint8_t *row, const uint32_t *order)
{
    uint32_t w = 0;

    for (unsigned b = 0; b < PACK4_WORD; b++) {
        uint32_t k = order[b];

        w |= (load<uint32_t>(row + k / PACK4_WORD * 4) >> k % PACK4_WORD * 4 & 15) << 4 * b;
    }
    return w;
}

/* A warp: four cells of four outputs, which are 128 bytes of each row and 512 of the result.  cells: of an output. */
KERNEL gpu_pack4_out(const uint8_t *__restrict__ src, uint64_t src_pitch, uint8_t *__restrict__ dst, uint32_t cells,
                     const uint8_t *__restrict__ zeros, uint64_t zeros_pitch, const uint32_t *__restrict__ order,
                     uint32_t group, uint32_t zero_add, uint32_t clamp, struct counters *counters)
{
    struct zeros z = { zeros, zeros_pitch, group, 0, (int)zero_add, zeros && clamp };
    uint32_t step = 4 * blockDim.y, across = (cells + step - 1) / step, q = blockIdx.x / across;
    uint32_t r = blockIdx.x % across * step + threadIdx.y * 4 + threadIdx.x / 2 % 4, h = threadIdx.x % 2;
    uint32_t n = threadIdx.x / 8, i = (2 * r + h) * QUAD, w[QUAD];
    lane_counters mine = {};

    if (r < cells) {
        const uint8_t *row = src + (q * PACK4_OUT + n) * src_pitch;

        if (order)
            for (unsigned k = 0; k < QUAD; k++)
                w[k] = gather_word(row, order + (i + k) * PACK4_WORD);
        else
            load_quad(w, row + i * (uint64_t)4);
#pragma unroll
        for (unsigned k = 0; k < QUAD; k++) {
            if (!z.at)
                break;
            uint32_t g = (i + k) * PACK4_WORD / group;
            uint32_t word = load<uint32_t>(z.at + q / 2 * zeros_pitch + g * (uint64_t)4);

            w[k] = word_move(w[k], moves(&z, word, q % 2 * QUAD + n, false), z.clamp, &mine);
        }
        store_half(dst + ((uint64_t)q * cells + r) * PACK4_CELL + n * 32 + h * 16, w[0], w[1], w[2], w[3]);
    }
    if (z.clamp)
        count_clamps(counters, &mine);
}

/* ---- what is added back where zero points cannot be folded ---- */

/* Of eight outputs, by their scales in fp16 and their word of zero points. */
DEVICE void corrections(uint8_t *dst, const uint16_t scale[8], uint32_t zeros, uint32_t zero_add, bool awq,
                        lane_counters *c)
{
    uint16_t h[8];

    for (unsigned n = 0; n < 8; n++)
        h[n] = scale_times(scale[n], PACK4_ZERO - (int)(zeros >> 4 * (awq ? awq_place(n) : n) & 15) - (int)zero_add, c);
    store16(dst, make_uint4(pair(h[0], h[1]), pair(h[2], h[3]), pair(h[4], h[5]), pair(h[6], h[7])));
}

/* Eight scales that stand side by side. */
template <typename F> DEVICE void scales8(uint16_t scale[8], const uint8_t *src)
{
    enum { BYTES = sizeof(typename F::bits), V = 16 / BYTES };
    lane_counters lost = {}; /* counted where scales are cast for themselves */

    for (unsigned i = 0; i < 8; i += V) {
        uint32_t x[4];

        load_quad(x, src + i * BYTES);
        for (unsigned k = 0; k < V; k++)
            scale[i + k] = F::half((typename F::bits)(x[k * BYTES / 4] >> k * BYTES % 4 * 8), &lost);
    }
}

/* A thread: unit u of group g. */
template <typename F>
DEVICE void zeros_by_group(const uint8_t *src, uint64_t src_pitch, uint8_t *dst, uint32_t units, const uint8_t *zeros,
                           uint64_t zeros_pitch, uint32_t zero_add, bool awq, struct counters *counters)
{
    uint32_t across = (units + blockDim.x - 1) / blockDim.x, g = blockIdx.x / across;
    uint32_t u = blockIdx.x % across * blockDim.x + threadIdx.x;
    lane_counters mine = {};
    uint16_t scale[8];

    if (u < units) {
        scales8<F>(scale, src + g * src_pitch + u * (uint64_t)(8 * sizeof(typename F::bits)));
        corrections(dst + ((uint64_t)g * units + u) * 16, scale,
                    load<uint32_t>(zeros + g * zeros_pitch + u * (uint64_t)4), zero_add, awq, &mine);
    }
    count_casts(counters, &mine);
}

/* A warp: 16 groups of two units, so that loads are of 32 bytes at least and so are stores. */
template <typename F>
DEVICE void zeros_by_output(const uint8_t *src, uint64_t src_pitch, uint8_t *dst, uint64_t dst_pitch, uint32_t units,
                            uint32_t groups, const uint8_t *zeros, uint64_t zeros_pitch, uint32_t zero_add,
                            struct counters *counters)
{
    uint32_t step = 16 * blockDim.y, across = (groups + step - 1) / step, u = blockIdx.x / across * 2 + threadIdx.x % 2;
    uint32_t g = blockIdx.x % across * step + threadIdx.y * 16 + threadIdx.x / 2;
    lane_counters mine = {}, lost = {};
    uint16_t scale[8];

    if (u < units && g < groups) {
        for (unsigned n = 0; n < 8; n++)
            scale[n] =
                half_at<F>(src + (u * (uint64_t)8 + n) * src_pitch + g * (uint64_t)sizeof(typename F::bits), &lost);
        corrections(dst + g * dst_pitch + u * (uint64_t)16, scale,
                    load<uint32_t>(zeros + u * zeros_pitch + g * (uint64_t)4), zero_add, false, &mine);
    }
    count_casts(counters, &mine);
}

#define ZEROS(from)                                                                                                    \
    KERNEL gpu_zeros_group_##from(const uint8_t *__restrict__ src, uint64_t src_pitch, uint8_t *__restrict__ dst,      \
                                  uint32_t units, const uint8_t *__restrict__ zeros, uint64_t zeros_pitch,             \
                                  uint32_t zero_add, uint32_t awq, struct counters *counters)                          \
    {                                                                                                                  \
        zeros_by_group<from_##from>(src, src_pitch, dst, units, zeros, zeros_pitch, zero_add, awq, counters);          \
    }                                                                                                                  \
    KERNEL gpu_zeros_out_##from(const uint8_t *__restrict__ src, uint64_t src_pitch, uint8_t *__restrict__ dst,        \
                                uint64_t dst_pitch, uint32_t units, uint32_t groups,                                   \
                                const uint8_t *__restrict__ zeros, uint64_t zeros_pitch, uint32_t zero_add,            \
                                struct counters *counters)                                                             \
    {                                                                                                                  \
        zeros_by_output<from_##from>(src, src_pitch, dst, dst_pitch, units, groups, zeros, zeros_pitch, zero_add,      \
                                     counters);                                                                        \
    }

ZEROS(f16)
ZEROS(bf16)
ZEROS(f32)

/* ---- the order of groups ---- */

/* A warp: one group.  Its inputs begin behind those of all groups before it and stay in order; whatever g_idx holds, a
 * permutation comes out. */
KERNEL gpu_group_order(const uint8_t *__restrict__ g_idx, uint32_t in, uint32_t groups, uint8_t *__restrict__ dst,
                       uint32_t bytes)
{
    uint32_t mine = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x, at = 0;

    if (mine >= groups)
        return;
    for (uint32_t k = lane; k < in; k += WARP)
        at += min(load<uint32_t>(g_idx + k * (uint64_t)4), groups - 1) < mine;
    at = warp_sum(at);
    for (uint32_t first = 0; first < in; first += WARP) {
        uint32_t k = first + lane;
        bool hit = k < in && min(load<uint32_t>(g_idx + k * (uint64_t)4), groups - 1) == mine;
        uint32_t hits = __ballot_sync(~0u, hit);
        uint8_t *to = dst + (at + __popc(hits & ((1u << lane) - 1))) * (uint64_t)bytes;

        if (hit)
            store(to, k);
        if (hit && bytes == 8)
            store(to + 4, (uint32_t)0);
        at += __popc(hits);
    }
}
