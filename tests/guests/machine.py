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


class GuestError(Exception):
    """A guest did not do what was asked of it."""


class Answer:
    """What a command in a guest said; may not have come yet."""

    def __init__(self):
        self._arrived = threading.Event()
        self.code = None
        self.output = ""

    def settle(self, code, output):
        self.code, self.output = code, output
        self._arrived.set()

    def wait(self, seconds):
        if not self._arrived.wait(seconds):
            raise GuestError(f"no answer within {seconds} s")
        return self


class Machine:
    """One guest, switched on or off."""

    def __init__(self, name, address, image, programs, run):
        self.name, self.address = name, address
        self._image, self._programs, self._run = image, programs, run
        self._disk = os.path.join(run, f"{name}.disk")
        self._process = None
        self._channel = None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._pending = {}

    def make_disk(self):
        """Makes the disk that survives."""
        with open(self._disk, "wb") as file:
            file.truncate(6 << 30)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", self._disk], check=True)

    def switch_on(self, cable):
        """Starts the machine and returns at once; `cable` is its end of the virtual cable, as qemu takes it."""
        ear = os.path.join(self._run, f"{self.name}.ear")
        if os.path.exists(ear):
            os.unlink(ear)
        console = os.path.join(self._run, f"{self.name}.console")
        number = self.address.rsplit(".", 1)[1]
        with open(os.path.join(self._run, f"{self.name}.qemu"), "ab") as said:
            self._process = subprocess.Popen(
                ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-m", "1024",
                 "-nodefaults", "-display", "none", "-no-reboot",
                 "-kernel", os.path.join(self._image, "kernel"), "-append",
                 "console=ttyS0 root=/dev/nvme0n1 rootfstype=ext4 rw init=/guest/init panic=-1 quiet mitigations=off "
                 f"guest_name={self.name} guest_address={self.address}",
                 "-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console",
                 *disk(0, os.path.join(self._image, "root.img"), "snapshot=on"),
                 *disk(1, self._programs, "readonly=on"),
                 *disk(2, self._disk, "discard=unmap"),
                 "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
                 "-chardev", f"socket,id=ear,path={ear},server=on,wait=off", "-device", "virtserialport,chardev=ear,name=ear",
                 "-netdev", f"stream,id=cable,{cable}",
                 "-device", f"virtio-net-pci,netdev=cable,mac=52:54:00:00:00:{int(number):02x}"],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=end_with_parent)
        threading.Thread(target=self._listen, args=(ear,), daemon=True).start()

    def wait_until_up(self, seconds=120):
        """Returns when the guest takes commands."""
        answer = self.begin("true")
        try:
            answer.wait(seconds)
        except GuestError as error:
            raise GuestError(f"{self.name} did not come up: {error}\n{self.console()}") from None
        if answer.code != 0:
            raise GuestError(f"{self.name} did not come up: {answer.output}\n{self.console()}")

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
            with open(os.path.join(self._run, f"{self.name}.console"), errors="replace") as file:
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
                self._pending[number].request = request
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


def disk(number, path, option):
    """qemu's words for a disk; the guest sees it as /dev/nvme<number>n1."""
    return ["-drive", f"if=none,id=d{number},file={path},format=raw,{option}",
            "-device", f"nvme,drive=d{number},serial=d{number}"]


def end_with_parent():
    """A qemu must not outlive a suite that was killed; and ^C is for the suite, which then ends its machines itself."""
    import ctypes
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    os.setpgrp()
