/* Moves between registers, whole and in parts. */
#include "machine.h"

LANEWISE(mov_b16, uint16_t, uint16_t, put16, a[l])
LANEWISE(mov_b32, uint32_t, uint32_t, put32, a[l])
LANEWISE(mov_b64, uint64_t, uint64_t, put64, a[l])

static void mov_pred(struct machine *m, const struct instruction *i, uint32_t mask) {
    put_predicate(destination(m, i, 0), predicate(m, i, 0), mask);
}

/* Lowest part first. */
static void pack(struct machine *m, const struct instruction *i, uint32_t mask) {
    uint64_t result[LANES] = {0};
    int bits = i->size * 8 / i->num_sources;
    uint64_t part = ~0ull >> (64 - bits);
    for (int k = 0; k < i->num_sources; k++) {
        const void *a = source(m, i, k);
        FOR_LANES result[l] |= (lane_bits(a, i->source_bits[k], l) & part) << (bits * k);
    }
    void *d = destination(m, i, 0);
    FOR_ACTIVE(l, mask) set_lane_bits(d, i->destination_bits[0], l, result[l]);
    uint32_t halves[2] = {ALL_LANES, ALL_LANES};
    for (int k = 0; k < i->num_sources; k++) {
        halves[2 * k / i->num_sources] &= defined(m, i, k);
    }
    for (int half = 0; half < 2; half++) set_half_defined(m, i, 0, half, mask, halves[half]);
}

static void unpack(struct machine *m, const struct instruction *i, uint32_t mask) {
    uint64_t whole[LANES];
    const void *a = source(m, i, 0);
    int bits = i->size * 8 / i->num_destinations;
    uint64_t part = ~0ull >> (64 - bits);
    uint32_t halves[2] = {half_defined(m, i, 0, 0), half_defined(m, i, 0, 1)};
    FOR_LANES whole[l] = lane_bits(a, i->source_bits[0], l);
    for (int k = 0; k < i->num_destinations; k++) {
        void *d = destination(m, i, k);
        FOR_ACTIVE(l, mask) {
            set_lane_bits(d, i->destination_bits[k], l, whole[l] >> (bits * k) & part);
        }
        set_defined(m, i, k, mask, halves[2 * k / i->num_destinations]);
    }
}

/* Several moves at once, of whatever width. */
static void moves(struct machine *m, const struct instruction *i, uint32_t mask) {
    for (int k = 0; k < i->num_destinations; k++) {
        const void *a = source(m, i, k);
        void *d = destination(m, i, k);
        int bits = i->destination_bits[k];
        FOR_ACTIVE(l, mask) set_lane_bits(d, bits, l, lane_bits(a, bits, l));
    }
}

/* A clock that runs by one an instruction. */
static void clock_b64(struct machine *m, const struct instruction *i, uint32_t mask) {
    void *d = destination(m, i, 0);
    FOR_ACTIVE(l, mask) set_lane_bits(d, i->destination_bits[0], l, m->steps);
}

const struct operation move_operations[] = {
    {"mov.b16", mov_b16, PLAIN, HALVES},
    {"mov.b32", mov_b32, PLAIN, HALVES},
    {"mov.b64", mov_b64, PLAIN, HALVES},
    {"mov.pred", mov_pred},
    {"pack", pack, PLAIN, OWN},
    {"unpack", unpack, PLAIN, OWN},
    {"moves", moves},
    {"clock", clock_b64},
    {0},
};
