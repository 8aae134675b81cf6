/* planes.h - 16-bit numbers as two planes: all even bytes, then all odd ones.
 * Of floats the odd bytes (sign, exponent, first bits) repeat themselves; the even ones, apart from them, have a
 * distribution of their own. An odd byte at the end stays where it is. */
#ifndef ARCHIVE_PLANES_H
#define ARCHIVE_PLANES_H
#include <stddef.h>

void planes_split(const unsigned char *restrict in, size_t n, unsigned char *restrict out);
void planes_join(const unsigned char *restrict in, size_t n, unsigned char *restrict out);

#endif
