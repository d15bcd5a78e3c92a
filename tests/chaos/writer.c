/*
 * A workload on the host that can be asked afterwards how much it wrote:
 *
 *     writer CONTROL BASE
 *
 * Numbered lines of 16 bytes, from BASE, in writes of 1 to 4096 bytes as fast as the pipe takes them,
 * up to a limit that can be raised. A write of at most 4096 bytes to a pipe happens whole or not at
 * all, so after any death the bytes in the pipe are `intent` or, if the last write did not happen,
 * `done`.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LINE 16
#define MOST 4096

struct control {
    /* Written by the test: most bytes so far; one more than the exit code to end with at the limit. */
    volatile uint64_t limit, finish;
    /* Written here: bytes before and after the write that is under way. */
    volatile uint64_t done, intent;
};

int main(int argc, char **argv)
{
    static char bytes[MOST + 2 * LINE];
    int file = argc == 3 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
    struct control *control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (control == MAP_FAILED)
        return 99;
    uint64_t base = strtoull(argv[2], NULL, 10), at = 0, dice = base;
    for (;;) {
        uint64_t left = control->limit - at;
        if (left == 0) {
            if (control->finish)
                return (int)(control->finish - 1);
            nanosleep(&(struct timespec){0, 2000000}, NULL);
            continue;
        }
        dice = dice * 6364136223846793005u + 1442695040888963407u;
        uint64_t length = 1 + (dice >> 33) % MOST;
        if (length > left)
            length = left;
        uint64_t line = at / LINE;
        for (uint64_t filled = 0; filled < at % LINE + length; filled += LINE, line++)
            snprintf(bytes + filled, LINE + 1, "%015llu\n", (unsigned long long)(base + line));
        control->intent = at + length;
        __sync_synchronize();
        if (write(STDOUT_FILENO, bytes + at % LINE, length) != (ssize_t)length)
            return 98;
        at += length;
        __sync_synchronize();
        control->done = at;
    }
}
