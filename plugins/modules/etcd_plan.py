# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_plan
short_description: Plan a run, and refuse it before anything is changed
version_added: 0.1.0
description:
  - Judges what M(kubeadm.etcd.etcd_observe) returned for the hosts of a cluster (the variable C(__etcd_host) of each), shows warnings and the plan as
    text, and fails if there is a problem that the run must not begin with. One host of each cluster shows them.
  - Fails if the hosts of the play do not wait for each other (C(strategy) is C(free) or C(host_pinned)), because members would restart at the
    same time.
  - All other input comes from the variables of the role C(kubeadm.etcd.etcd), which are read from the play, unless O(operation) is V(report).
  - Runs on the controller and changes nothing. Used by the role C(kubeadm.etcd.etcd).
author:
  - The kubeadm.etcd maintainers (@kubeadm)
attributes:
  check_mode:
    description: Can run in check mode and return what would be changed, without changing anything.
    support: full
  diff_mode:
    description: Returns what has changed, or would be changed in check mode.
    support: none
  platform:
    description: Target systems.
    platforms: posix
    support: full
options:
  operation:
    description: What the run is for, a value of the variable C(etcd_operation); or V(report), which shows and refuses nothing.
    type: str
    default: converge
  phase:
    description: The phase of V(rotate_ca) that is planned. Empty means all of them, to refuse or to show the run before its first change.
    type: str
    choices: ["", new, trust, issue, drop, cut, renew, load]
    default: ""
  all_stages:
    description:
      - Whether the play has all stages, each with its tag, as C(site.yml) has. The tags of the run tell then which of them it runs.
      - Otherwise the stages are the roles of the play that depend on the role C(kubeadm.etcd.etcd).
      - The plan shows what these stages do, and in one line what they leave to others.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Plan the run
  kubeadm.etcd.etcd_plan:
    operation: renew
  register: __etcd_plan
"""

RETURN = r"""
steps:
  description:
    - What the run does. Each step has a C(kind) (ca, replace_ca, send_ca_key, receive_ca_key, remove_ca_key, export_ca_key, next_ca, renew_ca,
      trust_ca, exchange_ca, certificates, config, image, kubelet, leave, archive, downgrade, start, turn, join, apiserver,
      defragment, disarm, record, snapshot, schedule, rehearse, prepare, stop, replace_data), the C(member) that it is about, the C(host) that it runs on,
      its C(turn) (none if all take it at once) and its C(reasons), as M(kubeadm.etcd.etcd_host_info) returns them.
    - For each kind of step there is also a list of the hosts that have one, under the name of the kind.
  returned: success
  type: list
  elements: dict
settled:
  description: Whether there is no step.
  returned: success
  type: bool
incomplete:
  description: Whether hosts of the cluster have to be observed again first. Then nothing else is planned.
  returned: success
  type: bool
finished:
  description: Whether the run ends here - there is no step and no file to write, and the observation found all members healthy (RV(table)).
  returned: success
  type: bool
table:
  description: The table of M(kubeadm.etcd.etcd_health), empty unless RV(finished) is true. It is printed with the C(etcd.external) stanza.
  returned: in other operations than hand_over and move_ca
  type: list
  elements: str
action:
  description: What happens to the members - bootstrap, nothing, rolling or start; hand_over, move_ca and defragment in these operations.
  returned: success
  type: str
order:
  description: Hosts whose member is changed or joins, one after the other.
  returned: success
  type: list
  elements: str
departs:
  description: Whether a snapshot is taken or a member leaves before that.
  returned: success
  type: bool
client_port:
  description: Port of the members for clients. A control plane host takes it from the CA host.
  returned: success
  type: int
external:
  description: A ClusterConfiguration for kubeadm with C(etcd.external) of these members. In a hand-over with the version of kubeadm on the host.
  returned: success
  type: str
members:
  description: Name and address of the members that the cluster has after the run.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the member.
      type: str
    address:
      description: Its IP address.
      type: str
watched:
  description: Name and address of the members whose health the end of the run waits for.
  returned: success
  type: list
  elements: dict
may_be_absent:
  description: Names of those of RV(watched) that need not be members. If a member is removed or replaced, another run may remove or add the others.
  returned: success
  type: list
  elements: str
departing:
  description: The member that leaves. Its fields are empty if none does.
  returned: success
  type: dict
  contains:
    name:
      description: Name of the member.
      type: str
    id:
      description: Its id, empty if the membership does not have it any more.
      type: str
    host:
      description: Its inventory host, empty if there is none.
      type: str
    urls:
      description: Its client URLs, empty if the membership does not have it any more.
      type: list
      elements: str
apiservers:
  description: The control plane hosts whose kube-apiserver is given other endpoints of etcd, one after the other.
  returned: success
  type: list
  elements: dict
  contains:
    host:
      description: The inventory host.
      type: str
    servers:
      description: The endpoints, as for M(kubeadm.etcd.etcd_apiserver). Likewise C(update_config) and C(others).
      type: list
      elements: str
speaker:
  description: The host that speaks for the cluster.
  returned: success
  type: str
asker:
  description: The host whose view of the cluster is used.
  returned: success
  type: str
lines:
  description: The plan for people.
  returned: success
  type: list
  elements: str
notices:
  description: Warnings.
  returned: success
  type: list
  elements: str
held:
  description: Why certificates are issued and nothing else is done. In a hand-over, why no kube-apiserver is changed.
  returned: success
  type: list
  elements: str
ending:
  description: What the role C(kubeadm.etcd.health) does at the end of the run.
  returned: success
  type: dict
  contains:
    asks:
      description: Whether the members are asked for their health.
      type: bool
    waits:
      description: Whether the run waits until they are healthy.
      type: bool
    proven:
      description: Whether each host has proven by then that its member runs.
      type: bool
    tolerates:
      description: Whether members that are not healthy are no failure, because the run would change them without check mode.
      type: bool
    held:
      description: The message of the failure at the end, with what was not done. Empty if nothing is held.
      type: str
problems:
  description: Why the run is refused. There is no step then. It fails then, but for the members in a hand-over.
  returned: success
  type: list
  elements: str
signing_dir:
  description: Directory of the cluster on the controller, for a CA that signs elsewhere.
  returned: success
  type: str
ca_export:
  description: The copy of ca.key that is asked for - its C(file) on the controller, whether that C(exists), and C(problems).
  returned: success
  type: dict
identity:
  description: What the content of the snapshot is known by. Each host compares its copy with it.
  returned: if O(operation) is V(restore)
  type: str
description:
  description: What was recorded of the snapshot on the controller, by the file beside it. Empty if there is none.
  returned: if O(operation) is V(drill)
  type: dict
limits:
  description: What M(kubeadm.etcd.etcd_member_defragment) and M(kubeadm.etcd.etcd_disarm) are given.
  returned: if O(operation) is V(defragment)
  type: dict
  contains:
    threshold:
      description: Percent of a database file that is not in use, from which on it is defragmented.
      type: int
    compact_revision:
      description: The revision up to which history is removed first. 0 if none is.
      type: int
    quota:
      description: The lowest quota of the members in bytes. 0 if there is no limit.
      type: int
own_ca:
  description: Your own CA - the certificate that signs (C(cert)), its C(fingerprint), C(id), C(not_after), C(public_key), and whether its C(key) is given.
  returned: success
  type: dict
"""
