// Runs a command in a process's mount namespace: enter PID COMMAND [ARG…]. Static, so that it costs all contestants
// the same little.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char path[64];
    if (argc < 3)
        return 125;
    snprintf(path, sizeof path, "/proc/%s/ns/mnt", argv[1]);
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || setns(namespace, CLONE_NEWNS) != 0)
        return perror(path), 125;
    execvp(argv[2], argv + 2);
    return perror(argv[2]), 127;
}
