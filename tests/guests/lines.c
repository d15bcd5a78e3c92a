/*
 * Numbered lines of 16 bytes, 8 MiB of them, then exit code 42. The first line of each block counts the
 * blocks and the others are the same in all: where KVM emulates, filling is slow.
 */
#include "runtime.h"

#define LINE 16
#define LINES (CHUNK / LINE)

static u8 block[CHUNK];

static void number(u8 *line, u64 value)
{
    for (int digit = LINE - 2; digit >= 0; digit--, value /= 10)
        line[digit] = '0' + value % 10;
    line[LINE - 1] = '\n';
}

int run(void)
{
    for (u32 i = 0; i < LINES; i++)
        number(block + i * LINE, i);
    for (u64 count = 0; count < 8 * 1024 * 1024 / CHUNK; count++) {
        number(block, count);
        write_all(STDOUT, block, CHUNK);
    }
#ifdef THEN_HALT
    for (;;)
        __asm__ volatile("cli; hlt");
#endif
    return 42;
}
