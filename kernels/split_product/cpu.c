/* Float32 convolutions from bfloat16 products, for CPUs with AMX.

   Compiled by c_library.py at first use. A float32 number is the sum of three bfloat16 ones, exactly:

       x = x0 + x1 + x2,  |x1| <= 2^-9 |x|,  |x2| <= 2^-18 |x|

   so a product of two numbers is nine of bfloat16, of which the three below 2^-26 are left out. AMX does a
   bfloat16 product in a sixteenth of the time that AVX-512 takes for a float32 one, and adds them up in
   float32: six of them are exact to float32's rounding and take less time than one of float32.

   Letters: n images, C inputs and O outputs per pixel. A band is some rows of an image's output, or, where
   images are small, all of several images one below the other. Its inputs are split into `space`, [3][C / 32][planes][pixels][32]: a plane holds every s-th row and column of the padded
   input, s the stride, so that what a tap of the kernel reads for consecutive pixels is consecutive. */

#include <stdint.h>

#include "../jobs.h"

typedef struct {
    const float *x;         /* [n, h, w, C], images `image` numbers apart */
    const uint16_t *weight; /* [ceil(O / 32)][C / 32][kernel][kernel][3][2][16][16][2], see `split_weight` */
    const float *bias;      /* [O], or NULL */
    const float *other;     /* [n, H, W, O], added to the result, or NULL; may be `output` */
    float *output;          /* [n, H, W, O] */
    int64_t n, h, w, C, H, W, O, kernel, stride, padding, relu, image, rows, bands, joined;
} Arguments;

/* Bands first..last-1, counted through all images. */
typedef struct {
    int64_t first, last, failed; /* failed: 1 where there was no memory */
} Job;

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Channels multiplied at once, numbers of a tile, pixels and outputs of a block of 2 x 2 tiles, and pixels
   that a block may read beyond a plane's last. */
enum { K = 32, TILE = 16 * K, BLOCK = 32, SLACK = BLOCK + 8, PARTS = 3, MAX_TAPS = 49 };

/* Ask Linux for the registers of AMX, for all threads of the process. */
int is_supported(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

ALWAYS_INLINE __m512 widened(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* K numbers into their three parts, `step` apart. */
ALWAYS_INLINE void split(const float *x, uint16_t *parts, int64_t step) {
    __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
    for (int part = 0; part < PARTS; part++) {
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        _mm512_store_si512(parts + part * step, both);
        low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(both)));
        high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64(both, 1)));
    }
}

/* Weights [O, C, kernel, kernel] into the layout of `Arguments`; zeros for outputs that fill up a block. */
void split_weight(const float *weight, int64_t O, int64_t C, int64_t kernel, uint16_t *parts) {
    const int64_t taps = kernel * kernel;
    for (int64_t o = 0; o < O; o += BLOCK)
        for (int64_t c = 0; c < C; c += K)
            for (int64_t tap = 0; tap < taps; tap++, parts += 2 * PARTS * TILE)
                for (int64_t n = 0; n < BLOCK; n++) {
                    float row[K] __attribute__((aligned(64))) = {0};
                    uint16_t split_row[PARTS * K] __attribute__((aligned(64)));
                    for (int64_t k = 0; k < K && o + n < O; k++) row[k] = weight[((o + n) * C + c + k) * taps + tap];
                    split(row, split_row, K);
                    for (int64_t part = 0; part < PARTS; part++)
                        for (int64_t pair = 0; pair < 16; pair++)
                            memcpy(parts + (2 * part + n / 16) * TILE + pair * K + n % 16 * 2, split_row + part * K + 2 * pair, 4);
                }
}

/* Where a plane, a block of channels and a part begin in `space`, the pixels of a plane's row, the rows of an
   image in it, and what lies between a pixel and what each tap of the kernel reads for it. */
typedef struct {
    int64_t width, height, plane, channels, part, taps, tap[MAX_TAPS];
} Layout;

ALWAYS_INLINE Layout layout_of(const Arguments *a) {
    const int64_t more = (a->kernel - 1) / a->stride, planes = a->kernel == 1 ? 1 : a->stride * a->stride;
    Layout layout = {.width = a->W + more, .height = a->rows + more};
    /* Planes begin in different lines of the cache, whatever their size. */
    layout.plane = ((a->joined * layout.height * layout.width + SLACK) / 64 * 64 + 65) * K;
    layout.channels = planes * layout.plane;
    layout.part = a->C / K * layout.channels;
    layout.taps = a->kernel * a->kernel;
    for (int64_t tap = 0; tap < layout.taps; tap++) {
        const int64_t dy = tap / a->kernel, dx = tap % a->kernel, s = a->stride;
        layout.tap[tap] = (dy % s * s + dx % s) * layout.plane + (dy / s * layout.width + dx / s) * K;
    }
    return layout;
}

