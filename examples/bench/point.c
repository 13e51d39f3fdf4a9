/*
 * Messages between ranks 0 and 1. The others wait, asleep. Large messages show
 * which way they go: copied once by the kernel (process_vm_readv), or twice
 * through shared memory.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>

enum { PING = 1, PONG = 2, FLOW = 3, ACKNOWLEDGE = 4, WINDOW = 64, BLOCKS = 16 };

/* As many messages under way as fit a quarter of a gigabyte, at most WINDOW. */
static int window_for(long most)
{
    long fit = (256L << 20) / most;

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

void measure_latency(const struct options *options)
{
    int rank;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank < 2) {
        char *buffer = room_or_leave((size_t)options->most);

        for (long bytes = 1; bytes <= options->most; bytes *= 2) {
            struct counts counts = counts_for(bytes, options);
            double figures[BLOCKS];

            ping_pong(buffer, bytes, rank, counts.warm_up);
            for (int block = 0; block < counts.blocks; block++)
                figures[block] = ping_pong(buffer, bytes, rank, counts.measured);
            if (rank == 0)
                report("latency", bytes, median(figures, counts.blocks));
        }
        free(buffer);
    }
    wait_asleep();
}

static void measure_flow(const char *name, const struct options *options, int both_ways)
{
    int rank;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank < 2) {
        struct flow rooms = {.window = window_for(options->most), .both_ways = both_ways};

        rooms.out = room_or_leave((size_t)options->most);
        rooms.in = room_or_leave((size_t)options->most * (size_t)rooms.window);
        for (long bytes = 1; bytes <= options->most; bytes *= 2) {
            struct counts counts = counts_for(bytes, options);
            int windows = counts.measured / rooms.window + 1;
            double figures[BLOCKS];

            flow(&rooms, bytes, rank, counts.warm_up / rooms.window + 1);
            for (int block = 0; block < counts.blocks; block++)
                figures[block] = flow(&rooms, bytes, rank, windows);
            if (rank == 0)
                report(name, bytes, median(figures, counts.blocks));
        }
        free(rooms.in);
        free(rooms.out);
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
