/* What Python calls. Numbers and places are all 64 bits wide, so that layouts cannot differ. */
#include "cache.h"
#include "control.h"

int launch(struct machine *m, const struct geometry *geometry);

static const struct operation *const FAMILIES[] = {
    integer_operations, bit_operations, real_operations, half_operations, conversion_operations,
    approximate_operations, comparison_operations, move_operations, memory_operations,
    atomic_operations, lane_operations, matrix_operations, control_operations,
};

static const struct operation *operation_at(int64_t number) {
    for (size_t f = 0; f < sizeof FAMILIES / sizeof *FAMILIES; f++) {
        for (const struct operation *o = FAMILIES[f]; o->name != NULL; o++) {
            if (number-- == 0) return o;
        }
    }
    return NULL;
}

/* The name of an operation, or null beyond the last. */
const char *operation_name(int64_t number) {
    const struct operation *o = operation_at(number);
    return o == NULL ? NULL : o->name;
}

int64_t row_length(void) { return 21 + 3 * (MAX_DESTINATIONS + MAX_SOURCES); }

/* Instructions from rows of numbers, whose columns are those of decode.py. */
struct instruction *new_program(const int64_t *rows, int64_t n) {
    struct instruction *code = calloc((size_t)n, sizeof *code);
    for (int64_t k = 0; k < n; k++) {
        struct instruction *i = &code[k];
        const int64_t *next = rows + k * row_length();
        const struct operation *o = operation_at(*next++);
        i->run = o->run;
        i->kind = o->kind;
        i->definedness = o->definedness;
        int32_t *const fields[] = {
            &i->instruction_class, &i->line, &i->guard, &i->guard_id, &i->guard_is_negated,
            &i->num_destinations, &i->num_sources, (int32_t *)&i->needs_defined,
            (int32_t *)&i->negated, (int32_t *)&i->flags, &i->rounding, &i->comparison, &i->join,
            &i->mode, &i->space, &i->size, &i->vector, &i->target,
        };
        for (size_t f = 0; f < sizeof fields / sizeof *fields; f++) *fields[f] = (int32_t)*next++;
        i->offset = *next++;
        next++; /* spare */
        for (int d = 0; d < MAX_DESTINATIONS; d++) {
            i->destination[d] = (int32_t)*next++;
            i->destination_id[d] = (int32_t)*next++;
            i->destination_bits[d] = (int32_t)*next++;
        }
        for (int s = 0; s < MAX_SOURCES; s++) {
            i->source[s] = (int32_t)*next++;
            i->source_id[s] = (int32_t)*next++;
            i->source_bits[s] = (int32_t)*next++;
        }
    }
    return code;
}

void free_program(struct instruction *code) { free(code); }

/* As declared in machine.py. */
struct order_form {
    const struct instruction *code;
    const struct special *specials;
    const uint8_t *constants;
    struct window *windows;
    struct region *regions;
    const int64_t *blocks;
    const struct geometry *geometry;
    struct fault *faults;
    int64_t *instructions, *counted;
    int64_t num_instructions, num_registers, register_bytes, num_specials;
    int64_t threads[3], grid[3];
    int64_t shared_bytes, local_bytes, num_windows, num_regions, num_blocks;
    int64_t seed, order, checks_races, checks_initialised, worst_approximation, collects, counts;
    int64_t max_steps;
    int64_t same_value_stores;
};

/* Windows and regions come as rows of numbers: what their structures hold, in that order. */
int64_t run_launch(struct order_form *o) {
    struct machine *m = calloc(1, sizeof *m);
    m->code = o->code;
    m->specials = o->specials;
    m->constants = o->constants;
    m->windows = o->windows;
    m->regions = o->regions;
    m->blocks = o->blocks;
    m->num_instructions = (int32_t)o->num_instructions;
    m->num_registers = (int32_t)o->num_registers;
    m->register_bytes = (int32_t)o->register_bytes;
    m->num_specials = (int32_t)o->num_specials;
    for (int k = 0; k < 3; k++) {
        m->threads[k] = (int32_t)o->threads[k];
        m->grid[k] = (int32_t)o->grid[k];
    }
    m->num_threads = m->threads[0] * m->threads[1] * m->threads[2];
    m->num_warps = (m->num_threads + LANES - 1) / LANES;
    m->shared_bytes = (int32_t)o->shared_bytes;
    m->local_bytes = (int32_t)o->local_bytes;
    m->num_windows = (int32_t)o->num_windows;
    m->num_regions = (int32_t)o->num_regions;
    m->num_blocks = o->num_blocks;
    m->seed = (uint32_t)o->seed;
    m->order = (int32_t)o->order;
    m->checks_races = o->checks_races != 0;
    m->checks_initialised = o->checks_initialised != 0;
    m->worst_approximation = o->worst_approximation != 0;
    m->collects = o->collects != 0;
    m->counts = o->counts != 0;
    m->max_steps = o->max_steps;
    int64_t faults = launch(m, o->geometry);
    memcpy(o->faults, m->faults, sizeof m->faults);
    memcpy(o->instructions, m->instructions, sizeof m->instructions);
    memcpy(o->counted, m->counted, sizeof m->counted);
    o->same_value_stores = m->same_value_stores;
    free(m);
    return faults;
}
