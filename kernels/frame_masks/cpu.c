/* Masks at the size of the frame from logits on a coarser grid, dense or run-length encoded.

   Compiled by c_library.py at first use, for REAL float. A pixel is set where the logits, interpolated
   bilinearly (edges not aligned, as torch.nn.functional.interpolate), are above zero. Pixels are
   visited column by column, as COCO's run-length code wants them. Between two cells of the same sign
   every pixel has that sign, so a whole interval costs no more than a pixel; only intervals with a
   change of sign are evaluated. */

#include <stdint.h>
#include <string.h>

#include "../jobs.h"

typedef struct {
    const REAL *logits; /* [masks, h, w] */
    int64_t h, w;
    int64_t H, W;          /* of the frame */
    const int32_t *low_x;  /* [W] left cell of a column */
    const REAL *share_x;   /* [W] weight of the cell to its right */
    const int32_t *first_y; /* [h + 1] first row whose upper cell is this one or a later one */
    const REAL *share_y;   /* [H] */
    uint8_t *dense;        /* [masks, W, H], or NULL */
    char *text;            /* [masks, capacity], or NULL */
    int64_t capacity;
    int64_t *length;       /* [masks] characters; -1 where there was too little room */
    int64_t *area;         /* [masks] pixels that are set */
} Arguments;

/* Masks that a job draws; `space` has room for w * h transposed logits and h values of a column. */
typedef struct {
    int64_t begin, end;
    REAL *space;
} Job;

/* The run-length code of a mask while it is written. */
typedef struct {
    char *text;
    int64_t length, capacity;
    int64_t count, runs;   /* pixels of the current run; finished runs */
    int64_t before[2];     /* lengths of the last two finished runs */
    int value;             /* of the current run */
} Writer;

/* COCO: from the fourth on, a run is given by its difference to the one two places earlier; five bits
   a character, lowest first, with a bit that says whether more follow. */
static void finish_run(Writer *writer) {
    int64_t x = writer->count;
    if (writer->runs > 2) x -= writer->before[0];
    int more = 1;
    while (more) {
        int c = x & 31;
        x >>= 5;
        more = (c & 16) ? x != -1 : x != 0;
        if (writer->length < writer->capacity) writer->text[writer->length] = (char)(48 + c + 32 * more);
        writer->length++;
    }
    writer->before[0] = writer->before[1];
    writer->before[1] = writer->count;
    writer->runs++;
    writer->count = 0;
}

static inline void add_pixels(Writer *writer, int value, int64_t number) {
    if (value != writer->value) {
        finish_run(writer);
        writer->value = value;
    }
    writer->count += number;
}

/* Rows begin..end-1 of a column. Returns: how many of them are set. */
static inline int64_t add_rows(Writer *writer, uint8_t *dense, int value, int64_t begin, int64_t end) {
    if (begin == end) return 0;
    if (dense) memset(dense + begin, value, end - begin);
    if (writer->text) add_pixels(writer, value, end - begin);
    return value ? end - begin : 0;
}

static void draw(const Arguments *a, int64_t mask, REAL *space) {
    const int64_t h = a->h, w = a->w, H = a->H;
    const REAL *logits = a->logits + mask * h * w;
    REAL *columns = space, *column = space + h * w;
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) columns[x * h + y] = logits[y * w + x];
    Writer writer = {a->text ? a->text + mask * a->capacity : 0, 0, a->capacity, 0, 0, {0, 0}, 0};
    int64_t area = 0;
    for (int64_t x = 0; x < a->W; x++) {
        const REAL right = a->share_x[x], left = 1 - right;
        const REAL *first = columns + a->low_x[x] * h;
        const REAL *second = a->low_x[x] + 1 < w ? first + h : first;
        for (int64_t y = 0; y < h; y++) column[y] = left * first[y] + right * second[y];
        uint8_t *dense = a->dense ? a->dense + (mask * a->W + x) * H : 0;
        for (int64_t cell = 0; cell < h; cell++) {
            const int64_t begin = a->first_y[cell], end = a->first_y[cell + 1];
            const REAL above = column[cell], below = column[cell + 1 < h ? cell + 1 : cell];
            if ((above > 0) == (below > 0)) {
                area += add_rows(&writer, dense, above > 0, begin, end);
                continue;
            }
            for (int64_t y = begin; y < end; y++) {
                const int value = (1 - a->share_y[y]) * above + a->share_y[y] * below > 0;
                area += add_rows(&writer, dense, value, y, y + 1);
            }
        }
    }
    if (writer.text) {
        finish_run(&writer);
        a->length[mask] = writer.length <= writer.capacity ? writer.length : -1;
    }
    a->area[mask] = area;
}

void draw_masks(const Arguments *a, const Job *job) {
    for (int64_t mask = job->begin; mask < job->end; mask++) draw(a, mask, job->space);
}
