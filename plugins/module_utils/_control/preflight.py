# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with hosts, judged from their observations. Runs on the controller, before anything is changed.

Every sentence says what is wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import same_address
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

# etcd's default quota is 2 GiB; its log and snapshots take some more.
DISK_WANTED = 3 << 30
# To begin with.
DISK_NEEDED = 512 << 20
# What etcd takes when it starts on the data that it has: it writes the next segment of its log in advance (64 MB, etcd wal.go,
# SegmentSizeBytes), and a snapshot.
DISK_NEEDED_BY_MEMBER = 128 << 20

# A certificate is valid from five minutes before it was signed (kubeadm, CertificateBackdate).
CLOCK_PROBLEM = 120.0
CLOCK_WARNING = 10.0
CONTROLLER = "the controller"

# Filesystems in memory.
_VOLATILE = ("ramfs", "tmpfs")


def host_problems(
    member: Member, facts: Facts, endpoint: str, swap: bool = False, allow_untested: bool = False
) -> list[Problem]:
    """What is wrong with one host on its own, and what it stops.

    swap: whether its kubelet is to put up with swap. allow_untested: whether a kubeadm newer than those known here may be used.
    """
    found = program_problems(facts, allow_untested)

    def problem(code: str, text: str, *stops: str) -> None:
        found.append(Problem(text, stops, code=code))

    if not facts["systemd"]:
        problem(
            "systemd",
            "systemd does not run here. The kubelet is managed as a systemd service: use such a host.",
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
        # It would be in the certificates, too.
        problem(
            "address",
            f"etcd_address {member.address} is no address of this host. It has"
            f" {', '.join(a for a in facts['addresses'] if not a.startswith(('127.', '::1', 'fe80')))}.",
            *EVERYTHING,
        )
    for port, owner in sorted(facts["listeners"].items()):
        if not is_ours(owner["argv"], member.name):
            problem(
                "port",
                f"port {port} is taken by {owner['program']} (pid {owner['pid']}{name_of(owner['argv'])}), which is not the etcd of member"
                f" {member.name}. Set etcd_client_port, etcd_peer_port or etcd_metrics_port to a free port, set etcd_member_name if this is"
                " the member under another name, or free the port if nothing needs that program.",
                *PROCESSES,
            )
    if facts["swaps"] and not swap:
        problem(
            "swap",
            f"swap is on ({', '.join(facts['swaps'])}), and the kubelet refuses to start. Set etcd_kubelet_config:"
            " {failSwapOn: false}; or, with enough free memory, run `swapoff -a` on one host after the other and take it out of /etc/fstab.",
            *PROCESSES,
        )
    if facts["leftovers"] and not is_member(facts):
        problem("leftovers", leftover_text(facts), *PROCESSES)
    if is_short_of_disk(facts):
        if has_data(facts):
            # It may well come up, and is down already: only what runs is left alone.
            problem("disk", disk_text(facts, DISK_NEEDED_BY_MEMBER), RESTART)
        else:
            problem("disk", disk_text(facts, DISK_NEEDED), FOUND, START)
    found += data_dir_problems(facts)
    return [replace(item, host=member.host) for item in found]


def is_member(facts: Facts) -> bool:
    """Whether the kubelet of a host is a member's already: it has the override, and a manifest or data of etcd."""
    return bool(facts["kubelet_override"] and (facts["etcd_manifest"] or has_data(facts)))


def has_data(facts: Facts) -> bool:
    """Whether there is data in the data directory."""
    return bool(facts["data_dir"]["has_data"])


def leftover_text(facts: Facts) -> str:
    """Files of a Kubernetes node, and the way out. `kubeadm reset` is none: it empties the data directory and removes the PKI."""
    files = facts["leftovers"]
    return (
        f"this host is, or was, a node of a Kubernetes cluster: {', '.join(files)}. Its kubelet is to run etcd and nothing else. Use another"
        " host; or, if it is no node any more, move these files away (`mkdir -p /root/kubernetes-node && mv -n"
        f" {' '.join(files)} /root/kubernetes-node/`). Do not run `kubeadm reset`: it would delete etcd's data and certificates too."
    )


def is_short_of_disk(facts: Facts) -> bool:
    """Whether too little space is free for etcd: less for one that has its data than for one that begins."""
    return bool(facts["disk_free"] < (DISK_NEEDED_BY_MEMBER if has_data(facts) else DISK_NEEDED))


def disk_text(facts: Facts, needed: int) -> str:
    """How much space is free, and needed."""
    return (
        f"{_mib(facts['disk_free'])} MiB are free for etcd's data, {_mib(needed)} are needed. Free some on the filesystem of etcd_data_dir,"
        " or make it larger."
    )


def data_dir_problems(facts: Facts) -> list[Problem]:
    """Whether the data directory can be given to etcd alone. One that a member has is left as it is: see host_warnings."""
    found = facts["data_dir"]
    if has_data(facts):
        return []
    problems = []
    if found["foreign"]:
        problems.append(
            Problem(
                f"etcd_data_dir {found['path']} holds {', '.join(found['foreign'])}, and is made readable for root only. Set etcd_data_dir to a"
                f" directory of its own, for example {found['path'].rstrip('/')}/etcd.",
                (FOUND, START),
                code="data-directory",
            )
        )
    if found["filesystem"] in _VOLATILE:
        problems.append(
            Problem(
                f"etcd_data_dir {found['path']} is in memory ({found['filesystem']}): the member would lose its data at each reboot. Set"
                " etcd_data_dir to a directory on a disk, or mount one there.",
                (FOUND, START),
                code="data-directory",
            )
        )
    return problems


def program_problems(facts: Facts, allow_untested: bool = False) -> list[Problem]:
    """kubeadm and kubelet: there, supported, and of one minor version. Certificates need neither."""
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
    """kubeadm: there, and supported."""
    kubeadm = facts["kubeadm_version"]
    return version_range_problems(kubeadm, allow_untested) if kubeadm else [_missing("kubeadm")]


def version_range_warnings(facts: Facts) -> list[str]:
    """A kubeadm that nobody has tested, where it is allowed."""
    kubeadm = facts["kubeadm_version"]
    if (minor_of(kubeadm) or 0) <= NEWEST_MINOR:
        return []
    return [
        f"kubeadm {kubeadm} is newer than {SUPPORTED}, which this collection was tested with. It is treated as 1.{NEWEST_MINOR}. A newer"
        " kubeadm.etcd may know it."
    ]


def _missing(program: str) -> str:
    return f"{program} is not installed, or does not run. Install the package {program} {SUPPORTED}."


def name_of(argv: list[str]) -> str:
    """The name of another etcd, for a message: where a host was renamed in the inventory, it is this member's."""
    flags = (item.split("=", 1)[1] for item in argv if item.startswith("--name="))
    return next((f", member {name}" for name in flags), "")


def host_warnings(facts: Facts) -> list[str]:
    """What is allowed on one host but worth a word."""
    warnings = version_range_warnings(facts)
    if facts["cgroup_version"] == 1 and (minor_of(facts["kubelet_version"]) or 0) >= 35:
        warnings.append(
            "this host has cgroup v1, which the kubelet refuses from 1.35 on; its configuration gets failCgroupV1: false."
            " Move to cgroup v2: support for v1 will end."
        )
    if facts["disk_free"] < DISK_WANTED and not is_short_of_disk(facts):
        warnings.append(f"only {_mib(facts['disk_free'])} MiB are free for etcd's data.")
    if facts["leftovers"] and is_member(facts):
        files = facts["leftovers"]
        warnings.append(
            f"files of a Kubernetes node lie on this member: {', '.join(files)}. Nothing here uses them. If you need them, move them to another"
            " host. Do not run `kubeadm reset` on a member: it deletes etcd's data and certificates."
        )
    found = facts["data_dir"]
    if has_data(facts) and found["foreign"]:
        warnings.append(
            f"etcd_data_dir {found['path']} holds {', '.join(found['foreign'])} beside the member's data. Its mode and owner are left as they"
            " are. Move what is not etcd's to another directory."
        )
    if has_data(facts) and found["filesystem"] in _VOLATILE:
        warnings.append(
            f"etcd_data_dir {found['path']} is in memory ({found['filesystem']}): this member loses its data at the next reboot. Move the data"
            " to a disk before that (docs/operations.md)."
        )
    return warnings


def cluster_problems(cluster: Cluster, facts: Mapping[str, Facts]) -> list[Problem]:
    """What is wrong between hosts: versions, clocks, addresses, connections."""
    problems: list[Problem] = []
    for name in ("kubeadm", "kubelet"):
        versions = {host: item[f"{name}_version"] for host, item in facts.items() if item[f"{name}_version"]}
        if len(set(versions.values())) > 1:
            listed = ", ".join(f"{host} {version}" for host, version in versions.items())
            # A member that is down is started all the same, as it was: a patch release does not keep it from coming up.
            minors = {minor_of(version) for version in versions.values()}
            stops = PROCESSES if len(minors) > 1 else (FOUND, RESTART)
            problems.append(
                Problem(
                    f"{name} differs between the hosts ({listed}). Install one version on all of them.",
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
                        f"this host has the address of {member.host}, {member.address}: they are one machine, or the address is that of"
                        " several. Correct etcd_address or ansible_host, or leave one of the hosts out.",
                        host=host,
                        code="same-machine",
                    )
                )
    return [*problems, *connection_problems(cluster, facts), *source_problems(cluster, facts)]


# States of `_host.reach` in which a connection did not get as far as the host.
NOT_REACHED = ("silent", "unreachable")


def connection_problems(cluster: Cluster, facts: Mapping[str, Facts]) -> list[Problem]:
    """Members that another one does not reach. A closed port is none: before a cluster is founded nothing listens there."""
    problems = []
    seen: dict[tuple[str, str, str], list[str]] = {}
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
                        code="hung",
                    )
                )
            if cut:
                seen.setdefault((member.name, member.address, ", ".join(cut)), []).append(host)
    # If two members do not reach each other, a restart of a third one leaves no quorum: none is restarted, whichever host has noticed it.
    return problems + [
        Problem(
            f"{name} ({address}) does not answer on TCP port {ports}, seen from {', '.join(hosts)}. Open it between the members"
            " (a firewall that drops or rejects packets, a wrong etcd_address, a missing route, a network that is down).",
            stops=(FOUND, RESTART),
            code="connection",
        )
        for (name, address, ports), hosts in seen.items()
    ]


def is_hung(member: Member, facts: Facts, port: str) -> bool:
    """Whether this member's etcd listens on a port and accepts nobody, so that further connections get no answer."""
    listener = facts["listeners"].get(port)
    return bool(listener and listener["full"] and is_ours(listener["argv"], member.name))


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
                    code="source-address",
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


def judged_clocks(cluster: Cluster, facts: Mapping[str, Facts]) -> dict[str, Facts]:
    """The clocks that have to agree. If members are missing from this run, the controller's stands for theirs."""
    absent = [member.host for member in cluster.members if member.host not in facts]
    return {**facts, **({CONTROLLER: {"clock_offset": 0.0}} if absent else {})}


def clock_text(spread: float, fastest: str, slowest: str) -> str:
    """Clocks that do not agree, and the way out."""
    return (
        f"the clocks of {slowest} and {fastest} are {spread:.0f} s apart. A certificate that one of them signs would not be valid yet, or no"
        " longer, on the other. Set up time synchronisation (chrony, systemd-timesyncd)."
    )


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


def _mib(count: int) -> int:
    return count >> 20
