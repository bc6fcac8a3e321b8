#!/usr/bin/env python3
"""Asks a FastCGI server on port 9000 for the script that is named, and prints what it answers."""
import socket
import struct
import sys

BEGIN, END, PARAMETERS, INPUT, OUTPUT = 1, 3, 4, 5, 6
HEADER = struct.Struct("!BBHHBx")


def record(kind, body):
    return HEADER.pack(1, kind, 1, len(body), 0) + body


def parameter(name, value):
    return bytes([len(name), len(value)]) + name.encode() + value.encode()


def answer(stream):
    kind = None
    while kind != END:
        _, kind, _, length, padding = HEADER.unpack(stream.read(HEADER.size))
        body = stream.read(length + padding)[:length]
        if kind == OUTPUT:
            yield body.decode()


with socket.create_connection(("127.0.0.1", 9000), timeout=5) as server:
    asked = {"SCRIPT_FILENAME": sys.argv[1], "REQUEST_METHOD": "GET"}
    parameters = b"".join(parameter(name, value) for name, value in asked.items())
    responder = struct.pack("!HB5x", 1, 0)
    server.sendall(record(BEGIN, responder) + record(PARAMETERS, parameters) + record(PARAMETERS, b"") + record(INPUT, b""))
    print("".join(answer(server.makefile("rb"))))
