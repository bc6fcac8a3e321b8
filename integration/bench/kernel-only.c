// What the kernel alone takes for a launch: the yardstick of the launch benchmark.
//
// usage: kernel-only TREE TAR… -- PROGRAM [ARG…]
//
// Mounts the tree image over its tars, clones into the seven namespaces with 65,536 ids, mounts proc, sysfs and
// cgroup2 read-only, changes the root, gives up all privileges, executes the program and waits for it. No
// verification, no cgroup, no sink, no seccomp, no error messages: a failing call ends it with its line number.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <net/if.h>
#include <unistd.h>

#define CHECK(call) ({ long result = (call); if (result < 0) { perror(#call); _exit(__LINE__ & 0xff); } result; })

static int fs(const char *type, unsigned attributes) {
    int context = CHECK(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
    CHECK(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    int mount = CHECK(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes));
    close(context);
    return mount;
}

static void set(int context, const char *key, const char *path) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%ld", CHECK(open(path, O_RDONLY | O_CLOEXEC)));
    CHECK(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, key, name, 0));
}

static void write_file(const char *path, const char *text) {
    int file = CHECK(open(path, O_WRONLY | O_CLOEXEC));
    CHECK(write(file, text, strlen(text)));
    close(file);
}

static void move(int mount, int root, const char *path) {
    CHECK(syscall(SYS_move_mount, mount, "", root, path, MOVE_MOUNT_F_EMPTY_PATH));
}

static void child(int root, int channel, char **argv) {
    const unsigned flags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    char byte;
    setsid();
    CHECK(read(channel, &byte, 1));
    CHECK(unshare(CLONE_NEWCGROUP));
    CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    int proc = fs("proc", flags), sysfs = fs("sysfs", flags), cgroup = fs("cgroup2", flags);
    move(root, AT_FDCWD, "/mnt");
    move(proc, root, "proc");
    move(sysfs, root, "sys");
    move(cgroup, root, "sys/fs/cgroup");
    CHECK(fchdir(root));
    CHECK(syscall(SYS_pivot_root, ".", "."));
    CHECK(umount2(".", MNT_DETACH));
    CHECK(chdir("/"));
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int sock = CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    CHECK(ioctl(sock, SIOCSIFFLAGS, &lo));
    for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++) {
    }
    CHECK(syscall(SYS_setresgid, 0, 0, 0));
    CHECK(syscall(SYS_setresuid, 0, 0, 0));
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {0};
    CHECK(syscall(SYS_capset, &header, none));
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK(execve(argv[0], argv, (char *[]){NULL}));
}

int main(int argc, char **argv) {
    int context = CHECK(syscall(SYS_fsopen, "erofs", FSOPEN_CLOEXEC)), i = 2;
    set(context, "source", argv[1]);
    for (; i < argc && strcmp(argv[i], "--"); i++)
        set(context, "device", argv[i]);
    CHECK(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    int root = CHECK(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID));
    int channel[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel));
    struct clone_args args = {
        .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = CHECK(syscall(SYS_clone3, &args, sizeof args));
    if (pid == 0)
        child(root, channel[1], argv + i + 1);
    char path[64];
    for (const char **map = (const char *[]){"uid_map", "gid_map", NULL}; *map; map++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, *map);
        write_file(path, "0 1000000000 65536");
    }
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    struct mount_attr idmap = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = CHECK(open(path, O_RDONLY | O_CLOEXEC))};
    CHECK(syscall(SYS_mount_setattr, root, "", AT_EMPTY_PATH, &idmap, sizeof idmap));
    CHECK(write(channel[0], "m", 1));
    int status;
    CHECK(waitpid(pid, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
