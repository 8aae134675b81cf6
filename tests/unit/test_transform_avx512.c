/* The AVX-512 variants, on any x86-64 that has AVX2, by emulated intrinsics: all that test_transform asks of every
 * variant. */
#if defined(__x86_64__)
#include "avx512_emulated.h"
#include "transform/rows.h"
#undef AVX512
#define AVX512 __attribute__((target("avx2,f16c")))
#include "transform/cast.c"
#include "transform/transpose.c"
#include "transform/transform.c"
#include "test_transform.c"
#else
int main(void) { return 77; }
#endif
