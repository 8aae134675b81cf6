/* pack4_lane.h - a few words of 4-bit weights become words of the runtime's layout.
 *
 * Int4GroupwiseGemmPlugin of TensorRT Edge-LLM 0.5.0 reads int8 [out/2, in]: for every 4 outputs and every 64
 * inputs 128 bytes, output after output; within the 32 bytes of an output each 32 inputs stand by themselves.
 * Let w0..w3 be their four words of eight inputs, low nibble first.  Word j of the result takes byte j of each of
 * w0..w3, first the four low nibbles, then the four high ones. */
#ifndef TRANSFORM_PACK4_LANE_H
#define TRANSFORM_PACK4_LANE_H
#include <stdint.h>
#include "transform/lane.h"
#include "transform/transform.h"

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
LANE uint32_t nibble_clamp(uint32_t word, unsigned i, int d, struct counters *c)
{
    int v = (int)(word >> 4 * i & 15) + d, kept = v < 0 ? 0 : v > 15 ? 15 : v;
    uint32_t lost = (uint32_t)(v < kept ? kept - v : v - kept);

    c->clamped += lost != 0;
    c->clamped_most = lost > c->clamped_most ? lost : c->clamped_most;
    return (uint32_t)kept << 4 * i;
}

/* Which output's weight stands at nibble i of an AWQ word. */
LANE unsigned awq_output(unsigned i) { return i < 4 ? 2 * i : 2 * (i - 4) + 1; }
/* And where output n's stands. */
LANE unsigned awq_place(unsigned n) { return (n & 1) * 4 + n / 2; }

#endif
