/* The best one-to-one assignment of rows to columns: shortest augmenting paths, a row at a time
 * (D. Crouse, "On implementing 2D rectangular assignment algorithms", 2016). */

#ifndef ASSIGN_H
#define ASSIGN_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* Room for N rows and M columns. */
typedef struct {
    double *row_price, *column_price, *shortest; /* [S], S = max(N, M) */
    int64_t *column_of, *row_of, *path, *open;   /* [S] */
    uint8_t *row_seen, *column_seen;             /* [S] */
} Assignment;

static int allocate_assignment(Assignment *a, int64_t size) {
    size_t reals = (size_t)(size + 1) * sizeof(double), words = (size_t)(size + 1) * sizeof(int64_t);
    a->row_price = malloc(reals);
    a->column_price = malloc(reals);
    a->shortest = malloc(reals);
    a->column_of = malloc(words);
    a->row_of = malloc(words);
    a->path = malloc(words);
    a->open = malloc(words);
    a->row_seen = malloc((size_t)(size + 1));
    a->column_seen = malloc((size_t)(size + 1));
    return a->row_price && a->column_price && a->shortest && a->column_of && a->row_of && a->path &&
           a->open && a->row_seen && a->column_seen;
}

static void free_assignment(Assignment *a) {
    free(a->row_price);
    free(a->column_price);
    free(a->shortest);
    free(a->column_of);
    free(a->row_of);
    free(a->path);
    free(a->open);
    free(a->row_seen);
    free(a->column_seen);
}

/* Where the path from row `first` ends: a column without a row. Of columns that are as near, one
 * without a row comes first, and of these the one with the smaller number, as in scipy. */
static int64_t find_path(Assignment *a, const double *gain, int64_t rows, int64_t columns,
                         int64_t row_step, int64_t column_step, int64_t first, double *length) {
    int64_t row = first, num_open = columns;
    double so_far = 0;
    for (int64_t i = 0; i < rows; i++) a->row_seen[i] = 0;
    for (int64_t j = 0; j < columns; j++) {
        a->column_seen[j] = 0;
        a->shortest[j] = INFINITY;
        a->open[j] = columns - 1 - j;
    }
    for (;;) {
        int64_t nearest = -1;
        double lowest = INFINITY;
        a->row_seen[row] = 1;
        for (int64_t k = 0; k < num_open; k++) {
            int64_t j = a->open[k];
            double reached = so_far - gain[row * row_step + j * column_step] - a->row_price[row] -
                             a->column_price[j];
            if (reached < a->shortest[j]) {
                a->path[j] = row;
                a->shortest[j] = reached;
            }
            if (a->shortest[j] < lowest || (a->shortest[j] == lowest && a->row_of[j] < 0)) {
                lowest = a->shortest[j];
                nearest = k;
            }
        }
        so_far = lowest;
        int64_t j = a->open[nearest];
        a->column_seen[j] = 1;
        a->open[nearest] = a->open[--num_open];
        if (a->row_of[j] < 0) {
            *length = so_far;
            return j;
        }
        row = a->row_of[j];
    }
}

/* Args: gain: entry (i, j) at i * row_step + j * column_step, finite. rows, columns: 1 or more.
 * Afterwards column_of[i] is the column of row i, or -1; the sum of gains is the largest. */
static void assign(Assignment *a, const double *gain, int64_t rows, int64_t columns,
                   int64_t row_step, int64_t column_step) {
    int is_turned = rows > columns;
    if (is_turned) {
        int64_t n = rows, step = row_step;
        rows = columns, columns = n;
        row_step = column_step, column_step = step;
    }
    for (int64_t i = 0; i < rows; i++) a->row_price[i] = 0, a->column_of[i] = -1;
    for (int64_t j = 0; j < columns; j++) a->column_price[j] = 0, a->row_of[j] = -1;
    for (int64_t first = 0; first < rows; first++) {
        double length;
        int64_t j = find_path(a, gain, rows, columns, row_step, column_step, first, &length), row;
        a->row_price[first] += length;
        for (int64_t i = 0; i < rows; i++)
            if (a->row_seen[i] && i != first)
                a->row_price[i] += length - a->shortest[a->column_of[i]];
        for (int64_t k = 0; k < columns; k++)
            if (a->column_seen[k]) a->column_price[k] -= length - a->shortest[k];
        do {
            int64_t next;
            row = a->path[j];
            a->row_of[j] = row;
            next = a->column_of[row];
            a->column_of[row] = j;
            j = next;
        } while (row != first);
    }
    if (is_turned) {
        int64_t *columns_of = a->column_of;
        a->column_of = a->row_of;
        a->row_of = columns_of;
    }
}

/* For tests: the column of every row of gain [rows, columns]. Returns: 0, or 1 without memory. */
int64_t assign_rows(int64_t rows, int64_t columns, const double *gain, int64_t *column_of) {
    Assignment a;
    int64_t is_good = allocate_assignment(&a, rows > columns ? rows : columns);
    if (is_good) {
        assign(&a, gain, rows, columns, columns, 1);
        for (int64_t i = 0; i < rows; i++) column_of[i] = a.column_of[i];
    }
    free_assignment(&a);
    return !is_good;
}

#endif
