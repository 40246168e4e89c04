/* Where the masks are in a results or annotation file: one pass over its bytes. */

#ifndef SCAN_H
#define SCAN_H

#include <stdlib.h>
#include <sys/mman.h>

#include "json.h"

enum { MIXED_SIZES = 1, UNUSUAL = 2, OCCUPIED = 4 };

/* The "segmentations" of one instance. */
typedef struct {
    int64_t start, stop;   /* bytes of the file, from [ to behind ] */
    int32_t frames;        /* entries of the list */
    int32_t height, width; /* of the masks; 0 where there is none */
    int32_t flags;         /* MIXED_SIZES: of different size. UNUSUAL: an entry is neither null, nor
                              empty, nor an RLE; the plain reader must look. OCCUPIED: has a mask */
} Span;

/* Pages that were read are given back, so that a mapped file never lies in memory as a whole. */
typedef struct {
    const Byte *base;
    int64_t released, step;
} Window;

static void release(Window *w, const Byte *at) {
    int64_t done = at - w->base;
    if (w->step && done - w->released >= w->step) {
        int64_t stop = done & ~(int64_t)0xffff;
        madvise((void *)(w->base + w->released), (size_t)(stop - w->released), MADV_DONTNEED);
        w->released = stop;
    }
}

/* Pass [1,2,3]. */
static int skip_run_list(Cursor *c) {
    const Byte *p = c->at + 1, *end = c->end;
    if (p < end && *p == ']') {
        c->at = p + 1;
        return 1;
    }
    for (;;) {
        const Byte *start = p;
        while (p < end && (Byte)(*p - '0') < 10) p++;
        if (p == start || p >= end || (*start == '0' && p - start > 1)) return 0;
        if (*p == ']') {
            c->at = p + 1;
            return 1;
        }
        if (*p++ != ',') return 0;
        while (p < end && *p == ' ') p++;
    }
}

/* Pass one entry of "segmentations". */
static int scan_mask(Cursor *c, Span *span) {
    int64_t length, height = 0, width = 0;
    const Byte *key;
    int next = peek(c), more, sizes = 0, counts = 0, is_odd = 0;
    if (next == 'n') return is_word(c, "null");
    if (next != '{') {
        const Byte *start = c->at;
        if (!skip_value(c, 0, 0)) return 0;
        if (c->at - start != 2 || (next != '[' && next != '"'))
            span->flags |= UNUSUAL | (next == '[' ? OCCUPIED : 0); /* polygons */
        return 1;
    }
    c->at++;
    if (take(c, '}')) return 1;
    do {
        if (!read_key(c, 0, &key, &length)) return 0;
        next = peek(c);
        Cursor value = *c;
        if (is_key(key, length, "counts")) {
            counts++;
            if (next == '"') {
                if (!skip_string(c, 0)) return 0;
            } else if (next != '[' || !skip_run_list(c)) {
                *c = value;
                is_odd |= next != '[';
                if (!skip_value(c, 0, 0)) return 0;
            }
        } else if (is_key(key, length, "size")) {
            sizes++;
            if (!(take(c, '[') && read_whole(c, &height) && take(c, ',') && read_whole(c, &width) &&
                  take(c, ']'))) {
                *c = value;
                is_odd = 1;
                if (!skip_value(c, 0, 0)) return 0;
            }
        } else if (!skip_value(c, 0, 0)) {
            return 0;
        }
        more = has_more(c, '}');
    } while (more == 1);
    if (more < 0) return 0;
    if (is_odd || sizes != 1 || counts != 1 || height < 1 || width < 1 || height > INT32_MAX ||
        width > INT32_MAX) {
        span->flags |= UNUSUAL | OCCUPIED;
        return 1;
    }
    if (!(span->flags & OCCUPIED)) {
        span->height = (int32_t)height;
        span->width = (int32_t)width;
        span->flags |= OCCUPIED;
    } else if (span->height != height || span->width != width) {
        span->flags |= MIXED_SIZES;
    }
    return 1;
}

/* Pass a list of masks. `base` is what the offsets count from. */
static int scan_segmentations(Cursor *c, const Byte *base, Span *span, Window *window) {
    int more;
    memset(span, 0, sizeof *span);
    if (peek(c) != '[') return 0;
    span->start = c->at - base;
    c->at++;
    if (!take(c, ']')) {
        do {
            if (span->frames == INT32_MAX || !scan_mask(c, span)) return 0;
            span->frames++;
            if (window) release(window, c->at);
            more = has_more(c, ']');
        } while (more == 1);
        if (more < 0) return 0;
    }
    span->stop = c->at - base;
    return 1;
}

/* A finite number. */
static int read_score(Cursor *c, double *score) {
    char digits[64];
    peek(c);
    const Byte *start = c->at;
    if (!skip_number(c) || c->at - start >= (int64_t)sizeof digits) return 0;
    memcpy(digits, start, (size_t)(c->at - start));
    digits[c->at - start] = 0;
    char *stop;
    *score = strtod(digits, &stop); /* stops early in a locale that writes 0,5 */
    return !*stop && *score >= -1.7976931348623157e308 && *score <= 1.7976931348623157e308;
}

