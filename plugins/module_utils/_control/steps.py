# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The steps of a plan. They say what a run does, to which member, in which turn and why. Sentences are made last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import PARTS, Reason

# What a run is asked for. The variable etcd_operation.
CONVERGE, RENEW, HAND_OVER, REPORT = "converge", "renew", "hand_over", "report"
REMOVE, REPLACE = "remove", "replace"
MOVE_CA, ROTATE_CA = "move_ca", "rotate_ca"
BACKUP, RESTORE, DRILL = "backup", "restore", "drill"
DEFRAGMENT = "defragment"

# What a step does, in the order in which a run carries them out.
KUBELET = "kubelet"  # The kubelet of a host that joins is started. No member depends on it yet, so it takes no turn.
SNAPSHOT = "snapshot"  # A verified snapshot is taken on the host of a member.
CA = "ca"  # The CA is made on the CA host, brought in, or its files are repaired.
REPLACE_CA = "replace_ca"  # The ca.crt of a host is replaced by that of the CA host.
SEND_CA_KEY = "send_ca_key"  # ca.key is encrypted for the CA host.
RECEIVE_CA_KEY = "receive_ca_key"  # It is written on the CA host, unless it is there, and proven.
REMOVE_CA_KEY = "remove_ca_key"  # A copy of ca.key is removed.
EXPORT_CA_KEY = "export_ca_key"  # An encrypted copy of ca.key is written on the controller.
NEXT_CA = "next_ca"  # A new CA is put beside the one in use, on the CA host.
TRUST_CA = "trust_ca"  # The ca.crt of a host holds the CAs of a phase of the rotation.
RENEW_CA = "renew_ca"  # The CA gets another certificate over the same key, on the CA host.
EXCHANGE_CA = "exchange_ca"  # The new CA signs from now on, on the CA host.
CERTIFICATES = "certificates"  # Certificates are issued, or their files repaired.
CONFIG = "config"  # kubeadmcfg.yaml is written.
IMAGE = "image"  # The image archive is imported.
REHEARSE = "rehearse"  # The restore of a snapshot is rehearsed on a host.
PREPARE = "prepare"  # A snapshot is restored beside the data of a member.
STOP = "stop"  # A member is stopped for good: its manifest is moved away.
REPLACE_DATA = "replace_data"  # The data of a member is archived, and the restored data takes its place.
START = "start"  # A member is started, all at once.
DOWNGRADE = "downgrade"  # A downgrade of etcd is enabled, or cancelled, for the cluster.
LEAVE = "leave"  # A member leaves the membership. The step runs on the host of another member.
ARCHIVE = "archive"  # The host of a former member is cleared, and its data is archived.
TURN = "turn"  # A member is changed, one after the other.
JOIN = "join"  # A member joins as a learner and is promoted, one after the other, in the same row of turns.
DEFRAGMENT_MEMBER = "defragment"  # The database of a member is defragmented, one after the other.
DISARM = "disarm"  # The alarm NOSPACE is disarmed.
APISERVER = "apiserver"  # A kube-apiserver is given other endpoints of etcd, one after the other.
RECORD = "record"  # The record of a member is written.
SCHEDULE = "schedule"  # The timer that takes snapshots is installed or removed.
CA_KEY_KINDS = (SEND_CA_KEY, RECEIVE_CA_KEY, REMOVE_CA_KEY, EXPORT_CA_KEY)
KINDS = (
    KUBELET,
    SNAPSHOT,
    CA,
    REPLACE_CA,
    *CA_KEY_KINDS,
    NEXT_CA,
    RENEW_CA,
    TRUST_CA,
    EXCHANGE_CA,
    CERTIFICATES,
    CONFIG,
    IMAGE,
    REHEARSE,
    PREPARE,
    STOP,
    REPLACE_DATA,
    LEAVE,
    ARCHIVE,
    DOWNGRADE,
    START,
    TURN,
    JOIN,
    DEFRAGMENT_MEMBER,
    DISARM,
    APISERVER,
    RECORD,
    SCHEDULE,
)

# What a step of each kind changes, of the parts of a host.
_PARTS = {
    KUBELET: ("kubelet",),
    CA: ("ca",),
    CERTIFICATES: ("certificates",),
    CONFIG: ("config",),
    IMAGE: ("image",),
    START: ("packages", "kubelet", "config", "manifest"),
    TURN: ("packages", "kubelet", "config", "manifest"),
    JOIN: ("packages", "kubelet", "config", "manifest"),
    RECORD: ("record",),
    SCHEDULE: ("backup",),
}


@dataclass(frozen=True)
class Step:
    """One step. member: whom it is about; host: where it runs; turn: its number, None if all take it at once."""

    kind: str
    member: str
    host: str
    turn: int | None = None
    reasons: tuple[Reason, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Step:
        """From plain data."""
        return cls(**{**data, "reasons": tuple(map(Reason.from_dict, data["reasons"]))})


def reasons_for(kind: str, observation: Mapping[str, Any]) -> tuple[Reason, ...]:
    """The reasons of a host that a step of this kind acts on."""
    found = (item for part in _PARTS.get(kind, ()) for item in observation["reasons"].get(part, []))
    return tuple(Reason.from_dict(item) for item in found)


def in_order(steps: Iterable[Step]) -> list[Step]:
    """Steps as a run carries them out: by kind, and turns of both kinds by their number."""
    return sorted(steps, key=lambda step: (KINDS.index(TURN if step.turn else step.kind), step.turn or 0))


def hosts_of(steps: Iterable[Step], *kinds: str) -> list[str]:
    """Hosts that have a step of one of these kinds, in the order of their turns."""
    return list(dict.fromkeys(step.host for step in in_order(steps) if step.kind in kinds))


def reasons_of(steps: Iterable[Step]) -> list[tuple[str, str, str]]:
    """Host, name of the part and text of every reason, part by part."""
    found = [(step.host, reason) for step in steps for reason in step.reasons]
    said = [(host, PARTS[part], reason.text) for part in PARTS for host, reason in found if reason.part == part]
    return list(dict.fromkeys(said))
