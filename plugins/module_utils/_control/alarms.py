# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the alarms of etcd mean for a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.alarms import alarm_text
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Observation = Mapping[str, Any]


def alarmed(observations: Mapping[str, Observation]) -> list[tuple[str, str]]:
    """Kind and member ('': the whole cluster) of every alarm that any host was told of."""
    found = {
        (str(alarm["kind"]), str(alarm["member"]))
        for observation in observations.values()
        for alarm in observation["etcd"].get("alarms") or []
    }
    return sorted(found)


def departed_with_alarm(observations: Mapping[str, Observation]) -> list[Mapping[str, Any]]:
    """Members that have left and whose alarm is still raised, as entries of a membership. They have no name, but the id of the alarm."""
    # Another member may know an earlier membership, and the name.
    ready = {host: item for host, item in observations.items() if item["etcd"].get("ready")}
    known = {str(entry.get(key)) for entry in membership(ready) or [] for key in ("id", "name")}
    members = dict.fromkeys(member for _kind, member in alarmed(ready) if member and member not in known)
    return [{"id": member, "name": "", "peer_urls": [], "client_urls": [], "has_left": True} for member in members]


def corruption_problems(cluster: Cluster, observations: Mapping[str, Observation]) -> list[Problem]:
    """Why a cluster whose data is in doubt is left as it is: any alarm but NOSPACE (server/etcdserver/corrupt.go)."""
    departed = [entry["id"] for entry in departed_with_alarm(observations)]
    return [
        Problem(
            f"Alarm {kind} of member {member}, which has left cluster {cluster.name!r}: etcd refuses all writes until it is disarmed. Run"
            f" remove_member.yml -e etcd_member={member}"
            if member in departed
            else f"Alarm {alarm_text(kind, member)}. Until then, runs do not change cluster {cluster.name!r}, because no restart repairs it.",
            code="alarm",
        )
        for kind, member in alarmed(observations)
        if kind != "NOSPACE"
    ]


def alarm_warnings(cluster: Cluster, observations: Mapping[str, Observation]) -> list[str]:
    """A warning for the alarm NOSPACE. The run continues, since it may be the one that raises the quota."""
    names = [member or "the whole cluster" for kind, member in alarmed(observations) if kind == "NOSPACE"]
    if not names:
        return []
    return [
        f"{', '.join(names)}: alarm NOSPACE: the database has reached its quota, and cluster {cluster.name!r} refuses all writes."
        " Run defragment.yml, which compacts and defragments the database and disarms the alarm. If that does not free enough, raise"
        ' quota-backend-bytes in etcd_extra_args first (docs/size.md, "The database is full").'
    ]
