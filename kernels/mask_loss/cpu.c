/* Sums of the mask losses over the pixels of instances, and their gradient, for one REAL.

   Compiled by c_library.py at first use. For a target t and w = (1 - 2t) * logit: m = sigmoid(w) is the
   probability of the wrong answer, c = log(1 + exp(w)) its cross entropy, q = c * m^gamma. All sums
   follow from those of t, m, tm, q and tq. One exp and one division serve a pixel, polynomials that
   compilers turn into vectors; in double, which tests use, the functions of the C library. A job is
   some instances in one frame. */

#include <math.h>

#include "../simd.h"

#define SEGMENT 256 /* pixels of a row at once */
#define FAR ((REAL)1e30)

typedef struct {
    const uint8_t *targets;      /* [M, T, H, W], not 0 where an instance is */
    const int64_t *target_index; /* [N] */
    double *sums;                /* [T, N, 4] focal loss, p * t, p, t */
    const REAL *grad_sums;       /* [N, 4] */
    int64_t T, N, H, W, stride, height, width; /* of the targets, from one to the next; of the logits */
    double alpha, gamma;
} Arguments;

/* Instances first..last of the N in a frame. */
typedef struct {
    int64_t frame, first, last;
    REAL *pixels; /* [last - first, height, width] logits; backward: replaced by their gradient */
} Job;

/* Some pixels of a row, as vectors; behind the last, background that is certain. */
typedef union {
    Vector vectors[SEGMENT * sizeof(REAL) / BYTES];
    REAL pixels[SEGMENT];
} Row;

ALWAYS_INLINE Vector where(Mask is, Vector yes, Vector no) { return (Vector)((is & (Mask)yes) | (~is & (Mask)no)); }

/* exp(x) for x <= 0, relative error 1e-7; NaN stays. */
ALWAYS_INLINE Vector exp_of(Vector x) {
    if (sizeof(REAL) == sizeof(double)) {
        for (int64_t k = 0; k < LANES; k++) x[k] = exp(x[k]);
        return x;
    }
    x = where(x < -87, (Vector){0} - 87, x);
    const Mask n = __builtin_convertvector(x * (REAL)1.44269504088896341 - (REAL)0.5, Mask); /* x < 0: rounds */
    const Vector r = x - __builtin_convertvector(n, Vector) * (REAL)0.693147180559945309;
    Vector y = r * (REAL)(1 / 5040.0) + (REAL)(1 / 720.0);
    y = y * r + (REAL)(1 / 120.0);
    y = y * r + (REAL)(1 / 24.0);
    y = y * r + (REAL)(1 / 6.0);
    y = y * r + (REAL)0.5;
    y = y * r + 1;
    y = y * r + 1;
    return y * (Vector)((n + 127) << 23);
}

/* log(1 + e) = 2 artanh(s) for s = e / (2 + e) <= 1/3, relative error 1e-7. */
ALWAYS_INLINE Vector log_of_one_more(Vector e, Vector s) {
    if (sizeof(REAL) == sizeof(double)) {
        for (int64_t k = 0; k < LANES; k++) e[k] = log1p(e[k]);
        return e;
    }
    const Vector x = s * s;
    Vector y = x * (REAL)(2 / 13.0) + (REAL)(2 / 11.0);
    y = y * x + (REAL)(2 / 9.0);
    y = y * x + (REAL)(2 / 7.0);
    y = y * x + (REAL)(2 / 5.0);
    y = y * x + (REAL)(2 / 3.0);
    y = y * x + 2;
    return y * s;
}

/* m, 1 - m, c and m^gamma of pixels. */
typedef struct {
    Vector miss, hit, cost, power;
} Answer;

ALWAYS_INLINE Answer answer_of(Vector logit, Vector target, REAL gamma) {
    Answer a;
    const Vector w = (1 - 2 * target) * logit;
    const Mask is_right = w < 0;
    const Vector low = (Vector)(is_right & (Mask)w), high = (Vector)(~is_right & (Mask)w);
    const Vector e = exp_of(low - high), one = 1 + e, two = 2 + e;
    const Vector share = 1 / (one * two), large = two * share, small = e * large;
    const Vector log_one = log_of_one_more(e, e * (one * share));
    a.miss = where(is_right, small, large);
    a.hit = where(is_right, large, small);
    a.cost = high + log_one;
    if (gamma == 2)
        a.power = a.miss * a.miss;
    else if (gamma == 1)
        a.power = a.miss;
    else if (gamma == 0)
        a.power = (Vector){0} + 1;
    else
        a.power = exp_of(gamma * (low - log_one));
    return a;
}

