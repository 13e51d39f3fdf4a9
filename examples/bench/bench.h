/*
 * What the parts of mpi-bench share. See main.c for what it is.
 */
#ifndef BENCH_H
#define BENCH_H

#include <mpi.h>
#include <stddef.h>

/* The largest message, and how many sizes there are up to it, nothing included. */
enum { LARGEST = 64 << 20, SIZES = 28 };

/* Every size is measured once in a sweep, and the median over the sweeps counts:
 * what slows the machine for a while slows a sweep, not all there is of a size. */
enum { SWEEPS = 11 };

struct options {
    long most;   /* largest message, in bytes */
    int quick;   /* a tenth of the iterations: to see that it works */
    int sweeps;  /* at most SWEEPS */
};

/* How often a message of one size is sent in a sweep. */
struct counts {
    int warm_up;   /* before the clock starts */
    int measured;
};

/* One figure for each size and sweep. */
typedef double figures[SIZES][SWEEPS];

struct counts counts_for(long bytes, const struct options *options);

/* The median; sorts the figures. */
double median(double *figures, int count);

/* One line of output, from rank 0 alone: measure, bytes, figure. */
void report(const char *measure, long bytes, double figure);

/* Whole pages of memory, or the end of the job with a message. Every page is touched. */
char *room_or_leave(size_t bytes);

/* startup.c: gives every rank of a node a processor of its own, where the launcher has
 * not, and where there are enough. */
void keep_to_one_processor(void);

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
