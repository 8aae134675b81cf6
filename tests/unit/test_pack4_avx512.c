/* The AVX-512 variants of 4-bit packing by emulated intrinsics: all that test_pack4 asks of every variant. */
#if defined(__x86_64__)
#include "avx512_emulated.h"
#include "transform/rows.h"
#undef AVX512
#define AVX512 __attribute__((target("avx2,f16c")))
#include "transform/pack4.c"
#include "transform/transform.c"
#include "test_pack4.c"
#else
int main(void) { return 77; }
#endif
