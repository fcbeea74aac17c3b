"""A node is switched off in the middle of a move: the other one holds to the contract, and the record says what is lost.

The agent waits at the entry of a phase (see its setting `halts`) until the power is gone. What may come of it: before the commit
the source's copy counts, after it the target's. A copy that was on the machine that lost power is lost, for there are no
checkpoints yet; then the record has to say so, and it runs nowhere.
"""
import time
from dataclasses import dataclass

import wire
from cluster import PATIENCE, Failure, first_json
from machine import GuestError
from moves import last_cycle

NAME = "witness"
SOURCE, TARGET = "source", "target"
RUNS, LOST = "runs", "lost"


@dataclass
class Cell:
    """The power of one side goes when it enters a phase; then a copy must run, or be lost, on one side."""

    phase: str
    off: str
    fate: str
    where: str
    # What the other side's `ps` has to come to say while it cannot know what was decided.
    doubt: bool = False
    # What was seen.
    fired: bool = False
    while_off: str = ""
    found: str = ""
    copies: int = 0
    seconds: float = 0.0
    fault: str = ""


CELLS = (
    Cell("prepare", TARGET, RUNS, SOURCE),
    Cell("prepare", SOURCE, LOST, SOURCE),
    Cell("transfer", TARGET, RUNS, SOURCE),
    Cell("transfer", SOURCE, LOST, SOURCE),
    Cell("restore", TARGET, RUNS, SOURCE),
    Cell("restore", SOURCE, LOST, SOURCE),
    Cell("commit", TARGET, RUNS, SOURCE),
    Cell("commit", SOURCE, LOST, SOURCE, doubt=True),
    # From here on the source has decided.
    Cell("resume", TARGET, LOST, TARGET),
    Cell("resume", SOURCE, RUNS, TARGET, doubt=True),
    Cell("clean-up", TARGET, LOST, TARGET),
    Cell("clean-up", SOURCE, RUNS, TARGET),
)


def settled(cluster, deadline):
    """Waits until both nodes agree that no move is under way; the views of all, [(node, view)]."""
    while True:
        views = [(node, view) for node in cluster.nodes if (view := node.view(NAME))]
        if len(views) == 1 and views[0][1]["state"] in ("running", "lost", "stopped", "failed"):
            return views
        if time.monotonic() > deadline:
            return views
        time.sleep(0.5)


def rests_at(cluster, copies, deadline):
    """How many copies have processes; another number than that may only be what a move leaves until its link has been given up."""
    while True:
        found = sum(1 for node in cluster.nodes if node.processes(NAME))
        if found == copies or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def clear(cluster):
    """Removes the workload, and waits until nothing of it or of its move is left anywhere."""
    deadline = time.monotonic() + PATIENCE
    for node in cluster.nodes:
        if node.view(NAME):
            node.migrate(f"rm -f {NAME}")
    while left := {node.name: found for node in cluster.nodes if (found := node.leftovers(NAME))}:
        if time.monotonic() > deadline:
            raise Failure(f"left behind: {left}")
        time.sleep(0.5)


def advances(cluster, patience=PATIENCE):
    """Whether the witness is heard, by whom it is told."""
    before, deadline = len(cluster.told()), time.monotonic() + patience
    while time.monotonic() < deadline:
        told = cluster.told()
        if len(told) >= before + 3:
            return told[-1][2]
        time.sleep(0.5)
    return None


def stop_in(node, side, phase):
    """Prepares the halt at the entry of a phase. What is returned has an answer once the machine is off."""
    fifo = f"/run/halts/{side}-{phase}"
    node.machine.run(f"rm -f /run/halts/*; mkfifo {fifo}")
    return node.machine.begin(f"exec 3>{fifo}; touch /run/halts/fired; sleep 1000")


def await_fired(node, move):
    """Until the move waits at the halt; a move that ends before has failed for another reason, and says which."""
    deadline = time.monotonic() + PATIENCE
    while node.machine.begin("[ -e /run/halts/fired ]").wait(PATIENCE).code != 0:
        if move.arrived(0.2):
            raise Failure(f"the move ended before: {move.output.strip()}")
        if time.monotonic() > deadline:
            raise Failure(f"the move did not come so far within {PATIENCE} s; {say_what_is_known(node)}")


