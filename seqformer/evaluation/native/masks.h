/* From the text of masks to intervals of pixels, checked as strictly as by the plain reader. */

#ifndef MASKS_H
#define MASKS_H

#include "json.h"
#include "scan.h"

#define MAX_PIXELS ((1 << 29) - 1)
#define BACKSLASH (92 - 48)

/* Sorted intervals of column-major pixels, those of many frames one after the other. */
typedef struct {
    int32_t *start, *stop;
    int64_t count, capacity;
} Intervals;

/* What is in one frame. */
typedef struct {
    int64_t first, count; /* intervals */
    int64_t area;
    int32_t height, width; /* 0 where the instance is absent */
} Frame;

static int reserve(Intervals *v, int64_t more) {
    if (v->capacity - v->count >= more) return 1;
    int64_t capacity = (v->count + more) * 3 / 2 + 1024;
    int32_t *start = realloc(v->start, (size_t)capacity * sizeof *start);
    if (!start) return 0;
    v->start = start;
    int32_t *stop = realloc(v->stop, (size_t)capacity * sizeof *stop);
    if (!stop) return 0;
    v->stop = stop;
    v->capacity = capacity;
    return 1;
}

/* One character of a number. Returns: its six bits, or -1. */
INLINE int next_code(const Byte **at, const Byte *end, int is_checked) {
    const Byte *p = *at;
    if (is_checked && p >= end) return -1;
    unsigned code = (unsigned)*p - 48;
    if (code > 63) return -1;
    p++;
    if (code == BACKSLASH) { /* JSON writes two */
        if ((is_checked && p >= end) || *p != '\\') return -1;
        p++;
    }
    *at = p;
    return (int)code;
}

#define OFFSET 128

/* What a character is as a whole number, as most numbers are: five bits, the highest the sign; OFFSET
 * more, so that 0 stands for all other characters. */
#define N(code) [48 + (code)] = ((code) ^ 16) - 16 + OFFSET
static const Byte single[256] = {
    N(0),  N(1),  N(2),  N(3),  N(4),  N(5),  N(6),  N(7),  N(8),  N(9),  N(10),
    N(11), N(12), N(13), N(14), N(15), N(16), N(17), N(18), N(19), N(20), N(21),
    N(22), N(23), N(24), N(25), N(26), N(27), N(28), N(29), N(30), N(31),
};
#undef N

/* One number: 1; the closing quote: 0; anything else: -1. Passes at most 12 bytes. */
INLINE int read_number(const Byte **at, const Byte *end, uint32_t *value, int is_checked) {
    if (is_checked && *at >= end) return -1;
    if (single[**at]) {
        *value = (uint32_t)(single[**at] - OFFSET);
        (*at)++;
        return 1;
    }
    unsigned low = (unsigned)**at - 48;
    if (!is_checked && low < 64 && low != BACKSLASH && single[(*at)[1]]) { /* two characters */
        *value = (uint32_t)((single[(*at)[1]] - OFFSET) * 32 + (int)(low & 31));
        *at += 2;
        return 1;
    }
    if (**at == '"') return 0;
    int code = next_code(at, end, is_checked);
    if (code < 0) return -1;
    uint32_t bits = (uint32_t)code & 31;
    for (int shift = 5; shift < 30; shift += 5) {
        code = next_code(at, end, is_checked);
        if (code < 0) return -1;
        bits |= ((uint32_t)code & 31) << shift;
        if (code < 32) {
            uint32_t sign = (uint32_t)1 << (shift + 4);
            *value = (bits ^ sign) - sign;
            return 1;
        }
    }
    return -1; /* more than six characters */
}

/* Whether no interval stops before it starts, or starts before the one before it stops, so that no run
 * was negative; the pixels in all. A run lies within 2**29 of one that was checked: it cannot wrap. */
static int is_rising(const int32_t *start, const int32_t *stop, int64_t count, int64_t pixels,
                     int64_t *area) {
    uint32_t falls = 0, total = 0;
    for (int64_t k = 0; k < count; k++) {
        falls |= (uint32_t)start[k] > (uint32_t)stop[k];
        total += (uint32_t)stop[k] - (uint32_t)start[k];
    }
    for (int64_t k = 1; k < count; k++) falls |= (uint32_t)stop[k - 1] > (uint32_t)start[k];
    *area = (int64_t)total;
    return !falls && (!count || (int64_t)(uint32_t)stop[count - 1] <= pixels);
}

/* Compressed run lengths, up to and with the closing quote. Returns: 1, or 0 if they are not those of
 * a mask of `pixels` pixels. Room for one interval per two bytes is there. */
