/* hash.h - XXH3 with vectors as wide as the processor has, where xxHash was built with a choice of them. */
#ifndef BASE_HASH_H
#define BASE_HASH_H
#include <xxhash.h>
#ifdef WEIGHBRIDGE_HASH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

#endif
