/* Loads and stores of every space but parameters, and the finding of what an address may reach.
 *
 * Every argument lies in a window of the emulated address space that is a terabyte away from the
 * next, so that a pointer never runs from one argument into another.
 */
#include "memory.h"

#define WINDOW_SPAN 40 /* bits of an address within a window */
#define IS_GLOBAL(address) ((address) >> 62 == 1)
#define IS_SHARED(address) ((address) >> 61 == 1)
#define IS_LOCAL(address) ((address) >> 60 == 1)

void begin_access(
    struct machine *m, const struct instruction *i, int k, int bytes, uint32_t mask,
    struct access *x
) {
    const void *lanes = source(m, i, k);
    if (i->source_bits[k] == 64) {
        FOR_LANES x->address[l] = ((const uint64_t *)lanes)[l] + (uint64_t)i->offset;
    } else {
        FOR_LANES x->address[l] = ((const uint32_t *)lanes)[l] + (uint32_t)i->offset;
    }
    x->rest = mask;
    x->bytes = bytes;
    m->stamp++;
}

static struct window *global_window(struct machine *m, uint64_t *address) {
    int last = m->num_windows - 2;
    if (IS_GLOBAL(*address)) {
        uint64_t k = *address >> WINDOW_SPAN & 0x3fffff;
        return k < (uint64_t)last ? &m->windows[k] : NULL;
    }
    /* a pointer read from memory or passed as a number: an address of this process */
    for (int k = 0; k < last; k++) {
        struct window *w = &m->windows[k];
        uint64_t at = *address - (uint64_t)(uintptr_t)w->data;
        if (at < w->size) {
            *address = w->base + at;
            return w;
        }
    }
    return NULL;
}

static struct window *window_of(struct machine *m, int space, uint64_t *address) {
    struct window *shared = &m->windows[m->num_windows - 2];
    if (space == SHARED) return shared;
    if (space == LOCAL) return shared + 1;
    if (space == GENERIC && IS_SHARED(*address)) {
        *address &= 0xffffffffu;
        return shared;
    }
    if (space == GENERIC && IS_LOCAL(*address)) {
        *address &= 0xffffffffu;
        return shared + 1;
    }
    return global_window(m, address);
}

static void fault_at(struct machine *m, const struct access *x, int kind, int lane) {
    struct window *shared = &m->windows[m->num_windows - 2];
    struct fault f = {.kind = kind, .lane = lane, .argument = -1, .address = x->address[lane]};
    if (x->window != NULL) {
        f.address -= x->window->base;
        f.argument = x->window->argument;
        f.space = x->window == shared ? SHARED : x->window == shared + 1 ? LOCAL : GLOBAL;
    }
    add_fault(m, f);
}

int next_window(struct machine *m, const struct instruction *i, struct access *x) {
    while (x->rest && !m->is_stopped) {
        int first = __builtin_ctz(x->rest);
        uint64_t raw = x->address[first];
        struct window *w = x->window = window_of(m, i->space, &x->address[first]);
        uint32_t lanes = 1u << first;
        if (w != NULL && i->space != GENERIC && (i->space != GLOBAL || IS_GLOBAL(raw))) {
            lanes = 0;
            FOR_LANES lanes |= (uint32_t)((x->address[l] ^ raw) >> WINDOW_SPAN == 0) << l;
            if (i->space != GLOBAL) lanes = ALL_LANES;
            lanes &= x->rest;
        }
        x->rest &= ~lanes;
        if (w == NULL) {
            fault_at(m, x, OUT_OF_BOUNDS, first);
            continue;
        }
        uint64_t bytes = (uint64_t)x->bytes, low = bytes - 1, base = w->base;
        uint64_t last = w->size >= bytes ? w->size - bytes : 0;
        uint32_t inside = 0, aligned = 0;
        FOR_LANES inside |= (uint32_t)(x->address[l] - base <= last) << l;
        FOR_LANES aligned |= (uint32_t)((x->address[l] & low) == 0) << l;
        if (w->size < bytes) inside = 0;
        uint32_t outside = lanes & ~inside, crooked = lanes & inside & ~aligned;
        if (outside) fault_at(m, x, OUT_OF_BOUNDS, __builtin_ctz(outside));
        if (crooked) fault_at(m, x, MISALIGNED, __builtin_ctz(crooked));
        x->lanes = lanes & inside & aligned;
        if (x->lanes && !m->is_stopped) return 1;
    }
    return 0;
}

void check_defined(struct machine *m, const struct access *x, int lane, uint64_t at) {
    if (!m->checks_initialised || x->window->defined == NULL) return;
    if (memchr(x->window->defined + at, 0, (size_t)x->bytes) != NULL) {
        fault_at(m, x, UNINITIALISED_MEMORY, lane);
    }
}

int may_write(struct machine *m, const struct access *x) {
    if (x->window->is_read_only) fault_at(m, x, WRITE_TO_READ_ONLY, __builtin_ctz(x->lanes));
    return !x->window->is_read_only;
}

int lanes_in_order(struct machine *m, uint32_t mask, uint8_t *lanes) {
    int count = 0;
    FOR_ACTIVE(l, mask) lanes[count++] = (uint8_t)l;
    if (m->order != REVERSE && (m->order != RANDOM || next_random(m) & 1)) return count;
    for (int k = 0; k < count / 2; k++) {
        uint8_t lane = lanes[k];
        lanes[k] = lanes[count - 1 - k];
        lanes[count - 1 - k] = lane;
    }
    return count;
}