/* Split what `rows` rows of output read, from row `begin` on; zeros outside of the image. */
static void fill(const Arguments *a, const Layout *layout, const float *x, int64_t begin, int64_t rows, uint16_t *space) {
    const int64_t s = a->stride, kernel = a->kernel;
    for (int64_t i = 0; i < (rows - 1) * s + kernel; i++) {
        if (i % s >= kernel) continue;
        const int64_t y = begin * s + i - a->padding;
        for (int64_t j = 0; j < (a->W - 1) * s + kernel; j++) {
            if (j % s >= kernel) continue;
            const int64_t column = j - a->padding;
            const int is_inside = y >= 0 && y < a->h && column >= 0 && column < a->w;
            const float *pixel = x + (y * a->w + column) * a->C;
            uint16_t *to = space + (i % s * s + j % s) * layout->plane + (i / s * layout->width + j / s) * K;
            for (int64_t c = 0; c < a->C; c += K, to += layout->channels) {
                if (is_inside) split(pixel + c, to, layout->part);
                else for (int part = 0; part < PARTS; part++) memset(to + part * layout->part, 0, K * sizeof *to);
            }
        }
    }
}

ALWAYS_INLINE void load_pixels(const uint16_t *x) {
    _tile_loadd(4, x, K * sizeof *x);
    _tile_loadd(5, x + TILE, K * sizeof *x);
}

ALWAYS_INLINE void load_weights(const uint16_t *weight) {
    _tile_loadd(6, weight, K * sizeof *weight);
    _tile_loadd(7, weight + TILE, K * sizeof *weight);
}

ALWAYS_INLINE void multiply_tiles(void) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* The five small products of K channels: parts 02, 01, 11, 10 and 20 of pixels and weights. */
ALWAYS_INLINE void multiply_small(const uint16_t *x, int64_t part, const uint16_t *weight) {
    load_pixels(x);
    load_weights(weight + 4 * TILE);
    multiply_tiles();
    load_weights(weight + 2 * TILE);
    multiply_tiles();
    load_pixels(x + part);
    multiply_tiles();
    load_weights(weight);
    multiply_tiles();
    load_pixels(x + 2 * part);
    multiply_tiles();
}

/* A pixel of a plane: how many images are left with its own, the first row of that one's band in the output,
   rows of the band, the pixel's row and column. */
typedef struct {
    int64_t images, first, rows, row, column;
} Pixel;

/* A block whose sums are ready: its first output, and how far it is written. */
typedef struct {
    float sums[BLOCK][BLOCK] __attribute__((aligned(64)));
    int64_t o;
    Pixel at;
    int done;
} Block;

/* Bias, `other` and ReLU of up to 16 outputs at `at`, the first of them output `o`. */
ALWAYS_INLINE void finish(const Arguments *a, const float *sums, int64_t at, int64_t o) {
    const int64_t left = a->O - o;
    if (left <= 0) return;
    const __mmask16 mask = left < 16 ? (1 << left) - 1 : 0xffff;
    __m512 result = _mm512_load_ps(sums);
    if (a->bias) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(mask, a->bias + o));
    if (a->other) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(mask, a->other + at));
    if (a->relu) result = _mm512_max_ps(_mm512_setzero_ps(), result); /* NaN stays */
    _mm512_mask_storeu_ps(a->output + at, mask, result);
}

ALWAYS_INLINE void next_row(const Arguments *a, const Layout *layout, Pixel *at) {
    at->column -= layout->width;
    if (++at->row < layout->height) return;
    at->row = 0;
    at->first += a->H;
    at->images--;
}

/* Write a block up to its pixel `end`. */
ALWAYS_INLINE void write_until(const Arguments *a, const Layout *layout, Block *block, int end) {
    for (Pixel *at = &block->at; block->done < end && at->images > 0; block->done++) {
        if (at->column < a->W && at->row < at->rows) {
            const int64_t to = ((at->first + at->row) * a->W + at->column) * a->O + block->o;
            finish(a, block->sums[block->done], to, block->o);
            finish(a, block->sums[block->done] + 16, to + 16, block->o + 16);
        }
        if (++at->column == layout->width) next_row(a, layout, at);
    }
}

