/* Arithmetic of float32, float64 and pairs of float32, with every rounding.
 *
 * Results that are not a number are the one NaN that PTX prescribes for float32.
 */
#include <fenv.h>

#include "formats.h"

#define MAX_NUMBERS (2 * LANES)

static const int FENV_ROUNDING[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};

static const float *flushed_all(const float *x, float *place, int numbers, uint32_t flags) {
    if (!(flags & FLUSH)) return x;
    for (int l = 0; l < numbers; l++) place[l] = flushed(x[l]);
    return place;
}

static void finish(
    struct machine *m, const struct instruction *i, uint32_t mask, const float *x, int numbers
) {
    uint32_t result[MAX_NUMBERS];
    for (int l = 0; l < numbers; l++) {
        float y = x[l];
        if (i->flags & FLUSH) y = flushed(y);
        if (i->flags & SATURATE) y = y > 0 ? (y < 1 ? y : 1) : 0;
        result[l] = y == y ? bits_of(y) : NAN32;
    }
    if (numbers == LANES) {
        put32(destination(m, i, 0), result, mask);
    } else {
        put64(destination(m, i, 0), (const void *)result, mask);
    }
}

/* The loop is a function of its own: called between two changes of the rounding mode, it cannot be
 * moved across them. */
#define LOOP(name, type, expression)                                                        \
    static __attribute__((noinline)) void name##_loop(                                      \
        const type *a, const type *b, const type *c, type *result, int numbers              \
    ) {                                                                                     \
        (void)b, (void)c;                                                                   \
        for (int l = 0; l < numbers; l++) result[l] = (expression);                         \
    }

#define SINGLE(name, numbers, expression)                                                   \
    LOOP(name, float, expression)                                                           \
    static void name(struct machine *m, const struct instruction *i, uint32_t mask) {       \
        float places[3][MAX_NUMBERS], result[MAX_NUMBERS];                                  \
        const float *a = flushed_all(source(m, i, 0), places[0], numbers, i->flags);        \
        const float *b = flushed_all(source(m, i, 1), places[1], numbers, i->flags);        \
        const float *c = flushed_all(source(m, i, 2), places[2], numbers, i->flags);        \
        if (i->rounding) fesetround(FENV_ROUNDING[i->rounding]);                            \
        name##_loop(a, b, c, result, numbers);                                              \
        if (i->rounding) fesetround(FE_TONEAREST);                                          \
        finish(m, i, mask, result, numbers);                                                \
    }

#define DOUBLE(name, expression)                                                            \
    LOOP(name, double, expression)                                                          \
    static void name(struct machine *m, const struct instruction *i, uint32_t mask) {       \
        double result[LANES];                                                               \
        if (i->rounding) fesetround(FENV_ROUNDING[i->rounding]);                            \
        name##_loop(source(m, i, 0), source(m, i, 1), source(m, i, 2), result, LANES);      \
        if (i->rounding) fesetround(FE_TONEAREST);                                          \
        put64(destination(m, i, 0), (const void *)result, mask);                            \
    }