static int read_text(Cursor *c, int64_t pixels, Intervals *v, int64_t *area) {
    const Byte *p = c->at, *end = c->end;
    int32_t *start = v->start + v->count, *stop = v->stop + v->count;
    uint32_t zeros = 0, ones = 0, value = 0, position = 0;
    int64_t k = 0;
    int status = 0;
    if (p < end && *p == '"') { /* no runs: an empty mask */
        c->at = p + 1;
        *area = 0;
        return 1;
    }
    for (; end - p >= 32; k++) {
        if ((status = read_number(&p, end, &value, 0)) <= 0) break;
        zeros = value + (k >= 2 ? zeros : 0); /* the first three are stored plainly */
        position += zeros;
        if ((status = read_number(&p, end, &value, 0)) <= 0) break;
        ones += value;
        start[k] = (int32_t)position;
        position += ones;
        stop[k] = (int32_t)position;
    }
    for (; status >= 0 && end - p < 32; k++) { /* near the end every byte is checked */
        if ((status = read_number(&p, end, &value, 1)) <= 0) break;
        zeros = value + (k >= 2 ? zeros : 0);
        position += zeros;
        if ((status = read_number(&p, end, &value, 1)) <= 0) break;
        ones += value;
        start[k] = (int32_t)position;
        position += ones;
        stop[k] = (int32_t)position;
    }
    if (status < 0 || position != (uint32_t)pixels || !is_rising(start, stop, k, pixels, area))
        return 0;
    c->at = p + 1;
    v->count += k;
    return 1;
}

/* Uncompressed run lengths behind their bracket, likewise. */
static int read_list(Cursor *c, int64_t pixels, Intervals *v, int64_t *area) {
    int32_t *start = v->start + v->count, *stop = v->stop + v->count;
    int64_t position = 0, total = 0, run, k = 0;
    int more = 1, is_one = 0;
    if (take(c, ']')) {
        *area = 0;
        return 1;
    }
    while (more == 1) {
        if (!read_whole(c, &run) || run > MAX_PIXELS) return 0;
        if (is_one) {
            start[k] = (int32_t)position;
            stop[k++] = (int32_t)(position + run);
            total += run;
        }
        is_one = !is_one;
        position += run;
        if (position > pixels) return 0;
        more = has_more(c, ']');
    }
    if (more < 0 || position != pixels) return 0;
    v->count += k;
    *area = total;
    return 1;
}

/* One entry of "segmentations". */
static int read_mask(Cursor *c, Intervals *v, Frame *frame) {
    int64_t length, height = 0, width = 0;
    const Byte *key, *counts = NULL;
    int next = peek(c), more;
    memset(frame, 0, sizeof *frame);
    frame->first = v->count;
    if (next == 'n') return is_word(c, "null");
    if (next == '"' || next == '[') { /* nothing in it */
        if (c->end - c->at < 2 || c->at[1] != (next == '"' ? '"' : ']')) return 0;
        c->at += 2;
        return 1;
    }
    if (!take(c, '{')) return 0;
    if (take(c, '}')) return 1;
    int is_read = 0;
    do {
        if (!read_key(c, 0, &key, &length)) return 0;
        next = peek(c);
        if (is_key(key, length, "size")) {
            if (height || !take(c, '[') || !read_whole(c, &height) || !take(c, ',') ||
                !read_whole(c, &width) || !take(c, ']') || height < 1 || width < 1 ||
                height > MAX_PIXELS || width > MAX_PIXELS || height * width > MAX_PIXELS)
                return 0;
        } else if (is_key(key, length, "counts")) {
            if (counts || (next != '"' && next != '[')) return 0;
            counts = c->at;
            if (height) { /* its size came first, as nearly always */
                c->at++;
                is_read = next == '"' ? read_text(c, height * width, v, &frame->area)
                                      : read_list(c, height * width, v, &frame->area);
                if (!is_read) return 0;
            } else if (!skip_value(c, 0, 0)) {
                return 0;
            }
        } else if (!skip_value(c, 0, 0)) {
            return 0;
        }
        more = has_more(c, '}');
    } while (more == 1);
    if (more < 0 || !height || !counts) return 0;
    if (!is_read) {
        Cursor again = {counts + 1, c->end};
        if (!(*counts == '"' ? read_text(&again, height * width, v, &frame->area)
                             : read_list(&again, height * width, v, &frame->area)))
            return 0;
    }
    frame->height = (int32_t)height;
    frame->width = (int32_t)width;
    frame->count = v->count - frame->first;
    return 1;
}

enum { READ = 0, NOT_READ = 1, NO_MEMORY = 2 };

/* A list of `frames` masks. Intervals are appended; `frame` has room. */
static int read_track(const Byte *text, int64_t size, int32_t frames, Intervals *v, Frame *frame) {
    Cursor c = {text, text + size};
    if (!reserve(v, size / 2 + 8)) return NO_MEMORY;
    if (!take(&c, '[')) return NOT_READ;
    for (int32_t t = 0; t < frames; t++) {
        if (t && !take(&c, ',')) return NOT_READ;
        if (!read_mask(&c, v, frame + t)) return NOT_READ;
    }
    return take(&c, ']') && c.at == c.end ? READ : NOT_READ;
}

#endif
