/* Multi-scale deformable attention on a CPU, forward and backward, for one REAL (float or double); with
   BFLOAT16, value and output are stored in bfloat16, and positions and weights may be.

   Compiled by c_library.py at first use. Positions, weights and their derivation are those of the
   Triton kernels (triton_forward.py, triton_backward.py), sample by sample:

       x = slope * point + base;  cell = min(max(floor(x), 0), W - 2);  weight = max(0, 1 - |x - cell|)

   Letters: B images, S tokens, M heads, D channels per head, Q queries, L levels, P points. A row is
   one (image, query, head). Nothing is stored per sample beyond its row. A job of the backward pass
   owns its (image, head) slices of grad_value, so nothing is atomic and every sum has a fixed order. */

#include <math.h>

#include "../jobs.h"
#include "../simd.h"

#define FAR ((REAL)1e30)
#define MAX_SAMPLES 1024

enum { LOCATIONS = 0, POINTS = 2, BOXES = 4 };

typedef struct {
    const STORED *value;    /* [B, S, M, D] */
    const void *points;     /* [B / share_points, Q, M, L, P, 2], REAL or, with narrow, STORED */
    const void *weights;    /* [B / share_points, Q, M, L, P], as points; logits unless LOCATIONS */
    const REAL *reference;  /* [B / share_reference, Q, L, kind] */
    const int32_t *valid;   /* [B / share_valid, L, 2] (height, width), or NULL */
    const int32_t *levels;  /* [L, 3] (height, width, first token) */
    STORED *output;         /* [B, Q, M, D] */
    const REAL *grad_output; /* [B, Q, M, D] */
    REAL *grad_value;       /* [B, S, M, D], zero on entry; or NULL */
    REAL *grad_points;      /* [B, Q, M, L, P, 2], or NULL together with grad_weights */
    REAL *grad_weights;     /* [B, Q, M, L, P] */
    REAL *grad_reference;   /* [B, Q, M, L, kind], or NULL */
    int64_t S, M, D, Q, L, P, kind, share_points, share_reference, share_valid, narrow;
} Arguments;

/* Images, queries and heads that a job works on. */
typedef struct {
    int64_t image_begin, image_end, query_begin, query_end, head_begin, head_end;
} Job;

/* What the samples of a row share on a level, along x and y. */
typedef struct {
    REAL slope[2], base[2], last[2], step[2], size[2];
    int64_t start, right, down, width;
} Level;

/* The four corners of a sample: elements from the row's first channel, and distances. */
typedef struct {
    int64_t nw;
    REAL low[2], high[2]; /* x, y: from the low and from the high cell */
} Sample;

/* What the samples of a query share in all heads: a `Level` for every sample, elements to the neighbours
   on the right and below. */
typedef struct {
    REAL slope[2][MAX_SAMPLES], base[2][MAX_SAMPLES], last[2][MAX_SAMPLES], step[2][MAX_SAMPLES];
    int32_t start[MAX_SAMPLES], width[MAX_SAMPLES];
    int64_t right[MAX_SAMPLES], down[MAX_SAMPLES];
} Query;

/* The samples of a row as their blending reads them: elements from the row's first channel to the corner
   at the north west, and the weight of each corner: nw, ne, sw, se. */
typedef struct {
    int64_t nw[MAX_SAMPLES];
    REAL share[4][MAX_SAMPLES];
} Row;

/* Vectors of channels next to each other that are filled together. Left to choose, GCC gathers one
   channel of several samples instead, at twice the time. */
enum { TOGETHER = BYTES == 64 ? 2 : 4 };

ALWAYS_INLINE REAL hat(REAL distance) {
    REAL weight = 1 - (distance < 0 ? -distance : distance);
    return weight > 0 ? weight : 0;
}

ALWAYS_INLINE REAL hat_slope(REAL distance) {
    if (!(distance >= -1 && distance < 1)) return 0;
    return distance < 0 ? 1 : -1;
}

