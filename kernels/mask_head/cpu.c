/* Dynamic mask head on a CPU, forward and backward, for one REAL (float or double).

   Compiled by c_library.py at first use. Letters: B clips, T frames, N instances, C channels, h x w cells,
   D hidden width (a multiple of 4), I inputs (two coordinates, if any, and C channels), F
   upsampling, G parameters of an instance.

   A job is one frame of a clip, and some of the clip's instances, one after the other. In the first
   layer only the bias depends on instance and frame at once: coordinates are affine in the cell, so
   W (ref - cell) + b is the product of W with rows that all instances share, -x and -y, and a bias.
   Cells are visited in blocks whose hidden values stay in L1, [unit][cell], two vectors at a time; the
   backward computes hidden values anew. Nothing is shared between jobs, every sum has a fixed order. */

#include <string.h>

#include "../simd.h"

#define BLOCK ((int64_t)(512 / sizeof(REAL))) /* cells of a block, a multiple of two vectors */
#define MAX_WIDTH 16
#define MAX_HIDDEN 3

typedef struct {
    const REAL *features;   /* [B, T, C, h, w] */
    const REAL *params;     /* [N, G] */
    const REAL *references; /* [N, T, 2] */
    REAL *grad_features;    /* like features, added to; or NULL */
    REAL *grad_params;      /* [T, N, G], the share of each frame */
    REAL *grad_references;  /* [N, T, 2] */
    int64_t T, N, C, h, w, D, layers, F, relative, stride;
} Arguments;

/* Instances first..last of the N, all of this clip, in this frame. */
typedef struct {
    int64_t clip, frame, first, last;
    REAL *pixels;        /* [last - first, F*h, F*w]: logits, or their gradient */
    int64_t mask_stride; /* from a mask of `pixels` to the next */
    REAL *space;         /* as many as space_of says */
} Job;

/* A network in one frame: where its layers are, the moved first bias, the reference from the centre. */
typedef struct {
    const REAL *weights[MAX_HIDDEN + 1], *biases[MAX_HIDDEN + 1];
    REAL first_bias[MAX_WIDTH], reference[2];
} Network;

/* Hidden values of a block, and the gradients of a layer's and the next one's. */
typedef struct {
    REAL hidden[MAX_HIDDEN][MAX_WIDTH * BLOCK];
    REAL delta[2][MAX_WIDTH * BLOCK];
} Values;

/* Parts of a job's space. */
typedef struct {
    int64_t count, pitch; /* cells of a row; with some behind the last */
    REAL *inputs;        /* [I, pitch] */
    REAL *grad_channels; /* [C, pitch] */
    REAL *cells;         /* [pitch] logits, or their gradient */
    REAL *totals;        /* [G, LANES] gradients of parameters, lane by lane */
    REAL *wide[2];       /* [F*w + 2*F] rows stretched along x */
} Space;

ALWAYS_INLINE Vector load(const REAL *x) { return *(const Unaligned *)x; }
/* The same to be used often: GCC takes operands of products from memory each time, as that saves code. */
ALWAYS_INLINE Vector load_once(const REAL *x) {
    Vector v = load(x);
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#endif
    return v;
}
ALWAYS_INLINE void store(REAL *x, Vector v) { *(Unaligned *)x = v; }
ALWAYS_INLINE Vector same(REAL x) { return (Vector){0} + x; }

ALWAYS_INLINE Vector relu(Vector x) { return (Vector)(~(x < 0) & (Mask)x); } /* NaN stays */
ALWAYS_INLINE Vector where_active(Vector unit, Vector x) { return (Vector)(~(unit <= 0) & (Mask)x); }

static int64_t inputs_of(const Arguments *a) { return a->C + 2 * a->relative; }

static int64_t params_of(const Arguments *a) {
    return a->D * inputs_of(a) + (a->layers - 2) * a->D * a->D + a->D + (a->layers - 1) * a->D + 1;
}

/* Two vectors at a time, and an odd number of times: rows a power of two apart share sets of a cache. */
static int64_t pitch_of(const Arguments *a) {
    const int64_t pair = 2 * LANES;
    return ((a->h * a->w + pair - 1) / pair | 1) * pair;
}

static Space divide(const Arguments *a, REAL *space) {
    Space s;
    s.count = a->h * a->w;
    s.pitch = pitch_of(a);
    s.inputs = space;
    s.grad_channels = s.inputs + inputs_of(a) * s.pitch;
    s.cells = s.grad_channels + a->C * s.pitch;
    s.totals = s.cells + s.pitch;
    s.wide[0] = s.totals + params_of(a) * LANES;
    s.wide[1] = s.wide[0] + a->F * (a->w + 2);
    return s;
}