/* 0 or 1 for pixels x.. of row y; targets end before the logits where the rest is background. */
ALWAYS_INLINE void read_targets(const Arguments *a, const uint8_t *target, int64_t y, int64_t x, Row *wanted) {
    const int64_t stride = a->stride, row = y * stride + stride / 2, first = x * stride + stride / 2;
    int64_t count = row < a->H && first < a->W ? (a->W - first + stride - 1) / stride : 0;
    if (count > SEGMENT) count = SEGMENT;
    const uint8_t *from = target + row * a->W + first;
    if (stride == 1)
        for (int64_t i = 0; i < count; i++) wanted->pixels[i] = from[i] != 0;
    else
        for (int64_t i = 0; i < count; i++) wanted->pixels[i] = from[i * stride] != 0;
    for (int64_t i = count; i < SEGMENT; i++) wanted->pixels[i] = 0;
}

ALWAYS_INLINE int64_t read_logits(const Arguments *a, const REAL *pixels, int64_t x, Row *logits) {
    const int64_t count = a->width - x < SEGMENT ? a->width - x : SEGMENT;
    for (int64_t i = 0; i < count; i++) logits->pixels[i] = pixels[i];
    for (int64_t i = count; i < SEGMENT; i++) logits->pixels[i] = -FAR;
    return count;
}

static const uint8_t *target_of(const Arguments *a, const Job *job, int64_t n) {
    return a->targets + (a->target_index[n] * a->T + job->frame) * a->H * a->W;
}

ALWAYS_INLINE double total(Vector x) {
    double sum = 0;
    for (int64_t k = 0; k < LANES; k++) sum += x[k];
    return sum;
}

void sums(const Arguments *a, const Job *job) {
    const REAL *pixels = job->pixels;
    const REAL gamma = (REAL)a->gamma;
    for (int64_t n = job->first; n < job->last; n++) {
        const uint8_t *target = target_of(a, job, n);
        double area = 0, miss = 0, cost = 0, target_miss = 0, target_cost = 0;
        for (int64_t y = 0; y < a->height; y++, pixels += a->width) {
            Vector s_area = {0}, s_miss = {0}, s_cost = {0}, s_target_miss = {0}, s_target_cost = {0};
            for (int64_t x = 0; x < a->width; x += SEGMENT) {
                Row wanted, logits;
                const int64_t count = read_logits(a, pixels + x, x, &logits);
                read_targets(a, target, y, x, &wanted);
                for (int64_t i = 0; i * LANES < count; i++) {
                    const Vector t = wanted.vectors[i];
                    const Answer answer = answer_of(logits.vectors[i], t, gamma);
                    const Vector q = answer.cost * answer.power;
                    s_area += t, s_miss += answer.miss, s_cost += q;
                    s_target_miss += t * answer.miss, s_target_cost += t * q;
                }
            }
            area += total(s_area), miss += total(s_miss), cost += total(s_cost);
            target_miss += total(s_target_miss), target_cost += total(s_target_cost);
        }
        double *result = a->sums + (job->frame * a->N + n) * 4;
        result[0] = (1 - a->alpha) * cost + (2 * a->alpha - 1) * target_cost;
        result[1] = area - target_miss;
        result[2] = area + miss - 2 * target_miss;
        result[3] = area;
    }
}

void gradient(const Arguments *a, const Job *job) {
    REAL *pixels = job->pixels;
    const REAL gamma = (REAL)a->gamma, background = (REAL)(1 - a->alpha);
    for (int64_t n = job->first; n < job->last; n++) {
        const uint8_t *target = target_of(a, job, n);
        const REAL by_focal = a->grad_sums[4 * n], by_overlap = a->grad_sums[4 * n + 1];
        const REAL by_probability = a->grad_sums[4 * n + 2];
        for (int64_t y = 0; y < a->height; y++, pixels += a->width)
            for (int64_t x = 0; x < a->width; x += SEGMENT) {
                Row wanted, logits;
                const int64_t count = read_logits(a, pixels + x, x, &logits);
                read_targets(a, target, y, x, &wanted);
                for (int64_t i = 0; i * LANES < count; i++) {
                    const Vector t = wanted.vectors[i];
                    const Answer answer = answer_of(logits.vectors[i], t, gamma);
                    const Vector focal = (gamma * answer.cost * answer.hit + answer.miss) * answer.power;
                    const Vector slope = answer.hit * answer.miss;
                    logits.vectors[i] =
                        (background - t) * by_focal * focal + (t * by_overlap + by_probability) * slope;
                }
                for (int64_t i = 0; i < count; i++) pixels[x + i] = logits.pixels[i];
            }
    }
}