#define BOTH(name, expression)              \
    SINGLE(name##_f32, LANES, expression)   \
    DOUBLE(name##_f64, expression)
#define ALL(name, expression)               \
    BOTH(name, expression)                  \
    SINGLE(name##_f32x2, 2 * LANES, expression)

ALL(add, a[l] + b[l])
ALL(sub, a[l] - b[l])
ALL(mul, a[l] * b[l])
SINGLE(fma_f32, LANES, __builtin_fmaf(a[l], b[l], c[l]))
SINGLE(fma_f32x2, 2 * LANES, __builtin_fmaf(a[l], b[l], c[l]))
DOUBLE(fma_f64, __builtin_fma(a[l], b[l], c[l]))
BOTH(div, a[l] / b[l])
BOTH(rcp, 1 / a[l])
SINGLE(sqrt_f32, LANES, __builtin_sqrtf(a[l]))
DOUBLE(sqrt_f64, __builtin_sqrt(a[l]))

/* The first operands are 16 bits wide, and exact in float32; the last and the result are float32. */
#define MIXED(name, format, c_from, expression)                                             \
    LOOP(name##_##format, float, expression)                                                \
    static void name##_##format(struct machine *m, const struct instruction *i, uint32_t mask) { \
        float a[LANES], b[LANES], result[LANES];                                            \
        const uint16_t *first = source(m, i, 0), *second = source(m, i, 1);                 \
        FOR_LANES a[l] = format##_value(first[l]), b[l] = format##_value(second[l]);        \
        if (i->rounding) fesetround(FENV_ROUNDING[i->rounding]);                            \
        name##_##format##_loop(a, b, source(m, i, c_from), result, LANES);                  \
        if (i->rounding) fesetround(FE_TONEAREST);                                          \
        finish(m, i, mask, result, LANES);                                                  \
    }
#define MIXED_BOTH(name, c_from, expression)     \
    MIXED(name, half, c_from, expression)        \
    MIXED(name, bf16, c_from, expression)

MIXED_BOTH(add_mixed, 1, a[l] + c[l])
MIXED_BOTH(sub_mixed, 1, a[l] - c[l])
MIXED_BOTH(fma_mixed, 2, __builtin_fmaf(a[l], b[l], c[l]))

/* -0 is less than +0; a NaN loses against a number unless it is to be kept. */
#define CHOICE(name, type, less)                                                            \
    static inline type name(type x, type y, uint32_t flags) {                               \
        if (x != x || y != y) return flags & PROPAGATE_NAN ? NAN : x != x ? y : x;          \
        if (x == y) return (signbit(x) != 0) == less ? x : y;                               \
        return (x < y) == less ? x : y;                                                     \
    }
CHOICE(lesser_f32, float, 1)
CHOICE(greater_f32, float, 0)
CHOICE(lesser_f64, double, 1)
CHOICE(greater_f64, double, 0)

#define EXTREME_SINGLE(name, choice)                                                        \
    static void name(struct machine *m, const struct instruction *i, uint32_t mask) {       \
        float places[3][MAX_NUMBERS], result[LANES];                                        \
        const float *a = flushed_all(source(m, i, 0), places[0], LANES, i->flags);          \
        const float *b = flushed_all(source(m, i, 1), places[1], LANES, i->flags);          \
        const float *c = flushed_all(source(m, i, 2), places[2], LANES, i->flags);          \
        if (i->flags & SIGN_FROM_XOR) {                                                     \
            FOR_LANES {                                                                     \
                uint32_t sign = (bits_of(a[l]) ^ bits_of(b[l])) & 0x80000000u;              \
                float x = choice(fabsf(a[l]), fabsf(b[l]), i->flags);                       \
                result[l] = float_of((bits_of(x) & 0x7fffffffu) | sign);                    \
            }                                                                               \
        } else {                                                                            \
            FOR_LANES result[l] = choice(a[l], b[l], i->flags);                             \
        }                                                                                   \
        if (i->num_sources == 3) FOR_LANES result[l] = choice(result[l], c[l], i->flags);   \
        finish(m, i, mask, result, LANES);                                                  \
    }
EXTREME_SINGLE(min_f32, lesser_f32)
EXTREME_SINGLE(max_f32, greater_f32)
LANEWISE(min_f64, double, double, put64, lesser_f64(a[l], b[l], i->flags))
LANEWISE(max_f64, double, double, put64, greater_f64(a[l], b[l], i->flags))

static uint32_t maybe_flushed(uint32_t bits, uint32_t flags) {
    return flags & FLUSH ? bits_of(flushed(float_of(bits))) : bits;
}
LANEWISE(abs_f32, uint32_t, uint32_t, put32, maybe_flushed(a[l] & 0x7fffffffu, i->flags))
LANEWISE(neg_f32, uint32_t, uint32_t, put32, maybe_flushed(a[l] ^ 0x80000000u, i->flags))
LANEWISE(abs_f64, uint64_t, uint64_t, put64, a[l] & ~(1ull << 63))
LANEWISE(neg_f64, uint64_t, uint64_t, put64, a[l] ^ 1ull << 63)
LANEWISE(copysign_f32, uint32_t, uint32_t, put32, (a[l] & 0x80000000u) | (b[l] & 0x7fffffffu))
LANEWISE(copysign_f64, uint64_t, uint64_t, put64, (a[l] & 1ull << 63) | (b[l] & ~(1ull << 63)))

#define BOTH_ROWS(name) {#name ".f32", name##_f32}, {#name ".f64", name##_f64}
#define ALL_ROWS(name) BOTH_ROWS(name), {#name ".f32x2", name##_f32x2, PLAIN, HALVES}

#define MIXED_ROWS(name) \
    {#name ".f32.f16", name##_mixed_half}, {#name ".f32.bf16", name##_mixed_bf16}

const struct operation real_operations[] = {
    ALL_ROWS(add), ALL_ROWS(sub), ALL_ROWS(mul), ALL_ROWS(fma),
    BOTH_ROWS(div), BOTH_ROWS(rcp), BOTH_ROWS(sqrt), BOTH_ROWS(min), BOTH_ROWS(max),
    BOTH_ROWS(abs), BOTH_ROWS(neg), BOTH_ROWS(copysign),
    MIXED_ROWS(add), MIXED_ROWS(sub), MIXED_ROWS(fma),
    {0},
};
