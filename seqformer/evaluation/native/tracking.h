/* The sums of HOTA, IDF1 and identity switches of one group, from the IoUs of its frames.
 * `hota.py` and `identity.py` define them. Letters: T frames, G instances, D results, A thresholds. */

#ifndef TRACKING_H
#define TRACKING_H

#include <float.h>

#include "assign.h"

enum { TRUE_ONES, MISSED, FALSE_ONES, ASS_A, ASS_RE, ASS_PR, LOC_A, HOTA_SUMS };
enum { ID_TRUE, ID_MISSED, ID_FALSE, ID_SWITCHES, ID_SUMS };

typedef struct {
    int64_t T, G, D, A;
    const double *thresholds;  /* [A] */
    double *ious;              /* [T, D, G]: of a frame, column-major [G, D] */
    uint8_t *has_truth;        /* [T, G] */
    uint8_t *has_result;       /* [T, D] */
    double *potential;         /* [D, G] */
    double *gain;              /* [D, G] */
    double *in_rows;           /* [G] */
    double *row;               /* [D] */
    double *matches;           /* [G, D, A] */
    int64_t *truths, *results; /* [G], [D]: those in a frame */
    int64_t *truth_length;     /* [G] */
    int64_t *result_length;    /* [D] */
    int64_t *partner, *last;   /* [G] */
    Assignment assignment;
} Tracked;

static int allocate_tracked(Tracked *s) {
    size_t g = (size_t)s->G + 1, d = (size_t)s->D + 1, pairs = (size_t)(s->G * s->D) + 1;
    size_t frames = (size_t)s->T;
    memset(&s->assignment, 0, sizeof s->assignment);
    s->ious = calloc(frames * pairs + 1, sizeof *s->ious);
    s->has_truth = calloc(frames * g + 1, 1);
    s->has_result = calloc(frames * d + 1, 1);
    s->potential = calloc(pairs, sizeof *s->potential);
    s->gain = malloc(pairs * sizeof *s->gain);
    s->in_rows = malloc(g * sizeof *s->in_rows);
    s->row = malloc(d * sizeof *s->row);
    s->matches = calloc(pairs * (size_t)s->A, sizeof *s->matches);
    s->truths = malloc(g * sizeof *s->truths);
    s->results = malloc(d * sizeof *s->results);
    s->truth_length = calloc(g, sizeof *s->truth_length);
    s->result_length = calloc(d, sizeof *s->result_length);
    s->partner = malloc(g * sizeof *s->partner);
    s->last = malloc(g * sizeof *s->last);
    int is_good = allocate_assignment(&s->assignment, s->G > s->D ? s->G : s->D);
    return is_good && s->ious && s->has_truth && s->has_result && s->potential && s->gain &&
           s->in_rows && s->row && s->matches && s->truths && s->results && s->truth_length &&
           s->result_length && s->partner && s->last;
}

static void free_tracked(Tracked *s) {
    free(s->ious);
    free(s->has_truth);
    free(s->has_result);
    free(s->potential);
    free(s->gain);
    free(s->in_rows);
    free(s->row);
    free(s->matches);
    free(s->truths);
    free(s->results);
    free(s->truth_length);
    free(s->result_length);
    free(s->partner);
    free(s->last);
    free_assignment(&s->assignment);
}

/* Rounded as NumPy's sum of contiguous numbers. */
static double sum_in_pairs(const double *v, int64_t n) {
    if (n < 8) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += v[i];
        return sum;
    }
    if (n > 128) {
        int64_t half = n / 2;
        half -= half % 8;
        return sum_in_pairs(v, half) + sum_in_pairs(v + half, n - half);
    }
    double r[8];
    int64_t i = 8;
    for (int k = 0; k < 8; k++) r[k] = v[k];
    for (; i < n - n % 8; i += 8)
        for (int k = 0; k < 8; k++) r[k] += v[i + k];
    double sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    for (; i < n; i++) sum += v[i];
    return sum;
}

/* Which instances and results are in a frame. Returns: whether both are. */
static int list_present(Tracked *s, int64_t t, int64_t *n, int64_t *m) {
    *n = *m = 0;
    for (int64_t g = 0; g < s->G; g++)
        if (s->has_truth[t * s->G + g]) s->truths[(*n)++] = g;
    for (int64_t d = 0; d < s->D; d++)
        if (s->has_result[t * s->D + d]) s->results[(*m)++] = d;
    return *n && *m;
}

#define IOU(t, i, j) s->ious[((t)*s->D + s->results[j]) * s->G + s->truths[i]]

/* How well every pair fits over all frames: its IoUs as shares of all IoUs of both. */
static void add_potential(Tracked *s, int64_t t, int64_t n, int64_t m) {
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < m; j++) s->row[j] = IOU(t, i, j);
        /* NumPy adds along memory, which is column after column, but for a single row */
        double sum = 0;
        for (int64_t j = 0; j < m; j++) sum += s->row[j];
        s->in_rows[i] = n == 1 ? sum_in_pairs(s->row, m) : sum;
    }
    double *column = s->gain; /* not in use yet */
    for (int64_t j = 0; j < m; j++) {
        for (int64_t i = 0; i < n; i++) column[i] = IOU(t, i, j);
        double in_column = sum_in_pairs(column, n);
        for (int64_t i = 0; i < n; i++) {
            double others = in_column + s->in_rows[i] - column[i];
            if (others > DBL_EPSILON)
                s->potential[s->results[j] * s->G + s->truths[i]] += column[i] / others;
        }
    }
}

