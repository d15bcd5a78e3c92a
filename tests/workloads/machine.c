// What a workload does with its machine that a shell cannot. The first argument says what:
//   memory MIB     takes so much, prints "taken", frees it after a line on standard input, prints "freed", and ends after
//                  one more line
//   tun NAME       makes a network interface; prints its name
//   loop           prints the number of a loop device that is free
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int failed(const char *what)
{
    perror(what);
    return 1;
}

static int memory(size_t bytes)
{
    char line[16];
    char *taken = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (taken == MAP_FAILED)
        return failed("mmap");
    memset(taken, 7, bytes);
    puts("taken");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 2;
    munmap(taken, bytes);
    puts("freed");
    fflush(stdout);
    return fgets(line, sizeof line, stdin) ? 0 : 3;
}

static int tun(const char *name)
{
    int device = open("/dev/net/tun", O_RDWR);
    if (device < 0)
        return failed("/dev/net/tun");
    struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(device, TUNSETIFF, &request))
        return failed("TUNSETIFF");
    puts(request.ifr_name);
    return 0;
}

static int loop(void)
{
    int control = open("/dev/loop-control", O_RDWR);
    if (control < 0)
        return failed("/dev/loop-control");
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0)
        return failed("LOOP_CTL_GET_FREE");
    printf("%d\n", number);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "memory"))
        return memory((size_t)atoi(argv[2]) << 20);
    if (argc == 3 && !strcmp(argv[1], "tun"))
        return tun(argv[2]);
    if (argc == 2 && !strcmp(argv[1], "loop"))
        return loop();
    return 64;
}
