/* What the C code of the CPU paths shares: vectors of REAL (float or double) as wide as the registers
   that the compiler may use. GCC and clang. */

#ifndef SEQFORMER_SIMD_H
#define SEQFORMER_SIMD_H

#include <stdint.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES ((int64_t)(BYTES / sizeof(REAL)))

typedef REAL Vector __attribute__((vector_size(BYTES)));
typedef Vector Unaligned __attribute__((aligned(sizeof(REAL)), may_alias)); /* anywhere in an array */
typedef __typeof__((Vector){0} < (Vector){0}) Mask;

#endif
