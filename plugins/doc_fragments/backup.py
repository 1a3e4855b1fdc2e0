# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wanted of snapshots on a host."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of modules that take or schedule snapshots."""

    DOCUMENTATION = r"""
options:
  backup:
    description: What is wanted of snapshots on the host.
    type: dict
    required: true
    suboptions:
        cluster:
          description: Name of the cluster. Snapshots are called after it.
          type: str
          required: true
        member:
          description: Name of the member on this host.
          type: str
          required: true
        members:
          description: All members of the cluster.
          type: list
          elements: dict
          required: true
          suboptions:
            name:
              description: Name of the member.
              type: str
              required: true
            address:
              description: IP address of the member.
              type: str
              required: true
        client_port:
          description: Client port of the members.
          type: int
          default: 2379
        pki_dir:
          description: Directory of the certificates.
          type: path
          default: /etc/kubernetes/pki
        dir:
          description: Directory of the snapshots.
          type: path
          default: /var/backups/etcd
        keep:
          description: How many snapshots of the cluster are kept in O(backup.dir). 0 keeps all.
          type: int
          default: 24
        keep_days:
          description: For how many days a snapshot is kept, at most. The newest one is always kept. 0 is no limit.
          type: int
          default: 0
        command:
          description:
            - Arguments of a command that runs after each snapshot, and sends it away. C({file}) is replaced by the path of the snapshot, or of its
              encrypted copy.
            - Keep passwords in a file that the command reads, since arguments are seen by all users of the host.
          type: list
          elements: str
          default: []
        recipient:
          description: A certificate (PEM). What O(backup.command) gets is encrypted to it (CMS). Empty is not encrypted.
          type: str
          default: ""
        textfile_dir:
          description:
            - Directory for C(etcd-backup.prom), C(etcd-drill.prom) and C(etcd-defragment.prom), which the textfile collector of node_exporter reads.
              Empty is O(backup.dir).
          type: path
          default: ""
        schedule:
          description: When the timer for snapshots fires, as C(OnCalendar) of systemd (C(systemd.time(7))). Empty is no timer.
          type: str
          default: ""
        drill_schedule:
          description: When the timer for rehearsals of a restore fires. Empty is no timer.
          type: str
          default: ""
        defragment_schedule:
          description: When the timer for defragmentation fires. Empty is no timer.
          type: str
          default: ""
        defragment_threshold:
          description: Percent of the database file that is not in use, from which on the timer defragments.
          type: int
          default: 45
        metrics_port:
          description: Port of the members for metrics. For the timer that defragments.
          type: int
          default: 2381
        data_dir:
          description: Data directory of the member. For the timer that defragments.
          type: path
          default: /var/lib/etcd
        work_dir:
          description: Directory of the configuration and the program of the timers.
          type: path
          default: /etc/kubernetes/kubeadm-etcd
        program:
          description:
            - Digest of the program of the timers, as the action plugin C(etcd_observe) computes it. Without it, a host is given the program that this
              version of the collection has.
          type: str
          default: ""
"""