/* The sums of a block, its pixels from `space` on. Meanwhile the one before is written, and `lines` lines of
   later weights for each step are brought near. */
ALWAYS_INLINE void sum_block(const Arguments *a, const Layout *layout, const uint16_t *space, const uint16_t *weight, Block *before, Block *block, const uint16_t *later, int64_t lines) {
    const int64_t C = a->C / K, taps = layout->taps, steps = C * taps;
    const uint16_t *x = space, *w = weight;
    int64_t step = 0;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    /* The small products come first: once sums are large, every product costs them a rounding. */
    for (int64_t c = 0; c < C; c++, x += layout->channels)
        for (int64_t tap = 0; tap < taps; tap++, w += 2 * PARTS * TILE) {
            multiply_small(x + layout->tap[tap], layout->part, w);
            for (int64_t line = 0; line < lines; line++, later += K) _mm_prefetch((const char *)later, _MM_HINT_T1);
            write_until(a, layout, before, (int)(BLOCK * ++step / steps));
        }
    for (int64_t c = 0; c < C; c++, space += layout->channels)
        for (int64_t tap = 0; tap < taps; tap++, weight += 2 * PARTS * TILE) {
            load_pixels(space + layout->tap[tap]);
            load_weights(weight);
            multiply_tiles();
        }
    _tile_stored(0, block->sums[0], sizeof block->sums[0]);
    _tile_stored(1, block->sums[0] + 16, sizeof block->sums[0]);
    _tile_stored(2, block->sums[16], sizeof block->sums[0]);
    _tile_stored(3, block->sums[16] + 16, sizeof block->sums[0]);
}

void multiply(const Arguments *a, Job *job) {
    const Layout layout = layout_of(a);
    const int64_t panel = a->C / K * layout.taps * 2 * PARTS * TILE;
    uint16_t *space = aligned_alloc(64, PARTS * layout.part * sizeof *space);
    if (!space) {
        job->failed = 1;
        return;
    }
    unsigned char config[64] __attribute__((aligned(64))) = {1};
    for (int tile = 0; tile < 8; tile++) {
        config[16 + 2 * tile] = 64;
        config[48 + tile] = 16;
    }
    _tile_loadconfig(config);
    Block blocks[2];
    blocks[1].at.images = 0; /* nothing to write */
    int now = 0;
    for (int64_t band = job->first; band < job->last; band++) {
        const int64_t image = band / a->bands * a->joined, begin = band % a->bands * a->rows;
        const int64_t rows = a->H - begin < a->rows ? a->H - begin : a->rows;
        const int64_t images = a->n - image < a->joined ? a->n - image : a->joined;
        const int64_t pixels = ((images - 1) * layout.height + rows) * layout.width;
        const int64_t count = (pixels + BLOCK - 1) / BLOCK, lines = (2 * PARTS * 16 + count - 1) / count;
        for (int64_t i = 0; i < images; i++)
            fill(a, &layout, a->x + (image + i) * a->image, begin, rows, space + i * layout.height * layout.width * K);
        for (int64_t o = 0; o < a->O; o += BLOCK) {
            const uint16_t *weight = a->weight + o / BLOCK * panel, *later = weight + panel;
            const int64_t later_lines = o + BLOCK < a->O ? lines : 0;
            Pixel at = {images, image * a->H + begin, rows, 0, 0};
            for (int64_t i = 0; i < count; i++, now = !now) {
                Block *block = blocks + now;
                block->o = o;
                block->at = at;
                block->done = 0;
                sum_block(a, &layout, space + i * BLOCK * K, weight, blocks + !now, block, later, later_lines);
                later += later_lines * panel / (2 * PARTS * 16);
                for (at.column += BLOCK; at.column >= layout.width;) next_row(a, &layout, &at);
            }
        }
    }
    write_until(a, &layout, blocks + !now, BLOCK);
    _tile_release();
    free(space);
}

#else

int is_supported(void) { return 0; }

void split_weight(const float *weight, int64_t O, int64_t C, int64_t kernel, uint16_t *parts) {
    (void)weight, (void)O, (void)C, (void)kernel, (void)parts;
}

void multiply(const Arguments *a, Job *job) {
    (void)a;
    job->failed = 1;
}

#endif
