/* The emulated machine: one launch of one program, executed block by block in warps of 32 lanes.
 *
 * Registers of a warp are arrays of 32 lanes, one after another: 2, 4 or 8 bytes a lane, and one
 * word with a bit a lane for a predicate. Constants have the same form in a pool of their own, so
 * an operand is a place in one of two pools. Beside every register lie two words that say in which
 * lanes its low and its high half hold a defined value: compilers pack a number with nothing.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 32, MAX_DESTINATIONS = 8, MAX_SOURCES = 10, MAX_WARPS = 32, MAX_FAULTS = 64 };
enum { MAX_CLASSES = 16, MAX_COUNTS = 64 };

#define ALL_LANES 0xffffffffu
#define FOR_LANES for (int l = 0; l < LANES; l++)
#define FOR_ACTIVE(l, mask) \
    for (uint32_t rest_ = (mask), l; rest_ && ((l = __builtin_ctz(rest_)), 1); rest_ &= rest_ - 1)

enum kind { PLAIN, BRANCH, EXIT, BARRIER, WARP_BARRIER, WARP_EXCHANGE };
enum flag {
    FLUSH = 1,           /* .ftz */
    SATURATE = 2,        /* .sat */
    PROPAGATE_NAN = 4,   /* .NaN */
    RELU = 8,            /* .relu */
    SIGN_FROM_XOR = 16,  /* .xorsign.abs */
    FINITE = 32,         /* .satfinite */
    SIGNED = 64,         /* a narrow value is extended by its sign */
    STRONG = 128,        /* an atomic or a load or store that may race with them */
    IS_TRANSPOSED = 256, /* .trans */
    COUNT_SHIFT = 512    /* .shiftamt */
};
enum rounding { TO_NEAREST, TO_ZERO, DOWN, UP, AWAY };
enum order { FORWARD, REVERSE, RANDOM, LOCKSTEP };
enum space { GLOBAL, SHARED, LOCAL, GENERIC };
enum fault_kind {
    OUT_OF_BOUNDS = 1,
    MISALIGNED,
    UNINITIALISED_MEMORY,
    UNINITIALISED_REGISTER,
    RACE_IN_WARP,
    RACE_IN_BLOCK,
    RACE_BETWEEN_BLOCKS,
    DIVERGENT_BARRIER,
    BARRIER_NEVER_COMPLETES,
    LANE_NOT_TAKING_PART,
    ENDLESS,
    TRAPPED,
    WRITE_TO_READ_ONLY
};

struct machine;
struct instruction;
typedef void (*run_function)(struct machine *, const struct instruction *, uint32_t mask);

struct instruction {
    run_function run;
    int32_t kind, instruction_class, line;
    int32_t guard, guard_id, guard_is_negated; /* guard < 0: none */
    int32_t num_destinations, num_sources;
    int32_t destination[MAX_DESTINATIONS], destination_id[MAX_DESTINATIONS];
    int32_t destination_bits[MAX_DESTINATIONS];
    int32_t source[MAX_SOURCES], source_id[MAX_SOURCES], source_bits[MAX_SOURCES];
    uint32_t needs_defined; /* a bit a source: an undefined value there is a fault */
    uint32_t negated;       /* a bit a source: a predicate is taken as its opposite */
    int32_t definedness;    /* how results follow from operands */
    uint32_t flags;
    int32_t rounding, comparison, join, mode; /* mode: what the operation makes of it */
    int32_t space, size, vector;              /* bytes of an element, elements */
    int32_t target;
    int64_t offset;
};

/* Whether results are defined: whole if all operands are; each half if the operands' are; or the
 * operation says it itself. */
enum definedness { WHOLE, HALVES, OWN };

/* An operation by name; the table of instructions (opcodes.py) refers to these names. */
struct operation {
    const char *name;
    run_function run;
    int32_t kind;
    int32_t definedness;
};

/* What a pointer may reach: one argument's bytes at an address of the emulated machine. */
struct window {
    uint64_t base, size; /* emulated address, bytes */
    uint8_t *data;
    uint8_t *defined; /* one byte a byte, or null where all is */
    int32_t region;
    int32_t argument;
    uint64_t place; /* first byte within the region */
    int64_t is_read_only;
};

/* Who touched a piece of memory last; stale if the block's number is below `first_serial`. */
struct shadow {
    uint32_t writer, write_stamp, write_info, reader, read_stamp, read_warps, read_info;
    uint32_t other; /* one more block, where several wrote or read */
};

