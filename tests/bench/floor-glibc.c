// The floor with the C library of most distributions. It reads once, writes the
// leader's answer and exits, and knows nothing of leaders.

#include <unistd.h>

static const char answer[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 48\r\nConnection: close\r\n"
    "Cache-Control: no-store\r\nCmonhachk-State: leader\r\n\r\n"
    "<html><body>This node is a leader.</body></html>";

int main(void)
{
    char request[8192];
    if (read(0, request, sizeof request) < 0)
        return 1;
    return write(1, answer, sizeof answer - 1) != sizeof answer - 1;
}
