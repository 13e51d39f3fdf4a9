/*
 * Messages between ranks 0 and 1. The others wait, asleep. Large messages show
 * which way they go: copied once by the kernel (process_vm_readv), or twice
 * through shared memory.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>

enum { PING = 1, PONG = 2, FLOW = 3, ACKNOWLEDGE = 4, WINDOW = 64, UNDER_WAY = 64 << 20 };

/* As many messages under way as fit UNDER_WAY, at most WINDOW. */
static int window_for(long bytes)
{
    long fit = UNDER_WAY / bytes;

    return fit < 2 ? 2 : fit > WINDOW ? WINDOW : (int)fit;
}

static double ping_pong(char *buffer, long bytes, int rank, int times)
{
    double begun = MPI_Wtime();

    for (int i = 0; i < times; i++) {
        if (rank == 0) {
            MPI_Send(buffer, (int)bytes, MPI_CHAR, 1, PING, MPI_COMM_WORLD);
            MPI_Recv(buffer, (int)bytes, MPI_CHAR, 1, PONG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else {
            MPI_Recv(buffer, (int)bytes, MPI_CHAR, 0, PING, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(buffer, (int)bytes, MPI_CHAR, 0, PONG, MPI_COMM_WORLD);
        }
    }
    return (MPI_Wtime() - begun) * 1e6 / (2.0 * times);
}

/* What a transfer needs to know. */
struct flow {
    char *out, *in; /* the receiver keeps a window of messages apart */
    int window;
    int both_ways;
};

static double flow(const struct flow *flow, long bytes, int rank, int windows)
{
    MPI_Request requests[2 * WINDOW];
    MPI_Status statuses[2 * WINDOW]; /* gcc warns of MPICH's MPI_STATUSES_IGNORE here */
    double begun = MPI_Wtime();
    double sent = (double)bytes * flow->window * windows * (flow->both_ways ? 2 : 1);
    int sends = rank == 0 || flow->both_ways, receives = rank == 1 || flow->both_ways;

    for (int i = 0; i < windows; i++) {
        int count = 0;

        for (int k = 0; receives && k < flow->window; k++)
            MPI_Irecv(flow->in + (size_t)k * (size_t)bytes, (int)bytes, MPI_CHAR, 1 - rank, FLOW,
                      MPI_COMM_WORLD, &requests[count++]);
        for (int k = 0; sends && k < flow->window; k++)
            MPI_Isend(flow->out, (int)bytes, MPI_CHAR, 1 - rank, FLOW, MPI_COMM_WORLD,
                      &requests[count++]);
        MPI_Waitall(count, requests, statuses);
        if (rank == 0)
            MPI_Recv(NULL, 0, MPI_CHAR, 1, ACKNOWLEDGE, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else
            MPI_Send(NULL, 0, MPI_CHAR, 0, ACKNOWLEDGE, MPI_COMM_WORLD);
    }
    return sent / (MPI_Wtime() - begun) / 1e6;
}

/* The medians over the sweeps. */
static void report_all(const char *name, figures figures, const struct options *options)
{
    int size = 0;

    for (long bytes = 1; bytes <= options->most; bytes *= 2)
        report(name, bytes, median(figures[size++], options->sweeps));
}

void measure_latency(const struct options *options)
{
    int rank;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank < 2) {
        char *buffer = room_or_leave((size_t)options->most);
        figures figures;

        for (int sweep = 0; sweep < options->sweeps; sweep++) {
            int size = 0;

            for (long bytes = 1; bytes <= options->most; bytes *= 2) {
                struct counts counts = counts_for(bytes, options);

                ping_pong(buffer, bytes, rank, counts.warm_up);
                figures[size++][sweep] = ping_pong(buffer, bytes, rank, counts.measured);
            }
        }
        free(buffer);
        if (rank == 0)
            report_all("latency", figures, options);
    }
    wait_asleep();
}

static void measure_flow(const char *name, const struct options *options, int both_ways)
{
    int rank;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank < 2) {
        struct flow rooms = {.both_ways = both_ways};
        size_t most = (size_t)options->most;
        size_t window = most * WINDOW < UNDER_WAY ? most * WINDOW
                        : most * 2 < UNDER_WAY    ? UNDER_WAY
                                                  : most * 2;
        figures figures;

        rooms.out = room_or_leave(most);
        rooms.in = room_or_leave(window);
        for (int sweep = 0; sweep < options->sweeps; sweep++) {
            int size = 0;

            for (long bytes = 1; bytes <= options->most; bytes *= 2) {
                struct counts counts = counts_for(bytes, options);

                rooms.window = window_for(bytes);
                flow(&rooms, bytes, rank, counts.warm_up / rooms.window + 1);
                figures[size++][sweep] =
                    flow(&rooms, bytes, rank, counts.measured / rooms.window + 1);
            }
        }
        free(rooms.in);
        free(rooms.out);
        if (rank == 0)
            report_all(name, figures, options);
    }
    wait_asleep();
}

void measure_bandwidth(const struct options *options)
{
    measure_flow("bandwidth", options, 0);
}

void measure_bidirectional(const struct options *options)
{
    measure_flow("bidirectional", options, 1);
}
