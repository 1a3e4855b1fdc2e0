# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The record of a member: what a host must not forget even if its data directory is gone.

It lies outside the data directory, so that a volume that is not mounted, a copied or restored data directory and a CA that was
exchanged by hand can be told from a fresh host. It never decides what comes next. Standard library only, but for the CA.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    ensure_directory,
    read_bytes,
    read_or_say,
    replace_file,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import read_wal
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import object_in
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import RECORD, record_path
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

MODE = 0o600

# Fields that may be empty.
_OPTIONAL = ("ca", "removed")


@dataclass(frozen=True)
class Record:
    """A member as its log knew it when it had a leader.

    name: of the member. cluster_id, member_id: hexadecimal. data_dir: absolute path. ca: fingerprint of the public key of the CA, so
    that a CA certificate renewed over the same key is the same CA; '' if it could not be read. removed: the day on which the member left
    its cluster (YYYY-MM-DD, UTC), '' while it has not.
    """

    name: str
    cluster_id: str
    member_id: str
    data_dir: str
    ca: str = ""
    removed: str = ""

    def as_text(self) -> str:
        """As it stands in the file."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Record:
        """From the text of the file; fields of later versions are ignored. ValueError if it is damaged."""
        data = object_in(text)
        known = {field.name: data.get(field.name, "") for field in fields(cls)}
        lacking = [
            name for name, value in known.items() if not isinstance(value, str) or (not value and name not in _OPTIONAL)
        ]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        return cls(**known)


def read_record(work_dir: str) -> Record | None:
    """The record of a host; None if there is none. EtcdError if it is damaged."""
    path = record_path(work_dir)
    data = read_bytes(path)
    if data is None:
        return None
    try:
        return Record.from_text(data.decode("utf-8"))
    except ValueError as exc:
        raise EtcdError(
            f"{path} is damaged ({exc}). It records which cluster this host belongs to. If the member runs, move the file away:"
            " the next run writes it again. If it does not run, put the file back from a backup. Without a backup, move it away only if the data"
            " in the data directory is that of this member."
        ) from exc


def removed_with_keys(work_dir: str, files: Iterable[str]) -> bool:
    """Whether a run has removed the member of this host, and its keys: one of these files is missing."""
    if not work_dir or all(map(os.path.exists, files)):
        return False
    try:
        record = read_record(work_dir)
    except EtcdError:
        return False
    return bool(record and record.removed)


def ca_of(pki_dir: str) -> str:
    """Fingerprint of the public key of the CA in ca.crt; '' if it cannot be read."""
    data = read_or_say(os.path.join(pki_dir, "etcd", "ca.crt"))[0]
    certificate = _x509.load_certificate(data) if _x509.HAS_CRYPTOGRAPHY else None
    return _x509.public_fingerprint(certificate.public_key()) if certificate is not None else ""


def current_record(name: str, data_dir: str, pki_dir: str) -> Record | None:
    """The record that the data and the CA of a host give; None if its log never had a leader, or was restored and had none since."""
    wal = read_wal(data_dir)
    if wal is None or not wal.formed or wal.restored or wal.problem:
        return None
    return Record(name, wal.cluster_id, wal.member_id, os.path.normpath(data_dir), ca_of(pki_dir))


def write_record(record: Record, work_dir: str) -> None:
    """Write the record of a host."""
    ensure_directory(work_dir, 0o700)
    replace_file(record_path(work_dir), record.as_text().encode(), MODE)


def record_reasons(on_disk: Record | None, current: Record | None) -> list[Reason]:
    """Why the record has to be written; empty if it need not be, or if there is nothing to record yet."""
    if current is None or on_disk == current:
        return []
    if on_disk is None:
        return [Reason("record", "missing", f"{RECORD}: missing")]
    before, after = asdict(on_disk), asdict(current)
    return [
        Reason("record", key, f"{RECORD}: {key}: {before[key]} -> {after[key]}")
        for key in after
        if before[key] != after[key]
    ]
