/*
 * Who shares a node with whom, as the MPI sees it, and which memory they share.
 *
 * One line a rank, from rank 0: its number, the host, the ranks of its
 * MPI_COMM_TYPE_SHARED, the files in memory that it has mapped (device and inode)
 * after messages to all, and whether a window of the node is shared.
 */
#define _POSIX_C_SOURCE 200809L

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 8192, BYTES = 2000 };

static void add(char *line, const char *word)
{
    if (strlen(line) + strlen(word) + 1 < LINE)
        strcat(line, word);
}

/* Regular files that are mapped shared, of /dev/shm or of the session's directory. */
static void add_segments(char *line)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char text[1024], mode[8], device[16], inode[32], path[512], word[64];

    while (maps != NULL && fgets(text, sizeof text, maps) != NULL) {
        if (sscanf(text, "%*s %7s %*s %15s %31s %511s", mode, device, inode, path) != 4)
            continue;
        if (mode[3] != 's' || strncmp(path, "/dev/shm/", 9) != 0)
            continue;
        snprintf(word, sizeof word, " %s/%s", device, inode);
        if (strstr(line, word) == NULL)
            add(line, word);
    }
    if (maps != NULL)
        fclose(maps);
}

/* Whether what each rank of the node writes into its part is read by the others. */
static int window_is_shared(MPI_Comm node, int size, int world)
{
    int *mine, *others, unit, right = 1;
    MPI_Aint bytes;
    MPI_Win window;

    MPI_Win_allocate_shared(sizeof *mine, sizeof *mine, MPI_INFO_NULL, node, &mine, &window);
    MPI_Win_lock_all(0, window);
    *mine = 1000 + world;
    MPI_Win_sync(window);
    MPI_Barrier(node);
    MPI_Win_sync(window);
    int ranks[size];
    MPI_Allgather(&world, 1, MPI_INT, ranks, 1, MPI_INT, node);
    for (int rank = 0; rank < size; rank++) {
        MPI_Win_shared_query(window, rank, &bytes, &unit, &others);
        right = right && *others == 1000 + ranks[rank];
    }
    MPI_Win_unlock_all(window);
    MPI_Win_free(&window);
    return right;
}

int main(int argc, char **argv)
{
    static char line[LINE], out[BYTES], in[BYTES];
    char host[256] = "", word[64];
    int rank, size, node_rank, node_size;
    MPI_Comm node;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    gethostname(host, sizeof host - 1);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &node_rank);
    MPI_Comm_size(node, &node_size);
    for (int step = 1; step < size; step++)
        MPI_Sendrecv(out, BYTES, MPI_CHAR, (rank + step) % size, 1, in, BYTES, MPI_CHAR,
                     (rank + size - step) % size, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    int ranks[node_size];
    MPI_Allgather(&rank, 1, MPI_INT, ranks, 1, MPI_INT, node);
    snprintf(line, sizeof line, "rank %d of %d on %s local %d:", rank, size, host, node_rank);
    for (int other = 0; other < node_size; other++) {
        snprintf(word, sizeof word, " %d", ranks[other]);
        add(line, word);
    }
    add(line, " segments:");
    add_segments(line);
    snprintf(word, sizeof word, " window: %s",
             window_is_shared(node, node_size, rank) ? "shared" : "not shared");
    add(line, word);
    char *lines = rank == 0 ? malloc((size_t)size * LINE) : NULL;
    MPI_Gather(line, LINE, MPI_CHAR, lines, LINE, MPI_CHAR, 0, MPI_COMM_WORLD);
    for (int other = 0; rank == 0 && other < size; other++)
        puts(lines + (size_t)other * LINE);
    free(lines);
    MPI_Comm_free(&node);
    return MPI_Finalize();
}