ALWAYS_INLINE Level level_of(const Arguments *a, const REAL *reference, const int32_t *valid, int64_t l) {
    Level level;
    const int32_t *sizes = a->levels + 3 * l;
    level.width = sizes[1];
    level.start = sizes[2];
    level.right = sizes[1] > 1;
    level.down = sizes[0] > 1 ? sizes[1] : 0;
    for (int axis = 0; axis < 2; axis++) {
        int32_t size = sizes[1 - axis];
        int32_t inside = valid && valid[2 * l + 1 - axis] < size ? valid[2 * l + 1 - axis] : size;
        level.size[axis] = (REAL)size;
        level.last[axis] = inside > 2 ? (REAL)(inside - 2) : 0;
        level.step[axis] = inside > 1 ? 1 : FAR;
        if (a->kind == LOCATIONS) {
            level.slope[axis] = (REAL)size;
            level.base[axis] = (REAL)-0.5;
        } else {
            level.slope[axis] = 1;
            level.base[axis] = reference[a->kind * l + axis] * size - (REAL)0.5;
            if (a->kind == BOXES)
                level.slope[axis] = reference[a->kind * l + 2 + axis] * (size / (2 * (REAL)a->P));
        }
        if (inside < 1) level.base[axis] = -FAR; /* left of both cells */
    }
    return level;
}

ALWAYS_INLINE Sample sample_at(const Level *level, const REAL *point) {
    Sample sample;
    REAL cell[2];
    for (int axis = 0; axis < 2; axis++) {
        REAL x = level->slope[axis] * point[axis] + level->base[axis];
        REAL low = FLOOR(x);
        low = low > 0 ? low : 0; /* NaN too */
        cell[axis] = low < level->last[axis] ? low : level->last[axis];
        sample.low[axis] = x - cell[axis];
        sample.high[axis] = sample.low[axis] - level->step[axis];
    }
    sample.nw = level->start + (int64_t)cell[1] * level->width + (int64_t)cell[0];
    return sample;
}

/* e^x for x <= 0, to two units in the last place; unlike the library's, in vectors. */
ALWAYS_INLINE REAL exponential(REAL x) {
    if (sizeof(REAL) != 4) return EXP(x);
    const float n = FLOOR(x * 1.44269504f + 0.5f), r = x - n * 0.693147181f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    const union { int32_t bits; float real; } power = {.bits = ((int32_t)(n > -126 ? n : -126) + 127) << 23};
    return x < -87 ? 0 : p * power.real;
}

/* `count` numbers from a place on: where they are, or widened into `room`. */
ALWAYS_INLINE const REAL *wide(const Arguments *a, const void *numbers, int64_t first, int64_t count, REAL *room) {
    if (sizeof(STORED) == sizeof(REAL) || !a->narrow) return (const REAL *)numbers + first;
    for (int64_t k = 0; k < count; k++) room[k] = widened(((const STORED *)numbers)[first + k]);
    return room;
}

/* Weights of a row's samples: given, or the softmax of its logits. */
ALWAYS_INLINE void weights_of(const Arguments *a, int64_t row, int64_t samples, REAL *weights) {
    const REAL *logits = wide(a, a->weights, row * samples, samples, weights);
    if (a->kind == LOCATIONS) {
        for (int64_t k = 0; k < samples; k++) weights[k] = logits[k];
        return;
    }
    REAL largest = logits[0], total = 0;
    for (int64_t k = 1; k < samples; k++) largest = logits[k] > largest ? logits[k] : largest;
    for (int64_t k = 0; k < samples; k++) total += weights[k] = exponential(logits[k] - largest);
    for (int64_t k = 0; k < samples; k++) weights[k] /= total;
}

#ifdef BFLOAT16

/* A vector of channels in bfloat16 is widened to the even ones and the odd ones. */
enum { BLOCK = BYTES / sizeof(STORED) };

ALWAYS_INLINE Vector even(Words pairs) { return (Vector)(pairs << 16); }
ALWAYS_INLINE Vector odd(Words pairs) { return (Vector)(pairs & 0xffff0000u); }

