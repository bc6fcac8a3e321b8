#!/usr/bin/env python3
"""An independent reader, merger and lister of layers: what imrun's tree image is compared with.

  model.py make DIR     write layers 0.tar, 1.tar, ... that have something of everything
  model.py merge DIR    merge them with Python's tarfile, print the tree
  model.py list ROOT    print the tree below a directory

A tree is printed as one JSON object a line, sorted by path.
"""

import decimal, glob, hashlib, io, json, os, stat, subprocess, sys, tarfile, tempfile


class Inode:
    def __init__(self, kind, **rest):
        self.__dict__ = {"kind": kind, "mode": 0o755, "uid": 0, "gid": 0, "mtime": 0,
                         "xattrs": {}, "data": "", "size": 0, "layer": None, **rest}


def walk(tree, path, layer, create):
    """The directory that `path` is; None where there is none. One that is created is reached through the layer's own
    symlinks alone."""
    pending, here, links = path.split("/"), [], 0
    while pending:
        name = pending.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            here = here[:-1]
            continue
        at = "/".join(here + [name])
        found = tree.get(at)
        if found is not None and found.kind == "symlink" and not (create and found.layer != layer):
            links += 1
            assert links <= 40
            here = [] if found.data.startswith("/") else here
            pending = found.data.split("/") + pending
            continue
        if found is None or found.kind != "directory":
            if not create:
                return None
            assert found is None or found.layer != layer
            tree[at] = Inode("directory", layer=layer)
        here.append(name)
    return "/".join(here)


def below(tree, path):
    return [p for p in tree if (p.startswith(path + "/") if path else p)]


def remove(tree, path):
    for gone in below(tree, path) + [path]:
        tree.pop(gone, None)


def place(tree, path, layer, create=True):
    parent, name = os.path.split(path)
    parent = walk(tree, parent, layer, create)
    return None if parent is None else (parent + "/" + name).lstrip("/")


def digest(stream):
    return hashlib.file_digest(stream, "sha256").hexdigest()