typedef struct {
    int64_t video_id, category_id;
    double score;
    Span span;
} Result;

static int scan_result(Cursor *c, const Byte *base, Result *result, Window *window) {
    int64_t length;
    const Byte *key;
    int more, seen = 0, bit;
    if (!take(c, '{')) return 0;
    do {
        if (!read_key(c, 0, &key, &length)) return 0;
        if (is_key(key, length, "video_id")) {
            bit = 1;
            if (!read_whole(c, &result->video_id)) return 0;
        } else if (is_key(key, length, "category_id")) {
            bit = 2;
            if (!read_whole(c, &result->category_id)) return 0;
        } else if (is_key(key, length, "score")) {
            bit = 4;
            if (!read_score(c, &result->score)) return 0;
        } else if (is_key(key, length, "segmentations")) {
            bit = 8;
            if (!scan_segmentations(c, base, &result->span, window)) return 0;
        } else {
            bit = 0;
            if (!skip_value(c, 0, 0)) return 0;
        }
        if (seen & bit) return 0; /* twice */
        seen |= bit;
        more = has_more(c, '}');
    } while (more == 1);
    return more == 0 && seen == 15;
}

/* The columns of a results file. Returns: how many results, or -1 if the plain reader must read it.
 * `capacity` rows are there; no result has less than 58 bytes. */
int64_t scan_results(const Byte *text, int64_t size, int64_t window_bytes, int64_t capacity,
                     int64_t *video_id, int64_t *category_id, double *score, Span *spans) {
    Cursor c = {text, text + size};
    Window window = {text, 0, window_bytes};
    int64_t count = 0;
    int more = 1;
    if (!take(&c, '[')) return -1;
    if (take(&c, ']')) more = 0;
    while (more == 1) {
        Result result;
        if (count == capacity || !scan_result(&c, text, &result, &window)) return -1;
        video_id[count] = result.video_id;
        category_id[count] = result.category_id;
        score[count] = result.score;
        spans[count++] = result.span;
        release(&window, c.at);
        more = has_more(&c, ']');
    }
    return more == 0 && peek(&c) == -1 ? count : -1;
}

/* One annotation: another parser reads all but the masks. Returns: 1 with a span, 2 without, 0. */
static int scan_annotation(Cursor *c, const Byte *base, Span *span, Window *window) {
    int64_t length;
    const Byte *key;
    int more, seen = 0;
    if (peek(c) != '{') return skip_value(c, 1, 0) ? 2 : 0;
    c->at++;
    if (take(c, '}')) return 2;
    do {
        if (!read_key(c, 1, &key, &length)) return 0;
        if (is_key(key, length, "segmentations")) {
            if (seen++ || peek(c) != '[' || !scan_segmentations(c, base, span, window)) return 0;
        } else if (!skip_value(c, 1, 0)) {
            return 0;
        }
        more = has_more(c, '}');
    } while (more == 1);
    return more ? 0 : seen ? 1 : 2;
}

/* The spans of an annotation file, and the position of each in the list of annotations. Returns: how
 * many, or -1. `capacity` rows are there; none has less than 20 bytes. */
int64_t scan_annotations(const Byte *text, int64_t size, int64_t window_bytes, int64_t capacity,
                         int64_t *position, Span *spans) {
    Cursor c = {text, text + size};
    Window window = {text, 0, window_bytes};
    int64_t count = 0, length;
    const Byte *key;
    int more, seen = 0;
    if (!take(&c, '{') || take(&c, '}')) return -1;
    do {
        if (!read_key(&c, 1, &key, &length)) return -1;
        if (is_key(key, length, "annotations") && peek(&c) == '[') {
            if (seen++) return -1;
            c.at++;
            int inner = !take(&c, ']');
            for (int64_t number = 0; inner == 1; number++) {
                Span span;
                if (count == capacity) return -1;
                int kind = scan_annotation(&c, text, &span, &window);
                if (!kind) return -1;
                if (kind == 1) {
                    position[count] = number;
                    spans[count++] = span;
                }
                release(&window, c.at);
                inner = has_more(&c, ']');
            }
            if (inner < 0) return -1;
        } else if (is_key(key, length, "annotations") && seen++) {
            return -1;
        } else if (!skip_value(&c, 1, 0)) {
            return -1;
        }
        more = has_more(&c, '}');
    } while (more == 1);
    return more == 0 && peek(&c) == -1 ? count : -1;
}

/* The span of a list of masks that stands alone. Returns: 1, or 0 if it is none. */
int64_t scan_track(const Byte *text, int64_t size, Span *span) {
    Cursor c = {text, text + size};
    return scan_segmentations(&c, text, span, NULL) && peek(&c) == -1;
}

#endif
