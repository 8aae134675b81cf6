#include "archive/planes.h"

void planes_split(const unsigned char *restrict in, size_t n, unsigned char *restrict out)
{
    size_t half = n / 2;

    for (size_t i = 0; i < half; i++) {
        out[i] = in[2 * i];
        out[half + i] = in[2 * i + 1];
    }
    if (n % 2)
        out[n - 1] = in[n - 1];
}

void planes_join(const unsigned char *restrict in, size_t n, unsigned char *restrict out)
{
    size_t half = n / 2;

    for (size_t i = 0; i < half; i++) {
        out[2 * i] = in[i];
        out[2 * i + 1] = in[half + i];
    }
    if (n % 2)
        out[n - 1] = in[n - 1];
}
