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

/* Whether all bytes may stand in a string as they are. */
static int are_plain(const Byte *p, int64_t length, int allows_foreign) {
    Byte low = 0, foreign = 0;
    for (int64_t i = 0; i < length; i++) {
        low |= p[i] < 0x20;
        foreign |= p[i] & 0x80;
    }
    return !low && (allows_foreign || !foreign);
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

/* Bytes of the escape at `p`, a backslash, or 0. */
static int escape_length(const Byte *p, const Byte *end) {
    if (end - p < 2) return 0;
    if (p[1] == '\\') return 2; /* the only one that masks have */
    if (p[1] == 'u') {
        int code = end - p < 6 ? -1 : hex_digits(p + 2);
        return code < 0 || (code >= 0xd800 && code < 0xe000) ? 0 : 6;
    }
    return p[1] && strchr("\"/bfnrt", p[1]) ? 2 : 0;
}

/* Pass a string. Characters beyond ASCII are only taken where `allows_foreign`: there another parser
 * reads the text again. */
static int skip_string(Cursor *c, int allows_foreign) {
    const Byte *p = c->at, *end = c->end, *quote, *escape;
    if (p >= end || *p != '"') return 0;
    p++;
    while ((quote = memchr(p, '"', (size_t)(end - p)))) {
        while (p <= quote && (escape = memchr(p, '\\', (size_t)(quote - p)))) {
            int length = escape_length(escape, end);
            if (!length) return 0;
            p = escape + length;
        }
        if (p <= quote) {
            if (!are_plain(c->at, quote - c->at, allows_foreign)) return 0;
            c->at = quote + 1;
            return 1;
        }
    }
    return 0;
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
