/* Exchange between the lanes of a warp. All lanes of the member mask are here when these run. */
#include "formats.h"

enum { INDEX, UP_BY, DOWN_BY, BUTTERFLY };
enum { ADD, MIN, MAX, AND, OR, XOR };
enum { VOTE_ALL, VOTE_ANY, VOTE_UNIFORM, VOTE_BALLOT };

static void must_take_part(struct machine *m, uint32_t members, int lane) {
    if (!(members >> lane & 1)) fault_here(m, LANE_NOT_TAKING_PART, lane);
}

static uint32_t member_mask(struct machine *m, const struct instruction *i, int lane) {
    return ((const uint32_t *)source(m, i, i->target))[lane];
}

/* Sources: value, lane or distance, clamp and segment mask, members. What a lane that takes no
 * part would give is undefined. */
static void shfl(struct machine *m, const struct instruction *i, uint32_t mask) {
    const uint32_t *a = source(m, i, 0), *b = source(m, i, 1), *c = source(m, i, 2);
    uint32_t value[LANES], from_range = 0, known = 0;
    uint32_t defined_values = defined(m, i, 0), defined_places = defined(m, i, 1) & defined(m, i, 2);
    memcpy(value, a, sizeof value);
    uint32_t result[LANES] = {0};
    FOR_ACTIVE(l, mask) {
        must_take_part(m, member_mask(m, i, l), l);
        int segment = c[l] >> 8 & 31, clamp = c[l] & 31, lane = (int)l, from = lane;
        int last = (lane & segment) | (clamp & ~segment & 31), first = lane & segment;
        int by = b[l] & 31, is_inside;
        switch (i->mode) {
        case UP_BY: from = lane - by, is_inside = from >= last; break;
        case DOWN_BY: from = lane + by, is_inside = from <= last; break;
        case BUTTERFLY: from = lane ^ by, is_inside = from <= last; break;
        default: from = first | (by & ~segment & 31), is_inside = from <= last;
        }
        if (!is_inside) from = lane;
        result[l] = value[from];
        from_range |= (uint32_t)is_inside << l;
        known |= (mask & defined_values) >> from & 1 ? 1u << l : 0;
    }
    put32(destination(m, i, 0), result, mask);
    set_defined(m, i, 0, mask, known & defined_places);
    if (i->num_destinations > 1) {
        put_predicate(destination(m, i, 1), from_range, mask);
        set_defined(m, i, 1, mask, defined_places);
    }
}

static void vote(struct machine *m, const struct instruction *i, uint32_t mask) {
    uint32_t p = predicate(m, i, 0) & mask;
    FOR_ACTIVE(l, mask) must_take_part(m, member_mask(m, i, l), l);
    int is_true = i->mode == VOTE_ALL ? p == mask : i->mode == VOTE_ANY ? p != 0 : !p || p == mask;
    if (i->mode == VOTE_BALLOT) {
        uint32_t *d = destination(m, i, 0);
        FOR_ACTIVE(l, mask) d[l] = p;
    } else {
        put_predicate(destination(m, i, 0), is_true ? ALL_LANES : 0, mask);
    }
    int is_known = (defined(m, i, 0) & mask) == mask;
    set_defined(m, i, 0, mask, is_known ? ALL_LANES : 0);
}

static void match(struct machine *m, const struct instruction *i, uint32_t mask) {
    const void *a = source(m, i, 0);
    int bits = i->source_bits[0], is_all = i->mode;
    uint32_t result[LANES] = {0}, agree = 0;
    FOR_ACTIVE(l, mask) {
        must_take_part(m, member_mask(m, i, l), l);
        for (int k = 0; k < LANES; k++) {
            if (mask >> k & 1 && lane_bits(a, bits, k) == lane_bits(a, bits, l)) result[l] |= 1u << k;
        }
        agree |= (uint32_t)(result[l] == mask) << l;
    }
    if (is_all) FOR_ACTIVE(l, mask) result[l] = agree == mask ? mask : 0;
    put32(destination(m, i, 0), result, mask);
    if (i->num_destinations > 1) {
        put_predicate(destination(m, i, 1), agree == mask ? ALL_LANES : 0, mask);
    }
    int is_known = (defined(m, i, 0) & mask) == mask;
    for (int k = 0; k < i->num_destinations; k++) {
        set_defined(m, i, k, mask, is_known ? ALL_LANES : 0);
    }
}

