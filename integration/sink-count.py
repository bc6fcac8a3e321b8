"""sink-count.py FILE LINES: what became of the output of `seq LINES`, by what a sink-receiver.py has written to FILE.

Prints how many of the lines and of the two records around them are lost, came again, came after a later one, or differ.
"""

import sys


def main(path, lines):
    with open(path, "rb") as file:
        events = [line.rstrip(b"\n").split(b"\t", 1) for line in file]
    seen, reordered, repeated, changed, last = set(), 0, 0, 0, 0
    for sequence, message in ((int(sequence), message) for sequence, message in events):
        if sequence in seen:
            repeated += 1
            continue
        seen.add(sequence)
        reordered += sequence < last
        last = max(last, sequence)
        changed += 1 < sequence < lines + 2 and message != b"%d" % (sequence - 1)
    lost = len(set(range(1, lines + 3)) - seen)
    print(f"{lost} lost, {repeated} repeated, {reordered} out of order, {changed} changed")


main(sys.argv[1], int(sys.argv[2]))
