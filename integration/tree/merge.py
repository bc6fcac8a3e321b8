#!/usr/bin/env python3
"""merge.py LAYOUT [REF]: the merged tree of an OCI layout's image, one JSON object a path, sorted.

Follows the image specification's layer.md and shares no code with imrun. Layers are gzip, zstd or plain tars.
The fields are those of walk.py; null is something that the layers leave open: the owner's choice of the unpacker.
"""

import decimal
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
# Dropped, with every hard link to them: a device node in an image must never open.
DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)
KINDS = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink", tarfile.FIFOTYPE: "fifo"}


class Node:
    """An inode: its fields, its layer, and its entries where it is a directory."""

    def __init__(self, fields, layer):
        self.fields, self.layer = fields, layer
        self.entries = {} if fields["type"] == "dir" else None


def implied_directory(layer=None):
    return Node({"type": "dir", "mode": "0755", "uid": 0, "gid": 0, "mtime": None, "xattrs": {}}, layer)


def parts_of(path):
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def find(root, parts, follow=True, make=None):
    """The node at `parts`, resolved inside the root; the last part's symlink is followed where `follow` says so.

    None where nothing is. For the layer `make` directories that no entry names come into being, also in the place of
    another layer's symlink or file.
    """
    trail, todo = [root], list(parts)
    while todo:
        part = todo.pop(0)
        if part == b"..":
            trail = trail[:-1] or [root]
            continue
        here = trail[-1]
        if here.entries is None:
            return None
        if make is not None:
            old = here.entries.get(part)
            if old is None or (old.entries is None and old.layer != make):
                here.entries[part] = implied_directory(make)
        node = here.entries.get(part)
        if node is None:
            return None
        if node.fields["type"] == "symlink" and (todo or follow):
            target = os.fsencode(node.fields["target"])
            if target.startswith(b"/"):
                trail = [root]
            todo = parts_of(target) + todo
            continue
        trail.append(node)
    return trail[-1]


def mtime_ns(entry):
    """tarfile's float loses digits: the PAX record is exact."""
    seconds = decimal.Decimal(entry.pax_headers.get("mtime", str(int(entry.mtime))))
    return int((seconds * 10**9).to_integral_value(decimal.ROUND_FLOOR))


def kept_xattrs(entry):
    prefix = "SCHILY.xattr."
    for key, value in entry.pax_headers.items():
        name = key.removeprefix(prefix)
        if name != key and (name.startswith("user.") or name == "security.capability"):
            yield name, value.encode("utf-8", "surrogateescape").hex()


def node_of(tar, entry, layer):
    fields = {
        "type": KINDS.get(entry.type, "file"),
        "mode": f"{entry.mode & 0o7777:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": mtime_ns(entry),
        "xattrs": dict(kept_xattrs(entry)),
    }
    if fields["type"] == "symlink":
        fields["mode"], fields["target"] = "0777", entry.linkname
    if fields["type"] == "file":
        content = tar.extractfile(entry)
        fields["size"] = entry.size
        fields["sha256"] = hashlib.file_digest(content, "sha256").hexdigest()
    return Node(fields, layer)


def hide(root, path, layer):
    """Applies one whiteout to the tree of the layers below."""
    *parent, last = parts_of(path)
    directory = root
    for part in parent:
        directory = directory.entries.get(part)
        if directory is None:
            return
        if directory.entries is None:
            find(root, parent, make=layer)
            return
    if last == OPAQUE:
        directory.entries.clear()
    else:
        directory.entries.pop(last.removeprefix(WHITEOUT), None)


def add(root, tar, entry, path, layer):
    parts = parts_of(path)
    if not parts:
        root.fields = node_of(tar, entry, layer).fields
        return
    directory = find(root, parts[:-1], make=layer)
    old = directory.entries.get(parts[-1])
    if entry.islnk():
        target = find(root, parts_of(os.fsencode(entry.linkname)), follow=False)
        if target is None:
            return  # to a device, which is dropped
        directory.entries[parts[-1]] = target
        return
    new = node_of(tar, entry, layer)
    if old is not None and old.entries is not None and new.entries is not None:
        new.entries = old.entries
    directory.entries[parts[-1]] = new


def is_whiteout(path):
    return os.path.basename(path).startswith(WHITEOUT)


def apply(root, tar, layer):
    entries = [(entry, os.fsencode(entry.name)) for entry in tar]
    for entry, path in entries:
        if is_whiteout(path):
            hide(root, path, layer)
    for entry, path in entries:
        if not is_whiteout(path) and entry.type not in DEVICES:
            add(root, tar, entry, path, layer)


def uncompressed(path):
    """The layer's tar in a temporary file: a hard link's target is read later than it stands in the stream."""
    with open(path, "rb") as file:
        magic = file.read(4)
    tar = tempfile.TemporaryFile(dir="/var/tmp")
    command = {b"\x1f\x8b\x08": ["gzip", "-dc"], b"\x28\xb5\x2f": ["zstd", "-dc"]}.get(magic[:3], ["cat"])
    with open(path, "rb") as file:
        subprocess.run(command, stdin=file, stdout=tar, check=True)
    tar.seek(0)
    return tar


def layers(layout, ref):
    def blob(digest):
        return os.path.join(layout, "blobs", *digest.split(":"))

    with open(os.path.join(layout, "index.json")) as file:
        manifests = json.load(file)["manifests"]
    name = "org.opencontainers.image.ref.name"
    (digest,) = [m["digest"] for m in manifests if m.get("annotations", {}).get(name) == ref]
    with open(blob(digest)) as file:
        return [blob(layer["digest"]) for layer in json.load(file)["layers"]]


def paths(node, path=b""):
    yield path or b"/", node
    for name, child in (node.entries or {}).items():
        yield from paths(child, path + b"/" + name)


def main(layout, ref="latest"):
    root = implied_directory()
    for number, layer in enumerate(layers(layout, ref)):
        with uncompressed(layer) as file, tarfile.open(fileobj=file, errors="surrogateescape") as tar:
            apply(root, tar, number)
    found = sorted(paths(root), key=lambda pair: pair[0])
    names = {}
    for path, node in found:
        names.setdefault(id(node), []).append(os.fsdecode(path))
    for path, node in found:
        row = {"path": os.fsdecode(path), **node.fields}
        if node.entries is None:
            row["names"] = names[id(node)]
        print(json.dumps(row, sort_keys=True))


main(*sys.argv[1:])