def inode(tar, member, layer):
    mtime = decimal.Decimal(member.pax_headers.get("mtime", str(member.mtime)))
    kept = {k[len("SCHILY.xattr."):]: v.encode("utf-8", "surrogateescape").hex()
            for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")}
    kept = {k: v for k, v in kept.items() if k.startswith("user.") or k == "security.capability"}
    node = Inode("fifo", mode=member.mode & 0o7777, uid=member.uid, gid=member.gid,
                 mtime=int(mtime * 10**9), xattrs=kept, layer=layer)
    if member.isdir():
        node.kind = "directory"
    elif member.issym():
        node.kind, node.data, node.size = "symlink", member.linkname, len(os.fsencode(member.linkname))
    elif member.isreg():
        with tar.extractfile(member) as stream:
            node.kind, node.data, node.size = "file", digest(stream), member.size
    return node


def merge(directory):
    tree = {"": Inode("directory")}
    for layer, file in enumerate(sorted(glob.glob(directory + "/*.tar"))):
        with tarfile.open(file, "r:", errors="surrogateescape") as tar:
            members = [(os.path.normpath("/" + m.name).lstrip("/"), m) for m in tar]
            entries = []
            for path, member in members:
                parent, name = os.path.split(path)
                if name == ".wh..wh..opq":
                    target = walk(tree, parent, layer, False)
                    for gone in below(tree, target) if target is not None else []:
                        tree.pop(gone)
                elif name.startswith(".wh."):
                    target = place(tree, os.path.join(parent, name[4:]), layer, False)
                    if target is not None:
                        remove(tree, target)
                else:
                    entries.append((path, member))
            for path, member in entries:
                add(tree, tar, path, member, layer)
    for path in [p for p, node in tree.items() if node.kind == "device"]:
        tree.pop(path)
    return tree


def add(tree, tar, path, member, layer):
    at = place(tree, path, layer) if path else ""
    if member.islnk():
        target = os.path.normpath("/" + member.linkname).lstrip("/")
        node = tree[place(tree, target, layer, False)]
    else:
        node = inode(tar, member, layer)
        if member.ischr() or member.isblk():
            node.kind = "device"
    if not (node.kind == "directory" and at in tree and tree[at].kind == "directory"):
        remove(tree, at)
    tree[at] = node


def show(path, **values):
    print(json.dumps({"path": path.encode("utf-8", "surrogateescape").hex(), **values}, sort_keys=True))


def print_tree(tree):
    names = {}
    for node in tree.values():
        names[id(node)] = names.get(id(node), 0) + 1
    for path, node in sorted(tree.items(), key=lambda item: os.fsencode(item[0])):
        links = names[id(node)]
        if node.kind == "directory":
            parent = path + "/" if path else ""
            links = 2 + sum(1 for p, n in tree.items() if n.kind == "directory" and p
                            and p.startswith(parent) and "/" not in p[len(parent):])
        show(path, kind=node.kind, mode=node.mode, uid=node.uid, gid=node.gid, mtime=node.mtime,
             xattrs=node.xattrs, links=links, size=node.size,
             data=os.fsencode(node.data).hex())


def list_tree(root):
    root = root.rstrip("/") + "/"
    paths = [""]
    for directory, names, files in os.walk(root):
        paths += [os.path.join(directory, name)[len(root):] for name in names + files]
    for path in sorted(paths, key=os.fsencode):
        full = root + path
        info = os.stat(full) if path == "" else os.lstat(full)
        kind = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink",
                stat.S_IFIFO: "fifo", stat.S_IFCHR: "device"}[stat.S_IFMT(info.st_mode)]
        data = ""
        if kind == "symlink":
            data = os.readlink(full)
        elif kind == "file":
            with open(full, "rb") as stream:
                data = digest(stream)
        elif kind == "device":
            data = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
        names = os.listxattr(full, follow_symlinks=path == "")
        xattrs = {n: os.getxattr(full, n, follow_symlinks=path == "").hex() for n in names}
        show(path, kind=kind, mode=stat.S_IMODE(info.st_mode), uid=info.st_uid, gid=info.st_gid,
             mtime=info.st_mtime_ns, xattrs=xattrs, links=info.st_nlink,
             size=info.st_size if kind in ("file", "symlink") else 0, data=os.fsencode(data).hex())


def put(tar, name, data=None, kind=tarfile.REGTYPE, **rest):
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in rest.items():
        setattr(member, key, value)
    if data is not None:
        member.size = len(data)
    tar.addfile(member, io.BytesIO(data) if data is not None else None)