/* BLOCK channels of a row; `cells` and `output` at the first of them. */
ALWAYS_INLINE void blend_block(const Query *query, const Row *row, int64_t samples, const STORED *cells, STORED *output) {
    Vector evens[2] = {{0}}, odds[2] = {{0}};
    for (int64_t k = 0; k < samples; k++) {
        const STORED *nw = cells + row->nw[k], *sw = nw + query->down[k];
        const int64_t right = query->right[k];
        const Words at[4] = {*(const UnalignedWords *)nw, *(const UnalignedWords *)(nw + right),
                             *(const UnalignedWords *)sw, *(const UnalignedWords *)(sw + right)};
        for (int i = 0; i < 4; i++) {
            evens[i / 2] += row->share[i][k] * even(at[i]);
            odds[i / 2] += row->share[i][k] * odd(at[i]);
        }
    }
    const Words low = rounded(evens[0] + evens[1]) >> 16, high = rounded(odds[0] + odds[1]) & 0xffff0000u;
    *(UnalignedWords *)output = low | high;
}

/* As `blend_block`, of LANES channels, side by side in a vector. */
ALWAYS_INLINE void blend_lanes(const Query *query, const Row *row, int64_t samples, const STORED *cells, STORED *output) {
    Vector north = {0}, south = {0};
    for (int64_t k = 0; k < samples; k++) {
        const STORED *nw = cells + row->nw[k], *sw = nw + query->down[k];
        const int64_t right = query->right[k];
        north += row->share[0][k] * widened_lanes(nw) + row->share[1][k] * widened_lanes(nw + right);
        south += row->share[2][k] * widened_lanes(sw) + row->share[3][k] * widened_lanes(sw + right);
    }
    *(UnalignedHalves *)output = __builtin_convertvector(rounded(north + south) >> 16, Halves);
}

#else

enum { BLOCK = TOGETHER * BYTES / sizeof(REAL) };

/* LANES * count channels of a row; `cells` and `output` at the first of them. */
ALWAYS_INLINE void blend_lanes(const Query *query, const Row *row, int64_t samples, const REAL *cells, REAL *output, const int count) {
    Vector north[TOGETHER] = {{0}}, south[TOGETHER] = {{0}};
    for (int64_t k = 0; k < samples; k++) {
        const REAL *nw = cells + row->nw[k], *sw = nw + query->down[k];
        const REAL *ne = nw + query->right[k], *se = sw + query->right[k];
        for (int i = 0; i < count; i++) {
            north[i] += row->share[0][k] * ((const Unaligned *)nw)[i] + row->share[1][k] * ((const Unaligned *)ne)[i];
            south[i] += row->share[2][k] * ((const Unaligned *)sw)[i] + row->share[3][k] * ((const Unaligned *)se)[i];
        }
    }
    for (int i = 0; i < count; i++) ((Unaligned *)output)[i] = north[i] + south[i];
}

ALWAYS_INLINE void blend_block(const Query *query, const Row *row, int64_t samples, const REAL *cells, REAL *output) {
    blend_lanes(query, row, samples, cells, output, TOGETHER);
}

#endif

ALWAYS_INLINE void prepare(const Arguments *a, int64_t image, int64_t q, int64_t stride, Query *query) {
    const int64_t L = a->L, P = a->P;
    const REAL *reference = a->reference + ((image / a->share_reference) * a->Q + q) * L * a->kind;
    const int32_t *valid = a->valid ? a->valid + (image / a->share_valid) * L * 2 : 0;
    for (int64_t l = 0; l < L; l++) {
        const Level level = level_of(a, reference, valid, l);
        for (int64_t k = l * P; k < (l + 1) * P; k++) {
            for (int axis = 0; axis < 2; axis++) {
                query->slope[axis][k] = level.slope[axis];
                query->base[axis][k] = level.base[axis];
                query->last[axis][k] = level.last[axis];
                query->step[axis][k] = level.step[axis];
            }
            query->start[k] = (int32_t)level.start;
            query->width[k] = (int32_t)level.width;
            query->right[k] = level.right * stride;
            query->down[k] = level.down * stride;
        }
    }
}

