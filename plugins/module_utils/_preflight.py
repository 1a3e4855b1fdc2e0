# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with hosts, judged from their observations. Runs on the controller, before anything is changed.

Every sentence says what is wrong, where, and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._cluster import Cluster, Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._identity import same_address
from ansible_collections.kubeadm.etcd.plugins.module_utils._problem import EVERYTHING, FOUND, PROCESSES, Problem

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Facts = Mapping[str, Any]

OLDEST_MINOR, NEWEST_MINOR = 32, 37

# etcd's default quota is 2 GiB; its log and snapshots take some more.
DISK_WANTED = 3 << 30
DISK_NEEDED = 512 << 20

# A certificate is valid from five minutes before it was signed (kubeadm, CertificateBackdate).
CLOCK_PROBLEM = 120.0
CLOCK_WARNING = 10.0


def minor_of(version: str | None) -> int | None:
    """The minor of a version text like v1.36.3; None where it is none."""
    match = re.match(r"^v?1\.(\d+)\.\d+", version or "")
    return int(match.group(1)) if match else None


def host_problems(member: Member, facts: Facts, endpoint: str, swap: bool = False) -> list[Problem]:
    """What is wrong with one host on its own. swap: whether its kubelet is to put up with swap."""
    found: list[Problem] = [Problem(text) for text in program_problems(facts)]

    def problem(text: str, *stops: str) -> None:
        found.append(Problem(text, stops or EVERYTHING))

    if not facts["systemd"]:
        problem("systemd does not run here. The kubelet is managed as a systemd service: use such a host.")
    if facts["runtime_problem"]:
        problem(
            f"the container runtime's socket {endpoint} {facts['runtime_problem']}. Install and start the runtime, or"
            " set etcd_container_runtime_endpoint."
        )
    if facts["cryptography_problem"]:
        problem(facts["cryptography_problem"])
    if member.address and member.address not in facts["addresses"]:
        problem(
            f"etcd_address {member.address} is no address of this host. It has"
            f" {', '.join(a for a in facts['addresses'] if not a.startswith(('127.', '::1', 'fe80')))}."
        )
    for port, owner in sorted(facts["listeners"].items()):
        if not is_ours(owner["argv"], member.name):
            problem(
                f"port {port} is taken by {owner['program']} (pid {owner['pid']}{name_of(owner['argv'])}). Stop it, or set"
                " etcd_client_port, etcd_peer_port or etcd_metrics_port."
            )
    if facts["swaps"] and not swap:
        problem(
            f"swap is on ({', '.join(facts['swaps'])}), and the kubelet refuses to start. Run `swapoff -a` and take it"
            " out of /etc/fstab, or set etcd_kubelet_config: {failSwapOn: false}."
        )
    if facts["leftovers"]:
        problem(
            f"this host is, or was, part of a Kubernetes cluster: {', '.join(facts['leftovers'])}. Use another host,"
            " or run `kubeadm reset` on it and remove what that leaves."
        )
    if facts["disk_free"] < DISK_NEEDED:
        problem(f"{_mib(facts['disk_free'])} MiB are free for etcd's data, {_mib(DISK_NEEDED)} are needed.")
    return [replace(item, host=member.host) for item in found]


def program_problems(facts: Facts) -> list[str]:
    """kubeadm and kubelet: there, supported, and of one minor version."""
    kubeadm, kubelet = facts["kubeadm_version"], facts["kubelet_version"]
    problems = kubeadm_problems(facts)
    if not kubelet:
        problems.append(_missing("kubelet"))
    if kubeadm and kubelet and minor_of(kubelet) != minor_of(kubeadm):
        problems.append(f"kubelet {kubelet} and kubeadm {kubeadm} are of different minors. Install the same version.")
    return problems


def kubeadm_problems(facts: Facts) -> list[str]:
    """kubeadm: there, and supported."""
    kubeadm = facts["kubeadm_version"]
    minor = minor_of(kubeadm)
    if not kubeadm:
        return [_missing("kubeadm")]
    if minor is None or not OLDEST_MINOR <= minor <= NEWEST_MINOR:
        return [
            f"kubeadm {kubeadm} is not supported. Use 1.{OLDEST_MINOR} to 1.{NEWEST_MINOR}: older ones render other"
            " files, newer ones have not been tried."
        ]
    return []


