# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is true of a cluster, judged from what each member says, and a table of it that a person can read."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd_client import Alarm, EtcdClient, Member, Status

# etcd stops writing at its quota (2 GiB where nothing is set, server/storage/quota.go).
DEFAULT_QUOTA = 2 << 30
QUOTA_WARNING = 0.8

# Entries that a member may be behind without a word: a busy leader is always some ahead.
LAG_WARNING = 1000

DAY = 86400.0


@dataclass
class Seen:
    """What one endpoint said. error: why it said nothing, or not all."""

    endpoint: str
    name: str = ""
    status: Status | None = None
    healthy: bool = False
    reason: str = ""
    members: list[Member] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    certificate_end: float | None = None
    error: str = ""


@dataclass
class Report:
    """The judgement. problems: the cluster is not as it should be; warnings: it soon may not be.

    lasting: the only problems are alarms, which stay until a person disarms them: nothing to wait for."""

    members: list[dict[str, Any]]
    healthy: bool
    quorum: bool
    lasting: bool
    leader: str
    cluster_id: str
    version: str
    problems: list[str]
    warnings: list[str]


def look(name: str, endpoint: str, paths: tuple[str, str, str], timeout: float) -> Seen:
    """Ask one endpoint everything. Never raises: what went wrong is in the answer."""
    seen = Seen(endpoint, name)
    try:
        client = EtcdClient(endpoint, *paths, timeout=timeout)
        seen.healthy, seen.reason = client.health()
        seen.status = client.status()
        seen.members = client.members()
        seen.alarms = client.alarms()
        seen.certificate_end = client.certificate_end()
    except EtcdError as exc:
        seen.error = str(exc)
        seen.healthy = False
    return seen


def look_at_all(targets: list[tuple[str, str]], paths: tuple[str, str, str], timeout: float) -> list[Seen]:
    """Ask all endpoints (name, URL) at once."""
    with ThreadPoolExecutor(max_workers=max(1, len(targets))) as pool:
        return list(pool.map(lambda target: look(target[0], target[1], paths, timeout), targets))


def evaluate(seen: list[Seen], now: float, certificate_warning: float) -> Report:
    """Judge what was seen. now: Unix seconds; certificate_warning: days. Names are expected where they are given."""
    answered = [item for item in seen if item.status]
    problems, warnings = [], []
    for item in seen:
        label = item.name or item.endpoint
        if item.error:
            problems.append(f"{label}: {item.error}")
        elif not item.healthy:
            problems.append(f"{label} is not healthy: {item.reason or 'it cannot commit'}.")
    clusters = {f"{item.status.cluster_id:x}" for item in answered if item.status}
    if len(clusters) > 1:
        listed = ", ".join(f"{i.name or i.endpoint} {i.status.cluster_id:x}" for i in answered if i.status)
        problems.append(f"The endpoints are different clusters ({listed}).")
    leaders = {item.status.leader for item in answered if item.status and item.status.leader}
    if answered and not leaders:
        problems.append("No member knows a leader: quorum is lost.")
    elif len(leaders) > 1:
        problems.append("The members name different leaders: an election is under way, or the network is split.")
    versions = {item.status.version for item in answered if item.status}
    if len(versions) > 1:
        warnings.append(f"The members run different versions: {', '.join(sorted(versions))}.")
    listed_members = next((item.members for item in answered if item.members), [])
    problems += membership_problems([item.name for item in seen if item.name], listed_members)
    if len({tuple(sorted(m.id for m in item.members)) for item in answered if item.members}) > 1:
        problems.append("The members do not agree on the membership.")
    names = {member.id: member.name or f"{member.id:x}" for member in listed_members}
    alarms = {alarm for item in answered for alarm in item.alarms}
    raised = [f"Alarm {alarm.kind} at {names.get(alarm.member_id, format(alarm.member_id, 'x'))}." for alarm in alarms]
    # A member with an alarm says that it is not healthy for that reason.
    lasting = bool(raised) and all(" is not healthy: ALARM " in text for text in problems)
    problems += raised
    highest = max((item.status.raft_index for item in answered if item.status), default=0)
    rows = [row(item, names, highest, alarms, now) for item in seen]
    for line in rows:
        warnings += row_warnings(line, certificate_warning)
    healthy_count = sum(item.healthy for item in answered)
    voters = len([member for member in listed_members if not member.is_learner]) or len(seen)
    leader = names.get(next(iter(leaders)), "") if len(leaders) == 1 else ""
    return Report(
        members=rows,
        healthy=not problems,
        lasting=lasting,
        quorum=healthy_count >= voters // 2 + 1,
        leader=leader,
        cluster_id=next(iter(clusters), ""),
        version=next(iter(sorted(versions)), ""),
        problems=problems,
        warnings=warnings,
    )


