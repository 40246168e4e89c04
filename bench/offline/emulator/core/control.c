/* The running of warps: groups of lanes with a place of their own in the code, which run together
 * again where they meet; the lowest place runs first. And the operations that the loop itself
 * understands. */
#include "control.h"

/* Joins groups that have met and takes the lowest that does not wait.
 * Returns: 0 if all wait for lanes that cannot come. */
static int choose_group(struct machine *m, struct warp *w) {
    int best = -1;
    for (int a = 0; a < w->num_groups; a++) {
        for (int b = a + 1; b < w->num_groups;) {
            if (w->groups[a].pc != w->groups[b].pc) {
                b++;
                continue;
            }
            w->groups[a].mask |= w->groups[b].mask;
            w->groups[a].is_waiting = 0;
            w->groups[b] = w->groups[--w->num_groups];
        }
        struct group *g = &w->groups[a];
        if (!g->is_waiting && (best < 0 || g->pc < w->groups[best].pc)) best = a;
    }
    w->current = best < 0 ? 0 : best;
    if (best >= 0) return 1;
    m->pc = w->groups[0].pc;
    fault_here(m, DIVERGENT_BARRIER, __builtin_ctz(w->groups[0].mask));
    m->is_stopped = 1;
    return 0;
}

static void remove_group(struct warp *w) {
    w->groups[w->current] = w->groups[--w->num_groups];
    w->current = 0;
}

static void branch(struct machine *m, const struct instruction *i, uint32_t taken) {
    struct warp *w = m->warp;
    struct group *g = &w->groups[w->current];
    uint32_t rest = g->mask & ~taken;
    g->pc = taken ? i->target : g->pc + 1;
    if (!taken || !rest) return;
    m->counted[DIVERGENT_BRANCHES]++;
    g->mask = taken;
    w->groups[w->num_groups++] = (struct group){.pc = m->pc + 1, .mask = rest};
}

static void leave(struct machine *m, uint32_t mask) {
    struct warp *w = m->warp;
    struct group *g = &w->groups[w->current];
    w->live &= ~mask;
    g->mask &= ~mask;
    g->pc++;
    if (!g->mask) remove_group(w);
    /* whoever waited for these lanes looks again */
    for (int k = 0; k < w->num_groups; k++) w->groups[k].is_waiting = 0;
}

/* Whether a group has to wait for other lanes, those of `members` that still run. */
static int waits_for(struct warp *w, uint32_t members) {
    struct group *g = &w->groups[w->current];
    g->is_waiting = (members & w->live & ~g->mask) != 0;
    return g->is_waiting;
}

static void arrive(struct machine *m, const struct instruction *i, uint32_t mask) {
    struct warp *w = m->warp;
    if (!mask) {
        w->groups[w->current].pc++;
        return;
    }
    if (waits_for(w, ALL_LANES)) return;
    int lane = __builtin_ctz(w->live);
    if (mask != w->live) {
        fault_here(m, DIVERGENT_BARRIER, __builtin_ctz(w->live & ~mask));
        m->is_stopped = 1;
        return;
    }
    int id = (int)(lane_bits(source(m, i, 0), 32, lane) & 15);
    int threads = i->num_sources > 1 ? (int)lane_bits(source(m, i, 1), 32, lane) : 0;
    w->groups[w->current].pc++;
    m->barriers[id].threads = threads;
    m->barriers[id].arrived |= 1u << m->warp_id;
    m->barriers[id].pc[m->warp_id] = m->pc;
    if (i->mode == WAITS) w->barrier = id;
}

static void check_operands(struct machine *m, const struct instruction *i, uint32_t mask) {
    for (int k = 0; k < i->num_sources && !m->is_stopped; k++) {
        uint32_t missing = mask & ~defined(m, i, k);
        if (!missing || !(i->needs_defined >> k & 1)) continue;
        fault_here(m, UNINITIALISED_REGISTER, __builtin_ctz(missing));
    }
}

