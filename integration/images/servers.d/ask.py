"""ask.py PORT NAME: asks a name server on loopback for an address, and prints it."""

import socket
import struct
import sys

port, name = int(sys.argv[1]), sys.argv[2]
labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
question = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
    asker.settimeout(2)
    asker.sendto(question, ("127.0.0.1", port))
    print(socket.inet_ntoa(asker.recv(512)[-4:]))
