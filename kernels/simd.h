/* What the C code of the CPU paths shares: vectors of REAL (float or double) as wide as the registers
   that the compiler may use; with BFLOAT16, REAL is float and what is STORED has its upper half. GCC and
   clang. */

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

#ifdef BFLOAT16

typedef uint16_t STORED;
typedef uint32_t Words __attribute__((vector_size(BYTES)));
typedef Words UnalignedWords __attribute__((aligned(2), may_alias));
typedef uint16_t Halves __attribute__((vector_size(BYTES / 2)));
typedef Halves UnalignedHalves __attribute__((aligned(2), may_alias));

ALWAYS_INLINE float widened(STORED number) {
    const union { uint32_t bits; float real; } x = {.bits = (uint32_t)number << 16};
    return x.real;
}

/* As `widened`, a vector's worth. */
ALWAYS_INLINE Vector widened_lanes(const STORED *numbers) {
    return (Vector)(__builtin_convertvector(*(const UnalignedHalves *)numbers, Words) << 16);
}

/* To the nearest, ties to even; NaN stays NaN. */
ALWAYS_INLINE STORED narrowed(float number) {
    const union { float real; uint32_t bits; } x = {.real = number};
    return number != number ? 0x7fc0u : (x.bits + 0x7fffu + (x.bits >> 16 & 1)) >> 16;
}

/* As `narrowed`, in the upper halves. */
ALWAYS_INLINE Words rounded(Vector numbers) {
    const Words bits = (Words)numbers, is_nan = (Words)(numbers != numbers);
    return (is_nan & 0x7fc00000u) | (~is_nan & (bits + 0x7fffu + (bits >> 16 & 1)));
}

#else

typedef REAL STORED;

ALWAYS_INLINE REAL widened(STORED number) { return number; }
ALWAYS_INLINE STORED narrowed(REAL number) { return number; }

#endif

#endif