/* Numbers that a job needs as its space. */
int64_t space_of(const Arguments *a) {
    return (inputs_of(a) + a->C + 1) * pitch_of(a) + params_of(a) * LANES + 2 * a->F * (a->w + 2);
}

/* ---- Layers ---- */

enum { RELU, ACTIVE, ADD, LINEAR };

ALWAYS_INLINE void finish(int end, REAL *out, const REAL *units, Vector x) {
    if (end == RELU) x = relu(x);
    if (end == ACTIVE) x = where_active(load(units), x);
    if (end == ADD) x += load(out);
    store(out, x);
}

/* out[o] = sum over i of w[o * w_out + i * w_in] * in[i], for `cells` cells. RELU and LINEAR start from
   the biases in `start`; ACTIVE keeps what passes the units in `start`, which lie as `out` does. */
ALWAYS_INLINE void product(int end, REAL *out, int64_t out_pitch, int64_t outputs, const REAL *in, int64_t in_pitch,
                           int64_t inputs, const REAL *w, int64_t w_out, int64_t w_in, const REAL *start,
                           int64_t cells) {
    const int has_bias = end == RELU || end == LINEAR;
    int64_t o = 0;
    for (; o + 4 <= outputs; o += 4) {
        const REAL *w0 = w + o * w_out, *w1 = w0 + w_out, *w2 = w1 + w_out, *w3 = w2 + w_out;
        for (int64_t p = 0; p < cells; p += 2 * LANES) {
            Vector a0 = same(has_bias ? start[o] : 0), a1 = same(has_bias ? start[o + 1] : 0);
            Vector a2 = same(has_bias ? start[o + 2] : 0), a3 = same(has_bias ? start[o + 3] : 0);
            Vector b0 = a0, b1 = a1, b2 = a2, b3 = a3;
            const REAL *row = in + p;
            for (int64_t i = 0; i < inputs; i++, row += in_pitch) {
                const Vector x = load_once(row), y = load_once(row + LANES);
                const REAL u0 = w0[i * w_in], u1 = w1[i * w_in], u2 = w2[i * w_in], u3 = w3[i * w_in];
                a0 += u0 * x, b0 += u0 * y;
                a1 += u1 * x, b1 += u1 * y;
                a2 += u2 * x, b2 += u2 * y;
                a3 += u3 * x, b3 += u3 * y;
            }
            REAL *to = out + o * out_pitch + p;
            const REAL *units = start + o * out_pitch + p;
            finish(end, to, units, a0), finish(end, to + LANES, units + LANES, b0);
            to += out_pitch, units += out_pitch;
            finish(end, to, units, a1), finish(end, to + LANES, units + LANES, b1);
            to += out_pitch, units += out_pitch;
            finish(end, to, units, a2), finish(end, to + LANES, units + LANES, b2);
            to += out_pitch, units += out_pitch;
            finish(end, to, units, a3), finish(end, to + LANES, units + LANES, b3);
        }
    }
    for (; o < outputs; o++)
        for (int64_t p = 0; p < cells; p += 2 * LANES) {
            Vector a = same(has_bias ? start[o] : 0), b = a;
            for (int64_t i = 0; i < inputs; i++) {
                const REAL u = w[o * w_out + i * w_in], *row = in + i * in_pitch + p;
                a += u * load(row), b += u * load(row + LANES);
            }
            REAL *to = out + o * out_pitch + p;
            const REAL *units = start + o * out_pitch + p;
            finish(end, to, units, a), finish(end, to + LANES, units + LANES, b);
        }
}

ALWAYS_INLINE void add(REAL *total, Vector x) { store(total, load(total) + x); }

