# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gates around one member, from given observations. Tests with real hosts cover the waiting."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member, Status, failed_checks
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.processes import Process
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.rollout import Other
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.causes import Cause
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

from tests.unit.fakes import Client

MEMBERS = [("infra0", "10.0.0.6"), ("infra1", "10.0.0.7"), ("infra2", "10.0.0.8")]
WANTED = ["etcd", "--name=infra0", "--cors=a", "--cors=b"]


def others(text: str) -> list[Other]:
    """One letter for each other member: h healthy voter, d voter that is down, l learner."""
    return [
        Other(f"infra{number}", letter != "l", None if letter == "h" else "is not healthy")
        for number, letter in enumerate(text, start=1)
    ]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("hh", []),
        ("hhh", []),
        ("hhhh", []),
        ("hd", ["infra2 is not healthy"]),
        ("dd", ["infra1 is not healthy", "infra2 is not healthy"]),
        # Five members would keep quorum with one down and one restarting, but the next fault would end it.
        ("hhhd", ["infra4 is not healthy"]),
        ("hhl", ["infra3 is not healthy"]),
        ("", ["1 voting member and no quorum while infra0 restarts"]),
        ("h", ["2 voting members and no quorum while infra0 restarts"]),
    ],
)
def test_the_gate(state: str, words: list[str]) -> None:
    problems = _rollout.gate_problems("infra0", others(state))
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("hh", []),
        ("hhhd", []),
        ("hhl", []),
        # Even if it is not ready, quorum may need it.
        ("hd", ["infra2 is not healthy"]),
        ("hhdd", ["infra3 is not healthy", "infra4 is not healthy"]),
        ("h", ["2 voting members and no quorum while infra0 restarts"]),
        ("hl", ["infra2 is not healthy"]),
    ],
)
def test_the_gate_of_one_that_runs_and_is_not_ready(state: str, words: list[str]) -> None:
    problems = _rollout.gate_problems("infra0", others(state), ready=False)
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems))


