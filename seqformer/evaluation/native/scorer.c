/* Scoring of results of video instance segmentation: what `ytvis_metric.py` calls where there is a
 * compiler. Plain C without headers of Python; every array belongs to the caller. */

#include "accumulate.h"
#include "match.h"
#include "overlap.h"
#include "tracking.h"

/* Raised with any change of the functions that Python calls: a process that began before the files
 * were replaced must not call the new ones. */
int64_t interface_version(void) { return 2; }

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

/* Of the results of a group: what the AP needs beside the IoUs of frames. NULL where nobody asks. */
typedef struct {
    const Rules *rules;
    const uint8_t *is_crowd;  /* [G] */
    const double *areas;      /* [G]; NaN where the masks tell */
    const int64_t *rows;      /* [D] place by descending score; -1 beyond the limit */
    int64_t num_rows;
    uint8_t *flags;           /* [rows, A, T] */
    uint8_t *is_ignored;      /* [G, A] */
    Scratch scratch;
} Scored;

/* The IoUs of the frames of one result with all instances, and which frames it is in. Returns the exact
 * IoUs of its whole track in `ious` [G], if that is not NULL. */
static void compare_frames(Tracked *s, const Decoded *truth, const Track *tracks, const Decoded *result,
                           int64_t frames, int64_t d, double *ious) {
    for (int64_t t = 0; t < s->T && t < frames; t++)
        s->has_result[t * s->D + d] = result->frames[t].height > 0;
    for (int64_t g = 0; g < s->G; g++) {
        int64_t both = 0, total = 0;
        for (int64_t t = 0; t < frames && t < tracks[g].frames; t++) {
            const Frame *one = result->frames + t, *other = truth->frames + tracks[g].first + t;
            if (!is_compared(one, other)) continue;
            both += one->area + other->area;
            if (!one->area || !other->area || (t >= s->T && !ious)) continue;
            int64_t shared = shared_pixels(&result->intervals, one, &truth->intervals, other);
            total += shared;
            if (t < s->T)
                s->ious[(t * s->D + d) * s->G + g] =
                    (double)shared / (double)(one->area + other->area - shared);
        }
        if (ious) ious[g] = both ? (double)total / (double)(both - total) : 0;
    }
}

/* One group: its masks are read once. Returns: READ, or why not, with the mask in `failed`. */
static int do_group(Tracked *s, Track *tracks, Scored *scored, Decoded *truth, Decoded *result,
                    const Masks *truths, const Masks *results, int64_t *touched, int64_t *failed) {
    int64_t used = 0;
    int status = READ;
    truth->intervals.count = 0;
    for (int64_t g = 0; g < s->G; g++) {
        failed[0] = 0;
        failed[1] = g;
        status = read_into(truth, truths + g, used, tracks + g);
        if (status != READ) return status;
        *touched += truths[g].size;
        for (int64_t t = 0; t < s->T && t < tracks[g].frames; t++)
            s->has_truth[t * s->G + g] = truth->frames[used + t].height > 0;
        used += tracks[g].frames;
        if (!scored) continue;
        double listed = scored->areas[g];
        scored->scratch.truth_areas[g] = listed == listed ? listed : tracks[g].mean_area;
    }
    for (int64_t d = 0; d < s->D; d++) {
        Track track;
        failed[0] = 1;
        failed[1] = d;
        result->intervals.count = 0;
        status = read_into(result, results + d, 0, &track);
        if (status != READ) return status;
        *touched += results[d].size;
        int64_t row = scored ? scored->rows[d] : -1;
        if (row >= 0) scored->scratch.result_areas[row] = track.mean_area;
        compare_frames(s, truth, tracks, result, track.frames, d,
                       row >= 0 ? scored->scratch.ious + row * s->G : NULL);
    }
    if (scored)
        match_group(scored->rules, scored->num_rows, s->G, scored->scratch.ious,
                    scored->scratch.result_areas, scored->scratch.truth_areas, scored->is_crowd,
                    scored->flags, scored->is_ignored, scored->scratch.order, scored->scratch.is_free);
    return READ;
}

/* Sums of HOTA and IDF1 of groups: what one video has of one category, results in file order. Where
 * `flags` is not NULL, the results are matched for the AP too, as `score_groups` does it.
 *
 * Args:
 *     first, stop, bounds, truths, results, mapped, num_mapped, window, failed: as `score_groups`.
 *     is_crowd, areas, num_areas, num_thresholds, area_ranges, thresholds, flags, is_ignored: likewise.
 *     rows: [results], place in the group by descending score; -1 beyond the limit.
 *     best: [groups, 2], the first of a group's rows in `flags`, and the one behind the last.
 *     frames: [groups], of the video.
 *     alphas: [num_alphas] thresholds of HOTA; threshold: of IDF1.
 *     hota: [groups, 7, num_alphas], identity: [groups, 4]; both 0, are written.
 * Returns: as `score_groups`. */
int64_t track_groups(int64_t first, int64_t stop, const int64_t *bounds, const Masks *truths,
                     const Masks *results, const uint8_t *is_crowd, const double *areas,
                     int64_t num_areas, int64_t num_thresholds, const double *area_ranges,
                     const double *thresholds, const int64_t *rows, const int64_t *best,
                     const int64_t *frames, int64_t num_alphas, const double *alphas,
                     double threshold, uint8_t *flags, uint8_t *is_ignored, double *hota,
                     double *identity, const int64_t *mapped, int64_t num_mapped, int64_t window,
                     int64_t *failed) {
    Rules rules = {num_areas, num_thresholds, area_ranges, thresholds};
    Decoded truth = {0}, result = {0};
    int64_t group = first, touched = 0;
    int status = READ;
    for (; group < stop; group++) {
        const int64_t *b = bounds + 4 * group;
        Tracked s = {.T = frames[group], .G = b[1] - b[0], .D = b[3] - b[2], .A = num_alphas};
        Scored scored = {.rules = &rules};
        s.thresholds = alphas;
        Track *tracks = malloc((size_t)(s.G + 1) * sizeof *tracks);
        if (!allocate_tracked(&s) || !tracks) status = NO_MEMORY;
        if (flags) {
            int64_t row = best[2 * group];
            scored.num_rows = best[2 * group + 1] - row;
            scored.is_crowd = is_crowd + b[0];
            scored.areas = areas + b[0];
            scored.rows = rows + b[2];
            scored.flags = flags + row * num_areas * num_thresholds;
            scored.is_ignored = is_ignored + b[0] * num_areas;
            if (!allocate(&scored.scratch, s.G, scored.num_rows)) status = NO_MEMORY;
        }
        if (status == READ) {
            status = do_group(&s, tracks, flags ? &scored : NULL, &truth, &result, truths + b[0],
                              results + b[2], &touched, failed);
            failed[1] += b[failed[0] ? 2 : 0];
        }
        if (status == READ)
            sum_group(&s, threshold, hota + group * HOTA_SUMS * num_alphas,
                      identity + group * ID_SUMS);
        free_tracked(&s);
        free_scratch(&scored.scratch);
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