/* The flag SIGNED compares as signed numbers. */
static void redux(struct machine *m, const struct instruction *i, uint32_t mask) {
    const uint32_t *a = source(m, i, 0);
    uint32_t result = a[__builtin_ctz(mask)];
    FOR_ACTIVE(l, mask) {
        must_take_part(m, member_mask(m, i, l), l);
        if (l == (uint32_t)__builtin_ctz(mask)) continue;
        uint32_t flip = i->flags & SIGNED ? 0x80000000u : 0;
        int is_less = (a[l] ^ flip) < (result ^ flip);
        switch (i->mode) {
        case ADD: result += a[l]; break;
        case MIN: result = is_less ? a[l] : result; break;
        case MAX: result = is_less ? result : a[l]; break;
        case AND: result &= a[l]; break;
        case OR: result |= a[l]; break;
        default: result ^= a[l];
        }
    }
    uint32_t *d = destination(m, i, 0);
    FOR_ACTIVE(l, mask) d[l] = result;
    int is_known = (defined(m, i, 0) & mask) == mask;
    set_defined(m, i, 0, mask, is_known ? ALL_LANES : 0);
}

/* Numbers that are not one count only with .NaN, or where there is no other; -0 is below +0. The
 * mode has ABSOLUTE for .abs. */
enum { ABSOLUTE = 8 };

static void redux_f32(struct machine *m, const struct instruction *i, uint32_t mask) {
    const uint32_t *a = source(m, i, 0);
    uint32_t result = NAN32;
    int has_number = 0, has_nan = 0;
    FOR_ACTIVE(l, mask) {
        must_take_part(m, member_mask(m, i, l), l);
        uint32_t bits = i->mode & ABSOLUTE ? a[l] & 0x7fffffff : a[l];
        if ((bits & 0x7fffffff) > 0x7f800000) {
            has_nan = 1;
            continue;
        }
        /* in this order, numbers compare like whole ones without sign */
        uint32_t key = bits >> 31 ? ~bits : bits | 0x80000000u;
        uint32_t best = result >> 31 ? ~result : result | 0x80000000u;
        int is_better = (i->mode & ~ABSOLUTE) == MIN ? key < best : key > best;
        if (!has_number || is_better) result = bits;
        has_number = 1;
    }
    if (has_nan && i->flags & PROPAGATE_NAN) result = NAN32;
    uint32_t *d = destination(m, i, 0);
    FOR_ACTIVE(l, mask) d[l] = result;
    int is_known = (defined(m, i, 0) & mask) == mask;
    set_defined(m, i, 0, mask, is_known ? ALL_LANES : 0);
}

static void elect(struct machine *m, const struct instruction *i, uint32_t mask) {
    uint32_t leader = (uint32_t)__builtin_ctz(mask), *d = destination(m, i, 0);
    FOR_ACTIVE(l, mask) {
        must_take_part(m, member_mask(m, i, l), l);
        d[l] = leader;
    }
    put_predicate(destination(m, i, 1), 1u << leader, mask);
}

static void activemask(struct machine *m, const struct instruction *i, uint32_t mask) {
    uint32_t *d = destination(m, i, 0);
    FOR_ACTIVE(l, mask) d[l] = mask;
}

const struct operation lane_operations[] = {
    {"shfl", shfl, WARP_EXCHANGE, OWN},
    {"vote", vote, WARP_EXCHANGE, OWN},
    {"match", match, WARP_EXCHANGE, OWN},
    {"redux", redux, WARP_EXCHANGE, OWN},
    {"redux.f32", redux_f32, WARP_EXCHANGE, OWN},
    {"elect", elect, WARP_EXCHANGE},
    {"activemask", activemask},
    {0},
};
