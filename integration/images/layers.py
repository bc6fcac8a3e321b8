#!/usr/bin/env python3
"""layers.py PROGRAM DIR: writes DIR/layer-1.tar … layer-6.tar, to go on top of Debian with python3.

Together they hold what the image specification's layer.md allows and what tars in the wild have; the same bytes at
every run. The layers are written by hand because no packer would make most of this.
"""

import io
import random
import struct
import sys
import tarfile

NOON = 1_700_000_000
# Version 2 of struct vfs_cap_data (capabilities(7)): cap_net_bind_service, permitted and effective.
NET_BIND = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


class Layer:
    """One tar, written in PAX format."""

    def __init__(self, path):
        self.tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tar.close()

    def _add(self, name, kind, mode, content=b"", target="", mtime=NOON, owner=(0, 0), xattrs=None):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), target
        entry.mtime, (entry.uid, entry.gid) = mtime, owner
        entry.pax_headers = {
            f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in (xattrs or {}).items()
        }
        self.tar.addfile(entry, io.BytesIO(content))

    def file(self, name, content=b"", mode=0o644, **more):
        self._add(name, tarfile.REGTYPE, mode, content, **more)

    def dir(self, name, mode=0o755, **more):
        self._add(name, tarfile.DIRTYPE, mode, **more)

    def symlink(self, name, target, **more):
        self._add(name, tarfile.SYMTYPE, 0o777, target=target, **more)

    def hardlink(self, name, target):
        self._add(name, tarfile.LNKTYPE, 0o644, target=target)

    def fifo(self, name, **more):
        self._add(name, tarfile.FIFOTYPE, 0o600, **more)

    def whiteout(self, name):
        parent, _, last = name.rpartition("/")
        self.file(f"{parent}/.wh.{last}")

    def opaque(self, name):
        self.file(f"{name}/.wh..wh..opq")


def additions(layer, program):
    layer.dir("srv")
    layer.file("srv/report.py", program)
    layer.dir("srv/names")
    layer.file("srv/names/" + "n" * 255, b"255 bytes")
    layer.file("srv/names/" + "/".join(["deep" * 10] * 20), b"parents that no entry names")
    layer.file("srv/names/köln – 東京", b"UTF-8")
    layer.file("srv/names/latin-\udce9", b"not UTF-8")
    layer.file("srv/names/back\\slash \"quote\" and space", b"")
    layer.file("./srv/names/dot-slash", b"with a leading ./")
    layer.dir("srv/times")
    layer.file("srv/times/fraction", b"f", mtime=NOON + 0.25)
    layer.file("srv/times/before-1970", b"b", mtime=-86_400)
    layer.file("srv/times/after-2106", b"a", mtime=2**33)
    layer.dir("srv/modes", mode=0o1777)
    layer.file("srv/modes/setuid", b"#!/bin/sh\nid -u\n", mode=0o4755)
    layer.file("srv/modes/setgid", b"#!/bin/sh\nid -g\n", mode=0o2755)
    layer.file("srv/modes/secret", b"nobody reads this", mode=0o000, owner=(65534, 65534))
    layer.file("srv/modes/large-ids", b"", owner=(3_000_000, 4_000_000))
    layer.fifo("srv/modes/fifo")
    layer.dir("srv/links")
    layer.file("srv/links/one", b"three names, one file")
    layer.hardlink("srv/links/two", "srv/links/one")
    layer.hardlink("srv/links/three", "srv/links/two")
    layer.symlink("srv/links/absolute", "/srv/links/one")
    layer.symlink("srv/links/dangling", "../nowhere")
    layer.symlink("srv/links/long", "x/" * 500 + "end")
    layer.dir("srv/xattrs", xattrs={"user.on-a-directory": b"yes"})
    layer.file("srv/xattrs/user", b"", xattrs={"user.text": b"a value", "user.binary": bytes(range(256))})
    layer.file("srv/xattrs/large", b"", xattrs={"user.large": b"v" * 3000})
    layer.file("srv/xattrs/capable", b"", mode=0o755, xattrs={"security.capability": NET_BIND})
    layer.file("srv/twice", b"the first entry")
    layer.file("srv/twice", b"the second entry wins")


def bulk(layer):
    """Content that compresses to about half, in sizes around the block size."""
    rng = random.Random("imrun")
    layer.dir("srv/bulk")
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 65_537):
        layer.file(f"srv/bulk/{size}", rng.randbytes(size))
    for number in range(24):
        words = rng.randbytes(512 << 10)
        layer.file(f"srv/bulk/part-{number:02}", words + bytes(512 << 10))
    for number in range(2000):
        layer.file(f"srv/bulk/small/{number % 50}/{number}", f"small file {number}\n".encode() * (number % 7))


def doomed(layer):
    """What later layers hide or replace."""
    for name in ("hidden", "opaque", "opaque-late", "becomes-file", "keeps-children"):
        layer.dir(f"srv/{name}")
        layer.file(f"srv/{name}/old", name.encode())
        layer.file(f"srv/{name}/sub/older", name.encode())
    layer.file("srv/becomes-dir", b"a file")
    layer.file("srv/hidden-then-back", b"before")
    layer.symlink("srv/becomes-dir-too", "keeps-children")
    layer.symlink("srv/through", "/usr/lib")
    layer.file("srv/through/imrun-through-symlink", b"a layer's own symlink is followed")


def whiteouts(layer):
    layer.whiteout("srv/hidden")
    layer.whiteout("srv/hidden-then-back")
    layer.whiteout("srv/never-was")
    layer.whiteout("srv/links/two")
    layer.opaque("srv/opaque")
    layer.file("srv/opaque/new", b"beside the opaque marker")
    layer.file("srv/opaque-late/new", b"before the marker, and kept: opaque hides lower layers alone")
    layer.opaque("srv/opaque-late")


def replacements(layer):
    layer.file("srv/becomes-file", b"was a directory")
    layer.dir("srv/becomes-dir", mode=0o750)
    layer.file("srv/becomes-dir/inside", b"was a file")
    layer.dir("srv/becomes-dir-too")
    layer.file("srv/becomes-dir-too/inside", b"was a symlink")
    layer.dir("srv/keeps-children", mode=0o700, mtime=NOON + 60, owner=(1, 1))
    layer.file("srv/hidden-then-back", b"after")
    layer.file("srv/links/three", b"no longer a name of `one`")
    layer.hardlink("srv/links/into-lower-layer", "usr/bin/perl")
    layer.hardlink("srv/links/to-a-symlink", "srv/links/dangling")


def nothing(_layer):
    """A layer without entries, as many builders make."""


def main(program, directory):
    with open(program, "rb") as file:
        text = file.read()
    writers = [lambda layer: additions(layer, text), bulk, doomed, whiteouts, replacements, nothing]
    for number, write in enumerate(writers, 1):
        with Layer(f"{directory}/layer-{number}.tar") as layer:
            write(layer)


main(*sys.argv[1:])
