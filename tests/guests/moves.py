"""Workloads of several users, moved between the guests and back."""
import time
from dataclasses import dataclass, field

from cluster import PATIENCE, Failure
from machine import GuestError


@dataclass
class Kind:
    """A workload that verifies itself, and what else can be seen of it."""

    name: str
    what: str
    words: str
    users: frozenset
    moves: int
    # A command on the node where it runs, with $group for its control group; its output must be the same everywhere.
    probe: str = ""


KINDS = (
    Kind("user", "specimen, run with --user", "--user 33:33 -- /programs/specimen demo --mib 16", frozenset({"www-data"}), 4),
    Kind("web", "nginx, its workers, a client that stays connected", "-- /programs/web", frozenset({"root", "www-data", "nobody"}), 4,
         "curl -sf http://127.0.0.1:8080/3 | sha256sum"),
    Kind("bank", "PostgreSQL under load, an auditor in one session", "-- /programs/bank",
         frozenset({"root", "postgres", "www-data"}), 4),
    Kind("limited", "specimen, within 64 MiB and half a core", "--memory 64MiB --cpus 0.5 -- /programs/specimen demo --mib 16",
         frozenset({"root"}), 2, "cat $group/held/load/memory.max $group/held/load/cpu.max"),
)


@dataclass
class Row:
    """What became of a workload's moves."""

    kind: Kind
    moves: int = 0
    pauses: list = field(default_factory=list)
    totals: list = field(default_factory=list)
    cycles: int = 0
    fault: str = ""


def last_cycle(lines):
    """The number in the last `ok N`; every one from 1 must be there, and nothing but these."""
    for expected, line in enumerate(lines, 1):
        if line.split()[:2] != ["ok", str(expected)]:
            raise Failure(f"instead of `ok {expected}` it said: {line}")
    return len(lines)


def await_cycles(node, kind, more):
    """Waits until the workload has verified itself so many times more."""
    deadline, first = time.monotonic() + PATIENCE, None
    while True:
        now = last_cycle(node.log(kind.name))
        first = now if first is None else first
        if now >= first + more:
            return now
        if time.monotonic() > deadline:
            raise Failure(f"it stands still at `ok {now}` on {node.name}")
        time.sleep(0.5)


def users(node, kind):
    return frozenset(node.machine.run(f"ps -o user:32= -p $(paste -sd, {node.group(kind.name)}/held/load/cgroup.procs)").split())


def probe(node, kind):
    return node.machine.run(f"group={node.group(kind.name)}; {kind.probe}") if kind.probe else ""


def move(cluster, kind, here, row):
    """One move from `here` to the other node, and the proof that all of it arrived."""
    there = cluster.other(here)
    processes, probed = here.processes(kind.name), probe(here, kind)
    report = here.ask(f"--force {kind.name} --to {there.name}")
    if report["outcome"] != "moved":
        raise Failure(f"the outcome is {report['outcome']}: {report['error']}")
    row.cycles = await_cycles(there, kind, 3)
    view = there.view(kind.name)
    if not view or view["state"] != "running" or view["epoch"] != report["epoch"]:
        raise Failure(f"after the move {there.name} says: {view}")
    if users(there, kind) != kind.users:
        raise Failure(f"on {there.name} it runs as {sorted(users(there, kind))}")
    if there.processes(kind.name) < processes and kind.name != "bank":
        raise Failure(f"{there.processes(kind.name)} processes are on {there.name}, of {processes}")
    if probe(there, kind) != probed:
        raise Failure(f"on {there.name} `{kind.probe}` says something else than on {here.name}")
    left = here.leftovers(kind.name)
    if left:
        raise Failure(f"it left on {here.name}: {' '.join(left)}")
    row.moves += 1
    row.pauses.append(report["downtime_ms"] / 1000)
    row.totals.append(report["total_ms"] / 1000)
    return there


def run(cluster, say):
    """Moves everything, and returns the rows of the table."""
    rows = []
    for kind in KINDS:
        row, here = Row(kind), cluster.one
        rows.append(row)
        try:
            here.migrate(f"run --name {kind.name} {kind.words}")
            await_cycles(here, kind, 3)
            for _ in range(kind.moves):
                here = move(cluster, kind, here, row)
                say(f"{kind.name}: on {here.name}, paused for {row.pauses[-1]:.2f} s, {row.totals[-1]:.1f} s in all, "
                    f"went on to ok {row.cycles}")
            here.migrate(f"rm -f {kind.name}")
            left = here.leftovers(kind.name)
            if left:
                raise Failure(f"removed, it left on {here.name}: {' '.join(left)}")
        except (Failure, GuestError) as failure:
            row.fault = str(failure)
            say(f"{kind.name}: {failure}")
    return rows


def median(values):
    return sorted(values)[len(values) // 2] if values else 0.0


def table(rows):
    """The rows, as they stand in docs/reliability.md."""
    lines = ["| workload | users | moves | state | verified itself | pause, median (worst) | move, median |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row.kind.what} | {', '.join(sorted(row.kind.users))} | {row.moves} of {row.kind.moves} | "
            f"{'intact' if not row.fault else 'FAILED'} | {row.cycles} times | "
            f"{median(row.pauses):.2f} s ({max(row.pauses, default=0):.2f} s) | {median(row.totals):.1f} s |")
    return lines
