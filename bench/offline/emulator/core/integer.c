/* Integer arithmetic. Two's complement; names carry bits where signs do not matter. */
#include "machine.h"

typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef __int128 s128;
typedef unsigned __int128 u128;

#define FOR_WIDTHS(make) make(16) make(32) make(64)
#define FOR_TYPES(make) \
    make(u16, 16) make(s16, 16) make(u32, 32) make(s32, 32) make(u64, 64) make(s64, 64)
#define NARROW_TYPES(make) make(u16, 16, u32, 32) make(s16, 16, s32, 32) \
    make(u32, 32, u64, 64) make(s32, 32, s64, 64)
#define WIDE_TYPES(make) NARROW_TYPES(make) make(u64, 64, u128, 128) make(s64, 64, s128, 128)

#define WRAPPING(bits)                                                                          \
    LANEWISE(add_b##bits, u##bits, u##bits, put##bits, a[l] + b[l])                             \
    LANEWISE(sub_b##bits, u##bits, u##bits, put##bits, a[l] - b[l])                             \
    LANEWISE(mul_lo_b##bits, u##bits, u##bits, put##bits, (u64)a[l] * b[l])                     \
    LANEWISE(mad_lo_b##bits, u##bits, u##bits, put##bits, (u64)a[l] * b[l] + c[l])              \
    LANEWISE(neg_b##bits, u##bits, u##bits, put##bits, 0u - a[l])                               \
    LANEWISE(abs_s##bits, u##bits, s##bits, put##bits, a[l] < 0 ? 0u - (u##bits)a[l] : (u##bits)a[l])
FOR_WIDTHS(WRAPPING)

#define ORDERED(type, bits)                                                              \
    LANEWISE(min_##type, type, type, put##bits, a[l] < b[l] ? a[l] : b[l])               \
    LANEWISE(max_##type, type, type, put##bits, a[l] > b[l] ? a[l] : b[l])               \
    LANEWISE(sad_##type, u##bits, type, put##bits,                                       \
             (u##bits)c[l] + (a[l] < b[l] ? (u##bits)b[l] - (u##bits)a[l]                \
                                          : (u##bits)a[l] - (u##bits)b[l]))
FOR_TYPES(ORDERED)

#define HIGH(type, bits, wide, twice)                                                       \
    LANEWISE(mul_hi_##type, type, type, put##bits, ((wide)a[l] * (wide)b[l]) >> bits)       \
    LANEWISE(mad_hi_##type, u##bits, type, put##bits,                                       \
             (u##bits)(((wide)a[l] * (wide)b[l]) >> bits) + (u##bits)c[l])
WIDE_TYPES(HIGH)

/* The third operand and the result are twice as wide. */
#define WIDENING(type, bits, wide, twice)                                                  \
    LANEWISE(mul_wide_##type, u##twice, type, put##twice, (wide)a[l] * (wide)b[l])         \
    static void mad_wide_##type(                                                           \
        struct machine *m, const struct instruction *i, uint32_t mask                      \
    ) {                                                                                    \
        const type *a = source(m, i, 0), *b = source(m, i, 1);                             \
        const u##twice *c = source(m, i, 2);                                               \
        u##twice result[LANES];                                                            \
        FOR_LANES result[l] = (u##twice)((wide)a[l] * (wide)b[l]) + c[l];                  \
        put##twice(destination(m, i, 0), result, mask);                                    \
    }
NARROW_TYPES(WIDENING)

/* Division by zero leaves an undefined value, and so does the smallest number divided by -1. */
#define DIVISION(name, type, bits, is_signed, operator)                                               \
    static void name##_##type(struct machine *m, const struct instruction *i, uint32_t mask) { \
        const type *a = source(m, i, 0), *b = source(m, i, 1);                               \
        type result[LANES];                                                                  \
        uint32_t good = 0;                                                                   \
        FOR_LANES {                                                                          \
            int overflows = is_signed && b[l] == (type)-1 && a[l] == (type)-a[l] && a[l];    \
            int is_good = b[l] != 0 && !overflows;                                           \
            result[l] = a[l] operator(is_good ? b[l] : 1);                                   \
            good |= (uint32_t)is_good << l;                                                  \
        }                                                                                    \
        put##bits(destination(m, i, 0), (const void *)result, mask);                         \
        set_defined(m, i, 0, mask, good & defined(m, i, 0) & defined(m, i, 1));              \
    }
#define UNSIGNED(bits) DIVISION(div, u##bits, bits, 0, /) DIVISION(rem, u##bits, bits, 0, %)
#define SIGNED_TOO(bits) DIVISION(div, s##bits, bits, 1, /) DIVISION(rem, s##bits, bits, 1, %)
FOR_WIDTHS(UNSIGNED) FOR_WIDTHS(SIGNED_TOO)

static s32 clamped(s64 value) {
    return value > INT32_MAX ? INT32_MAX : value < INT32_MIN ? INT32_MIN : (s32)value;
}
LANEWISE(add_sat_s32, s32, s32, put32, clamped((s64)a[l] + b[l]))
LANEWISE(sub_sat_s32, s32, s32, put32, clamped((s64)a[l] - b[l]))
LANEWISE(mad_hi_sat_s32, s32, s32, put32, clamped((((s64)a[l] * b[l]) >> 32) + c[l]))

/* Two numbers of 16 bits in one register. */
static inline u32 two(u32 low, u32 high) { return (low & 0xffff) | high << 16; }
#define LOW(type, x) ((type)((x) & 0xffff))
#define HIGH_HALF(type, x) ((type)((x) >> 16))
#define LESS(type, x, y) ((x) < (y) ? (x) : (y))
#define MORE(type, x, y) ((x) > (y) ? (x) : (y))
LANEWISE(add_b16x2, u32, u32, put32, two(a[l] + b[l], (a[l] >> 16) + (b[l] >> 16)))
LANEWISE(sub_b16x2, u32, u32, put32, two(a[l] - b[l], (a[l] >> 16) - (b[l] >> 16)))
#define PAIRS(type)                                                                      \
    LANEWISE(min_##type##x2, u32, u32, put32,                                            \
             two(LESS(type, LOW(type, a[l]), LOW(type, b[l])),                           \
                 LESS(type, HIGH_HALF(type, a[l]), HIGH_HALF(type, b[l]))))              \
    LANEWISE(max_##type##x2, u32, u32, put32,                                            \
             two(MORE(type, LOW(type, a[l]), LOW(type, b[l])),                           \
                 MORE(type, HIGH_HALF(type, a[l]), HIGH_HALF(type, b[l]))))
PAIRS(u16)
PAIRS(s16)

/* Four products of bytes; bit 0 of the mode: a is signed, bit 1: b is. */
static u32 dot4(u32 a, u32 b, u32 sum, int mode) {
    for (int k = 0; k < 32; k += 8) {
        s32 x = mode & 1 ? (int8_t)(a >> k) : (uint8_t)(a >> k);
        s32 y = mode & 2 ? (int8_t)(b >> k) : (uint8_t)(b >> k);
        sum += (u32)(x * y);
    }
    return sum;
}
LANEWISE(dp4a, u32, u32, put32, dot4(a[l], b[l], c[l], i->mode))

/* Sums that hand on a carry, a bit a lane, in a predicate of their own: destination 1, and the
 * last source. A subtraction's carry is its borrow. */
#define CARRYING(bits, wide)                                                               \
    static void add_carry_b##bits(                                                         \
        struct machine *m, const struct instruction *i, uint32_t mask                      \
    ) {                                                                                    \
        const u##bits *a = source(m, i, 0), *b = source(m, i, 1);                          \
        uint32_t in = predicate(m, i, 2), out = 0;                                         \
        u##bits result[LANES];                                                             \
        FOR_LANES {                                                                        \
            wide sum = (wide)a[l] + b[l] + (in >> l & 1);                                  \
            result[l] = (u##bits)sum;                                                      \
            out |= (uint32_t)(sum >> bits & 1) << l;                                       \
        }                                                                                  \
        put##bits(destination(m, i, 0), result, mask);                                     \
        put_predicate(destination(m, i, 1), out, mask);                                    \
    }                                                                                      \
    static void sub_borrow_b##bits(                                                        \
        struct machine *m, const struct instruction *i, uint32_t mask                      \
    ) {                                                                                    \
        const u##bits *a = source(m, i, 0), *b = source(m, i, 1);                          \
        uint32_t in = predicate(m, i, 2), out = 0;                                         \
        u##bits result[LANES];                                                             \
        FOR_LANES {                                                                        \
            wide difference = (wide)a[l] - b[l] - (in >> l & 1);                           \
            result[l] = (u##bits)difference;                                               \
            out |= (uint32_t)(difference >> bits & 1) << l;                                \
        }                                                                                  \
        put##bits(destination(m, i, 0), result, mask);                                     \
        put_predicate(destination(m, i, 1), out, mask);                                    \
    }
CARRYING(32, u64)
CARRYING(64, u128)

#define WIDTH_ROWS(bits)                                                                  \
    {"add.b" #bits, add_b##bits}, {"sub.b" #bits, sub_b##bits},                           \
    {"mul.lo.b" #bits, mul_lo_b##bits}, {"mad.lo.b" #bits, mad_lo_b##bits},               \
    {"neg.b" #bits, neg_b##bits}, {"abs.s" #bits, abs_s##bits},
#define TYPE_ROWS(type, bits)                                                             \
    {"min." #type, min_##type}, {"max." #type, max_##type}, {"sad." #type, sad_##type},   \
    {"div." #type, div_##type, PLAIN, OWN}, {"rem." #type, rem_##type, PLAIN, OWN},
#define HIGH_ROWS(type, bits, wide, twice) \
    {"mul.hi." #type, mul_hi_##type}, {"mad.hi." #type, mad_hi_##type},
#define WIDENING_ROWS(type, bits, wide, twice) \
    {"mul.wide." #type, mul_wide_##type}, {"mad.wide." #type, mad_wide_##type},

const struct operation integer_operations[] = {
    FOR_WIDTHS(WIDTH_ROWS) FOR_TYPES(TYPE_ROWS) WIDE_TYPES(HIGH_ROWS) NARROW_TYPES(WIDENING_ROWS)
    {"add.sat.s32", add_sat_s32},
    {"sub.sat.s32", sub_sat_s32},
    {"mad.hi.sat.s32", mad_hi_sat_s32},
    {"add.b16x2", add_b16x2},
    {"sub.b16x2", sub_b16x2},
    {"min.u16x2", min_u16x2},
    {"max.u16x2", max_u16x2},
    {"min.s16x2", min_s16x2},
    {"max.s16x2", max_s16x2},
    {"dp4a", dp4a},
    {"add.carry.b32", add_carry_b32},
    {"add.carry.b64", add_carry_b64},
    {"sub.borrow.b32", sub_borrow_b32},
    {"sub.borrow.b64", sub_borrow_b64},
    {0},
};
