/* Every input goes through the C code of scoring in a buffer of exactly its size, so that the address
 * sanitiser sees any byte read beyond it; then again with bytes changed after the scan, as if the file
 * had been rewritten meanwhile.
 *
 * Usage: harness FILE, which holds inputs as 8 bytes of length, then that many bytes. Prints how many
 * were read, and how many of them were taken as a results file, annotations or masks. */

#include <math.h>
#include <stdio.h>

#include "scorer.c"

static uint64_t state = 1;

static uint64_t next(uint64_t limit) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % limit;
}

static void *room(int64_t count, size_t size) {
    void *made = calloc((size_t)(count ? count : 1), size);
    if (!made) exit(3);
    return made;
}

/* Half of the spans are ground truth, all are results. Returns: whether all were read. */
static int score(const Byte *text, const Span *spans, int64_t count) {
    static const double ranges[] = {0, 1e10, 0, 16384, 16384, 65536, 65536, 1e10};
    double thresholds[10], levels[101];
    int64_t G = count < 20 ? count : 20, D = count < 100 ? count : 100, failed[2];
    for (int t = 0; t < 10; t++) thresholds[t] = 0.5 + 0.05 * t;
    for (int r = 0; r < 101; r++) levels[r] = r / 100.0;
    Masks *masks = room(count, sizeof *masks);
    for (int64_t i = 0; i < count; i++) { /* each in a buffer of its size */
        int64_t size = spans[i].stop - spans[i].start;
        Byte *own = malloc((size_t)size);
        if (!own) exit(3);
        memcpy(own, text + spans[i].start, (size_t)size);
        masks[i] = (Masks){own, size, spans[i].frames, 0};
    }
    int64_t bounds[] = {0, G, 0, D}, iou_first[] = {0, G * D};
    uint8_t *crowd = room(G, 1), *flags = room(D, 40), *ignored = room(G, 4);
    double *areas = room(G, sizeof *areas), *ious = room(G * D, sizeof *ious);
    for (int64_t g = 0; g < G; g++) areas[g] = NAN, crowd[g] = g % 5 == 4;
    int is_read = score_groups(0, 1, bounds, masks, masks, crowd, areas, 0, 4, 10, ranges, thresholds,
                               flags, ignored, ious, iou_first, NULL, 0, 1, failed) == 1;
    if (is_read) {
        int64_t *order = room(D, sizeof *order), first[] = {0, D}, *places = room(D + 1, 8);
        int64_t found[4] = {G, G, 0, G}, limits[] = {1, 10, 100};
        int32_t *rank = room(D, sizeof *rank);
        double *scores = room(D, 8), *precision = room(10 * 101 * 4 * 3, 8);
        double *score_at = room(10 * 101 * 4 * 3, 8), *recall = room(10 * 4 * 3, 8);
        double *scratch = room(D + 1, 8);
        for (int64_t d = 0; d < D; d++) order[d] = d, rank[d] = (int32_t)d, scores[d] = -(double)d;
        accumulate(1, order, first, flags, scores, rank, 4, 10, found, 101, levels, 3, limits,
                   precision, score_at, recall, scratch, places);
        free(order), free(places), free(rank), free(scores), free(precision), free(score_at);
        free(recall), free(scratch);
    }
    int64_t frames = D ? masks[0].frames : 0;
    double alphas[] = {0.05, 0.5, 0.95}, *hota = room(7 * 3, 8), *identity = room(4, 8);
    int64_t *rows = room(D, sizeof *rows), best[] = {0, D / 2};
    for (int64_t d = 0; d < D; d++) rows[d] = d < D / 2 ? D / 2 - 1 - d : -1;
    track_groups(0, 1, bounds, masks, masks, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL, &frames, 3,
                 alphas, 0.5, NULL, NULL, hota, identity, NULL, 0, 1, failed);
    memset(hota, 0, 7 * 3 * 8), memset(identity, 0, 4 * 8);
    track_groups(0, 1, bounds, masks, masks, crowd, areas, 4, 10, ranges, thresholds, rows, best,
                 &frames, 3, alphas, 0.5, flags, ignored, hota, identity, NULL, 0, 1, failed);
    free(hota), free(identity), free(rows);
    for (int64_t i = 0; i < count; i++) free((void *)masks[i].text);
    free(masks), free(crowd), free(flags), free(ignored), free(areas), free(ious);
    return is_read;
}

static void score_damaged(Byte *text, int64_t size, const Span *spans, int64_t count) {
    for (int change = 0; change < 3 && size; change++)
        text[next((uint64_t)size)] = (Byte)(next(2) ? "\"\\[]{},:0P~o"[next(12)] : next(256));
    if (size && next(2)) { /* a tail without any end */
        int64_t from = (int64_t)next((uint64_t)size);
        memset(text + from, "0P\\[{1\" "[next(8)], (size_t)(size - from));
    }
    score(text, spans, count);
}

int main(int argc, char **argv) {
    int64_t inputs = 0, taken[3] = {0}, scored = 0, size;
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!file) return 2;
    for (; fread(&size, sizeof size, 1, file) == 1; inputs++) {
        Byte *text = room(size, 1);
        if (fread(text, 1, (size_t)size, file) != (size_t)size) return 2;
        Byte *exact = malloc((size_t)size); /* no byte more, not even for an empty one */
        if (size && !exact) return 3;
        if (size) memcpy(exact, text, (size_t)size);
        int64_t capacity = size / 20 + 1;
        int64_t *ids = room(capacity, 8), *other = room(capacity, 8);
        double *scores = room(capacity, 8);
        Span *spans = room(capacity, sizeof *spans);
        int64_t counts[] = {
            scan_results(exact, size, 0, size / 58 + 1, ids, other, scores, spans),
            -1, -1};
        for (int kind = 0; kind < 3; kind++) {
            if (kind == 1) counts[1] = scan_annotations(exact, size, 0, capacity, ids, spans);
            if (kind == 2) counts[2] = scan_track(exact, size, spans) ? 1 : -1;
            if (counts[kind] < 0) continue;
            taken[kind]++;
            scored += score(exact, spans, counts[kind]);
            score_damaged(exact, size, spans, counts[kind]);
            if (size) memcpy(exact, text, (size_t)size);
        }
        free(text), free(exact), free(ids), free(other), free(scores), free(spans);
    }
    fclose(file);
    printf("%lld inputs: %lld results files, %lld annotation files, %lld lists of masks; %lld scored\n",
           (long long)inputs, (long long)taken[0], (long long)taken[1], (long long)taken[2],
           (long long)scored);
    return 0;
}
