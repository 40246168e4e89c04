/* Strict, bounded reading of JSON text. A function that meets what it does not expect returns 0: the
 * caller then leaves the file to the plain reader in Python, which reads it or says what is wrong.
 * No byte at or behind `end` is touched. */

#ifndef JSON_H
#define JSON_H

#include <stdint.h>
#include <string.h>

typedef unsigned char Byte;

typedef struct {
    const Byte *at, *end;
} Cursor;

#define MAX_DEPTH 32 /* of values inside one another; deeper ones are left to the plain reader */
#define BLOCK 32

#define INLINE static inline __attribute__((always_inline))

/* The next byte that is no white space, or -1 at the end. */
INLINE int peek(Cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\r' || *c->at == '\t'))
        c->at++;
    return c->at < c->end ? *c->at : -1;
}

/* Whether the next byte is this one, which is then passed. */
INLINE int take(Cursor *c, Byte expected) {
    if (peek(c) != expected) return 0;
    c->at++;
    return 1;
}

static int is_word(Cursor *c, const char *word) {
    int64_t length = (int64_t)strlen(word);
    if (c->end - c->at < length || memcmp(c->at, word, (size_t)length)) return 0;
    c->at += length;
    return 1;
}

/* Whether one of 32 bytes ends a run of plain characters. */
INLINE int has_special(const Byte *p, int with_foreign) {
    Byte special = 0;
    for (int i = 0; i < BLOCK; i++)
        special |= (Byte)((p[i] == '"') | (p[i] == '\\') | (p[i] < 0x20) |
                          (with_foreign & (p[i] >= 0x80)));
    return special;
}

static int hex_digits(const Byte *p) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        Byte b = p[i];
        int digit = b >= '0' && b <= '9'   ? b - '0'
                    : b >= 'a' && b <= 'f' ? b - 'a' + 10
                    : b >= 'A' && b <= 'F' ? b - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Pass a string. Characters beyond ASCII are only taken where `allows_foreign`: there another parser
 * reads the text again. */
static int skip_string(Cursor *c, int allows_foreign) {
    const Byte *p = c->at, *end = c->end;
    if (p >= end || *p != '"') return 0;
    p++;
    for (;;) {
        while (end - p >= BLOCK && !has_special(p, !allows_foreign)) p += BLOCK;
        for (int i = 0; i < BLOCK; i++) {
            if (p >= end) return 0;
            Byte b = *p;
            if (b == '"') {
                c->at = p + 1;
                return 1;
            }
            if (b == '\\') {
                if (end - p < 2 || !p[1] || !strchr("\"\\/bfnrtu", p[1])) return 0;
                if (p[1] == 'u') {
                    int code = end - p < 6 ? -1 : hex_digits(p + 2);
                    if (code < 0 || (code >= 0xd800 && code < 0xe000)) return 0;
                    p += 4;
                }
                p += 2;
            } else if (b < 0x20 || (b >= 0x80 && !allows_foreign)) {
                return 0;
            } else {
                p++;
            }
        }
    }
}

INLINE int is_digit(const Cursor *c) {
    return c->at < c->end && *c->at >= '0' && *c->at <= '9';
}

static int skip_digits(Cursor *c) {
    if (!is_digit(c)) return 0;
    while (is_digit(c)) c->at++;
    return 1;
}

/* Pass a number. */
static int skip_number(Cursor *c) {
    if (c->at < c->end && *c->at == '-') c->at++;
    if (c->at < c->end && *c->at == '0')
        c->at++;
    else if (!skip_digits(c))
        return 0;
    if (c->at < c->end && *c->at == '.') {
        c->at++;
        if (!skip_digits(c)) return 0;
    }
    if (c->at < c->end && (*c->at == 'e' || *c->at == 'E')) {
        c->at++;
        if (c->at < c->end && (*c->at == '+' || *c->at == '-')) c->at++;
        if (!skip_digits(c)) return 0;
    }
    return !is_digit(c); /* 01 */
}

/* A whole number of at most 18 digits, without sign, fraction or exponent. */
static int read_whole(Cursor *c, int64_t *value) {
    int64_t number = 0;
    const Byte *start;
    peek(c);
    start = c->at;
    while (is_digit(c)) {
        if (c->at - start == 18) return 0;
        number = number * 10 + (*c->at++ - '0');
    }
    if (c->at == start || (*start == '0' && c->at - start > 1)) return 0;
    if (c->at < c->end && (*c->at == '.' || *c->at == 'e' || *c->at == 'E')) return 0;
    *value = number;
    return 1;
}

/* Pass the key of an object's member and the colon. Keys with escapes are not taken. */
static int read_key(Cursor *c, int allows_foreign, const Byte **start, int64_t *length) {
    if (peek(c) != '"') return 0;
    *start = c->at + 1;
    if (!skip_string(c, allows_foreign)) return 0;
    *length = c->at - 1 - *start;
    if (memchr(*start, '\\', (size_t)*length)) return 0;
    return take(c, ':');
}

INLINE int is_key(const Byte *start, int64_t length, const char *name) {
    return length == (int64_t)strlen(name) && !memcmp(start, name, (size_t)length);
}

/* Behind a member of an object or list: 1 when another follows, 0 at the end, -1 for anything else. */
INLINE int has_more(Cursor *c, Byte closing) {
    int next = peek(c);
    if (next != ',' && next != closing) return -1;
    c->at++;
    return next == ',';
}

/* Pass any value. */
static int skip_value(Cursor *c, int allows_foreign, int depth) {
    int next = peek(c), more;
    if (next == '"') return skip_string(c, allows_foreign);
    if (next == 'n') return is_word(c, "null");
    if (next == 't') return is_word(c, "true");
    if (next == 'f') return is_word(c, "false");
    if (next != '{' && next != '[') return next >= 0 && skip_number(c);
    if (depth >= MAX_DEPTH) return 0;
    Byte closing = next == '{' ? '}' : ']';
    c->at++;
    if (take(c, closing)) return 1;
    do {
        if (next == '{') {
            if (peek(c) != '"' || !skip_string(c, allows_foreign) || !take(c, ':')) return 0;
        }
        if (!skip_value(c, allows_foreign, depth + 1)) return 0;
        more = has_more(c, closing);
    } while (more == 1);
    return more == 0;
}

#endif