/* Cells and shares of a row, as `sample_at` has them, all samples side by side in vectors. */
ALWAYS_INLINE void place(const Query *query, const REAL *points, const REAL *weights, int64_t samples, int64_t stride, Row *row) {
    for (int64_t k = 0; k < samples; k++) {
        const REAL x = query->slope[0][k] * points[2 * k] + query->base[0][k];
        const REAL y = query->slope[1][k] * points[2 * k + 1] + query->base[1][k];
        REAL left = FLOOR(x), top = FLOOR(y);
        left = left > 0 ? left : 0;
        top = top > 0 ? top : 0;
        left = left < query->last[0][k] ? left : query->last[0][k];
        top = top < query->last[1][k] ? top : query->last[1][k];
        const REAL west = hat(x - left), east = hat(x - left - query->step[0][k]);
        const REAL north = weights[k] * hat(y - top), south = weights[k] * hat(y - top - query->step[1][k]);
        row->nw[k] = (query->start[k] + (int32_t)top * query->width[k] + (int32_t)left) * stride;
        row->share[0][k] = north * west;
        row->share[1][k] = north * east;
        row->share[2][k] = south * west;
        row->share[3][k] = south * east;
    }
}

ALWAYS_INLINE void forward_row(const Arguments *a, const Query *query, int64_t image, int64_t q, int64_t head, const int64_t samples, const int64_t D) {
    const int64_t stride = a->M * D;
    const int64_t number = ((image / a->share_points) * a->Q + q) * a->M + head;
    const STORED *cells = a->value + image * a->S * stride + head * D;
    STORED *output = a->output + ((image * a->Q + q) * a->M + head) * D;
    REAL weights[MAX_SAMPLES], room[2 * MAX_SAMPLES];
    Row row;
    const REAL *points = wide(a, a->points, number * samples * 2, samples * 2, room);
    weights_of(a, number, samples, weights);
    place(query, points, weights, samples, stride, &row);
    int64_t d = 0;
    for (; d + BLOCK <= D; d += BLOCK) blend_block(query, &row, samples, cells + d, output + d);
#ifdef BFLOAT16
    for (; d + LANES <= D; d += LANES) blend_lanes(query, &row, samples, cells + d, output + d);
#else
    for (; d + LANES <= D; d += LANES) blend_lanes(query, &row, samples, cells + d, output + d, 1);
#endif
    for (; d < D; d++) {
        REAL blended = 0;
        for (int64_t k = 0; k < samples; k++) {
            const STORED *nw = cells + d + row.nw[k], *sw = nw + query->down[k];
            const int64_t right = query->right[k];
            blended += row.share[0][k] * widened(nw[0]) + row.share[1][k] * widened(nw[right]);
            blended += row.share[2][k] * widened(sw[0]) + row.share[3][k] * widened(sw[right]);
        }
        output[d] = narrowed(blended);
    }
}

ALWAYS_INLINE void forward_rows(const Arguments *a, const Job *job, const int64_t samples, const int64_t D) {
    Query query;
    for (int64_t image = job->image_begin; image < job->image_end; image++)
        for (int64_t q = job->query_begin; q < job->query_end; q++) {
            prepare(a, image, q, a->M * D, &query);
            for (int64_t head = job->head_begin; head < job->head_end; head++)
                forward_row(a, &query, image, q, head, samples, D);
        }
}

