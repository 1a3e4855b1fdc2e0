# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The health of a cluster: asks each member, judges the answers, and renders them as a table."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import (
    Certificate,
    EtcdClient,
    EtcdUnreachableError,
    Member,
    Status,
    side_by_side,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.alarms import alarm_text, name_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.database import DEFAULT_QUOTA, NEARLY_FULL
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import client_url
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.remedies import etcdctl
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import CANCEL, branch_in

HEALTHY = "healthy"
DEGRADED = "degraded"
DOWN = "down"
UNKNOWN = "unknown"

# From the best to the worst. UNKNOWN (no member could be asked) is worse than DEGRADED, but does not prove DOWN.
VERDICTS = (HEALTHY, DEGRADED, UNKNOWN, DOWN)

# Defragmentation blocks a member for a while, so it is only advised from this size and this unused part of the file on.
FRAGMENTED_BYTES = 256 << 20
FRAGMENTED_PART = 0.5

# Log entries that a member may lag without a finding: a busy leader is always ahead a little.
LAG_WARNING = 1000

# The first patch release of each branch without known vulnerabilities: GHSA-6vch-q96h-7gc3, published on 2026-07-23.
SECURITY_FLOOR = {(3, 5): 33, (3, 6): 14, (3, 7): 1}
ADVISORY = "GHSA-6vch-q96h-7gc3"

DAY = 86400.0


@dataclass
class Seen:
    """The answers of one endpoint. error: why answers are missing; code: the same for programs.

    commits: whether a linearizable read succeeded, which needs a quorum; reason: why not.
    round_trip: seconds for connection and handshake. data: only if an alarm says that the data of members differs.
    """

    endpoint: str
    name: str = ""
    status: Status | None = None
    commits: bool = False
    reason: str = ""
    members: list[Member] = field(default_factory=list)
    cluster_version: str = ""
    certificate: Certificate | None = None
    round_trip: float | None = None
    error: str = ""
    code: str = ""
    data: Data | None = None


@dataclass(frozen=True)
class Data:
    """What a member holds: the hash of all keys between the last compaction and a revision. Equal only if all three are."""

    compact_revision: int
    revision: int
    hash: int


@dataclass(frozen=True)
class Finding:
    """Something to act on that does not make the cluster unhealthy now. member: empty if it concerns the cluster."""

    code: str
    member: str
    text: str
    remedy: str


@dataclass
class Report:
    """The verdict. reasons: why it is not better; findings: what else needs attention.

    alarms: kind and member (its name; '': the whole cluster) of each alarm. lasting: the only reasons are alarms and members that the inventory lacks.
    They stay until a person acts, so waiting does not help. downgrade: the minor version that a downgrade goes to which is enabled, '' if there is none.
    """

    verdict: str
    reasons: list[str]
    findings: list[Finding]
    members: list[dict[str, Any]]
    alarms: list[dict[str, str]]
    lasting: bool
    leader: str
    cluster_id: str
    version: str
    cluster_version: str
    quorum_size: int
    downgrade: str = ""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict == HEALTHY

    @property
    def quorum(self) -> bool:
        """Whether there is a working quorum, although an alarm may make it refuse writes."""
        return self.verdict in (HEALTHY, DEGRADED)

    def at_least(self, verdict: str) -> bool:
        """Whether the verdict is this one or a better one."""
        return VERDICTS.index(self.verdict) <= VERDICTS.index(verdict)


# --- Looking -----------------------------------------------------------------------------------------------------------


def expected(members: list[dict[str, str]], port: int) -> list[tuple[str, str]]:
    """Name and client URL of members; no URL if the address is unknown."""
    return [(member["name"], client_url(member["address"], port) if member["address"] else "") for member in members]


