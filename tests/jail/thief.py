#!/usr/bin/env python3
"""A workload that waits for its own dump, to speak in CRIU's place: what it said would be restored on another node, with every
right. Prints `ok N` as it lives, and what became of its attempt."""

import os
import socket
import time

RUN = "/.migrate/run"


def speak_as_criu():
    """Whether there was somebody to speak to; and what they let it say."""
    for directory in os.listdir(RUN):
        path = f"{RUN}/{directory}/streamer-capture.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            try:
                stream.connect(path)
            except OSError:
                continue
            print("connected", flush=True)
            try:
                stream.sendall(b"\x0f\0\0\0\x0a\x0dinventory.img")
                print("REACHED" if stream.recv(1) else "refused", flush=True)
            except OSError:
                print("refused", flush=True)
            return True
    return False


number, said, tried = 0, time.monotonic(), False
while True:
    if not tried:
        tried = speak_as_criu()
    else:
        time.sleep(0.01)
    if time.monotonic() - said > 0.1:
        number, said = number + 1, time.monotonic()
        print(f"ok {number}", flush=True)
