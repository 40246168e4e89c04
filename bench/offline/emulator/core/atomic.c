/* Atomic operations on global and shared memory. The mode holds the operation and, in the next
 * byte, the type. */
#include "formats.h"
#include "memory.h"

enum operation_code { ADD, MIN, MAX, AND, OR, XOR, EXCHANGE, COMPARE_AND_SWAP, INCREMENT, DECREMENT };
enum type { U32, S32, U64, S64, F32, F64, F16, BF16, F16X2, BF16X2 };

#define ORDERED(name, type, unsigned_type)                                        \
    static uint64_t name(type a, type b, int operation) {                         \
        switch (operation) {                                                      \
        case MIN: return (unsigned_type)(a < b ? a : b);                          \
        case MAX: return (unsigned_type)(a > b ? a : b);                          \
        default: return (unsigned_type)((unsigned_type)a + (unsigned_type)b);     \
        }                                                                         \
    }
ORDERED(of_u32, uint32_t, uint32_t)
ORDERED(of_s32, int32_t, uint32_t)
ORDERED(of_u64, uint64_t, uint64_t)
ORDERED(of_s64, int64_t, uint64_t)

static double extreme(double x, double y, int operation) {
    if (isnan(x)) return y;
    if (isnan(y)) return x;
    int x_is_less = x < y || (x == y && signbit(x));
    return x_is_less == (operation == MIN) ? x : y;
}

static uint64_t half_result(uint16_t a, uint16_t b, int operation, int is_bfloat) {
    double x = is_bfloat ? bf16_value(a) : half_value(a);
    double y = is_bfloat ? bf16_value(b) : half_value(b);
    double z = operation == ADD ? x + y : extreme(x, y, operation);
    return is_bfloat ? bf16_bits(z, TO_NEAREST, 0) : half_bits(z, TO_NEAREST, 0);
}

/* float32 sums in global memory flush subnormal numbers, those in shared memory do not. */
static uint64_t single_sum(uint32_t a, uint32_t b, int flushes) {
    float x = float_of(a), y = float_of(b);
    float z = flushes ? flushed(flushed(x) + flushed(y)) : x + y;
    return z == z ? bits_of(z) : NAN32;
}

/* The new value; b is the operand, c the second one of a compare-and-swap. */
static uint64_t result_of(
    const struct instruction *i, uint64_t old, uint64_t b, uint64_t c, int flushes
) {
    int operation = i->mode & 255, type = i->mode >> 8;
    switch (operation) {
    case AND: return old & b;
    case OR: return old | b;
    case XOR: return old ^ b;
    case EXCHANGE: return b;
    case COMPARE_AND_SWAP: return old == b ? c : old;
    case INCREMENT: return (uint32_t)old >= (uint32_t)b ? 0 : old + 1;
    case DECREMENT: return old == 0 || (uint32_t)old > (uint32_t)b ? b : old - 1;
    }
    switch (type) {
    case U32: return of_u32((uint32_t)old, (uint32_t)b, operation);
    case S32: return of_s32((int32_t)old, (int32_t)b, operation);
    case U64: return of_u64(old, b, operation);
    case S64: return of_s64((int64_t)old, (int64_t)b, operation);
    case F32: return single_sum((uint32_t)old, (uint32_t)b, flushes);
    case F64: return double_bits_of(double_of(old) + double_of(b));
    case F16:
    case BF16: return half_result((uint16_t)old, (uint16_t)b, operation, type == BF16);
    default: {
        uint64_t low = half_result((uint16_t)old, (uint16_t)b, operation, type == BF16X2);
        uint16_t high = old >> 16, other = b >> 16;
        return half_result(high, other, operation, type == BF16X2) << 16 | low;
    }
    }
}

/* Sources: the address, a vector of operands, for a compare-and-swap one more; a destination, if
 * there is one, holds what was there before. */
static void atomic(struct machine *m, const struct instruction *i, uint32_t mask) {
    struct access x;
    begin_access(m, i, 0, i->size * i->vector, mask, &x);
    int swaps = (i->mode & 255) == COMPARE_AND_SWAP;
    while (next_window(m, i, &x)) {
        struct window *w = x.window;
        int tracks = is_tracked(m, w), flushes = w != &m->windows[m->num_windows - 2];
        if (!may_write(m, &x)) continue;
        uint8_t lanes[LANES];
        int num_lanes = lanes_in_order(m, x.lanes, lanes);
        if (m->counts) count_requests(m, &x, ATOMIC);
        for (int n = 0; n < num_lanes; n++) {
            int l = lanes[n];
            uint64_t at = offset_in(m, &x, l);
            if (w->defined) check_defined(m, &x, l, at);
            if (tracks) store_races(m, w, at, x.bytes, l, 1, 0);
            uint64_t operands[MAX_SOURCES], whole = ~0ull >> (64 - 8 * i->size);
            for (int k = 0; k < i->vector + swaps; k++) {
                operands[k] = lane_bits(source(m, i, 1 + k), i->source_bits[1 + k], l) & whole;
            }
            for (int k = 0; k < i->vector; k++) {
                uint8_t *p = w->data + at + k * i->size;
                uint64_t old = 0;
                memcpy(&old, p, (size_t)i->size);
                uint64_t new = result_of(i, old, operands[k], operands[1], flushes);
                memcpy(p, &new, (size_t)i->size);
                if (i->num_destinations) {
                    set_lane_bits(destination(m, i, k), i->destination_bits[k], l, old);
                }
            }
        }
    }
}

const struct operation atomic_operations[] = {
    {"atom", atomic},
    {0},
};
