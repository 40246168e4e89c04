/* Approximate instructions: nearly exact, or wrong by as much as the PTX ISA lets them be.
 *
 * The bounds are those of "Floating Point Instructions" and "Half Precision Floating Point
 * Instructions" of the PTX ISA. In the worst case the result lies at the bound, on the side that a
 * hash of seed and operand chooses, so that equal operands give equal results, as on a GPU.
 */
#include "formats.h"

enum function { EX2 = 1, LG2, RCP, SQRT, RSQRT, SIN, COS, TANH, DIV_FULL, DIV_APPROX };

static int side_of(struct machine *m, uint64_t operand, int function) {
    uint64_t x = (operand ^ (uint64_t)function << 56 ^ m->seed) * 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull;
    return x >> 62 & 1 ? 1 : -1;
}

/* The number of a format farthest from y that an error allows, in whole units of the last place. */
static float moved_by_ulps(double y, int ulps) {
    uint32_t bits = bits_of((float)y), size = bits & 0x7fffffffu;
    if (!size || size >= 0x7f800000u) return (float)y;
    uint32_t moved = size + (uint32_t)ulps;
    if ((int32_t)moved <= 0 || moved >= 0x7f800000u) return (float)y;
    return float_of((bits & 0x80000000u) | moved);
}

static float moved_by(double y, double error) {
    return float_of(single_bits(y + error, error > 0 ? DOWN : UP));
}

static double exact(int function, float x) {
    switch (function) {
    case EX2: return exp2(x);
    case LG2: return log2(x);
    case RCP: return 1.0 / x;
    case SQRT: return sqrt(x);
    case RSQRT: return x == 0 ? copysign(INFINITY, x) : 1.0 / sqrt(x);
    case SIN: return sin(x);
    case COS: return cos(x);
    default: return tanh(x);
    }
}

/* Whether the ISA's tables of special values give the result. */
static int is_special(int function, float x, double y) {
    if (!isfinite(x) || !isfinite(y)) return 1;
    if (function == EX2) return fabsf(x) < 0x1p-126f;
    return x == 0;
}

static float approximated(struct machine *m, int function, float x) {
    double y = exact(function, x);
    if (!m->worst_approximation || is_special(function, x, y)) return (float)y;
    int side = side_of(m, bits_of(x), function);
    switch (function) {
    case EX2: return moved_by_ulps(y, 2 * side);
    case RCP: return moved_by_ulps(y, side);
    case LG2: return moved_by(y, side * (x > 0.5f && x < 2 ? 0x1p-22 : 0x1p-22 * fabs(y)));
    case SQRT: return moved_by(y, side * 0x1p-23 * fabs(y));
    case RSQRT: return moved_by(y, side * 1.277741e-7 * fabs(y)); /* 2^-22.9 */
    case TANH: return moved_by(y, side * 0x1p-11 * fabs(y));
    default: /* sine and cosine: 2^-20.5, and 2^-14.7 beyond two turns */
        return moved_by(y, side * (fabsf(x) <= 6.2831855f ? 6.743495e-7 : 3.757134e-5));
    }
}

/* f32, one source */
static void of_one(
    struct machine *m, const struct instruction *i, uint32_t mask
) {
    const float *a = source(m, i, 0);
    uint32_t result[LANES] = {0};
    FOR_ACTIVE(l, mask) {
        float x = i->flags & FLUSH ? flushed(a[l]) : a[l];
        float y = approximated(m, i->mode, x);
        if (i->flags & FLUSH) y = flushed(y);
        result[l] = y == y ? bits_of(y) : NAN32;
    }
    put32(destination(m, i, 0), result, mask);
}

static void quotient(struct machine *m, const struct instruction *i, uint32_t mask) {
    const float *a = source(m, i, 0), *b = source(m, i, 1);
    uint32_t result[LANES] = {0};
    FOR_ACTIVE(l, mask) {
        float x = i->flags & FLUSH ? flushed(a[l]) : a[l];
        float z = i->flags & FLUSH ? flushed(b[l]) : b[l];
        double exact_quotient = (double)x / z;
        float y = (float)exact_quotient;
        /* the approximate one multiplies with a reciprocal, which is subnormal here */
        if (i->mode == DIV_APPROX && fabsf(z) > 0x1p126f && !isinf(z)) {
            y = isfinite(x) ? copysignf(0, y) : NAN;
        } else if (m->worst_approximation && isfinite(y) && y != 0) {
            int side = side_of(m, (uint64_t)bits_of(x) << 32 | bits_of(z), i->mode);
            y = moved_by_ulps(exact_quotient, 2 * side);
        }
        if (i->flags & FLUSH) y = flushed(y);
        result[l] = y == y ? bits_of(y) : NAN32;
    }
    put32(destination(m, i, 0), result, mask);
}

/* Approximations in half precision; the flag SIGNED says bfloat16. */
static uint16_t approximated_half(struct machine *m, const struct instruction *i, uint16_t bits) {
    int is_bfloat = (i->flags & SIGNED) != 0, function = i->mode;
    float x = is_bfloat ? bf16_value(bits) : half_value(bits);
    if (i->flags & FLUSH && fabsf(x) < (is_bfloat ? 0x1p-126f : 0x1p-14f)) x = copysignf(0, x);
    double y = exact(function, x);
    int rounding = TO_NEAREST;
    if (m->worst_approximation && !is_special(function, x, y)) {
        double bound;
        if (function == EX2) {
            bound = fabs(y) * (is_bfloat ? 0x1p-7 : 1.0466e-3); /* 2^-9.9 */
        } else {
            bound = is_bfloat ? fabs(y) * 0x1p-8 : 4.9270e-4; /* 2^-10.987 */
        }
        int side = side_of(m, bits, function);
        y += side * bound;
        rounding = side > 0 ? DOWN : UP;
    }
    return is_bfloat ? bf16_bits(y, rounding, 0) : half_bits(y, rounding, 0);
}

static void of_half(struct machine *m, const struct instruction *i, uint32_t mask) {
    const uint16_t *a = source(m, i, 0);
    uint16_t result[LANES] = {0};
    FOR_ACTIVE(l, mask) result[l] = approximated_half(m, i, a[l]);
    put16(destination(m, i, 0), result, mask);
}

static void of_halves(struct machine *m, const struct instruction *i, uint32_t mask) {
    const uint32_t *a = source(m, i, 0);
    uint32_t result[LANES] = {0};
    FOR_ACTIVE(l, mask) {
        uint32_t high = approximated_half(m, i, a[l] >> 16);
        result[l] = high << 16 | approximated_half(m, i, (uint16_t)a[l]);
    }
    put32(destination(m, i, 0), result, mask);
}

const struct operation approximate_operations[] = {
    {"approximate.f32", of_one},
    {"approximate.half", of_half},
    {"approximate.halfx2", of_halves},
    {"quotient", quotient},
    {0},
};
