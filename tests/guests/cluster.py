"""Two guests with an agent each, and the `migrate` command in them."""
import json
import os
import secrets
import shutil
import subprocess
import time

from machine import GuestError, Machine

PROGRAMS = ("migrate", "migrate-agent", "migrate-init", "specimen")
PORT = 7700
SERVICE, CONTAINER = "service", "container"
# Nothing here depends on being fast: a guest is ten times slower than its host, and the host may be busy.
PATIENCE = 180


class Failure(Exception):
    """Something is not as it has to be."""


def first_json(output):
    """What a command said on stdout; what it said on stderr follows."""
    try:
        return json.JSONDecoder().raw_decode(output)[0]
    except ValueError:
        raise Failure(f"this is no JSON: {output.strip()}") from None


class Node:
    """A machine and its agent, which runs as a service of the machine, or as in a container."""

    def __init__(self, machine, manner):
        self.machine, self.name, self._manner = machine, machine.name, manner

    def switch_on(self, other):
        """Boots, and starts the agent."""
        self.machine.switch_on(other.name)
        self.machine.wait_until_up(PATIENCE)
        self.start_agent(other)

    def start_agent(self, other):
        """Starts the agent and waits until it answers."""
        peer = f"{other.name}={other.machine.address}:{PORT}"
        self.machine.run(f"setsid supervise {self._manner} {peer} </dev/null >/dev/null 2>&1 &")
        self.wait_for_agent()

    def wait_for_agent(self):
        """Until it answers; it does once it has taken over what its disk says."""
        self.machine.run("until [ -S /run/migrate/agent.sock ] && migrate -q ps >/dev/null 2>&1; do sleep 0.2; done", PATIENCE)

    def begin(self, words):
        """Starts a `migrate` command."""
        return self.machine.begin(f"migrate --json {words}")

    def migrate(self, words):
        """Runs a `migrate` command to its end; a failure where it fails."""
        answer = self.begin(words).wait(PATIENCE)
        if answer.code != 0:
            raise Failure(f"{self.name}: migrate {words} ended with {answer.code}: {answer.output.strip()}")
        return answer.output

    def ask(self, words):
        """The same, for commands that say JSON."""
        return first_json(self.migrate(words))

    def view(self, workload):
        """What this node's agent alone says about a workload: `None` where it has none of that name."""
        views = [view for view in self.ask("ps") if view["name"] == workload and view["node"] == self.name]
        return views[0] if views else None

    def group(self, workload):
        """The workload's control group, from the root of the machine."""
        return f"/sys/fs/cgroup{'/container' if self._manner == CONTAINER else ''}/migrate/{workload}"

    def processes(self, workload):
        """How many processes of the workload there are here, by the kernel's word."""
        return int(self.machine.run(f"cat {self.group(workload)}/held/load/cgroup.procs 2>/dev/null | wc -l"))

    def log(self, workload):
        """The workload's stdout so far."""
        return self.machine.run(f"migrate logs --tail 100000 {workload} 2>/dev/null").splitlines()

    def leftovers(self, workload):
        """What should not be here any more once a workload has left, one line each."""
        found = self.machine.run(
            f"ls -d {self.group(workload)} /run/migrate/*/*{workload}* /var/lib/migrate/workloads/{workload} 2>/dev/null;"
            "pgrep -a criu; ls /run/migrate/images 2>/dev/null; true")
        return found.split("\n")[:-1]


class Cluster:
    """Two nodes, `one` and `two`, and everything that belongs to a run of the suite."""

    def __init__(self, image, binaries, run):
        self._run = run
        programs = self._make_programs(binaries)
        self.one = Node(Machine("one", "10.0.9.1", image, programs, run), SERVICE)
        self.two = Node(Machine("two", "10.0.9.2", image, programs, run), CONTAINER)

    @property
    def nodes(self):
        return self.one, self.two

    def other(self, node):
        return self.two if node is self.one else self.one

    def _make_programs(self, binaries):
        """The disk with what is tested: the project's binaries, the workloads, and a cluster key."""
        here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
        directory, image = os.path.join(self._run, "programs"), os.path.join(self._run, "programs.disk")
        shutil.copytree(here, directory)
        for name in PROGRAMS:
            shutil.copy2(os.path.join(binaries, name), directory)
            subprocess.run(["strip", "--strip-debug", os.path.join(directory, name)], check=True)
        key = os.open(os.path.join(directory, "cluster.key"), os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(key, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        os.chmod(directory, 0o755)
        subprocess.run(["chown", "-R", "0:0", directory], check=True)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", "programs", "-d", directory, image, "256M"], check=True,
                       stdout=subprocess.DEVNULL)
        shutil.rmtree(directory)
        return image

    def switch_on(self):
        for node in self.nodes:
            node.machine.make_disk()
        # Together: booting is what they have in common.
        for node in self.nodes:
            node.machine.switch_on(self.other(node).name)
        for node in self.nodes:
            node.machine.wait_until_up(PATIENCE)
        for node in self.nodes:
            node.start_agent(self.other(node))
        self.wait_for_each_other()

    def wait_for_each_other(self):
        """Until both agents see both alive."""
        deadline = time.monotonic() + PATIENCE
        for node in self.nodes:
            while any(view["state"] != "alive" for view in node.ask("nodes")):
                if time.monotonic() > deadline:
                    raise Failure(f"{node.name} does not see its peer")
                time.sleep(0.5)

    def switch_off(self):
        for node in self.nodes:
            node.machine.switch_off()

    def told(self):
        """What the witness has said on the cable until now, in the order of time."""
        return sorted(entry for node in self.nodes for entry in node.machine.heard())

    def explain(self):
        """The agents' and the kernels' last words, for whoever looks into a failure."""
        said = []
        for node in self.nodes:
            said.append(f"--- {node.name}: console\n{node.machine.console()}")
            if node.machine.is_on:
                try:
                    said.append(f"--- {node.name}: agent\n" + node.machine.run("tail -n 30 /var/lib/migrate/agent.log", 20))
                except GuestError:
                    pass
        return "\n".join(said)