def look(name: str, endpoint: str, paths: tuple[str, str, str], timeout: float) -> Seen:
    """Ask one endpoint everything within `timeout` seconds. Never raises: errors are in the result."""
    seen = Seen(endpoint, name)
    if not endpoint:
        # The inventory has no address for this member, and its host was not observed.
        seen.error, seen.code = "its address is unknown. Set etcd_address or ansible_host to its address.", "address"
        return seen
    deadline = time.monotonic() + timeout
    try:
        with EtcdClient(endpoint, *paths, timeout=timeout) as client:
            seen.round_trip = client.connect().handshake
            seen.certificate = client.certificate()
            seen.status = client.status()
            client.timeout = max(0.1, deadline - time.monotonic())
            seen.cluster_version = client.cluster_version()
            try:
                seen.members = client.members()
            except EtcdUnreachableError as exc:
                # A learner refuses this request (server/etcdserver/api/v3rpc/interceptor.go).
                if not seen.status.is_learner:
                    raise
                seen.reason = str(exc)
            ask_health(client, seen, max(0.1, deadline - time.monotonic()))
            if seen.commits:
                client.timeout = max(0.1, deadline - time.monotonic())
                seen.status = replace(seen.status, downgrade=client.enabled_downgrade(seen.status))
    except EtcdError as exc:
        seen.error = str(exc)
        seen.code = getattr(exc, "code", "")
    return seen


def ask_health(client: EtcdClient, seen: Seen, timeout: float) -> None:
    """Try a request that needs a quorum. Without a quorum it may time out, which is a result too."""
    try:
        seen.commits, seen.reason = client.health(timeout)
    except EtcdUnreachableError as exc:
        if exc.code != "timeout":
            raise
        seen.reason = f"no linearizable read succeeded within {timeout:.1f} s"


def look_at_all(targets: list[tuple[str, str]], paths: tuple[str, str, str], timeout: float) -> list[Seen]:
    """Ask all endpoints (name, URL) in parallel. Returns after `timeout` seconds at the latest, whatever the endpoints do.

    With the alarm CORRUPT, they are also asked for the hash of their data, which may take as long again.
    """
    found = side_by_side(lambda target: look(target[0], target[1], paths, timeout), targets, timeout)
    seen = [
        item
        or Seen(
            endpoint,
            name,
            error=f"{endpoint} did not answer within {timeout:.1f} s. If it is a name, check the name server.",
            code="timeout",
        )
        for item, (name, endpoint) in zip(found, targets)
    ]
    answered = [item for item in seen if item.status]
    statuses = [item.status for item in answered if item.status]
    if any(alarm.kind == "CORRUPT" for status in statuses for alarm in status.alarms):
        revision = min(status.revision for status in statuses)
        hashes = side_by_side(lambda item: ask_data(item.endpoint, revision, paths, timeout), answered, timeout)
        for item, data in zip(answered, hashes):
            item.data = data
    return seen


def ask_data(endpoint: str, revision: int, paths: tuple[str, str, str], timeout: float) -> Data | None:
    """What a member holds up to a revision; None if it does not tell."""
    try:
        with EtcdClient(endpoint, *paths, timeout=timeout) as client:
            number, compacted = client.hash_kv(revision)
    except EtcdError:
        return None
    return Data(compacted, revision, number) if number else None


# --- Judging -----------------------------------------------------------------------------------------------------------


def evaluate(
    seen: list[Seen],
    now: float,
    renewal_window: float,
    quota: int = DEFAULT_QUOTA,
    may_be_absent: Collection[str] = (),
) -> Report:
    """Judge the answers. now: Unix seconds; renewal_window: seconds. Endpoints with a name are the expected members.

    quota: bytes, for members that do not report theirs. may_be_absent: names of members that are expected only if the membership has them, since
    another run may remove or add them.
    """
    missing = [name for name in absent(seen) if name in may_be_absent]
    seen = [item for item in seen if item.name not in missing]
    answered = [item for item in seen if item.status]
    statuses = [item.status for item in seen if item.status]
    listed = next((item.members for item in answered if item.members), [])
    names = {member.id: member.name or f"{member.id:x}" for member in listed}
    alarms = sorted({(alarm.member_id, alarm.kind) for status in statuses for alarm in status.alarms})
    rows = [row(item, names, statuses, alarms, now, quota) for item in seen]
    expected = [item.name for item in seen if item.name]
    unlisted = unlisted_reasons(expected, listed)
    passing = [
        *cluster_reasons(answered),
        *[f"{name} is not in the membership. {ADDS}" for name in expected if listed and name not in names.values()],
        *[text for item, line in zip(seen, rows) for text in member_reasons(item, line)],
    ]
    named = [{"kind": kind, "member": name_of(member, names)} for member, kind in alarms]
    lasting = [*unlisted, *[f"Alarm {alarm_text(alarm['kind'], alarm['member'])}." for alarm in named]]
    voters = [member for member in listed if not member.is_learner]
    quorum_size = (len(voters) or len(seen)) // 2 + 1
    leaders = {status.leader for status in statuses if status.leader}
    versions = sorted({status.version for status in statuses}, key=version_key)
    cluster_versions = sorted({item.cluster_version for item in answered if item.cluster_version}, key=version_key)
    downgrade = next((branch_in(status.downgrade) for status in statuses if status.downgrade), "")
    return Report(
        verdict=verdict_of(seen, quorum_size, passing + lasting),
        reasons=passing + lasting,
        findings=[
            *version_findings([status.version for status in statuses], downgrade),
            *absent_findings(missing),
            *cluster_findings(voters),
            *data_findings(answered, quorum_size, (0, "CORRUPT") in alarms),
            *[f for line in rows for f in member_findings(line, renewal_window)],
        ],
        members=rows,
        alarms=named,
        lasting=bool(lasting) and not passing,
        leader=names.get(next(iter(leaders)), "") if len(leaders) == 1 else "",
        cluster_id=f"{statuses[0].cluster_id:x}" if statuses else "",
        version=versions[0] if versions else "",
        cluster_version=cluster_versions[0] if cluster_versions else "",
        quorum_size=quorum_size,
        downgrade=downgrade,
    )