/* totals[o][i] += sum over cells of delta[o] * in[i], and bias[o] += sum of delta[o], lane by lane. */
ALWAYS_INLINE void outer_product(REAL *totals, REAL *bias, const REAL *delta, int64_t outputs, const REAL *in,
                                 int64_t in_pitch, int64_t inputs, int64_t cells) {
    for (int64_t o = 0; o < outputs; o += 4) {
        const REAL *d = delta + o * BLOCK;
        int64_t i = 0;
        for (; i + 2 <= inputs; i += 2) {
            Vector a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, b0 = {0}, b1 = {0}, b2 = {0}, b3 = {0};
            const REAL *row = in + i * in_pitch;
            for (int64_t p = 0; p < cells; p += LANES) {
                const Vector x = load_once(row + p), y = load_once(row + in_pitch + p);
                const Vector d0 = load_once(d + p), d1 = load_once(d + BLOCK + p);
                const Vector d2 = load_once(d + 2 * BLOCK + p), d3 = load_once(d + 3 * BLOCK + p);
                a0 += d0 * x, b0 += d0 * y;
                a1 += d1 * x, b1 += d1 * y;
                a2 += d2 * x, b2 += d2 * y;
                a3 += d3 * x, b3 += d3 * y;
            }
            REAL *total = totals + (o * inputs + i) * LANES;
            add(total, a0), add(total + LANES, b0), total += inputs * LANES;
            add(total, a1), add(total + LANES, b1), total += inputs * LANES;
            add(total, a2), add(total + LANES, b2), total += inputs * LANES;
            add(total, a3), add(total + LANES, b3);
        }
        /* An odd input, and the ones that the bias is multiplied with. */
        for (; i <= inputs; i++) {
            if (i == inputs && !bias) continue;
            Vector a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};
            for (int64_t p = 0; p < cells; p += LANES) {
                const Vector x = i < inputs ? load(in + i * in_pitch + p) : same(1);
                a0 += load(d + p) * x, a1 += load(d + BLOCK + p) * x;
                a2 += load(d + 2 * BLOCK + p) * x, a3 += load(d + 3 * BLOCK + p) * x;
            }
            const int64_t step = (i < inputs ? inputs : 1) * LANES;
            REAL *total = i < inputs ? totals + (o * inputs + i) * LANES : bias + o * LANES;
            add(total, a0), add(total + step, a1), add(total + 2 * step, a2), add(total + 3 * step, a3);
        }
    }
}

/* ---- An instance in a frame ---- */

static Network network_of(const Arguments *a, const Job *job, int64_t n) {
    Network net;
    const int64_t I = inputs_of(a), D = a->D, layers = a->layers;
    const REAL *weight = a->params + n * params_of(a), *reference = a->references + (n * a->T + job->frame) * 2;
    for (int64_t l = 0; l < layers; l++) {
        net.weights[l] = weight;
        weight += (l == layers - 1 ? 1 : D) * (l ? D : I);
    }
    for (int64_t l = 0; l < layers; l++) net.biases[l] = weight + l * D;
    net.reference[0] = reference[0] - a->w * a->stride / (REAL)2;
    net.reference[1] = reference[1] - a->h * a->stride / (REAL)2;
    for (int64_t o = 0; o < D; o++) {
        net.first_bias[o] = net.biases[0][o];
        for (int64_t axis = 0; axis < 2 * a->relative; axis++)
            net.first_bias[o] += net.weights[0][o * I + axis] * net.reference[axis];
    }
    return net;
}

/* Hidden values of the block at `cell`. */
ALWAYS_INLINE void hidden_of(const Arguments *a, const Network *net, const Space *s, Values *values, int64_t cell,
                             int64_t cells) {
    const int64_t I = inputs_of(a), D = a->D;
    product(RELU, values->hidden[0], BLOCK, D, s->inputs + cell, s->pitch, I, net->weights[0], I, 1, net->first_bias,
            cells);
    for (int64_t l = 1; l < a->layers - 1; l++)
        product(RELU, values->hidden[l], BLOCK, D, values->hidden[l - 1], BLOCK, D, net->weights[l], D, 1,
                net->biases[l], cells);
}

static void logits_of(const Arguments *a, const Network *net, const Space *s) {
    const int64_t D = a->D, layers = a->layers;
    Values values;
    for (int64_t cell = 0; cell < s->pitch; cell += BLOCK) {
        const int64_t cells = s->pitch - cell < BLOCK ? s->pitch - cell : BLOCK;
        hidden_of(a, net, s, &values, cell, cells);
        product(LINEAR, s->cells + cell, 0, 1, values.hidden[layers - 2], BLOCK, D, net->weights[layers - 1], D, 1,
                net->biases[layers - 1], cells);
    }
}

