"""Boots two guests, plays what was asked for, prints the tables. Started by scripts/test-vm, which knows where everything is."""
import argparse
import os
import shutil
import signal
import sys
import tempfile
import time

import moves
import power
from cluster import Cluster, Failure
from machine import GuestError

LIMIT_MINUTES = 20
PARTS = ("moves", "power")
PHASES = tuple(dict.fromkeys(cell.phase for cell in power.CELLS))


def ended_by(number, _frame):
    """Ends the suite in an orderly way: everything that was started is in a `finally`."""
    if number == signal.SIGALRM:
        raise Failure(f"not done after {LIMIT_MINUTES} minutes")
    raise SystemExit(128 + number)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--image", required=True)
    options.add_argument("--binaries", required=True)
    options.add_argument("parts", nargs="*", choices=[*PARTS, *PHASES, []])
    given = options.parse_args()
    phases = [part for part in given.parts if part in PHASES]
    parts = [part for part in PARTS if not given.parts or part in given.parts or (part == "power" and phases)]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, ended_by)
    signal.alarm(LIMIT_MINUTES * 60)

    begun = time.monotonic()

    def say(line):
        print(f"{time.monotonic() - begun:6.1f} s  {line}", flush=True)

    # Short, because sockets live in it; not /tmp, which may be in memory.
    run = tempfile.mkdtemp(prefix="mg.", dir="/var/tmp")
    cluster, results = None, []
    try:
        cluster = Cluster(given.image, given.binaries, run)
        cluster.switch_on()
        say("two guests are up: " + cluster.one.machine.run("uname -r; criu --version | head -n 1; stat -fc %T /sys/fs/cgroup")
            .replace("\n", ", ").rstrip(", "))
        if "moves" in parts:
            results.append((moves, moves.run(cluster, say)))
        if "power" in parts:
            results.append((power, power.run(cluster, say, phases)))
        failed = any(row.fault for _, rows in results for row in rows)
        if failed:
            print(cluster.explain(), file=sys.stderr)
    except (Failure, GuestError) as failure:
        failed = True
        print(f"scripts/test-vm: {failure}", file=sys.stderr)
        if cluster:
            print(cluster.explain(), file=sys.stderr)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        if cluster:
            cluster.switch_off()
        shutil.rmtree(run)
    for part, rows in results:
        print("\n" + "\n".join(part.table(rows)))
    print(f"\n{time.monotonic() - begun:.0f} s in all; {'FAILED' if failed else 'everything passed'}")
    return 1 if failed else 0


sys.exit(main())
