"""A guest: a machine with a kernel of its own under qemu, without hardware support (TCG), so that it runs anywhere.

It has three disks: the root, whose changes are forgotten; the programs under test, read-only; and one that survives when
the machine is switched off. Its only network is a virtual cable to the other guest. Everything is a Unix socket in the
directory of the run.
"""
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time

import wire

DISK_BYTES = 6 << 30


class GuestError(Exception):
    """A guest did not do what was asked of it."""


class Answer:
    """What a command in a guest said; may not have come yet."""

    def __init__(self):
        self._arrived = threading.Event()
        self.code = None
        self.output = ""
        self.request = b""

    def settle(self, code, output):
        self.code, self.output = code, output
        self._arrived.set()

    def arrived(self, seconds):
        return self._arrived.wait(seconds)

    def wait(self, seconds):
        if not self.arrived(seconds):
            raise GuestError(f"no answer within {seconds} s")
        return self


class Machine:
    """One guest, switched on or off."""

    def __init__(self, name, address, image, programs, run):
        self.name, self.address = name, address
        self._image, self._programs, self._run = image, programs, run
        self.mac = bytes([0x52, 0x54, 0, 0, 0, int(address.rsplit(".", 1)[1])])
        self._lives = 0
        self._process = None
        self._channel = None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._pending = {}

    def _path(self, kind):
        return os.path.join(self._run, f"{self.name}.{kind}")

    def make_disk(self):
        """Makes the disk that survives."""
        with open(self._path("disk"), "wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "state", self._path("disk")], check=True)

    def heard(self):
        """What this machine has told the cable of the witness, in all its lives: [(time, number, machine)]."""
        lives = range(1, self._lives + 1)
        return [(time, number, self.name) for life in lives
                for time, number in wire.heard(f"{self._path('wire')}.{life}", self.mac)]

    def switch_on(self, other):
        """Starts the machine and returns at once. The cable leads to the machine of the name `other`, be it on or off."""
        ear, console = self._path("ear"), self._path("console")
        for stale in (ear, self._path("plug")):
            if os.path.exists(stale):
                os.unlink(stale)
        self._lives += 1
        with open(self._path("qemu"), "ab") as said:
            self._process = subprocess.Popen(
                ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-m", "1024",
                 "-nodefaults", "-display", "none", "-no-reboot",
                 "-kernel", os.path.join(self._image, "kernel"), "-append",
                 "console=ttyS0 root=/dev/nvme0n1 rootfstype=ext4 rw init=/guest/init panic=-1 quiet mitigations=off "
                 f"guest_name={self.name} guest_address={self.address}",
                 "-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console",
                 *disk("nvme", "root", os.path.join(self._image, "root.img"), "snapshot=on"),
                 *disk("virtio-blk-pci", "programs", self._programs, "readonly=on"),
                 *disk("virtio-blk-pci", "state", self._path("disk"), "discard=unmap"),
                 "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
                 "-chardev", f"socket,id=ear,path={ear},server=on,wait=off", "-device", "virtserialport,chardev=ear,name=ear",
                 "-netdev", f"dgram,id=cable,local.type=unix,local.path={self._path('plug')},"
                 f"remote.type=unix,remote.path={os.path.join(self._run, other)}.plug",
                 "-device", f"virtio-net-pci,netdev=cable,mac={self.mac.hex(':')}",
                 "-object", f"filter-dump,id=tap,netdev=cable,maxlen=128,file={self._path('wire')}.{self._lives}"],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=end_with_parent,
                # Where qemu keeps what is forgotten.
                env={**os.environ, "TMPDIR": self._run})
        threading.Thread(target=self._listen, args=(ear,), daemon=True).start()

    def wait_until_up(self, seconds=120):
        """Returns when the guest takes commands."""
        answer, deadline = self.begin("true"), time.monotonic() + seconds
        while not answer.arrived(1):
            if time.monotonic() > deadline or "Kernel panic" in self.console():
                raise GuestError(f"{self.name} does not come up")
        if answer.code != 0:
            raise GuestError(f"{self.name} did not come up: {answer.output}")

    def switch_off(self):
        """Power loss: nothing in the guest has an instant to react."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def is_on(self):
        return self._process is not None and self._process.poll() is None

    def console(self):
        """The last words of the guest's kernel."""
        try:
            with open(self._path("console"), errors="replace") as file:
                return "".join(file.readlines()[-20:])
        except FileNotFoundError:
            return ""

    def begin(self, command):
        """Starts a command, a line for bash."""
        answer = Answer()
        with self._lock:
            number = next(self._numbers)
            self._pending[number] = answer
            request = json.dumps({"id": number, "command": command}).encode() + b"\n"
            if self._channel:
                self._send(request)
            else:
                # Sent as soon as the guest listens.
                answer.request = request
        return answer

    def run(self, command, seconds=300):
        """Runs a command to its end; fails when it does."""
        answer = self.begin(command)
        try:
            answer.wait(seconds)
        except GuestError as error:
            raise GuestError(f"{self.name}: `{command}`: {error}") from None
        if answer.code != 0:
            raise GuestError(f"{self.name}: `{command}` ended with {answer.code}:\n{answer.output}")
        return answer.output

    def _send(self, request):
        try:
            self._channel.sendall(request)
        except OSError:
            # The listener finds out too, and settles what is open.
            pass

    def _listen(self, path):
        """Takes answers until the machine is off; then nobody waits in vain."""
        process, channel = self._process, socket.socket(socket.AF_UNIX)
        while process.poll() is None:
            try:
                channel.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.05)
        try:
            for line in channel.makefile("rb"):
                self._take(channel, json.loads(line))
        except (OSError, ValueError):
            pass
        with self._lock:
            self._channel = None
            open_answers, self._pending = self._pending, {}
        for answer in open_answers.values():
            answer.settle(-1, f"{self.name} is off")

    def _take(self, channel, said):
        with self._lock:
            if said["id"] == 0:
                # The guest listens from now on; what was asked before goes now.
                self._channel = channel
                for answer in self._pending.values():
                    self._send(answer.request)
                return
            answer = self._pending.pop(said["id"], None)
        if answer:
            answer.settle(said["code"], said["output"])


def disk(kind, name, path, option):
    """qemu's words for a disk. There is one of kind nvme, which the kernel boots from; the guest finds the others by label."""
    return ["-drive", f"if=none,id={name},file={path},format=raw,{option}", "-device", f"{kind},drive={name},serial={name}"]


def end_with_parent():
    """A qemu must not outlive a suite that was killed; and ^C is for the suite, which then ends its machines itself."""
    import ctypes
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    os.setpgrp()
