/*
 * Operations of all ranks. A figure is the mean over the ranks of the time an
 * operation took each of them, as in the OSU micro-benchmarks.
 */
#include "bench.h"

#include <stdlib.h>

enum { LARGEST_TOGETHER = 1 << 20 };

struct operation {
    const char *name;
    void (*once)(char *out, char *in, long bytes);
    long least;    /* bytes of the smallest */
    int in_chunks; /* a chunk of so many bytes for each rank */
};

static void allreduce(char *out, char *in, long bytes)
{
    MPI_Allreduce(out, in, (int)(bytes / (long)sizeof(float)), MPI_FLOAT, MPI_SUM,
                  MPI_COMM_WORLD);
}

static void alltoall(char *out, char *in, long bytes)
{
    MPI_Alltoall(out, (int)bytes, MPI_CHAR, in, (int)bytes, MPI_CHAR, MPI_COMM_WORLD);
}

static void barrier(char *out, char *in, long bytes)
{
    (void)out;
    (void)in;
    (void)bytes;
    MPI_Barrier(MPI_COMM_WORLD);
}

static double block(const struct operation *operation, char *out, char *in, long bytes, int times)
{
    double begun, own, all;
    int size;

    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Barrier(MPI_COMM_WORLD);
    begun = MPI_Wtime();
    for (int i = 0; i < times; i++)
        operation->once(out, in, bytes);
    own = MPI_Wtime() - begun;
    MPI_Reduce(&own, &all, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    return all * 1e6 / ((double)times * size);
}

/* The size after this one; an operation without messages has one only. */
static long next(long bytes)
{
    return bytes == 0 ? 1 : bytes * 2;
}

static void measure(const struct operation *operation, const struct options *options)
{
    long most = operation->least == 0           ? 0
                : options->most > LARGEST_TOGETHER ? LARGEST_TOGETHER
                                                   : options->most;
    int rank, size;
    size_t room;
    char *out, *in;
    figures figures;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    room = (size_t)(most + 1) * (size_t)(operation->in_chunks ? size : 1);
    out = room_or_leave(room);
    in = room_or_leave(room);
    for (int sweep = 0; sweep < options->sweeps; sweep++) {
        int place = 0;

        for (long bytes = operation->least; bytes <= most; bytes = next(bytes)) {
            struct counts counts = counts_for(bytes, options);

            /* Fewer than of messages: they wait for the slowest. */
            block(operation, out, in, bytes, counts.warm_up / 5 + 1);
            figures[place++][sweep] = block(operation, out, in, bytes, counts.measured / 5 + 1);
        }
    }
    free(in);
    free(out);
    if (rank == 0) {
        int place = 0;

        for (long bytes = operation->least; bytes <= most; bytes = next(bytes))
            report(operation->name, bytes, median(figures[place++], options->sweeps));
    }
    wait_asleep();
}

void measure_allreduce(const struct options *options)
{
    const struct operation operation = {"allreduce", allreduce, (long)sizeof(float), 0};

    measure(&operation, options);
}

void measure_alltoall(const struct options *options)
{
    const struct operation operation = {"alltoall", alltoall, 1, 1};

    measure(&operation, options);
}

void measure_barrier(const struct options *options)
{
    const struct operation operation = {"barrier", barrier, 0, 0};

    measure(&operation, options);
}