static void match_frame(Tracked *s, int64_t t, int64_t n, int64_t m, double *hota) {
    for (int64_t j = 0; j < m; j++)
        for (int64_t i = 0; i < n; i++) {
            int64_t g = s->truths[i], d = s->results[j];
            double potential = s->potential[d * s->G + g];
            double rest = (double)(s->truth_length[g] + s->result_length[d]) - potential;
            s->gain[j * n + i] = potential / (rest > DBL_EPSILON ? rest : DBL_EPSILON) * IOU(t, i, j);
        }
    assign(&s->assignment, s->gain, n, m, 1, n);
    for (int64_t i = 0; i < n; i++) {
        int64_t j = s->assignment.column_of[i];
        if (j < 0) continue;
        double iou = IOU(t, i, j);
        double *matches = s->matches + (s->truths[i] * s->D + s->results[j]) * s->A;
        for (int64_t a = 0; a < s->A && iou >= s->thresholds[a] - DBL_EPSILON; a++) {
            matches[a] += 1;
            hota[TRUE_ONES * s->A + a] += 1;
            hota[LOC_A * s->A + a] += iou;
        }
    }
}

static int64_t count_switches(Tracked *s, double threshold) {
    int64_t n, m, switches = 0;
    for (int64_t g = 0; g < s->G; g++) s->partner[g] = s->last[g] = -1;
    for (int64_t t = 0; t < s->T; t++) {
        if (!list_present(s, t, &n, &m)) continue;
        for (int64_t j = 0; j < m; j++)
            for (int64_t i = 0; i < n; i++) {
                double iou = IOU(t, i, j);
                double kept = s->last[s->truths[i]] == s->results[j] ? 1000 : 0;
                s->gain[j * n + i] = iou < threshold - DBL_EPSILON ? 0 : kept + iou;
            }
        assign(&s->assignment, s->gain, n, m, 1, n);
        for (int64_t g = 0; g < s->G; g++) s->last[g] = -1;
        for (int64_t i = 0; i < n; i++) {
            int64_t j = s->assignment.column_of[i], g = s->truths[i];
            if (j < 0 || s->gain[j * n + i] <= DBL_EPSILON) continue;
            switches += s->partner[g] >= 0 && s->partner[g] != s->results[j];
            s->partner[g] = s->last[g] = s->results[j];
        }
    }
    return switches;
}

/* Args: ious and presence are filled. hota: [7, A], identity: [4], both 0, are written. */
static void sum_group(Tracked *s, double threshold, double *hota, double *identity) {
    int64_t n, m, num_truths = 0, num_results = 0, any = 0;
    for (int64_t t = 0; t < s->T; t++) {
        for (int64_t g = 0; g < s->G; g++) s->truth_length[g] += s->has_truth[t * s->G + g];
        for (int64_t d = 0; d < s->D; d++) s->result_length[d] += s->has_result[t * s->D + d];
    }
    for (int64_t g = 0; g < s->G; g++) num_truths += s->truth_length[g];
    for (int64_t d = 0; d < s->D; d++) num_results += s->result_length[d];
    if (num_truths && num_results)
        for (int64_t t = 0; t < s->T; t++)
            if (list_present(s, t, &n, &m)) any = 1, add_potential(s, t, n, m);
    if (any)
        for (int64_t t = 0; t < s->T; t++)
            if (list_present(s, t, &n, &m)) match_frame(s, t, n, m, hota);
    for (int64_t a = 0; a < s->A; a++) {
        hota[MISSED * s->A + a] = (double)num_truths - hota[a];
        hota[FALSE_ONES * s->A + a] = (double)num_results - hota[a];
    }
    for (int64_t g = 0; any && g < s->G; g++)
        for (int64_t d = 0; d < s->D; d++)
            for (int64_t a = 0; a < s->A; a++) {
                double both = s->matches[(g * s->D + d) * s->A + a];
                if (both == 0) break; /* higher thresholds match less */
                double of_truth = (double)s->truth_length[g], of_result = (double)s->result_length[d];
                hota[ASS_A * s->A + a] += both * both / (of_truth + of_result - both);
                hota[ASS_RE * s->A + a] += both * both / of_truth;
                hota[ASS_PR * s->A + a] += both * both / of_result;
            }
    double together = 0;
    if (any) {
        for (int64_t d = 0; d < s->D; d++)
            for (int64_t g = 0; g < s->G; g++) {
                double frames = 0;
                for (int64_t t = 0; t < s->T; t++)
                    frames += s->ious[(t * s->D + d) * s->G + g] >= threshold;
                s->gain[d * s->G + g] = frames;
            }
        assign(&s->assignment, s->gain, s->G, s->D, 1, s->G);
        for (int64_t g = 0; g < s->G; g++) {
            int64_t d = s->assignment.column_of[g];
            if (d >= 0) together += s->gain[d * s->G + g];
        }
        identity[ID_SWITCHES] = (double)count_switches(s, threshold);
    }
    identity[ID_TRUE] = together;
    identity[ID_MISSED] = (double)num_truths - together;
    identity[ID_FALSE] = (double)num_results - together;
}

#endif
