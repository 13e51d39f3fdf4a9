/*
 * What MPI can do between its ranks, and what it takes to start them, in the way
 * of the OSU micro-benchmarks: warm-up, iterations by size, sizes doubled.
 *
 *     mpi-bench [--most BYTES] [--quick] MEASURE...
 *     mpi-bench [--most BYTES] [--quick] --turns
 *
 * With --turns it says "ready", and waits asleep for a line of input: the name of
 * a measure, of which it does one sweep. So several jobs can measure by turns on
 * the same processors, each in the other's pauses, and what disturbs the machine
 * disturbs them alike. It ends with its input.
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
#include <unistd.h>

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
        counts = (struct counts){200, 800};
    else if (bytes <= 256 << 10)
        counts = (struct counts){10, 60};
    else if (bytes <= 4 << 20)
        counts = (struct counts){2, 6};
    else
        counts = (struct counts){1, 3};
    if (options->quick) {
        counts.warm_up = counts.warm_up / 10 + 1;
        counts.measured = counts.measured / 10 + 1;
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
    void *room;

    if (posix_memalign(&room, (size_t)sysconf(_SC_PAGESIZE), bytes) != 0) {
        fprintf(stderr, "mpi-bench: no memory for %zu bytes\n", bytes);
        MPI_Abort(MPI_COMM_WORLD, 1);
        exit(1);
    }
    memset(room, 'x', bytes);
    return room;
}

void wait_asleep(void)
{
    const struct timespec nap = {0, 10 * 1000 * 1000};
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
            "usage: mpi-bench [--most BYTES] [--quick] MEASURE... | --turns   (BYTES up to %d)\n",
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

/* What the next line of input asks for: the number of a measure, or -1 at its end. */
static int next_turn(void)
{
    char line[64];

    if (fgets(line, sizeof line, stdin) == NULL)
        return -1;
    line[strcspn(line, "\n")] = '\0';
    for (int i = 0; i < MEASURES; i++)
        if (strcmp(measures[i].name, line) == 0)
            return i;
    fprintf(stderr, "mpi-bench: what is '%s'?\n", line);
    MPI_Abort(MPI_COMM_WORLD, 2);
    return -1;
}

static void take_turns(const struct options *options)
{
    int rank, turn = 0;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (;;) {
        if (rank == 0) {
            printf("ready\n");
            fflush(stdout);
            turn = next_turn();
        }
        /* MPI_Bcast alone would keep a processor busy with waiting. */
        wait_asleep();
        MPI_Bcast(&turn, 1, MPI_INT, 0, MPI_COMM_WORLD);
        if (turn < 0)
            return;
        measures[turn].run(options);
    }
}

int main(int argc, char **argv)
{
    struct options options = {.most = 4 << 20, .quick = 0, .sweeps = SWEEPS};
    double init_began, init_ended;
    int first, size, point = 0, turns = 0;

    for (first = 1; first < argc && strncmp(argv[first], "--", 2) == 0; first++) {
        char *end = NULL;

        if (strcmp(argv[first], "--quick") == 0) {
            options.quick = 1;
        } else if (strcmp(argv[first], "--turns") == 0) {
            turns = 1;
        } else if (strcmp(argv[first], "--most") == 0 && first + 1 < argc) {
            options.most = strtol(argv[++first], &end, 10);
            if (*end != '\0' || options.most < 1 || options.most > LARGEST)
                return usage(argv[first]);
        } else {
            return usage(argv[first]);
        }
    }
    if ((first == argc) != turns)
        return usage(first == argc ? "" : argv[first]);
    options.sweeps = turns ? 1 : options.quick ? 3 : SWEEPS;
    point = turns;
    /* Before MPI_Init, so that a wrong word costs no launch. */
    for (int i = first; i < argc; i++) {
        if (find(argv[i]) == NULL && !is_word_of_startup(argv[i]))
            return usage(argv[i]);
        point |= strstr("latency bandwidth bidirectional", argv[i]) != NULL;
    }

    if (!turns && strcmp(argv[first], "fence") == 0)
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
    if (turns || point)
        keep_to_one_processor();
    if (turns)
        take_turns(&options);
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
