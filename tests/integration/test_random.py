"""Random sequences compared with a model (model.py): hosts join, leave, fail and come back, controllers are killed, and a client always writes.

KUBEADM_ETCD_SEED=7 KUBEADM_ETCD_STEPS=40 runs one sequence, KUBEADM_ETCD_HOSTS sets the number of hosts (3 to 7). A failure prints the seed and all
steps before it. A seed chooses the same steps if the hosts behave the same. The log and the table of each sequence are in build/random/.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from .conftest import LAB_NAME, ROOT, Lab, Run
from .model import (
    BEFORE,
    LISTED,
    Expected,
    Host,
    Operation,
    Standing,
    State,
    Step,
    choose,
    contradictions,
    expect,
    finishing,
    happened,
    interrupted,
    settled,
    together,
)
from .said import GIVES_WAY_IN_MEMBERSHIP, reasons_in
from .test_killed import killed_at
from .test_live import DOWN, PKI, flat
from .test_members import only
from .writer import call, encoded

pytestmark = pytest.mark.long

HOSTS = [f"infra{number}" for number in range(int(os.environ.get("KUBEADM_ETCD_HOSTS", "7")))]
SEED = os.environ.get("KUBEADM_ETCD_SEED", "")
SEQUENCES = [(int(SEED), int(os.environ.get("KUBEADM_ETCD_STEPS", "200")))] if SEED else [(1, 200), (2, 100), (3, 100)]

# The longest gap between two writes that a run may cause, in seconds: an election takes two, a restart of etcd eleven or more.
LONGEST_GAP = 8.0

# Seconds until members are healthy again after an event.
RECOVERS = 150.0

# Limits the client, so that hours of writes fit into the quota.
PAUSE = 0.02

LOOK = """
ls /var/lib/etcd/member/wal/*.wal >/dev/null 2>&1 && echo data
[ -e /etc/kubernetes/manifests/etcd.yaml ] && echo manifest
cat /etc/kubernetes/kubeadm-etcd/member.json 2>/dev/null
true
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    """Fresh hosts of a lab of their own."""
    it = Lab(f"{LAB_NAME}random", HOSTS)
    it("up", "--hosts", str(len(HOSTS)))
    yield it
    if not os.environ.get("KUBEADM_ETCD_KEEP_LAB"):
        it("down")


@dataclass
class Writer:
    """A client on this machine, since hosts may stop: it writes to any member, and remembers what was acknowledged."""

    urls: list[str]
    pki: str
    acknowledged: dict[str, int] = field(default_factory=dict)
    gap: float = 0.0

    def put(self, key: str) -> bool:
        """Whether a member acknowledges a write. The one that did is asked first the next time."""
        for _attempt in self.urls:
            if call(self.urls[0], "/v3/kv/put", {"key": encoded(key), "value": encoded("x")}, self.pki):
                return True
            self.urls.append(self.urls.pop(0))
        return False

    def write(self, name: str, stop: threading.Event) -> None:
        """Write without a long pause until told to stop."""
        self.acknowledged[name], last = 0, time.monotonic()
        while not stop.is_set():
            if self.put(f"{name}/{self.acknowledged[name]:08d}"):
                self.acknowledged[name] += 1
                self.gap, last = max(self.gap, time.monotonic() - last), time.monotonic()
            time.sleep(PAUSE)
        self.gap = max(self.gap, time.monotonic() - last)

    def lost(self, name: str) -> list[int]:
        """Acknowledged writes that a quorum does not have."""
        body = {"key": encoded(name + "/"), "range_end": encoded(name + "0"), "keys_only": True}
        answers = (call(url, "/v3/kv/range", body, self.pki) for url in [*self.urls] * 5)
        answer = next(filter(None, answers), None)
        assert answer is not None, f"no member answers when asked for the writes of {name}"
        keys = {base64.b64decode(item["key"]).decode() for item in answer.get("kvs", [])}
        return [number for number in range(self.acknowledged[name]) if f"{name}/{number:08d}" not in keys]


@dataclass
class Row:
    """A row of the table. recovery: seconds until all members that can be healthy were. gap: 0 if quorum was lost during the step."""

    step: Step
    ended: str
    seconds: float
    recovery: float
    gap: float


@dataclass
class Sequence:
    """One sequence on real hosts."""

    lab: Lab
    path: Path
    state: State
    writer: Writer
    count: int = 10000
    is_settled: bool = False
    rows: list[Row] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    kept: Path | None = None
    # What the runs of the latest step have printed.
    printed: str = ""

    def say(self, text: str) -> None:
        """A line of the log, which is there while the sequence runs too."""
        self.log.append(text)
        if self.kept:
            self.kept.write_text("\n".join(self.log) + "\n", encoding="utf-8")

    def url(self, host: str) -> str:
        """The client URL of a host."""
        return f"https://{self.lab.addresses()[host]}:2379"

    # --- What is asked of hosts ---------------------------------------------------------------------------------------

    def arguments(self, operation: Operation) -> tuple[tuple[str, ...], dict[str, str]]:
        """Arguments of a run, its playbook and its inventory."""
        where = make(self.path / f"inventory-{time.monotonic_ns()}")
        names = [name for name in self.lab.hosts if name in operation.wanted]
        variables = {"etcd_extra_args": {"snapshot-count": str(self.count)}, "etcd_health_timeout": 60}
        found = ["-e", json.dumps(variables)]
        if operation.action in ("remove", "replace"):
            found += ["-e", f"etcd_member={operation.host}"]
        if operation.is_forced:
            name = "etcd_replace_healthy" if operation.action == "replace" else "etcd_allow_interruption"
            found += ["-e", f"{name}=true"]
        playbooks = {"remove": "playbooks/remove_member.yml", "replace": "playbooks/replace_member.yml"}
        return tuple(found), {
            "playbook": playbooks.get(operation.action, "site.yml"),
            "inventory": only(self.lab, where, *names),
        }

    def play(self, operation: Operation) -> Run:
        """Run it."""
        arguments, how = self.arguments(operation)
        run = self.lab.play(*arguments, timeout=2400, playbook=how["playbook"], inventory=how["inventory"])
        self.printed += f"\n--- {operation.action} {operation.host}, ended with {run.code} after {run.seconds:.0f} s\n{run.output[-6000:]}"
        return run

    def cause(self, step: Step) -> None:
        """Have an event happen."""
        host = step.host
        if step.kind == "kill":
            # The kubelet may not have started it again since the last time: it waits for some seconds.
            self.lab.sh(host, "for i in $(seq 120); do pkill -KILL -x etcd && exit; sleep 0.5; done; exit 1")
        elif step.kind == "stop":
            self.lab.sh(host, DOWN, check=False)
        elif step.kind == "empty":
            self.lab.sh(host, f"{DOWN}; rm -rf /var/lib/etcd/member; systemctl start kubelet || true", check=False)
        elif step.kind != "forget":
            self.lab({"off": "stop", "on": "start"}.get(step.kind, step.kind), host)

    # --- What is seen of hosts ----------------------------------------------------------------------------------------

    def is_healthy(self, host: str) -> bool:
        """Whether a member serves a linearizable read."""
        answer = call(self.url(host), "/health", None, self.writer.pki)
        return bool(answer and answer.get("health") == "true")

    def recovered(self) -> float:
        """Wait until all members that can be healthy are so. Returns seconds."""
        begin = time.monotonic()
        while True:
            with ThreadPoolExecutor() as pool:
                well = dict(zip(self.state.ready, pool.map(self.is_healthy, self.state.ready)))
            waiting = [host for host, is_well in well.items() if not is_well]
            if not waiting:
                return time.monotonic() - begin
            assert time.monotonic() < begin + RECOVERS, f"not healthy after {RECOVERS:.0f} s: {', '.join(waiting)}"
            time.sleep(0.3)

    def membership(self) -> dict[str, bool] | None:
        """Whether each member is a learner, by host; None without a quorum. A member that has not started has an address only."""
        hosts_by_address = {address: host for host, address in self.lab.addresses().items()}
        for host in self.state.those(Standing.VOTER):
            asked = call(self.url(host), "/v3/cluster/member/list", {"linearizable": True}, self.writer.pki)
            if asked and self.state.hosts[host].is_on and not self.state.hosts[host].is_cut:
                return {
                    hosts_by_address[re.sub(r"https://(.*):\d+", r"\1", item["peerURLs"][0])]: bool(
                        item.get("isLearner")
                    )
                    for item in asked["members"]
                }
        return None

    def is_started(self, host: str) -> bool:
        """Whether a kubelet runs."""
        return self.lab.sh(host, "systemctl is-active kubelet || true").strip() == "active"

    def observed(self) -> dict[str, Standing]:
        """The standing of each host, from the membership that a quorum tells and from its files."""
        listed = self.membership()
        if listed is None:
            return {}
        found = {}
        for name, host in self.state.hosts.items():
            if not host.is_on:
                if name not in listed and host.standing in LISTED:
                    found[name] = Standing.FORMER
                continue
            there = self.lab.sh(name, LOOK, check=False)
            has_data, is_removed = "data\n" in there, '"removed": "20' in there
            if name in listed:
                found[name] = Standing.LEARNER if listed[name] else Standing.VOTER if has_data else Standing.EMPTIED
            elif has_data or "manifest\n" in there or ("{" in there and not is_removed):
                found[name] = Standing.FORMER
            else:
                found[name] = Standing.REMOVED if is_removed else Standing.FRESH
        return found

    # --- Steps --------------------------------------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """Do a step, and check its result."""
        name = f"w{len(self.rows):04d}"
        self.say(f"{len(self.rows) + 1}. {step}")
        before, stop = self.state, threading.Event()
        self.writer.gap, self.printed = 0.0, ""
        thread = threading.Thread(target=self.writer.write, args=(name, stop))
        thread.start()
        begin = time.monotonic()
        try:
            ended = self.act(step)
            seconds = time.monotonic() - begin
            recovery = self.recovered()
        finally:
            stop.set()
            thread.join()
        gap = self.writer.gap
        shown = {host: item.standing.value for host, item in self.state.hosts.items()}
        self.say(f"   {ended}; {seconds:.0f} s, well after {recovery:.1f} s, longest gap {gap:.1f} s; {shown}")
        is_served = before.has_quorum and self.state.has_quorum
        # A member that was killed is back after some seconds, which the model leaves out.
        is_served = is_served and (step.kind != "kill" or before.survives(step.host))
        self.rows.append(Row(step, ended, seconds, recovery, gap if is_served else 0.0))
        if self.state.has_quorum:
            lost = self.writer.lost(name)
            assert not lost, f"{len(lost)} acknowledged writes are lost: {lost[:5]}\n{self.printed}"
        if is_served and not may_interrupt(before, step):
            assert gap < LONGEST_GAP, f"no write was acknowledged for {gap:.1f} s\n{self.printed}"

    def act(self, step: Step) -> str:
        """Do a step, and return its result in a word."""
        if not step.operations:
            self.cause(step)
            self.state = happened(self.state, step)
            self.is_settled = False
            return "done"
        if any(operation.action == "roll" for operation in step.operations):
            former, self.count = self.count, self.count + 1
        else:
            former = self.count
        try:
            if step.kind == "both":
                return self.both(step)
            return self.killed(step) if step.kind == "killed" else self.run(step.operations[0], former)
        finally:
            wanted = self.state.wanted.union(*(operation.wanted for operation in step.operations))
            self.state = replace(self.state, wanted=wanted)

    def look(self, allowed: dict[str, tuple[Standing, ...]], output: str) -> None:
        """Observe the hosts, and fail if the model does not allow their state."""
        seen = self.observed()
        wrong = contradictions(self.state, seen, allowed)
        assert not wrong, f"{'; '.join(wrong)}\n{output[-6000:]}"
        self.state = settled(self.state, seen, [host for host in self.state.stopped if self.is_started(host)])

    def run(self, operation: Operation, former: int) -> str:
        """A run that nothing disturbs."""
        expected = expect(self.state, operation)
        run = self.play(operation)
        ended = self.judge(operation, expected, run)
        if expected.refusals:
            self.count = former
        elif operation.action in ("site", "roll"):
            self.state = replace(self.state, is_rolled=run.code == 0)
        self.is_settled = operation.action in ("site", "roll") and run.code == 0
        return ended

    def judge(self, operation: Operation, expected: Expected, run: Run) -> str:
        """How a run ended, if the model allows it."""
        said = flat(run.output)
        reasons = reasons_in(said)
        assert "Traceback" not in said, run.output[-6000:]
        if run.code == 0:
            assert not expected.must_fail, (
                f"the run succeeds, and the model expects a failure: {expected}\n{run.output[-6000:]}"
            )
            is_idle = self.is_settled and operation.action == "site" and operation.wanted == self.state.wanted
            assert not is_idle or run.changed() == {}, (
                f"a run after a successful run changes something\n{run.output[-6000:]}"
            )
            self.look({host: standings[:1] for host, standings in expected.after.items()}, run.output)
            assert not set(expected.starts) & set(self.state.stopped), (
                f"it was to start {expected.starts}\n{run.output[-6000:]}"
            )
            return "ok"
        if expected.refusals:
            named = reasons & BEFORE
            assert named, f"the run names no reason, and the model expects {expected.refusals}\n{run.output[-6000:]}"
            assert named <= expected.refusals, (
                f"the model does not allow the reasons {named - expected.refusals}\n{run.output[-6000:]}"
            )
            assert run.changed() == {}, f"a refused run changes something\n{run.output[-6000:]}"
            self.look({}, run.output)
            return "refused: " + ", ".join(sorted(reason.name for reason in named))
        named = reasons & expected.failures
        assert named, f"the run fails for none of {expected.failures}\n{run.output[-6000:]}"
        self.look(dict(expected.after), run.output)
        assert not set(expected.starts) & set(self.state.stopped), (
            f"it was to start {expected.starts}\n{run.output[-6000:]}"
        )
        return "failed: " + ", ".join(sorted(reason.name for reason in named))

    def killed(self, step: Step) -> str:
        """A run whose controller is killed at a task."""
        (operation,) = step.operations
        arguments, how = self.arguments(operation)
        run, begun = killed_at(self.lab, self.path, step.number, *arguments, timeout=2400, **how)  # type: ignore[arg-type]
        if begun < step.number:
            ended = self.judge(operation, expect(self.state, operation), run)
        else:
            self.look(dict(interrupted(self.state, operation)), run.output)
            ended = "killed"
        self.is_settled = False
        self.state = replace(self.state, is_rolled=self.state.is_rolled and operation.action != "roll")
        return ended

    def both(self, step: Step) -> str:
        """Two runs at once, the second some seconds later. Each succeeds, or stops because of the other."""
        allowed = dict(together(self.state, step.operations))
        runs: dict[int, Run] = {}

        def run(number: int) -> None:
            runs[number] = self.play(step.operations[number])

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        threads[0].start()
        time.sleep(step.number)
        threads[1].start()
        for thread in threads:
            thread.join()
        outputs = "\n".join(runs[number].output[-6000:] for number in range(2))
        self.look(allowed, outputs)
        ends = []
        for number in range(2):
            said = flat(runs[number].output)
            assert "Traceback" not in said, outputs
            named = reasons_in(said)
            gives_way = bool(GIVES_WAY_IN_MEMBERSHIP.search(said))
            # A run may be refused for a state that the other run has made.
            assert runs[number].code == 0 or gives_way or named, outputs
            names = ", ".join(sorted(reason.name for reason in named))
            ends.append("ok" if runs[number].code == 0 else "gave way" if gives_way else f"failed: {names}")
        self.is_settled = False
        self.state = replace(self.state, is_rolled=False)
        return ", ".join(ends)

    def finish(self) -> None:
        """Bring the cluster to the state of the inventory. The second run changes nothing."""
        for _number in range(30):
            step = finishing(self.state)
            if step is None:
                break
            self.take(step)
        site = Step("run", (Operation("site", self.state.wanted, is_forced=len(self.state.those(*LISTED)) <= 2),))
        self.take(site)
        self.take(site)
        assert self.rows[-1].ended == self.rows[-2].ended == "ok"
        everything = {name: self.writer.lost(name) for name in self.writer.acknowledged}
        assert not any(everything.values()), {name: len(lost) for name, lost in everything.items() if lost}


def make(path: Path) -> Path:
    """A directory that was not there."""
    path.mkdir()
    return path


def may_interrupt(state: State, step: Step) -> bool:
    """Whether the cluster may stop for a while, because of an event or because the run has permission."""
    if not step.operations:
        return step.kind in ("kill", "stop", "off", "cut", "empty", "wipe") and not state.survives(step.host)
    return any(operation.is_forced and operation.action != "replace" for operation in step.operations)


def table(rows: list[Row]) -> str:
    """Steps by kind: how many, how they ended, and the longest of each time."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        what = " + ".join(operation.action for operation in row.step.operations)
        label = {"run": what, "killed": f"{what}, killed", "both": f"{what} at once"}.get(row.step.kind, row.step.kind)
        kinds.setdefault(label, []).append(row)
    lines = [
        "| step | times | ended well | refused or failed | seconds, middle and most | until healthy, most | longest write gap |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, found in sorted(kinds.items()):
        well = len([row for row in found if row.ended in ("ok", "done", "killed")])
        seconds = sorted(row.seconds for row in found)
        lines.append(
            f"| {label} | {len(found)} | {well} | {len(found) - well} | {seconds[len(seconds) // 2]:.0f}, {seconds[-1]:.0f}"
            f" | {max(row.recovery for row in found):.1f} | {max(row.gap for row in found):.1f} |"
        )
    return "\n".join(lines)


@pytest.mark.parametrize(("seed", "steps"), SEQUENCES)
def test_a_random_sequence(hosts: Lab, tmp_path: Path, seed: int, steps: int) -> None:
    """No acknowledged write is lost, no run breaks the quorum, the model expects each refusal, and the last run changes nothing."""
    hosts.fresh()
    wanted = frozenset(HOSTS[:3])
    assert hosts.play(inventory=only(hosts, tmp_path, *HOSTS[:3])).code == 0
    pki = make(tmp_path / "pki")
    for name in ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key"):
        (pki / name).write_text(hosts.sh("infra0", f"cat {PKI}/{name}"), encoding="utf-8")
    kept = ROOT / "build" / "random"
    kept.mkdir(parents=True, exist_ok=True)
    standings = {host: Host(Standing.VOTER if host in wanted else Standing.FRESH) for host in HOSTS}
    writer = Writer([f"https://{address}:2379" for address in hosts.addresses().values()], f"{pki}/")
    sequence = Sequence(hosts, tmp_path, State(standings, wanted, "infra0"), writer, kept=kept / f"{seed}.log")
    sequence.say(f"KUBEADM_ETCD_SEED={seed} KUBEADM_ETCD_STEPS={steps} KUBEADM_ETCD_HOSTS={len(HOSTS)}")
    former = None
    try:
        for number in range(steps):
            # Each step has its own random numbers, so that a different result does not change all later steps.
            former = choose(sequence.state, random.Random(f"{seed}/{number}"), former)
            sequence.take(former)
        sequence.finish()
    finally:
        print("\n".join([*sequence.log, table(sequence.rows)]))
    (kept / f"{seed}.md").write_text(table(sequence.rows) + "\n", encoding="utf-8")


def test_growing_from_three_to_five_compared_with_by_hand(hosts: Lab, tmp_path: Path) -> None:
    """Compares site.yml, which also makes certificates and starts kubelets, with `etcdctl member add` and a start of etcd, for two members."""
    hosts.fresh()
    three, five = (only(hosts, make(tmp_path / str(count)), *HOSTS[:count]) for count in (3, 5))
    assert hosts.play(inventory=three).code == 0
    run = hosts.play(inventory=five)
    assert run.code == 0, run.output[-6000:]
    first = replace(hosts, hosts=HOSTS[:1])
    joined, addresses = HOSTS[3:5], hosts.addresses()
    for host in reversed(joined):
        # etcd changes the membership only if its members have been connected for five seconds (HealthInterval).
        time.sleep(6.0)
        listed = json.loads(first.etcdctl("infra0", "member", "list", "-w", "json"))["members"]
        number = next(item["ID"] for item in listed if item["name"] == host)
        first.etcdctl("infra0", "member", "remove", f"{number:x}")
        hosts.sh(
            host,
            "mv /etc/kubernetes/manifests/etcd.yaml /root/; while pidof etcd; do sleep 0.2; done; rm -r /var/lib/etcd/member",
        )
    begin = time.monotonic()
    for host in joined:
        first.etcdctl("infra0", "member", "add", host, f"--peer-urls=https://{addresses[host]}:2380")
        # Its manifest still has the members of its join, with the further URL that prevents a second join (urls_while_joining).
        hosts.sh(
            host,
            f"sed -i 's#,{host}=https://joining-[^,]*##' /root/etcd.yaml; mv /root/etcd.yaml /etc/kubernetes/manifests/",
        )
        url = f"https://{addresses[host]}:2379"
        deadline = time.monotonic() + 120
        while "is healthy" not in first.etcdctl(
            "infra0", "--endpoints", url, "endpoint", "health", "2>&1", check=False
        ):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    by_hand = time.monotonic() - begin
    print(
        f"from three members to five: site.yml {run.seconds:.1f} s, by hand {by_hand:.1f} s: {run.seconds / by_hand:.2f} times"
    )
