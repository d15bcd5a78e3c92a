/* Takes memory, and after a line on standard input tells the host that it is free, as Linux does. */
#include "runtime.h"

/* Behind this program and below the end of the tests' 96 MiB. */
#define BEGIN 0x2000000
#define BYTES (48 << 20)
/* What Linux tells at once. */
#define PART (4 << 20)

int run(void)
{
    static u8 line[4096];
    if (!open_balloon())
        return 2;
    for (u64 at = BEGIN; at < BEGIN + BYTES; at += 4096)
        *(volatile u8 *)at = 7;
    write_all(STDOUT, "taken\n", 6);
    read_stdin(line);
    for (u64 at = BEGIN; at < BEGIN + BYTES; at += PART)
        report_free((void *)at, PART);
    write_all(STDOUT, "freed\n", 6);
    read_stdin(line);
    /* It is there again, empty. */
    for (u64 at = BEGIN; at < BEGIN + BYTES; at += 4096)
        if (*(volatile u8 *)at)
            return 3;
    return 42;
}
