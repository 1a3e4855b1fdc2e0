# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of the hosts before any change, made on the controller from their observations.

Every message says what is wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import same_address
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member, is_ours
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    EVERYTHING,
    FOUND,
    PROCESSES,
    RESTART,
    SIGN,
    START,
    Problem,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import (
    NEWEST_MINOR,
    SUPPORTED,
    minor_of,
    version_range_problems,
)

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Facts = Mapping[str, Any]

# etcd's default quota is 2 GiB. Its log and snapshots need additional space.
DISK_WANTED = 3 << 30
# For a new member.
DISK_NEEDED = 512 << 20
# For a member that has data: when etcd starts, it preallocates the next segment of its log (64 MB, etcd wal.go, SegmentSizeBytes) and
# writes a snapshot.
DISK_NEEDED_BY_MEMBER = 128 << 20

# Certificates are valid from five minutes before they are signed (kubeadm, CertificateBackdate). These limits stay well below that.
CLOCK_PROBLEM = 120.0
CLOCK_WARNING = 10.0
CONTROLLER = "the controller"

# Filesystems in memory.
_VOLATILE = ("ramfs", "tmpfs")


def host_problems(
    member: Member, facts: Facts, endpoint: str, swap: bool = False, allow_untested: bool = False
) -> list[Problem]:
    """Problems of a single host, and what each stops.

    swap: whether the kubelet is configured to tolerate swap. allow_untested: whether a kubeadm newer than the supported ones may be used.
    """
    found = program_problems(facts, allow_untested)

    def problem(code: str, text: str, *stops: str) -> None:
        found.append(Problem(text, stops, code=code))

    if not facts["systemd"]:
        problem(
            "systemd",
            "systemd does not run on this host, and the kubelet runs as a systemd service. Use a host with systemd.",
            *PROCESSES,
        )
    if facts["runtime_problem"]:
        problem(
            "runtime",
            f"the container runtime's socket {endpoint} {facts['runtime_problem']}. Install and start the runtime, or"
            " set etcd_container_runtime_endpoint.",
            *PROCESSES,
        )
    if facts["cryptography_problem"]:
        problem("cryptography", facts["cryptography_problem"], FOUND, SIGN)
    if member.address and member.address not in facts["addresses"]:
        # The address would be in the certificates, too.
        problem(
            "address",
            f"etcd_address {member.address} is not an address of this host. Set etcd_address to one of"
            f" {', '.join(a for a in facts['addresses'] if not a.startswith(('127.', '::1', 'fe80')))}.",
            *EVERYTHING,
        )
    for port, owner in sorted(facts["listeners"].items()):
        if not is_ours(owner["argv"], member.name):
            problem(
                "port",
                f"port {port} is in use by {owner['program']} (pid {owner['pid']}{name_of(owner['argv'])}), which is not the etcd of member"
                f" {member.name}. Set etcd_client_port, etcd_peer_port or etcd_metrics_port to a free port. If this is the same member under"
                " another name, set etcd_member_name. If nothing needs that program, stop it.",
                *PROCESSES,
            )
    if facts["swaps"] and not swap:
        problem(
            "swap",
            f"swap is on ({', '.join(facts['swaps'])}): the kubelet would not start. Set etcd_kubelet_config: {{failSwapOn: false}}. Or, if"
            " enough memory is free, run `swapoff -a` on one host after the other and remove swap from /etc/fstab.",
            *PROCESSES,
        )
    if facts["leftovers"] and not is_member(facts):
        problem("leftovers", leftover_text(facts), *PROCESSES)
    if is_short_of_disk(facts):
        if has_data(facts):
            # This member may still start if it is down. Only a running one is left alone.
            problem("disk", disk_text(facts, DISK_NEEDED_BY_MEMBER), RESTART)
        else:
            problem("disk", disk_text(facts, DISK_NEEDED), FOUND, START)
    found += data_dir_problems(facts)
    return [replace(item, host=member.host) for item in found]


def is_member(facts: Facts) -> bool:
    """Whether the host is a member already: its kubelet has this collection's drop-in, and it has a manifest or data of etcd."""
    return bool(facts["kubelet_override"] and (facts["etcd_manifest"] or has_data(facts)))


def has_data(facts: Facts) -> bool:
    """Whether the data directory contains data of a member."""
    return bool(facts["data_dir"]["has_data"])


