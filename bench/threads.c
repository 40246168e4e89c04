/* Watches the parallel regions of a process: loaded before everything else (LD_PRELOAD), it stands in
   front of OpenMP's `GOMP_parallel`, by which torch, MKL, oneDNN and our own C code start their threads.

   Only regions that the watched thread starts are counted. Times are processor times, in nanoseconds. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

typedef void Body(void *);
typedef void Parallel(Body *, void *, unsigned, unsigned);

typedef struct {
    int64_t regions; /* how many */
    int64_t caller;  /* time of the watched thread in them */
} Totals;

static Parallel *real;
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
    return real != 0;
}

void GOMP_parallel(Body *body, void *data, unsigned threads, unsigned flags) {
    if (!real) dl_iterate_phdr(find, 0);
    if (!is_watched || is_inside) {
        real(body, data, threads, flags);
        return;
    }
    const int64_t start = now();
    is_inside = 1;
    real(body, data, threads, flags);
    is_inside = 0;
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
