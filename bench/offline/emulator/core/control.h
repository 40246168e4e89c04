/* What the loop over instructions and the launch share. */
#ifndef CONTROL_H
#define CONTROL_H

#include "machine.h"

enum { WAITS, ARRIVES_ONLY };

/* Runs a warp for a number of instructions, or until it waits, ends, or the launch has stopped. */
void run_warp(struct machine *m, int id, int64_t budget);

#endif
