"""The python image's program: prints lines, tries to write, and ends as EXIT_CODE says."""

import ctypes
import os
import sys

for number in range(1, 101):
    print(f"line {number} of 100")
print("a line on standard error", file=sys.stderr)
try:
    open("/srv/written", "w").close()
    print("the write succeeded")
except OSError as error:
    print(f"the write failed: {os.strerror(error.errno)}")
print("no newline ends this", end="", flush=True)

if os.environ["EXIT_CODE"] == "crash":
    ctypes.string_at(0)
sys.exit(int(os.environ["EXIT_CODE"]))
