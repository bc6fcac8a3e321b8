"""Counts what became of `line 0` … `line N-1` and the two records around them.

Reads the documents as JSON lines on standard input, as VictoriaLogs gives them back (every value a
string, `message` under `_msg`). Exit 1 when anything is lost, repeated or changed.
"""

import collections
import json
import sys


def nanoseconds(time: str) -> str:
    """The same time with all nine digits: trailing zeros come back without."""
    seconds, _, fraction = time.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"


def main(lines: int) -> int:
    documents = [json.loads(line) for line in sys.stdin]
    found = collections.Counter(int(document["event.sequence"]) for document in documents)
    expected = {1: "imrun: launch", lines + 2: "imrun: exit"}
    expected.update({number + 2: f"line {number}" for number in range(lines)})
    text = {int(document["event.sequence"]): document["_msg"] for document in documents}
    times = sorted((nanoseconds(d["_time"]), int(d["event.sequence"])) for d in documents)
    counts = {
        "documents": len(documents),
        "lost": len(expected.keys() - found.keys()),
        "repeated": sum(found.values()) - len(found),
        "changed": sum(text[n] != expected.get(n) for n in text),
        "reordered": sum(a[1] > b[1] for a, b in zip(times, times[1:]) if a[0] != b[0]),
    }
    print(json.dumps(counts))
    return any(counts[name] for name in ("lost", "repeated", "changed", "reordered"))


sys.exit(main(int(sys.argv[1])))