ALWAYS_INLINE void backward_row(const Arguments *a, int64_t image, int64_t q, int64_t head, const int64_t D) {
    const int64_t L = a->L, P = a->P, samples = L * P, stride = a->M * D, kind = a->kind;
    const int64_t row = ((image / a->share_points) * a->Q + q) * a->M + head;
    const int64_t own_row = (image * a->Q + q) * a->M + head;
    const REAL *reference = a->reference + ((image / a->share_reference) * a->Q + q) * L * kind;
    const int32_t *valid = a->valid ? a->valid + (image / a->share_valid) * L * 2 : 0;
    const int64_t slice = image * a->S * stride + head * D;
    const REAL *grad = a->grad_output + own_row * D;
    REAL weights[MAX_SAMPLES], room[2 * MAX_SAMPLES], mean = 0;
    const REAL *points = wide(a, a->points, row * samples * 2, samples * 2, room);
    weights_of(a, row, samples, weights);
    for (int64_t l = 0; l < L; l++) {
        const Level level = level_of(a, reference, valid, l);
        REAL moved[2] = {0, 0}, grown[2] = {0, 0};
        for (int64_t p = 0; p < P; p++) {
            const int64_t k = l * P + p;
            const Sample s = sample_at(&level, points + 2 * k);
            const REAL west = hat(s.low[0]), east = hat(s.high[0]);
            const REAL north = hat(s.low[1]), south = hat(s.high[1]), weight = weights[k];
            const int64_t nw = slice + s.nw * stride, ne = nw + level.right * stride;
            const int64_t sw = nw + level.down * stride, se = sw + level.right * stride;
            if (a->grad_value) {
                const REAL share[4] = {weight * north * west, weight * north * east,
                                       weight * south * west, weight * south * east};
                const int64_t at[4] = {nw, ne, sw, se};
                for (int c = 0; c < 4; c++) {
                    REAL *cell = a->grad_value + at[c];
                    if (share[c] != 0)
                        for (int64_t d = 0; d < D; d++) cell[d] += share[c] * grad[d];
                }
            }
            if (!a->grad_points) continue;
            const STORED *value = a->value;
            REAL dot_nw = 0, dot_ne = 0, dot_sw = 0, dot_se = 0;
            for (int64_t d = 0; d < D; d++) {
                dot_nw += grad[d] * widened(value[nw + d]);
                dot_ne += grad[d] * widened(value[ne + d]);
                dot_sw += grad[d] * widened(value[sw + d]);
                dot_se += grad[d] * widened(value[se + d]);
            }
            const REAL at_west = north * dot_nw + south * dot_sw;
            const REAL at_east = north * dot_ne + south * dot_se;
            const REAL at_north = west * dot_nw + east * dot_ne;
            const REAL at_south = west * dot_sw + east * dot_se;
            const REAL d_weight = west * at_west + east * at_east;
            const REAL moves[2] = {
                weight * (hat_slope(s.low[0]) * at_west + hat_slope(s.high[0]) * at_east),
                weight * (hat_slope(s.low[1]) * at_north + hat_slope(s.high[1]) * at_south)};
            a->grad_weights[own_row * samples + k] = d_weight;
            mean += weight * d_weight;
            for (int axis = 0; axis < 2; axis++) {
                a->grad_points[(own_row * samples + k) * 2 + axis] = level.slope[axis] * moves[axis];
                moved[axis] += moves[axis];
                grown[axis] += points[2 * k + axis] * moves[axis];
            }
        }
        if (!a->grad_reference) continue;
        REAL *target = a->grad_reference + (own_row * L + l) * kind;
        for (int axis = 0; axis < 2; axis++) {
            target[axis] = level.size[axis] * moved[axis];
            if (kind == BOXES)
                target[2 + axis] = grown[axis] * (level.size[axis] / (2 * (REAL)P));
        }
    }
    if (a->grad_points && kind != LOCATIONS)
        for (int64_t k = 0; k < samples; k++) {
            REAL *d_weight = a->grad_weights + own_row * samples + k;
            *d_weight = weights[k] * (*d_weight - mean);
        }
}

ALWAYS_INLINE void backward_rows(const Arguments *a, const Job *job, const int64_t samples, const int64_t D) {
    (void)samples;
    for (int64_t image = job->image_begin; image < job->image_end; image++)
        for (int64_t q = job->query_begin; q < job->query_end; q++)
            for (int64_t head = job->head_begin; head < job->head_end; head++)
                backward_row(a, image, q, head, D);
}

/* The usual numbers are known to the compiler, which then keeps a row in registers. */
#define FOR_SIZES(rows)                                                            \
    const int64_t samples = a->L * a->P;                                           \
    if (a->D == 32 && samples == 16) rows(a, job, 16, 32);                         \
    else if (a->D == 16 && samples == 12) rows(a, job, 12, 16);                    \
    else if (a->D == 16) rows(a, job, samples, 16);                                \
    else if (a->D == 32) rows(a, job, samples, 32);                                \
    else if (a->D == 64) rows(a, job, samples, 64);                                \
    else rows(a, job, samples, a->D);

void forward(const Arguments *a, const Job *job) { FOR_SIZES(forward_rows) }

void backward(const Arguments *a, const Job *job) { FOR_SIZES(backward_rows) }
