/*
 * What launchers do for MPI libraries: an exchange of addresses among all ranks
 * through the process-management interface, without any MPI.
 */
#define _POSIX_C_SOURCE 200809L

#include "bench.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 3, MEASURED = 15, CARD = 128, LINE = 2048 };

/* One interface: what it takes to put a value and wait for all others'. */
struct interface {
    int (*exchange)(int number, const char *card);
    int (*leave)(void);
    int rank;
};

static int failed(const char *what)
{
    fprintf(stderr, "mpi-bench: fence: %s\n", what);
    return 1;
}

/* --- PMI-1: lines over a socket that the launcher has left ------------------- */

static int wire = -1;
static char space[LINE];

static int ask(const char *line, const char *answer, char *whole)
{
    size_t length = strlen(line), have = 0;

    if (write(wire, line, length) != (ssize_t)length)
        return failed("the launcher does not listen");
    do {
        if (have + 1 == LINE || read(wire, whole + have, 1) != 1)
            return failed("the launcher does not answer");
    } while (whole[have++] != '\n');
    whole[have] = '\0';
    if (strncmp(whole, answer, strlen(answer)) != 0 || strstr(whole, "rc=-1") != NULL)
        return failed(whole);
    return 0;
}

static int exchange_by_wire(int number, const char *card)
{
    char line[LINE + CARD + 64], answer[LINE];

    snprintf(line, sizeof line, "cmd=put kvsname=%s key=card-%s-%d value=%s\n", space,
             getenv("PMI_RANK"), number, card);
    return ask(line, "cmd=put_result", answer) ||
           ask("cmd=barrier_in\n", "cmd=barrier_out", answer);
}

static int leave_wire(void)
{
    char answer[LINE];

    return ask("cmd=finalize\n", "cmd=finalize_ack", answer);
}

static int enter_by_wire(struct interface *interface)
{
    char answer[LINE], *name;

    wire = atoi(getenv("PMI_FD"));
    if (ask("cmd=init pmi_version=1 pmi_subversion=1\n", "cmd=response_to_init", answer) ||
        ask("cmd=get_my_kvsname\n", "cmd=my_kvsname", answer))
        return 1;
    name = strstr(answer, "kvsname=");
    if (name == NULL || sscanf(name, "kvsname=%1023s", space) != 1)
        return failed("the launcher names no space for keys");
    *interface = (struct interface){exchange_by_wire, leave_wire, atoi(getenv("PMI_RANK"))};
    return 0;
}

/* --- PMIx: a library. Declared here as its standard has it, version 2 and later,
 * so that the headers need not be there. ------------------------------------- */

enum { PMIX_BOOL_TYPE = 1, PMIX_STRING_TYPE = 3, PMIX_SCOPE_GLOBAL = 3 };

struct pmix_value {
    uint16_t type;
    union {
        char flag;
        char *string;
        char room[24];
    } data;
};

struct pmix_proc {
    char nspace[256];
    uint32_t rank;
};

struct pmix_info {
    char key[512];
    uint32_t flags;
    struct pmix_value value;
};

static int (*pmix_put)(uint8_t, const char *, struct pmix_value *);
static int (*pmix_commit)(void);
static int (*pmix_fence)(const struct pmix_proc *, size_t, const struct pmix_info *, size_t);
static int (*pmix_finalize)(const struct pmix_info *, size_t);
static struct pmix_proc self;

static int exchange_by_pmix(int number, const char *card)
{
    struct pmix_info collect = {.key = "pmix.collect"};
    struct pmix_value value = {.type = PMIX_STRING_TYPE};
    struct pmix_proc all = self;
    char key[64], copy[CARD + 1];

    snprintf(key, sizeof key, "card-%d", number);
    snprintf(copy, sizeof copy, "%s", card);
    value.data.string = copy;
    collect.value.type = PMIX_BOOL_TYPE;
    collect.value.data.flag = 1;
    all.rank = UINT32_MAX - 1; /* every rank of the job */
    if (pmix_put(PMIX_SCOPE_GLOBAL, key, &value) != 0 || pmix_commit() != 0)
        return failed("PMIx_Put does not work");
    return pmix_fence(&all, 1, &collect, 1) == 0 ? 0 : failed("PMIx_Fence does not work");
}

static int leave_pmix(void)
{
    return pmix_finalize(NULL, 0) == 0 ? 0 : failed("PMIx_Finalize does not work");
}

static int enter_by_pmix(struct interface *interface)
{
    int (*init)(struct pmix_proc *, struct pmix_info *, size_t);
    void *library = dlopen("libpmix.so.2", RTLD_NOW | RTLD_GLOBAL);

    if (library == NULL)
        return failed(dlerror());
    *(void **)&init = dlsym(library, "PMIx_Init");
    *(void **)&pmix_put = dlsym(library, "PMIx_Put");
    *(void **)&pmix_commit = dlsym(library, "PMIx_Commit");
    *(void **)&pmix_fence = dlsym(library, "PMIx_Fence");
    *(void **)&pmix_finalize = dlsym(library, "PMIx_Finalize");
    if (!init || !pmix_put || !pmix_commit || !pmix_fence || !pmix_finalize)
        return failed("libpmix lacks a function");
    if (init(&self, NULL, 0) != 0)
        return failed("PMIx_Init finds no server");
    *interface = (struct interface){exchange_by_pmix, leave_pmix, (int)self.rank};
    return 0;
}

/* --------------------------------------------------------------------------- */

static double microseconds(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

int tell_fence(void)
{
    struct interface interface;
    double figures[MEASURED];
    char card[CARD + 1], node[256] = "";

    memset(card, 'c', CARD);
    card[CARD] = '\0';
    if (getenv("PMI_FD") != NULL ? enter_by_wire(&interface) : enter_by_pmix(&interface))
        return 1;
    for (int i = -WARM_UP; i < MEASURED; i++) {
        double begun = microseconds();

        if (interface.exchange(i + WARM_UP, card))
            return 1;
        if (i >= 0)
            figures[i] = microseconds() - begun;
    }
    gethostname(node, sizeof node - 1);
    printf("node %s\n", node);
    fflush(stdout);
    if (interface.rank == 0)
        report("fence", 0, median(figures, MEASURED));
    return interface.leave();
}