/* Adds to totals and grad_channels; the gradient of the logits is in s->cells. */
static void gradients_of(const Arguments *a, const Network *net, const Space *s) {
    const int64_t I = inputs_of(a), C = a->C, D = a->D, layers = a->layers;
    Values values;
    REAL *weights[MAX_HIDDEN + 1], *total = s->totals;
    for (int64_t l = 0; l < layers; l++) {
        weights[l] = total;
        total += (l == layers - 1 ? 1 : D) * (l ? D : I) * LANES;
    }
    REAL *biases = total;
    for (int64_t cell = 0; cell < s->pitch; cell += BLOCK) {
        const int64_t cells = s->pitch - cell < BLOCK ? s->pitch - cell : BLOCK;
        const REAL *grad = s->cells + cell;
        hidden_of(a, net, s, &values, cell, cells);
        /* Units behind the last cell are inactive, so that nothing infinite is multiplied with 0 there. */
        for (int64_t unit = 0; cell + cells > s->count && unit < (layers - 1) * D; unit++)
            for (int64_t p = s->count > cell ? s->count - cell : 0; p < cells; p++)
                values.hidden[unit / D][unit % D * BLOCK + p] = 0;
        outer_product(weights[layers - 1], 0, values.hidden[layers - 2], D, grad, 0, 1, cells);
        for (int64_t p = 0; p < cells; p += LANES) add(biases + (layers - 1) * D * LANES, load(grad + p));
        REAL *delta = values.delta[0], *below = values.delta[1];
        product(ACTIVE, delta, BLOCK, D, grad, 0, 1, net->weights[layers - 1], 1, 0, values.hidden[layers - 2], cells);
        for (int64_t l = layers - 2; l > 0; l--) {
            outer_product(weights[l], biases + l * D * LANES, delta, D, values.hidden[l - 1], BLOCK, D, cells);
            product(ACTIVE, below, BLOCK, D, delta, BLOCK, D, net->weights[l], 1, D, values.hidden[l - 1], cells);
            REAL *swap = delta;
            delta = below, below = swap;
        }
        outer_product(weights[0], biases, delta, D, s->inputs + cell, s->pitch, I, cells);
        if (a->grad_features)
            product(ADD, s->grad_channels + cell, s->pitch, C, delta, BLOCK, D, net->weights[0] + I - C, 1, I, 0,
                    cells);
    }
}

/* ---- Upsampling: pixel F * k + F / 2 + q lies q / F of the way from cell k to the next ---- */

ALWAYS_INLINE void stretch(const REAL *cells, REAL *out, int64_t w, const int64_t F) {
    for (int64_t x = 0; x < F / 2; x++) out[x] = cells[0];
    out += F / 2;
    for (int64_t k = 0; k < w - 1; k++)
        for (int64_t q = 0; q < F; q++) {
            const REAL share = q / (REAL)F;
            out[F * k + q] = q ? (1 - share) * cells[k] + share * cells[k + 1] : cells[k];
        }
    for (int64_t x = F * (w - 1); x < F * w - F / 2; x++) out[x] = cells[w - 1];
}

ALWAYS_INLINE void upsample(const REAL *cells, REAL *pixels, REAL *const *wide, int64_t h, int64_t w, const int64_t F) {
    const int64_t width = F * w;
    REAL *row = wide[0], *next = wide[1];
    stretch(cells, row, w, F);
    for (int64_t y = 0; y < F / 2; y++, pixels += width) memcpy(pixels, row, width * sizeof(REAL));
    for (int64_t k = 0; k < h; k++) {
        const int is_last = k == h - 1;
        if (!is_last) stretch(cells + (k + 1) * w, next, w, F);
        for (int64_t q = 0; q < (is_last ? F - F / 2 : F); q++, pixels += width) {
            const REAL share = q / (REAL)F;
            if (is_last || !q)
                memcpy(pixels, row, width * sizeof(REAL));
            else
                for (int64_t x = 0; x < width; x++) pixels[x] = (1 - share) * row[x] + share * next[x];
        }
        REAL *swap = row;
        row = next, next = swap;
    }
}

/* The transpose: each cell gathers the pixels between its neighbours. */
ALWAYS_INLINE void gather(const REAL *pixels, REAL *cells, REAL *wide, int64_t h, int64_t w, const int64_t F) {
    const int64_t width = F * w;
    REAL *row = wide + F; /* with F zeros on both sides */
    for (int64_t x = 0; x < F; x++) wide[x] = row[width + x] = 0;
    for (int64_t k = 0; k < h; k++, cells += w) {
        const int64_t centre = F * k + F / 2;
        const REAL *middle = pixels + centre * width;
        for (int64_t x = 0; x < width; x++) row[x] = middle[x];
        for (int64_t q = 1 - F; q < F; q++) {
            if (!q || centre + q < 0 || centre + q >= F * h) continue;
            const int is_beyond = q < 0 ? k == 0 : k == h - 1;
            const REAL share = is_beyond ? 1 : 1 - (q < 0 ? -q : q) / (REAL)F;
            for (int64_t x = 0; x < width; x++) row[x] += share * middle[q * width + x];
        }
        for (int64_t j = 0; j < w; j++) {
            REAL total = row[F * j + F / 2];
            for (int64_t q = 1; q < F; q++)
                total += (1 - q / (REAL)F) * (row[F * j + F / 2 - q] + row[F * j + F / 2 + q]);
            cells[j] = total;
        }
        for (int64_t q = 1; q <= F / 2; q++) cells[0] += q / (REAL)F * row[F / 2 - q];
        for (int64_t q = 1; q < F - F / 2; q++) cells[w - 1] += q / (REAL)F * row[F * (w - 1) + F / 2 + q];
    }
}

