# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operation backup: which member gives the snapshot. The same is asked before a change that could hurt. Runs on the controller, pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import SNAPSHOT, Step
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import FetchDir
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import Source, source_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, note
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


# What stays free on the controller beside the copy of a snapshot, in bytes.
SPARE = 16 << 20


@dataclass(frozen=True)
class Backup:
    """The step that takes a snapshot; or why none can be taken."""

    steps: list[Step] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def backup(cluster: Cluster, observations: Observations, leaving: str = "") -> Backup:
    """The member that a snapshot is taken from. leaving: a host whose member is about to leave, which is asked last.

    A healthy follower, else the leader; without a quorum any member that answers, since its database may be the best that is left.
    """
    hosts = {member.name: member.host for member in cluster.members}
    sources = [source_in(cluster, host, item) for host, item in observations.items()]
    stay = [item for item in sources if hosts[item.name] != leaving]
    chosen = source_of(stay) or source_of(sources)
    warnings = []
    if chosen is None:
        answering = [
            member.name
            for member in cluster.members
            if observations.get(member.host, {}).get("etcd", {}).get("answers")
        ]
        chosen = next((item for item in sources if item.name in answering), None)
        if chosen:
            text = f"cluster {cluster.name!r} has no healthy member that this run has seen. The snapshot of {chosen.name} may lack the last writes."
            warnings.append(note(text))
    if chosen is None:
        return Backup(problems=[no_source(cluster)])
    host = hosts[chosen.name]
    directory = observations[host]["backup"]["dir"]
    text = f"taken from member {chosen.name}{' (the leader)' if chosen.is_leader else ''}, saved in {directory}"
    return Backup([Step(SNAPSHOT, chosen.name, host, None, (Reason("snapshot", "taken", text),))], [], warnings)


def recipient_problems(path: str, text: str) -> list[str]:
    """Why a file on the controller is not a certificate to encrypt snapshots to. text: its content, empty if it cannot be read.

    An expired certificate is accepted: its key still opens what is encrypted to it, and a snapshot in plain text, or none, would be worse.
    """
    # Only a run with a recipient needs the library.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import (
        HAS_CRYPTOGRAPHY,
        algorithm_of,
        load_certificate,
        signs_only,
    )

    if not text.strip():
        why = "cannot be read on the controller"
    elif "PRIVATE KEY" in text:
        why = "has a private key in it. Name the certificate alone: the key belongs in a safe"
    elif not HAS_CRYPTOGRAPHY:
        return []
    elif not (certificate := load_certificate(text.encode())):
        why = "is not a certificate (PEM)"
    elif signs_only(certificate):
        kind = algorithm_of(certificate.public_key()).replace("RSA-", "RSA-PSS-")
        why = (
            f"has a key of the kind {kind}, which openssl cannot encrypt to. Make one with RSA, as docs/backup.md shows"
        )
    else:
        return []
    return [f"etcd_backup_recipient: {path} {why}."]


def fetch_problems(
    hosts: Iterable[str], observations: Observations, fetch_dirs: Mapping[str, FetchDir]
) -> list[Problem]:
    """Why a snapshot could not be copied to the controller. hosts: that take one. Said before it is taken, and before any change that comes after it."""
    found = []
    for host in hosts:
        wanted = fetch_dirs.get(host, FetchDir())
        # A snapshot has the size of the database file. Encrypted, it is hardly larger.
        needed = int(((observations.get(host) or {}).get("etcd", {}).get("database") or {}).get("size") or 0)
        text = wanted.problem
        if wanted.path and not text and wanted.free < needed + SPARE:
            text = (
                f"etcd_backup_fetch_dir: {wanted.path} on the controller has {wanted.free >> 20} MiB free, and {needed + SPARE >> 20} MiB are needed for the"
                f" snapshot of {host}. Free some space there, or name another directory. Without one, the snapshot stays on the host."
            )
        found += [Problem(text, code="fetch-dir")] if text else []
    return found


def source_in(cluster: Cluster, host: str, observation: Observation) -> Source:
    """A member as the source of a snapshot, by what was observed of it."""
    etcd = observation["etcd"]
    member = next(item for item in cluster.members if item.host == host)
    entry = entry_of(member, etcd.get("members") or []) or {}
    corrupt = any(
        alarm["kind"] == "CORRUPT" and alarm["member"] in ("", member.name) for alarm in etcd.get("alarms") or []
    )
    problem = "alarm CORRUPT" if corrupt else "" if etcd.get("ready") and etcd.get("answers") else "it is not ready"
    return Source(member.name, problem, bool(etcd.get("leader")), bool(entry.get("is_learner")))


def no_source(cluster: Cluster) -> Problem:
    """No member can be asked for a snapshot."""
    return Problem(
        f"no member of cluster {cluster.name!r} that this run has seen answers, so none can give a snapshot. Run site.yml to start what is down. If its data"
        ' is lost, restore an older snapshot, or the database of a stopped member (docs/disaster.md, "One member is left").',
        code="no-snapshot-source",
    )
