#!/usr/bin/env python3
"""Submit a job with one message on a device's own nats-server, and wait there for its result.

    nats_pub.py nats://127.0.0.1:PORT KEY JOB_JSON [--nats]

A few lines of the NATS protocol instead of a client library: subscribe to `result.KEY`, publish the job on `submit` with the
header Mesh-Job-Key, wait for JetStream's acknowledgement, then for the result, which goes to stdout. With --nats the message
is published by the `nats` command; then only the result is awaited here.
"""
import json
import os
import re
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

WAIT = 60


class Nats:
    def __init__(self, url):
        where = urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port or 4222), timeout=WAIT)
        self.reader = self.socket.makefile("rb")
        if not self.line().startswith(b"INFO "):
            sys.exit(f"{url} is no nats-server")
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "name": "demo", "lang": "python", "version": "1"}
        self.send(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")
        while self.line() != b"PONG":
            pass

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        line = self.reader.readline()
        if not line:
            sys.exit("the server closed the connection")
        line = line.rstrip(b"\r\n")
        if line.startswith(b"-ERR"):
            sys.exit(f"the server refused: {line.decode()}")
        return line

    def message(self):
        """The next message: its subject, its headers as they are, its payload."""
        while True:
            line = self.line()
            if line == b"PING":
                self.send(b"PONG\r\n")
            elif line.startswith((b"MSG ", b"HMSG ")):
                words = line.split()
                size, head = int(words[-1]), int(words[-2]) if line.startswith(b"HMSG ") else 0
                body = self.reader.read(size + 2)[:size]
                return words[1].decode(), body[:head].decode(), body[head:]

    def publish(self, subject, reply, headers, payload):
        head = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        head = head.encode()
        self.send(f"HPUB {subject} {reply} {len(head)} {len(head) + len(payload)}\r\n".encode() + head + payload + b"\r\n")


def main():
    url, key, job = sys.argv[1:4]
    by_command = "--nats" in sys.argv[4:]
    inbox = "_INBOX." + os.urandom(8).hex()
    nats = Nats(url)
    nats.send(f"SUB {inbox} 1\r\nSUB result.{key} 2\r\nPING\r\n".encode())
    while nats.line() != b"PONG":
        pass
    begin = time.monotonic()
    if by_command:
        command = ["nats", "--server", url, "pub", "-J", "-H", f"Mesh-Job-Key:{key}", "submit", job]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WAIT, check=False)
        print(done.stdout.decode().strip(), file=sys.stderr)
        if done.returncode != 0:
            sys.exit(f"nats ended with {done.returncode}")
    else:
        nats.publish("submit", inbox, {"Mesh-Job-Key": key}, job.encode())
    acknowledged = by_command
    while True:
        try:
            subject, headers, payload = nats.message()
        except TimeoutError:
            sys.exit(f"nothing on result.{key} for {WAIT} s" if acknowledged else f"no acknowledgement for {WAIT} s")
        if subject == inbox:
            status = re.match(r"NATS/1\.0 (\d+)", headers)
            if status:
                sys.exit(f"nobody keeps what is published on `submit` here (status {status[1]})")
            ack = json.loads(payload)
            if "error" in ack:
                sys.exit(f"the message was not stored: {ack['error']}")
            acknowledged = True
            print(f"stored in {ack['stream']} as message {ack['seq']} after {(time.monotonic() - begin) * 1000:.0f} ms", file=sys.stderr)
        else:
            print(f"result on {subject} after {(time.monotonic() - begin) * 1000:.0f} ms", file=sys.stderr)
            print(payload.decode())
            return


if __name__ == "__main__":
    main()
