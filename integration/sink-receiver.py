#!/usr/bin/env python3
"""sink-receiver.py PROTOCOL FILE PORT-FILE [OPTION=VALUE…]: a log sink on loopback that can be told to misbehave.

PROTOCOL is es, syslog, forward or json. For each event that arrives, a line is appended to FILE: its sequence number
and its message, separated by a tab; it is there before the event is acknowledged. Only es stores an event once. What is
not exactly of the protocol is an error: FILE.errors has a line for each.

While FILE.mode exists, its content says how to answer:
  stall    read nothing, answer nothing
  slow     read 1 MB a second
  500 429  answer so, storing nothing (es); close (the others)
  half     store, send half of an acknowledgement, close
  garbage  answer bytes that mean nothing, storing nothing, close

Options: port=N, cert=FILE and key=FILE (TLS), kind=udp.
"""

import gzip
import json
import os
import re
import socket
import ssl
import struct
import sys
import threading
import time

GARBAGE = b"\xc1\xff\x00garbage\r\n\r\n"


class Closed(Exception):
    """The peer has closed, or this side is to."""


class Wrong(Exception):
    """Bytes that are not of the protocol."""


class Log:
    """What has arrived."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        with open(path, "ab+") as file:
            file.seek(0)
            self.seen = {int(line.split(b"\t")[0]) for line in file}
        self.file = open(path, "ab", buffering=0)

    def mode(self):
        try:
            with open(self.path + ".mode") as file:
                return file.read().strip()
        except FileNotFoundError:
            return "well"

    def store(self, events, once=False):
        """Appends events; with `once`, those that are not there yet."""
        with self.lock:
            events = [one for one in events if not (once and one[0] in self.seen)]
            self.seen.update(sequence for sequence, _ in events)
            self.file.write(b"".join(b"%d\t%s\n" % one for one in events))

    def error(self, why):
        with self.lock, open(self.path + ".errors", "a") as file:
            print(why, file=file)


class Peer:
    """A connection, read as the mode says."""

    def __init__(self, connection, log):
        self.connection, self.log, self.pending = connection, log, b""

    def more(self):
        while (mode := self.log.mode()) == "stall":
            time.sleep(0.05)
        size = 1 << 16
        if mode == "slow":
            time.sleep(size / 1_000_000)
        got = self.connection.recv(size)
        if not got:
            raise Closed
        self.pending += got

    def take(self, size):
        while len(self.pending) < size:
            self.more()
        taken, self.pending = self.pending[:size], self.pending[size:]
        return taken

    def until(self, end):
        while end not in self.pending:
            self.more()
        taken, _, self.pending = self.pending.partition(end)
        return taken

    def send(self, answer):
        self.connection.sendall(answer)

    def misbehave(self, acknowledgement=b""):
        """Whether to store nothing; ends the connection where the mode says so."""
        while (mode := self.log.mode()) == "stall":
            time.sleep(0.05)
        if mode == "garbage":
            self.send(GARBAGE)
            raise Closed
        if mode in ("500", "429"):
            raise Closed
        return mode


def event_of(document):
    return document["event.sequence"], document["message"].encode().replace(b"\n", b"\\n")


def es(peer, log):
    while True:
        head = peer.until(b"\r\n\r\n").decode().split("\r\n")
        if not re.fullmatch(r"POST /\S*_bulk(\?\S*)? HTTP/1\.1", head[0]):
            raise Wrong(head[0])
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:])}
        body = peer.take(int(headers["content-length"]))
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        lines = body.split(b"\n")
        if lines.pop() != b"" or len(lines) % 2:
            raise Wrong("a bulk request without its last newline")
        ids = [json.loads(action)["create"]["_id"] for action in lines[::2]]
        documents = [json.loads(line) for line in lines[1::2]]
        if len(set(ids)) != len(ids):
            raise Wrong("an _id comes twice")
        mode = log.mode()
        while mode == "stall":
            time.sleep(0.05)
            mode = log.mode()
        if mode in ("500", "429"):
            peer.send(b"HTTP/1.1 %s Told so\r\ncontent-length: 2\r\n\r\n{}" % mode.encode())
            continue
        if mode == "garbage":
            peer.send(GARBAGE)
            return
        log.store(map(event_of, documents), once=True)
        items = [{"create": {"status": 201}}] * len(ids)
        answer = json.dumps({"errors": False, "items": items}).encode()
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer)
        if mode == "half":
            peer.send(answer[: len(answer) // 2])
            return
        peer.send(answer)


HEADER = re.compile(
    rb"<\d{1,3}>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]{1,255} [!-~]{1,48} [!-~]{1,128} [!-~]{1,32} "
    rb'\[meta sequenceId="\d+"\]\[imrun@32473 sequence="(\d+)"(?: [a-z]+="(?:[^"\\\]]|\\.)*")*\] ', re.S)


def syslog_event(message):
    match = HEADER.match(message)
    if not match:
        raise Wrong(f"not RFC 5424: {message[:200]!r}")
    return int(match[1]), message[match.end():].replace(b"\n", b"\\n")


def syslog(peer, log):
    while True:
        # All messages that are there at once: each has its length in front of it.
        events = []
        while True:
            length, space, rest = peer.pending.partition(b" ")
            if not space:
                break
            if not re.fullmatch(rb"[1-9]\d{0,4}", length):
                raise Wrong(f"not a length: {length[:50]!r}")
            if len(rest) < int(length):
                break
            events.append(syslog_event(rest[: int(length)]))
            peer.pending = rest[int(length):]
        if events:
            mode = peer.misbehave()
            log.store(events)
            if mode == "half":
                raise Closed
        peer.more()


def json_lines(peer, log):
    while True:
        *lines, peer.pending = peer.pending.split(b"\n")
        if lines:
            mode = peer.misbehave()
            log.store(event_of(json.loads(line)) for line in lines)
            if mode == "half":
                raise Closed
        peer.more()


class Reader:
    """MessagePack, as much of it as an honest sender of the forward protocol needs."""

    def __init__(self, take):
        self.take = take

    def number(self, size):
        return int.from_bytes(self.take(size), "big")

    def value(self):
        head = self.number(1)
        if head <= 0x7F:
            return head
        if head <= 0x8F:
            return self.map(head & 15)
        if head <= 0x9F:
            return [self.value() for _ in range(head & 15)]
        if head <= 0xBF:
            return self.take(head & 31).decode()
        sizes = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
        if head in sizes:
            size = self.number(sizes[head])
            if head <= 0xC6:
                return self.take(size)
            if head <= 0xDB:
                return self.take(size).decode()
            return self.map(size) if head >= 0xDE else [self.value() for _ in range(size)]
        if 0xCC <= head <= 0xCF:
            return self.number(1 << (head - 0xCC))
        if head == 0xCB:
            return struct.unpack(">d", self.take(8))[0]
        if head == 0xD3:
            return struct.unpack(">q", self.take(8))[0]
        if head == 0xD7:
            if self.number(1) != 0:
                raise Wrong("an ext that is no event time")
            return ("time", self.number(4), self.number(4))
        if head in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[head]
        raise Wrong(f"type {head:#x}")

    def map(self, pairs):
        result = {}
        for _ in range(pairs):
            key = self.value()
            if key in result:
                raise Wrong(f"{key!r} comes twice")
            result[key] = self.value()
        return result


class Bytes:
    """Bytes to be read from the front."""

    def __init__(self, content):
        self.content, self.at = content, 0

    def take(self, size):
        taken = self.content[self.at:self.at + size]
        if len(taken) != size:
            raise Wrong("an entry is cut")
        self.at += size
        return taken


def entries(packed):
    source = Bytes(packed)
    reader = Reader(source.take)
    while source.at < len(packed):
        time_, record = reader.value()
        if time_[0] != "time" or time_[2] >= 1_000_000_000:
            raise Wrong(f"not an event time: {time_}")
        yield record


def forward(peer, log):
    while True:
        tag, packed, options = Reader(peer.take).value()
        if options.get("compressed") == "gzip":
            packed = gzip.decompress(packed)
        records = list(entries(packed))
        if not isinstance(tag, str) or options["size"] != len(records):
            raise Wrong(f"tag {tag!r}, size {options['size']} of {len(records)}")
        mode = peer.misbehave()
        log.store((one["event.sequence"], text_of(one["message"])) for one in records)
        chunk = options["chunk"].encode()
        answer = b"\x81\xa3ack\xd9" + bytes([len(chunk)]) + chunk
        if mode == "half":
            peer.send(answer[: len(answer) // 2])
            raise Closed
        peer.send(answer)


def text_of(message):
    message = message if isinstance(message, bytes) else message.encode()
    return message.replace(b"\n", b"\\n")


PROTOCOLS = {"es": es, "syslog": syslog, "forward": forward, "json": json_lines}


def serve(connection, tls, converse, log):
    try:
        if tls:
            connection = tls.wrap_socket(connection, server_side=True)
        converse(Peer(connection, log), log)
    except (Closed, ConnectionError, ssl.SSLError, OSError):
        pass
    except (Wrong, KeyError, ValueError, TypeError) as error:
        log.error(f"{type(error).__name__}: {error}")
    finally:
        connection.close()


def datagrams(port, port_file, log):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    server.bind(("127.0.0.1", port))
    announce(server.getsockname()[1], port_file)
    while True:
        try:
            log.store([syslog_event(server.recv(65536))])
        except Wrong as error:
            log.error(str(error))


def announce(port, port_file):
    with open(port_file + ".new", "w") as file:
        print(port, file=file)
    os.rename(port_file + ".new", port_file)


def main(protocol, path, port_file, *options):
    options = dict(option.split("=", 1) for option in options)
    log, port = Log(path), int(options.get("port", 0))
    if options.get("kind") == "udp":
        datagrams(port, port_file, log)
    tls = None
    if "cert" in options:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options["cert"], options["key"])
    server = socket.create_server(("127.0.0.1", port), backlog=64)
    announce(server.getsockname()[1], port_file)
    while True:
        connection, _ = server.accept()
        arguments = (connection, tls, PROTOCOLS[protocol], log)
        threading.Thread(target=serve, args=arguments, daemon=True).start()


main(*sys.argv[1:])