def await_doubt(node):
    """Until the node's `ps` says that the workload stands still here, and why."""
    deadline = time.monotonic() + PATIENCE
    while True:
        view = node.view(NAME)
        if view and view["state"] == "frozen" and view["reason"]:
            return
        if time.monotonic() > deadline:
            raise Failure(f"{node.name} holds it in doubt and does not say so: {view}")
        time.sleep(0.5)


def say_what_is_known(node):
    """What the surviving node's `ps` says, about itself or about the other."""
    views = [view for view in node.ask("ps") if view["name"] == NAME]
    said = [f"{view['state']} on {view['node']}" + (f" ({view['reason']})" if view.get("reason") else "") for view in views]
    return f"{node.name} says: {'; '.join(said) or 'nothing'}"


def play(cluster, cell, source, target):
    """One cell. Whatever is not as it has to be is raised."""
    begun = time.monotonic()
    sides = {SOURCE: source, TARGET: target}
    victim, survivor = sides[cell.off], cluster.other(sides[cell.off])
    earlier = len(cluster.told())
    source.migrate(f"run --name {NAME} -- /programs/witness")
    if advances(cluster) != source.name:
        raise Failure("the witness does not say anything")
    stop_in(victim, cell.off, cell.phase)
    move = source.begin(f"--force {NAME} --to {target.name}")
    await_fired(victim, move)
    cell.fired = True
    victim.machine.switch_off()

    if cell.off == TARGET and cell.fate == RUNS:
        report = first_json(move.wait(PATIENCE).output)
        cell.while_off = f"{report['outcome']}, runs on {source.name}"
        if report["outcome"] != "stayed" or advances(cluster) != source.name:
            raise Failure(f"the source should run on, but: {move.output}")
    elif cell.doubt:
        await_doubt(survivor)
        cell.while_off = say_what_is_known(survivor)
    else:
        # After the commit nothing ends before the other side is back.
        cell.while_off = say_what_is_known(survivor)
    victim.switch_on(survivor)
    cluster.wait_for_each_other()

    views = settled(cluster, time.monotonic() + PATIENCE)
    cell.found = ", ".join(f"{view['state']} on {node.name}" for node, view in views) or "nowhere"
    where = sides[cell.where]
    speaker = advances(cluster, PATIENCE if cell.fate == RUNS else 3)
    wanted = 1 if cell.fate == RUNS else 0
    cell.copies = rests_at(cluster, wanted, time.monotonic() + PATIENCE)
    expected = "running" if cell.fate == RUNS else "lost"
    if [(node, view["state"]) for node, view in views] != [(where, expected)]:
        raise Failure(f"it should be {expected} on {where.name}")
    if speaker != (where.name if cell.fate == RUNS else None) or cell.copies != wanted:
        raise Failure(f"{cell.copies} copies have processes, and {speaker} speaks")
    fault = wire.fault(cluster.told()[earlier:])
    if fault:
        raise Failure(fault)
    if cell.fate == RUNS:
        last_cycle(where.log(NAME))
    cell.seconds = time.monotonic() - begun


def run(cluster, say, phases=()):
    """Plays every cell, or those of some phases, the nodes taking turns as source."""
    source, target = cluster.nodes
    cells = [cell for cell in CELLS if not phases or cell.phase in phases]
    for cell in cells:
        try:
            play(cluster, cell, source, target)
        except (Failure, GuestError) as failure:
            cell.fault = str(failure)
        for node in cluster.nodes:
            if not node.machine.is_on:
                node.switch_on(cluster.other(node))
        try:
            clear(cluster)
        except (Failure, GuestError) as failure:
            cell.fault = cell.fault or str(failure)
        say(f"{cell.phase}, {cell.off} off: {cell.found or '-'} (while it was off: {cell.while_off or '-'})"
            + (f" FAILED: {cell.fault}" if cell.fault else ""))
        source, target = target, source
    return cells


def table(cells):
    """The cells, as they stand in docs/reliability.md."""
    lines = ["| phase | switched off | fired | while it was off | after it was back | copies running | held |",
             "|---|---|---|---|---|---|---|"]
    for cell in cells:
        lines.append(f"| {cell.phase} | {cell.off} | {'yes' if cell.fired else 'NO'} | {cell.while_off} | {cell.found} | "
                     f"{cell.copies} | {'yes' if not cell.fault else 'NO'} |")
    return lines
