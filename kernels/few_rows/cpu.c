/* Blocks of a transformer on few rows, for one REAL (float), in one call each.

   Compiled by c_library.py at first use. Letters as in __init__.py: R rows, C channels, O outputs, H hidden
   channels, n images, Q rows of an image, M heads. Weights are as torch has them, [O, C]. */

#include <math.h>

#include "../simd.h"

#if BYTES == 64
#include <immintrin.h>
#endif

/* Rows that go through a panel of the weight together, each with its sums in a register, and inputs of a
   panel. */
enum { TOGETHER = 8, INPUTS = 256, LANES_AT_MOST = BYTES / sizeof(REAL) };

typedef struct {
    const REAL *weight, *bias; /* [O, C], [O] */
    int64_t inputs, outputs;
} Layer;

typedef struct {
    const REAL *gamma, *beta; /* [C] */
    REAL eps;
} Norm;

#if BYTES == 64

/* LANES rows of LANES weights, `step` apart, into columns: every round deals the upper and the lower half of
   the vectors out in turn, and four rounds exchange rows and columns. */
ALWAYS_INLINE void turn(const REAL *w, int64_t step, REAL *columns) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    __m512 from[16], to[16];
    for (int i = 0; i < 16; i++) from[i] = _mm512_loadu_ps(w + i * step);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 8; i++) {
            to[2 * i] = _mm512_permutex2var_ps(from[i], low, from[i + 8]);
            to[2 * i + 1] = _mm512_permutex2var_ps(from[i], high, from[i + 8]);
        }
        for (int i = 0; i < 16; i++) from[i] = to[i];
    }
    for (int i = 0; i < 16; i++) _mm512_storeu_ps(columns + i * 16, from[i]);
}

#else

ALWAYS_INLINE void turn(const REAL *w, int64_t step, REAL *columns) {
    for (int64_t i = 0; i < LANES; i++)
        for (int64_t j = 0; j < LANES; j++) columns[j * LANES + i] = w[i * step + j];
}

#endif

/* Inputs 0..count-1 of LANES outputs, of which `outputs` exist: panel [count, LANES]. */
ALWAYS_INLINE void fill_panel(const REAL *w, int64_t step, int64_t count, int64_t outputs, REAL *panel) {
    int64_t c = 0;
    if (outputs == LANES)
        for (; c + LANES <= count; c += LANES) turn(w + c, step, panel + c * LANES);
    for (; c < count; c++)
        for (int64_t o = 0; o < LANES; o++) panel[c * LANES + o] = o < outputs ? w[o * step + c] : 0;
}

/* `rows` rows of x times a panel, added to `out`, or with the bias in its place where they are the first. */
ALWAYS_INLINE void add_products(const REAL *x, int64_t C, const REAL *panel, int64_t count, const int rows, const REAL *bias, int is_first, int relu, int64_t outputs, REAL *out, int64_t O) {
    Vector sums[TOGETHER];
    REAL part[LANES_AT_MOST];
    for (int r = 0; r < rows; r++) {
        const REAL *begin = is_first ? bias : out + r * O;
        if (outputs < LANES) {
            for (int64_t o = 0; o < LANES; o++) part[o] = o < outputs ? begin[o] : 0;
            begin = part;
        }
        sums[r] = *(const Unaligned *)begin;
    }
    for (int64_t c = 0; c < count; c++) {
        const Vector weight = *(const Unaligned *)(panel + c * LANES);
        for (int r = 0; r < rows; r++) sums[r] += x[r * C + c] * weight;
    }
    for (int r = 0; r < rows; r++) {
        if (relu) sums[r] = (Vector)(~(sums[r] < 0) & (Mask)sums[r]); /* NaN stays */
        if (outputs == LANES) {
            *(Unaligned *)(out + r * O) = sums[r];
        } else {
            *(Unaligned *)part = sums[r];
            for (int64_t o = 0; o < outputs; o++) out[r * O + o] = part[o];
        }
    }
}

#define ADD_PRODUCTS(rows) \
    add_products(x + r * C + c, C, panel, count, rows, layer->bias + o, c == 0, clamps, outputs, out + r * O + o, O)

/* out [R, O] = x [R, C] times the layer's weight, with its bias, with `relu` clamped at 0. */
static void linear(const REAL *x, int64_t R, const Layer *layer, int relu, REAL *out) {
    const int64_t C = layer->inputs, O = layer->outputs;
    REAL panel[INPUTS * LANES_AT_MOST];
    for (int64_t o = 0; o < O; o += LANES) {
        const int64_t outputs = O - o < LANES ? O - o : LANES;
        for (int64_t c = 0; c < C; c += INPUTS) {
            const int64_t count = C - c < INPUTS ? C - c : INPUTS;
            const int clamps = relu && c + count == C;
            fill_panel(layer->weight + o * C + c, C, count, outputs, panel);
            int64_t r = 0;
            for (; r + TOGETHER <= R; r += TOGETHER) ADD_PRODUCTS(TOGETHER);
            for (; r + TOGETHER / 2 <= R; r += TOGETHER / 2) ADD_PRODUCTS(TOGETHER / 2);
            for (; r < R; r++) ADD_PRODUCTS(1);
        }
    }
}

