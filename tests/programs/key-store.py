"""Fills a redis or memcached server with 100,000 keys and verifies them all, round and round. See README.md.

Speaks both protocols itself, over the server's Unix socket, so that nothing needs to be installed.
"""

import hashlib
import socket
import sys
import time

KEYS = 100_000
BATCH = 1000


def bad(what, expected, found):
    print(f"BAD {what}: expected {expected}, found {found}", flush=True)
    sys.exit(1)


def value(key, version):
    return f"{version} {hashlib.sha256(f'{key} {version}'.encode()).hexdigest()}".encode()


def version_of(content):
    """The version that a value says it has; any, where there is none."""
    word = (content or b"").split(b" ")[0]
    return int(word) if word.isdigit() else 0


class Redis:
    @staticmethod
    def put(pairs):
        return b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(k), k, len(v), v) for k, v in pairs)

    @staticmethod
    def stored(stream):
        return stream.readline() == b"+OK\r\n"

    @staticmethod
    def get(keys):
        return b"".join(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(k), k) for k in keys)

    @staticmethod
    def found(stream):
        head = stream.readline()
        if not head:
            raise ConnectionError("the server closed the connection")
        size = int(head[1:])
        return stream.read(size + 2)[:-2] if size >= 0 else None


class Memcached:
    @staticmethod
    def put(pairs):
        return b"".join(b"set %b 0 0 %d\r\n%b\r\n" % (k, len(v), v) for k, v in pairs)

    @staticmethod
    def stored(stream):
        return stream.readline() == b"STORED\r\n"

    @staticmethod
    def get(keys):
        return b"".join(b"get %b\r\n" % k for k in keys)

    @staticmethod
    def found(stream):
        head = stream.readline().split()
        if not head:
            raise ConnectionError("the server closed the connection")
        if head[0] != b"VALUE":
            return None
        content = stream.read(int(head[3]) + 2)[:-2]
        stream.readline()
        return content


class Store:
    def __init__(self, protocol, path):
        self.protocol, self.path = protocol, path
        self.connect()

    def connect(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.connect(self.path)
                break
            except OSError as error:
                connection.close()
                if time.monotonic() > deadline:
                    bad("connection to the server", "within a minute", error)
                time.sleep(0.05)
        self.connection = connection
        self.stream = connection.makefile("rb")

    def talk(self, work):
        """Both operations may be repeated, so a cut connection only costs another try."""
        for _ in range(3):
            try:
                return work()
            except ConnectionError:
                self.connect()
        return bad("connection to the server", "one that lasts", "three that were cut")

    def put(self, pairs):
        def work():
            self.connection.sendall(self.protocol.put(pairs))
            for key, _ in pairs:
                if not self.protocol.stored(self.stream):
                    raise ConnectionError(f"{key} was not stored")
        self.talk(work)

    def get(self, keys):
        def work():
            self.connection.sendall(self.protocol.get(keys))
            return [self.protocol.found(self.stream) for _ in keys]
        return self.talk(work)


def main():
    arguments = [word for word in sys.argv[1:] if word != "--once"]
    if len(arguments) != 2 or arguments[0] not in ("redis", "memcached"):
        sys.exit("usage: key-store.py redis|memcached SOCKET [--once]")
    store = Store({"redis": Redis, "memcached": Memcached}[arguments[0]], arguments[1])
    once = "--once" in sys.argv
    versions = [0] * KEYS
    name = "key-{}".format
    if not once or store.get([b"filled"]) != [b"yes"]:
        for start in range(0, KEYS, BATCH):
            store.put([(name(key).encode(), value(key, 0)) for key in range(start, start + BATCH)])
        store.put([(b"filled", b"yes")])
    cycle = 0
    while True:
        for start in range(0, KEYS, BATCH):
            keys = range(start, start + BATCH)
            for key, found in zip(keys, store.get([name(key).encode() for key in keys])):
                # A check that did not write the values itself can only ask that each fits its version.
                expected = value(key, version_of(found) if once else versions[key])
                if found != expected:
                    bad(f"value of key {key}", expected, found)
            if not once:
                # One key in a batch is rewritten: verified memory that nobody writes proves less.
                changed = start + cycle % BATCH
                versions[changed] += 1
                store.put([(name(changed).encode(), value(changed, versions[changed]))])
            cycle += 1
            print(f"ok {cycle} keys={BATCH * cycle}", flush=True)
        if once:
            break


main()