def leftover_text(facts: Facts) -> str:
    """The files of a Kubernetes node, and what to do. Not `kubeadm reset`: it empties the data directory and removes the PKI."""
    files = facts["leftovers"]
    return (
        f"this host is, or was, a node of a Kubernetes cluster: it has {', '.join(files)}. The kubelet of a member runs etcd and nothing else."
        " Use another host. Or, if it is no longer a node, move these files away (`mkdir -p /root/kubernetes-node && mv -n"
        f" {' '.join(files)} /root/kubernetes-node/`). Do not run `kubeadm reset`: it would delete etcd's data and certificates too."
    )


def is_short_of_disk(facts: Facts) -> bool:
    """Whether too little disk space is free for etcd. A member that has data needs less than a new one."""
    return bool(facts["disk_free"] < (DISK_NEEDED_BY_MEMBER if has_data(facts) else DISK_NEEDED))


def disk_text(facts: Facts, needed: int) -> str:
    """The message about too little disk space."""
    return (
        f"only {_mib(facts['disk_free'])} MiB of disk space are free for etcd's data, and {_mib(needed)} MiB are needed. Free space on the"
        " filesystem of etcd_data_dir, or enlarge it."
    )


def data_dir_problems(facts: Facts) -> list[Problem]:
    """Why the data directory of a new member cannot be etcd's alone. The directory of an existing member is not changed: see host_warnings."""
    found = facts["data_dir"]
    if has_data(facts):
        return []
    problems = []
    if found["foreign"]:
        problems.append(
            Problem(
                f"etcd_data_dir {found['path']} contains {', '.join(found['foreign'])}, and the run would make it readable for root only. Set"
                f" etcd_data_dir to a directory for etcd alone, for example {found['path'].rstrip('/')}/etcd.",
                (FOUND, START),
                code="data-directory",
            )
        )
    if found["filesystem"] in _VOLATILE:
        problems.append(
            Problem(
                f"etcd_data_dir {found['path']} is in memory ({found['filesystem']}): the member would lose its data at each reboot. Set"
                " etcd_data_dir to a directory on a disk, or mount a disk there.",
                (FOUND, START),
                code="data-directory",
            )
        )
    return problems


def program_problems(facts: Facts, allow_untested: bool) -> list[Problem]:
    """Why kubeadm or the kubelet cannot be used: missing, unsupported, or of different minor versions. Certificates need neither."""
    kubeadm, kubelet = facts["kubeadm_version"], facts["kubelet_version"]
    problems = kubeadm_problems(facts, allow_untested)
    if not kubelet:
        problems.append(_missing("kubelet"))
    if kubeadm and kubelet and minor_of(kubelet) != minor_of(kubeadm):
        problems.append(
            f"the kubelet ({kubelet}) and kubeadm ({kubeadm}) have different minor versions. Install the same version of both."
        )
    return [Problem(text, PROCESSES, code="programs") for text in problems]


def kubeadm_problems(facts: Facts, allow_untested: bool = False) -> list[str]:
    """Why kubeadm cannot be used: missing or unsupported."""
    kubeadm = facts["kubeadm_version"]
    return version_range_problems(kubeadm, allow_untested) if kubeadm else [_missing("kubeadm")]


def version_range_warnings(facts: Facts) -> list[str]:
    """A warning if kubeadm is newer than every version that this collection is tested with."""
    kubeadm = facts["kubeadm_version"]
    if (minor_of(kubeadm) or 0) <= NEWEST_MINOR:
        return []
    return [
        f"kubeadm {kubeadm} is newer than {SUPPORTED}, the versions that this collection is tested with. It is treated as 1.{NEWEST_MINOR}. Check"
        " whether a newer kubeadm.etcd supports it."
    ]


def _missing(program: str) -> str:
    return f"{program} is not installed, or cannot be run. Install the package {program}, version {SUPPORTED}."


def name_of(argv: list[str]) -> str:
    """The member name of another etcd, for a message. If a host was renamed in the inventory, it is the same member."""
    flags = (item.split("=", 1)[1] for item in argv if item.startswith("--name="))
    return next((f", member {name}" for name in flags), "")


