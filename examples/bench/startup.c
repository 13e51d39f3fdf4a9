/*
 * What a job is, how it started, and the memory of its ranks.
 */
#define _GNU_SOURCE

#include "bench.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { TAG = 9 };

/* Whether rank 0 may read rank 1's memory: what MPI libraries use for large
 * messages on a node (process_vm_readv, "CMA"). */
static void tell_attach(int rank)
{
    struct where {
        long pid;
        char *place;
    } where;
    char theirs[8] = "", ours[8] = "attach";

    if (rank == 1) {
        where = (struct where){(long)getpid(), ours};
        MPI_Send(&where, (int)sizeof where, MPI_CHAR, 0, TAG, MPI_COMM_WORLD);
        MPI_Recv(NULL, 0, MPI_CHAR, 0, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    } else if (rank == 0) {
        struct iovec local = {theirs, sizeof theirs}, remote = {NULL, sizeof theirs};
        ssize_t got;

        MPI_Recv(&where, (int)sizeof where, MPI_CHAR, 1, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        remote.iov_base = where.place;
        got = process_vm_readv((pid_t)where.pid, &local, 1, &remote, 1, 0);
        if (got < 0)
            printf("cma no: %s\n", strerror(errno));
        else if (memcmp(theirs, "attach", 6) != 0)
            printf("cma no: the process ids differ\n");
        else
            printf("cma yes\n");
        MPI_Send(NULL, 0, MPI_CHAR, 1, TAG, MPI_COMM_WORLD);
    }
}

void keep_to_one_processor(void)
{
    cpu_set_t allowed, own;
    MPI_Comm node;
    int rank, size, cpu = -1;

    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &rank);
    MPI_Comm_size(node, &size);
    MPI_Comm_free(&node);
    /* A machine with more processors than the set has room for is left as it is. */
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < size)
        return;
    for (int left = rank; left >= 0; left--)
        do
            cpu++;
        while (!CPU_ISSET(cpu, &allowed));
    CPU_ZERO(&own);
    CPU_SET(cpu, &own);
    sched_setaffinity(0, sizeof own, &own);
}

void tell_job(void)
{
    char library[MPI_MAX_LIBRARY_VERSION_STRING];
    MPI_Comm node;
    int rank, size, length, local_rank, local_size, leader, nodes;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_library_version(library, &length);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &local_rank);
    MPI_Comm_size(node, &local_size);
    leader = local_rank == 0;
    MPI_Reduce(&leader, &nodes, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0) {
        library[strcspn(library, "\n\r")] = '\0';
        printf("library %s\nranks %d\nnodes %d\n", library, size, nodes);
    }
    if (size > 1) {
        /* Rank 1 need not be on rank 0's node. */
        int near = 0, both = 0;

        if (rank < 2)
            near = local_size > 1 && (rank == 0 ? 1 : local_rank == 1);
        MPI_Reduce(&near, &both, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
        MPI_Bcast(&both, 1, MPI_INT, 0, MPI_COMM_WORLD);
        if (both == 2)
            tell_attach(rank);
        else if (rank == 0)
            printf("cma no: ranks 0 and 1 are on different nodes\n");
    }
    fflush(stdout);
    MPI_Comm_free(&node);
}

void tell_start(double init_began, double init_ended)
{
    double took = init_ended - init_began, reached, last, longest;
    int rank;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Reduce(&init_began, &reached, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    MPI_Reduce(&init_ended, &last, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    MPI_Reduce(&took, &longest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (rank == 0) {
        printf("init-began %.6f\ninit-ended %.6f\ninit-took %.6f\n", reached, last, longest);
        fflush(stdout);
    }
}

/* The proportional share of this process, in KiB: a page that N processes map
 * counts 1/N for each. -1 where the kernel does not tell. */
static double proportional(void)
{
    FILE *rollup = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    double kib = -1;

    while (rollup != NULL && fgets(line, (int)sizeof line, rollup) != NULL)
        if (sscanf(line, "Pss: %lf kB", &kib) == 1)
            break;
    if (rollup != NULL)
        fclose(rollup);
    return kib;
}

void tell_memory(void)
{
    double kib, *all = NULL;
    long pid = (long)getpid(), *pids = NULL;
    int rank, size;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    wait_asleep(); /* until all have come up: who maps a page shares it */
    kib = proportional();
    if (rank == 0) {
        all = calloc((size_t)size, sizeof *all);
        pids = calloc((size_t)size, sizeof *pids);
        if (all == NULL || pids == NULL) {
            MPI_Abort(MPI_COMM_WORLD, 1);
            exit(1);
        }
    }
    MPI_Gather(&kib, 1, MPI_DOUBLE, all, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    MPI_Gather(&pid, 1, MPI_LONG, pids, 1, MPI_LONG, 0, MPI_COMM_WORLD);
    if (rank == 0) {
        for (int i = 0; i < size; i++)
            printf("rank %ld %.0f\n", pids[i], all[i]);
        printf("waiting %d\n", size);
        fflush(stdout);
        while (getchar() != '\n' && !feof(stdin))
            ;
        free(all);
        free(pids);
    }
    wait_asleep();
}