/* Bytes that windows share. */
struct region {
    struct shadow *shadows;
    uint64_t size;
    int32_t shift; /* a shadow stands for 1 << shift bytes */
    int32_t is_tracked;
};

struct fault {
    int32_t kind, pc, other_pc, warp, lane, argument, space, count;
    int64_t block, other_block;
    uint64_t address; /* in the window, or the raw one where argument < 0 */
};

struct group {
    int32_t pc, is_waiting;
    uint32_t mask;
};

struct warp {
    uint32_t live; /* lanes that have not exited */
    int32_t num_groups, current;
    struct group groups[LANES];
    int32_t barrier, barrier_pc, barrier_threads; /* barrier < 0: runs */
    uint8_t *registers;
    uint32_t *defined;
    uint32_t ordered[MAX_WARPS]; /* accesses of a warp with a smaller stamp come before ours */
};

enum { MAX_BARRIERS = 16 };
struct barrier {
    int32_t threads; /* 0: all of the block */
    uint32_t arrived;
    int32_t pc[MAX_WARPS];
};

struct special {
    int32_t register_id, place, kind;
};

struct machine {
    /* program */
    const struct instruction *code;
    int32_t num_instructions, num_registers, register_bytes, num_specials;
    const struct special *specials;
    const uint8_t *constants;
    /* launch */
    int32_t threads[3], grid[3], num_threads, num_warps;
    int32_t shared_bytes, local_bytes;
    struct window *windows; /* the last two: shared and local memory */
    struct region *regions;
    int32_t num_windows, num_regions;
    const int64_t *blocks;
    int64_t num_blocks;
    uint32_t seed;
    int32_t order, checks_races, checks_initialised, worst_approximation, collects, counts;
    int64_t max_steps;
    /* state */
    int64_t block;
    int32_t block_index[3];
    struct warp *warp, warps[MAX_WARPS];
    struct barrier barriers[MAX_BARRIERS];
    int32_t warp_id;
    int32_t pc;
    uint32_t serial, first_serial; /* of the running block, of the launch's first */
    uint32_t oldest_serial;        /* whose shadows still matter */
    uint32_t stamp;                /* of the running memory access, within the block */
    uint64_t steps, random;
    uint8_t *shared, *shared_defined, *local, *local_defined;
    int64_t same_value_stores;
    int32_t is_stopped, is_out_of_memory;
    struct fault faults[MAX_FAULTS];
    int32_t num_faults;
    int64_t instructions[MAX_CLASSES];
    int64_t counted[MAX_COUNTS];
    struct trace *trace;
};

static inline void *destination(struct machine *m, const struct instruction *i, int k) {
    return m->warp->registers + i->destination[k];
}

/* Lanes of a source; an odd place is one of the constant pool. */
static inline const void *source(struct machine *m, const struct instruction *i, int k) {
    int32_t place = i->source[k];
    return place & 1 ? m->constants + (place - 1) : m->warp->registers + place;
}

static inline uint32_t predicate(struct machine *m, const struct instruction *i, int k) {
    uint32_t lanes = *(const uint32_t *)source(m, i, k);
    return i->negated >> k & 1 ? ~lanes : lanes;
}

static inline uint32_t half_defined(
    struct machine *m, const struct instruction *i, int k, int half
) {
    return m->warp->defined[2 * i->source_id[k] + half];
}

static inline uint32_t defined(struct machine *m, const struct instruction *i, int k) {
    return half_defined(m, i, k, 0) & half_defined(m, i, k, 1);
}

static inline void set_half_defined(
    struct machine *m, const struct instruction *i, int k, int half, uint32_t mask, uint32_t lanes
) {
    uint32_t *word = &m->warp->defined[2 * i->destination_id[k] + half];
    *word = (*word & ~mask) | (lanes & mask);
}

static inline void set_defined(
    struct machine *m, const struct instruction *i, int k, uint32_t mask, uint32_t lanes
) {
    set_half_defined(m, i, k, 0, mask, lanes);
    set_half_defined(m, i, k, 1, mask, lanes);
}

static inline void put16(uint16_t *d, const uint16_t *v, uint32_t mask) {
    if (mask == ALL_LANES) {
        memcpy(d, v, LANES * sizeof *d);
    } else {
        FOR_LANES d[l] = mask >> l & 1 ? v[l] : d[l];
    }
}

