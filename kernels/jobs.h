/* Jobs of one call, which the threads of a team take one after the other: see `jobs.py`. */

#ifndef SEQFORMER_JOBS_H
#define SEQFORMER_JOBS_H

#include <stdint.h>

typedef struct {
    void (*call)(const void *arguments, void *job);
    const void *arguments; /* the same for all jobs */
    char *jobs;            /* [count] of `size` bytes */
    int64_t size, count;
    int64_t next;          /* the first that nobody has taken */
} Queue;

/* What every thread of the team does. */
void take_jobs(void *all) {
    Queue *queue = all;
    for (int64_t i; (i = __atomic_fetch_add(&queue->next, 1, __ATOMIC_RELAXED)) < queue->count;)
        queue->call(queue->arguments, queue->jobs + i * queue->size);
}

#endif
