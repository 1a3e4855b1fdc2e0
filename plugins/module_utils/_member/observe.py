# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One observation of one host, put together from its parts. Each part is observed by the code that also changes it."""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient, Status, accepts_client
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import facts as _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubelet as _kubelet
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import mode_problem, read_text
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.packages import KUBELET, Staged, staged
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.service import (
    kubelet_files,
    kubelet_spec,
    kubelet_state,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import read_wal, unreadable_by_3_7
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.processes import (
    Process,
    client_url_of,
    find_etcd_process,
    is_expanded,
    is_ready,
    metrics_of,
    missing_arguments,
    stale_directory,
    value_of_flag,
    younger_than,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.readable import is_without_former_api, log_reasons
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import (
    Record,
    current_record,
    read_record,
    record_reasons,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.schedule import schedule_problems, schedule_reasons
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.snapshots import BackupSpec, snapshots_in
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.staged import restore_under_way, waiting_restore
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.trust import client_port_of, trusted_by
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import CRYPTOGRAPHY_VERSION, HAS_CRYPTOGRAPHY
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.alarms import name_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.database import Database, quota_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import (
    TRUTH,
    duration_seconds,
    is_address,
    place_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import client_url
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.packages import parse_packages
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    FOUND,
    PROCESSES,
    RESTART,
    START,
    Problem,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, as_data
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import WITHOUT_FORMER_API, etcd_version_in

PORTS = ("client_port", "peer_port", "metrics_port")

# The alarm CORRUPT of any member fails /readyz of all of them. It is reported as an alarm, and one of them has to be able to remove that member.
WITHOUT_CORRUPT = "exclude=data_corruption"

# kube-apiserver writes this key every five minutes, and compacts to the revision of the last time but one
# (k8s.io/apiserver, storage/etcd3/compact.go).
COMPACTED_KEY = "compact_rev_key"

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Params = dict[str, Any]


def observe(params: Params) -> dict[str, Any]:
    """Everything that C(etcd_host_info) returns, from its options."""
    with contextlib.ExitStack() as stack:
        problems: list[Problem] = []
        return observe_with(params, observe_packages(params, problems, stack), problems)


def observe_packages(params: Params, problems: list[Problem], stack: contextlib.ExitStack) -> Staged | None:
    """What is to be installed on the host; None if that cannot be had. What is fetched to know it is removed with the stack."""
    try:
        return stack.enter_context(
            staged(parse_packages(params.get("packages", [])), work_dir_of(params), fetches=False)
        )
    except EtcdError as exc:
        # What is down is started without them.
        problems.extend(Problem(text, (FOUND, RESTART), code="packages") for text in exc.texts)
        return None


def observe_with(params: Params, found: Staged | None, problems: list[Problem]) -> dict[str, Any]:
    """The same with the programs that the host has when its packages are installed. Without them, its configuration is not compared."""
    packages = found or Staged()
    params = with_places(params)
    # The inventory's mistakes are reported by the controller. A name would be looked up here, and wait for it.
    params = {**params, "members": [member for member in params["members"] if is_address(member["address"])]}
    kubeadm: str | None
    try:
        kubeadm = str(_kubeadm.find_kubeadm_version(packages.kubeadm))
    except EtcdError:
        kubeadm = None
    facts = _host.host_facts(
        params["data_dir"],
        [params[port] for port in PORTS],
        peer_targets(params),
        params["runtime_endpoint"],
        kubeadm,
        params["asked_at"],
    )
    installed_kubelet = facts["kubelet_version"]
    facts["kubelet_version"] = packages.versions.get(KUBELET, installed_kubelet)
    facts["cryptography"] = CRYPTOGRAPHY_VERSION
    facts["cryptography_problem"] = _host.cryptography_problem(
        CRYPTOGRAPHY_VERSION, installs=params["install_dependencies"]
    )
    facts["cryptography_package"] = _host.cryptography_package() if facts["cryptography_problem"] else None
    if not params["member"]:
        pki, pki_reasons = observe_pki(params, kubeadm, problems)
        # Of a control plane host only. Members need not load it.
        from ansible_collections.kubeadm.etcd.plugins.module_utils._member import apiserver as _apiserver

        wanted = params["apiserver"]
        return {
            "facts": facts,
            "pki": pki,
            "apiserver": _apiserver.observe(_apiserver.places_of(wanted), wanted["update"], params["client_port"]),
            "reasons": {"certificates": as_data(pki_reasons)},
            "problems": [problem.as_dict() for problem in problems],
        }
    command = arguments_in(os.path.join(params["manifests_dir"], "etcd.yaml"))
    record = observe_record(params, problems)
    etcd = observe_etcd(params, command)
    etcd["record"] = asdict(record) if record else None
    pki, pki_reasons = observe_pki(params, kubeadm, problems, etcd["known_addresses"])
    if params["config"]:
        params = {**params, "config": {**params["config"], "kubeadm": packages.kubeadm}}
    config, config_reasons, manifest_reasons = observe_config(params, kubeadm if found else None, etcd, problems)
    if etcd["stale"]:
        manifest_reasons.append(Reason("manifest", "stale", etcd["stale"], restarts=True))
    if etcd["pending"]:
        # It restarts anyway. Nothing that the run does restarts it.
        manifest_reasons.append(Reason("manifest", "pending", etcd["pending"]))
    etcd["unreadable"] = unreadable_entries(params, etcd["version"], config.get("image"))
    manifest_reasons += log_reasons(etcd["unreadable"], etcd["image"], config.get("image"))
    etcd["moved"] = any(reason.code == _kubeadm.MOVED for reason in manifest_reasons)
    problems += data_problems(params, etcd)
    elsewhere = other_data_dir_problems(params, command, record, etcd["has_data"])
    etcd["data_elsewhere"] = bool(elsewhere)
    problems += elsewhere
    kubelet = observe_kubelet(params, facts, command, problems, bool(installed_kubelet))
    backup, backup_reasons = observe_backup(params, problems)
    reasons = {
        "packages": as_data(packages.reasons),
        "kubelet": kubelet.pop("reasons"),
        "ca": as_data(ca_reasons(params, pki)),
        "certificates": as_data(pki_reasons),
        "config": as_data(config_reasons),
        "manifest": as_data(manifest_reasons),
        "record": as_data(member_record_reasons(params, etcd, record)),
        "backup": as_data(backup_reasons),
    }
    # If something is to be changed here, the run asks when that is done.
    asks = params["health"] and etcd["ready"] and not any(reasons.values())
    return {
        "facts": facts,
        "etcd": etcd,
        "health": observe_health(params) if asks else None,
        "pki": pki,
        "kubelet": kubelet,
        "config": config,
        "backup": backup,
        "images": _host.images(params["runtime_endpoint"]),
        "reasons": reasons,
        "problems": [problem.as_dict() for problem in problems],
    }


def observe_health(params: Params) -> dict[str, Any]:
    """Verdict and table of the cluster as etcd_health gives them, with one look at all members."""
    # One host of a cluster is asked. The others need not load it.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import health as _health

    asked = params["health"]
    targets = _health.expected(params["members"], params["client_port"])
    found = _health.look_at_all(targets, client_files(params), 3.0)
    window = duration_seconds(asked["renewal_window"]) or 0.0
    report = _health.evaluate(found, time.time(), window, quota_of(asked.get("quota")))
    return {"verdict": report.verdict, "table": _health.render_table(report)}


def client_files(params: Params) -> tuple[str, str, str]:
    """What the host asks members with: the CA, a client certificate and its key."""
    pki_dir = params["pki"].get("pki_dir", "/etc/kubernetes/pki")
    names = ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key")
    ca, cert, key = (os.path.join(pki_dir, "etcd", name) for name in names)
    return ca, cert, key


def with_places(params: Params) -> Params:
    """Options, and beside them where things are: directories, ports and sockets, by the specs of the configuration and the kubelet.

    A configuration without a name tells those only: its other values are known to be wrong, or not known yet.
    """
    config = params["config"]
    places = {key: config.get(key, _kubeadm.CONFIG_ARGUMENTS[key]["default"]) for key in ("data_dir", *PORTS)}
    places.update({key: int(places[key]) for key in PORTS})
    shared = {key: params["kubelet"][key] for key in ("manifests_dir", "runtime_endpoint")}
    return {**params, **places, **shared, "config": config if config.get("name") else {}}


def peer_targets(params: Params) -> list[tuple[str, int]]:
    """Addresses and ports of the other members. A host that is not a member does not connect to their peer ports."""
    ports = ("client_port", "peer_port") if params["member"] else ("client_port",)
    return [
        (member["address"], params[port])
        for member in params["members"]
        if member["address"] != params["address"]
        for port in ports
    ]


def arguments_in(path: str) -> list[str]:
    """The command line that a manifest starts, program first; empty where there is no such file."""
    return _kubeadm.manifest_arguments(read_text(path) or "") if os.path.isfile(path) else []


def observe_etcd(params: Params, command: list[str]) -> dict[str, Any]:
    """The member on this host: its data, whether it is ready, and the membership that it (or another one) tells.

    command: what its manifest starts.
    """
    process = find_etcd_process(params["name"])
    installed = os.path.join(params["manifests_dir"], "etcd.yaml")
    local = "[::1]" if ":" in params["address"] else "127.0.0.1"
    # A running member is asked where it listens, which may be what is to be changed.
    default = f"http://{local}:{params['metrics_port']}/readyz"
    pki_dir = params["pki"].get("pki_dir", "/etc/kubernetes/pki")
    stale = stale_directory(process, pki_dir)
    started = _host.process_started(process.pid) if process else 0.0
    pending = pending_manifest(process, command, installed)
    # A member without its files, or about to restart, does not count as ready even if it answers so.
    ready = (
        process is not None
        and not stale
        and not pending
        and is_ready(f"{metrics_of(process.argv, default)}?{WITHOUT_CORRUPT}")
    )
    result: dict[str, Any] = {
        "founded": value_of_flag(command, "initial-cluster-state") == "existing",
        # The token of a killed first run is kept. The token of a new cluster is made from random numbers of all hosts.
        "token": value_of_flag(command, "initial-cluster-token") or "",
        "nonce": secrets.token_hex(16),
        "running": process is not None,
        # 0 as well if it has just ended.
        "age": round(time.time() - started) if started else 0,
        "stale": stale,
        "pending": pending,
        "ready": ready,
        "leader": False,
        "version": "",
        "cluster_version": "",
        "downgrade": "",
        "image": _kubeadm.manifest_image(read_text(installed) or ""),
        "answers": False,
        "database": None,
        "members": None,
        "members_of": None,
        "alarms": [],
        "trusts": trusts(process, pki_dir, bool(stale)),
        "trusted": trusted_by(process, pki_dir),
        "known_addresses": known_addresses(params, process.argv if process else command, None),
    }
    ca, cert, key = client_files(params)
    if not all(os.path.isfile(path) for path in (ca, cert, key)):
        return {**result, **observe_data(params["data_dir"])}
    # The member itself first. If it is down, the others show whether the cluster runs.
    for member in sorted(params["members"], key=lambda m: bool(m["address"] != params["address"])):
        itself = member["address"] == params["address"]
        if itself and not process:
            continue
        endpoint = client_url(member["address"], params["client_port"])
        if itself and process:
            endpoint = client_url_of(process.argv, endpoint)
        try:
            with EtcdClient(endpoint, ca, cert, key, timeout=2.0) as client:
                listed, status = client.members(), client.status()
                result["cluster_version"] = client.cluster_version()
                result["downgrade"] = client.enabled_downgrade(status)
                if itself and process:
                    result["database"] = observe_database(client, status, quota_in(params, process)).as_dict()
        except EtcdError:
            continue
        called = {entry.id: entry.name or f"{entry.id:x}" for entry in listed}
        result["members"] = [asdict(entry) for entry in listed]
        result["members_of"] = f"{status.cluster_id:x}"
        result["alarms"] = [{"kind": alarm.kind, "member": name_of(alarm.member_id, called)} for alarm in status.alarms]
        if itself:
            result["answers"] = True
            result["version"] = status.version
            result["leader"] = status.leader == status.member_id
        break
    result["known_addresses"] = known_addresses(params, process.argv if process else command, result["members"])
    for entry in result["members"] or []:
        # As etcdctl writes them; and a number of 64 bits does not survive every JSON reader.
        entry["id"] = f"{entry['id']:x}"
    # Last: a member that is ready, or has published, has a log that tells of a leader. Read before that, it would be taken for lost.
    return {**result, **observe_data(params["data_dir"])}


def quota_in(params: Params, process: Process) -> int:
    """The quota of the member's database, for etcd 3.5, which does not report it. A flag counts more than a variable."""
    envs = params["config"].get("extra_envs") or {}
    return quota_of(value_of_flag(process.argv, "quota-backend-bytes") or envs.get("ETCD_QUOTA_BACKEND_BYTES"))


def observe_database(client: EtcdClient, status: Status, quota: int) -> Database:
    """Sizes of the member's database. With the alarm NOSPACE, also what kube-apiserver would compact next. quota: if the status has none."""
    is_full = any(alarm.kind == "NOSPACE" for alarm in status.alarms)
    return Database(
        size=status.db_size,
        in_use=status.db_size_in_use,
        quota=quota if status.quota is None else max(0, status.quota),
        revision=status.revision,
        next_compaction=client.modified(COMPACTED_KEY) if is_full else 0,
    )


def observe_data(data_dir: str) -> dict[str, Any]:
    """What the data directory says of its member."""
    wal = read_wal(data_dir)
    return {
        "has_data": wal is not None,
        "formed": bool(wal and wal.formed),
        "restored": bool(wal and wal.restored),
        "data_problem": wal.problem if wal else "",
        "cluster_id": (wal.cluster_id or None) if wal else None,
        "member_id": (wal.member_id or None) if wal else None,
    }


def unreadable_entries(params: Params, version: str, wanted: str | None) -> int:
    """How many entries of the member's log etcd 3.7 cannot read, if 3.7 is wanted or for a report. version: of the member, if it answers. wanted: the image."""
    runs = etcd_version_in(version)
    # 3.5 writes what 3.7 cannot read, so there is some until 3.6 runs; and none that 3.7 runs on.
    can_be = not runs or runs.minor == WITHOUT_FORMER_API - 1
    return (
        len(unreadable_by_3_7(params["data_dir"]))
        if can_be and (is_without_former_api(wanted) or params["reads_log"])
        else 0
    )


def pending_manifest(process: Process | None, command: list[str], path: str) -> str:
    """Why a member is about to restart: its manifest was replaced, and the kubelet has not acted on it yet; empty if it is not.

    command: what the manifest starts. An image, a variable or a probe is in no command line: a process that is older than a manifest
    of the last minute is about to restart as well.
    """
    if process is None or not command:
        return ""
    installed, running = command[1:], process.argv[1:]
    lacking, surplus = missing_arguments(installed, running), missing_arguments(running, installed)
    if lacking:
        return f"etcd: runs without {' '.join(lacking)}, which is in {path}; the run waits for its restart"
    # What the kubelet has expanded is not in the manifest as it runs.
    if surplus and not any(is_expanded(item) for item in installed):
        return f"etcd: runs with {' '.join(surplus)}, which is no longer in {path}; the run waits for its restart"
    try:
        settled = younger_than(path)
    except EtcdError:
        return ""
    return (
        ""
        if settled(process)
        else f"etcd: is older than {path}, which was just replaced; the run waits for its restart"
    )


def observe_record(params: Params, problems: list[Problem]) -> Record | None:
    """The record of the member; None if there is none, or if it is damaged, which is a problem."""
    try:
        return read_record(work_dir_of(params))
    except EtcdError as exc:
        problems.append(Problem(str(exc), PROCESSES, code="record"))
        return None


def observe_backup(params: Params, problems: list[Problem]) -> tuple[dict[str, Any], list[Reason]]:
    """Snapshots on the host, and why its timers are not as wanted. Nothing of it is known without the options."""
    if not params.get("backup"):
        return {"dir": "", "newest": [], "count": 0, "state": {}}, []
    spec = BackupSpec.from_params(params["backup"])
    reasons = schedule_reasons(spec)
    if reasons:
        problems += schedule_problems(spec)
    return {"dir": spec.dir, **snapshots_in(spec.dir, spec.cluster)}, reasons


def work_dir_of(params: Params) -> str:
    """Our directory on the host."""
    return os.path.dirname(str(params["kubelet"]["config_path"]))


def member_record_reasons(params: Params, etcd: Mapping[str, Any], record: Record | None) -> list[Reason]:
    """Why the record has to be written. What runs proves it: the member answers, by this CA, for the data that lies there."""
    listed = {entry["id"] for entry in etcd["members"] or []}
    if not (
        etcd["answers"] and etcd["formed"] and etcd["cluster_id"] == etcd["members_of"] and etcd["member_id"] in listed
    ):
        return []
    pki_dir = params["pki"].get("pki_dir", "/etc/kubernetes/pki")
    return record_reasons(record, current_record(params["name"], params["data_dir"], pki_dir))


def data_problems(params: Params, etcd: Mapping[str, Any]) -> list[Problem]:
    """A data directory that cannot be read, so its owner is unknown; and one that a restore is about to replace."""
    waiting = "" if etcd["running"] else waiting_restore(params["data_dir"])
    if waiting:
        return [Problem(restore_under_way(waiting), (FOUND, START), code="restore-under-way")]
    if not etcd["data_problem"]:
        return []
    return [
        Problem(
            f"etcd_data_dir {params['data_dir']} cannot be judged: {etcd['data_problem']}. Nothing is started on it. Mount the volume, or"
            ' repair the filesystem, and run again. If the data is lost, docs/recovery.md ("A member has lost its data") has the way out.',
            PROCESSES,
            code="unreadable-data",
        )
    ]


def former_data_dirs(params: Params, command: list[str], record: Record | None, has_data: bool) -> list[str]:
    """Where the member had its data before, by its manifest, the one before that, kubeadmcfg.yaml and the record. The newest first."""
    found = [value_of_flag(command, "data-dir")]
    # What an earlier move has left behind does not matter once there is data.
    if not has_data:
        work_dir = work_dir_of(params)
        found.append(value_of_flag(arguments_in(os.path.join(work_dir, "etcd.yaml.previous")), "data-dir"))
        found.append(_kubeadm.data_dir_in(read_text(os.path.join(work_dir, "kubeadmcfg.yaml")) or ""))
        found.append(record.data_dir if record else None)
    return list(dict.fromkeys(path for path in found if path))


def is_same_directory(one: str, other: str) -> bool:
    """Whether two paths lead to one directory, links and spelling aside."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def other_data_dir_problems(params: Params, command: list[str], record: Record | None, has_data: bool) -> list[Problem]:
    """Whether the member has data elsewhere, by what was installed before: it would start empty beside it, or with a copy.

    command: what its manifest starts. has_data: whether there is data where it is wanted.
    """
    wanted = os.path.normpath(params["data_dir"])
    former = [
        path for path in former_data_dirs(params, command, record, has_data) if not is_same_directory(path, wanted)
    ]
    problems = []
    for path in (path for path in former if read_wal(path)):
        why = (
            "which contains data too. If that is a copy made while the member ran, it lacks later writes, which"
            " the member has already acknowledged. Make sure that it is a copy, and move it away. Then stop the member"
            if has_data
            else "which is empty: the member would start without its data. Stop the member"
        )
        problems.append(
            Problem(
                f"the member's data is in {path}, and etcd_data_dir is {wanted}, {why} (move"
                f" {params['manifests_dir']}/etcd.yaml to another directory), move {path}/member to {wanted}/member, and run again:"
                " one member after the other, each with --limit. Or set etcd_data_dir to the directory that has the data.",
                PROCESSES,
                code="data-elsewhere",
            )
        )
    return problems


def trusts(process: Process | None, pki_dir: str, stale: bool) -> str:
    """Which CA a running member trusts, see _pki.trusted_ca. stale: whether it sees another directory of certificates."""
    if process is None or not HAS_CRYPTOGRAPHY:
        return _pki.UNKNOWN
    place = client_port_of(process, pki_dir)
    if place is None:
        return _pki.UNKNOWN
    host, port = place
    return _pki.trusted_ca(
        pki_dir,
        _host.process_started(process.pid),
        lambda cert, key: accepts_client(host, port, cert, key),
        datetime.now(timezone.utc),
        stale,
    )


def known_addresses(params: Params, arguments: list[str], listed: list[dict[str, Any]] | None) -> list[str]:
    """Addresses at which peers and clients look for the member now, and which it is about to leave.

    arguments: what it runs with, or its manifest starts. listed: the membership, None if no member answered.
    """
    if not params.get("config"):
        return []
    flags = ("initial-advertise-peer-urls", "listen-peer-urls", "advertise-client-urls", "listen-client-urls")
    current = [url for flag in flags for url in (value_of_flag(arguments, flag) or "").split(",")]
    for entry in listed or []:
        if entry["name"] == params["name"]:
            current += [*entry["peer_urls"], *entry["client_urls"]]
    # A flag may be given several times, and addresses of etcd_extra_args stay.
    extra = params["config"].get("extra_args") or {}
    kept = addresses_in([url for flag in flags for url in re.split(r"[\s,'\"\[\]]+", str(extra.get(flag, "")))])
    # What the inventory gives another member is never in this one's certificates.
    kept += [params["address"], *(member["address"] for member in params["members"])]
    return [address for address in addresses_in(current) if address not in kept]


def addresses_in(urls: list[str]) -> list[str]:
    """IP addresses of URLs, each once, without those that name no host (loopback, unspecified)."""
    # Written by hand or by someone else: what is not a URL has no address.
    hosts = [place_of(url)[0] for url in urls]
    found = [ipaddress.ip_address(host) for host in hosts if is_address(host)]
    return list(dict.fromkeys(str(item) for item in found if not (item.is_loopback or item.is_unspecified)))


def observe_pki(
    params: Params, kubeadm: str | None, problems: list[Problem], known: list[str] | None = None
) -> tuple[dict[str, Any], list[Reason]]:
    """Certificates as they are, and why the leaves differ from what is wanted. known: former addresses of the member."""
    if not params["pki"] or not HAS_CRYPTOGRAPHY:
        return {}, []
    try:
        wanted = {**params["pki"], "kubernetes_version": params["pki"].get("kubernetes_version") or kubeadm}
        wanted["known_addresses"] = known or []
        state = _pki.observe(_pki.PkiSpec.from_params(wanted), datetime.now(timezone.utc))
    except EtcdError as exc:
        problems.extend(Problem(text, code="certificates") for text in exc.texts)
        return {}, []
    result = asdict(state)
    del result["reasons"]
    return result, state.reasons


def ca_reasons(params: Params, pki: dict[str, Any]) -> list[Reason]:
    """Why the CA host has to make its CA, or repair the modes of its files."""
    if not params["pki"].get("ca_host") or not pki:
        return []
    if not pki["ca_cert"] and not pki["ca_key"]:
        return [Reason("ca", "missing", "etcd/ca.crt: missing")]
    directory = os.path.join(params["pki"].get("pki_dir", "/etc/kubernetes/pki"), "etcd")
    found = [
        (name, mode_problem(os.path.join(directory, name), mode))
        for name, mode in (("ca.crt", 0o644), ("ca.key", 0o600))
    ]
    reasons = [Reason("ca", "mode", f"etcd/{name}: {problem}") for name, problem in found if problem]
    if not pki["ca_cert"]:
        reasons.append(Reason("ca", "missing", "etcd/ca.crt: missing, ca.key is there"))
    return reasons


def observe_config(
    params: Params, kubeadm: str | None, etcd: Mapping[str, Any], problems: list[Problem]
) -> tuple[dict[str, Any], list[Reason], list[Reason]]:
    """Wanted kubeadmcfg.yaml, and why it and the manifest differ from it."""
    # preflight reports an unsupported kubeadm.
    if (
        not params["config"]
        or not kubeadm
        or _kubeadm.kubeadm_problems(
            _kubeadm.parse_version(kubeadm),
            TRUTH.get(str(params["config"].get("allow_untested_kubeadm")).lower(), False),
        )
    ):
        return {}, [], []
    installed = os.path.join(params["manifests_dir"], "etcd.yaml")
    # What etcd reads at its foundation only is not known before the plan is made. It tells of a killed first run whose list was another one.
    is_founded = etcd["formed"] or not etcd["has_data"]
    try:
        asked = _kubeadm.ConfigSpec.from_params({**params["config"], "initial_cluster_token": etcd["token"]})
        version, before = _kubeadm.parse_version(kubeadm), read_text(installed)
        spec = asked.completed(version, _kubeadm.database_size(asked.data_dir), before)
        found = _kubeadm.config_problems(spec, version)
        if found:
            problems.extend(found)
            return {}, [], []
        config = _kubeadm.config_state(spec, is_founded)
        manifest = _kubeadm.render_manifest(config.text, spec.kubeadm)
        _kubeadm.check_other_pods(params["manifests_dir"])
    except EtcdError as exc:
        problems.append(Problem(str(exc), PROCESSES, code="configuration"))
        return {}, [], []
    counts = _kubeadm.startup_counts(asked.startup_timeout, etcd["formed"], lambda: etcd["ready"])
    reasons = _kubeadm.manifest_reasons(before, manifest, is_founded, counts)
    # A directory that others share is not taken from them.
    own = [] if _host.foreign_entries(params["data_dir"]) else [(params["data_dir"], 0o700)]
    for target, mode in ((installed, 0o600), *own):
        problem = mode_problem(target, mode)
        if problem:
            reasons.append(Reason("manifest", "mode", f"{target}: {problem}"))
    return (
        {
            "kubernetes_version": spec.kubernetes_version,
            "installed_version": _kubeadm.kubernetes_version_in(config.before or ""),
            "image": _kubeadm.manifest_image(manifest),
            "image_tag": spec.image_tag,
            "peer_port": spec.peer_port,
        },
        config.reasons,
        reasons,
    )


def observe_kubelet(
    params: Params, facts: dict[str, Any], command: list[str], problems: list[Problem], is_installed: bool = True
) -> dict[str, Any]:
    """Files of the override, and why they or the running kubelet differ. command: what the member's manifest starts. is_installed: whether there
    is a kubelet already.
    """
    spec = kubelet_spec(params["kubelet"], params["data_dir"])
    problems.extend([*_kubelet.config_problems(spec), *_kubelet.pod_name_problems()])
    drop_ins = _host.kubelet_drop_ins()
    state = kubelet_state(spec, kubelet_files(spec, facts["kubelet_version"], facts["cgroup_version"]))
    # Without systemd, or without the kubelet, that is said already.
    if facts["systemd"] and facts["kubelet_version"] and is_installed:
        problems.extend(_kubelet.unit_problems(state.unit) or _kubelet.override_problems(drop_ins, spec))
    problems.extend(_kubelet.runtime_problems(spec, facts["runtime_cgroup_driver"], state.found[spec.config_path]))
    data_dir = value_of_flag(command, "data-dir")
    return {
        "restart": as_data(state.restart),
        "reasons": as_data(state.reasons),
        # The same question as that of the script before the kubelet (render_guard).
        "held": bool(
            not state.unit.active
            and os.path.exists(spec.record_path)
            and data_dir
            and not glob.glob(os.path.join(glob.escape(data_dir), "member", "wal", "*.wal"))
        ),
        "warnings": [
            *_kubelet.dropped_arguments([*drop_ins, *_host.kubelet_environment()]),
            *_kubelet.sandbox_warnings(_host.missing_sandbox_image(spec.runtime_endpoint) if command else ""),
            *_kubelet.page_warnings(
                state.unit,
                is_ours=state.found[_kubelet.DROP_IN] == state.files[_kubelet.DROP_IN],
                config_is_there=os.path.exists(_kubelet.PAGE_CONFIG),
                key_dirs=_host.copied_key_dirs(),
            ),
        ],
        "allows_swap": spec.extra.get("failSwapOn") is False,
    }
