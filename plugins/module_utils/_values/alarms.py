# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Texts for etcd's alarms: what each kind means, for a member and for the whole cluster, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

# Alarms of one member: meaning and remedy.
ALARMS = {
    "NOSPACE": 'the database has reached its quota, and writes are refused. Run defragment.yml (docs/size.md, "The database is full")',
    "CORRUPT": "its data differs from that of the other members, and all writes are refused. Run health.yml, which compares the data of all members,"
    ' then replace that member with replace_member.yml (docs/recovery.md, "The data of the members differs")',
}
# Alarms of the whole cluster, if their meaning differs.
CLUSTER_ALARMS = {
    "CORRUPT": "the data of the members differs, etcd cannot tell which member is wrong, and all writes are refused. Save a snapshot of every member"
    " before you change anything. Then run health.yml, which compares the data of all members and says whose data differs from that of a majority"
    ' (docs/recovery.md, "The data of the members differs")',
}


def name_of(member_id: int, names: Mapping[int, str]) -> str:
    """The member of an alarm: its name, its id (hexadecimal) if the membership is unknown, or '' for the whole cluster."""
    return names.get(member_id, f"{member_id:x}") if member_id else ""


def alarm_text(kind: str, member: str) -> str:
    """The text of an alarm: kind, place, meaning and remedy, without a full stop. member: '' for the whole cluster."""
    known = ALARMS if member else {**ALARMS, **CLUSTER_ALARMS}
    place = f"at {member}" if member else "for the whole cluster"
    return f"{kind} {place}: {known.get(kind, 'see the log of etcd')}"