# What to do about a host of the inventory that is no member.
ADDS = "Run site.yml: it adds the member, or reports why not."


def absent(seen: list[Seen]) -> list[str]:
    """Names of expected members that the membership does not have, as all members tell that can commit. Empty if none can."""
    told = [{member.name for member in item.members} for item in seen if item.commits and item.members]
    return [item.name for item in seen if item.name and told and not any(item.name in names for names in told)]


def absent_findings(names: list[str]) -> list[Finding]:
    """Findings on hosts of the inventory that are no members, which a run has not to see to."""
    return [Finding("absent", name, f"{name} is not in the membership.", ADDS) for name in names]


def verdict_of(seen: list[Seen], quorum_size: int, reasons: list[str]) -> str:
    """The verdict.

    One linearizable read proves a quorum. If members answer and no such read succeeds, there is no quorum. If no member answers, only
    those that refuse connections are known to be down.
    """
    if any(item.commits for item in seen):
        return DEGRADED if reasons else HEALTHY
    if any(item.status for item in seen):
        return DOWN
    # Endpoints without names may not be all members of the cluster.
    stopped = sum(item.code == "refused" for item in seen if item.name)
    return DOWN if stopped and len(seen) - stopped < quorum_size else UNKNOWN


def cluster_reasons(answered: list[Seen]) -> list[str]:
    """Contradictions between the answers of the members."""
    statuses = [(item.name or item.endpoint, item.status) for item in answered if item.status]
    reasons = []
    if len({status.cluster_id for _name, status in statuses}) > 1:
        told = ", ".join(f"{name} {status.cluster_id:x}" for name, status in statuses)
        reasons.append(f"The endpoints belong to different clusters ({told}).")
    leaders = {status.leader for _name, status in statuses if status.leader}
    if statuses and not leaders:
        reasons.append("No member knows a leader: the quorum is lost, or an election is in progress.")
    elif len(leaders) > 1:
        reasons.append(
            "The members report different leaders: an election is in progress, or the network is partitioned."
        )
    if len({tuple(sorted(member.id for member in item.members)) for item in answered if item.members}) > 1:
        reasons.append("The members report different memberships.")
    return reasons


def unlisted_reasons(expected: list[str], listed: list[Member]) -> list[str]:
    """Members that the inventory does not have. Empty if either is unknown."""
    if not expected:
        return []
    found = [member.name for member in listed]
    reasons = [
        f"{member.name or format(member.id, 'x')} is in the membership, but not in the inventory. If it should not be a member, remove it: remove_member.yml -e"
        f" etcd_member={member.name or format(member.id, 'x')}"
        for member in listed
        if member.name not in expected
    ]
    for name in [name for name in expected if found.count(name) > 1]:
        places = "; ".join(f"{m.id:x} ({', '.join(m.peer_urls)})" for m in listed if m.name == name)
        reasons.append(
            f"{found.count(name)} members are called {name}: {places}. Remove those that are not in the inventory, by their id:"
            " remove_member.yml -e etcd_member=ID"
        )
    return reasons


