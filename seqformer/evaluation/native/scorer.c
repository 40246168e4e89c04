/* Scoring of results of video instance segmentation: what `ytvis_metric.py` calls where there is a
 * compiler. Plain C without headers of Python; every array belongs to the caller. */

#include "accumulate.h"
#include "match.h"
#include "overlap.h"
#include "tracking.h"

/* Where the masks of one instance are. */
typedef struct {
    const Byte *text;
    int64_t size;
    int32_t frames, is_odd;
} Masks;

typedef struct {
    Intervals intervals;
    Frame *frames;
    int64_t capacity;
} Decoded;

static int read_into(Decoded *decoded, const Masks *masks, int64_t used, Track *track) {
    int64_t frames = used + masks->frames;
    if (masks->is_odd) return NOT_READ;
    if (decoded->capacity <= frames) {
        int64_t capacity = 2 * frames + 64;
        Frame *more = realloc(decoded->frames, (size_t)capacity * sizeof *more);
        if (!more) return NO_MEMORY;
        decoded->frames = more;
        decoded->capacity = capacity;
    }
    int status =
        read_track(masks->text, masks->size, masks->frames, &decoded->intervals, decoded->frames + used);
    track->first = used;
    track->frames = masks->frames;
    if (status == READ) track->mean_area = mean_area(decoded->frames + used, masks->frames);
    return status;
}

static void free_decoded(Decoded *decoded) {
    free(decoded->intervals.start);
    free(decoded->intervals.stop);
    free(decoded->frames);
}

/* Scratch of one group: G instances, D results. */
typedef struct {
    Track *tracks;         /* [G] */
    double *truth_areas;   /* [G] */
    int64_t *order;        /* [G] */
    uint8_t *is_free;      /* [G] */
    double *result_areas;  /* [D] */
    double *ious;          /* [D, G] */
} Scratch;

static int allocate(Scratch *s, int64_t G, int64_t D) {
    s->tracks = malloc((size_t)(G + 1) * sizeof *s->tracks);
    s->truth_areas = malloc((size_t)(G + 1) * sizeof *s->truth_areas);
    s->order = malloc((size_t)(G + 1) * sizeof *s->order);
    s->is_free = malloc((size_t)(G + 1));
    s->result_areas = malloc((size_t)(D + 1) * sizeof *s->result_areas);
    s->ious = malloc((size_t)(G * D + 1) * sizeof *s->ious);
    return s->tracks && s->truth_areas && s->order && s->is_free && s->result_areas && s->ious;
}

static void free_scratch(Scratch *s) {
    free(s->tracks);
    free(s->truth_areas);
    free(s->order);
    free(s->is_free);
    free(s->result_areas);
    free(s->ious);
}

/* Give back the pages of mapped files: [num_mapped, 2] address and bytes. */
static void give_back(const int64_t *mapped, int64_t num_mapped) {
    for (int64_t i = 0; i < num_mapped; i++)
        madvise((void *)(intptr_t)mapped[2 * i], (size_t)mapped[2 * i + 1], MADV_DONTNEED);
}

/* Read and compare groups: what one video has of one category.
 *
 * Args:
 *     first, stop: the groups to do.
 *     bounds: [groups, 4]: first instance and the one behind the last, first result and the same.
 *     truths, results: where the masks are. is_crowd, areas: per instance; NaN where the masks tell.
 *     floor: smaller IoUs may be given as 0.
 *     rules: see `match.h`; flags [D, A, T] and is_ignored [G, A] are written.
 *     ious: written group by group, from iou_first[group] on; NULL where nobody asks.
 *     mapped: [num_mapped, 2] address and bytes of mapped files, whose pages are given back whenever
 *         `window` bytes have been read.
 *     failed: of a mask that is not read: 0 instance or 1 result, and its number.
 * Returns: `stop`, or the group that is not done (failed[0] = 2 where memory ran out). */