def membership_problems(expected: list[str], listed: list[Member]) -> list[str]:
    """Where the membership is not the expected one. Nothing where nobody expected, or told, any."""
    if not expected or not listed:
        return []
    found = [member.name for member in listed]
    problems = [f"{name} is not in the membership." for name in expected if name not in found]
    problems += [
        f"{member.name or format(member.id, 'x')} is in the membership, but not expected. It is left alone."
        for member in listed
        if member.name not in expected
    ]
    return problems


def row(item: Seen, names: Mapping[int, str], highest: int, alarms: set[Alarm], now: float) -> dict[str, Any]:
    """One member for people and programs. Sizes in bytes, certificate in days."""
    status = item.status
    days = None if item.certificate_end is None else int((item.certificate_end - now) // DAY)
    if status is None:
        return {"name": item.name, "endpoint": item.endpoint, "healthy": False, "reachable": False, "error": item.error}
    role = "learner" if status.is_learner else "leader" if status.leader == status.member_id else "follower"
    return {
        "name": names.get(status.member_id, item.name),
        "endpoint": item.endpoint,
        "id": f"{status.member_id:x}",
        "healthy": item.healthy,
        "reachable": True,
        "role": role,
        "version": status.version,
        "raft_term": status.raft_term,
        "raft_index": status.raft_index,
        "raft_applied_index": status.raft_applied_index,
        "raft_lag": max(0, highest - status.raft_applied_index),
        "db_size": status.db_size,
        "db_size_in_use": status.db_size_in_use,
        "quota": status.quota or DEFAULT_QUOTA,
        "alarms": sorted(alarm.kind for alarm in alarms if alarm.member_id == status.member_id),
        "certificate_days": days,
        "error": item.error,
    }


def row_warnings(line: Mapping[str, Any], certificate_warning: float) -> list[str]:
    """What may soon be a problem with one member."""
    warnings = []
    name = line.get("name") or line["endpoint"]
    if line.get("role") == "learner":
        warnings.append(f"{name} is a learner: it has no vote yet.")
    if line.get("raft_lag", 0) > LAG_WARNING:
        warnings.append(f"{name} is {line['raft_lag']} entries behind.")
    if line.get("quota") and line["db_size"] > QUOTA_WARNING * line["quota"]:
        used = 100 * line["db_size"] // line["quota"]
        warnings.append(f"The database of {name} has reached {used} % of its quota: compact and defragment it.")
    if line.get("certificate_days") is not None and line["certificate_days"] < certificate_warning:
        warnings.append(
            f"The certificate of {name} ends in {line['certificate_days']} days: a run of site.yml renews it."
        )
    return warnings


def render_table(report: Report) -> list[str]:
    """The table, a line of summary, and every problem on a line of its own."""
    # Narrower than 80 columns with IPv4: Ansible's YAML output folds longer lines.
    header = ["MEMBER", "ENDPOINT", "HEALTH", "ROLE", "ETCD", "TERM", "LAG", "DB", "ALARMS", "CERT"]
    lines = [header]
    for line in report.members:
        if not line["reachable"]:
            lines.append([line["name"] or "-", _short(line["endpoint"]), "no answer", *["-"] * 7])
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
                f"{100 * line['db_size'] / line['quota']:.1f}%",
                ",".join(line["alarms"]) or "-",
                "-" if line["certificate_days"] is None else f"{line['certificate_days']}d",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    count = sum(bool(line["healthy"]) for line in report.members)
    total = len(report.members)
    table.append(
        f"{count} of {total} members healthy, quorum {total // 2 + 1}, leader {report.leader or 'unknown'},"
        f" etcd {report.version or 'unknown'}, cluster id {report.cluster_id or 'unknown'}"
    )
    return table + [f"PROBLEM: {text}" for text in report.problems] + [f"WARNING: {text}" for text in report.warnings]


def _short(endpoint: str) -> str:
    return endpoint.replace("https://", "")
