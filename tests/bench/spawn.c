// spawn PROGRAM ARGUMENT...: starts PROGRAM as xinetd does, with a client's connection as its
// descriptors 0 to 2, and asks it as a client does. Prints on one line the microseconds from the start
// to the end of its answer, the microseconds of CPU time that it and its children used, and the most
// memory that it had, in KiB; then the answer.
//
// This program is small and static, because the peak memory of a process counts from its fork, when it
// still has its parent's memory.

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char answer[1 << 20];

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

int main(int count, char **words)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: node\r\n\r\n";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (count < 2)
        errx(2, "no program given");
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (void *)&address, size) || listen(listener, 1) ||
        getsockname(listener, (void *)&address, &size) || connect(client, (void *)&address, size))
        err(1, "cannot make a connection");
    int connection = accept4(listener, 0, 0, SOCK_CLOEXEC);
    if (write(client, request, sizeof request - 1) < 0)
        err(1, "cannot send the request");

    double start = now();
    pid_t pid = fork();
    if (pid == 0) {
        for (int descriptor = 0; descriptor <= 2; descriptor++)
            dup2(connection, descriptor);
        execv(words[1], words + 1);
        _exit(127);
    }
    close(connection);
    size_t length = 0;
    ssize_t more;
    while ((more = read(client, answer + length, sizeof answer - length)) > 0)
        length += more;
    double took = now() - start;
    if (more < 0)
        err(1, "cannot read the answer of %s", words[1]);
    close(client);

    int status;
    struct rusage usage;
    if (wait4(pid, &status, 0, &usage) != pid || status != 0)
        errx(1, "%s ended with wait status %#x", words[1], status);
    double cpu = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
    printf("%.0f %.0f %ld\n", took, cpu, usage.ru_maxrss);
    return fwrite(answer, 1, length, stdout) != length;
}
