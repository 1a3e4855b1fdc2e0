# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report on all clusters of a run, from the results of `etcd_health` and `etcd_host_info`.

Runs on the controller. `assemble` returns the report as plain data, the content of the JSON file. `page` turns it into the texts and
percentages of the HTML page, so that the template contains layout only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.preflight import (
    cluster_warnings,
    host_warnings,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.health import DAY, VERDICTS
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import is_ahead, order_by_age
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import duration_seconds
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member, bracketed, client_url
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    FOUND,
    RESTART,
    SIGN,
    START,
    Problem,
    merged,
    note,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import PARTS
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import WITHOUT_FORMER_API, etcd_version_in

if TYPE_CHECKING:
    Data = Mapping[str, Any]

# A run cannot renew a CA, and its replacement has to be planned: warn early. Days.
CA_WARNING = 365

_UNITS = ("B", "KiB", "MiB", "GiB")

KINDS = ("server", "peer", "healthcheck-client", "apiserver-etcd-client")

RENEW = "Run site.yml, which renews them without a restart."


@dataclass(frozen=True)
class Settings:
    """The inventory variables of one host that the report needs."""

    client_port: int = 2379
    metrics_port: int = 2381
    metrics_exposed: bool = False
    window: float = 2160 * 3600.0
    validity: float = 8760 * 3600.0

    @classmethod
    def from_variables(cls, variables: Data, options: Data) -> Settings:
        """From inventory variables; missing ones have the default of the role's argument specs."""

        def value(name: str) -> str:
            default = options.get(name, {}).get("default", "")
            return str(variables.get(name, default))

        known = cls()
        return cls(
            client_port=_number(value("etcd_client_port"), known.client_port),
            metrics_port=_number(value("etcd_metrics_port"), known.metrics_port),
            metrics_exposed=value("etcd_metrics_exposed").lower() in ("true", "yes", "on", "1"),
            window=duration_seconds(value("etcd_certificate_renewal_window")) or known.window,
            validity=duration_seconds(value("etcd_certificate_validity_period")) or known.validity,
        )


def _number(text: str, default: int) -> int:
    """A number from the inventory, or the default if the text is invalid, which is reported elsewhere."""
    return int(text) if re.fullmatch(r"[0-9]+", text) else default


@dataclass(frozen=True)
class Looked:
    """What a run knows of one cluster.

    speaker: the host that ran etcd_health ('' if none could). health: its result, or None. observations: the results of etcd_host_info, by
    host. lost: hosts that the run could not reach. settings: by host.
    """

    cluster: Cluster
    speaker: str = ""
    health: Data | None = None
    observations: Mapping[str, Data] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    settings: Mapping[str, Settings] = field(default_factory=dict)

    def of(self, host: str) -> Settings:
        """The settings of a host."""
        return self.settings.get(host, Settings())


# --- The report ------------------------------------------------------------------------------------------------------


def assemble(looked: list[Looked], now: datetime) -> dict[str, Any]:
    """The report on all clusters, as plain data."""
    clusters = [cluster_report(item, now) for item in looked]
    verdict = max((item["verdict"] for item in clusters), key=VERDICTS.index, default="unknown")
    return {"at": now.astimezone(timezone.utc).isoformat(timespec="seconds"), "verdict": verdict, "clusters": clusters}


def cluster_report(looked: Looked, now: datetime) -> dict[str, Any]:
    """The report on one cluster."""
    health = looked.health or {}
    verdict, reasons = judged(looked)
    rows = [dict(row) for row in health.get("members", [])] or [silent_row(looked, m) for m in looked.cluster.members]
    hosts = {member.name: member.host for member in looked.cluster.members}
    for row in rows:
        row["host"] = hosts.get(row["name"], "")
    certificates = [*authority(looked, now), *leaves(looked, rows, now)]
    findings = [dict(item) for item in health.get("findings", [])]
    own = [
        *ssh_findings(looked),
        *certificate_findings(certificates, rows),
        *host_findings(looked),
        *snapshot_findings(looked),
        *log_findings(looked),
    ]
    backups = snapshots(looked)
    return {
        "name": looked.cluster.name,
        "verdict": verdict,
        "reasons": reasons,
        "asked_on": looked.speaker,
        "unreachable": looked.lost,
        "leader": health.get("leader", ""),
        "cluster_id": health.get("cluster_id", ""),
        "version": health.get("version", ""),
        "cluster_version": health.get("cluster_version", ""),
        "downgrade": health.get("downgrade", ""),
        "alarms": list(health.get("alarms", [])),
        "quorum": bool(health.get("quorum", False)),
        "quorum_size": health.get("quorum_size") or len(looked.cluster.members) // 2 + 1,
        "members": rows,
        "certificates": certificates,
        "findings": [*findings, *own],
        "backups": backups,
        "metrics": metrics(looked),
        "lines": [*health.get("table", []), *snapshot_lines(backups), *own_lines(verdict, reasons, looked, own)],
    }


def judged(looked: Looked) -> tuple[str, list[str]]:
    """The verdict, and the reasons if it is not healthy. No member is asked if the inventory is invalid."""
    if looked.cluster.problems:
        return "unknown", [
            "The members were not checked, because the inventory is invalid.",
            *merged(looked.cluster.problems),
        ]
    if not looked.health or "verdict" not in looked.health:
        if not looked.speaker:
            return "unknown", [
                "The members were not checked, because none of their hosts is reachable by ssh, or all have failed earlier in this run."
            ]
        said = (looked.health or {}).get("msg")
        return "unknown", [f"{looked.speaker} could not check the members{f': {said}' if said else '.'}"]
    verdict = str(looked.health["verdict"])
    return verdict if verdict in VERDICTS else "unknown", list(looked.health.get("reasons", []))


def silent_row(looked: Looked, member: Member) -> dict[str, Any]:
    """The row of a member that could not be checked, in the form of etcd_health."""
    url = client_url(member.address, looked.of(member.host).client_port) if member.address else ""
    return {
        "name": member.name,
        "endpoint": url,
        "reachable": False,
        "healthy": False,
        "error": "not checked",
        "error_code": "",
    }


def metrics(looked: Looked) -> dict[str, Any]:
    """The targets for Prometheus: each member's client port with TLS, or its metrics port if that is exposed.

    directory: the directory with this cluster's certificate files, relative to the scrape configuration.
    """
    targets = []
    for member in looked.cluster.members:
        settings = looked.of(member.host)
        port = settings.metrics_port if settings.metrics_exposed else settings.client_port
        if member.address:
            target = f"{bracketed(member.address)}:{port}"
            targets.append({"member": member.name, "target": target, "tls": not settings.metrics_exposed})
    return {
        "directory": re.sub(r"[^A-Za-z0-9._-]|^[.]+", "-", looked.cluster.name),
        "targets": targets,
        "exposed": [f"http://{item['target']}" for item in targets if not item["tls"]],
    }


# --- Certificates ----------------------------------------------------------------------------------------------------


def certificate(member: str, kind: str, begin: str, end: str, now: datetime, settings: Settings) -> dict[str, Any]:
    """One certificate: its whole life and the rest of it in days, and whether a run would renew it."""
    left = (moment(end) - now).total_seconds()
    whole = (moment(end) - moment(begin)).total_seconds() if begin else settings.validity
    window = CA_WARNING * DAY if kind == "ca" else settings.window
    return {
        "member": member,
        "kind": kind,
        "not_before": begin,
        "not_after": end,
        "end": int(moment(end).timestamp()),
        "days_left": int(left // DAY),
        "days_whole": max(1, round(whole / DAY)),
        "days_window": round(window / DAY),
        "state": "ended" if left <= 0 else "window" if left <= window else "good",
    }


def moment(text: str) -> datetime:
    """A time in ISO 8601, in UTC unless it has a time zone."""
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def authority(looked: Looked, now: datetime) -> list[dict[str, Any]]:
    """The CA certificate of the CA host, or of the first host that has one."""
    order = [looked.cluster.ca_host, *looked.observations]
    for host in order:
        pki = looked.observations.get(host, {}).get("pki", {})
        if pki.get("ca_not_after"):
            begin = pki.get("ca_not_before") or ""
            return [certificate("", "ca", begin, pki["ca_not_after"], now, looked.of(host))]
    return []


def leaves(looked: Looked, rows: list[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """The certificates of the members, from their files. If ssh does not reach a host, the server certificate that its member presents."""
    found = []
    told = {row["name"]: row.get("certificate") or {} for row in rows}
    for member in looked.cluster.members:
        settings = looked.of(member.host)
        on_disk = {
            item["kind"]: item
            for item in looked.observations.get(member.host, {}).get("pki", {}).get("certificates", [])
        }
        for kind in KINDS:
            item = on_disk.get(kind) or (told.get(member.name, {}) if kind == "server" else {})
            if item.get("not_after"):
                begin = item.get("not_before", "")
                found.append(certificate(member.name, kind, begin, item["not_after"], now, settings))
    return found


def certificate_findings(certificates: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Findings on certificates that expire soon, except server certificates, on which etcd_health reports."""
    judged_there = {row["name"] for row in rows if row.get("certificate")}
    findings = []
    by_member: dict[str, list[dict[str, Any]]] = {}
    for item in certificates:
        if item["state"] == "good" or (item["kind"] == "server" and item["member"] in judged_there):
            continue
        if item["kind"] == "ca":
            findings.append(
                finding(
                    "ca-ends",
                    "",
                    f"The CA {ends(item)}: no certificate of this cluster can last longer.",
                    'A run does not renew the CA. Plan its renewal early (docs/certificates.md, "The CA expires").',
                )
            )
            continue
        by_member.setdefault(item["member"], []).append(item)
    for name, items in by_member.items():
        first = min(items, key=lambda item: int(item["days_left"]))
        kinds = ", ".join(item["kind"] for item in items)
        code = "certificate-ended" if first["state"] == "ended" else "certificate-window"
        noun = "certificate" if len(items) == 1 else "certificates"
        when = ends(first) if len(items) == 1 else f"the first {ends(first)}"
        findings.append(finding(code, name, f"{name}: {noun} {kinds}: {when}.", RENEW))
    return findings


def ends(item: Data) -> str:
    """The text on when a certificate expires."""
    days = int(item["days_left"])
    date = str(item["not_after"])[:10]
    if item["state"] == "ended":
        return f"expired on {date}"
    return f"expires in {days} day{'' if days == 1 else 's'} ({date})"


# --- Snapshots -------------------------------------------------------------------------------------------------------


def snapshots(looked: Looked) -> list[dict[str, Any]]:
    """The newest snapshot of each host that was observed, the newest first: file, age in seconds, size in bytes. file: '' if there is none."""
    found = []
    for host, observation in looked.observations.items():
        backup = observation.get("backup") or {}
        if not backup.get("dir"):
            continue
        newest: Data = next(iter(backup["newest"]), {})
        age = round(float(newest["age"])) if newest else 0
        entry = {"host": host, "file": str(newest.get("file", "")), "age": age, "size": int(newest.get("size", 0))}
        found.append({**entry, "count": int(backup["count"])})
    return sorted(found, key=lambda item: (not item["file"], *order_by_age(item["age"])))


def snapshot_lines(backups: list[dict[str, Any]]) -> list[str]:
    """What is said of snapshots on the terminal: only if there are any."""
    return [f"newest snapshot: {snapshot_text(backups)}"] if any(item["file"] for item in backups) else []


def snapshot_text(backups: list[dict[str, Any]]) -> str:
    """The newest snapshot of a cluster, and how many hosts have one."""
    there = [item for item in backups if item["file"]]
    if not there:
        return "none on the hosts"
    first = there[0]
    others = f"; {len(there)} of {len(backups)} hosts have some" if len(backups) > 1 else ""
    old = f"{span(first['age'])} old"
    if is_ahead(first["age"]):
        old = "of unknown age, since the clock of its host was wrong"
    return f"{old}, {amount(first['size'])}, on {first['host']}{others}"


def span(seconds: int) -> str:
    """A duration for people, in its largest unit."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{max(0, seconds)} seconds"


def snapshot_findings(looked: Looked) -> list[dict[str, str]]:
    """Hosts whose last attempt at a snapshot failed."""
    found = []
    for host, observation in looked.observations.items():
        error = ((observation.get("backup") or {}).get("state") or {}).get("error")
        if error:
            text = f"{host}: the last attempt at a snapshot failed: {error}"
            found.append(
                finding(
                    "backup",
                    "",
                    text,
                    "Correct the cause, then run backup.yml, or `systemctl start kubeadm-etcd-backup` there.",
                )
            )
    return found


# --- Findings on hosts -----------------------------------------------------------------------------------------------


def log_findings(looked: Looked) -> list[dict[str, str]]:
    """Members that etcd 3.7 would not start on, long before it is installed."""
    names = [
        member.name
        for member in looked.cluster.members
        if (etcd := looked.observations.get(member.host, {}).get("etcd", {})).get("unreadable")
        and (version := etcd_version_in(etcd.get("version") or ""))
        and version.minor == WITHOUT_FORMER_API - 1
    ]
    if not names:
        return []
    return [
        finding(
            "unreadable-log",
            "",
            f'{", ".join(names)}: the log has entries of etcd 3.5 and no newer raft snapshot. etcd 3.7 would panic when it starts ("unmarshal should'
            ' never fail").',
            "site.yml restarts such a member once more on 3.6 before it upgrades it. Upgrade with site.yml, not by hand"
            " (docs/unmarshal-should-never-fail.md).",
        )
    ]


def finding(code: str, member: str, text: str, remedy: str = "") -> dict[str, str]:
    """One finding in the form of etcd_health."""
    return {"code": code, "member": member, "text": text, "remedy": remedy}


def ssh_findings(looked: Looked) -> list[dict[str, str]]:
    """A finding on hosts that ssh does not reach: their members may be healthy, but their files were not read."""
    if not looked.lost:
        return []
    names = ", ".join(looked.lost)
    return [
        finding(
            "ssh",
            "",
            f"{names}: not reachable by ssh, or not observed, in this run. The report on them comes from the other members only.",
            "Repair ssh to these hosts (the output of the run has the error), then run health.yml again.",
        )
    ]


def host_findings(looked: Looked) -> list[dict[str, str]]:
    """Findings on the hosts: warnings, what a run of site.yml would change, and what it would refuse."""
    seen = looked.observations
    said = [
        note(text, host)
        for host, observation in seen.items()
        for text in [
            *host_warnings(observation["facts"]),
            *observation["pki"].get("warnings", []),
            *observation.get("kubelet", {}).get("warnings", []),
        ]
    ]
    said += map(note, cluster_warnings({host: observation["facts"] for host, observation in seen.items()}))
    differs = [
        note(f"{PARTS[part]}: {reason['text']}", host)
        for part in PARTS
        for host, observation in seen.items()
        for reason in observation["reasons"].get(part, [])
    ]
    problems: dict[tuple[str, ...], list[Problem]] = {}
    for host, found in seen.items():
        for item in found.get("problems", []):
            problem = Problem.from_dict(item, host)
            problems.setdefault(problem.stops, []).append(problem)
    return [
        *(finding("host", "", text) for text in merged(said)),
        *(
            finding(
                "differs", "", f"{text}.", "Run `site.yml --check --diff` to see the change, and site.yml to make it."
            )
            for text in merged(differs)
        ),
        *(finding("refused", "", text, refusal(stops)) for stops, of in problems.items() for text in merged(of)),
    ]


_STOPPED = {
    FOUND: "found the cluster",
    START: "start a member or kubelet that does not run",
    RESTART: "restart a running one",
    SIGN: "issue certificates",
}


def refusal(stops: tuple[str, ...]) -> str:
    """What site.yml refuses to do until a problem is fixed."""
    words = [words for step, words in _STOPPED.items() if step in stops]
    if not words:
        return "A run of site.yml continues, with a warning."
    return f"Until this is fixed, site.yml does not {', '.join(words[:-1])}{' or ' if words[1:] else ''}{words[-1]}."


def own_lines(verdict: str, reasons: list[str], looked: Looked, own: list[dict[str, str]]) -> list[str]:
    """The lines for the terminal after the table of etcd_health, or without it."""
    lines = []
    if not (looked.health or {}).get("table"):
        lines = [f"cluster {looked.cluster.name}: {verdict}", *(f"PROBLEM: {text}" for text in reasons)]
    for item in own:
        text = f"FINDING: {item['text']}"
        lines.append(f"{text} {item['remedy']}" if item["remedy"] else text)
    return lines


# --- The page --------------------------------------------------------------------------------------------------------

# Sign, word and meaning of each verdict, so that colour is never the only difference.
WORDS = {
    "healthy": ("✓", "Healthy", "Every member is healthy."),
    "degraded": ("!", "Degraded", "The cluster has a quorum and serves clients, but something is wrong."),
    "down": ("\u00d7", "Down", "The cluster has no quorum: writes and linearizable reads fail."),
    "unknown": ("?", "Unknown", "No member could be checked."),
}


def page(report: Data) -> dict[str, Any]:
    """The content of the HTML page, as texts and percentages."""
    clusters = [cluster_page(item, number) for number, item in enumerate(report["clusters"], 1)]
    count = len(clusters)
    well = sum(item["verdict"] == "healthy" for item in report["clusters"])
    if not count:
        summary = "No clusters"
    elif well == count:
        summary = "The cluster is healthy" if count == 1 else f"All {count} clusters are healthy"
    elif count == 1:
        summary = f"The cluster is {report['verdict']}"
    else:
        summary = f"{count - well} of {count} clusters {'is' if count - well == 1 else 'are'} not healthy"
    return {
        "summary": summary,
        "verdict": report["verdict"],
        "at": report["at"][:19].replace("T", " ") + " UTC",
        "clusters": clusters,
    }


def cluster_page(cluster: Data, number: int) -> dict[str, Any]:
    """The content of the page for one cluster."""
    members = cluster["members"]
    well = sum(bool(row["healthy"]) for row in members)
    sign, word, meaning = WORDS[cluster["verdict"]]
    facts = [
        ("Members", f"{well} of {len(members)} healthy"),
        ("Quorum", f"{'yes' if cluster['quorum'] else 'no'}, {cluster['quorum_size']} needed"),
        ("Leader", cluster["leader"] or "unknown"),
        ("etcd", versions(members) or cluster["version"] or "unknown"),
        ("Cluster version", cluster["cluster_version"] or "unknown"),
        *([("Downgrade", f"to {cluster['downgrade']}, under way")] if cluster["downgrade"] else []),
        ("Cluster id", cluster["cluster_id"] or "unknown"),
        *([("Newest snapshot", snapshot_text(cluster["backups"]))] if cluster["backups"] else []),
    ]
    return {
        "anchor": f"cluster-{number}",
        "name": cluster["name"],
        "verdict": cluster["verdict"],
        "sign": sign,
        "word": word,
        "meaning": meaning,
        "reasons": cluster["reasons"],
        "facts": facts,
        "members": [member_page(row) for row in members],
        "ca": next((certificate_page(item) for item in cluster["certificates"] if item["kind"] == "ca"), None),
        "certificates": certificate_rows(cluster),
        "kinds": KINDS,
        "findings": [
            {"about": item.get("member") or "", "text": item["text"], "remedy": item.get("remedy") or ""}
            for item in cluster["findings"]
        ],
        "exposed": cluster["metrics"]["exposed"],
        "asked": asked(cluster),
    }


def asked(cluster: Data) -> str:
    """From which host the members were checked, and which hosts ssh did not reach."""
    where = f"checked from {cluster['asked_on']}" if cluster["asked_on"] else "no member could be checked"
    return f"{where}, not reachable by ssh: {', '.join(cluster['unreachable'])}" if cluster["unreachable"] else where


def versions(members: list[Data]) -> str:
    """The versions of etcd that the members run."""
    return ", ".join(sorted({str(row["version"]) for row in members if row.get("version")}))


def member_page(row: Data) -> dict[str, Any]:
    """The content of the page for one member."""
    answered = bool(row["reachable"])
    state = "healthy" if row["healthy"] else "unhealthy" if answered else "no answer"
    why = row.get("error") or row.get("reason") or ""
    shown: dict[str, Any] = {
        "name": row["name"] or "?",
        "endpoint": str(row["endpoint"]).replace("https://", ""),
        "answered": answered,
        "state": state,
        "level": "good" if row["healthy"] else "bad",
        "why": "" if row["healthy"] else why,
        "role": row.get("role") or "unknown",
        "version": row.get("version") or "unknown",
        "raft": "unknown",
        "alarms": row.get("alarms") or [],
        "database": None,
        "round_trip": "unknown",
    }
    if row.get("raft_term") is not None:
        lag = int(row.get("raft_lag") or 0)
        shown["raft"] = f"term {row['raft_term']}, " + (f"{lag} behind" if lag else "in step")
    if row.get("round_trip") is not None:
        shown["round_trip"] = f"{float(row['round_trip']):.0f} ms"
    if row.get("db_size") is not None and row.get("quota"):
        shown["database"] = database_page(row)
    return shown


def database_page(row: Data) -> dict[str, Any]:
    """The size of a database, the part in use, and its quota."""
    size, quota = int(row["db_size"]), int(row["quota"])
    used = int(row.get("db_size_in_use") or 0)
    share = 100.0 * size / quota
    return {
        "percent": share_text(size, quota),
        # A part of a bar this short would not be visible.
        "in_use_percent": share_text(used, quota) if share > 3 else "",
        "level": "bad" if share >= 95 else "warn" if share >= 80 else "good",
        "label": f"{amount(size)} of {amount(quota)}, {f'{share:.1f}' if share >= 0.1 else 'below 0.1'} %",
        "detail": f"{amount(used)} in use",
    }


def share_text(part: float, whole: float) -> str:
    """A percentage for a style attribute, within 0 and 100."""
    return f"{min(100.0, max(0.0, 100.0 * part / whole)):.1f}"


def amount(size: int) -> str:
    """A size in bytes with a suitable unit."""
    power = min((max(size, 1).bit_length() - 1) // 10, len(_UNITS) - 1)
    value = size / 1024**power
    return f"{value:.0f} {_UNITS[power]}" if value >= 100 or value.is_integer() else f"{value:.1f} {_UNITS[power]}"


def certificate_page(item: Data) -> dict[str, Any]:
    """One certificate as a bar: the rest of its life, with a mark at the start of the renewal window."""
    days = int(item["days_left"])
    label = "expired" if item["state"] == "ended" else f"{days} day{'' if days == 1 else 's'}"
    return {
        "kind": item["kind"],
        "label": label,
        "detail": f"of {item['days_whole']}, until {str(item['not_after'])[:10]}",
        "level": {"good": "good", "window": "warn", "ended": "bad"}[item["state"]],
        "percent": share_text(days, item["days_whole"]),
        # A window longer than the whole life has no mark.
        "mark": share_text(item["days_window"], item["days_whole"]) if item["days_window"] < item["days_whole"] else "",
        "window": item["days_window"],
    }


def certificate_rows(cluster: Data) -> list[dict[str, Any]]:
    """Certificates by member, one cell for each kind; None if the certificate is unknown."""
    rows: dict[str, dict[str, Any]] = {}
    for item in cluster["certificates"]:
        if item["kind"] != "ca":
            rows.setdefault(item["member"], {})[item["kind"]] = certificate_page(item)
    return [{"member": name, "cells": [found.get(kind) for kind in KINDS]} for name, found in rows.items()]