@pytest.mark.parametrize(
    ("ready", "state", "words"),
    [
        (True, "hh", None),
        (True, "hd", "infra2 is not healthy"),
        (True, "hhhd", "infra4 is not healthy"),
        # A slow disk: it votes, and infra2 is down.
        (False, "hd", "infra2 is not healthy.* move its etcd.yaml out"),
        (False, "hhhd", None),
        (False, "hh", None),
        (False, "", "nobody answers.* move its etcd.yaml out"),
        (None, "hd", None),
        (None, "dd", None),
    ],
)
def test_members_that_may_be_stopped(
    ready: bool | None, state: str, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ready: None where no process runs."""
    process = None if ready is None else Process(7, 100, WANTED)
    monkeypatch.setattr(_processes, "PATIENCE", -1.0)
    monkeypatch.setattr(_processes, "find_etcd_process", lambda _name: process)
    monkeypatch.setattr(_rollout, "probe", lambda _url, _timeout: (ready, ""))
    seen = (others(state), None if state else "nobody answers")
    monkeypatch.setattr(_rollout, "look_at_others", lambda _target, _process: seen)
    target = _rollout.make_target("infra0", MEMBERS, 2379, 2381, "/pki")
    if words is None:
        _rollout.check_gate(target)
    else:
        with pytest.raises(EtcdError, match=f"infra0 is not touched, .*{words}"):
            _rollout.check_gate(target)


def test_a_member_that_is_not_ready_for_a_moment_keeps_its_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of five is down, so a ready member has to wait. This one is not ready only because of an election."""
    answers = iter([False, True])
    monkeypatch.setattr(_processes, "PATIENCE", 0.05)
    monkeypatch.setattr(_rollout.time, "sleep", lambda _seconds, _sleep=time.sleep: _sleep(0.1))
    monkeypatch.setattr(_processes, "find_etcd_process", lambda _name: Process(7, 100, WANTED))
    monkeypatch.setattr(_rollout, "probe", lambda _url, _timeout: (next(answers), ""))
    monkeypatch.setattr(_rollout, "look_at_others", lambda _target, _process: (others("hhhd"), None))
    with pytest.raises(EtcdError, match="infra4 is not healthy"):
        _rollout.check_gate(_rollout.make_target("infra0", MEMBERS, 2379, 2381, "/pki"))


@pytest.mark.parametrize(
    ("member", "answer", "name", "voter", "problem"),
    [
        (Member(1, "infra1", ["p"], ["c"], False), None, "infra1", True, None),
        (Member(1, "infra1", ["p"], ["c"], False), "refuses", "infra1", True, "is not healthy (refuses): repair"),
        (Member(1, "infra1", ["p"], ["c"], False), "", "infra1", True, "is not healthy"),
        (Member(1, "infra1", ["p"], ["c"], True), None, "infra1", False, "is a learner"),
        (Member(0xBEEF, "", ["p"], [], False), None, "member beef", True, "has never started"),
        (Member(1, "infra1", ["p"], [], True), None, "infra1", False, "has never started"),
    ],
)
def test_what_another_member_is(
    member: Member, answer: str | None, name: str, voter: bool, problem: str | None
) -> None:
    other = _rollout.describe_other(member, answer)
    assert (other.name, other.voter) == (name, voter)
    assert (other.problem is None) if problem is None else (problem in (other.problem or ""))


@pytest.mark.parametrize(
    ("process", "old", "words"),
    [
        (None, None, "no etcd process runs"),
        (None, Process(7, 100, WANTED), "no etcd process runs"),
        (Process(7, 100, WANTED), Process(7, 100, WANTED), "the old process (pid 7) still runs"),
        (Process(7, 200, WANTED), Process(7, 100, WANTED), None),
        (Process(8, 200, WANTED), Process(7, 100, WANTED), None),
        (Process(8, 200, WANTED), None, None),
        (Process(8, 200, [*WANTED, "--more=1"]), None, None),
        (Process(8, 200, [WANTED[0], *WANTED[:0:-1]]), None, None),
        (Process(8, 200, ["etcd", "--name=infra0", "--cors=a"]), None, "runs without --cors=b"),
        (Process(8, 200, ["etcd", "--name=infra0", "--cors=b", "--cors=b"]), None, "runs without --cors=a"),
    ],
)
def test_whether_the_new_process_runs(process: Process | None, old: Process | None, words: str | None) -> None:
    problem = _processes.process_problem(process, old, WANTED)
    assert (problem is None) if words is None else (words in (problem or ""))


def test_what_the_kubelet_expands_is_not_compared() -> None:
    assert _processes.missing_arguments(["etcd", "--log-level=$(LEVEL)"], ["etcd", "--log-level=info"]) == []
    # The kubelet makes a single $ of two.
    assert _processes.missing_arguments(["etcd", "--cors=https://$$x"], ["etcd", "--cors=https://$x"]) == []
    assert _processes.missing_arguments(["etcd", "--cors=https://$x"], ["etcd", "--cors=https://y"]) != []


@pytest.mark.parametrize(
    ("leader", "own", "words"),
    [
        (None, 5, "it knows no leader"),
        (5, 5, None),
        (1005, 5, None),
        (1006, 5, "1001 log entries behind"),
        (5, 9, None),
    ],
)
def test_whether_it_has_caught_up(leader: int | None, own: int, words: str | None) -> None:
    problem = _rollout.lag_problem(leader, own)
    assert (problem is None) if words is None else (words in (problem or ""))


def test_whether_it_is_a_member() -> None:
    listed = [
        Member(1, "infra0", ["p"], ["c"], False),
        Member(2, "infra1", ["p"], [], False),
        Member(10, "", [], [], False),
    ]
    targets = [_rollout.Target(name, ["client"], "", ("", "", "")) for name in ("infra0", "infra1", "infra9")]
    problems = [_rollout.membership_problem(target, listed) for target in targets]
    assert problems == [
        None,
        "infra1 has not published its client address",
        "the membership has no infra9, only infra0, infra1, a",
    ]


# A host was added anew by hand, at another address, and its former member is still listed.
NAMESAKES = [
    Member(9, "infra2", ["https://10.0.0.9:2380"], ["https://10.0.0.9:2379"], False),
    *(Member(i, f"infra{i}", [f"https://10.0.0.{i}:2380"], [f"https://10.0.0.{i}:2379"], False) for i in range(3)),
]


def test_a_former_member_of_the_same_name_counts_as_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four votes are needed, and it is down: none of the others may stop, whatever it is called."""
    monkeypatch.setattr(_rollout, "ask_membership", lambda *_: (None, NAMESAKES))
    monkeypatch.setattr(_rollout, "ask_health", lambda url, *_: "is down" if ".9:" in url else None)
    target = _rollout.Target("infra2", [f"https://10.0.0.{i}:2379" for i in (2, 0, 1)], "", ("", "", ""))
    process = _processes.Process(1, 1, ["etcd", "--name=infra2", "--advertise-client-urls=https://10.0.0.2:2379"])
    # It runs where it was before, if it is about to move.
    for wanted in (target, replace(target, urls=["https://10.0.0.22:2379", *target.urls[1:]])):
        seen, silence = _rollout.look_at_others(wanted, process)
        assert silence is None and [other.name for other in seen if other.problem] == ["infra2"]
        (problem,) = _rollout.gate_problems("infra2", seen)
        assert "is down" in problem


def test_the_peer_urls_of_a_former_member_of_the_same_name_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rollout, "ask_membership", lambda *_: (None, NAMESAKES))
    target = _rollout.Target("infra2", ["https://10.0.0.2:2379"], "", ("", "", ""))
    assert _rollout.announce_peer_urls(target, None, ["https://10.0.0.2:2380"], check=True) == []
    assert _rollout.announce_peer_urls(target, None, ["https://10.0.0.3:2380"], check=True) == NAMESAKES[3].peer_urls


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("ok", "ok"),
        ("", ""),
        (
            "[+]ping ok\n[-]data_corruption failed\n[+]x ok\n[-]read_index failed",
            "[-]data_corruption failed; [-]read_index failed",
        ),
        ("x" * 500, "x" * 200),
    ],
)
def test_answers_on_one_line(answer: str, line: str) -> None:
    assert failed_checks(answer) == line


def test_where_a_member_is_asked() -> None:
    target = _rollout.make_target("infra1", MEMBERS, 12379, 12381, "/pki")
    assert target.urls == ["https://10.0.0.7:12379", "https://10.0.0.6:12379", "https://10.0.0.8:12379"]
    assert target.metrics == "http://127.0.0.1:12381/readyz"
    assert target.credentials == (
        "/pki/etcd/ca.crt",
        "/pki/etcd/healthcheck-client.crt",
        "/pki/etcd/healthcheck-client.key",
    )
    sixth = _rollout.make_target("infra0", [("infra0", "fd00::6")], 2379, 2381, "/pki")
    assert (sixth.urls, sixth.metrics) == (["https://[fd00::6]:2379"], "http://[::1]:2381/readyz")
    with pytest.raises(EtcdError, match="members does not have infra9"):
        _rollout.make_target("infra9", MEMBERS, 2379, 2381, "/pki")


@pytest.mark.parametrize(
    ("argv", "url"),
    [
        (["etcd", "--listen-metrics-urls=http://127.0.0.1:9999"], "http://127.0.0.1:9999/readyz"),
        (["etcd", "--listen-metrics-urls=http://[::1]:9999/,http://x"], "http://[::1]:9999/readyz"),
        (["etcd"], "default"),
    ],
)
def test_a_running_process_is_asked_on_its_own_port(argv: list[str], url: str) -> None:
    assert _processes.metrics_of(argv, "default") == url


def fake_process(root: Path, pid: int, started: int, argv: list[str], name: str = "etcd") -> None:
    """An entry of /proc."""
    (root / str(pid)).mkdir()
    (root / str(pid) / "cmdline").write_bytes(b"".join(item.encode() + b"\0" for item in argv))
    fields = ["S", *["0"] * 18, str(started), "0"]
    (root / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


def test_finding_etcd(tmp_path: Path) -> None:
    assert _processes.find_etcd_process("infra0", str(tmp_path)) is None
    # As in /proc, it leads to one of the processes.
    (tmp_path / "self").symlink_to(tmp_path / "70")
    fake_process(tmp_path, 1, 1, ["/sbin/init"])
    fake_process(tmp_path, 2, 2, ["etcd", "--name=infra1"])
    fake_process(tmp_path, 3, 3, ["etcdctl", "--name=infra0"])
    fake_process(tmp_path, 4, 4, ["sh", "-c", "etcd --name=infra0"])
    fake_process(tmp_path, 5, 5, [])
    (tmp_path / "6").mkdir()
    assert _processes.find_etcd_process("infra0", str(tmp_path)) is None
    fake_process(tmp_path, 70, 900, ["/usr/local/bin/etcd", "--name=infra0"], name="odd) (name")
    fake_process(tmp_path, 71, 800, ["etcd", "--name=infra0"])
    assert _processes.find_etcd_process("infra0", str(tmp_path)) == Process(
        70, 900, ["/usr/local/bin/etcd", "--name=infra0"]
    )


def test_finding_a_real_process(tmp_path: Path) -> None:
    name = f"unit-test-{os.getpid()}"
    # A shell that calls itself etcd and waits for its input to end.
    child = subprocess.Popen(["etcd", "-c", "read x", f"--name={name}"], executable="/bin/sh", stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 5
        found = None
        while found is None and time.monotonic() < deadline:
            found = _processes.find_etcd_process(name)
        assert found is not None
        assert found.pid == child.pid
        manifest = tmp_path / "etcd.yaml"
        manifest.write_text("")
        # Starts are counted in hundredths of a second, and so may file times be.
        os.utime(manifest, (time.time() + 1, time.time() + 1))
        settled = _processes.younger_than(str(manifest))
        assert not settled(found), "a process older than a manifest of this moment"
        os.utime(manifest, (time.time() - 100, time.time() - 100))
        assert _processes.younger_than(str(manifest))(found), "a manifest of long ago"
        os.utime(manifest, (time.time() - 30, time.time() - 30))
        assert _processes.younger_than(str(manifest))(found), "a process younger than the manifest"
    finally:
        child.communicate()
    assert _processes.find_etcd_process(name) is None


def test_the_deadline_says_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    target = _rollout.make_target("no-such-member", [("no-such-member", "10.0.0.6")], 2379, 2381, "/pki")
    monkeypatch.setattr(_rollout, "POLL", 0.01)
    with pytest.raises(EtcdError, match=r"waited 0 s until it runs the new manifest; no etcd process runs\."):
        _rollout.wait_for_member(target, WANTED, None, 0.05, lambda _process: True, list)


def test_a_controller_that_is_there(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    one, other = socket.socketpair()
    # The end of its input is no end of the connection: a pipelined module has been read to its end.
    other.shutdown(socket.SHUT_WR)
    with one, other, open(os.devnull, "wb") as null, tempfile.TemporaryFile() as plain:
        for output in (writer, one.fileno(), null.fileno(), plain.fileno()):
            _rollout.check_controller(output)
    os.close(reader)
    os.close(writer)


def test_a_controller_that_is_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    one, other = socket.socketpair()
    other.close()
    master, slave = os.openpty()
    os.close(master)
    for output in (writer, one.fileno(), slave):
        with pytest.raises(_rollout.AbandonedError, match="has ended"):
            _rollout.check_controller(output)
    one.close()
    os.close(writer)
    os.close(slave)


WAITS = """
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
target = _rollout.make_target("no-such-member", [("no-such-member", "10.0.0.6")], 2379, 2381, "/pki")
print("waits", flush=True)
_rollout.wait_for_member(target, ["etcd"], None, 60.0, lambda _process: True, list)
"""


def test_a_controller_that_is_gone_is_noticed_while_waiting() -> None:
    """As when ssh ends: the reader of the output is gone, but the parent (sudo, a shell) is not."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout and child.stderr
        try:
            assert child.stdout.readline() == b"waits\n"
            time.sleep(0.5)
            assert child.poll() is None
            child.stdout.close()
            assert child.wait(10) == 1
            assert b"AbandonedError" in child.stderr.read()
        finally:
            child.kill()


def test_files_and_processes_that_disappear(tmp_path: Path) -> None:
    """A process that has ended and a manifest that was removed are not errors."""
    # No pid is as high (PID_MAX_LIMIT).
    _processes.stop(Process(2**22 + 1, 1, []))
    with pytest.raises(EtcdError, match=r"etcd\.yaml cannot be read: No such file or directory"):
        _processes.younger_than(str(tmp_path / "etcd.yaml"))


def test_a_member_that_does_not_run_may_be_touched() -> None:
    # This needs no certificates and no network, since it repairs a member.
    _rollout.check_gate(_rollout.make_target("no-such-member", [("no-such-member", "10.0.0.6")], 2379, 2381, "/none"))


FLAG = Cause("flag", "etcd", "flag provided but not defined: -no-such-flag", final=True)
PULL = Cause("image", "kubelet", "not found", final=False)
PROBE = Cause("stopped", "etcd", "etcd was stopped 240 s after its start", final=True)


@pytest.mark.parametrize(
    ("causes", "is_final"), [([FLAG], True), ([PULL, FLAG], True), ([PULL], False), ([PROBE], False), ([], False)]
)
def test_a_final_cause_ends_the_wait(causes: list[Cause], is_final: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An etcd that was stopped by its probe may only need more time."""
    now = [0.0]
    clock = SimpleNamespace(
        time=time.time, monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds)
    )
    monkeypatch.setattr(_rollout, "time", clock)
    target = _rollout.make_target("no-such-member", [("no-such-member", "10.0.0.6")], 2379, 2381, "/pki")
    with pytest.raises(EtcdError) as caught:
        _rollout.wait_for_member(target, WANTED, None, 30.0, lambda _process: True, lambda: causes)
    assert (now[0] < 3) == is_final and now[0] < 31
    assert all(f"{cause.program}: {cause.text}" in str(caught.value) for cause in causes)


def test_a_directory_that_was_made_again(tmp_path: Path) -> None:
    """The process still sees the former directory, through /proc/PID/root."""
    process = _processes.Process(7, 1, [])
    pki = tmp_path / "pki"
    (pki / "etcd").mkdir(parents=True)
    seen = tmp_path / "proc" / "7" / f"root{pki}"
    seen.mkdir(parents=True)
    (seen / "etcd").symlink_to(pki / "etcd")
    assert _processes.stale_directory(process, str(pki), str(tmp_path / "proc")) == ""
    assert _processes.stale_directory(None, str(pki), str(tmp_path / "proc")) == ""
    (pki / "etcd").rename(tmp_path / "former")
    (seen / "etcd").unlink()
    (seen / "etcd").symlink_to(tmp_path / "former")
    assert "runs with a former" in _processes.stale_directory(process, str(pki), str(tmp_path / "proc"))
    (pki / "etcd").mkdir()
    assert "runs with a former" in _processes.stale_directory(process, str(pki), str(tmp_path / "proc"))


class Asked:
    """Members as clients see them. applied: by URL, the raft index that each has applied. leader: its id."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.members = [Member(i, f"infra{i}", [f"peer{i}"], [f"client{i}"], False) for i in range(2)]
        self.applied: dict[str, int | EtcdError] = {"client0": 5000, "client1": 5000}
        self.leader = 1
        self.health: str | None = None
        asked = self

        class Seen(Client):
            def members(self) -> list[Member]:
                return asked.members

            def status(self) -> Status:
                applied = asked.applied[self.url]
                if isinstance(applied, EtcdError):
                    raise applied
                return Status(1, 0, "3.6.0", 0, 0, None, asked.leader, 1, applied, applied, False)

        monkeypatch.setattr(_rollout, "EtcdClient", Seen)
        monkeypatch.setattr(_rollout, "ask_health", lambda url, _target: self.health if url == "client0" else "?")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"leader": 0}, None),
        ({"leader": 0, "applied": {"client0": 1}}, None),
        ({"applied": {"client0": 3000, "client1": 5000}}, "it is 2000 log entries behind the leader"),
        ({"leader": 7}, "it knows no leader"),
        ({"leader": 0, "applied": {"client0": EtcdError("client0 is silent.")}}, "client0 is silent"),
        ({"applied": {"client0": 1, "client1": EtcdError("client1 is silent.")}}, "client1 is silent"),
        ({"health": "is sick"}, "is sick"),
        ({"members": []}, "the membership has no infra0, only "),
        ({"members": [Member(0, "infra0", ["p"], [], False)]}, "infra0 has not published its client address"),
    ],
)
def test_what_a_full_member_is(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], problem: str | None) -> None:
    asked = Asked(monkeypatch)
    for name, value in change.items():
        setattr(asked, name, value)
    assert _rollout.service_problem(_rollout.Target("infra0", ["client0"], "", ("", "", ""))) == problem


