/* Logic, shifts, and the picking of bits and bytes. */
#include "machine.h"

typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define FOR_WIDTHS(make) make(16) make(32) make(64)

/* A shift by the width or more leaves zeros, or copies of the sign. */
#define BY_WIDTH(bits)                                                                        \
    LANEWISE(and_b##bits, u##bits, u##bits, put##bits, a[l] & b[l])                           \
    LANEWISE(or_b##bits, u##bits, u##bits, put##bits, a[l] | b[l])                            \
    LANEWISE(xor_b##bits, u##bits, u##bits, put##bits, a[l] ^ b[l])                           \
    LANEWISE(not_b##bits, u##bits, u##bits, put##bits, ~a[l])                                 \
    LANEWISE(cnot_b##bits, u##bits, u##bits, put##bits, a[l] == 0)                            \
    static void shl_b##bits(struct machine *m, const struct instruction *i, uint32_t mask) {  \
        const u##bits *a = source(m, i, 0);                                                   \
        const u32 *b = source(m, i, 1);                                                       \
        u##bits result[LANES];                                                                \
        FOR_LANES result[l] = b[l] < bits ? (u##bits)(a[l] << (b[l] & (bits - 1))) : 0;       \
        put##bits(destination(m, i, 0), result, mask);                                        \
    }                                                                                         \
    static void shr_u##bits(struct machine *m, const struct instruction *i, uint32_t mask) {  \
        const u##bits *a = source(m, i, 0);                                                   \
        const u32 *b = source(m, i, 1);                                                       \
        u##bits result[LANES];                                                                \
        FOR_LANES result[l] = b[l] < bits ? (u##bits)(a[l] >> (b[l] & (bits - 1))) : 0;       \
        put##bits(destination(m, i, 0), result, mask);                                        \
    }                                                                                         \
    static void shr_s##bits(struct machine *m, const struct instruction *i, uint32_t mask) {  \
        const int##bits##_t *a = source(m, i, 0);                                             \
        const u32 *b = source(m, i, 1);                                                       \
        u##bits result[LANES];                                                                \
        FOR_LANES result[l] = (u##bits)(a[l] >> (b[l] < bits ? b[l] : bits - 1));             \
        put##bits(destination(m, i, 0), result, mask);                                        \
    }
FOR_WIDTHS(BY_WIDTH)

#define PREDICATES(name, expression)                                                     \
    static void name(struct machine *m, const struct instruction *i, uint32_t mask) {    \
        uint32_t a = predicate(m, i, 0), b = predicate(m, i, 1);                         \
        (void)b;                                                                         \
        put_predicate(destination(m, i, 0), expression, mask);                           \
    }
PREDICATES(and_pred, a &b)
PREDICATES(or_pred, a | b)
PREDICATES(xor_pred, a ^ b)
PREDICATES(not_pred, ~a)

/* Any function of three bits: bit 4a + 2b + c of the table. */
static u32 table3(u32 a, u32 b, u32 c, int table) {
    u32 result = 0;
    for (int k = 0; k < 8; k++) {
        if (table >> k & 1) result |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    }
    return result;
}
LANEWISE(lop3, u32, u32, put32, table3(a[l], b[l], c[l], i->mode))

static int shift_of(const struct instruction *i, u32 amount) {
    return i->flags & SATURATE ? (amount < 32 ? (int)amount : 32) : (int)(amount & 31);
}
/* b is the high half; .clamp is kept as SATURATE, and .wrap takes the amount modulo 32. */
LANEWISE(shf_l, u32, u32, put32, (((u64)b[l] << 32 | a[l]) << shift_of(i, c[l])) >> 32)
LANEWISE(shf_r, u32, u32, put32, ((u64)b[l] << 32 | a[l]) >> shift_of(i, c[l]))

static u32 permuted(u32 a, u32 b, u32 selector, int mode) {
    u64 bytes = (u64)b << 32 | a;
    u32 result = 0, s = selector & 3;
    for (u32 k = 0; k < 4; k++) {
        u32 pick;
        switch (mode) {
        case 0: pick = selector >> (4 * k) & 15; break;
        case 1: pick = (s + k) & 7; break;              /* f4e */
        case 2: pick = (s - k) & 7; break;              /* b4e */
        case 3: pick = s; break;                        /* rc8 */
        case 4: pick = k > s ? k : s; break;            /* ecl */
        case 5: pick = k < s ? k : s; break;            /* ecr */
        default: pick = 2 * (s & 1) + (k & 1);          /* rc16 */
        }
        u32 byte = bytes >> (8 * (pick & 7)) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << (8 * k);
    }
    return result;
}
LANEWISE(prmt, u32, u32, put32, permuted(a[l], b[l], c[l], i->mode))

/* Extracted fields repeat the sign bit above, the one at the end of what there is. */
#define FIELDS(bits)                                                                          \
    static inline u##bits low_##bits(u32 n) {                                                 \
        return n >= bits ? (u##bits)-1 : ((u##bits)1 << (n & (bits - 1))) - 1;                \
    }                                                                                         \
    static inline u##bits extracted_##bits(u##bits a, u32 position, u32 length, int is_signed) { \
        position &= 255, length &= 255;                                                       \
        u32 there = position < bits ? bits - position : 0;                                    \
        u32 valid = length < there ? length : there;                                          \
        u32 last = length > there || !length ? bits - 1 : position + length - 1;              \
        u##bits sign = is_signed && length ? a >> (last & (bits - 1)) & 1 : 0;                \
        u##bits field = a >> (position & (bits - 1)) & low_##bits(valid);                     \
        return sign ? field | ~low_##bits(valid) : field;                                     \
    }                                                                                         \
    static void bfe_b##bits(struct machine *m, const struct instruction *i, uint32_t mask) {  \
        const u##bits *a = source(m, i, 0);                                                   \
        const u32 *b = source(m, i, 1), *c = source(m, i, 2);                                 \
        u##bits result[LANES];                                                                \
        FOR_LANES result[l] = extracted_##bits(a[l], b[l], c[l], (i->flags & SIGNED) != 0);   \
        put##bits(destination(m, i, 0), result, mask);                                        \
    }                                                                                         \
    static void bfi_b##bits(struct machine *m, const struct instruction *i, uint32_t mask) {  \
        const u##bits *a = source(m, i, 0), *b = source(m, i, 1);                             \
        const u32 *c = source(m, i, 2), *d = source(m, i, 3);                                 \
        u##bits result[LANES];                                                                \
        FOR_LANES {                                                                           \
            u32 position = c[l] & 255, length = d[l] & 255;                                   \
            u##bits field = position < bits ? low_##bits(length) << (position & (bits - 1)) : 0; \
            result[l] = (b[l] & ~field) | (a[l] << (position & (bits - 1)) & field);          \
        }                                                                                     \
        put##bits(destination(m, i, 0), result, mask);                                        \
    }
FIELDS(32)
FIELDS(64)

static u64 reversed(u64 x) {
    u64 result = 0;
    for (int k = 0; k < 64; k++) result |= (x >> k & 1) << (63 - k);
    return result;
}
LANEWISE(brev_b32, u32, u32, put32, reversed(a[l]) >> 32)
LANEWISE(brev_b64, u64, u64, put64, reversed(a[l]))
LANEWISE(popc_b32, u32, u32, put32, __builtin_popcount(a[l]))
LANEWISE(popc_b64, u32, u64, put32, __builtin_popcountll(a[l]))
LANEWISE(clz_b32, u32, u32, put32, a[l] ? __builtin_clz(a[l]) : 32)
LANEWISE(clz_b64, u32, u64, put32, a[l] ? __builtin_clzll(a[l]) : 64)

/* Place of the highest bit that is not the sign's, or how far to shift it to the top. */
static u32 highest(u64 x, int bits, uint32_t flags) {
    if (flags & SIGNED && x >> (bits - 1) & 1) x = ~x;
    if (bits < 64) x &= ((u64)1 << bits) - 1;
    if (!x) return ~0u;
    u32 place = 63 - __builtin_clzll(x);
    return flags & COUNT_SHIFT ? bits - 1 - place : place;
}
LANEWISE(bfind_b32, u32, u32, put32, highest(a[l], 32, i->flags))
LANEWISE(bfind_b64, u32, u64, put32, highest(a[l], 64, i->flags))

#define WIDTH_ROWS(bits)                                                                    \
    {"and.b" #bits, and_b##bits, PLAIN, HALVES}, {"or.b" #bits, or_b##bits, PLAIN, HALVES}, \
    {"xor.b" #bits, xor_b##bits, PLAIN, HALVES}, {"not.b" #bits, not_b##bits, PLAIN, HALVES}, \
    {"cnot.b" #bits, cnot_b##bits},                                                         \
    {"shl.b" #bits, shl_b##bits}, {"shr.u" #bits, shr_u##bits}, {"shr.s" #bits, shr_s##bits},

const struct operation bit_operations[] = {
    FOR_WIDTHS(WIDTH_ROWS)
    {"and.pred", and_pred},
    {"or.pred", or_pred},
    {"xor.pred", xor_pred},
    {"not.pred", not_pred},
    {"lop3", lop3},
    {"shf.l", shf_l},
    {"shf.r", shf_r},
    {"prmt", prmt},
    {"bfe.b32", bfe_b32},
    {"bfe.b64", bfe_b64},
    {"bfi.b32", bfi_b32},
    {"bfi.b64", bfi_b64},
    {"brev.b32", brev_b32},
    {"brev.b64", brev_b64},
    {"popc.b32", popc_b32},
    {"popc.b64", popc_b64},
    {"clz.b32", clz_b32},
    {"clz.b64", clz_b64},
    {"bfind.b32", bfind_b32},
    {"bfind.b64", bfind_b64},
    {0},
};