static inline void execute(struct machine *m, const struct instruction *i, uint32_t mask) {
    uint32_t low = ALL_LANES, high = ALL_LANES;
    for (int k = 0; k < i->num_sources; k++) {
        low &= half_defined(m, i, k, 0);
        high &= half_defined(m, i, k, 1);
    }
    if (i->needs_defined && m->checks_initialised && mask & ~(low & high)) {
        check_operands(m, i, mask);
        if (m->is_stopped) return;
    }
    i->run(m, i, mask);
    if (i->definedness == OWN) return;
    if (i->definedness == WHOLE) low = high = low & high;
    for (int k = 0; k < i->num_destinations; k++) {
        set_half_defined(m, i, k, 0, mask, low);
        set_half_defined(m, i, k, 1, mask, high);
    }
}

static uint32_t guarded(struct machine *m, const struct instruction *i, uint32_t mask) {
    uint32_t lanes = *(const uint32_t *)(m->warp->registers + i->guard);
    uint32_t missing = mask & ~m->warp->defined[2 * i->guard_id];
    if (missing && m->checks_initialised) {
        fault_here(m, UNINITIALISED_REGISTER, __builtin_ctz(missing));
    }
    return mask & (i->guard_is_negated ? ~lanes : lanes);
}

static void tally(struct machine *m, const struct instruction *i, uint32_t mask) {
    m->instructions[i->instruction_class]++;
    m->counted[LANE_INSTRUCTIONS] += __builtin_popcount(mask);
    m->counted[PARTIAL_INSTRUCTIONS] += mask != ALL_LANES;
    if (++m->steps <= m->max_steps) return;
    fault_here(m, ENDLESS, 0);
    m->is_stopped = 1;
}

void run_warp(struct machine *m, int id, int64_t budget) {
    struct warp *w = m->warp = &m->warps[id];
    m->warp_id = id;
    while (w->live && w->barrier < 0 && budget-- > 0 && !m->is_stopped) {
        if (w->num_groups > 1 && !choose_group(m, w)) return;
        struct group *g = &w->groups[w->current];
        const struct instruction *i = &m->code[m->pc = g->pc];
        uint32_t mask = i->guard < 0 ? g->mask : guarded(m, i, g->mask);
        if (m->is_stopped) return;
        uint32_t lanes = i->kind == BRANCH ? g->mask : mask;
        switch (i->kind) {
        case PLAIN:
            if (mask) execute(m, i, mask);
            g->pc++;
            break;
        case BRANCH: branch(m, i, mask); break;
        case EXIT: leave(m, mask); break;
        case BARRIER:
            arrive(m, i, mask);
            if (g->is_waiting) continue;
            break;
        default: { /* an exchange, or a barrier of a warp's lanes */
            if (mask) {
                int lane = __builtin_ctz(mask);
                uint32_t members = (uint32_t)lane_bits(source(m, i, i->target), 32, lane);
                if (waits_for(w, members)) continue;
                execute(m, i, mask);
            }
            g->pc++;
        }
        }
        tally(m, i, lanes);
    }
}

static void nothing(struct machine *m, const struct instruction *i, uint32_t mask) {
    (void)m, (void)i, (void)mask;
}

static void trap(struct machine *m, const struct instruction *i, uint32_t mask) {
    (void)i;
    fault_here(m, TRAPPED, __builtin_ctz(mask));
    m->is_stopped = 1;
}

static void zero(struct machine *m, const struct instruction *i, uint32_t mask) {
    FOR_ACTIVE(l, mask) set_lane_bits(destination(m, i, 0), i->destination_bits[0], l, 0);
}

const struct operation control_operations[] = {
    {"bra", nothing, BRANCH},
    {"exit", nothing, EXIT},
    {"bar", nothing, BARRIER},
    {"bar.warp", nothing, WARP_BARRIER},
    {"nothing", nothing},
    {"zero", zero},
    {"trap", trap},
    {0},
};
