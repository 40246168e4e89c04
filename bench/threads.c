/* Watches the parallel regions of a process: loaded before everything else (LD_PRELOAD), it stands in
   front of OpenMP's `GOMP_parallel`, by which torch, MKL, oneDNN and our own C code start their threads.

   Only regions that the watched thread starts are counted. Times are processor times, in nanoseconds. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

enum { MOST_THREADS = 256 };

typedef void Body(void *);
typedef void Parallel(Body *, void *, unsigned, unsigned);

typedef struct {
    int64_t regions; /* how many */
    int64_t caller;  /* time of the watched thread in them */
    int64_t work;    /* time of all threads in them */
    int64_t longest; /* of each region its longest thread, added up */
} Totals;

typedef struct {
    Body *body;
    void *data;
    int64_t spent[MOST_THREADS];
} Region;

static Parallel *real;
static int (*number_of_thread)(void);
static Totals totals;
static __thread int is_watched, is_inside;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The OpenMP library that is loaded is not in the global scope: it is opened by its path. */
static int find(struct dl_phdr_info *library, size_t size, void *unused) {
    (void)size, (void)unused;
    if (!strstr(library->dlpi_name, "libgomp")) return 0;
    void *handle = dlopen(library->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) return 0;
    real = (Parallel *)dlsym(handle, "GOMP_parallel");
    number_of_thread = (int (*)(void))dlsym(handle, "omp_get_thread_num");
    return real && number_of_thread;
}

static void run(void *argument) {
    Region *region = argument;
    const int thread = number_of_thread();
    const int64_t start = now();
    region->body(region->data);
    if (thread < MOST_THREADS) region->spent[thread] = now() - start;
}

void GOMP_parallel(Body *body, void *data, unsigned threads, unsigned flags) {
    if (!real) dl_iterate_phdr(find, 0);
    if (!is_watched || is_inside) {
        real(body, data, threads, flags);
        return;
    }
    Region region = {.body = body, .data = data};
    const int64_t start = now();
    is_inside = 1;
    real(run, &region, threads, flags);
    is_inside = 0;
    int64_t longest = 0;
    for (int i = 0; i < MOST_THREADS; i++) {
        totals.work += region.spent[i];
        longest = region.spent[i] > longest ? region.spent[i] : longest;
    }
    totals.longest += longest;
    totals.regions++;
    totals.caller += now() - start;
}

/* Watch the thread that calls this, from zero on. */
void watch_this_thread(void) {
    is_watched = 1;
    memset(&totals, 0, sizeof totals);
}

/* Time of this thread outside of regions since it began; less of it than of two calls is left out. */
int64_t serial_time(void) { return now() - totals.caller; }

void read_totals(Totals *out) { *out = totals; }
