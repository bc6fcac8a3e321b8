#!/usr/bin/env python3
"""bulk-receiver.py FILE PORT-FILE: a log sink of the Elasticsearch kind, on a free port of 127.0.0.1.

Each document of a `_bulk` request is appended to FILE as one line of JSON, with the action's `_op`, `_id` and
`_index` beside its own fields; then the request is acknowledged. The port is written to PORT-FILE once it listens.
While FILE.stall exists no request is answered.
"""

import gzip
import http.server
import json
import os
import sys
import threading
import time


def documents(body):
    """The (operation, its metadata, document) triples of a bulk request, as far as it is one."""
    lines = iter(line for line in body.split(b"\n") if line.strip())
    for line in lines:
        ((operation, metadata),) = json.loads(line).items()
        yield operation, metadata, json.loads(next(lines))


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    path_of_log = None
    lock = threading.Lock()

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(self.chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def answer(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True  # the shipper has given up waiting

    def take(self):
        body = self.body()
        while os.path.exists(self.path_of_log + ".stall"):
            time.sleep(0.05)
        if not self.path.split("?")[0].endswith("/_bulk"):
            return self.answer(200, {"version": {"number": "8.0.0"}, "acknowledged": True})
        try:
            taken = list(documents(body))
        except (ValueError, StopIteration, RuntimeError) as error:
            return self.answer(400, {"error": {"reason": f"not a bulk request: {error}"}, "status": 400})
        with self.lock, open(self.path_of_log, "a") as log:
            for operation, metadata, document in taken:
                log.write(json.dumps({"_op": operation, **metadata, **document}) + "\n")
        items = [
            {operation: {"_id": metadata.get("_id", "none"), "_index": metadata.get("_index", "none"), "status": 201}}
            for operation, metadata, _ in taken
        ]
        return self.answer(200, {"took": 1, "errors": False, "items": items})

    do_GET = do_HEAD = do_POST = do_PUT = take

    def log_message(self, *_):
        pass


def main(log, port_file):
    Receiver.path_of_log = log
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    with open(port_file + ".new", "w") as file:
        print(server.server_port, file=file)
    os.rename(port_file + ".new", port_file)
    server.serve_forever()


main(*sys.argv[1:])
