/* Conversions between number formats. The mode holds the type of the source and, in the next byte,
 * of the destination. */
#include <fenv.h>

#include "formats.h"

enum type { U8, S8, U16, S16, U32, S32, U64, S64, F16, BF16, TF32, F32, F64 };

static const int FENV_ROUNDING[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};

static inline int source_type(const struct instruction *i) { return i->mode & 255; }
static inline int result_type(const struct instruction *i) { return i->mode >> 8; }
static inline int is_real(int type) { return type >= F16; }
static inline int is_signed(int type) { return !is_real(type) && type & 1; }
static inline int bits_in(int type) { return 8 << (type >> 1); } /* of an integer type */

static inline double real_value(uint64_t bits, int type, uint32_t flags) {
    switch (type) {
    case F16: return half_value((uint16_t)bits);
    case BF16: return bf16_value((uint16_t)bits);
    case F64: return double_of(bits);
    default: return flags & FLUSH ? flushed(float_of((uint32_t)bits)) : float_of((uint32_t)bits);
    }
}

static inline int64_t integer_value(uint64_t bits, int type) {
    switch (type) {
    case U8: return (uint8_t)bits;
    case S8: return (int8_t)bits;
    case U16: return (uint16_t)bits;
    case S16: return (int16_t)bits;
    case U32: return (uint32_t)bits;
    case S32: return (int32_t)bits;
    default: return (int64_t)bits;
    }
}

static inline double integral(double x, int rounding) {
    switch (rounding) {
    case TO_ZERO: return trunc(x);
    case DOWN: return floor(x);
    case UP: return ceil(x);
    default: return rint(x);
    }
}

static uint64_t real_bits(double x, int type, int rounding, uint32_t flags) {
    if (flags & SATURATE) x = x > 0 ? (x < 1 ? x : 1) : 0;
    switch (type) {
    case F16: return half_bits(x, rounding, flags);
    case BF16: return bf16_bits(x, rounding, flags);
    case F64: return double_bits_of(x);
    case TF32: {
        if (isnan(x)) return NAN32;
        x = relu_of(x, flags);
        if (isfinite(x)) x = bounded(on_grid(x, 11, -126, rounding), 0x1.ffcp127, rounding, flags);
        if (isinf(x) && flags & FINITE) x = copysign(0x1.ffcp127, x);
        return bits_of((float)x);
    }
    default: {
        uint32_t bits = single_bits(x, rounding);
        return flags & FLUSH ? bits_of(flushed(float_of(bits))) : bits;
    }
    }
}

/* Out of range: the nearest number there is. Not a number: 0, or the top bit alone where one of
 * the two types has 64 bits. */
static uint64_t integer_bits(double x, int from, int type) {
    int bits = bits_in(type);
    if (isnan(x)) return from == F64 || bits == 64 ? 1ull << (bits - 1) : 0;
    double top = is_signed(type) ? ldexp(1, bits - 1) : ldexp(1, bits);
    if (x >= top) return is_signed(type) ? (1ull << (bits - 1)) - 1 : ~0ull >> (64 - bits);
    if (is_signed(type)) return (uint64_t)(int64_t)(x < -top ? -top : x);
    return x <= 0 ? 0 : (uint64_t)x;
}

static __attribute__((noinline)) double double_of_integer(int64_t x, int is_unsigned) {
    return is_unsigned ? (double)(uint64_t)x : (double)x;
}

/* An integer as a double that rounds to a shorter format as the integer would. */
static double odd_double_of(int64_t x, int type) {
    int is_negative = type != U64 && x < 0;
    uint64_t size = is_negative ? 0 - (uint64_t)x : (uint64_t)x;
    if (size >> 53) size = (size & ~0x7ffull) | ((size & 0x7ff) != 0) << 11;
    return is_negative ? -(double)size : (double)size;
}

static uint64_t saturated(int64_t x, int from, int type) {
    int bits = bits_in(type), is_large = from == U64 && x < 0;
    if (is_signed(type)) {
        int64_t top = bits == 64 ? INT64_MAX : (1ll << (bits - 1)) - 1;
        return (uint64_t)(is_large || x > top ? top : x < -top - 1 ? -top - 1 : x);
    }
    uint64_t top = ~0ull >> (64 - bits);
    if (from != U64 && x < 0) return 0;
    return (uint64_t)x > top ? top : (uint64_t)x;
}

static uint64_t converted(uint64_t bits, const struct instruction *i) {
    int from = source_type(i), to = result_type(i);
    if (is_real(from)) {
        double x = real_value(bits, from, i->flags);
        if (!is_real(to)) return integer_bits(integral(x, i->rounding), from, to);
        if (from != to) return real_bits(x, to, i->rounding, i->flags);
        /* the same type: rounded to an integer, if a rounding is said */
        return real_bits(i->join ? integral(x, i->rounding) : x, to, TO_NEAREST, i->flags);
    }
    int64_t x = integer_value(bits, from);
    if (!is_real(to)) return i->flags & SATURATE ? saturated(x, from, to) : (uint64_t)x;
    if (to != F64 || i->flags & SATURATE) {
        return real_bits(odd_double_of(x, from), to, i->rounding, i->flags);
    }
    fesetround(FENV_ROUNDING[i->rounding]);
    double result = double_of_integer(x, from == U64);
    fesetround(FE_TONEAREST);
    return double_bits_of(result);
}

