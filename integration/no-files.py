"""no-files.py TRACE TEXT DIR…: what strace -f -y has seen, judged: no file outside of DIR… was made or written.

The kernel's own files in /proc, /sys and /dev/null are none. TEXT may be in no file at all. Prints what was found wrong,
and how many calls were looked at; exit 1 when anything was.
"""

import re
import sys

CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+|\?)(?:<(.*?)>)?")
# A sysctl is written through a procfs of its own, which is mounted nowhere: strace shows it from /sys on.
KERNEL = re.compile(r"(/proc|/sys)(/|$)|/dev/(null|tty|loop[-a-z0-9]*)$")
WRITERS = {"write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile", "splice", "tee", "vmsplice",
           "copy_file_range", "ftruncate", "fallocate"}
MAKERS = {"rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat", "mknod",
          "mknodat", "truncate"}


def lines(path):
    """Whole calls: those that another thread's interrupted are put together again."""
    unfinished = {}
    with open(path, errors="replace") as file:
        for line in file:
            line = line.rstrip("\n")
            pid = line.split(" ", 1)[0]
            if line.endswith("<unfinished ...>"):
                unfinished[pid] = line.removesuffix("<unfinished ...>").rstrip()
                continue
            resumed = re.match(r"\d+ +<\.\.\. \w+ resumed>(.*)", line)
            yield unfinished.pop(pid, "") + resumed[1] if resumed else line


def main(trace, text, *allowed):
    def is_allowed(path):
        return any(path == one or path.startswith(one + "/") for one in allowed)

    wrong, looked = [], 0
    for line in lines(trace):
        match = CALL.match(line)
        if not match or match[3].startswith("-") or match[3] == "?":
            continue
        call, arguments, _, result = match.groups()
        looked += 1
        if call in ("open", "openat", "openat2", "creat"):
            if not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE", arguments) and call != "creat":
                continue
            path = result or ""
            if not (is_allowed(path) or KERNEL.match(path)):
                wrong.append(line)
        elif call in WRITERS:
            target = re.match(r"\d+<(/[^>]*)>", arguments)
            if call in ("splice", "copy_file_range"):
                target = re.search(r", \d+<(/[^>]*)>", arguments)
            if target and not (is_allowed(target[1]) or KERNEL.match(target[1])):
                wrong.append(line)
            if target and text in arguments:
                wrong.append(line)
        elif call in MAKERS:
            paths = re.findall(r'"([^"]*)"', arguments)
            directory = re.match(r"(?:AT_FDCWD|\d+)<(/[^>]*)>", arguments)
            whole = [path if path.startswith("/") else f"{directory[1]}/{path}" if directory else path for path in paths]
            if not all(is_allowed(path) or KERNEL.match(path) for path in whole):
                wrong.append(line)
        elif call == "mmap":
            if "MAP_SHARED" in arguments and "PROT_WRITE" in arguments and re.search(r"\d+</", arguments):
                wrong.append(line)
        elif call in ("memfd_create", "io_uring_setup"):
            wrong.append(line)
    for line in wrong:
        print(line[:300])
    print(f"{looked} calls")
    return bool(wrong) or looked < 100


sys.exit(main(*sys.argv[1:]))