def member_reasons(item: Seen, line: Mapping[str, Any]) -> list[str]:
    """Why one member is not healthy."""
    label = line["name"] or item.endpoint
    if item.error:
        return [f"{label}: {item.error}"]
    if item.status and item.status.is_learner:
        return [
            f"{label} is a learner: it has no vote and serves no clients. Run site.yml to finish its join, or, if it should not be a member, remove it:"
            f" remove_member.yml -e etcd_member={label}"
        ]
    if not item.commits:
        return [f"{label} is not healthy: {item.reason or 'it cannot commit writes'}."]
    if item.status and not item.status.leader:
        return [f"{label} knows no leader."]
    return [f"{label} reports: {text}." for text in item.status.other_errors] if item.status else []


def version_findings(running: list[str], downgrade: str) -> list[Finding]:
    """Findings on the versions of etcd. running: of the members that answer. downgrade: what a downgrade goes to which is enabled, '' if there is none."""
    if downgrade:
        there = sum(branch_in(version) == downgrade for version in running)
        return [
            Finding(
                "downgrade",
                "",
                f"A downgrade to etcd {downgrade} is under way: {there} of {len(running)} members run {downgrade}.",
                f"Finish it: site.yml -e etcd_downgrade={downgrade}, with an etcd_image_tag of that version. Or cancel it: site.yml -e etcd_downgrade={CANCEL},"
                " with the newer one.",
            )
        ]
    versions = sorted(set(running), key=version_key)
    if len(versions) < 2:
        return []
    return [
        Finding(
            "mixed-versions",
            "",
            f"The members run different versions: {', '.join(versions)}.",
            "Finish the upgrade: run site.yml, which gives all members the same image.",
        )
    ]


def cluster_findings(voters: list[Member]) -> list[Finding]:
    """Findings on the cluster as a whole."""
    found = []
    if voters and len(voters) % 2 == 0:
        found.append(
            Finding(
                "even-members",
                "",
                f"The cluster has {len(voters)} voting members, an even number: it survives the loss of {(len(voters) - 1) // 2}, like a"
                f" cluster of {len(voters) - 1}.",
                "Use an odd number of members.",
            )
        )
    return found


def data_findings(answered: list[Seen], quorum_size: int, whole: bool) -> list[Finding]:
    """Whose data differs, if members were asked for it. One that has not applied all entries yet is not judged.

    whole: whether the alarm is one of the whole cluster, which stays when the member has left, and keeps it from being replaced.
    """
    applied = max((item.status.raft_applied_index for item in answered if item.status), default=0)
    told = {
        item.name or item.endpoint: (item.data, item.status.revision)
        for item in answered
        if item.data and item.status and item.status.raft_applied_index == applied
    }
    if not told:
        return []
    groups: dict[tuple[Data, int], list[str]] = {}
    for name, held in told.items():
        groups.setdefault(held, []).append(name)
    largest = max(groups.values(), key=len)
    disarm = f"Disarm the alarm (`{etcdctl('alarm disarm')}`)"
    if len(largest) == len(answered):
        return [Finding("data-agrees", "", f"{', '.join(largest)} have the same data.", f"{disarm}.")]
    if len(largest) >= quorum_size:
        return [
            Finding(
                "data-differs",
                name,
                f"The data of {name} is not that of {', '.join(largest)}.",
                (f"{disarm}, and at once replace" if whole else "Replace")
                + f" this member: replace_member.yml -e etcd_member={name} -e etcd_replace_healthy=true",
            )
            for name in told
            if name not in largest
        ]
    held_by = "; ".join(
        f"{', '.join(names)}: hash {data.hash:x} up to revision {data.revision}, now at {now}"
        for (data, now), names in groups.items()
    )
    return [
        Finding(
            "data-differs",
            "",
            f"No {quorum_size} members are known to have the same data ({held_by}).",
            "If all members could be asked, restore the cluster from the snapshot that you trust: restore.yml (docs/disaster.md).",
        )
    ]


