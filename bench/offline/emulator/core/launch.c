/* A launch: its blocks one after another, the warps of a block in turns between barriers. */
#include <fenv.h>
#include <sys/mman.h>

#include "cache.h"
#include "control.h"

enum special_kind {
    TID_X, TID_Y, TID_Z, NTID_X, NTID_Y, NTID_Z, CTAID_X, CTAID_Y, CTAID_Z, NCTAID_X, NCTAID_Y,
    NCTAID_Z, LANEID, WARPID, NWARPID, LANEMASK_EQ, LANEMASK_LT, LANEMASK_LE, LANEMASK_GT,
    LANEMASK_GE, SMID, TOTAL_SMEM_SIZE
};

static uint32_t special_value(struct machine *m, int kind, int warp, int lane) {
    int thread = warp * LANES + lane;
    switch (kind) {
    case TID_X: return (uint32_t)(thread % m->threads[0]);
    case TID_Y: return (uint32_t)(thread / m->threads[0] % m->threads[1]);
    case TID_Z: return (uint32_t)(thread / m->threads[0] / m->threads[1]);
    case NTID_X: case NTID_Y: case NTID_Z: return (uint32_t)m->threads[kind - NTID_X];
    case CTAID_X: case CTAID_Y: case CTAID_Z: return (uint32_t)m->block_index[kind - CTAID_X];
    case NCTAID_X: case NCTAID_Y: case NCTAID_Z: return (uint32_t)m->grid[kind - NCTAID_X];
    case LANEID: return (uint32_t)lane;
    case WARPID: return (uint32_t)warp;
    case NWARPID: return (uint32_t)m->num_warps;
    case LANEMASK_EQ: return 1u << lane;
    case LANEMASK_LT: return (1u << lane) - 1;
    case LANEMASK_LE: return (2u << lane) - 1;
    case LANEMASK_GT: return ~((2u << lane) - 1);
    case LANEMASK_GE: return ~((1u << lane) - 1);
    case TOTAL_SMEM_SIZE: return (uint32_t)m->shared_bytes;
    default: return 0;
    }
}

static void start_warp(struct machine *m, int id) {
    struct warp *w = &m->warps[id];
    int lanes = m->num_threads - id * LANES;
    w->live = lanes >= LANES ? ALL_LANES : (1u << lanes) - 1;
    w->num_groups = 1;
    w->current = 0;
    w->groups[0] = (struct group){.pc = 0, .mask = w->live};
    w->barrier = -1;
    memset(w->ordered, 0, sizeof w->ordered);
    /* all ones are no number in any floating point format */
    memset(w->registers, 0xff, (size_t)m->register_bytes);
    memset(w->defined, 0, (size_t)m->num_registers * 2 * sizeof *w->defined);
    w->defined[0] = w->defined[1] = ALL_LANES; /* constants */
    for (int k = 0; k < m->num_specials; k++) {
        const struct special *s = &m->specials[k];
        uint32_t *lanes_of = (uint32_t *)(w->registers + s->place);
        FOR_LANES lanes_of[l] = special_value(m, s->kind, id, l);
        w->defined[2 * s->register_id] = w->defined[2 * s->register_id + 1] = ALL_LANES;
    }
}

/* Warps of a barrier know of each other's accesses so far, and of what each knew. */
static void order_warps(struct machine *m, uint32_t warps) {
    uint32_t merged[MAX_WARPS] = {0};
    FOR_ACTIVE(k, warps) {
        for (int q = 0; q < m->num_warps; q++) {
            uint32_t known = warps >> q & 1 ? m->stamp + 1 : m->warps[k].ordered[q];
            if (known > merged[q]) merged[q] = known;
        }
    }
    FOR_ACTIVE(k, warps) {
        if (m->warps[k].barrier >= 0) memcpy(m->warps[k].ordered, merged, sizeof merged);
    }
}

/* All warps of a barrier without a number of threads have to wait at the same instruction. */
static int is_complete(struct machine *m, int id) {
    struct barrier *b = &m->barriers[id];
    if (!b->arrived) return 0;
    if (b->threads) return __builtin_popcount(b->arrived) * LANES >= b->threads;
    for (int k = 0; k < m->num_warps; k++) {
        if (m->warps[k].live && !(b->arrived >> k & 1)) return 0;
    }
    int first = __builtin_ctz(b->arrived);
    FOR_ACTIVE(k, b->arrived) {
        if (b->pc[k] == b->pc[first]) continue;
        m->warp_id = (int)k;
        m->pc = b->pc[k];
        struct fault f = {.kind = DIVERGENT_BARRIER, .other_pc = b->pc[first], .argument = -1};
        add_fault(m, f);
    }
    return 1;
}

/* Returns: whether a barrier let its warps go. */
static int complete_barriers(struct machine *m) {
    int completed = 0;
    for (int id = 0; id < MAX_BARRIERS; id++) {
        struct barrier *b = &m->barriers[id];
        if (!is_complete(m, id)) continue;
        order_warps(m, b->arrived);
        FOR_ACTIVE(k, b->arrived) {
            if (m->warps[k].barrier == id) m->warps[k].barrier = -1;
        }
        b->arrived = 0;
        completed = 1;
    }
    return completed;
}

static void warps_in_order(struct machine *m, int *warps) {
    for (int k = 0; k < m->num_warps; k++) {
        warps[k] = m->order == REVERSE ? m->num_warps - 1 - k : k;
    }
    if (m->order != RANDOM) return;
    for (int k = m->num_warps - 1; k > 0; k--) {
        int other = (int)(next_random(m) % (uint64_t)(k + 1)), kept = warps[k];
        warps[k] = warps[other];
        warps[other] = kept;
    }
}

