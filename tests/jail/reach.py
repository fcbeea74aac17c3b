#!/usr/bin/env python3
"""A workload that is root and means no good: tries to reach what is not its own. One line an attempt.

usage: reach.py SECRETS SOCKETS VICTIM [ATTEMPTS]
SECRETS, SOCKETS: paths of the node, separated by ':', that nothing in a sandbox may read or connect to.
VICTIM: the name of another workload.
ATTEMPTS: only these, separated by commas.

    kept NAME           it did not work
    REACHED NAME what   it did
"""

import ctypes
import errno
import os
import signal
import socket
import stat
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
SECRETS, SOCKETS = (argument.split(":") for argument in sys.argv[1:3])
VICTIM = sys.argv[3]
ONLY = sys.argv[4].split(",") if len(sys.argv) > 4 else None


def attempt(name, reach):
    """`reach` returns what it has reached, or nothing; an OSError is a refusal."""
    if ONLY is not None and name not in ONLY:
        return
    try:
        reached = reach()
    except (OSError, ValueError):
        reached = None
    print(f"REACHED {name} {reached}" if reached else f"kept {name}", flush=True)


def called(result):
    """What a system call answered; a refusal as an exception."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def syscall(number, *arguments):
    return called(libc.syscall(ctypes.c_long(number), *arguments))


def content(path):
    """What is at a path, if there is anything."""
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return f"{path}: {os.listdir(path)}" if os.listdir(path) else None
        with open(path, "rb") as file:
            return f"{path}: {file.read(100)!r}" if file.read(1) else None
    except OSError:
        return None


def first(found):
    return next(filter(None, found), None)


# ---- by path -----------------------------------------------------------------------------------------------------


def roots():
    """Every way to a root directory that there may be."""
    yield ""
    for process in filter(str.isdigit, os.listdir("/proc")):
        yield from (f"/proc/{process}/root", f"/proc/{process}/cwd" + "/.." * 12)
    for descriptor in range(64):
        yield from (f"/proc/1/fd/{descriptor}" + "/.." * climb for climb in (1, 12))
    yield from (place + "/.." * 12 for place in ("/programs", "/scripts", "/work", "/.migrate/run", "/.migrate/layer", "/dev"))


attempt("secret-by-path", lambda: first(content(root + secret) for root in roots() for secret in SECRETS))


def through_a_link():
    os.symlink(SECRETS[0], "/work/link")
    return content("/work/link")


attempt("secret-by-link", through_a_link)


def anywhere():
    """Every directory but the kernel's; the control is that the walk sees much."""
    seen = 0
    for directory, names, files in os.walk("/", topdown=True):
        if directory == "/":
            names[:] = [name for name in names if name not in ("proc", "sys", "dev")]
        seen += len(files)
        for name in files:
            if "cluster.key" in name or name.startswith("agent.sock") or name == "layer.img":
                return os.path.join(directory, name)
        if VICTIM in directory:
            return directory
    assert seen > 1000, f"only {seen} files"
    return None


attempt("secret-anywhere", anywhere)


def by_handle():
    """open_by_handle_at asks only the file system: the root's inode is a well-known one."""
    mount = os.open("/usr", os.O_RDONLY)
    for inode in (2, 128):
        handle = struct.pack("Iiii", 8, 1, inode, 0) + bytes(120)
        os.close(syscall(304, mount, handle, os.O_RDONLY))
        return f"inode {inode}"


attempt("file-by-handle", by_handle)

# ---- devices and mounts --------------------------------------------------------------------------------------------


def device(kind, number):
    def make():
        path = f"/work/device-{number}"
        os.mknod(path, kind | 0o600, number)
        with open(path, "rb") as opened:
            return f"{opened.read(1)!r}"

    return make


attempt("block-device", device(stat.S_IFBLK, os.makedev(7, 0)))
attempt("character-device", device(stat.S_IFCHR, os.makedev(1, 1)))
attempt("loop-control", lambda: os.open("/dev/loop-control", os.O_RDWR) and "opened")
attempt("other-devices", lambda: first(
    name for name in os.listdir("/dev") if stat.S_ISBLK(os.stat(f"/dev/{name}").st_mode)))


def mount(source, target, kind, flags):
    called(libc.mount(source, target, kind, flags, None))
    return "mounted"


attempt("mount-new", lambda: mount(b"none", b"/work", b"tmpfs", 0))
attempt("mount-bind", lambda: mount(b"/", b"/work", None, 4096))
attempt("mount-writable", lambda: mount(None, b"/usr", None, 32 | 4096))
attempt("uncover", lambda: first(called(libc.umount2(secret.encode(), 2)) == 0 and secret for secret in SECRETS))
attempt("tree-of-mounts", lambda: syscall(428, -100, b"/", 1) and "open_tree")


