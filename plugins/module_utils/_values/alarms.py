# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""etcd's alarms in words: what each kind means, for a member and for the whole cluster, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.remedies import etcdctl

_COMPARE, _DISARM = (f"`{etcdctl(arguments)}`" for arguments in ("endpoint hashkv --cluster", "alarm disarm"))

# What an alarm of one member means, and what to do.
ALARMS = {
    "NOSPACE": f'the database has reached its quota, and writes are refused. Compact, defragment (docs/recovery.md, "The database is full"), then {_DISARM}',
    "CORRUPT": "its data differs from that of the other members, and all writes are refused. Confirm that by the hashes"
    f' ({_COMPARE}), then replace that member: replace_member.yml (docs/recovery.md, "The data of the members differs")',
}
# The same if it is raised for the whole cluster.
CLUSTER_ALARMS = {
    "CORRUPT": "the data of the members differs, etcd cannot tell which member is wrong, and all writes are refused. Save a snapshot of"
    f" every member before you change anything. Compare the hashes ({_COMPARE}): if a majority has the same hash at the same revision,"
    " remove a member with another one and add it again empty; if not, restore the cluster from the snapshot that you trust. Then"
    f" {_DISARM}",
}


def name_of(member_id: int, names: Mapping[int, str]) -> str:
    """The name of a member in an alarm: its id (hexadecimal) if the membership is not known, and '' for the whole cluster."""
    return names.get(member_id, f"{member_id:x}") if member_id else ""


def alarm_text(kind: str, member: str) -> str:
    """An alarm in words: kind, place, what it means and what to do, without a full stop. member: '' for the whole cluster."""
    known = ALARMS if member else {**ALARMS, **CLUSTER_ALARMS}
    place = f"at {member}" if member else "for the whole cluster"
    return f"{kind} {place}: {known.get(kind, 'see the log of etcd')}"
