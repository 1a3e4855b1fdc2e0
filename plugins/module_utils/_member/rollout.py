# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Gates around the change of one member of a running cluster: may it be touched, and has it come back?

The decisions are pure functions over what was seen; two loops look and wait. After a manifest is replaced, the old
process goes on answering on its metrics port for some seconds, and the new one appears after 11 to 16 s (measured
with kubelet 1.36). So a new process is waited for first, and only then its readiness.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import (
    EtcdClient,
    Member,
    Status,
    failed_checks,
    probe,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.log import last_lines, last_words, log_paths
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.causes import FLAG, STOPPED, Cause
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import client_urls
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import credentials_in
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import EtcdVersion, etcd_version_in

POLL = 0.2

# A member that applied all but this many entries of the leader's log has caught up; etcd itself promotes a learner
# at 90 % (server/etcdserver/server.go, readyPercentThreshold), and a busy leader is always some entries ahead.
MOST_LAG = 1000

# Seconds between two looks for the cause if a member does not start.
LOOK = 2.0

# The leader compares the versions of all members every 4 s (server/etcdserver/server.go, monitorVersionInterval).
AGREES = 30.0

WHERE_TO_LOOK = (
    "Look at `journalctl -u kubelet`, `crictl ps -a --name etcd` and the log under"
    " /var/log/pods/kube-system_etcd-*/etcd/. No further member has been changed. Correct the cause, and run again."
)


class AbandonedError(EtcdError):
    """The controller, or the connection to it, has ended. The run ends at once and undoes nothing."""


@dataclass(frozen=True)
class Target:
    """The member to be changed, and how to ask it and the others.

    urls: client URLs of all expected members, this one's first. credentials: files of CA, certificate and key.
    metrics: URL of /readyz as the new manifest has it.
    """

    name: str
    urls: list[str]
    metrics: str
    credentials: tuple[str, str, str]


@dataclass(frozen=True)
class Other:
    """Another member of the running cluster. problem: why the cluster cannot do without this one now, or None."""

    name: str
    voter: bool
    problem: str | None


def make_target(name: str, members: list[tuple[str, str]], client_port: int, metrics_port: int, pki_dir: str) -> Target:
    """From names and addresses of all expected members. EtcdError where the member is not among them."""
    addresses = dict(members)
    if name not in addresses:
        raise EtcdError(f"members does not have {name}. It has to list all members, this one included.")
    ordered = [(name, addresses[name]), *(item for item in members if item[0] != name)]
    loopback = "[::1]" if ":" in addresses[name] else "127.0.0.1"
    return Target(
        name=name,
        urls=client_urls(ordered, client_port),
        metrics=f"http://{loopback}:{metrics_port}/readyz",
        credentials=credentials_in(pki_dir),
    )


# --- Before ----------------------------------------------------------------------------------------------------------


def gate_problems(name: str, others: list[Other], ready: bool = True) -> list[str]:
    """Why a running member may not be stopped now: another member is unhealthy, or the rest would not be a quorum.

    A member that is not ready, for example because of a slow disk, may still vote. To repair it, a quorum of the others is enough.
    """
    problems = [f"{other.name} {other.problem}" for other in others if other.problem]
    voters = [other for other in others if other.voter]
    size = len(voters) + 1
    left = len([other for other in voters if not other.problem])
    if left >= size // 2 + 1 and not (ready and problems):
        return []
    return problems or [
        f"the cluster has {size} voting member{'s' if size > 1 else ''} and no quorum while {name} restarts. Add"
        " members, or set etcd_allow_interruption: true for this run"
    ]


def describe_other(member: Member, answer: str | None) -> Other:
    """One line of the membership with what the member answered (None: it is healthy)."""
    name = member.name or f"member {member.id:x}"
    if not member.started:
        return Other(
            name, not member.is_learner, "is a member but has never started: run site.yml with its host, or remove it"
        )
    if member.is_learner:
        return Other(
            name, False, "is a learner, which has not joined completely: run site.yml with its host, or remove it"
        )
    return Other(name, True, None if answer is None else f"is not healthy ({answer}): repair it first")


def describe_others(
    members: list[Member], itself: Member | None, target: Target, without: tuple[str, ...] = ("NOSPACE",)
) -> list[Other]:
    """Every line of the membership but that of the member itself, each asked for its health. without: alarms that do not count."""
    return [
        describe_other(member, ask_health(member.client_urls[0], target, without) if member.started else None)
        for member in members
        if member is not itself
    ]


def ask_health(url: str, target: Target, without: tuple[str, ...] = ("NOSPACE",)) -> str | None:
    """None where the member behind a client URL can serve a linearizable read, else what it said. without: alarms that do not count.

    A full database does not prevent a restart: the restart may raise the quota.
    """
    query = "&".join(f"exclude={alarm}" for alarm in without)
    try:
        with EtcdClient(url, *target.credentials, timeout=_processes.ANSWER) as client:
            code, said = client.request("GET", f"/health?{query}")
    except EtcdError as exc:
        return str(exc).rstrip(".")
    return None if code == 200 else failed_checks(said) or f"it answers {code}"


def ask_membership(
    target: Target, process: _processes.Process | None, linearizable: bool = True
) -> tuple[EtcdClient, list[Member]]:
    """The membership as a quorum knows it, and the client that returned it. EtcdError if no member answers.

    process: the member as it runs, which is asked first, and where it listens now. linearizable: False for the membership as one member knows it.
    """
    answers: list[str] = []
    first = _processes.client_url_of(process.argv, target.urls[0]) if process else target.urls[0]
    for url in dict.fromkeys([first, *target.urls]):
        try:
            # It connects again if it is asked for more.
            with EtcdClient(url, *target.credentials, timeout=_processes.ANSWER) as client:
                return client, client.members(linearizable=linearizable)
        except EtcdError as exc:
            answers.append(str(exc).rstrip("."))
    raise EtcdError(f"no member reports the membership: {'; '.join(answers)}.")


def own_entry(target: Target, process: _processes.Process | None, members: list[Member]) -> Member | None:
    """The entry of the member itself; None if there is none. process: as for ask_membership. It tells two members of one name apart."""
    url = _processes.client_url_of(process.argv, target.urls[0]) if process else target.urls[0]
    return entry_of(members, target.name, [url])


def status_at(url: str, target: Target) -> Status:
    """What the member behind a client URL says of itself. EtcdError if it does not answer."""
    with EtcdClient(url, *target.credentials, timeout=_processes.ANSWER) as client:
        return client.status()


def status_with_downgrade(url: str, target: Target) -> Status:
    """The same, and whether a downgrade is enabled, also of a member that does not report it. EtcdError if it does not answer."""
    with EtcdClient(url, *target.credentials, timeout=_processes.ANSWER) as client:
        status = client.status()
        return replace(status, downgrade=client.enabled_downgrade(status))


def ask_cluster_version(target: Target) -> str:
    """The version on which the cluster has agreed, as the first member that answers knows it; '' if none does."""
    # The member itself is the one in doubt, so it is asked last.
    for url in [*target.urls[1:], target.urls[0]]:
        try:
            with EtcdClient(url, *target.credentials, timeout=_processes.ANSWER) as client:
                return client.cluster_version()
        except EtcdError:
            continue
    return ""


def wait_for_cluster_version(target: Target) -> None:
    """After the last member of an upgrade: wait until the cluster has agreed on the version that all members run.

    EtcdError if it does not. Nothing to wait for while members differ; one that does not answer is for the check of the health.
    """
    deadline = time.monotonic() + AGREES
    while True:
        try:
            client, members = ask_membership(target, None)
            running = {
                etcd_version_in(status_at(member.client_urls[0], target).version)
                for member in members
                if member.started
            }
            with client:
                agreed = etcd_version_in(client.cluster_version())
        except EtcdError:
            return
        minors = {version.minor for version in running if version}
        if not agreed or len(minors) != 1 or agreed.minor in minors:
            return
        if time.monotonic() > deadline:
            raise EtcdError(
                f"{target.name}: all members run etcd 3.{minors.pop()}, and the cluster has not agreed on that version after {AGREES:.0f} s: it has"
                f" {agreed.branch}. The log of the leader has the reason (`updating cluster version`). Run again when it has agreed."
            )
        time.sleep(1.0)


def wait_until_lowered(target: Target, wanted: EtcdVersion) -> None:
    """Before a member gets an older minor version of etcd: wait until a downgrade that is enabled has lowered the version of its data.

    EtcdError if it has not: the older etcd would not start. A member that does not answer is not checked, nor one of 3.5, which does not report it.
    """
    deadline = time.monotonic() + AGREES
    while True:
        try:
            stored = etcd_version_in(status_at(target.urls[0], target).storage_version)
        except EtcdError:
            return
        if not stored or stored.minor <= wanted.minor:
            return
        check_controller()
        if time.monotonic() > deadline:
            raise EtcdError(
                f"{target.name} is not touched: its data is of version {stored.branch}, on which etcd {wanted} does not start. etcd lowers the version of the"
                f" data of all members while a downgrade is enabled: run site.yml -e etcd_downgrade={wanted.branch} with all members."
            )
        time.sleep(1.0)


def wait_for_end_of_downgrade(target: Target) -> None:
    """After a member got an older minor version: if it was the last one, wait until etcd has ended the downgrade, which its leader does every 5 s.

    EtcdError if it does not: with the next upgrade, the cluster would keep its version. One that does not answer is for the check of the health.
    """
    deadline = time.monotonic() + AGREES
    while True:
        try:
            _client, members = ask_membership(target, None)
            found = [status_with_downgrade(member.client_urls[0], target) for member in members if member.started]
        except EtcdError:
            return
        minors = {version.minor for version in (etcd_version_in(status.version) for status in found) if version}
        if len(minors) != 1 or not any(status.downgrade for status in found):
            return
        check_controller()
        if time.monotonic() > deadline:
            raise EtcdError(
                f"{target.name}: all members run etcd 3.{minors.pop()}, and etcd has not ended the downgrade after {AGREES:.0f} s. The log of the leader has"
                " the reason (`failed to cancel downgrade`). Run again."
            )
        time.sleep(1.0)


def look_at_others(target: Target, process: _processes.Process) -> tuple[list[Other], str | None]:
    """The other members of the running cluster, or why no member returned them."""
    try:
        _client, members = ask_membership(target, process)
    except EtcdError as exc:
        return [], str(exc).rstrip(".")
    return describe_others(members, own_entry(target, process, members), target), None


def announce_peer_urls(target: Target, process: _processes.Process | None, wanted: list[str], check: bool) -> list[str]:
    """Tell the cluster where a member's peers reach it from now on; the URLs that it knew, empty where they are wanted.

    etcd reads --initial-advertise-peer-urls while it has no data only; after that the URLs are data of the cluster
    (cluster API, MemberUpdate). check: only look. EtcdError where there is no quorum. Those of a learner are left: see promote in _etcd/membership.py.
    """
    client, members = ask_membership(target, process)
    entry = own_entry(target, process, members)
    if entry is None or entry.is_learner or sorted(entry.peer_urls) == sorted(wanted):
        return []
    if not check:
        with client:
            client.update_member(entry.id, wanted)
    return entry.peer_urls


def lasting(problems: Callable[[], list[str]]) -> list[str]:
    """Problems that last for some seconds. A problem that ends sooner may be an election."""
    deadline = time.monotonic() + _processes.PATIENCE
    while True:
        check_controller()
        is_last = time.monotonic() > deadline
        found = problems()
        if not found or is_last:
            return found
        time.sleep(1.0)


def check_gate(target: Target) -> None:
    """Return where the member may be stopped; EtcdError where it may not.

    A member whose process does not run may always be changed: starting it cannot cost the quorum.
    """
    deadline = time.monotonic() + _processes.PATIENCE
    while True:
        process = _processes.find_etcd_process(target.name)
        if process is None:
            return
        late = time.monotonic() > deadline
        ready = probe(_processes.metrics_of(process.argv, target.metrics), _processes.ANSWER)[0]
        others, silence = look_at_others(target, process)
        # Not being ready counts when it lasts: it may be an election.
        problems = [silence] if silence else gate_problems(target.name, others, ready or not late)
        if not problems:
            return
        if late:
            way_out = (
                f" {target.name} is not ready either, but it runs, and the quorum may need it: repair the other members first. Only if the"
                " cluster has no leader, so that stopping it loses nothing,"
                " move its etcd.yaml out of the directory of manifests, and run again."
            )
            raise EtcdError(
                f"{target.name} is not touched, because stopping it could stop the cluster: {'; '.join(problems)}."
                + ("" if ready else way_out)
            )
        time.sleep(1.0)


# --- After -----------------------------------------------------------------------------------------------------------


def membership_problem(target: Target, members: list[Member]) -> str | None:
    """Why the membership does not show a member as started; None where it does."""
    entry = own_entry(target, None, members)
    if entry is None:
        return f"the membership has no {target.name}, only {', '.join(m.name or f'{m.id:x}' for m in members)}"
    return None if entry.started else f"{target.name} has not published its client address"


def lag_problem(leader: int | None, own: int) -> str | None:
    """Why a member has not caught up, from applied raft indexes (None: no leader); None where it has."""
    if leader is None:
        return "it knows no leader"
    return f"it is {leader - own} log entries behind the leader" if leader - own > MOST_LAG else None


def service_problem(target: Target) -> str | None:
    """Why a ready member is not yet a full one: listed, healthy for clients, caught up. None where it is."""
    try:
        with EtcdClient(target.urls[0], *target.credentials, timeout=_processes.ANSWER) as client:
            members = client.members()
            problem = membership_problem(target, members) or ask_health(target.urls[0], target)
            if problem:
                return problem
            own = client.status()
        leader = next((member for member in members if member.id == own.leader and member.started), None)
        if leader is None or leader.id == own.member_id:
            return lag_problem(own.raft_applied_index if leader else None, own.raft_applied_index)
        ahead = status_at(leader.client_urls[0], target)
    except EtcdError as exc:
        return str(exc).rstrip(".")
    return lag_problem(ahead.raft_applied_index, own.raft_applied_index)


def sentence(text: str, causes: list[Cause]) -> str:
    """What is wrong, and the causes in the words of the programs that know them."""
    return ". ".join([text.rstrip("."), *(f"{item.program}: {item.text}".rstrip(".") for item in causes)]) + "."


def told(text: str, causes: list[Cause], since: float) -> str:
    """The same, with the last lines of etcd's log since then, unless etcd has refused a flag: it prints its usage after that."""
    if any(cause.code == FLAG for cause in causes):
        return sentence(text, causes)
    return sentence(text, causes) + last_lines(last_words(log_paths(since)))


class Watch:
    """Looks every few seconds whether a cause is known that waiting does not remove."""

    def __init__(self, causes: Callable[[], list[Cause]]) -> None:
        self.causes = causes
        self.next = time.monotonic() + LOOK

    def is_hopeless(self) -> bool:
        """Whether it is of no use to wait longer. An etcd that was stopped by a probe may be reading a large database."""
        if time.monotonic() < self.next:
            return False
        found = self.causes()
        self.next = time.monotonic() + LOOK
        return any(cause.final and cause.code != STOPPED for cause in found)


def check_controller(output: int = 1) -> None:
    """AbandonedError if the output of the module has no reader any more: the controller or the connection has ended.

    A module on a host does not end with its controller. It would continue to wait, and put a manifest back while the next run works. The
    parent process shows nothing, since sudo or a shell may outlive their sshd. The output does: a pipe without a reader
    reports POLLERR, a socket or a terminal without its other end POLLHUP. For a network that was cut, which the host cannot see, there is
    the lock of the module.
    """
    poll = select.poll()
    poll.register(output, 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _output, event in poll.poll(0)):
        raise AbandonedError(
            "The controller or the connection to it has ended, so this run stops and undoes nothing. Run again."
        )


def wait_for_member(
    target: Target,
    wanted: list[str],
    old: _processes.Process | None,
    timeout: float,
    settled: Callable[[_processes.Process], bool],
    causes: Callable[[], list[Cause]],
) -> float:
    """Wait until the member runs as wanted, is ready, healthy and has caught up. Returns the seconds it took.

    wanted: the command line of the manifest. old: the process that has to give way. settled: whether a process can
    be the new manifest's. causes: what keeps etcd from coming up. EtcdError after `timeout` seconds, or as soon as a cause is known that
    does not pass: which stage was not reached, and what was seen. AbandonedError if the controller has ended.
    """
    start, started_at = time.monotonic(), time.time()
    watch = Watch(causes)
    while True:
        check_controller()
        stage = "runs the new manifest"
        process = _processes.find_etcd_process(target.name)
        problem = _processes.process_problem(process, old, wanted)
        if process and not problem and not settled(process):
            problem = f"the process (pid {process.pid}) is older than the manifest"
        if not problem:
            stage = "is ready"
            ready, said = probe(target.metrics, _processes.ANSWER)
            problem = None if ready else f"{target.metrics} says: {failed_checks(said)}"
        if not problem:
            stage = "is a healthy member that has caught up"
            problem = service_problem(target)
        # A process that has just ended again does not count.
        if not problem and _processes.find_etcd_process(target.name) == process:
            return time.monotonic() - start
        waited = time.monotonic() - start
        if waited > timeout or watch.is_hopeless():
            what = f"waited {min(waited, timeout):.0f} s until it {stage}; {problem or 'it ended again'}"
            raise EtcdError(f"{target.name}: {told(what, causes(), started_at)}")
        time.sleep(POLL)