def in_new_namespaces(flags):
    """Whether what is hidden is in sight from namespaces of a child's own."""

    def enter():
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                called(libc.unshare(flags))
                for secret in SECRETS:
                    libc.umount2(secret.encode(), 2)
                found = first(content(secret) for secret in SECRETS)
                os.write(writer, (found or "").encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        return os.read(reader, 200).decode()

    return enter


attempt("mount-namespace", in_new_namespaces(0x20000))
attempt("user-namespace", in_new_namespaces(0x10000000 | 0x20000))
attempt("init-namespace", lambda: called(libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)) == 0 and "setns")


def chroot_out():
    """The oldest trick: a root below where one stands."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.makedirs("/work/jail", exist_ok=True)
            os.chroot("/work/jail")
            os.chdir("../" * 30)
            os.chroot(".")
            code = 0 if first(content(secret) for secret in SECRETS) else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0 and "a root above"


attempt("chroot", chroot_out)

# ---- processes -----------------------------------------------------------------------------------------------------

attempt("other-processes", lambda: first(
    f"{pid}" for pid in filter(str.isdigit, os.listdir("/proc")) if int(pid) not in (1, os.getpid())))
attempt("trace-init", lambda: syscall(101, 16, 1, 0, 0) == 0 and "attached")
attempt("memory-of-init", lambda: os.open("/proc/1/mem", os.O_RDONLY) and "opened")
attempt("environment-of-init", lambda: content("/proc/1/environ"))
attempt("descriptors-of-init", lambda: first(
    open(f"/proc/1/fd/{descriptor}", "rb") and f"{descriptor}" for descriptor in os.listdir("/proc/1/fd")))
attempt("descriptor-from-init", lambda: syscall(438, syscall(434, 1, 0), 3, 0) and "taken")


def end_init():
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        os.kill(1, number)
    with open("/proc/1/stat", encoding="ascii") as file:
        return file.read().rsplit(") ", 1)[1][0] in "TtZX" and "it stopped"


attempt("end-init", end_init)
attempt("node-memory", lambda: first(content(path) for path in ("/dev/mem", "/proc/kcore")))
attempt("node-clock", lambda: os.open("/dev/rtc0", os.O_RDWR) and "opened")
attempt("core-pattern", lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY) and "opened")

# ---- control groups ------------------------------------------------------------------------------------------------


def group_files():
    for directory, _, files in os.walk("/sys/fs/cgroup"):
        for name in files:
            if name in ("cgroup.procs", "cgroup.freeze", "cgroup.kill", "release_agent", "memory.max"):
                yield os.path.join(directory, name)


def write_to_a_group():
    tried = 0
    for path in group_files():
        try:
            os.close(os.open(path, os.O_WRONLY))
            return path
        except OSError as error:
            assert error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT), (path, error)
            tried += 1
    assert tried, "no control groups are in sight at all"
    return None


attempt("control-groups", write_to_a_group)

# ---- sockets -------------------------------------------------------------------------------------------------------


def answers(address):
    """What somebody at a Unix socket says to a question, if they take it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(2)
        try:
            stream.connect(address)
            stream.sendall(b"GET /v1/health HTTP/1.0\r\n\r\n")
            return f"{address!r}: connected, {stream.recv(100)!r}"
        except TimeoutError:
            return f"{address!r}: connected"
        except OSError:
            return None


def listed_sockets():
    """What listens, as the kernel lists it for this network, which is the node's."""
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if len(fields) > 7 and fields[3] == "00010000" and fields[4] == "0001":
                yield fields[7]


attempt("agent-socket", lambda: first(answers(root + path) for root in roots() for path in SOCKETS if len(root + path) < 108))
attempt("listed-socket", lambda: first(answers(path) for path in listed_sockets() if path[0] != "@" and "migrate" in path))
# Only what is migrate's: other programs of a node may listen for whoever is there.
attempt("abstract-socket", lambda: first(
    path for path in listed_sockets() if path[0] == "@" and any(word in path for word in ("migrate", "zmq", "router", "criu"))))
attempt("own-init-socket", lambda: answers("/.migrate/control.sock") or answers("/.migrate/run/../control.sock"))

# ---- another workload ----------------------------------------------------------------------------------------------


def elsewhere_on(device_number):
    """Another workload's layer is a device of its own; none but this one's is in sight."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        devices = {line.split()[2] for line in table if " - ext4 /dev/loop" in line or " - ext4 /proc/self/fd" in line}
    return len(devices) > 1 and f"{devices} besides {device_number}"


attempt("other-layer", lambda: elsewhere_on(os.stat("/work").st_dev))
attempt("other-name", lambda: VICTIM in open("/proc/self/mountinfo", encoding="utf-8").read() and "in the table of mounts")


def shared_memory():
    with open("/proc/sysvipc/shm", encoding="ascii") as table:
        segments = table.readlines()[1:]
    return segments or os.listdir("/dev/shm") or None


attempt("shared-memory", shared_memory)

# ---- the controls: this program can reach what it may --------------------------------------------------------------

attempt("control-file", lambda: content("/etc/passwd"))


def own_socket():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as own:
        own.bind("/work/own.sock")
        own.listen()
        return answers("/work/own.sock")


attempt("control-socket", own_socket)
print("end", flush=True)