def test_a_leader_that_has_never_published_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    asked.members[1] = Member(1, "infra1", ["peer1"], [], False)
    problem = _rollout.service_problem(_rollout.Target("infra0", ["client0"], "", ("", "", "")))
    assert problem == "it knows no leader"


@pytest.mark.parametrize(
    ("learner", "urls", "asked"),
    [(False, ["new"], [(7, ["new"])]), (False, ["old"], []), (True, ["new"], [])],
)
def test_the_peer_urls_of_a_learner_are_not_updated(
    monkeypatch: pytest.MonkeyPatch, learner: bool, urls: list[str], asked: list[Any]
) -> None:
    updated: list[Any] = []

    class Asked(Client):
        def update_member(self, *arguments: Any) -> None:
            updated.append(arguments)

    members = [Member(7, "infra0", ["old"], ["x"], learner)]
    monkeypatch.setattr(_rollout, "ask_membership", lambda *_: (Asked("client0"), members))
    target = _rollout.Target("infra0", ["client0"], "", ("", "", ""))
    for check in (True, False):
        assert _rollout.announce_peer_urls(target, None, urls, check) == (["old"] if asked else [])
        assert updated == ([] if check else asked)


def test_a_member_is_waited_for_until_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old process, one that is older than the manifest, and processes that are not ready, lag or end again."""
    old, new = Process(1, 1, ["etcd", *WANTED]), Process(2, 2, ["etcd", *WANTED])
    seen = [None, old, new, new, new, new, None, new, new]
    left = {"settled": [False], "ready": [False], "lag": ["it lags"]}
    looks: list[str] = []

    def next_of(what: str, rest: Any) -> Any:
        looks.append(what)
        return left[what].pop(0) if left[what] else rest

    monkeypatch.setattr(_rollout, "POLL", 0.0)
    monkeypatch.setattr(_rollout, "check_controller", lambda: None)
    monkeypatch.setattr(_processes, "find_etcd_process", lambda _name: seen.pop(0))
    monkeypatch.setattr(_rollout, "probe", lambda *_: (next_of("ready", True), "no"))
    monkeypatch.setattr(_rollout, "service_problem", lambda _target: next_of("lag", None))
    target = _rollout.Target("infra0", ["client0"], "http://x/readyz", ("", "", ""))
    _rollout.wait_for_member(target, WANTED, old, 60, lambda _process: next_of("settled", True), list)
    assert seen == []
    assert looks == ["settled", *["settled", "ready"], *["settled", "ready", "lag"] * 3]


class Versions:
    """Members by address: the version of each, and the cluster version that it reports. silent: members without an answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, running: list[str], agreed: list[str]) -> None:
        versions, asked = dict(zip(("10.0.0.6", "10.0.0.7", "10.0.0.8"), running)), iter(agreed)

        class Seen(Client):
            @property
            def version(self) -> str:
                return versions[self.url.split("//")[1].split(":")[0]]

            def members(self, **_linearizable: bool) -> list[Member]:
                return [
                    Member(number, name, [], [f"https://{address}:2379"] if versions[address] else [], False)
                    for number, (name, address) in enumerate(MEMBERS)
                ]

            def status(self) -> Status:
                if self.version == "silent":
                    raise EtcdError("silent")
                return Status(1, 1, self.version, 1, 1, None, 1, 1, 1, 1, False, [])

            def cluster_version(self) -> str:
                if self.version == "silent":
                    raise EtcdError("silent")
                return next(asked)

        monkeypatch.setattr(_rollout, "EtcdClient", Seen)
        monkeypatch.setattr(_rollout.time, "sleep", lambda _seconds: None)
        self.target = _rollout.make_target("infra0", MEMBERS, 2379, 2381, "/pki")


