/* What tracks share: exact pixels of all frames together, and from them one IoU per pair. */

#ifndef OVERLAP_H
#define OVERLAP_H

#include "masks.h"

#define LANES 16 /* intervals taken together */
#define STEPS 8 /* taken one by one before that is tried again */

/* One instance through its video. */
typedef struct {
    int64_t first; /* of its frames */
    int32_t frames;
    double mean_area; /* pixels per frame, over the frames that have any */
} Track;

INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

/* The first of sorted intervals that stops behind a pixel. */
static int64_t first_behind(const int32_t *stop, int64_t count, int32_t pixel) {
    int64_t low = 0;
    while (count > 0) {
        int64_t half = count / 2;
        int is_before = stop[low + half] <= pixel;
        low += is_before ? half + 1 : 0;
        count = is_before ? count - half - 1 : half;
    }
    return low;
}

/* Pixels in both of two sorted sequences of intervals.
 *
 * Masks of one object mostly have one interval per column each, so that interval k of one can only
 * meet interval k of the other: where that holds for many in a row, they are taken together. */
static int64_t shared_pixels(const Intervals *one, const Frame *of_one, const Intervals *other,
                             const Frame *of_other) {
    const int32_t *a = one->start + of_one->first, *a_stop = one->stop + of_one->first;
    const int32_t *b = other->start + of_other->first, *b_stop = other->stop + of_other->first;
    int64_t na = of_one->count, nb = of_other->count, i = 0, j = 0, total = 0;
    if (!na || !nb) return 0;
    i = first_behind(a_stop, na, b[0]);
    j = first_behind(b_stop, nb, a[0]);
    while (i < na && j < nb) {
        while (na - i > LANES && nb - j > LANES) {
            int32_t crossed = 0, sum = 0;
            for (int l = 0; l < LANES; l++) {
                int32_t from = larger(a[i + l], b[j + l]);
                int32_t to = smaller(a_stop[i + l], b_stop[j + l]);
                int32_t last = larger(a_stop[i + l], b_stop[j + l]);
                crossed |= last > smaller(a[i + l + 1], b[j + l + 1]);
                sum += larger(to - from, 0);
            }
            if (crossed) break;
            total += sum;
            i += LANES;
            j += LANES;
        }
        for (int step = 0; step < STEPS && i < na && j < nb; step++) {
            int32_t from = larger(a[i], b[j]), to = smaller(a_stop[i], b_stop[j]);
            total += larger(to - from, 0);
            if (a_stop[i] < b_stop[j]) {
                i++;
            } else if (a_stop[i] > b_stop[j]) {
                j++;
            } else {
                i++;
                j++;
            }
        }
    }
    return total;
}

/* Whether a frame counts: not where both have a mask, but of different size. */
INLINE int is_compared(const Frame *one, const Frame *other) {
    return !one->height || !other->height ||
           (one->height == other->height && one->width == other->width);
}

/* Sum of intersections / sum of unions over the frames that both tracks have. An IoU that cannot reach
 * `floor` is given as 0. */
static double track_iou(const Intervals *v, const Frame *a, int32_t a_frames, const Intervals *w,
                        const Frame *b, int32_t b_frames, double floor) {
    int32_t frames = smaller(a_frames, b_frames);
    int64_t both = 0, most = 0, shared = 0;
    for (int32_t t = 0; t < frames; t++) {
        if (!is_compared(a + t, b + t)) continue;
        both += a[t].area + b[t].area;
        most += a[t].area < b[t].area ? a[t].area : b[t].area;
    }
    for (int32_t t = 0; t < frames; t++) {
        if (!both || (double)(shared + most) / (double)(both - shared - most) < floor) return 0;
        if (!is_compared(a + t, b + t) || !a[t].area || !b[t].area) continue;
        most -= a[t].area < b[t].area ? a[t].area : b[t].area;
        shared += shared_pixels(v, a + t, w, b + t);
    }
    return both ? (double)shared / (double)(both - shared) : 0;
}

static double mean_area(const Frame *frame, int32_t frames) {
    int64_t area = 0, occupied = 0;
    for (int32_t t = 0; t < frames; t++) {
        area += frame[t].area;
        occupied += frame[t].area > 0;
    }
    return (double)area / (double)(occupied ? occupied : 1);
}

#endif
