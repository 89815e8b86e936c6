// The floor: no program that xinetd can start for a connection does less. It reads once, writes the
// leader's answer and exits, without a C library and its start.

#include <sys/syscall.h>

static const char answer[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 48\r\nConnection: close\r\n"
    "Cache-Control: no-store\r\nCmonhachk-State: leader\r\n\r\n"
    "<html><body>This node is a leader.</body></html>";

static long call(long number, long first, long second, long third)
{
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second), "d"(third) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = first, x1 __asm__("x1") = second, x2 __asm__("x2") = third;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
#error "no system calls for this processor"
#endif
}

void _start(void)
{
    char request[8192];
    call(SYS_read, 0, (long)request, sizeof request);
    call(SYS_write, 1, (long)answer, sizeof answer - 1);
    for (;;)
        call(SYS_exit_group, 0, 0, 0);
}
