/* A triple fault after some output: the VMM ends with code 0. */
#include "runtime.h"

int run(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) none = {0, 0};
    write_all(STDOUT, "before\n", 7);
    __asm__ volatile("lidt %0; ud2" ::"m"(none));
    return 0;
}