def _missing(program: str) -> str:
    return f"{program} is not installed, or does not run. Install the package {program} 1.{OLDEST_MINOR} to 1.{NEWEST_MINOR}."


def is_ours(argv: list[str], name: str) -> bool:
    """Whether a process is the etcd of this member, as kubeadm's manifest starts it."""
    return bool(argv) and argv[0].rsplit("/", 1)[-1] == "etcd" and f"--name={name}" in argv


def name_of(argv: list[str]) -> str:
    """The name of another etcd, for a message: where a host was renamed in the inventory, it is this member's."""
    flags = (item.split("=", 1)[1] for item in argv if item.startswith("--name="))
    return next((f", member {name}" for name in flags), "")


def host_warnings(facts: Facts) -> list[str]:
    """What is allowed on one host but worth a word."""
    warnings = []
    if facts["cgroup_version"] == 1 and (minor_of(facts["kubelet_version"]) or 0) >= 35:
        warnings.append(
            "this host has cgroup v1, which the kubelet refuses from 1.35 on; its configuration gets failCgroupV1: false."
            " Move to cgroup v2: support for v1 will end."
        )
    if DISK_NEEDED <= facts["disk_free"] < DISK_WANTED:
        warnings.append(f"only {_mib(facts['disk_free'])} MiB are free for etcd's data.")
    return warnings


def cluster_problems(cluster: Cluster, facts: Mapping[str, Facts]) -> list[Problem]:
    """What is wrong between hosts: versions, clocks, connections."""
    problems: list[Problem] = []
    for name in ("kubeadm", "kubelet"):
        versions = {host: item[f"{name}_version"] for host, item in facts.items() if item[f"{name}_version"]}
        if len(set(versions.values())) > 1:
            listed = ", ".join(f"{host} {version}" for host, version in versions.items())
            problems.append(
                Problem(f"{name} differs between the hosts ({listed}). Install one version on all of them.")
            )
    spread, fastest, slowest = clock_spread(facts)
    if spread > CLOCK_PROBLEM:
        problems.append(
            Problem(
                f"the clocks of {slowest} and {fastest} are {spread:.0f} s apart. Certificates would not be valid yet on"
                " one of them: set up time synchronisation (chrony, systemd-timesyncd)."
            )
        )
    return [*problems, *connection_problems(cluster, facts), *source_problems(cluster, facts)]


# States of `_host.reach` in which a connection did not get as far as the host.
NOT_REACHED = ("silent", "unreachable")


def connection_problems(cluster: Cluster, facts: Mapping[str, Facts]) -> list[Problem]:
    """Members that another one does not reach. A closed port is none: before a cluster is founded nothing listens there."""
    problems = []
    for host, item in facts.items():
        for member in cluster.members:
            # A host that is not part of this run may well be down; etcd's own gates look at that.
            if member.host not in facts:
                continue
            missed = [
                target.split()[1]
                for target, state in item["peers"].items()
                if state in NOT_REACHED and same_address(target.split()[0], member.address)
            ]
            hung = [port for port in missed if is_hung(member, facts[member.host], port)]
            cut = [port for port in missed if port not in hung]
            if hung:
                # To restart it is the way to repair it.
                problems.append(
                    Problem(
                        f"etcd of {member.name} ({member.address}) listens on TCP port {', '.join(hung)} but does not accept connections: it hangs."
                        " See its log under /var/log/pods, and the disk that holds its data.",
                        stops=(FOUND,),
                        host=host,
                    )
                )
            if cut:
                problems.append(
                    Problem(
                        f"{member.name} ({member.address}) does not answer on TCP port {', '.join(cut)}. Open it between the members"
                        " (a firewall that drops or rejects packets, a wrong etcd_address, a missing route, a network that is down).",
                        stops=PROCESSES,
                        host=host,
                    )
                )
    return problems


def is_hung(member: Member, facts: Facts, port: str) -> bool:
    """Whether this member's etcd listens on a port and leaves connections waiting, so that further ones get no answer."""
    listener = facts["listeners"].get(port)
    return bool(listener and listener["waiting"] and is_ours(listener["argv"], member.name))