/* A narrow result in a wider register is extended by its sign. */
static void cvt(struct machine *m, const struct instruction *i, uint32_t mask) {
    const void *a = source(m, i, 0);
    void *d = destination(m, i, 0);
    int to = result_type(i);
    FOR_ACTIVE(l, mask) {
        uint64_t bits = converted(lane_bits(a, i->source_bits[0], l), i);
        if (!is_real(to)) bits = (uint64_t)integer_value(bits, to);
        set_lane_bits(d, i->destination_bits[0], l, bits);
    }
}

/* Two numbers into one register, the first into its high half. */
static void cvt_pack(struct machine *m, const struct instruction *i, uint32_t mask) {
    const float *a = source(m, i, 0), *b = source(m, i, 1);
    uint32_t result[LANES];
    if (result_type(i) == BF16 && !i->rounding && !i->flags) {
        FOR_LANES result[l] = (uint32_t)bf16_nearest(a[l]) << 16 | bf16_nearest(b[l]);
    } else {
        FOR_LANES {
            uint32_t high = real_bits(a[l], result_type(i), i->rounding, i->flags);
            uint32_t low = real_bits(b[l], result_type(i), i->rounding, i->flags);
            result[l] = high << 16 | low;
        }
    }
    put32(destination(m, i, 0), result, mask);
    set_half_defined(m, i, 0, 0, mask, defined(m, i, 1));
    set_half_defined(m, i, 0, 1, mask, defined(m, i, 0));
}

/* The frequent ones, without modifiers, as plain loops. */
LANEWISE(cvt_s64_s32, int64_t, int32_t, put64, a[l])
LANEWISE(cvt_u64_u32, uint64_t, uint32_t, put64, a[l])
LANEWISE(low_half, uint32_t, uint64_t, put32, a[l])
static void cvt_u32_u64(struct machine *m, const struct instruction *i, uint32_t mask) {
    low_half(m, i, mask);
    set_defined(m, i, 0, mask, half_defined(m, i, 0, 0));
}
LANEWISE(cvt_u32_u16, uint32_t, uint16_t, put32, a[l])
LANEWISE(cvt_s32_s16, int32_t, int16_t, put32, a[l])
LANEWISE(cvt_u16_u32, uint16_t, uint32_t, put16, a[l])
LANEWISE(cvt_f32_s32, uint32_t, int32_t, put32, bits_of((float)a[l]))
LANEWISE(cvt_f32_u32, uint32_t, uint32_t, put32, bits_of((float)a[l]))
LANEWISE(cvt_f32_f16, uint32_t, uint16_t, put32,
         (a[l] & 0x7fff) > 0x7c00 ? NAN32 : bits_of(half_value(a[l])))
LANEWISE(cvt_f32_bf16, uint32_t, uint16_t, put32,
         (a[l] & 0x7fff) > 0x7f80 ? NAN32 : (uint32_t)a[l] << 16)
LANEWISE(cvt_f64_f32, double, float, put64, a[l])
LANEWISE(cvt_f32_f64, uint32_t, double, put32, a[l] == a[l] ? bits_of((float)a[l]) : NAN32)
LANEWISE(cvt_bf16_f32, uint16_t, float, put16, bf16_nearest(a[l]))

static inline int32_t clamped(float x) {
    return x >= 0x1p31f ? INT32_MAX : x >= -0x1p31f ? (int32_t)x : x != x ? 0 : INT32_MIN;
}
LANEWISE(cvt_rzi_s32_f32, int32_t, float, put32, clamped(a[l]))

static inline uint32_t floored(float x, uint32_t flags) {
    if (flags & FLUSH) x = flushed(x);
    return x == x ? bits_of(__builtin_floorf(x)) : NAN32;
}
LANEWISE(cvt_rmi_f32_f32, uint32_t, float, put32, floored(a[l], i->flags))

const struct operation conversion_operations[] = {
    {"cvt", cvt},
    {"cvt.pack", cvt_pack, PLAIN, OWN},
    {"cvt.s64.s32", cvt_s64_s32},
    {"cvt.u64.u32", cvt_u64_u32},
    {"cvt.u32.u64", cvt_u32_u64, PLAIN, OWN},
    {"cvt.u32.u16", cvt_u32_u16},
    {"cvt.s32.s16", cvt_s32_s16},
    {"cvt.u16.u32", cvt_u16_u32},
    {"cvt.f32.s32", cvt_f32_s32},
    {"cvt.f32.u32", cvt_f32_u32},
    {"cvt.f32.f16", cvt_f32_f16},
    {"cvt.f32.bf16", cvt_f32_bf16},
    {"cvt.f64.f32", cvt_f64_f32},
    {"cvt.f32.f64", cvt_f32_f64},
    {"cvt.bf16.f32", cvt_bf16_f32},
    {"cvt.rzi.s32.f32", cvt_rzi_s32_f32},
    {"cvt.rmi.f32.f32", cvt_rmi_f32_f32},
    {0},
};
