"""Clusters for the tests of the report, from the simplest to the most difficult."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jinja2
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import report as _report
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.report import Looked, Settings
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
GIB = 1 << 30


def members(count: int, address: str = "10.0.0.{}", name: str = "infra{}") -> list[Member]:
    return [Member(name.format(i), name.format(i), address.format(6 + i)) for i in range(count)]


def row(number: int, member: Member, **changes: Any) -> dict[str, Any]:
    """A healthy member as etcd_health returns it. The first one is the leader."""
    host = f"[{member.address}]" if ":" in member.address else member.address
    return {
        "name": member.name,
        "endpoint": f"https://{host}:2379",
        "reachable": True,
        "healthy": True,
        "error": "",
        "error_code": "",
        "id": f"f00000000000000{number}",
        "reason": "",
        "role": "follower" if number else "leader",
        "version": "3.6.14",
        "cluster_version": "3.6.0",
        "leader": "infra0",
        "raft_term": 2,
        "raft_index": 1000,
        "raft_applied_index": 1000,
        "raft_lag": 0,
        "db_size": 25 << 20,
        "db_size_in_use": 20 << 20,
        "fragmentation": 0.2,
        "quota": 2 * GIB,
        "alarms": [],
        "membership": [],
        "certificate": {"subject": member.name, "not_before": begin(364), "not_after": end(364), "days_left": 364},
        "round_trip": 3.2,
        **changes,
    }


def silent(member: Member, error: str = "refuses connections", code: str = "refused") -> dict[str, Any]:
    return {
        "name": member.name,
        "endpoint": f"https://{member.address}:2379",
        "reachable": False,
        "healthy": False,
        "error": error,
        "error_code": code,
        "reason": "",
        "round_trip": None,
        "certificate": None,
    }


def end(days: float) -> str:
    return (NOW + timedelta(days=days, hours=1)).isoformat()


def begin(days: float, whole: float = 365) -> str:
    return (NOW + timedelta(days=days - whole)).isoformat()


def health(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "verdict": "healthy",
        "reasons": [],
        "findings": [],
        "healthy": True,
        "quorum": True,
        "alarms": [],
        "lasting": False,
        "leader": rows[0]["name"],
        "cluster_id": "56da77eaac975d91",
        "version": "3.6.14",
        "cluster_version": "3.6.0",
        "quorum_size": len(rows) // 2 + 1,
        "members": rows,
        "progress": [],
        "waited": 0.0,
        "table": ["MEMBER  ENDPOINT", "infra0  10.0.0.6:2379"],
        **changes,
    }


def observation(days: dict[str, float] | None = None, **changes: Any) -> dict[str, Any]:
    """What a host shows of itself: certificates that end after so many days."""
    lasting = {**dict.fromkeys(_report.KINDS, 364.0), **(days or {})}
    certificates = [
        {"kind": kind, "subject": "x", "not_before": begin(left), "not_after": end(left), "days_left": int(left)}
        for kind, left in lasting.items()
    ]
    return {
        "facts": {
            "clock_offset": 0.5,
            "cgroup_version": 2,
            "kubeadm_version": "v1.36.3",
            "kubelet_version": "v1.36.3",
            "disk_free": 100 * GIB,
            "data_dir": {"path": "/var/lib/etcd", "has_data": True, "foreign": [], "filesystem": "ext4"},
            "leftovers": [],
        },
        "pki": {
            "certificates": certificates,
            "warnings": [],
            "ca_not_before": begin(3649, 3650),
            "ca_not_after": end(3649),
        },
        "reasons": {"kubelet": [], "ca": [], "certificates": [], "config": [], "manifest": []},
        "problems": [],
        **changes,
    }


def well(name: str = "etcd", count: int = 3) -> Looked:
    """A healthy cluster without findings."""
    them = members(count)
    return Looked(
        cluster=Cluster(name, them, "infra0"),
        speaker="infra0",
        health=health([row(i, m) for i, m in enumerate(them)]),
        observations={m.host: observation() for m in them},
        settings={m.host: Settings() for m in them},
    )


def hard() -> list[Looked]:
    """Several clusters with very long names and texts, and many findings."""
    long_name = "etcd-member-with-a-very-long-name-that-nobody-would-choose-but-somebody-has.rack-17.room-3.example"
    seven = members(6, "2001:db8:1234:5678:9abc:def0:1234:{}", "m{}." + long_name)
    seven.append(Member("dead-host", "dead", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"))
    rows = [row(i, m) for i, m in enumerate(seven[:-1])]
    rows[1].update(db_size=GIB * 17 // 10, db_size_in_use=GIB // 3, alarms=[], raft_lag=123456789, raft_term=4711)
    rows[2].update(
        db_size=2 * GIB,
        alarms=["NOSPACE", "CORRUPT"],
        healthy=False,
        reason="ALARM NOSPACE; " + "x" * 90,
        role="learner",
    )
    rows[3].update(version="3.5.35", round_trip=12345.6)
    long_error = (
        "rejects our client certificate: tlsv1 alert unknown ca (/etc/kubernetes/pki/etcd/healthcheck-client.crt is"
        " not signed by what it trusts, SHA-256 " + "0123456789abcdef" * 4 + ")"
    )
    rows.append(silent(seven[-1], long_error, "tls-client-refused"))
    big = Looked(
        cluster=Cluster("production-cluster-of-a-company-with-a-long-name-in-europe-west-4", seven, seven[0].host),
        speaker=seven[0].host,
        health=health(
            rows,
            verdict="degraded",
            reasons=[
                f"dead {long_error}.",
                f"Alarm NOSPACE at {seven[2].name}.",
                "The members run different versions.",
            ],
            findings=[
                {
                    "code": "quota",
                    "member": seven[1].name,
                    "text": f"The database of {seven[1].name} is at 85 % of its quota.",
                    "remedy": "Compact and defragment it: docs/recovery.md.",
                },
                {
                    "code": "x",
                    "member": "",
                    "text": "W" * 200,
                    "remedy": "https://example.com/" + "a/very/long/path/" * 8,
                },
            ],
            healthy=False,
        ),
        observations={
            m.host: observation({"server": 40, "peer": -3, "healthcheck-client": 1} if i == 1 else None)
            for i, m in enumerate(seven[:-1])
        },
        lost=["dead-host"],
        settings={m.host: Settings(metrics_exposed=True) for m in seven},
    )
    hostile = Cluster(
        "<script>alert(1)</script>", [Member("h&<b>", '"><img src=x onerror=alert(1)>', "10.0.0.9")], "h&<b>"
    )
    evil = Looked(
        cluster=hostile,
        speaker="h&<b>",
        health=health(
            [
                row(
                    0,
                    hostile.members[0],
                    alarms=["<i>"],
                    version="<u>",
                    healthy=False,
                    reason="</style><script>x</script>",
                    endpoint="https://'\"<x>",
                )
            ],
            verdict="down",
            reasons=["</li><script>alert(2)</script>"],
            findings=[
                {"code": "<", "member": "<", "text": "<b>bold</b>", "remedy": "{{ 7 * 6 }} <a href='javascript:x'>"}
            ],
            quorum=False,
            leader="<leader>",
            cluster_id="<id>",
            cluster_version="<cv>",
        ),
        observations={
            "h&<b>": observation(
                reasons={"manifest": [{"part": "manifest", "code": "flag", "text": "<script>", "restarts": True}]},
                problems=[{"text": "<p>", "stops": []}],
            )
        },
        lost=["<lost>"],
        settings={"h&<b>": Settings(metrics_exposed=True)},
    )
    gone = members(3, "10.1.0.{}", "gone{}")
    nobody = Looked(cluster=Cluster("gone", gone, "gone0"), lost=[m.host for m in gone])
    return [big, well(), evil, nobody]


def render(looked: list[Looked], now: datetime = NOW) -> str:
    """The page, rendered as Ansible does: no escaping of its own, newlines after blocks dropped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "roles" / "report" / "templates"),
        autoescape=False,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("report.html.j2")
    return template.render(__report_page=_report.page(_report.assemble(looked, now)))