static inline void put32(uint32_t *d, const uint32_t *v, uint32_t mask) {
    if (mask == ALL_LANES) {
        memcpy(d, v, LANES * sizeof *d);
    } else {
        FOR_LANES d[l] = mask >> l & 1 ? v[l] : d[l];
    }
}

static inline void put64(uint64_t *d, const uint64_t *v, uint32_t mask) {
    if (mask == ALL_LANES) {
        memcpy(d, v, LANES * sizeof *d);
    } else {
        FOR_LANES d[l] = mask >> l & 1 ? v[l] : d[l];
    }
}

static inline void put_predicate(uint32_t *d, uint32_t lanes, uint32_t mask) {
    *d = (*d & ~mask) | (lanes & mask);
}

static inline uint64_t next_random(struct machine *m) {
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    return m->random ^= m->random << 17;
}

/* A register of any width: its bits in one lane, zeros above. */
static inline uint64_t lane_bits(const void *lanes, int bits, int l) {
    if (bits == 32) return ((const uint32_t *)lanes)[l];
    if (bits == 64) return ((const uint64_t *)lanes)[l];
    if (bits == 16) return ((const uint16_t *)lanes)[l];
    return *(const uint32_t *)lanes >> l & 1;
}

static inline void set_lane_bits(void *lanes, int bits, int l, uint64_t value) {
    if (bits == 32) {
        ((uint32_t *)lanes)[l] = (uint32_t)value;
    } else if (bits == 64) {
        ((uint64_t *)lanes)[l] = value;
    } else {
        ((uint16_t *)lanes)[l] = (uint16_t)value;
    }
}

/* One loop over lanes: OUT, IN: element types; a, b, c: the sources; the expression gives lane l. */
#define LANEWISE(name, OUT, IN, put, expression)                                              \
    static void name(struct machine *m, const struct instruction *i, uint32_t mask) {         \
        const IN *a = source(m, i, 0), *b = source(m, i, 1), *c = source(m, i, 2);            \
        OUT result[LANES];                                                                    \
        (void)b, (void)c;                                                                     \
        FOR_LANES result[l] = (OUT)(expression);                                              \
        put(destination(m, i, 0), (const void *)result, mask);                                \
    }

/* faults.c */
void add_fault(struct machine *m, struct fault fault);
void fault_here(struct machine *m, int kind, int lane);

/* memory.c */
void start_block_memory(struct machine *m);

/* shadow.c */
void load_races(struct machine *m, struct window *w, uint64_t at, int bytes, int lane, int strong);
void store_races(
    struct machine *m, struct window *w, uint64_t at, int bytes, int lane, int strong, int is_same
);
struct shadow *reserve_shadows(struct machine *m, uint64_t count); /* launch.c; or null */

/* requests.c */
enum request { LOAD, STORE, ATOMIC };
void count_global(
    struct machine *m, const uint64_t *address, uint32_t mask, int bytes, enum request request
);
void count_shared(
    struct machine *m, const uint64_t *address, uint32_t mask, int bytes, enum request request
);

/* Places in `counted`; the names in counts.py. Global ones once for each kind of request. */
enum {
    LANE_INSTRUCTIONS,
    PARTIAL_INSTRUCTIONS,
    DIVERGENT_BRANCHES,
    GLOBAL_COUNTS = 4,
    REQUESTS = 0,
    SECTORS,
    LINES,
    WAVEFRONTS,
    LINE_PASSES,
    BYTES,
    NUM_GLOBAL_COUNTS,
    SHARED_COUNTS = GLOBAL_COUNTS + 3 * NUM_GLOBAL_COUNTS,
    SHARED_REQUESTS = 0,
    SHARED_WAVEFRONTS,
    SHARED_CONFLICTS,
    NUM_SHARED_COUNTS,
    CACHE_COUNTS = SHARED_COUNTS + 3 * NUM_SHARED_COUNTS,
    L1_READ_SECTORS = 0,
    L1_HIT_SECTORS,
    L2_READ_SECTORS,
    L2_READ_HIT_SECTORS,
    L2_WRITE_SECTORS,
    L2_ATOMIC_SECTORS,
    L2_ATOMIC_HIT_SECTORS,
    DRAM_READ_SECTORS,
    DRAM_WRITE_SECTORS
};

extern const struct operation integer_operations[], bit_operations[], real_operations[],
    half_operations[], conversion_operations[], approximate_operations[], comparison_operations[],
    move_operations[], memory_operations[], atomic_operations[], lane_operations[],
    matrix_operations[], control_operations[];

#endif
