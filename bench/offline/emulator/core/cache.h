/* Caches by replay: the requests of the blocks that share a multiprocessor, in turns. */
#ifndef CACHE_H
#define CACHE_H

#include "machine.h"

struct geometry {
    int64_t multiprocessors, blocks_together; /* blocks that a multiprocessor holds at a time */
    int64_t l1_bytes, l1_ways, l2_bytes, l2_ways;
    int64_t neighbours; /* blocks in a row on the same multiprocessor */
};

/* One warp's requests: a word of kind and number of sectors, then the sectors. */
struct requests {
    uint64_t *words;
    int64_t count, capacity, next;
};

struct trace {
    struct requests warps[MAX_WARPS];
};

void add_to_trace(struct machine *m, enum request request, const uint64_t *sectors, int n);
void run_on_multiprocessors(struct machine *m, const struct geometry *geometry);

/* launch.c: the block at a place in the list */
void run_block(struct machine *m, int64_t place);

#endif
