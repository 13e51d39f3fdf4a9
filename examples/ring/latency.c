/*
 * Latency and bandwidth between two MPI ranks, for messages of 1 B to 4 MiB.
 *
 *     latency [--most BYTES] [--quick]
 *
 * Ranks 0 and 1 measure; others wait, asleep. Latency is half of a ping-pong.
 * Bandwidth is measured with a window of messages under way, each window
 * acknowledged once. One line a size: bytes, microseconds, and 10^6 bytes a
 * second. Large messages show which way they go: copied once by the kernel
 * (process_vm_readv), or twice through shared memory.
 */
#define _POSIX_C_SOURCE 200809L

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PING = 1, PONG = 2, FLOW = 3, ACKNOWLEDGE = 4, WINDOW = 32, MOST = 4 << 20 };

struct rounds {
    int warm_up, measured;
};

/* Enough rounds for a steady figure, few enough for a table within seconds. */
static struct rounds rounds_for(int bytes, int quick)
{
    struct rounds rounds;

    if (bytes <= 8 << 10)
        rounds = (struct rounds){200, 5000};
    else if (bytes <= 256 << 10)
        rounds = (struct rounds){50, 500};
    else
        rounds = (struct rounds){10, 60};
    if (quick) {
        rounds.warm_up = rounds.warm_up / 10 + 1;
        rounds.measured = rounds.measured / 10;
    }
    return rounds;
}

static double latency_us(char *buffer, int bytes, int rank, struct rounds rounds)
{
    double begin = 0;

    for (int i = 0; i < rounds.warm_up + rounds.measured; i++) {
        if (i == rounds.warm_up)
            begin = MPI_Wtime();
        if (rank == 0) {
            MPI_Send(buffer, bytes, MPI_CHAR, 1, PING, MPI_COMM_WORLD);
            MPI_Recv(buffer, bytes, MPI_CHAR, 1, PONG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else {
            MPI_Recv(buffer, bytes, MPI_CHAR, 0, PING, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(buffer, bytes, MPI_CHAR, 0, PONG, MPI_COMM_WORLD);
        }
    }
    return (MPI_Wtime() - begin) * 1e6 / (2.0 * rounds.measured);
}

static double bandwidth_mbps(char *buffer, int bytes, int rank, struct rounds rounds)
{
    MPI_Request requests[WINDOW];
    MPI_Status statuses[WINDOW]; /* gcc warns of MPICH's MPI_STATUSES_IGNORE here */
    int windows = rounds.measured / WINDOW + 1, warm_up = rounds.warm_up / WINDOW + 1;
    double begin = 0;

    for (int i = 0; i < warm_up + windows; i++) {
        if (i == warm_up)
            begin = MPI_Wtime();
        for (int k = 0; k < WINDOW; k++) {
            if (rank == 0)
                MPI_Isend(buffer, bytes, MPI_CHAR, 1, FLOW, MPI_COMM_WORLD, &requests[k]);
            else
                MPI_Irecv(buffer + (size_t)k * (size_t)bytes, bytes, MPI_CHAR, 0, FLOW,
                          MPI_COMM_WORLD, &requests[k]);
        }
        MPI_Waitall(WINDOW, requests, statuses);
        if (rank == 0)
            MPI_Recv(NULL, 0, MPI_CHAR, 1, ACKNOWLEDGE, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else
            MPI_Send(NULL, 0, MPI_CHAR, 0, ACKNOWLEDGE, MPI_COMM_WORLD);
    }
    return (double)bytes * WINDOW * windows / (MPI_Wtime() - begin) / 1e6;
}

/* An MPI_Barrier spins, and would take the processors from those that measure. */
static void wait_asleep(void)
{
    const struct timespec nap = {0, 20 * 1000 * 1000};
    MPI_Request end;
    int done = 0;

    MPI_Ibarrier(MPI_COMM_WORLD, &end);
    for (MPI_Test(&end, &done, MPI_STATUS_IGNORE); !done;
         MPI_Test(&end, &done, MPI_STATUS_IGNORE))
        nanosleep(&nap, NULL);
}

int main(int argc, char **argv)
{
    int rank, size, quick = 0;
    long most = MOST;
    char *buffer;

    for (int i = 1; i < argc; i++) {
        char *end = NULL;

        if (strcmp(argv[i], "--quick") == 0) {
            quick = 1;
            continue;
        }
        if (strcmp(argv[i], "--most") == 0 && i + 1 < argc) {
            most = strtol(argv[++i], &end, 10);
            if (*end == '\0' && most >= 1 && most <= MOST)
                continue;
        }
        fprintf(stderr, "usage: latency [--most BYTES] [--quick]   (BYTES up to %d)\n", MOST);
        return 2;
    }

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size < 2) {
        fprintf(stderr, "latency: needs two ranks, and this is a job of %d\n", size);
        MPI_Abort(MPI_COMM_WORLD, 1);
        return 1;
    }
    if (rank < 2) {
        /* The receiver keeps a window of messages apart. */
        size_t space = (size_t)most * (rank == 1 ? WINDOW : 1);

        buffer = malloc(space);
        if (buffer == NULL) {
            fprintf(stderr, "latency: rank %d has no memory for %zu bytes\n", rank, space);
            MPI_Abort(MPI_COMM_WORLD, 1);
            return 1;
        }
        memset(buffer, 'x', space);
        if (rank == 0)
            printf("%10s %12s %15s\n", "bytes", "latency_us", "bandwidth_MBps");
        for (int bytes = 1; bytes <= most; bytes *= 2) {
            struct rounds rounds = rounds_for(bytes, quick);
            double us = latency_us(buffer, bytes, rank, rounds);
            double mbps = bandwidth_mbps(buffer, bytes, rank, rounds);

            if (rank == 0) {
                printf("%10d %12.2f %15.2f\n", bytes, us, mbps);
                fflush(stdout);
            }
        }
        free(buffer);
    }
    wait_asleep();
    MPI_Finalize();
    return 0;
}
