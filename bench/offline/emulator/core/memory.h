/* Where an access goes: windows, bounds, alignment. Used by loads, stores, atomics, matrices. */
#ifndef MEMORY_H
#define MEMORY_H

#include "machine.h"

/* The lanes of an instruction whose addresses lie in one window. */
struct access {
    uint64_t address[LANES];
    uint32_t rest; /* lanes not yet served */
    struct window *window;
    uint32_t lanes; /* those that are served now, all in bounds */
    int bytes;
};

/* Addresses of the active lanes: source k and the instruction's offset. */
void begin_access(
    struct machine *m, const struct instruction *i, int k, int bytes, uint32_t mask,
    struct access *x
);

/* The next lanes that share a window; those out of bounds or misaligned become faults.
 * Returns: 0 when none is left or the launch has stopped. */
int next_window(struct machine *m, const struct instruction *i, struct access *x);

static inline uint64_t offset_in(struct machine *m, const struct access *x, int lane) {
    uint64_t at = x->address[lane] - x->window->base;
    if (x->window == &m->windows[m->num_windows - 1]) {
        at += (uint64_t)m->local_bytes * (uint64_t)(m->warp_id * LANES + lane);
    }
    return at;
}

static inline int is_tracked(struct machine *m, const struct window *w) {
    return m->checks_races && w->region >= 0 && m->regions[w->region].is_tracked;
}

/* A fault unless all bytes have been written. */
void check_defined(struct machine *m, const struct access *x, int lane, uint64_t at);

static inline void mark_defined(const struct window *w, uint64_t at, int bytes) {
    if (w->defined) memset(w->defined + at, 1, (size_t)bytes);
}

/* A fault where the caller said that nothing is written. */
int may_write(struct machine *m, const struct access *x);

/* Which of two lanes that write the same bytes comes last is not defined: the lanes of a mask in
 * the order in which this launch serves them. Returns: their number. */
int lanes_in_order(struct machine *m, uint32_t mask, uint8_t *lanes);

void count_requests(struct machine *m, const struct access *x, enum request request);

#endif
