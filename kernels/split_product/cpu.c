/* Float32 convolutions from bfloat16 products, for CPUs with AMX.

   Compiled by c_library.py at first use. A float32 number is the sum of three bfloat16 ones, exactly:

       x = x0 + x1 + x2,  |x1| <= 2^-9 |x|,  |x2| <= 2^-18 |x|

   so a product of two numbers is nine of bfloat16, of which the three below 2^-26 are left out. AMX does a
   bfloat16 product in a sixteenth of the time that AVX-512 takes for a float32 one, and adds them up in
   float32: six of them are exact to float32's rounding and take less time than one of float32.

   Letters: n images, C inputs and O outputs per pixel. A band is some rows of an image's output. Its inputs
   are split into `space`, [3][C / 32][planes][pixels][32]: a plane holds every s-th row and column of the padded
   input, s the stride, so that what a tap of the kernel reads for consecutive pixels is consecutive. */

#include <stdint.h>

typedef struct {
    const float *x;         /* [n, h, w, C], images `image` numbers apart */
    const uint16_t *weight; /* [ceil(O / 32)][C / 32][kernel][kernel][3][2][16][16][2], see `pack` */
    const float *bias;      /* [O], or NULL */
    const float *other;     /* [n, H, W, O], added to the result, or NULL; may be `output` */
    float *output;          /* [n, H, W, O] */
    int64_t h, w, C, H, W, O, kernel, stride, padding, relu, image, rows, bands;
} Arguments;

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

/* Where a plane, a block of channels and a part begin in `space`, the pixels of a plane's row, and what lies
   between a pixel and what each tap of the kernel reads for it. */
typedef struct {
    int64_t width, plane, channels, part, taps, tap[MAX_TAPS];
} Layout;

ALWAYS_INLINE Layout layout_of(const Arguments *a) {
    const int64_t more = (a->kernel - 1) / a->stride, planes = a->kernel == 1 ? 1 : a->stride * a->stride;
    Layout layout = {.width = a->W + more};
    layout.plane = ((a->rows + more) * layout.width + SLACK) * K;
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

/* The six products of K channels: parts 02, 01, 11, 10, 20 and 00 of pixels and weights. */
ALWAYS_INLINE void multiply_parts(const uint16_t *x, int64_t part, const uint16_t *weight) {
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
    load_pixels(x);
    multiply_tiles();
}

/* A block whose sums are ready, and how far they are written to the output. */
typedef struct {
    float sums[BLOCK][BLOCK] __attribute__((aligned(64)));
    int64_t image_row, rows, row, column, o;
    int pixel;
} Ready;

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

/* Write a ready block up to its pixel `end`. */
ALWAYS_INLINE void write_until(const Arguments *a, int64_t width, Ready *ready, int end) {
    for (; ready->pixel < end && ready->row < ready->rows; ready->pixel++) {
        if (ready->column < a->W) {
            const int64_t at = ((ready->image_row + ready->row) * a->W + ready->column) * a->O + ready->o;
            finish(a, ready->sums[ready->pixel], at, ready->o);
            finish(a, ready->sums[ready->pixel] + 16, at + 16, ready->o + 16);
        }
        if (++ready->column == width) ready->column = 0, ready->row++;
    }
}

/* The sums of a block, its pixels from `space` on; meanwhile the one before is written. */
ALWAYS_INLINE void sum_block(const Arguments *a, const Layout *layout, const uint16_t *space, const uint16_t *weight, Ready *before, Ready *block) {
    const int64_t steps = a->C / K * layout->taps;
    int64_t tap = 0;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 1; step <= steps; step++, weight += 2 * PARTS * TILE) {
        multiply_parts(space + layout->tap[tap], layout->part, weight);
        if (++tap == layout->taps) tap = 0, space += layout->channels;
        write_until(a, layout->width, before, (int)(BLOCK * step / steps));
    }
    _tile_stored(0, block->sums[0], sizeof block->sums[0]);
    _tile_stored(1, block->sums[0] + 16, sizeof block->sums[0]);
    _tile_stored(2, block->sums[16], sizeof block->sums[0]);
    _tile_stored(3, block->sums[16] + 16, sizeof block->sums[0]);
}

/* Bands first..last-1, counted through all images. Returns: 0; 1 where there is no memory. */
int multiply(const Arguments *a, int64_t first, int64_t last) {
    const Layout layout = layout_of(a);
    const int64_t panel = a->C / K * layout.taps * 2 * PARTS * TILE;
    uint16_t *space = aligned_alloc(64, PARTS * layout.part * sizeof *space);
    if (!space) return 1;
    unsigned char config[64] __attribute__((aligned(64))) = {1};
    for (int tile = 0; tile < 8; tile++) {
        config[16 + 2 * tile] = 64;
        config[48 + tile] = 16;
    }
    _tile_loadconfig(config);
    Ready blocks[2];
    blocks[1].row = blocks[1].rows = 0; /* nothing to write */
    int now = 0;
    for (int64_t band = first; band < last; band++) {
        const int64_t image = band / a->bands, begin = band % a->bands * a->rows;
        const int64_t rows = a->H - begin < a->rows ? a->H - begin : a->rows;
        fill(a, &layout, a->x + image * a->image, begin, rows, space);
        for (int64_t o = 0; o < a->O; o += BLOCK) {
            const uint16_t *weight = a->weight + o / BLOCK * panel;
            int64_t row = 0, column = 0;
            for (int64_t p = 0; p < rows * layout.width; p += BLOCK, now = !now) {
                Ready *block = blocks + now;
                block->image_row = image * a->H + begin;
                block->rows = rows;
                block->row = row;
                block->column = column;
                block->o = o;
                block->pixel = 0;
                sum_block(a, &layout, space + p * K, weight, blocks + !now, block);
                for (column += BLOCK; column >= layout.width; column -= layout.width) row++;
            }
        }
    }
    write_until(a, layout.width, blocks + !now, BLOCK);
    _tile_release();
    free(space);
    return 0;
}

#else

int is_supported(void) { return 0; }

int multiply(const Arguments *a, int64_t first, int64_t last) {
    (void)a, (void)first, (void)last;
    return 1;
}

#endif
