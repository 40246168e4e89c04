/* Multi-scale deformable attention on a CPU, forward and backward, for one REAL (float or double).

   Compiled by c_library.py at first use. Positions, weights and their derivation are those of the
   Triton kernels (triton_forward.py, triton_backward.py), sample by sample:

       x = slope * point + base;  cell = min(max(floor(x), 0), W - 2);  weight = max(0, 1 - |x - cell|)

   Letters: B images, S tokens, M heads, D channels per head, Q queries, L levels, P points. A row is
   one (image, query, head). Nothing is stored per sample beyond its row. A job of the backward pass
   owns its (image, head) slices of grad_value, so nothing is atomic and every sum has a fixed order. */

#include <math.h>

#include "../simd.h"

#define FAR ((REAL)1e30)
#define MAX_SAMPLES 1024

enum { LOCATIONS = 0, POINTS = 2, BOXES = 4 };

typedef struct {
    const REAL *value;      /* [B, S, M, D] */
    const REAL *points;     /* [B / share_points, Q, M, L, P, 2] */
    const REAL *weights;    /* [B / share_points, Q, M, L, P], logits unless LOCATIONS */
    const REAL *reference;  /* [B / share_reference, Q, L, kind] */
    const int32_t *valid;   /* [B / share_valid, L, 2] (height, width), or NULL */
    const int32_t *levels;  /* [L, 3] (height, width, first token) */
    REAL *output;           /* [B, Q, M, D] */
    const REAL *grad_output; /* like output */
    REAL *grad_value;       /* like value, zero on entry; or NULL */
    REAL *grad_points;      /* [B, Q, M, L, P, 2], or NULL together with grad_weights */
    REAL *grad_weights;     /* [B, Q, M, L, P] */
    REAL *grad_reference;   /* [B, Q, M, L, kind], or NULL */
    int64_t S, M, D, Q, L, P, kind, share_points, share_reference, share_valid;
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

/* A sample as the blending of a row reads it: elements from the row's first channel to the corner at
   the north west, from there to its neighbours, and the weight of each corner. */
typedef struct {
    int64_t nw, right, down;
    REAL share[4]; /* nw, ne, sw, se */
} Corners;

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

/* Weights of a row's samples: given, or the softmax of its logits. */
ALWAYS_INLINE void weights_of(const Arguments *a, const REAL *logits, int64_t samples, REAL *weights) {
    if (a->kind == LOCATIONS) {
        for (int64_t k = 0; k < samples; k++) weights[k] = logits[k];
        return;
    }
    REAL largest = logits[0], total = 0;
    for (int64_t k = 1; k < samples; k++) largest = logits[k] > largest ? logits[k] : largest;
    for (int64_t k = 0; k < samples; k++) total += weights[k] = EXP(logits[k] - largest);
    for (int64_t k = 0; k < samples; k++) weights[k] /= total;
}

/* LANES * count channels of a row; `cells` and `output` at the first of them. */
ALWAYS_INLINE void blend_lanes(const Corners *corners, int64_t samples, const REAL *cells, REAL *output, const int count) {
    Vector north[TOGETHER] = {{0}}, south[TOGETHER] = {{0}};
    for (int64_t k = 0; k < samples; k++) {
        const Corners *c = corners + k;
        const REAL *nw = cells + c->nw, *ne = nw + c->right, *sw = nw + c->down, *se = sw + c->right;
        for (int i = 0; i < count; i++) {
            north[i] += c->share[0] * ((const Unaligned *)nw)[i] + c->share[1] * ((const Unaligned *)ne)[i];
            south[i] += c->share[2] * ((const Unaligned *)sw)[i] + c->share[3] * ((const Unaligned *)se)[i];
        }
    }
    for (int i = 0; i < count; i++) ((Unaligned *)output)[i] = north[i] + south[i];
}

ALWAYS_INLINE void forward_row(const Arguments *a, int64_t image, int64_t q, int64_t head, const int64_t D) {
    const int64_t L = a->L, P = a->P, samples = L * P, stride = a->M * D;
    const int64_t row = ((image / a->share_points) * a->Q + q) * a->M + head;
    const REAL *points = a->points + row * samples * 2;
    const REAL *reference = a->reference + ((image / a->share_reference) * a->Q + q) * L * a->kind;
    const int32_t *valid = a->valid ? a->valid + (image / a->share_valid) * L * 2 : 0;
    const REAL *cells = a->value + image * a->S * stride + head * D;
    REAL *output = a->output + ((image * a->Q + q) * a->M + head) * D;
    REAL weights[MAX_SAMPLES];
    Corners corners[MAX_SAMPLES];
    weights_of(a, a->weights + row * samples, samples, weights);
    for (int64_t l = 0; l < L; l++) {
        const Level level = level_of(a, reference, valid, l);
        for (int64_t k = l * P; k < (l + 1) * P; k++) {
            const Sample s = sample_at(&level, points + 2 * k);
            const REAL west = hat(s.low[0]), east = hat(s.high[0]);
            const REAL north = weights[k] * hat(s.low[1]), south = weights[k] * hat(s.high[1]);
            corners[k] = (Corners){s.nw * stride, level.right * stride, level.down * stride,
                                   {north * west, north * east, south * west, south * east}};
        }
    }
    int64_t d = 0;
    for (; d + TOGETHER * LANES <= D; d += TOGETHER * LANES)
        blend_lanes(corners, samples, cells + d, output + d, TOGETHER);
    for (; d + LANES <= D; d += LANES) blend_lanes(corners, samples, cells + d, output + d, 1);
    for (; d < D; d++) {
        REAL blended = 0;
        for (int64_t k = 0; k < samples; k++) {
            const Corners *c = corners + k;
            const REAL *nw = cells + d + c->nw, *sw = nw + c->down;
            blended += c->share[0] * nw[0] + c->share[1] * nw[c->right];
            blended += c->share[2] * sw[0] + c->share[3] * sw[c->right];
        }
        output[d] = blended;
    }
}

ALWAYS_INLINE void backward_row(const Arguments *a, int64_t image, int64_t q, int64_t head, const int64_t D) {
    const int64_t L = a->L, P = a->P, samples = L * P, stride = a->M * D, kind = a->kind;
    const int64_t row = ((image / a->share_points) * a->Q + q) * a->M + head;
    const int64_t own_row = (image * a->Q + q) * a->M + head;
    const REAL *points = a->points + row * samples * 2;
    const REAL *reference = a->reference + ((image / a->share_reference) * a->Q + q) * L * kind;
    const int32_t *valid = a->valid ? a->valid + (image / a->share_valid) * L * 2 : 0;
    const int64_t slice = image * a->S * stride + head * D;
    const REAL *grad = a->grad_output + own_row * D;
    REAL weights[MAX_SAMPLES], mean = 0;
    weights_of(a, a->weights + row * samples, samples, weights);
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
            const REAL *value = a->value;
            REAL dot_nw = 0, dot_ne = 0, dot_sw = 0, dot_se = 0;
            for (int64_t d = 0; d < D; d++) {
                dot_nw += grad[d] * value[nw + d];
                dot_ne += grad[d] * value[ne + d];
                dot_sw += grad[d] * value[sw + d];
                dot_se += grad[d] * value[se + d];
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

/* The usual channel counts are known to the compiler, which then keeps a row in registers. */
#define FOR_ROWS(row)                                                                  \
    for (int64_t image = job->image_begin; image < job->image_end; image++)            \
        for (int64_t q = job->query_begin; q < job->query_end; q++)                    \
            for (int64_t head = job->head_begin; head < job->head_end; head++) row;

#define FOR_CHANNELS(function)                                   \
    switch (a->D) {                                              \
    case 16: FOR_ROWS(function(a, image, q, head, 16)) break;    \
    case 32: FOR_ROWS(function(a, image, q, head, 32)) break;    \
    case 64: FOR_ROWS(function(a, image, q, head, 64)) break;    \
    default: FOR_ROWS(function(a, image, q, head, a->D)) break;  \
    }

void forward(const Arguments *a, const Job *job) { FOR_CHANNELS(forward_row) }

void backward(const Arguments *a, const Job *job) { FOR_CHANNELS(backward_row) }
