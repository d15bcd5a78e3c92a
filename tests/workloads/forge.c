// A root workload that speaks in PID 1's place: writes bytes (hexadecimal digits, the first argument) into the
// control port that PID 1 holds, then prints a dot every second. It ignores SIGTERM.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PORTS "/sys/class/virtio-ports"

static int is_control(const char *port)
{
    char path[512], name[64] = "";
    snprintf(path, sizeof path, PORTS "/%s/name", port);
    int file = open(path, O_RDONLY);
    if (file < 0)
        return 0;
    ssize_t length = read(file, name, sizeof name - 1);
    close(file);
    return length > 0 && strcmp(name, "org.sandpen.control\n") == 0;
}

// The port's name below /dev, which the workload's own /dev does not have.
static void find_control(char *found, size_t size)
{
    DIR *ports = opendir(PORTS);
    struct dirent *entry;
    while (ports && (entry = readdir(ports)))
        if (is_control(entry->d_name))
            snprintf(found, size, "/dev/%s", entry->d_name);
}

int main(int argc, char **argv)
{
    unsigned char frame[256];
    size_t length = 0;
    unsigned byte;
    signal(SIGTERM, SIG_IGN);
    while (argc > 1 && length < sizeof frame && sscanf(argv[1] + 2 * length, "%2x", &byte) == 1)
        frame[length++] = byte;
    char control[300] = "", link[64], target[300];
    find_control(control, sizeof control);
    int one = syscall(SYS_pidfd_open, 1, 0);
    for (int number = 0; number < 256; number++) {
        int port = syscall(SYS_pidfd_getfd, one, number, 0);
        snprintf(link, sizeof link, "/proc/self/fd/%d", port);
        ssize_t got = port < 0 ? -1 : readlink(link, target, sizeof target - 1);
        if (got > 0 && (target[got] = 0, strcmp(target, control) == 0)) {
            printf("%s\n", write(port, frame, length) == (ssize_t)length ? "forged" : "refused");
            break;
        }
    }
    for (;;) {
        printf(".");
        fflush(stdout);
        sleep(1);
    }
}
