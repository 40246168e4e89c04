/* Races: who wrote and read a piece of memory last, and whether a barrier lies between.
 *
 * A stamp numbers the memory accesses of a block. A barrier tells every warp that takes part which
 * stamps of the other warps lie behind it (`ordered`). An access of another warp with a later
 * stamp is unordered; an access of another block always is. Numbers of blocks run on from launch
 * to launch, so shadows of an earlier launch, and in shared memory of an earlier block, are stale
 * without being cleared.
 */
#include "machine.h"

/* write_info, read_info: the place in the code, the warp, and these */
enum { PC_BITS = 22, WARP_SHIFT = 22, WAS_STRONG = 1 << 27, SEVERAL_WARPS = 1 << 28 };
enum { SEVERAL_BLOCKS = 1 << 29 };

static inline int pc_of(uint32_t info) { return info & ((1 << PC_BITS) - 1); }
static inline int warp_of(uint32_t info) { return info >> WARP_SHIFT & 31; }

static void race(struct machine *m, int kind, uint32_t info, uint32_t serial, int lane,
                 struct window *w, uint64_t at) {
    struct fault f = {
        .kind = kind,
        .other_pc = pc_of(info),
        .other_block = (int64_t)serial - m->first_serial,
        .lane = lane,
        .argument = w->argument,
        .space = w->region == m->num_regions - 1 ? SHARED : GLOBAL,
        .address = at,
    };
    add_fault(m, f);
}

/* Narrower pieces: every shadow is copied to those that take its place. */
static void refine(struct machine *m, struct region *r, int shift) {
    uint64_t pieces = (r->size >> shift) + 1, ratio = 1ull << (r->shift - shift);
    struct shadow *fine = reserve_shadows(m, pieces);
    if (fine == NULL) return;
    for (uint64_t k = 0; k < pieces; k++) fine[k] = r->shadows[k / ratio];
    r->shadows = fine;
    r->shift = shift;
}

static struct shadow *shadows_of(
    struct machine *m, struct window *w, uint64_t at, int bytes, int *pieces
) {
    struct region *r = &m->regions[w->region];
    if (bytes < 1 << r->shift) refine(m, r, bytes == 2 ? 1 : 0);
    *pieces = m->is_out_of_memory ? 0 : bytes >> r->shift;
    /* shared memory is another one in every block */
    m->oldest_serial = w->region == m->num_regions - 1 ? m->serial : m->first_serial;
    return r->shadows + ((w->place + at) >> r->shift);
}

static inline int is_unordered(struct machine *m, int warp, uint32_t stamp) {
    return warp != m->warp_id && stamp >= m->warp->ordered[warp];
}

static inline uint32_t not_this(struct machine *m, const struct shadow *s, uint32_t serial) {
    return serial == m->serial ? s->other : serial;
}

/* An access against the last write. */
static void against_writer(
    struct machine *m, struct shadow *s, int is_atomic, int lane, struct window *w, uint64_t at
) {
    if (s->writer < m->oldest_serial || (is_atomic && s->write_info & WAS_STRONG)) return;
    if (s->writer != m->serial || s->write_info & SEVERAL_BLOCKS) {
        race(m, RACE_BETWEEN_BLOCKS, s->write_info, not_this(m, s, s->writer), lane, w, at);
        return;
    }
    int unordered = is_unordered(m, warp_of(s->write_info), s->write_stamp);
    if (s->write_info & SEVERAL_WARPS) {
        for (int k = 0; k < m->num_warps; k++) unordered |= is_unordered(m, k, s->write_stamp);
    }
    if (unordered) race(m, RACE_IN_BLOCK, s->write_info, s->writer, lane, w, at);
}

static void against_readers(
    struct machine *m, struct shadow *s, int is_atomic, int lane, struct window *w, uint64_t at
) {
    if (s->reader < m->oldest_serial || (is_atomic && s->read_info & WAS_STRONG)) return;
    if (s->reader != m->serial || s->read_info & SEVERAL_BLOCKS) {
        race(m, RACE_BETWEEN_BLOCKS, s->read_info, not_this(m, s, s->reader), lane, w, at);
        return;
    }
    FOR_ACTIVE(warp, s->read_warps) {
        if (is_unordered(m, (int)warp, s->read_stamp)) {
            race(m, RACE_IN_BLOCK, s->read_info, s->reader, lane, w, at);
            return;
        }
    }
}

static inline uint32_t info_here(struct machine *m, int strong) {
    uint32_t info = (uint32_t)m->pc | (uint32_t)m->warp_id << WARP_SHIFT;
    return strong ? info | WAS_STRONG : info;
}

static void note_read(struct machine *m, struct shadow *s, int strong) {
    uint32_t info = info_here(m, strong), warps = 1u << m->warp_id;
    if (s->reader >= m->oldest_serial && s->reader != m->serial) {
        info |= SEVERAL_BLOCKS;
        s->other = s->reader;
    } else if (s->reader == m->serial) {
        info |= s->read_info & SEVERAL_BLOCKS;
        /* readers that come before this one are ordered before whatever comes after it */
        FOR_ACTIVE(k, s->read_warps) {
            if (is_unordered(m, (int)k, s->read_stamp)) warps |= 1u << k;
        }
        if (!(s->read_info & WAS_STRONG)) info &= ~(uint32_t)WAS_STRONG;
    }
    s->reader = m->serial;
    s->read_stamp = m->stamp;
    s->read_warps = warps;
    s->read_info = info;
}

void load_races(
    struct machine *m, struct window *w, uint64_t at, int bytes, int lane, int strong
) {
    int pieces;
    struct shadow *s = shadows_of(m, w, at, bytes, &pieces);
    for (int k = 0; k < pieces; k++, s++) {
        if (s->writer >= m->oldest_serial) against_writer(m, s, strong, lane, w, at);
        /* the same warp again, with nothing new to say */
        if (s->reader == m->serial && s->read_stamp == m->stamp) continue;
        note_read(m, s, strong);
    }
}

void store_races(
    struct machine *m, struct window *w, uint64_t at, int bytes, int lane, int strong, int is_same
) {
    int pieces;
    struct shadow *s = shadows_of(m, w, at, bytes, &pieces);
    for (int k = 0; k < pieces; k++, s++) {
        uint32_t info = info_here(m, strong);
        int is_written = s->writer >= m->oldest_serial;
        if (!is_same) {
            if (is_written && s->writer == m->serial && s->write_stamp == m->stamp && !strong) {
                race(m, RACE_IN_WARP, s->write_info, s->writer, lane, w, at);
            }
            against_writer(m, s, strong, lane, w, at);
            against_readers(m, s, strong, lane, w, at);
        } else if (is_written && s->writer != m->serial) {
            m->same_value_stores++;
        }
        if (is_written && strong && s->write_info & WAS_STRONG) {
            info |= s->write_info & (SEVERAL_BLOCKS | SEVERAL_WARPS);
            if (s->writer != m->serial) {
                info |= SEVERAL_BLOCKS;
                s->other = s->writer;
            } else if (warp_of(s->write_info) != m->warp_id) {
                info |= SEVERAL_WARPS;
            }
        }
        s->writer = m->serial;
        s->write_stamp = m->stamp;
        s->write_info = info;
        if (!is_same) s->reader = 0;
    }
}
