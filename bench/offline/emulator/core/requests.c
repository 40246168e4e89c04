/* What a request costs the memory system: sectors, lines, passes through the first-level cache. */
#include "cache.h"

enum { SECTOR_SHIFT = 5, LINE_SHIFT = 7, SECTORS_OF_LINE = 4, SHARED_BANKS = 32 };

/* The distinct numbers among n <= 32. Returns: how many. */
static int distinct(const uint64_t *values, int n, uint64_t *result) {
    int count = 0;
    for (int k = 0; k < n; k++) {
        int is_known = 0;
        for (int q = 0; q < count; q++) is_known |= result[q] == values[k];
        result[count] = values[k];
        count += !is_known;
    }
    return count;
}

static int distinct_lines(const uint64_t *sectors, int n) {
    uint64_t lines[LANES], unique[LANES];
    for (int k = 0; k < n; k++) lines[k] = sectors[k] / SECTORS_OF_LINE;
    return distinct(lines, n, unique);
}

/* The first-level cache's rule: it has four banks, one for each sector of a line, and in one clock
 * a bank serves one line. This is what the microbenchmarks behind the simulator Accel-Sim (Khairy
 * et al., ISCA 2020) found on Volta; later GPUs are taken to be alike. */
static int wavefronts_of(const uint64_t *sectors, int n) {
    int lines[SECTORS_OF_LINE] = {0}, most = 0;
    for (int k = 0; k < n; k++) lines[sectors[k] % SECTORS_OF_LINE]++;
    for (int k = 0; k < SECTORS_OF_LINE; k++) most = lines[k] > most ? lines[k] : most;
    return most;
}

/* Lanes that are served together: a quarter of a warp where each takes 16 bytes or more, half of
 * it at 8 bytes, else all. */
static int lanes_together(int bytes) { return bytes >= 16 ? 8 : bytes == 8 ? 16 : LANES; }

static int gather(const uint64_t *address, uint32_t lanes, int shift, uint64_t *values) {
    int n = 0;
    FOR_ACTIVE(l, lanes) values[n++] = address[l] >> shift;
    return n;
}

static uint32_t lanes_from(int first, int number) {
    return (number == LANES ? ALL_LANES : (1u << number) - 1) << first;
}

void count_global(
    struct machine *m, const uint64_t *address, uint32_t mask, int bytes, enum request request
) {
    int64_t *counted = m->counted + GLOBAL_COUNTS + request * NUM_GLOBAL_COUNTS;
    uint64_t values[LANES], sectors[LANES];
    int together = lanes_together(bytes);
    for (int first = 0; first < LANES; first += together) {
        uint32_t lanes = mask & lanes_from(first, together);
        int n = distinct(values, gather(address, lanes, SECTOR_SHIFT, values), sectors);
        counted[WAVEFRONTS] += wavefronts_of(sectors, n);
        counted[LINE_PASSES] += distinct_lines(sectors, n);
    }
    int n = distinct(values, gather(address, mask, SECTOR_SHIFT, values), sectors);
    counted[REQUESTS]++;
    counted[SECTORS] += n;
    counted[LINES] += distinct_lines(sectors, n);
    counted[BYTES] += (int64_t)bytes * __builtin_popcount(mask);
    if (m->trace != NULL) add_to_trace(m, request, sectors, n);
}

/* A bank gives one word of 4 bytes a clock, to all lanes that want it. */
void count_shared(
    struct machine *m, const uint64_t *address, uint32_t mask, int bytes, enum request request
) {
    int64_t *counted = m->counted + SHARED_COUNTS + request * NUM_SHARED_COUNTS;
    int together = lanes_together(bytes), words = bytes > 4 ? bytes / 4 : 1;
    counted[SHARED_REQUESTS]++;
    for (int first = 0; first < LANES; first += together) {
        uint32_t lanes = mask & lanes_from(first, together);
        if (!lanes) continue;
        uint64_t wanted[LANES * 4], unique[LANES * 4];
        int n = 0, in_bank[SHARED_BANKS] = {0}, most = 0;
        FOR_ACTIVE(l, lanes) {
            for (int k = 0; k < words; k++) wanted[n++] = (address[l] >> 2) + (uint64_t)k;
        }
        n = distinct(wanted, n, unique);
        for (int k = 0; k < n; k++) in_bank[unique[k] % SHARED_BANKS]++;
        for (int k = 0; k < SHARED_BANKS; k++) most = in_bank[k] > most ? in_bank[k] : most;
        counted[SHARED_WAVEFRONTS] += most;
        counted[SHARED_CONFLICTS] += most - 1;
    }
}
