// lifecycle PID BUNDLE RUNTIME [OPTION…]: create, start and delete --force of one container, in the mount namespace of
// process PID; the runtime is started three times and by nothing in between.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void run(char **runtime, int words, char *const arguments[]) {
    char *argv[32];
    int count = 0, status;
    pid_t pid;
    for (; count < words; count++) argv[count] = runtime[count];
    for (; *arguments && count < 31; arguments++) argv[count++] = *arguments;
    argv[count] = NULL;
    if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ)) err(1, "%s", argv[0]);
    if (waitpid(pid, &status, 0) != pid || status) errx(1, "%s: status %#x", argv[words], status);
}

int main(int argc, char **argv) {
    char path[64];
    if (argc < 4 || argc > 20) errx(2, "usage: lifecycle PID BUNDLE RUNTIME [OPTION…]");
    snprintf(path, sizeof path, "/proc/%s/ns/mnt", argv[1]);
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || setns(namespace, CLONE_NEWNS)) err(1, "%s", path);
    run(argv + 3, argc - 3, (char *[]){"create", "--bundle", argv[2], "bench", NULL});
    run(argv + 3, argc - 3, (char *[]){"start", "bench", NULL});
    run(argv + 3, argc - 3, (char *[]){"delete", "--force", "bench", NULL});
    return 0;
}
