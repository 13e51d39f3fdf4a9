/*
 * A token goes round a ring of MPI ranks, and everybody signs.
 *
 * Shows at one glance whether a launcher and an MPI library work together: were
 * they strangers, each rank would be a ring of one, and the last line says so.
 *
 *     ring [--laps N] [--size BYTES] [--hold SECONDS]
 *
 * Standard output comes from rank 0 alone, in the order of ranks. The status is
 * 0 when the token arrived as it must, 1 when it did not, 2 for a wrong option.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TAG = 7, SIGNATURE = 512, LIBRARY = 80 };

struct options {
    long laps;
    long size; /* bytes that travel with the token */
    long hold; /* seconds to stay before MPI_Finalize, for onlookers */
};

/* A number between two bounds, or the end of the program. */
static long number_or_leave(const char *option, const char *text, long least, long most)
{
    char *end = NULL;
    long value = 0;

    errno = 0;
    if (text != NULL)
        value = strtol(text, &end, 10);
    if (text == NULL || end == text || *end != '\0' || errno != 0 || value < least ||
        value > most) {
        fprintf(stderr, "ring: %s needs a number from %ld to %ld\n", option, least, most);
        exit(2);
    }
    return value;
}

/* Before MPI_Init, so that a wrong option costs no launch. */
static struct options read_options(int argc, char **argv)
{
    struct options options = {.laps = 10, .size = (long)sizeof(long long), .hold = 0};

    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(argv[i], "--laps") == 0)
            options.laps = number_or_leave(argv[i], value, 1, 1000000);
        else if (strcmp(argv[i], "--size") == 0)
            options.size = number_or_leave(argv[i], value, (long)sizeof(long long), 1L << 30);
        else if (strcmp(argv[i], "--hold") == 0)
            options.hold = number_or_leave(argv[i], value, 0, 86400);
        else {
            fprintf(stderr, "usage: ring [--laps N] [--size BYTES] [--hold SECONDS]\n");
            exit(2);
        }
    }
    return options;
}

/* Every byte behind the token depends on its place, so a shift is noticed too. */
static unsigned char filling(long place)
{
    return (unsigned char)(place * 31 + 7);
}

/* Passes the token round; the time for all laps, which only rank 0 uses. */
static double pass_round(const struct options *options, unsigned char *message, int rank,
                         int size, long long *token)
{
    int next = (rank + 1) % size, previous = (rank + size - 1) % size;
    int bytes = (int)options->size;
    double begin;

    MPI_Barrier(MPI_COMM_WORLD);
    begin = MPI_Wtime();
    *token = 0;
    for (long lap = 0; lap < options->laps; lap++) {
        if (rank == 0) {
            memcpy(message, token, sizeof *token);
            /* Both at once: a ring of one is its own neighbour. */
            MPI_Sendrecv_replace(message, bytes, MPI_BYTE, next, TAG, previous, TAG,
                                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            memcpy(token, message, sizeof *token);
        } else {
            MPI_Recv(message, bytes, MPI_BYTE, previous, TAG, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE);
            memcpy(token, message, sizeof *token);
            *token += rank;
            memcpy(message, token, sizeof *token);
            MPI_Send(message, bytes, MPI_BYTE, next, TAG, MPI_COMM_WORLD);
        }
    }
    return MPI_Wtime() - begin;
}

/* "rank R of N on HOST, pid P, LIBRARY", with the library's first words only. */
static void sign(char *signature, int rank, int size)
{
    char host[MPI_MAX_PROCESSOR_NAME] = "", library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;

    MPI_Get_processor_name(host, &length);
    MPI_Get_library_version(library, &length);
    library[strcspn(library, ",\n")] = '\0';
    for (char *c = library; *c != '\0'; c++)
        if (*c == '\t')
            *c = ' ';
    snprintf(signature, SIGNATURE, "rank %d of %d on %.200s, pid %ld, %.*s", rank, size, host,
             (long)getpid(), LIBRARY, library);
}

int main(int argc, char **argv)
{
    struct options options = read_options(argc, argv);
    char signature[SIGNATURE], *signatures = NULL;
    unsigned char *message;
    long long token, expected;
    long spoiled = 0, all_spoiled = 0;
    double seconds;
    int rank, size;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);

    message = malloc((size_t)options.size);
    if (rank == 0)
        signatures = calloc((size_t)size, SIGNATURE);
    if (message == NULL || (rank == 0 && signatures == NULL)) {
        fprintf(stderr, "ring: rank %d has no memory for %ld bytes\n", rank, options.size);
        MPI_Abort(MPI_COMM_WORLD, 1);
        return 1;
    }
    for (long i = 0; i < options.size; i++)
        message[i] = rank == 0 ? filling(i) : 0;

    seconds = pass_round(&options, message, rank, size, &token);

    for (long i = (long)sizeof token; i < options.size; i++)
        spoiled += message[i] != filling(i);
    MPI_Reduce(&spoiled, &all_spoiled, 1, MPI_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    sign(signature, rank, size);
    MPI_Gather(signature, SIGNATURE, MPI_CHAR, signatures, SIGNATURE, MPI_CHAR, 0,
               MPI_COMM_WORLD);

    if (rank == 0) {
        expected = options.laps * ((long long)size * (size - 1) / 2);
        for (int i = 0; i < size; i++)
            puts(signatures + (size_t)i * SIGNATURE);
        if (token != expected || all_spoiled != 0) {
            fprintf(stderr,
                    "ring: the token is %lld where %lld was due, and %ld bytes are spoiled\n",
                    token, expected, all_spoiled);
            fflush(stdout);
            MPI_Abort(MPI_COMM_WORLD, 1);
            return 1;
        }
        printf("ring of %d ranks: token %lld after %ld laps, %.2f us per hop\n", size, token,
               options.laps, seconds * 1e6 / ((double)options.laps * size));
        fflush(stdout);
    }
    if (options.hold > 0) {
        sleep((unsigned)options.hold);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    free(signatures);
    free(message);
    MPI_Finalize();
    return 0;
}
