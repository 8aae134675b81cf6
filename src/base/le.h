/* le.h - numbers as files have them: least significant byte first, at any address. */
#ifndef BASE_LE_H
#define BASE_LE_H
#include <stdint.h>

static inline uint64_t le_get(const unsigned char *p, unsigned bytes)
{
    uint64_t v = 0;

    while (bytes--)
        v = v << 8 | p[bytes];
    return v;
}

static inline void le_put(unsigned char *p, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++, v >>= 8)
        p[i] = (unsigned char)v;
}

#endif
