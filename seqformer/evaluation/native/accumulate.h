/* From matched results to interpolated precision and recall, as `average_precision.py` explains it. */

#ifndef ACCUMULATE_H
#define ACCUMULATE_H

#include "match.h"

/* Letters: D results of all categories, T IoU thresholds, R recall levels, K categories, A area ranges,
 * M limits on results.
 *
 * Args:
 *     order: [D] results by category, and by descending score in each.
 *     first: [K + 1] the first of every category in `order`, and D.
 *     flags: [D, A, T] of `match_group`. scores: [D]. rank: [D] among those of video and category.
 *     num_instances: [K, A] to be found. levels: [R] rising. limits: [M].
 *     precision, score_at: [T, R, K, A, M]; recall: [T, K, A, M], written.
 *     room: [longest category] doubles; places: [longest category + 1].
 * Returns: 1. */
int64_t accumulate(int64_t num_categories, const int64_t *order, const int64_t *first,
                   const uint8_t *flags, const double *scores, const int32_t *rank,
                   int64_t num_areas, int64_t num_thresholds, const int64_t *num_instances,
                   int64_t num_levels, const double *levels, int64_t num_limits,
                   const int64_t *limits, double *precision, double *score_at, double *recall,
                   double *room, int64_t *places) {
    int64_t K = num_categories, A = num_areas, T = num_thresholds, R = num_levels, M = num_limits;
    for (int64_t k = 0; k < K; k++)
        for (int64_t a = 0; a < A; a++)
            for (int64_t t = 0; t < T; t++)
                for (int64_t m = 0; m < M; m++) {
                    int64_t total = num_instances[k * A + a], n = 0, true_positives = 0;
                    int64_t false_positives = 0;
                    for (int64_t i = first[k]; i < first[k + 1] && total; i++) {
                        int64_t d = order[i];
                        if (rank[d] >= limits[m]) continue;
                        uint8_t flag = flags[(d * A + a) * T + t];
                        if (flag == MATCHED) places[true_positives++] = i - first[k];
                        false_positives += !flag;
                        room[i - first[k]] =
                            (double)true_positives /
                            ((double)(true_positives + false_positives) + 2.220446049250313e-16);
                        n++;
                    }
                    double best = 0;
                    for (int64_t i = first[k + 1] - 1; i >= first[k] && n; i--) {
                        if (rank[order[i]] >= limits[m]) continue;
                        best = room[i - first[k]] > best ? room[i - first[k]] : best;
                        room[i - first[k]] = best;
                    }
                    int64_t start = 0; /* the first result that is within the limit */
                    while (n && rank[order[first[k] + start]] >= limits[m]) start++;
                    recall[((t * K + k) * A + a) * M + m] =
                        total ? (double)true_positives / (double)total : -1;
                    int64_t needed = 0;
                    for (int64_t r = 0; r < R; r++) {
                        while (total && (double)needed / (double)total < levels[r]) needed++;
                        int64_t cell = (((t * R + r) * K + k) * A + a) * M + m;
                        precision[cell] = score_at[cell] = total ? 0 : -1;
                        if (!n || needed > true_positives) continue;
                        int64_t place = needed ? places[needed - 1] : start;
                        precision[cell] = room[place];
                        score_at[cell] = scores[order[first[k] + place]];
                    }
                }
    return 1;
}

#endif
