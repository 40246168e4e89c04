/* Number formats: bits to values and back, with every rounding and the NaN that PTX prescribes. */
#ifndef FORMATS_H
#define FORMATS_H

#include <math.h>

#include "machine.h"

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, 8);
    return x;
}

static inline uint64_t double_bits_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    return bits;
}

#define NAN32 0x7fffffffu
#define NAN16 0x7fffu

static inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }

static inline float half_value(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    /* the exponent of a subnormal comes right by the multiplication too */
    float magnitude = float_of(rest << 13) * 0x1p112f;
    return float_of(sign | bits_of(magnitude));
}

static inline float bf16_value(uint16_t h) { return float_of((uint32_t)h << 16); }

/* A finite number on the grid of `precision` bits whose smallest normal exponent is given. */
static inline double on_grid(double x, int precision, int smallest, int rounding) {
    int exponent = (int)(double_bits_of(x) >> 52 & 0x7ff) - 1023;
    if (exponent < smallest) exponent = smallest;
    double step = double_of((uint64_t)(exponent - precision + 1 + 1023) << 52);
    double scaled = x / step;
    switch (rounding) {
    case TO_ZERO: scaled = trunc(scaled); break;
    case DOWN: scaled = floor(scaled); break;
    case UP: scaled = ceil(scaled); break;
    case AWAY: scaled = round(scaled); break;
    default: scaled = rint(scaled);
    }
    return copysign(scaled * step, x);
}

/* Beyond the largest number: infinity, or that number where the rounding turns back. */
static inline double bounded(double x, double largest, int rounding, uint32_t flags) {
    if (fabs(x) <= largest) return x;
    int stays = rounding == TO_ZERO || (rounding == DOWN && x > 0) || (rounding == UP && x < 0);
    return copysign(stays || flags & FINITE ? largest : INFINITY, x);
}

static inline double relu_of(double x, uint32_t flags) {
    return flags & RELU && (x < 0 || x == 0) ? 0 : x;
}

static inline uint16_t half_bits(double x, int rounding, uint32_t flags) {
    if (isnan(x)) return NAN16;
    x = relu_of(x, flags);
    if (isfinite(x)) x = on_grid(x, 11, -14, rounding);
    x = isfinite(x) ? bounded(x, 65504, rounding, flags) : bounded(x, INFINITY, 0, 0);
    if (isinf(x) && flags & FINITE) x = copysign(65504, x);
    if (flags & SATURATE) x = x > 0 ? (x < 1 ? x : 1) : 0;
    uint32_t bits = bits_of((float)x), sign = bits >> 16 & 0x8000;
    if (isinf(x)) return sign | 0x7c00;
    if (fabs(x) >= 0x1p-14) return sign | ((bits & 0x7fffffff) - (112u << 23)) >> 13;
    return sign | (uint32_t)(fabs(x) * 0x1p24);
}

static inline uint16_t bf16_bits(double x, int rounding, uint32_t flags) {
    if (isnan(x)) return NAN16;
    x = relu_of(x, flags);
    if (isfinite(x)) x = bounded(on_grid(x, 8, -126, rounding), 0x1.fep127, rounding, flags);
    if (isinf(x) && flags & FINITE) x = copysign(0x1.fep127, x);
    if (flags & SATURATE) x = x > 0 ? (x < 1 ? x : 1) : 0;
    return bits_of((float)x) >> 16;
}

static inline uint32_t single_bits(double x, int rounding) {
    if (isnan(x)) return NAN32;
    if (isfinite(x)) x = bounded(on_grid(x, 24, -126, rounding), 0x1.fffffep127, rounding, 0);
    return bits_of((float)x);
}

static inline uint16_t bf16_nearest(float x) {
    uint32_t bits = bits_of(x);
    return x != x ? NAN16 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* A sum of two doubles whose last bit also says whether something was lost, so that rounding it
 * once more to a shorter format is right. */
static inline double sum_to_odd(double a, double b) {
    double sum = a + b;
    if (!isfinite(sum)) return sum;
    double shadow = sum - a, lost = (a - (sum - shadow)) + (b - shadow);
    uint64_t bits = double_bits_of(sum);
    if (lost == 0 || bits & 1) return sum;
    return double_of((lost > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

#endif
