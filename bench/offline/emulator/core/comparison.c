/* Comparisons, and what chooses by them. */
#include "formats.h"

/* The order of the names in opcodes.py; from EQU on, true where a number is missing. */
enum comparison { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NANS };
enum join { ALONE, AND, OR, XOR };

#define COMPARE_LOOP(condition) FOR_LANES result |= (uint32_t)(condition) << l

#define COMPARE_INTEGERS(type)                                                     \
    static uint32_t compared_##type(const type *a, const type *b, int comparison) { \
        uint32_t result = 0;                                                       \
        switch (comparison) {                                                      \
        case EQ: COMPARE_LOOP(a[l] == b[l]); break;                                \
        case NE: COMPARE_LOOP(a[l] != b[l]); break;                                \
        case LT: COMPARE_LOOP(a[l] < b[l]); break;                                 \
        case LE: COMPARE_LOOP(a[l] <= b[l]); break;                                \
        case GT: COMPARE_LOOP(a[l] > b[l]); break;                                 \
        default: COMPARE_LOOP(a[l] >= b[l]);                                       \
        }                                                                          \
        return result;                                                             \
    }

#define COMPARE_REALS(type)                                                         \
    static uint32_t compared_##type(const type *a, const type *b, int comparison) {  \
        uint32_t result = 0, missing = 0;                                           \
        FOR_LANES missing |= (uint32_t)(a[l] != a[l] || b[l] != b[l]) << l;         \
        switch (comparison) {                                                       \
        case EQ: case EQU: COMPARE_LOOP(a[l] == b[l]); break;                       \
        case NE: case NEU: COMPARE_LOOP(a[l] != b[l]); break;                       \
        case LT: case LTU: COMPARE_LOOP(a[l] < b[l]); break;                        \
        case LE: case LEU: COMPARE_LOOP(a[l] <= b[l]); break;                       \
        case GT: case GTU: COMPARE_LOOP(a[l] > b[l]); break;                        \
        case GE: case GEU: COMPARE_LOOP(a[l] >= b[l]); break;                       \
        case NUM: return ~missing;                                                  \
        default: return missing;                                                    \
        }                                                                           \
        return comparison >= EQU ? result | missing : result & ~missing;            \
    }

COMPARE_INTEGERS(uint16_t)
COMPARE_INTEGERS(int16_t)
COMPARE_INTEGERS(uint32_t)
COMPARE_INTEGERS(int32_t)
COMPARE_INTEGERS(uint64_t)
COMPARE_INTEGERS(int64_t)
COMPARE_REALS(float)
COMPARE_REALS(double)

static const float *as_floats(
    const uint16_t *a, float *place, int step, int first, int is_bfloat, uint32_t flags
) {
    FOR_LANES {
        uint16_t bits = a[step * l + first];
        float x = is_bfloat ? bf16_value(bits) : half_value(bits);
        place[l] = flags & FLUSH && !is_bfloat && fabsf(x) < 0x1p-14f ? copysignf(0, x) : x;
    }
    return place;
}

enum type { U16, S16, U32, S32, U64, S64, F16, BF16, F32, F64, F16X2, BF16X2 };

/* The mode is the type; `first` is 1 for the high half of a pair. */
static uint32_t compared(struct machine *m, const struct instruction *i, int first) {
    const void *a = source(m, i, 0), *b = source(m, i, 1);
    float x[LANES], y[LANES];
    int c = i->comparison;
    switch (i->mode) {
    case U16: return compared_uint16_t(a, b, c);
    case S16: return compared_int16_t(a, b, c);
    case U32: return compared_uint32_t(a, b, c);
    case S32: return compared_int32_t(a, b, c);
    case U64: return compared_uint64_t(a, b, c);
    case S64: return compared_int64_t(a, b, c);
    case F64: return compared_double(a, b, c);
    case F32:
        if (!(i->flags & FLUSH)) return compared_float(a, b, c);
        FOR_LANES x[l] = flushed(((const float *)a)[l]), y[l] = flushed(((const float *)b)[l]);
        return compared_float(x, y, c);
    default: {
        int step = i->mode >= F16X2 ? 2 : 1, is_bfloat = i->mode == BF16 || i->mode == BF16X2;
        as_floats(a, x, step, first, is_bfloat, i->flags);
        as_floats(b, y, step, first, is_bfloat, i->flags);
        return compared_float(x, y, c);
    }
    }
}