void count_requests(struct machine *m, const struct access *x, enum request request) {
    if (x->window == &m->windows[m->num_windows - 2]) {
        count_shared(m, x->address, x->lanes, x->bytes, request);
    } else if (x->window != &m->windows[m->num_windows - 1]) {
        count_global(m, x->address, x->lanes, x->bytes, request);
    }
}

static uint64_t read_element(const uint8_t *p, int size, int is_signed) {
    uint64_t value = 0;
    memcpy(&value, p, (size_t)size);
    if (is_signed && size < 8 && value >> (8 * size - 1)) value |= ~0ull << (8 * size);
    return value;
}

#define LOAD_LANES(type)                                                                \
    for (int k = 0; k < i->vector; k++) {                                               \
        type *d = destination(m, i, k);                                                 \
        FOR_ACTIVE(l, x.lanes) memcpy(&d[l], data[l] + k * sizeof(type), sizeof(type)); \
    }

static void load(struct machine *m, const struct instruction *i, uint32_t mask) {
    struct access x;
    begin_access(m, i, 0, i->size * i->vector, mask, &x);
    int is_plain = 1;
    for (int k = 0; k < i->vector; k++) is_plain &= i->destination_bits[k] == 8 * i->size;
    while (next_window(m, i, &x)) {
        struct window *w = x.window;
        int checks = w->defined != NULL && m->checks_initialised, tracks = is_tracked(m, w);
        const uint8_t *data[LANES];
        if (m->counts) count_requests(m, &x, LOAD);
        FOR_ACTIVE(l, x.lanes) {
            uint64_t at = offset_in(m, &x, l);
            data[l] = w->data + at;
            if (checks) check_defined(m, &x, l, at);
            if (tracks) load_races(m, w, at, x.bytes, l, (i->flags & STRONG) != 0);
        }
        if (is_plain && i->size == 4) {
            LOAD_LANES(uint32_t)
        } else if (is_plain && i->size == 8) {
            LOAD_LANES(uint64_t)
        } else {
            for (int k = 0; k < i->vector; k++) {
                void *d = destination(m, i, k);
                FOR_ACTIVE(l, x.lanes) {
                    const uint8_t *p = data[l] + k * i->size;
                    uint64_t value = read_element(p, i->size, i->flags & SIGNED);
                    set_lane_bits(d, i->destination_bits[k], l, value);
                }
            }
        }
    }
}

static void store(struct machine *m, const struct instruction *i, uint32_t mask) {
    struct access x;
    begin_access(m, i, 0, i->size * i->vector, mask, &x);
    const void *values[MAX_SOURCES];
    for (int k = 0; k < i->vector; k++) values[k] = source(m, i, 1 + k);
    while (next_window(m, i, &x)) {
        struct window *w = x.window;
        int tracks = is_tracked(m, w);
        if (!may_write(m, &x)) continue;
        if (m->counts) count_requests(m, &x, STORE);
        uint8_t lanes[LANES], bytes[64];
        int num_lanes = lanes_in_order(m, x.lanes, lanes);
        for (int n = 0; n < num_lanes; n++) {
            int l = lanes[n];
            uint64_t at = offset_in(m, &x, l);
            for (int k = 0; k < i->vector; k++) {
                uint64_t value = lane_bits(values[k], i->source_bits[1 + k], l);
                memcpy(bytes + k * i->size, &value, (size_t)i->size);
            }
            uint8_t *p = w->data + at;
            if (tracks) {
                int is_same = memcmp(p, bytes, (size_t)x.bytes) == 0;
                store_races(m, w, at, x.bytes, l, (i->flags & STRONG) != 0, is_same);
            }
            memcpy(p, bytes, (size_t)x.bytes);
            mark_defined(w, at, x.bytes);
        }
    }
}

/* Addresses of one space as generic ones, and back. */
static void cvta(struct machine *m, const struct instruction *i, uint32_t mask) {
    const void *a = source(m, i, 0);
    void *d = destination(m, i, 0);
    uint64_t bit = i->space == SHARED ? 1ull << 61 : i->space == LOCAL ? 1ull << 60 : 0;
    FOR_ACTIVE(l, mask) {
        uint64_t address = lane_bits(a, i->source_bits[0], l);
        if (bit) address = i->mode ? address & 0xffffffffu : address | bit;
        set_lane_bits(d, i->destination_bits[0], l, address);
    }
}

/* Fresh shared and local memory: not defined, and full of what is not a number. */
void start_block_memory(struct machine *m) {
    if (m->shared_bytes) {
        memset(m->shared, 0xff, (size_t)m->shared_bytes);
        memset(m->shared_defined, 0, (size_t)m->shared_bytes);
    }
    size_t local = (size_t)m->local_bytes * (size_t)(m->num_warps * LANES);
    if (local) {
        memset(m->local, 0xff, local);
        memset(m->local_defined, 0, local);
    }
}

const struct operation memory_operations[] = {
    {"ld", load},
    {"st", store},
    {"cvta", cvta},
    {0},
};
