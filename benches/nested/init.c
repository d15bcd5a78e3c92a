/* PID 1 for the bare libkrun program: runs a shell command, passes its exit code on. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#define KRUN_SET_EXIT_CODE 0x7602 /* libkrun's virtiofs device, on the root directory */

int main(void)
{
    mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
    mount("proc", "/proc", "proc", 0, 0);
    int console = open("/dev/hvc0", O_RDWR);
    if (console >= 0) {
        dup2(console, 1);
        dup2(console, 2);
    }
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "echo out; exit 42", (char *)0);
        _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    int root = open("/", O_RDONLY | O_DIRECTORY);
    ioctl(root, KRUN_SET_EXIT_CODE, WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    sync();
    reboot(RB_AUTOBOOT);
    return 1;
}
