/* pack4_lane.h - a few words of 4-bit weights become words of the runtime's layout.
 *
 * Int4GroupwiseGemmPlugin of TensorRT Edge-LLM 0.5.0 reads int8 [out/2, in]: for every 4 outputs and every 64
 * inputs 128 bytes, output after output; within the 32 bytes of an output each 32 inputs stand by themselves.
 * Let w0..w3 be their four words of eight inputs, low nibble first.  Word j of the result takes byte j of each of
 * w0..w3, first the four low nibbles, then the four high ones. */
#ifndef TRANSFORM_PACK4_LANE_H
#define TRANSFORM_PACK4_LANE_H
#include <stdint.h>
#include "transform/cast_lane.h"
#include "transform/widen_lane.h"

enum {
    PACK4_IN = 64,    /* inputs that are laid out together */
    PACK4_OUT = 4,    /* outputs that are */
    PACK4_CELL = 128, /* bytes of them, before and after */
    PACK4_WORD = 8,   /* weights in a word */
    PACK4_ZERO = 8,   /* what the runtime subtracts */
    PACK4_ONES = 0x11111111,
};

/* Every second nibble of a word, in 16 bits. */
LANE uint32_t nibbles_even(uint32_t x)
{
    x &= 0x0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ffu;
    return (x | x >> 8) & 0xffffu;
}

LANE uint32_t pack4_turn(uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3, unsigned j)
{
    uint32_t x = (w0 >> 8 * j & 0xff) | (w1 >> 8 * j & 0xff) << 8 | (w2 >> 8 * j & 0xff) << 16 | w3 >> 8 * j << 24;

    return nibbles_even(x) | nibbles_even(x >> 4) << 16;
}

/* A nibble of a word moved by d, within 0..15. */
LANE uint32_t nibble_clamp(uint32_t word, unsigned i, int d, lane_counters *c)
{
    int v = (int)(word >> 4 * i & 15) + d, kept = v < 0 ? 0 : v > 15 ? 15 : v;
    uint32_t lost = (uint32_t)(v < kept ? kept - v : v - kept);

    c->clamped += lost != 0;
    c->clamped_most = lost > c->clamped_most ? lost : c->clamped_most;
    return (uint32_t)kept << 4 * i;
}

/* The eight inputs of a word moved by d.  Where nothing leaves 0..15, adding to all of them at once carries nothing
 * from one to the next. */
LANE uint32_t word_move(uint32_t word, int d, bool clamp, lane_counters *c)
{
    uint32_t moved = 0;

    if (!clamp)
        return word + (uint32_t)d * PACK4_ONES;
    for (unsigned i = 0; i < PACK4_WORD; i++)
        moved |= nibble_clamp(word, i, d, c);
    return moved;
}

/* Which output's weight stands at nibble i of an AWQ word. */
LANE unsigned awq_output(unsigned i) { return i < 4 ? 2 * i : 2 * (i - 4) + 1; }
/* And where output n's stands. */
LANE unsigned awq_place(unsigned n) { return (n & 1) * 4 + n / 2; }

/* Rows a and b of eight by eight nibbles that are `step` apart, in one round of turning them: rows become columns. */
LANE void nibbles_swap(uint32_t *a, uint32_t *b, unsigned step)
{
    uint32_t mask = step == 4 ? 0x0000ffff : step == 2 ? 0x00ff00ff : 0x0f0f0f0f;
    uint32_t swap = (*a >> 4 * step ^ *b) & mask;

    *a ^= swap << 4 * step;
    *b ^= swap;
}

/* d times a scale, in fp16: exact in fp32, and rounded once.  What is not a number is made here, as devices differ in
 * the NaNs that they make. */
LANE uint16_t scale_times(uint16_t scale, int d, lane_counters *c)
{
    uint32_t abs = scale & 0x7fff;

    if (abs > F16_INFINITY || (abs == F16_INFINITY && !d)) {
        c->nan++;
        return (uint16_t)(abs > F16_INFINITY ? scale | 0x200 : 0xfe00);
    }
    return f32_to_f16(bits_of_f32(f16_to_f32(scale) * (float)d), c);
}

#endif
