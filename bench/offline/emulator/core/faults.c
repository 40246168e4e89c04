/* What went wrong: one record for every place in the code and kind of fault. */
#include "machine.h"

static int is_race(int kind) {
    return kind == RACE_IN_WARP || kind == RACE_IN_BLOCK || kind == RACE_BETWEEN_BLOCKS;
}

/* Races are collected to the end of the launch; anything else ends it unless all is collected. */
void add_fault(struct machine *m, struct fault fault) {
    if (!is_race(fault.kind) && !m->collects) m->is_stopped = 1;
    fault.pc = m->pc;
    fault.warp = m->warp_id;
    fault.block = m->block;
    fault.count = 1;
    if (is_race(fault.kind)) fault.other_block = m->blocks[fault.other_block];
    for (int k = 0; k < m->num_faults; k++) {
        struct fault *known = &m->faults[k];
        if (known->kind == fault.kind && known->pc == fault.pc &&
            known->other_pc == fault.other_pc) {
            known->count++;
            return;
        }
    }
    if (m->num_faults < MAX_FAULTS) m->faults[m->num_faults++] = fault;
}

void fault_here(struct machine *m, int kind, int lane) {
    struct fault f = {.kind = kind, .lane = lane, .argument = -1};
    add_fault(m, f);
}
