/* The caches of a GPU, replayed.
 *
 * So many neighbouring blocks, or one, go to a multiprocessor, the next to the next, and round
 * again; each holds a fixed number of blocks at a time. The warps there take turns, one request
 * each, and so do the multiprocessors. First-level caches hold
 * lines of 128 bytes with valid bits for sectors of 32; stores and atomics pass through them. The
 * second level holds sectors of its lines too and writes back. Both replace the line not used for
 * longest within a set; sets are chosen by a hash, as on GPUs. Whole sectors are written, so
 * stores fetch nothing. The second level starts empty, and what is dirty at the end is written.
 */
#include "cache.h"

enum { ALL_SECTORS = 15 };

struct line {
    uint64_t tag; /* number of the line + 1; 0: empty */
    uint64_t used;
    uint8_t valid, dirty;
};

struct cache {
    struct line *lines;
    int64_t sets, ways;
    uint64_t clock;
};

static struct cache new_cache(int64_t bytes, int64_t ways) {
    struct cache c = {.ways = ways, .sets = bytes / 128 / ways};
    if (c.sets < 1) c.sets = 1;
    c.lines = calloc((size_t)(c.sets * ways), sizeof *c.lines);
    return c;
}

/* The line of a sector, or the one to be replaced by it, then emptied. `evicted` gets the dirty
 * sectors that it held. */
static struct line *line_of(struct cache *c, uint64_t number, int *evicted) {
    uint64_t hash = number * 0x9e3779b97f4a7c15ull;
    struct line *set = c->lines + (int64_t)((hash >> 32) % (uint64_t)c->sets) * c->ways;
    struct line *oldest = set;
    *evicted = 0;
    for (int64_t k = 0; k < c->ways; k++) {
        if (set[k].tag == number + 1) {
            set[k].used = ++c->clock;
            return &set[k];
        }
        if (set[k].used < oldest->used) oldest = &set[k];
    }
    *evicted = __builtin_popcount(oldest->dirty);
    *oldest = (struct line){.tag = number + 1, .used = ++c->clock};
    return oldest;
}

static int is_in(struct cache *c, uint64_t number, int sector) {
    uint64_t hash = number * 0x9e3779b97f4a7c15ull;
    struct line *set = c->lines + (int64_t)((hash >> 32) % (uint64_t)c->sets) * c->ways;
    for (int64_t k = 0; k < c->ways; k++) {
        if (set[k].tag == number + 1) return set[k].valid >> sector & 1;
    }
    return 0;
}

static void second_level(
    struct machine *m, struct cache *l2, uint64_t number, int sector, enum request request
) {
    int64_t *counted = m->counted + CACHE_COUNTS;
    int evicted;
    struct line *line = line_of(l2, number, &evicted);
    int hits = line->valid >> sector & 1;
    counted[DRAM_WRITE_SECTORS] += evicted;
    counted[DRAM_READ_SECTORS] += !hits && request != STORE;
    if (request == LOAD) counted[L2_READ_SECTORS]++, counted[L2_READ_HIT_SECTORS] += hits;
    if (request == STORE) counted[L2_WRITE_SECTORS]++;
    if (request == ATOMIC) counted[L2_ATOMIC_SECTORS]++, counted[L2_ATOMIC_HIT_SECTORS] += hits;
    line->valid |= 1 << sector;
    if (request != LOAD) line->dirty |= 1 << sector;
}

static void replay(
    struct machine *m, struct cache *l1, struct cache *l2, struct requests *requests
) {
    int64_t *counted = m->counted + CACHE_COUNTS;
    uint64_t word = requests->words[requests->next++];
    enum request request = (enum request)(word >> 32);
    for (int n = (int)(word & 0xffffffffu); n > 0; n--) {
        uint64_t at = requests->words[requests->next++];
        uint64_t number = at / 4;
        int sector = at % 4, evicted;
        if (request == LOAD) {
            struct line *line = line_of(l1, number, &evicted);
            int hits = line->valid >> sector & 1;
            counted[L1_READ_SECTORS]++;
            counted[L1_HIT_SECTORS] += hits;
            line->valid |= 1 << sector;
            if (hits) continue;
        } else if (request == ATOMIC && is_in(l1, number, sector)) {
            line_of(l1, number, &evicted)->valid &= ~(1 << sector);
        }
        second_level(m, l2, number, sector, request);
    }
}

