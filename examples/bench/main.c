/*
 * What MPI can do between its ranks, and what it takes to start them, in the way
 * of the OSU micro-benchmarks: warm-up, iterations by size, sizes doubled.
 *
 *     mpi-bench [--most BYTES] [--quick] MEASURE...
 *
 * MEASURE is one of
 *     job            the MPI library, ranks, nodes, and whether one rank can copy
 *                    from another's memory (cross-memory attach, CMA)
 *     latency        half of a ping-pong between ranks 0 and 1
 *     bandwidth      a window of messages from rank 0 to rank 1
 *     bidirectional  the same both ways at once
 *     allreduce, alltoall, barrier    of all ranks
 *     start          when MPI_Init had ended, and how long it took
 *     memory         the memory of each rank, and then wait for a line of input
 *     fence          an exchange among all ranks through the launcher, without MPI;
 *                    alone
 *
 * All output is rank 0's but for fence's "node NAME": lines of "measure bytes figure" or "word value".
 * Status 1 for what went wrong, 2 for a wrong word.
 */
#define _POSIX_C_SOURCE 200809L

#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct measure {
    const char *name;
    void (*run)(const struct options *);
};

static const struct measure measures[] = {
    {"latency", measure_latency},     {"bandwidth", measure_bandwidth},
    {"bidirectional", measure_bidirectional}, {"allreduce", measure_allreduce},
    {"alltoall", measure_alltoall},   {"barrier", measure_barrier},
};

enum { MEASURES = sizeof measures / sizeof measures[0] };

struct counts counts_for(long bytes, const struct options *options)
{
    struct counts counts;

    if (bytes <= 8 << 10)
        counts = (struct counts){200, 1000, 5};
    else if (bytes <= 256 << 10)
        counts = (struct counts){20, 100, 5};
    else if (bytes <= 4 << 20)
        counts = (struct counts){4, 10, 5};
    else
        counts = (struct counts){2, 4, 3};
    if (options->quick) {
        counts.warm_up = counts.warm_up / 10 + 1;
        counts.measured = counts.measured / 10 + 1;
        counts.blocks = 3;
    }
    return counts;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double median(double *figures, int count)
{
    qsort(figures, (size_t)count, sizeof *figures, ascending);
    return count % 2 != 0 ? figures[count / 2]
                          : (figures[count / 2 - 1] + figures[count / 2]) / 2;
}

void report(const char *measure, long bytes, double figure)
{
    printf("%s %ld %.4f\n", measure, bytes, figure);
    fflush(stdout);
}

char *room_or_leave(size_t bytes)
{
    char *room = malloc(bytes);

    if (room == NULL) {
        fprintf(stderr, "mpi-bench: no memory for %zu bytes\n", bytes);
        MPI_Abort(MPI_COMM_WORLD, 1);
        exit(1);
    }
    memset(room, 'x', bytes);
    return room;
}

void wait_asleep(void)
{
    const struct timespec nap = {0, 5 * 1000 * 1000};
    MPI_Request end;
    int done = 0;

    MPI_Ibarrier(MPI_COMM_WORLD, &end);
    for (MPI_Test(&end, &done, MPI_STATUS_IGNORE); !done;
         MPI_Test(&end, &done, MPI_STATUS_IGNORE))
        nanosleep(&nap, NULL);
}

static double now(void)
{
    struct timespec time;

    /* The wall's clock: whoever started the job reads it, too. */
    clock_gettime(CLOCK_REALTIME, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int usage(const char *word)
{
    fprintf(stderr,
            "mpi-bench: what is '%s'?\n"
            "usage: mpi-bench [--most BYTES] [--quick] MEASURE...   (BYTES up to %d)\n",
            word, LARGEST);
    return 2;
}

static const struct measure *find(const char *name)
{
    for (int i = 0; i < MEASURES; i++)
        if (strcmp(measures[i].name, name) == 0)
            return &measures[i];
    return NULL;
}

static int is_word_of_startup(const char *name)
{
    return strcmp(name, "job") == 0 || strcmp(name, "start") == 0 || strcmp(name, "memory") == 0 ||
           strcmp(name, "fence") == 0;
}

int main(int argc, char **argv)
{
    struct options options = {.most = 4 << 20, .quick = 0};
    double init_began, init_ended;
    int first, size, point = 0;

    for (first = 1; first < argc && strncmp(argv[first], "--", 2) == 0; first++) {
        char *end = NULL;

        if (strcmp(argv[first], "--quick") == 0) {
            options.quick = 1;
        } else if (strcmp(argv[first], "--most") == 0 && first + 1 < argc) {
            options.most = strtol(argv[++first], &end, 10);
            if (*end != '\0' || options.most < 1 || options.most > LARGEST)
                return usage(argv[first]);
        } else {
            return usage(argv[first]);
        }
    }
    if (first == argc)
        return usage("");
    /* Before MPI_Init, so that a wrong word costs no launch. */
    for (int i = first; i < argc; i++) {
        if (find(argv[i]) == NULL && !is_word_of_startup(argv[i]))
            return usage(argv[i]);
        point |= strstr("latency bandwidth bidirectional", argv[i]) != NULL;
    }

    if (strcmp(argv[first], "fence") == 0)
        return tell_fence();
    init_began = now();
    MPI_Init(&argc, &argv);
    init_ended = now();
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (point && size < 2) {
        fprintf(stderr, "mpi-bench: messages need two ranks, and this is a job of %d\n", size);
        MPI_Abort(MPI_COMM_WORLD, 1);
        return 1;
    }
    for (int i = first; i < argc; i++) {
        const struct measure *measure = find(argv[i]);

        if (measure != NULL)
            measure->run(&options);
        else if (strcmp(argv[i], "job") == 0)
            tell_job();
        else if (strcmp(argv[i], "start") == 0)
            tell_start(init_began, init_ended);
        else
            tell_memory();
    }
    MPI_Finalize();
    return 0;
}
