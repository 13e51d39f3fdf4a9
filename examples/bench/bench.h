/*
 * What the parts of mpi-bench share. See main.c for what it is.
 */
#ifndef BENCH_H
#define BENCH_H

#include <mpi.h>
#include <stddef.h>

/* A program's word for "as much as fits": the largest message. */
enum { LARGEST = 64 << 20 };

struct options {
    long most;  /* largest message, in bytes */
    int quick;  /* a tenth of the iterations: to see that it works */
};

/* How often a message of one size is sent. */
struct counts {
    int warm_up;   /* before the clock starts */
    int measured;  /* in each block */
    int blocks;    /* each of which gives a figure; the median of them counts */
};

struct counts counts_for(long bytes, const struct options *options);

/* The median; sorts the figures. */
double median(double *figures, int count);

/* One line of output, from rank 0 alone: measure, bytes, figure. */
void report(const char *measure, long bytes, double figure);

/* Memory, or the end of the job with a message. Every page is touched. */
char *room_or_leave(size_t bytes);

/* As MPI_Barrier, but asleep: leaves the processors to those that measure. */
void wait_asleep(void);

/* point.c: between ranks 0 and 1; microseconds, or 10^6 bytes a second. */
void measure_latency(const struct options *options);
void measure_bandwidth(const struct options *options);
void measure_bidirectional(const struct options *options);

/* together.c: all ranks; microseconds. */
void measure_allreduce(const struct options *options);
void measure_alltoall(const struct options *options);
void measure_barrier(const struct options *options);

/* startup.c */
void tell_job(void);
void tell_start(double init_began, double init_ended);
void tell_memory(void);

/* fence.c: an exchange through the launcher, before MPI; the exit status. */
int tell_fence(void);

#endif
