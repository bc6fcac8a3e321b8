#!/usr/bin/env python3
"""token-server.py DIR: gives bearer tokens to user:secret, as the distribution project specifies; its port is in DIR/port.

DIR has signing.key and signing.crt. The scope of every token is appended to DIR/tokens.
"""
import base64
import http.server
import json
import os
import subprocess
import sys
import time
import urllib.parse

directory = sys.argv[1]
BASIC = "Basic " + base64.b64encode(b"user:secret").decode()


def packed(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(service, scopes):
    with open(f"{directory}/signing.crt") as file:
        certificate = "".join(line.strip() for line in file if "-----" not in line)
    access = []
    for scope in scopes:
        kind, name, actions = scope.split(":")
        access.append({"type": kind, "name": name, "actions": actions.split(",")})
    now = int(time.time())
    header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
    claims = {"iss": "imrun test", "sub": "user", "aud": service, "iat": now, "nbf": now - 10, "exp": now + 300,
              "jti": str(time.time_ns()), "access": access}
    text = b".".join(packed(json.dumps(part).encode()) for part in (header, claims))
    sign = ["openssl", "dgst", "-sha256", "-sign", f"{directory}/signing.key"]
    return (text + b"." + packed(subprocess.run(sign, input=text, capture_output=True, check=True).stdout)).decode()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if self.headers.get("authorization") != BASIC:
            self.send_error(401)
            return
        body = json.dumps({"token": token(query["service"][0], query.get("scope", []))}).encode()
        with open(f"{directory}/tokens", "a") as file:
            file.write(query.get("scope", ["none"])[0] + "\n")
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(f"{directory}/port.new", "w") as file:
    file.write(str(server.server_port))
os.rename(f"{directory}/port.new", f"{directory}/port")
server.serve_forever()