def member_findings(line: Mapping[str, Any], renewal_window: float) -> list[Finding]:
    """Findings on one member, from its row."""
    if not line["reachable"]:
        return []
    name = line["name"] or line["endpoint"]
    found = []
    floor = security_problem(line["version"])
    if floor:
        found.append(Finding("security", name, f"{name} runs etcd {line['version']}, {floor[0]}.", floor[1]))
    if line["raft_lag"] > LAG_WARNING:
        found.append(
            Finding(
                "lag",
                name,
                f"{name} lags {line['raft_lag']} log entries behind, so it may not help the quorum.",
                "Check its disk and network.",
            )
        )
    if line["quota"] and line["db_size"] > NEARLY_FULL * line["quota"]:
        found.append(
            Finding(
                "quota",
                name,
                f"The database of {name} has reached {100 * line['db_size'] // line['quota']} % of its quota.",
                "Run defragment.yml, delete what is not needed, or raise quota-backend-bytes in etcd_extra_args (docs/size.md).",
            )
        )
    if line["db_size"] >= FRAGMENTED_BYTES and line["fragmentation"] >= FRAGMENTED_PART:
        found.append(
            Finding(
                "fragmentation",
                name,
                f"{100 * line['fragmentation']:.0f} % of the database file of {name} is unused.",
                "Run defragment.yml, which defragments one member after the other, the leader last.",
            )
        )
    certificate = line["certificate"]
    if certificate and certificate["seconds_left"] < renewal_window:
        found.append(
            Finding(
                "certificate",
                name,
                f"The server certificate of {name} expires in {certificate['days_left']} days.",
                'Its CA expires at the same time. Renew the CA first (docs/certificates.md, "The CA expires").'
                if certificate["ends_with_ca"]
                else "Run site.yml to renew it.",
            )
        )
    return found


def version_key(version: str) -> tuple[int, ...]:
    """A version for sorting."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def security_problem(version: str) -> tuple[str, str] | None:
    """Why a version of etcd should not be used any more, and what to do; None if it has no known vulnerability."""
    numbers = version_key(version)
    if len(numbers) < 3:
        return None
    branch = (numbers[0], numbers[1])
    if branch < min(SECURITY_FLOOR):
        return "which gets no more fixes", "Upgrade to a supported branch, one minor version at a time."
    floor = SECURITY_FLOOR.get(branch)
    if floor is None or numbers[2] >= floor:
        return None
    wanted = f"{branch[0]}.{branch[1]}.{floor}"
    return (
        f"which anyone who can reach its port can crash ({ADVISORY})",
        f"Set etcd_image_tag to {wanted}-0 or later and run site.yml. kubeadm's default is older.",
    )


def row(
    item: Seen,
    names: Mapping[int, str],
    statuses: list[Status],
    alarms: list[tuple[int, str]],
    now: float,
    quota: int,
) -> dict[str, Any]:
    """One member for people and programs. Sizes in bytes, times in milliseconds and days."""
    status, shown = item.status, item.certificate
    # An alarm for the whole cluster is also one of each member.
    own_alarms = sorted({kind for member, kind in alarms if status and member in (0, status.member_id)})
    line: dict[str, Any] = {
        "name": item.name,
        "endpoint": item.endpoint,
        "reachable": status is not None,
        "healthy": bool(item.commits and not own_alarms and not item.error),
        "reason": item.reason,
        "error": item.error,
        "error_code": item.code,
        "round_trip": None if item.round_trip is None else round(1000 * item.round_trip, 1),
        "certificate": None,
    }
    if shown is not None:
        line["certificate"] = {
            **asdict(shown),
            "not_before": moment(shown.not_before),
            "not_after": moment(shown.not_after),
            "seconds_left": int(shown.not_after - now),
            "days_left": int((shown.not_after - now) // DAY),
        }
    if status is None:
        return line
    highest = max(other.raft_index for other in statuses)
    used = status.db_size_in_use / status.db_size if status.db_size else 1.0
    return {
        **line,
        "name": names.get(status.member_id, item.name),
        "id": f"{status.member_id:x}",
        "role": "learner" if status.is_learner else "leader" if status.leader == status.member_id else "follower",
        "version": status.version,
        "cluster_version": item.cluster_version,
        "leader": names.get(status.leader, f"{status.leader:x}") if status.leader else "",
        "raft_term": status.raft_term,
        "raft_index": status.raft_index,
        "raft_applied_index": status.raft_applied_index,
        "raft_lag": max(0, highest - status.raft_applied_index),
        "db_size": status.db_size,
        "db_size_in_use": status.db_size_in_use,
        "fragmentation": round(max(0.0, 1.0 - used), 3),
        # A negative quota means no limit.
        "quota": max(0, quota if status.quota is None else status.quota),
        "alarms": own_alarms,
        "membership": sorted(member.name or f"{member.id:x}" for member in item.members),
    }


def moment(seconds: float) -> str:
    """A time as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


