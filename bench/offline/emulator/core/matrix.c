/* Matrix instructions of a whole warp, and the loads and stores of their operands.
 *
 * A product is the exact sum of all products and the addend, rounded once: the order in which
 * hardware adds is not documented. Lanes hold the elements as the PTX ISA draws them: `row` and
 * `pair` are the lane's quotient and remainder by 4.
 */
#include "formats.h"
#include "memory.h"

enum element { F16, BF16, TF32 };

static double element_of(struct machine *m, const struct instruction *i, int s, int lane, int half) {
    uint32_t bits = ((const uint32_t *)source(m, i, s))[lane];
    if (i->join == TF32) return float_of(bits & ~0x1fffu);
    uint16_t part = (uint16_t)(half ? bits >> 16 : bits);
    return i->join == F16 ? half_value(part) : bf16_value(part);
}

/* Element (r, k) of A, 16 rows, or (k, n) of B, 8 columns. An operand register of a lane holds one
 * tf32 or two halves; four lanes in a row hold 4 or 8 neighbours along k. */
static double element_at(
    struct machine *m, const struct instruction *i, int first, int rows, int r, int k
) {
    int per_register = i->join == TF32 ? 1 : 2, span = 4 * per_register;
    int s = first + (k / span) * (rows / 8) + r / 8;
    return element_of(m, i, s, r % 8 * 4 + k % span / per_register, k % per_register);
}

/* The mode is the length along k. A size of 2 says that the sums are float16, two a register. */
static void mma(struct machine *m, const struct instruction *i, uint32_t mask) {
    int depth = i->mode, num_a = depth / (i->join == TF32 ? 4 : 8) * 2, num_b = num_a / 2;
    int num_c = i->size == 2 ? 2 : 4, first_c = num_a + num_b;
    uint32_t result[4][LANES] = {{0}};
    double a[16][16], b[16][8];
    if (mask != ALL_LANES) fault_here(m, LANE_NOT_TAKING_PART, __builtin_ctz(~mask));
    for (int k = 0; k < depth; k++) {
        for (int r = 0; r < 16; r++) a[r][k] = element_at(m, i, 0, 16, r, k);
        for (int n = 0; n < 8; n++) b[k][n] = element_at(m, i, num_a, 8, n, k);
    }
    FOR_LANES {
        for (int c = 0; c < 4; c++) {
            int r = l / 4 + c / 2 * 8, n = l % 4 * 2 + c % 2;
            int s = first_c + (num_c == 2 ? c / 2 : c);
            uint32_t bits = ((const uint32_t *)source(m, i, s))[l];
            double sum = num_c == 2 ? half_value((uint16_t)(bits >> c % 2 * 16)) : float_of(bits);
            for (int k = 0; k < depth; k++) sum += a[r][k] * b[k][n];
            if (num_c == 2) {
                result[c / 2][l] |= (uint32_t)half_bits(sum, TO_NEAREST, 0) << c % 2 * 16;
            } else {
                result[c][l] = single_bits(sum, TO_NEAREST);
            }
        }
    }
    for (int c = 0; c < num_c; c++) put32(destination(m, i, c), result[c], mask);
}

/* Place in an 8 x 8 matrix of what lane l holds in its half. */
static int place_of(const struct instruction *i, int l, int half) {
    int row = l / 4, column = l % 4 * 2 + half;
    return i->flags & IS_TRANSPOSED ? column * 8 + row : row * 8 + column;
}

/* Rows of 16 bytes at the addresses of lanes 0 to 7, 8 to 15, ... for one matrix after another. */
static void move_matrices(
    struct machine *m, const struct instruction *i, uint32_t mask, int is_load
) {
    struct access x;
    uint32_t rows = ALL_LANES >> (LANES - 8 * i->vector);
    uint8_t *place[LANES];
    if (mask != ALL_LANES) {
        fault_here(m, LANE_NOT_TAKING_PART, __builtin_ctz(~mask));
        return;
    }
    begin_access(m, i, 0, 16, rows, &x);
    uint32_t reached = 0;
    while (next_window(m, i, &x)) {
        if (m->counts) count_requests(m, &x, is_load ? LOAD : STORE);
        FOR_ACTIVE(l, x.lanes) {
            uint64_t at = offset_in(m, &x, l);
            place[l] = x.window->data + at;
            if (is_load) check_defined(m, &x, l, at);
            if (!is_load) mark_defined(x.window, at, 16);
            if (!is_tracked(m, x.window)) continue;
            if (is_load) {
                load_races(m, x.window, at, 16, l, 0);
            } else {
                store_races(m, x.window, at, 16, l, 0, 0);
            }
        }
        reached |= x.lanes;
    }
    if (reached != rows) return;
    for (int k = 0; k < i->vector; k++) {
        uint32_t result[LANES];
        const uint32_t *values = is_load ? NULL : source(m, i, 1 + k);
        FOR_LANES {
            result[l] = 0;
            for (int half = 0; half < 2; half++) {
                int at = place_of(i, l, half);
                uint8_t *p = place[8 * k + at / 8] + at % 8 * 2;
                uint16_t part = is_load ? 0 : (uint16_t)(values[l] >> 16 * half);
                if (is_load) {
                    memcpy(&part, p, 2);
                    result[l] |= (uint32_t)part << 16 * half;
                } else {
                    memcpy(p, &part, 2);
                }
            }
        }
        if (is_load) put32(destination(m, i, k), result, mask);
    }
}

static void ldmatrix(struct machine *m, const struct instruction *i, uint32_t mask) {
    move_matrices(m, i, mask, 1);
}

static void stmatrix(struct machine *m, const struct instruction *i, uint32_t mask) {
    move_matrices(m, i, mask, 0);
}

const struct operation matrix_operations[] = {
    {"mma", mma},
    {"ldmatrix", ldmatrix},
    {"stmatrix", stmatrix},
    {0},
};