def source_problems(cluster: Cluster, facts: Mapping[str, Facts]) -> list[Problem]:
    """Hosts whose connections to other members leave from an address that is not in their peer certificate.

    etcd compares the source address with the addresses in the certificate, then with what its DNS names resolve to
    (client/pkg/transport/listener_tls.go, checkCertSAN). Names are not counted here: a quorum must not depend on DNS.
    """
    problems = []
    for member in cluster.members:
        if member.host not in facts or not member.address:
            continue
        item = facts[member.host]
        accepted = [member.address, "127.0.0.1", "::1", *member.peer_cert_sans]
        others = {other.address: other.name for other in cluster.members if other.address and other != member}
        leaving: dict[str, list[str]] = {}
        for target, source in item["sources"].items():
            name = next((others[other] for other in others if same_address(target.split()[0], other)), "")
            if name and not any(same_address(source, known) for known in accepted):
                names = leaving.setdefault(source, [])
                names.extend([name] if name not in names else [])
        for source, names in leaving.items():
            remedy = (
                f"{source} is a temporary IPv6 address and will change: turn privacy extensions off on this host"
                " (sysctl net.ipv6.conf.INTERFACE.use_tempaddr=0)."
                if source in item["temporary_addresses"]
                else f"Set etcd_peer_cert_sans: [{', '.join([*member.peer_cert_sans, source])}] for this host, or, before the cluster"
                f" is founded, etcd_address: {source}."
            )
            problems.append(
                Problem(
                    f"connections to {', '.join(names)} leave this host from {source}, and etcd_address is {member.address}: etcd"
                    f" rejects peers whose source address is not in their certificate. {remedy}",
                    stops=(FOUND,),
                    host=member.host,
                )
            )
    return problems


def unknown_address_problems(cluster: Cluster) -> list[str]:
    """Members whose address is not known once all hosts of the run have been looked at."""
    return [
        f"{member.host}: its address is not known, and it was not looked at in this run, or has no default route. Set"
        " etcd_address, or run with all members."
        for member in cluster.members
        if not member.address
    ]


def external_problems(name: str, path: str, others: Mapping[str, str]) -> list[str]:
    """Whether clusters would write the same file. path: that of this cluster ('': none). others: the paths by cluster."""
    same = sorted(other for other, where in others.items() if path and where == path and other != name)
    if not same:
        return []
    return [
        f"etcd_external_config_file is {path} for the clusters {', '.join([name, *same])}: each would overwrite what the"
        " other has written. Give each cluster one of its own, in the variables of its hosts."
    ]


def clock_spread(facts: Mapping[str, Facts]) -> tuple[float, str, str]:
    """Seconds between the clocks that differ most, the fastest host and the slowest."""
    # Late by as long as it takes to reach a host, far below what is judged here.
    clocks = {host: float(item["clock_offset"]) for host, item in facts.items() if item["clock_offset"] is not None}
    if not clocks:
        return 0.0, "", ""
    fastest, slowest = max(clocks, key=lambda host: clocks[host]), min(clocks, key=lambda host: clocks[host])
    return clocks[fastest] - clocks[slowest], fastest, slowest


def cluster_warnings(facts: Mapping[str, Facts]) -> list[str]:
    """What is allowed between hosts but worth a word."""
    spread, fastest, slowest = clock_spread(facts)
    if CLOCK_WARNING < spread <= CLOCK_PROBLEM:
        return [f"the clocks of {slowest} and {fastest} are {spread:.0f} s apart. Set up time synchronisation."]
    return []


def merge_hosts(lines: list[str], hosts: list[str]) -> list[str]:
    """Lines of the form "HOST: TEXT": those that differ in the host only become one, "HOST, HOST: TEXT"."""
    said: dict[str, list[str]] = {}
    for line in lines:
        host, _colon, text = line.partition(": ")
        known = host in hosts
        found = said.setdefault(text if known else line, [])
        if known and host not in found:
            found.append(host)
    return [f"{', '.join(found)}: {text}" if found else text for text, found in said.items()]


def _mib(count: int) -> int:
    return count >> 20
