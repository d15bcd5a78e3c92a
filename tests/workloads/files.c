// What a workload does with files that a shell cannot. The first argument says what:
//   open COUNT DIR        opens DIR/0, DIR/1, … and keeps them open; prints how many it could, and the error
//   as UID PROGRAM …      becomes a user and executes
//   id                    prints the effective user id
//   set NAME FILE         sets an extended attribute to `cap_net_raw=ep`, as the kernel has it
//   get NAME FILE         prints its length, or the error
//   list FILE             prints the names of all
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

static const unsigned char NET_RAW[20] = { 1, 0, 0, 2, 0, 0x20 };

static int failed(void)
{
    printf("%s\n", strerrorname_np(errno));
    return 1;
}

static int open_many(int count, const char *dir)
{
    for (int opened = 0; opened < count; opened++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%d", dir, opened);
        if (open(path, O_RDONLY) < 0) {
            printf("%d ", opened);
            return failed();
        }
    }
    printf("%d all\n", count);
    return 0;
}

static int list(const char *file)
{
    char names[4096];
    ssize_t length = listxattr(file, names, sizeof names);
    if (length < 0)
        return failed();
    for (char *name = names; name < names + length; name += strlen(name) + 1)
        printf("%s\n", name);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (argc == 4 && !strcmp(what, "open"))
        return open_many(atoi(argv[2]), argv[3]);
    if (argc > 3 && !strcmp(what, "as")) {
        if (setgid(atoi(argv[2])) || setuid(atoi(argv[2])))
            return failed();
        execv(argv[3], argv + 3);
        return failed();
    }
    if (!strcmp(what, "id"))
        return printf("%d\n", geteuid()) < 0;
    if (argc == 4 && !strcmp(what, "set"))
        return setxattr(argv[3], argv[2], NET_RAW, sizeof NET_RAW, 0) ? failed() : 0;
    if (argc == 4 && !strcmp(what, "get")) {
        ssize_t length = getxattr(argv[3], argv[2], NULL, 0);
        return length < 0 ? failed() : printf("%zd\n", length) < 0;
    }
    if (argc == 3 && !strcmp(what, "list"))
        return list(argv[2]);
    return 2;
}