/* ---- Jobs ---- */

/* Rows of the first product: -x and -y from the middle of the map, then the channels. */
static void fill_inputs(const Arguments *a, const Job *job, const Space *s) {
    const int64_t cells = a->h * a->w;
    const REAL *channels = a->features + (job->clip * a->T + job->frame) * a->C * cells;
    REAL *row = s->inputs;
    memset(row, 0, inputs_of(a) * s->pitch * sizeof(REAL));
    if (a->relative) {
        for (int64_t y = 0; y < a->h; y++)
            for (int64_t x = 0; x < a->w; x++) {
                row[y * a->w + x] = a->w * a->stride / (REAL)2 - (x * a->stride + a->stride / 2);
                row[s->pitch + y * a->w + x] = a->h * a->stride / (REAL)2 - (y * a->stride + a->stride / 2);
            }
        row += 2 * s->pitch;
    }
    for (int64_t c = 0; c < a->C; c++) memcpy(row + c * s->pitch, channels + c * cells, cells * sizeof(REAL));
}

void forward(const Arguments *a, const Job *job) {
    const Space s = divide(a, job->space);
    fill_inputs(a, job, &s);
    for (int64_t n = job->first; n < job->last; n++) {
        const Network net = network_of(a, job, n);
        REAL *pixels = job->pixels + (n - job->first) * job->mask_stride;
        logits_of(a, &net, &s);
        switch (a->F) {
        case 1: memcpy(pixels, s.cells, a->h * a->w * sizeof(REAL)); break;
        case 2: upsample(s.cells, pixels, s.wide, a->h, a->w, 2); break;
        default: upsample(s.cells, pixels, s.wide, a->h, a->w, 4); break;
        }
    }
}

void backward(const Arguments *a, const Job *job) {
    const Space s = divide(a, job->space);
    const int64_t cells = a->h * a->w, I = inputs_of(a), G = params_of(a);
    fill_inputs(a, job, &s);
    memset(s.grad_channels, 0, a->C * s.pitch * sizeof(REAL));
    for (int64_t i = cells; i < s.pitch; i++) s.cells[i] = 0;
    for (int64_t n = job->first; n < job->last; n++) {
        const Network net = network_of(a, job, n);
        const REAL *pixels = job->pixels + (n - job->first) * job->mask_stride;
        switch (a->F) {
        case 1: memcpy(s.cells, pixels, cells * sizeof(REAL)); break;
        case 2: gather(pixels, s.cells, s.wide[0], a->h, a->w, 2); break;
        default: gather(pixels, s.cells, s.wide[0], a->h, a->w, 4); break;
        }
        memset(s.totals, 0, G * LANES * sizeof(REAL));
        gradients_of(a, &net, &s);
        REAL *grad = a->grad_params + (job->frame * a->N + n) * G;
        REAL *moved = a->grad_references + (n * a->T + job->frame) * 2;
        for (int64_t g = 0; g < G; g++) {
            grad[g] = 0;
            for (int64_t lane = 0; lane < LANES; lane++) grad[g] += s.totals[g * LANES + lane];
        }
        const REAL *grad_bias = grad + (net.biases[0] - net.weights[0]);
        for (int64_t axis = 0; axis < 2 * a->relative; axis++) {
            moved[axis] = 0;
            for (int64_t o = 0; o < a->D; o++) {
                moved[axis] += grad_bias[o] * net.weights[0][o * I + axis];
                grad[o * I + axis] += grad_bias[o] * net.reference[axis];
            }
        }
    }
    if (!a->grad_features) return;
    REAL *target = a->grad_features + (job->clip * a->T + job->frame) * a->C * cells;
    for (int64_t c = 0; c < a->C; c++)
        for (int64_t i = 0; i < cells; i++) target[c * cells + i] += s.grad_channels[c * s.pitch + i];
}