int64_t score_groups(int64_t first, int64_t stop, const int64_t *bounds, const Masks *truths,
                     const Masks *results, const uint8_t *is_crowd, const double *areas,
                     double floor, int64_t num_areas, int64_t num_thresholds,
                     const double *area_ranges, const double *thresholds, uint8_t *flags,
                     uint8_t *is_ignored, double *ious, const int64_t *iou_first,
                     const int64_t *mapped, int64_t num_mapped, int64_t window, int64_t *failed) {
    Rules rules = {num_areas, num_thresholds, area_ranges, thresholds};
    Decoded truth = {0}, result = {0};
    int64_t group = first, touched = 0;
    int status = READ;
    for (; group < stop; group++) {
        const int64_t *b = bounds + 4 * group;
        int64_t G = b[1] - b[0], D = b[3] - b[2], used = 0;
        Scratch s;
        if (!allocate(&s, G, D)) status = NO_MEMORY;
        truth.intervals.count = 0;
        for (int64_t g = 0; g < G && status == READ; g++) {
            failed[0] = 0;
            failed[1] = b[0] + g;
            status = read_into(&truth, truths + b[0] + g, used, s.tracks + g);
            if (status != READ) break;
            used += s.tracks[g].frames;
            touched += truths[b[0] + g].size;
            double listed = areas[b[0] + g];
            s.truth_areas[g] = listed == listed ? listed : s.tracks[g].mean_area;
        }
        for (int64_t d = 0; d < D && status == READ; d++) {
            Track track;
            failed[0] = 1;
            failed[1] = b[2] + d;
            result.intervals.count = 0;
            status = read_into(&result, results + b[2] + d, 0, &track);
            if (status != READ) break;
            touched += results[b[2] + d].size;
            s.result_areas[d] = track.mean_area;
            for (int64_t g = 0; g < G; g++)
                s.ious[d * G + g] =
                    track_iou(&result.intervals, result.frames, track.frames, &truth.intervals,
                              truth.frames + s.tracks[g].first, s.tracks[g].frames, floor);
        }
        if (status == READ) {
            match_group(&rules, D, G, s.ious, s.result_areas, s.truth_areas, is_crowd + b[0],
                        flags + b[2] * num_areas * num_thresholds, is_ignored + b[0] * num_areas,
                        s.order, s.is_free);
            if (ious) memcpy(ious + iou_first[group], s.ious, (size_t)(G * D) * sizeof *ious);
        }
        free_scratch(&s);
        if (status != READ) break;
        if (touched >= window) {
            give_back(mapped, num_mapped);
            touched = 0;
        }
    }
    if (status == NO_MEMORY) failed[0] = 2;
    free_decoded(&truth);
    free_decoded(&result);
    return group;
}

/* The IoUs of the frames of one result with all instances, and which frames it is in. */
static void compare_frames(Tracked *s, const Decoded *truth, const Track *tracks, const Decoded *result,
                           int64_t frames, int64_t d) {
    for (int64_t t = 0; t < s->T && t < frames; t++) {
        const Frame *one = result->frames + t;
        s->has_result[t * s->D + d] = one->height > 0;
        for (int64_t g = 0; one->area && g < s->G; g++) {
            if (t >= tracks[g].frames) continue;
            const Frame *other = truth->frames + tracks[g].first + t;
            if (!other->area || !is_compared(one, other)) continue;
            int64_t shared = shared_pixels(&result->intervals, one, &truth->intervals, other);
            int64_t all = one->area + other->area - shared;
            s->ious[(t * s->D + d) * s->G + g] = (double)shared / (double)all;
        }
    }
}

/* Sums of HOTA and IDF1 of groups: what one video has of one category, results in file order.
 *
 * Args:
 *     first, stop, bounds, truths, results, mapped, num_mapped, window, failed: as `score_groups`.
 *     frames: [groups], of the video.
 *     thresholds: [num_thresholds] of HOTA; threshold: of IDF1.
 *     hota: [groups, 7, num_thresholds], identity: [groups, 4]; both 0, are written.
 * Returns: as `score_groups`. */
int64_t track_groups(int64_t first, int64_t stop, const int64_t *bounds, const Masks *truths,
                     const Masks *results, const int64_t *frames, int64_t num_thresholds,
                     const double *thresholds, double threshold, double *hota, double *identity,
                     const int64_t *mapped, int64_t num_mapped, int64_t window, int64_t *failed) {
    Decoded truth = {0}, result = {0};
    int64_t group = first, touched = 0;
    int status = READ;
    for (; group < stop; group++) {
        const int64_t *b = bounds + 4 * group;
        int64_t used = 0;
        Tracked s = {.T = frames[group], .G = b[1] - b[0], .D = b[3] - b[2], .A = num_thresholds};
        s.thresholds = thresholds;
        Track *tracks = malloc((size_t)(s.G + 1) * sizeof *tracks);
        if (!allocate_tracked(&s) || !tracks) status = NO_MEMORY;
        truth.intervals.count = 0;
        for (int64_t g = 0; g < s.G && status == READ; g++) {
            failed[0] = 0;
            failed[1] = b[0] + g;
            status = read_into(&truth, truths + b[0] + g, used, tracks + g);
            if (status != READ) break;
            touched += truths[b[0] + g].size;
            for (int64_t t = 0; t < s.T && t < tracks[g].frames; t++)
                s.has_truth[t * s.G + g] = truth.frames[used + t].height > 0;
            used += tracks[g].frames;
        }
        for (int64_t d = 0; d < s.D && status == READ; d++) {
            Track track;
            failed[0] = 1;
            failed[1] = b[2] + d;
            result.intervals.count = 0;
            status = read_into(&result, results + b[2] + d, 0, &track);
            if (status != READ) break;
            touched += results[b[2] + d].size;
            compare_frames(&s, &truth, tracks, &result, track.frames, d);
        }
        if (status == READ)
            sum_group(&s, threshold, hota + group * HOTA_SUMS * num_thresholds,
                      identity + group * ID_SUMS);
        free_tracked(&s);
        free(tracks);
        if (status != READ) break;
        if (touched >= window) {
            give_back(mapped, num_mapped);
            touched = 0;
        }
    }
    if (status == NO_MEMORY) failed[0] = 2;
    free_decoded(&truth);
    free_decoded(&result);
    return group;
}
