#!/usr/bin/env python3
"""compare.py EXPECTED ACTUAL: what differs between two listings of merge.py or walk.py; exit 1 when anything does.

Left out is what the runtime owns: /dev, /proc and /sys, device nodes, and what it adds where the image has none.
A null in EXPECTED fits everything.
"""

import json
import sys

OWNED = ("/dev", "/proc", "/sys")
ADDED = ("/etc", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf")


def owned(path):
    return any(path == top or path.startswith(top + "/") for top in OWNED)


def rows(file):
    with open(file) as lines:
        for row in map(json.loads, lines):
            if not owned(row["path"]) and row["type"] not in ("char", "block"):
                yield row["path"], row


def differences(expected, actual):
    for path in sorted(expected.keys() | actual.keys()):
        if path not in actual:
            yield path, "is missing"
        elif path not in expected:
            if path not in ADDED:
                yield path, "is not in the image"
        else:
            was, now = expected[path], actual[path]
            for field in sorted(was.keys() | now.keys()):
                if was.get(field) != now.get(field) and was.get(field, 0) is not None:
                    yield path, f"{field} is {now.get(field)!r}, not {was.get(field)!r}"


def main(expected, actual):
    expected, actual = dict(rows(expected)), dict(rows(actual))
    found = list(differences(expected, actual))
    for path, what in found:
        print(f"{path!a}: {what}")
    print(f"{len(expected)} paths, {len(found)} differences", file=sys.stderr)
    sys.exit(1 if found or not expected else 0)


main(*sys.argv[1:])