# --- Waiting -----------------------------------------------------------------------------------------------------------

POLL = 0.3

# The number of progress lines to keep.
MOST_PROGRESS = 50


def known_to_run(seen: Seen) -> Seen:
    """The answers of a member whose etcd was seen running on its host: a refused connection has another meaning then."""
    if seen.code != "refused":
        return seen
    return replace(
        seen,
        error="refuses connections, although etcd was running on its host: a firewall rejects them, or etcd has ended since.",
    )


# Codes of connections that do not reach a member, and the seconds after which this is not just a restart of the member.
CUT_OFF = ("refused", "silent", "unreachable")
STAYS_CUT_OFF = 15.0


def wait_for(
    verdict: str | None,
    timeout: float,
    request_timeout: float,
    ask: Callable[[float], Report],
    tell: Callable[[str], object],
    runs: bool = False,
) -> tuple[Report, list[str], float]:
    """Ask until the verdict is this one or better, or the time is over. None: ask once.

    ask: takes its timeout in seconds. tell: gets each line of progress. runs: whether all members are known to run, so that waiting for a
    member that refuses all connections does not help. Returns the last report, a line for each change, and the seconds waited.
    """
    begin = connected = time.monotonic()
    progress: list[str] = []
    said = ""
    while True:
        left = timeout - (time.monotonic() - begin)
        report = ask(request_timeout if not progress else max(0.5, min(request_timeout, left)))
        waited = time.monotonic() - begin
        words = "; ".join([report.verdict, *report.reasons])
        if words != said and len(progress) < MOST_PROGRESS:
            progress.append(f"after {waited:.0f} s: {words}")
            tell(progress[-1])
            said = words
        if not any(line["error_code"] in CUT_OFF for line in report.members):
            connected = time.monotonic()
        is_cut_off = runs and time.monotonic() - connected > STAYS_CUT_OFF
        if verdict is None or report.at_least(verdict) or report.lasting or is_cut_off or waited + POLL > timeout:
            return report, progress, waited
        time.sleep(POLL)


# --- Showing -----------------------------------------------------------------------------------------------------------


def render_table(report: Report) -> list[str]:
    """The table, a summary, and one line for each reason and finding."""
    # Less than 80 columns wide with IPv4: Ansible's YAML output folds longer lines.
    header = ["MEMBER", "ENDPOINT", "HEALTH", "ROLE", "ETCD", "TERM", "LAG", "DB", "ALARMS", "CERT"]
    lines = [header]
    for line in report.members:
        days = f"{line['certificate']['days_left']}d" if line["certificate"] else "-"
        if not line["reachable"]:
            lines.append([line["name"] or "-", _short(line["endpoint"]) or "-", "no answer", *["-"] * 6, days])
            continue
        lines.append(
            [
                line["name"],
                _short(line["endpoint"]),
                "healthy" if line["healthy"] else "UNHEALTHY",
                line["role"],
                line["version"],
                str(line["raft_term"]),
                str(line["raft_lag"]),
                f"{100 * line['db_size'] / line['quota']:.1f}%" if line["quota"] else f"{line['db_size'] >> 20}MiB",
                ",".join(line["alarms"]) or "-",
                days,
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    count = sum(bool(line["healthy"]) for line in report.members)
    table.append(
        f"{report.verdict}: {count} of {len(report.members)} members healthy, quorum {report.quorum_size}, leader"
        f" {report.leader or 'unknown'}, etcd {report.version or 'unknown'}, cluster id {report.cluster_id or 'unknown'}"
    )
    table += [f"PROBLEM: {text}" for text in report.reasons]
    return table + [f"FINDING: {finding.text} {finding.remedy}" for finding in report.findings]


def _short(endpoint: str) -> str:
    return endpoint.replace("https://", "")