static int64_t turn_length(struct machine *m) {
    if (m->order == LOCKSTEP) return 1;
    return m->order == RANDOM ? 1 + (int64_t)(next_random(m) % 100) : INT64_MAX;
}

void run_block(struct machine *m, int64_t place) {
    m->block = m->blocks[place];
    m->block_index[0] = (int32_t)(m->block % m->grid[0]);
    m->block_index[1] = (int32_t)(m->block / m->grid[0] % m->grid[1]);
    m->block_index[2] = (int32_t)(m->block / m->grid[0] / m->grid[1]);
    m->serial = m->first_serial + (uint32_t)place;
    m->stamp = 0;
    m->steps = 0;
    memset(m->barriers, 0, sizeof m->barriers);
    start_block_memory(m);
    for (int k = 0; k < m->num_warps; k++) start_warp(m, k);
    while (!m->is_stopped) {
        int warps[MAX_WARPS], live = 0, ran = 0;
        warps_in_order(m, warps);
        for (int k = 0; k < m->num_warps && !m->is_stopped; k++) {
            struct warp *w = &m->warps[warps[k]];
            if (w->live && w->barrier < 0) {
                run_warp(m, warps[k], turn_length(m));
                ran = 1;
            }
            live += w->live != 0;
        }
        if (!live || m->is_stopped) return;
        if (!complete_barriers(m) && !ran) {
            for (int k = 0; k < m->num_warps; k++) {
                if (m->warps[k].live) m->warp_id = k, m->pc = m->warps[k].groups[0].pc - 1;
            }
            fault_here(m, BARRIER_NEVER_COMPLETES, 0);
            m->is_stopped = 1;
        }
    }
}

/* Memory of shadows, kept from launch to launch. The last piece is the one in use. */
static struct {
    struct shadow *shadows[64];
    uint64_t sizes[64], used;
    int num_pieces;
    uint32_t next_serial;
} arena = {.next_serial = 1};

/* Zeros that take room only where they are touched: buffers can be far larger than what runs. */
static struct shadow *new_piece(uint64_t count) {
    void *piece = mmap(NULL, count * sizeof(struct shadow), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return piece == MAP_FAILED ? NULL : piece;
}

static void drop_pieces(int count) {
    for (int k = 0; k < count; k++) munmap(arena.shadows[k], arena.sizes[k] * sizeof(struct shadow));
}

struct shadow *reserve_shadows(struct machine *m, uint64_t count) {
    int last = arena.num_pieces - 1;
    if (last < 0 || arena.used + count > arena.sizes[last]) {
        uint64_t size = last < 0 ? 0 : 2 * arena.sizes[last];
        if (size < count) size = count;
        struct shadow *piece = last < 62 ? new_piece(size) : NULL;
        if (piece == NULL) {
            m->is_stopped = m->is_out_of_memory = 1;
            return NULL;
        }
        last = arena.num_pieces++;
        arena.shadows[last] = piece;
        arena.sizes[last] = size;
        arena.used = 0;
    }
    struct shadow *first = arena.shadows[last] + arena.used;
    arena.used += count;
    return first;
}

/* The last piece, which is the largest, is used again; the numbers of blocks go on, until they run
 * out. */
static void start_shadows(struct machine *m, int64_t blocks) {
    int keeps = arena.num_pieces && arena.next_serial < UINT32_MAX - 1 - (uint64_t)blocks;
    if (arena.num_pieces) {
        int last = arena.num_pieces - 1;
        drop_pieces(keeps ? last : arena.num_pieces);
        arena.shadows[0] = arena.shadows[last];
        arena.sizes[0] = arena.sizes[last];
    }
    if (!keeps) arena.next_serial = 1;
    arena.num_pieces = keeps;
    arena.used = 0;
    m->first_serial = arena.next_serial;
    arena.next_serial += (uint32_t)blocks;
    for (int k = 0; k < m->num_regions; k++) {
        struct region *r = &m->regions[k];
        if (r->is_tracked) r->shadows = reserve_shadows(m, (r->size >> r->shift) + 2);
    }
}

/* Runs the blocks. Returns: the number of faults on record, or -1 without memory for shadows. */
int launch(struct machine *m, const struct geometry *geometry) {
    fenv_t environment;
    feholdexcept(&environment);
    fesetenv(FE_DFL_ENV);
    size_t shared = (size_t)m->shared_bytes + 1, threads = (size_t)(m->num_warps * LANES);
    size_t local = (size_t)m->local_bytes * threads + 1;
    struct window *w = &m->windows[m->num_windows - 2];
    w[0].data = m->shared = malloc(shared);
    w[0].defined = m->shared_defined = malloc(shared);
    w[1].data = m->local = malloc(local);
    w[1].defined = m->local_defined = malloc(local);
    for (int k = 0; k < m->num_warps; k++) {
        m->warps[k].registers = aligned_alloc(64, ((size_t)m->register_bytes + 63) / 64 * 64);
        m->warps[k].defined = malloc((size_t)m->num_registers * 2 * sizeof(uint32_t));
    }
    m->random = (uint64_t)m->seed * 0x9e3779b97f4a7c15ull | 1;
    start_shadows(m, m->num_blocks);
    if (geometry != NULL && !m->is_stopped) {
        run_on_multiprocessors(m, geometry);
    } else {
        for (int64_t k = 0; k < m->num_blocks && !m->is_stopped; k++) run_block(m, k);
    }
    for (int k = 0; k < m->num_warps; k++) {
        free(m->warps[k].registers);
        free(m->warps[k].defined);
    }
    free(m->shared), free(m->shared_defined), free(m->local), free(m->local_defined);
    fesetenv(&environment);
    return m->is_out_of_memory ? -1 : m->num_faults;
}
