/* Answers each byte on standard input with its wall clock: seconds since 1970 with nine decimals, one line each. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
    char byte;
    while (read(0, &byte, 1) == 1) {
        struct timespec now;
        if (clock_gettime(CLOCK_REALTIME, &now) != 0)
            return 1;
        printf("%lld.%09ld\n", (long long)now.tv_sec, now.tv_nsec);
        if (fflush(stdout) != 0)
            return 1;
    }
    return 0;
}