/* rows [R, C] = norm(rows + residual). */
static void add_norm(REAL *rows, const REAL *residual, int64_t R, int64_t C, const Norm *norm) {
    for (int64_t r = 0; r < R; r++, rows += C, residual += C) {
        REAL sum = 0, squares = 0;
        for (int64_t c = 0; c < C; c++) sum += rows[c] += residual[c];
        const REAL mean = sum / C;
        for (int64_t c = 0; c < C; c++) squares += (rows[c] - mean) * (rows[c] - mean);
        const REAL scale = 1 / (REAL)sqrt(squares / C + norm->eps);
        for (int64_t c = 0; c < C; c++) rows[c] = (rows[c] - mean) * scale * norm->gamma[c] + norm->beta[c];
    }
}

/* out [R, O]: layers with ReLU between them; `space` [2, R, widest]. */
void mlp(const REAL *x, int64_t R, const Layer *layers, int64_t count, REAL *space, int64_t widest, REAL *out) {
    for (int64_t i = 0; i < count; i++) {
        REAL *to = i == count - 1 ? out : space + i % 2 * R * widest;
        linear(x, R, layers + i, i < count - 1, to);
        x = to;
    }
}

/* out_i [R, O_i] = layer_i(x + position), for `count` layers; `space` [R, C], position [P, C], P divides R. */
void linears_of_sum(const REAL *x, const REAL *position, int64_t R, int64_t P, const Layer *layers, int64_t count, REAL *space, REAL *const *out) {
    const int64_t C = layers->inputs;
    for (int64_t i = 0; i < R; i += P)
        for (int64_t k = 0; k < P * C; k++) space[i * C + k] = x[i * C + k] + position[k];
    for (int64_t i = 0; i < count; i++) linear(space, R, layers + i, 0, out[i]);
}

/* out [R, C] = norm(residual + layer(x)). */
void linear_norm(const REAL *x, const REAL *residual, int64_t R, const Layer *layer, const Norm *norm, REAL *out) {
    linear(x, R, layer, 0, out);
    add_norm(out, residual, R, layer->outputs, norm);
}

/* out [R, C] = norm(x + second(relu(first(x)))); `space` [R, H]. */
void feed_forward(const REAL *x, int64_t R, const Layer *layers, const Norm *norm, REAL *space, REAL *out) {
    linear(x, R, layers, 1, space);
    linear(space, R, layers + 1, 0, out);
    add_norm(out, x, R, layers[1].outputs, norm);
}

/* One head of an image: q and k lie in rows of 2C, v and `out` in rows of C; `scores` [Q]. */
static void attend_head(const REAL *q, const REAL *k, const REAL *v, int64_t Q, int64_t C, int64_t D, REAL *scores, REAL *out) {
    const REAL scale = 1 / (REAL)sqrt((REAL)D);
    for (int64_t i = 0; i < Q; i++, q += 2 * C, out += C) {
        REAL largest = -INFINITY, total = 0;
        for (int64_t j = 0; j < Q; j++) {
            REAL dot = 0;
            for (int64_t d = 0; d < D; d++) dot += q[d] * k[j * 2 * C + d];
            scores[j] = dot * scale;
            largest = scores[j] > largest ? scores[j] : largest;
        }
        for (int64_t j = 0; j < Q; j++) total += scores[j] = EXP(scores[j] - largest);
        for (int64_t d = 0; d < D; d++) out[d] = 0;
        for (int64_t j = 0; j < Q; j++)
            for (int64_t d = 0; d < D; d++) out[d] += scores[j] / total * v[j * C + d];
    }
}

/* out [n, Q, C] = norm(x + projection(attention)), with positions [Q, C] in queries and keys. `in` has 3C
   outputs: queries, keys, values. `space` [5, n, Q, C] and Q. */
void attend(const REAL *x, const REAL *position, int64_t n, int64_t Q, int64_t M, const Layer *in, const Layer *projection, const Norm *norm, REAL *space, REAL *out) {
    const int64_t C = in->inputs, R = n * Q, D = C / M;
    const Layer qk = {in->weight, in->bias, C, 2 * C};
    const Layer values = {in->weight + 2 * C * C, in->bias + 2 * C, C, C};
    REAL *both = space, *v = both + 2 * R * C, *mixed = v + R * C, *sums = mixed + R * C, *scores = sums + R * C;
    REAL *const to[] = {both};
    linears_of_sum(x, position, R, Q, &qk, 1, sums, to);
    linear(x, R, &values, 0, v);
    for (int64_t i = 0; i < n; i++)
        for (int64_t m = 0; m < M; m++) {
            const int64_t at = i * Q * C + m * D, at_both = i * Q * 2 * C + m * D;
            attend_head(both + at_both, both + at_both + C, v + at, Q, C, D, scores, mixed + at);
        }
    linear_norm(mixed, x, R, projection, norm, out);
}
