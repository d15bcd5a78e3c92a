/* Numbered blocks, 256 MiB of them. Only the number changes: where KVM emulates, filling is slow. */
#include "runtime.h"

static u64 block[CHUNK / 8];

int run(void)
{
    for (u32 i = 0; i < CHUNK / 8; i++)
        block[i] = i;
    for (u64 number = 0; number < 256 * 1024 * 1024 / CHUNK; number++) {
        block[0] = number;
        write_all(STDOUT, block, sizeof block);
    }
    return 0;
}