@pytest.mark.parametrize(
    ("running", "agreed"),
    [
        # The turn waits until they agree, but not while members run different versions or one does not answer.
        (["3.6.14"] * 3, ["3.5.0", "3.5.0", "3.6.0"]),
        (["3.6.14", "3.5.35", "3.6.14"], ["3.5.0"]),
        (["3.6.14", "silent", "3.6.14"], []),
        (["3.6.14", "", "3.6.14"], ["3.6.0"]),
        (["3.6.14"] * 3, ["not yet"]),
    ],
)
def test_the_version_of_the_cluster_is_waited_for(
    running: list[str], agreed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _rollout.wait_for_cluster_version(Versions(monkeypatch, running, agreed).target)


def test_a_version_that_is_never_agreed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rollout, "AGREES", -1.0)
    target = Versions(monkeypatch, ["3.6.14"] * 3, ["3.5.0"]).target
    with pytest.raises(EtcdError, match=r"all members run etcd 3\.6, and the cluster has not agreed .* it has 3\.5\."):
        _rollout.wait_for_cluster_version(target)


@pytest.mark.parametrize(
    ("running", "told"),
    [
        # The member itself is asked last.
        (["silent", "3.6.14", "3.6.14"], "3.6.0"),
        (["3.6.14", "silent", "silent"], "3.6.0"),
        (["silent"] * 3, ""),
    ],
)
def test_the_version_of_the_cluster_from_any_member(
    running: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _rollout.ask_cluster_version(Versions(monkeypatch, running, ["3.6.0"]).target) == told