def host_warnings(facts: Facts) -> list[str]:
    """Warnings about a single host."""
    warnings = version_range_warnings(facts)
    if facts["cgroup_version"] == 1 and (minor_of(facts["kubelet_version"]) or 0) >= 35:
        warnings.append(
            "this host has cgroup v1, which the kubelet refuses by default since 1.35, so its configuration gets failCgroupV1: false."
            " Move the host to cgroup v2: Kubernetes will drop v1."
        )
    if facts["disk_free"] < DISK_WANTED and not is_short_of_disk(facts):
        warnings.append(
            f"only {_mib(facts['disk_free'])} MiB of disk space are free for etcd's data. Have at least {_mib(DISK_WANTED)} MiB free on the"
            " filesystem of etcd_data_dir."
        )
    if facts["leftovers"] and is_member(facts):
        files = facts["leftovers"]
        warnings.append(
            f"this member has files of a Kubernetes node: {', '.join(files)}. etcd does not use them. If you need them, move them to another"
            " host. Do not run `kubeadm reset` on a member: it deletes etcd's data and certificates."
        )
    found = facts["data_dir"]
    if has_data(facts) and found["foreign"]:
        warnings.append(
            f"etcd_data_dir {found['path']} contains {', '.join(found['foreign'])} besides the member's data, so its mode and owner are not"
            " changed. Move what does not belong to etcd to another directory."
        )
    if has_data(facts) and found["filesystem"] in _VOLATILE:
        warnings.append(
            f"etcd_data_dir {found['path']} is in memory ({found['filesystem']}): this member loses its data at the next reboot. Move the data"
            ' to a disk before then (docs/operations.md, "Move the data directory").'
        )
    return warnings


def cluster_problems(cluster: Cluster, facts: Mapping[str, Facts]) -> list[Problem]:
    """Problems between hosts: versions, clocks, addresses, connections."""
    problems: list[Problem] = []
    for name in ("kubeadm", "kubelet"):
        versions = {host: item[f"{name}_version"] for host, item in facts.items() if item[f"{name}_version"]}
        if len(set(versions.values())) > 1:
            listed = ", ".join(f"{host} {version}" for host, version in versions.items())
            # A different patch release does not keep a member from starting, so a member that is down is started anyway.
            minors = {minor_of(version) for version in versions.values()}
            stops = PROCESSES if len(minors) > 1 else (FOUND, RESTART)
            problems.append(
                Problem(
                    f"the hosts have different versions of {name} ({listed}). Install the same version on all of them.",
                    stops,
                    code="versions",
                )
            )
    spread, fastest, slowest = clock_spread(judged_clocks(cluster, facts))
    if spread > CLOCK_PROBLEM:
        problems.append(Problem(clock_text(spread, fastest, slowest), (FOUND, SIGN), code="clocks"))
    for host, item in facts.items():
        for member in cluster.members:
            if member.address and member.host != host and member.address in item["addresses"]:
                problems.append(
                    Problem(
                        f"this host has the address of {member.host}, {member.address}: both are the same machine, or several machines share"
                        " the address. Correct etcd_address or ansible_host, or remove one of the hosts from the inventory.",
                        host=host,
                        code="same-machine",
                    )
                )
    return [*problems, *connection_problems(cluster, facts), *source_problems(cluster, facts)]


# States of reach() in _host/facts.py in which a connection did not reach the host.
NOT_REACHED = ("silent", "unreachable")


def connection_problems(cluster: Cluster, facts: Mapping[str, Facts]) -> list[Problem]:
    """Members that another host cannot reach. A closed port is no problem: before a cluster is founded, nothing listens there."""
    problems = []
    seen: dict[tuple[str, str, str], list[str]] = {}
    for host, item in facts.items():
        for member in cluster.members:
            # A host that is not part of this run may be down. The gate of each turn checks the members' health.
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
                # A restart repairs it, so restarts are not stopped.
                problems.append(
                    Problem(
                        f"etcd of {member.name} ({member.address}) hangs: it listens on TCP port {', '.join(hung)} but does not accept connections."
                        " Check its log under /var/log/pods on that host, and the disk with its data.",
                        stops=(FOUND,),
                        host=host,
                        code="hung",
                    )
                )
            if cut:
                seen.setdefault((member.name, member.address, ", ".join(cut)), []).append(host)
    # If two members cannot reach each other, restarting a third one leaves no quorum. So none is restarted, whichever host reports it.
    return problems + [
        Problem(
            f"{', '.join(hosts)} cannot reach {name} ({address}) on TCP port {ports}. Allow this connection between all members: check the"
            " firewalls, etcd_address, the routes and the network.",
            stops=(FOUND, RESTART),
            code="connection",
        )
        for (name, address, ports), hosts in seen.items()
    ]


