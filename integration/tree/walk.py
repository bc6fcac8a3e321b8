#!/usr/bin/env python3
"""walk.py DIR: everything under DIR, one JSON object a path, sorted by path.

path, type, mode (octal), uid, gid, mtime (ns), xattrs (name to hex); for files size and sha256, for symlinks target;
names: all paths of the same inode, for all but directories.
"""

import hashlib
import json
import os
import stat
import sys

KINDS = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFSOCK: "socket",
}


def fields_of(path):
    status = os.lstat(path)
    fields = {
        "type": KINDS[stat.S_IFMT(status.st_mode)],
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": status.st_mtime_ns,
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False).hex()
            for name in os.listxattr(path, follow_symlinks=False)
        },
    }
    if fields["type"] == "symlink":
        fields["target"] = os.readlink(os.fsdecode(path))
    if fields["type"] == "file":
        fields["size"] = status.st_size
        with open(path, "rb") as file:
            fields["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return fields, (status.st_dev, status.st_ino)


def paths(top):
    yield top
    for directory, names, files in os.walk(top):
        yield from (os.path.join(directory, name) for name in names + files)


def main(top):
    top = os.fsencode(top).rstrip(b"/")
    found = sorted((path[len(top) :] or b"/", *fields_of(path)) for path in paths(top))
    names = {}
    for path, _, inode in found:
        names.setdefault(inode, []).append(os.fsdecode(path))
    for path, fields, inode in found:
        row = {"path": os.fsdecode(path), **fields}
        if fields["type"] != "dir":
            row["names"] = names[inode]
        print(json.dumps(row, sort_keys=True))


main(*sys.argv[1:])