void add_to_trace(struct machine *m, enum request request, const uint64_t *sectors, int n) {
    struct requests *r = &m->trace->warps[m->warp_id];
    if (r->count + n + 1 > r->capacity) {
        r->capacity = 2 * r->capacity + n + 64;
        r->words = realloc(r->words, (size_t)r->capacity * sizeof *r->words);
    }
    r->words[r->count++] = (uint64_t)request << 32 | (uint64_t)n;
    memcpy(r->words + r->count, sectors, (size_t)n * sizeof *sectors);
    r->count += n;
}

/* A multiprocessor's share of the list of blocks, and the traces of those it holds. */
struct multiprocessor {
    struct cache l1;
    struct trace *traces;
    int64_t next; /* place in the list */
};

/* Runs the next block of this multiprocessor. Returns: whether there was one. */
static int take_block(
    struct machine *m, struct multiprocessor *p, int64_t id, const struct geometry *geometry,
    struct trace *trace
) {
    int64_t number = geometry->multiprocessors, neighbours = geometry->neighbours;
    while (p->next < m->num_blocks && m->blocks[p->next] / neighbours % number != id) p->next++;
    if (p->next >= m->num_blocks || m->is_stopped) return 0;
    for (int k = 0; k < MAX_WARPS; k++) trace->warps[k].count = trace->warps[k].next = 0;
    m->trace = trace;
    run_block(m, p->next++);
    m->trace = NULL;
    return 1;
}

/* One request of every warp of a block. Returns: whether there was any. */
static int turn(struct machine *m, struct cache *l1, struct cache *l2, struct trace *trace) {
    int any = 0;
    for (int k = 0; k < m->num_warps; k++) {
        struct requests *r = &trace->warps[k];
        if (r->next >= r->count) continue;
        replay(m, l1, l2, r);
        any = 1;
    }
    return any;
}

void run_on_multiprocessors(struct machine *m, const struct geometry *geometry) {
    int64_t number = geometry->multiprocessors, together = geometry->blocks_together;
    struct cache l2 = new_cache(geometry->l2_bytes, geometry->l2_ways);
    struct multiprocessor *all = calloc((size_t)number, sizeof *all);
    for (int64_t id = 0; id < number; id++) {
        all[id].l1 = new_cache(geometry->l1_bytes, geometry->l1_ways);
        all[id].traces = calloc((size_t)together, sizeof *all[id].traces);
    }
    for (int any = 1; any;) {
        any = 0;
        for (int64_t k = 0; k < together; k++) {
            for (int64_t id = 0; id < number; id++) {
                struct multiprocessor *p = &all[id];
                while (!turn(m, &p->l1, &l2, &p->traces[k])) {
                    if (!take_block(m, p, id, geometry, &p->traces[k])) goto next;
                    any = 1;
                }
                any = 1;
            next:;
            }
        }
    }
    for (int64_t k = 0; k < l2.sets * l2.ways; k++) {
        m->counted[CACHE_COUNTS + DRAM_WRITE_SECTORS] += __builtin_popcount(l2.lines[k].dirty);
    }
    for (int64_t id = 0; id < number; id++) {
        for (int64_t k = 0; k < together; k++) {
            for (int w = 0; w < MAX_WARPS; w++) free(all[id].traces[k].warps[w].words);
        }
        free(all[id].traces);
        free(all[id].l1.lines);
    }
    free(all);
    free(l2.lines);
}
