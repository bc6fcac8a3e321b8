"""What of Python's library needs no files: each line is a name and what came of it."""
import asyncio
import concurrent.futures
import json
import multiprocessing
import sqlite3
import subprocess
import tempfile
from multiprocessing import shared_memory


def square(number):
    return number * number


def in_process(method):
    process = multiprocessing.get_context(method).Process(target=square, args=(3,))
    process.start()
    process.join()
    return process.exitcode


async def in_background():
    process = await asyncio.create_subprocess_exec("echo", "x", stdout=subprocess.PIPE)
    return (await process.communicate())[0]


def pooled(pool):
    return list(pool.map(square, range(4)))


CASES = {
    "json": lambda: json.loads(json.dumps([1])),
    "subprocess": lambda: subprocess.run("echo a | cat", shell=True, capture_output=True, check=True).stdout,
    "asyncio": lambda: asyncio.run(in_background()),
    "sqlite": lambda: sqlite3.connect(":memory:").execute("select 1 + 1").fetchone(),
    "threads": lambda: pooled(concurrent.futures.ThreadPoolExecutor(4)),
    "fork": lambda: in_process("fork"),
    "spawn": lambda: in_process("spawn"),
    "pipe": lambda: len(multiprocessing.Pipe()),
    "forkserver": lambda: in_process("forkserver"),
    "lock": multiprocessing.Lock,
    "pool": lambda: pooled(multiprocessing.Pool(2)),
    "processes": lambda: pooled(concurrent.futures.ProcessPoolExecutor(2)),
    "shared memory": lambda: shared_memory.SharedMemory(create=True, size=1),
    "temporary file": tempfile.TemporaryFile,
    "spooled file": lambda: tempfile.SpooledTemporaryFile(max_size=100).write(b"x"),
}

if __name__ == "__main__":
    for name, case in CASES.items():
        try:
            print(f"{name}: {case()}", flush=True)
        except OSError as error:
            print(f"{name}: {error}", flush=True)