def first_layer(tar):
    """Every kind of inode, and every size at which the image stores it in another way."""
    put(tar, "./", kind=tarfile.DIRTYPE, mtime=7, mode=0o750)
    for directory in ("etc", "usr", "usr/bin", "usr/lib", "opt", "opt/old", "opt/kept", "many", "var"):
        put(tar, directory, kind=tarfile.DIRTYPE, mtime=1_700_000_000)
    put(tar, "bin", kind=tarfile.SYMTYPE, linkname="usr/bin")
    put(tar, "lib", kind=tarfile.SYMTYPE, linkname="/usr/lib")
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 100_000, 3_000_000):
        put(tar, f"usr/lib/size-{size}", os.urandom(size), mtime=size)
    for size in (1, 447, 448, 449, 511, 512, 513, 1024, 4094, 4095):
        put(tar, f"opt/link-{size}", kind=tarfile.SYMTYPE, linkname=("x" * 99 + "/") * 40 + "x" * 95
            if size == 4095 else ("y" * 99 + "/" * 1) * (size // 100) + "z" * (size % 100))
    for number in range(3000):
        put(tar, f"many/{number}-" + "n" * (number % 230), b"%d" % number)
    put(tar, "many/!before-the-dot", b"!")
    put(tar, "many/.\x01between-the-dots", b"b")
    put(tar, "many/" + "L" * 255, b"long")
    put(tar, "opt/not-utf-8-\udcff\udcfe", b"bytes")
    put(tar, "opt/setuid", b"s", mode=0o6755, uid=1000, gid=3_000_000, uname="", gname="")
    put(tar, "opt/large-ids", b"i", uid=4_294_967_294, gid=2_097_152)
    put(tar, "opt/time-fraction", b"t", pax_headers={"mtime": "1234567890.123456789"})
    put(tar, "opt/time-negative", b"t", pax_headers={"mtime": "-1.25"})
    put(tar, "opt/time-late", b"t", pax_headers={"mtime": "99999999999"})
    put(tar, "opt/xattrs", b"x", pax_headers={
        "SCHILY.xattr.user.one": "1", "SCHILY.xattr.user.long": "v" * 3000,
        "SCHILY.xattr.user.longest": "w" * 60_000, "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.security.capability": "\x01\0\0\x02\x01" + "\0" * 15,
        "SCHILY.xattr.security.selinux": "system_u"})
    put(tar, "usr/bin", kind=tarfile.DIRTYPE, pax_headers={"SCHILY.xattr.user.dir": "d" * 470})
    put(tar, "opt/fifo", kind=tarfile.FIFOTYPE, mode=0o600)
    put(tar, "opt/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)
    put(tar, "opt/null-too", kind=tarfile.LNKTYPE, linkname="opt/null")
    put(tar, "opt/old/hidden", b"h")
    put(tar, "opt/kept/gone", b"g")
    put(tar, "opt/kept/stays", b"s")
    put(tar, "var/" + "/".join("d" * 200 for _ in range(19)) + "/deep", b"deep")


def second_layer(tar):
    """Whiteouts, types that change, hard links, symlinks that give way to directories."""
    put(tar, "opt/link-to-symlink", kind=tarfile.LNKTYPE, linkname="./bin")
    put(tar, "bin/sh", b"#!shell", mode=0o755)
    put(tar, "lib/through-a-link", b"l")
    put(tar, "opt/old/new", b"n")
    put(tar, "opt/old/.wh..wh..opq", b"")
    put(tar, "opt/kept/.wh.gone", b"")
    put(tar, "opt/kept/.wh.never-was", b"")
    put(tar, "opt/link-to-lower", kind=tarfile.LNKTYPE, linkname="usr/lib/size-4097")
    put(tar, "missing/parents/file", b"m")
    put(tar, "opt/fifo", kind=tarfile.DIRTYPE)
    put(tar, "opt/fifo/inside", b"i")
    put(tar, "var", b"a file over a directory")
    put(tar, "etc/twice", b"first")
    put(tar, "etc/twice", b"second")
    put(tar, "/absolute", b"a")


def sparse_layer(path, form, directory):
    """GNU tar's own sparse files, in one of its formats."""
    with tempfile.TemporaryDirectory() as scratch:
        os.mkdir(f"{scratch}/{directory}")
        for name, pieces, size in (("holes", [0, 65536, 131072 + 4096], 1 << 20), ("empty", [], 1 << 21),
                                   ("tail", [8192], 8192 + 700), ("many", range(0, 1 << 20, 8192), 1 << 20)):
            with open(f"{scratch}/{directory}/{name}", "wb") as file:
                for offset in pieces:
                    file.seek(offset)
                    file.write(os.urandom(min(4096, size - offset)))
                file.truncate(size)
        subprocess.run(["tar", "--sparse", *form, "--mtime=@5", "-cf", path, directory],
                       cwd=scratch, check=True)


def make(directory):
    os.makedirs(directory, exist_ok=True)
    for index, layer in enumerate((first_layer, second_layer)):
        with tarfile.open(f"{directory}/{index}.tar", "w", format=tarfile.PAX_FORMAT,
                          errors="surrogateescape") as tar:
            layer(tar)
    for index, form in enumerate((["--format=gnu"], ["--format=posix", "--sparse-version=0.0"],
                                  ["--format=posix", "--sparse-version=0.1"],
                                  ["--format=posix", "--sparse-version=1.0"])):
        sparse_layer(f"{directory}/{index + 2}.tar", form, f"sparse-{index}")


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    {"make": make, "merge": lambda d: print_tree(merge(d)), "list": list_tree}[command](argument)