static uint32_t joined(struct machine *m, const struct instruction *i, uint32_t result) {
    switch (i->join) {
    case AND: return result & predicate(m, i, 2);
    case OR: return result | predicate(m, i, 2);
    case XOR: return result ^ predicate(m, i, 2);
    default: return result;
    }
}

/* A second predicate holds the opposite, or the comparison of the high halves. */
static void setp(struct machine *m, const struct instruction *i, uint32_t mask) {
    uint32_t result = compared(m, i, 0);
    uint32_t other = i->mode >= F16X2 ? compared(m, i, 1) : ~result;
    result = joined(m, i, result), other = joined(m, i, other);
    put_predicate(destination(m, i, 0), result, mask);
    if (i->num_destinations > 1) put_predicate(destination(m, i, 1), other, mask);
}

/* What stands for true is the instruction's offset. */
static void set(struct machine *m, const struct instruction *i, uint32_t mask) {
    uint32_t result = joined(m, i, compared(m, i, 0)), other = 0;
    int is_pair = i->mode >= F16X2;
    if (is_pair) other = joined(m, i, compared(m, i, 1));
    void *d = destination(m, i, 0);
    FOR_ACTIVE(l, mask) {
        uint64_t value = result >> l & 1 ? (uint64_t)i->offset : 0;
        if (is_pair) value |= other >> l & 1 ? (uint64_t)i->offset << 16 : 0;
        set_lane_bits(d, i->destination_bits[0], l, value);
    }
}

#define SELECT(bits)                                                                        \
    static void selp_b##bits(struct machine *m, const struct instruction *i, uint32_t mask) { \
        const uint##bits##_t *a = source(m, i, 0), *b = source(m, i, 1);                    \
        uint32_t p = predicate(m, i, 2), known = defined(m, i, 2);                          \
        uint##bits##_t result[LANES];                                                       \
        FOR_LANES result[l] = p >> l & 1 ? a[l] : b[l];                                     \
        put##bits(destination(m, i, 0), result, mask);                                      \
        for (int half = 0; half < 2; half++) {                                              \
            uint32_t chosen = (p & half_defined(m, i, 0, half)) |                           \
                              (~p & half_defined(m, i, 1, half));                           \
            set_half_defined(m, i, 0, half, mask, known & chosen);                          \
        }                                                                                   \
    }                                                                                       \
    static void slct_b##bits(struct machine *m, const struct instruction *i, uint32_t mask) { \
        const uint##bits##_t *a = source(m, i, 0), *b = source(m, i, 1);                    \
        const int32_t *c = source(m, i, 2);                                                 \
        const float *x = source(m, i, 2);                                                   \
        uint##bits##_t result[LANES];                                                       \
        FOR_LANES {                                                                         \
            int is_first = i->mode == F32 ? x[l] >= 0 || (i->flags & FLUSH && flushed(x[l]) == 0) \
                                          : c[l] >= 0;                                      \
            result[l] = is_first ? a[l] : b[l];                                             \
        }                                                                                   \
        put##bits(destination(m, i, 0), result, mask);                                      \
    }
SELECT(16)
SELECT(32)
SELECT(64)

enum test { FINITE_NUMBER, INFINITE, NUMBER, NOT_A_NUMBER, NORMAL, SUBNORMAL };

static void testp(struct machine *m, const struct instruction *i, uint32_t mask) {
    const void *a = source(m, i, 0);
    uint32_t result = 0;
    FOR_LANES {
        double x = i->source_bits[0] == 64 ? ((const double *)a)[l] : ((const float *)a)[l];
        double smallest = i->source_bits[0] == 64 ? 0x1p-1022 : 0x1p-126;
        int is_true;
        switch (i->mode) {
        case FINITE_NUMBER: is_true = isfinite(x); break;
        case INFINITE: is_true = isinf(x); break;
        case NUMBER: is_true = !isnan(x); break;
        case NOT_A_NUMBER: is_true = isnan(x); break;
        case NORMAL: is_true = isfinite(x) && fabs(x) >= smallest; break;
        default: is_true = x != 0 && fabs(x) < smallest;
        }
        result |= (uint32_t)(is_true != 0) << l;
    }
    put_predicate(destination(m, i, 0), result, mask);
}

const struct operation comparison_operations[] = {
    {"setp", setp},
    {"set", set},
    {"selp.b16", selp_b16, PLAIN, OWN},
    {"selp.b32", selp_b32, PLAIN, OWN},
    {"selp.b64", selp_b64, PLAIN, OWN},
    {"slct.b16", slct_b16},
    {"slct.b32", slct_b32},
    {"slct.b64", slct_b64},
    {"testp", testp},
    {0},
};
