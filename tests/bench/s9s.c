// An s9s that takes 20 ms and next to no CPU time: the least that a fresh check can take. Prints the
// list in /run/list, and leaves a byte in /run/runs for every run.

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char list[1 << 20];

int main(void)
{
    // When it is measured alone, on a connection, it reads what the client sends: unread bytes would
    // make the kernel reset the connection. Under a check, this reads /dev/null.
    if (read(0, list, sizeof list) < 0)
        return 1;
    int runs = open("/run/runs", O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (write(runs, "\n", 1) != 1)
        return 1;
    nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, 0);
    ssize_t length = read(open("/run/list", O_RDONLY), list, sizeof list), sent = 0;
    while (sent < length) {
        ssize_t count = write(1, list + sent, length - sent);
        if (count < 0)
            return 1;
        sent += count;
    }
    return length <= 0;
}
