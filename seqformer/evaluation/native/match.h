/* Greedy matching of the results of one video and category, as `matching.py` explains it. */

#ifndef MATCH_H
#define MATCH_H

#include <stdint.h>

enum { MATCHED = 1, IGNORED = 2 };

typedef struct {
    int64_t num_areas, num_thresholds;
    const double *areas;      /* [A, 2] pixels, both ends included */
    const double *thresholds; /* [T], rising */
} Rules;

/* Args:
 *     ious: [D, G]; truth_areas, is_crowd: [G]; result_areas: [D].
 *     flags: [D, A, T], written: MATCHED, IGNORED, both or 0.
 *     is_ignored: [G, A], written.
 *     order: room for G numbers; free: for G. */
static void match_group(const Rules *rules, int64_t num_results, int64_t num_truths,
                        const double *ious, const double *result_areas, const double *truth_areas,
                        const uint8_t *is_crowd, uint8_t *flags, uint8_t *is_ignored,
                        int64_t *order, uint8_t *is_free) {
    int64_t A = rules->num_areas, T = rules->num_thresholds;
    for (int64_t a = 0; a < A; a++) {
        double low = rules->areas[2 * a], high = rules->areas[2 * a + 1];
        int64_t count = 0;
        for (int64_t g = 0; g < num_truths; g++)
            is_ignored[g * A + a] =
                is_crowd[g] || truth_areas[g] < low || truth_areas[g] > high;
        for (int pass = 0; pass < 2; pass++) /* those that count come first */
            for (int64_t g = 0; g < num_truths; g++)
                if (is_ignored[g * A + a] == pass) order[count++] = g;
        for (int64_t d = 0; d < num_results; d++) {
            int is_outside = result_areas[d] < low || result_areas[d] > high;
            for (int64_t t = 0; t < T; t++)
                flags[(d * A + a) * T + t] = is_outside ? IGNORED : 0;
        }
        for (int64_t t = 0; t < T; t++) {
            for (int64_t g = 0; g < num_truths; g++) is_free[g] = 1;
            for (int64_t d = 0; d < num_results; d++) {
                double best = rules->thresholds[t];
                int64_t partner = -1;
                for (int64_t k = 0; k < num_truths; k++) {
                    int64_t g = order[k];
                    if (!is_free[g]) continue;
                    if (partner >= 0 && is_ignored[g * A + a] && !is_ignored[partner * A + a])
                        break;
                    if (ious[d * num_truths + g] >= best) {
                        best = ious[d * num_truths + g];
                        partner = g;
                    }
                }
                if (partner < 0) continue;
                flags[(d * A + a) * T + t] =
                    (uint8_t)(MATCHED | (is_ignored[partner * A + a] ? IGNORED : 0));
                if (!is_crowd[partner]) is_free[partner] = 0;
            }
        }
    }
}

#endif
