/* Arithmetic of float16 and bfloat16, alone and in pairs: exact in float64, rounded once. */
#include "formats.h"

#define MAX_NUMBERS (2 * LANES)

enum format { HALF, BFLOAT };

static inline double value_of(uint16_t bits, enum format format, uint32_t flags) {
    double x = format == HALF ? half_value(bits) : bf16_value(bits);
    return flags & FLUSH && format == HALF && fabs(x) < 0x1p-14 ? copysign(0, x) : x;
}

static inline uint16_t result_bits(double x, enum format format, uint32_t flags) {
    if (format == BFLOAT) return bf16_bits(x, TO_NEAREST, flags);
    if (flags & SATURATE && isnan(x)) return 0;
    uint16_t bits = half_bits(x, TO_NEAREST, flags);
    return flags & FLUSH && !(bits & 0x7c00) ? bits & 0x8000 : bits;
}

static inline double lesser(double x, double y, uint32_t flags) {
    if (isnan(x) || isnan(y)) return flags & PROPAGATE_NAN ? NAN : isnan(x) ? y : x;
    return x < y || (x == y && signbit(x)) ? x : y;
}

static inline double greater(double x, double y, uint32_t flags) {
    if (isnan(x) || isnan(y)) return flags & PROPAGATE_NAN ? NAN : isnan(x) ? y : x;
    return x > y || (x == y && !signbit(x)) ? x : y;
}

static inline double with_xor_sign(double magnitude, double x, double y) {
    return copysign(magnitude, (signbit(x) != 0) != (signbit(y) != 0) ? -1 : 1);
}

static inline double chosen(double x, double y, uint32_t flags, int least) {
    double p = flags & SIGN_FROM_XOR ? fabs(x) : x, q = flags & SIGN_FROM_XOR ? fabs(y) : y;
    double result = least ? lesser(p, q, flags) : greater(p, q, flags);
    return flags & SIGN_FROM_XOR && !isnan(result) ? with_xor_sign(result, x, y) : result;
}

#define ARITHMETIC(name, format, numbers, put, expression)                                  \
    static void name(struct machine *m, const struct instruction *i, uint32_t mask) {       \
        const uint16_t *a = source(m, i, 0), *b = source(m, i, 1), *c = source(m, i, 2);    \
        uint16_t result[MAX_NUMBERS];                                                       \
        for (int l = 0; l < numbers; l++) {                                                 \
            double x = value_of(a[l], format, i->flags), y = value_of(b[l], format, i->flags); \
            double z = value_of(c[l], format, i->flags);                                    \
            (void)z;                                                                        \
            result[l] = result_bits(expression, format, i->flags);                          \
        }                                                                                   \
        put(destination(m, i, 0), (const void *)result, mask);                              \
    }
#define FORMATS(name, expression)                                    \
    ARITHMETIC(name##_f16, HALF, LANES, put16, expression)           \
    ARITHMETIC(name##_f16x2, HALF, 2 * LANES, put32, expression)     \
    ARITHMETIC(name##_bf16, BFLOAT, LANES, put16, expression)        \
    ARITHMETIC(name##_bf16x2, BFLOAT, 2 * LANES, put32, expression)

FORMATS(add, x + y)
FORMATS(sub, x - y)
FORMATS(mul, x *y)
FORMATS(fma, sum_to_odd(x *y, z))
FORMATS(min, chosen(x, y, i->flags, 1))
FORMATS(max, chosen(x, y, i->flags, 0))

#define SIGNS(name, type, put, ones, signs)                                                   \
    LANEWISE(abs_##name, type, type, put, a[l] & (ones ^ signs))                              \
    LANEWISE(neg_##name, type, type, put, a[l] ^ signs)
SIGNS(b16, uint16_t, put16, 0xffffu, 0x8000u)
SIGNS(b16x2, uint32_t, put32, 0xffffffffu, 0x80008000u)

#define ROWS(name)                                                                       \
    {#name ".f16", name##_f16}, {#name ".f16x2", name##_f16x2, PLAIN, HALVES},                          \
    {#name ".bf16", name##_bf16}, {#name ".bf16x2", name##_bf16x2, PLAIN, HALVES}

const struct operation half_operations[] = {
    ROWS(add), ROWS(sub), ROWS(mul), ROWS(fma), ROWS(min), ROWS(max),
    {"abs.half", abs_b16},
    {"abs.halfx2", abs_b16x2, PLAIN, HALVES},
    {"neg.half", neg_b16},
    {"neg.halfx2", neg_b16x2, PLAIN, HALVES},
    {0},
};
