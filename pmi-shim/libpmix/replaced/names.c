/* Users and hosts have no names here. In a static program glibc would load its
 * name services from the image, which may have another glibc or none; and all
 * addresses that are handled are numbers. */
#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <netdb.h>
#include <pwd.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

struct passwd *getpwuid(uid_t uid)
{
    (void) uid;
    errno = ENOENT;
    return NULL;
}

struct group *getgrnam(const char *name)
{
    (void) name;
    errno = ENOENT;
    return NULL;
}

/* One IPv4 address, given as a number. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result)
{
    struct {
        struct addrinfo info;
        struct sockaddr_in address;
    } *answer;
    struct in_addr number;

    (void) service;
    if (NULL == node || 1 != inet_pton(AF_INET, node, &number)) {
        return EAI_NONAME;
    }
    answer = calloc(1, sizeof(*answer));
    if (NULL == answer) {
        return EAI_MEMORY;
    }
    answer->address.sin_family = AF_INET;
    answer->address.sin_addr = number;
    answer->info.ai_family = AF_INET;
    answer->info.ai_socktype = NULL == hints ? 0 : hints->ai_socktype;
    answer->info.ai_addrlen = sizeof(answer->address);
    answer->info.ai_addr = (struct sockaddr *) &answer->address;
    *result = &answer->info;
    return 0;
}

void freeaddrinfo(struct addrinfo *result)
{
    free(result);
}

int getnameinfo(const struct sockaddr *address, socklen_t length, char *host,
                socklen_t host_length, char *service, socklen_t service_length, int flags)
{
    (void) length;
    (void) service;
    (void) service_length;
    (void) flags;
    if (AF_INET != address->sa_family || NULL == host
        || NULL == inet_ntop(AF_INET, &((const struct sockaddr_in *) address)->sin_addr, host,
                             host_length)) {
        return EAI_NONAME;
    }
    return 0;
}
