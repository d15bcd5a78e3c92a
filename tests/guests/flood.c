/* Numbered blocks, 64 MiB of them, each checkable by itself. */
#include "runtime.h"

static u64 block[CHUNK / 8];

int run(void)
{
    for (u64 number = 0; number < 64 * 1024 * 1024 / CHUNK; number++) {
        for (u32 i = 0; i < CHUNK / 8; i++)
            block[i] = number << 32 | i;
        write_all(STDOUT, block, sizeof block);
    }
    return 0;
}