def is_hung(member: Member, facts: Facts, port: str) -> bool:
    """Whether this member's etcd listens on a port without accepting connections, so that new ones get no answer."""
    listener = facts["listeners"].get(port)
    return bool(listener and listener["full"] and is_ours(listener["argv"], member.name))


def source_problems(cluster: Cluster, facts: Mapping[str, Facts]) -> list[Problem]:
    """Hosts whose connections to other members leave from an address that is not in their peer certificate.

    etcd compares the source address with the addresses in the certificate, then with what its DNS names resolve to
    (client/pkg/transport/listener_tls.go, checkCertSAN). Names do not count here: a quorum must not depend on DNS.
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
                f"{source} is a temporary IPv6 address and will change: disable privacy extensions on this host"
                " (sysctl net.ipv6.conf.INTERFACE.use_tempaddr=0)."
                if source in item["temporary_addresses"]
                else f"Set etcd_peer_cert_sans: [{', '.join([*member.peer_cert_sans, source])}] for this host. If the cluster does not exist"
                f" yet, you can set etcd_address: {source} instead."
            )
            problems.append(
                Problem(
                    f"connections to {', '.join(names)} leave this host from {source}, not from etcd_address {member.address}: etcd"
                    f" rejects peers whose source address is not in their certificate. {remedy}",
                    stops=(FOUND,),
                    host=member.host,
                    code="source-address",
                )
            )
    return problems


def unknown_address_problems(cluster: Cluster) -> list[Problem]:
    """Members whose address is still unknown after all hosts of the run were observed."""
    return [
        Problem(
            "the address is unknown: the host is not part of this run, or has no default route. Set etcd_address, or run without --limit.",
            host=member.host,
            code="address-unknown",
        )
        for member in cluster.members
        if not member.address
    ]


def external_problems(name: str, path: str, others: Mapping[str, str]) -> list[str]:
    """Clusters that would write the same file. path: the file of this cluster ('': none). others: the files by cluster."""
    same = sorted(other for other, where in others.items() if path and where == path and other != name)
    if not same:
        return []
    return [
        f"etcd_external_config_file is {path} for several clusters ({', '.join([name, *same])}): each would overwrite the file of the"
        " other. Set a different path for each cluster, in the variables of its hosts."
    ]


def judged_clocks(cluster: Cluster, facts: Mapping[str, Facts]) -> dict[str, Facts]:
    """The clocks that have to agree. If members are not part of this run, the controller's clock stands in for theirs."""
    absent = [member.host for member in cluster.members if member.host not in facts]
    return {**facts, **({CONTROLLER: {"clock_offset": 0.0}} if absent else {})}


def clock_text(spread: float, fastest: str, slowest: str) -> str:
    """The message about clocks that differ too much."""
    return (
        f"the clocks of {slowest} and {fastest} are {spread:.0f} s apart. A certificate issued on one could be not yet valid, or expired, on"
        " the other. Set up time synchronisation (chrony, systemd-timesyncd)."
    )


def clock_spread(facts: Mapping[str, Facts]) -> tuple[float, str, str]:
    """Seconds between the clocks that differ most, the fastest host and the slowest."""
    # Each offset includes the time that it takes to reach the host, which is far below the limits here.
    clocks = {host: float(item["clock_offset"]) for host, item in facts.items() if item["clock_offset"] is not None}
    if not clocks:
        return 0.0, "", ""
    fastest, slowest = max(clocks, key=lambda host: clocks[host]), min(clocks, key=lambda host: clocks[host])
    return clocks[fastest] - clocks[slowest], fastest, slowest


def cluster_warnings(facts: Mapping[str, Facts]) -> list[str]:
    """Warnings about differences between hosts."""
    spread, fastest, slowest = clock_spread(facts)
    if CLOCK_WARNING < spread <= CLOCK_PROBLEM:
        return [
            f"the clocks of {slowest} and {fastest} are {spread:.0f} s apart. Set up time synchronisation (chrony, systemd-timesyncd)."
        ]
    return []


def _mib(count: int) -> int:
    return count >> 20
