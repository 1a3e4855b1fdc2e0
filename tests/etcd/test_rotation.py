"""What a CA rotation relies on: a running etcd names the CAs that it trusts, and accepts the right clients in each phase."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import emergency as _emergency
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import rotation as _rotation
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster as Wanted
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import DROP, ISSUE, TRUST, Rotation
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import (
    EtcdClient,
    EtcdUnreachableError,
    accepts_client,
    trusted_names,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import process_started
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import rotate as _rotate
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import steps as _pki_steps
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.making import renewed
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import (
    certificate_pem,
    load_certificates,
    load_key,
    name_id,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values import members as _members

from .conftest import (
    ADDRESSES,
    NAMES,
    Cluster,
    Make,
    Member,
    each_version,
    encoded,
    issue,
    other_versions_long,
    pki_spec,
)


@each_version
@pytest.mark.parametrize("limits", [{}, {"tls-min-version": "TLS1.3"}, {"tls-max-version": "TLS1.2"}])
def test_a_running_etcd_names_the_cas_that_it_trusts(make_cluster: Make, version: str, limits: dict[str, str]) -> None:
    cluster = make_cluster(1, version)
    cluster.found(**limits)
    (authority,) = load_certificates((cluster[0].pki / "etcd" / "ca.crt").read_bytes())
    assert trusted_names(ADDRESSES[cluster[0].name], 2379) == [name_id(authority)]
    # A listener that asks for no certificate.
    assert trusted_names(ADDRESSES[cluster[0].name], 2381) is None


def spec(member: Member, **changes: Any) -> _pki.PkiSpec:
    """The PKI of a member of this cluster."""
    found = replace(pki_spec(member.directory, member.name), ca_host=member.name == "infra0")
    return replace(found, **changes)


def trusts(member: Member) -> str:
    """Which CA a member trusts, found by connecting with certificates of each."""
    return _pki.trusted_ca(
        str(member.pki),
        process_started(member.process.pid) if member.process else 0.0,
        lambda cert, key: accepts_client(ADDRESSES[member.name], 2379, cert, key),
        datetime.now(timezone.utc),
    )


def observations(cluster: Cluster) -> dict[str, Any]:
    """What the hosts show, by the code that runs on them."""
    return {
        member.name: {
            "pki": vars(_pki.observe(spec(member), datetime.now(timezone.utc))),
            "etcd": {
                "trusted": trusted_names(ADDRESSES[member.name], 2379) if member.running else None,
                "trusts": trusts(member) if member.running else "unknown",
            },
        }
        for member in cluster.members
    }


def wanted(cluster: Cluster) -> Wanted:
    """The cluster as an inventory has it."""
    return Wanted("etcd", [_members.Member(name, name, ADDRESSES[name]) for name in cluster.names], "infra0")


def seen(cluster: Cluster) -> Rotation:
    """The phase of a rotation."""
    return _rotation.rotation_of(wanted(cluster), observations(cluster))


def left(cluster: Cluster) -> _emergency.Cut:
    """What is left of an emergency."""
    found = observations(cluster)
    return _emergency.cut_of(wanted(cluster), found, _rotation.rotation_of(wanted(cluster), found))


def restart(cluster: Cluster, member: Member) -> None:
    """What a turn does: it ends, and comes back healthy."""
    member.signal(signal.SIGTERM)
    cluster.start_as_published([member])
    cluster.wait([member])


def issue_by_the_first(cluster: Cluster, ca: str) -> None:
    """What the role certificates does in the phase issue."""
    now, signer = datetime.now(timezone.utc), spec(cluster[0])
    for member in cluster.members:
        wanted = spec(member, first_ca_only=True)
        csrs = _pki_steps.step_request(wanted, ca, False, now)["csrs"]
        asked = [{"host": member.name, "name": member.name, "address": ADDRESSES[member.name], "csrs": csrs}]
        signed = _pki_steps.step_sign(signer, asked, False, now)["signed"]
        _pki_steps.step_install(wanted, ca, signed.get(member.name, {}), False, now, replace_ca=True)


def writes(cluster: Cluster, files: tuple[str, str, str], done: threading.Event, refused: list[str]) -> None:
    """A client with files of its own, over a connection of its own for each request: the next member if one does not answer."""
    number = 0
    while not done.is_set():
        number += 1
        codes = []
        for name in cluster.names:
            try:
                with EtcdClient(f"https://{ADDRESSES[name]}:2379", *files, timeout=2.0) as client:
                    client.call("kv/put", {"key": encoded(f"w{number}"), "value": encoded("x")})
                break
            except EtcdUnreachableError as exc:
                codes.append(exc.code)
        refused += [code for code in codes if code.startswith("tls")]
        if len(codes) == len(cluster.names):
            refused.append(f"nowhere: {codes}")


def client_files(member: Member, place: Path, ca: str) -> tuple[str, str, str]:
    """A client's copy of what a member has, which trusts these CAs."""
    place.mkdir()
    (place / "ca.crt").write_text(ca)
    for end in ("crt", "key"):
        shutil.copy2(member.pki / f"apiserver-etcd-client.{end}", place / f"client.{end}")
    return tuple(str(place / name) for name in ("ca.crt", "client.crt", "client.key"))  # type: ignore[return-value]


def ask(member: Member, files: tuple[str, str, str]) -> str:
    """The code of a client's failure; '' if it is answered."""
    try:
        with EtcdClient(member.endpoint, *files, timeout=2.0) as client:
            client.status()
    except EtcdUnreachableError as exc:
        return exc.code
    return ""


@other_versions_long
def test_the_whole_rotation_under_two_writers(make_cluster: Make, version: str) -> None:
    """One with the old CA's certificate until that is dropped, one with the new CA's as soon as both are trusted. Neither is ever refused."""
    cluster = make_cluster(3, version)
    cluster.found()
    assert seen(cluster).phase == ""
    now = datetime.now(timezone.utc)
    old = _pki.observe(spec(cluster[0]), now).ca_cert or ""
    refused: dict[str, list[str]] = {"old": [], "new": []}
    done: dict[str, threading.Event] = {name: threading.Event() for name in refused}
    threads: list[threading.Thread] = []

    def begin(name: str, files: tuple[str, str, str]) -> None:
        threads.append(threading.Thread(target=writes, args=(cluster, files, done[name], refused[name])))
        threads[-1].start()

    try:
        new = _rotate.step_next(spec(cluster[0]), None, None, "", False, now)["ca_cert"]
        assert _rotate.step_next(spec(cluster[0]), None, None, "", False, now)["changed"] is False
        # It trusts both from its own begin, as a kube-apiserver that was restarted.
        of_old = client_files(cluster[0], cluster.directory / "client", old + new)
        begin("old", of_old)
        found = seen(cluster)
        assert (found.phase, found.write, found.restart) == (TRUST, cluster.names, cluster.names)
        for member in cluster.members:
            _rotate.step_trust(spec(member), old + new, False)
        for member in cluster.members:
            assert member.name in seen(cluster).restart
            restart(cluster, member)
        found = seen(cluster)
        assert found.phase == ISSUE and found.exchange
        pids = [member.process and member.process.pid for member in cluster.members]
        bundle = _rotate.step_exchange(spec(cluster[0]), False)["ca_cert"]
        assert bundle == new + old and seen(cluster).issue == cluster.names
        issue_by_the_first(cluster, bundle)
        assert [member.process and member.process.pid for member in cluster.members] == pids
        begin("new", client_files(cluster[0], cluster.directory / "new-client", new))
        assert ask(cluster[0], of_old) == ""
        found = seen(cluster)
        assert (found.phase, found.restart) == (DROP, cluster.names)
        done["old"].set()
        threads[0].join()
        for member in cluster.members:
            _rotate.step_trust(spec(member), new, False)
        for member in cluster.members:
            assert member.name in seen(cluster).restart
            restart(cluster, member)
        assert seen(cluster) == Rotation(recent=True)
        # A client that still has a certificate of the former CA is refused by every member.
        assert {ask(member, of_old) for member in cluster.members} == {"tls-client-refused"}
    finally:
        for event in done.values():
            event.set()
        for thread in threads:
            thread.join()
    assert refused == {"old": [], "new": []}
    cluster.wait()
    assert cluster.agree()


def sign_by_next(cluster: Cluster, ca: str) -> dict[str, dict[str, str]]:
    """Certificates of the CA beside the one in use, for all members. No member has any of them yet."""
    now = datetime.now(timezone.utc)
    asked = [
        {
            "host": member.name,
            "name": member.name,
            "address": ADDRESSES[member.name],
            "csrs": _pki_steps.step_request(spec(member, first_ca_only=True), ca, False, now)["csrs"],
        }
        for member in cluster.members
    ]
    signed: dict[str, dict[str, str]] = _pki_steps.step_sign(spec(cluster[0]), asked, False, now, by_next=True)[
        "signed"
    ]
    return signed


def install(member: Member, ca: str, certificates: dict[str, str]) -> None:
    """What the emergency installs on a host."""
    now = datetime.now(timezone.utc)
    _pki_steps.step_install(spec(member, first_ca_only=True), ca, certificates, False, now, replace_ca=True)


def restart_at_once(cluster: Cluster) -> None:
    """All members end, and come back."""
    for member in cluster.members:
        if member.running:
            member.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    for member in cluster.members:
        member.signal(signal.SIGTERM)
    cluster.start_as_published()
    cluster.wait()


@other_versions_long
def test_an_emergency_loses_nothing_and_no_member_ever_trusts_both(make_cluster: Make, version: str) -> None:
    """All clients are served until the files are exchanged. Then quorum is lost for the time of a restart, and certificates of the former CA are refused."""
    cluster = make_cluster(3, version)
    cluster.found()
    now = datetime.now(timezone.utc)
    old = _pki.observe(spec(cluster[0]), now).ca_cert or ""
    of_old = client_files(cluster[0], cluster.directory / "client", old)
    assert left(cluster).phases == ["new", "cut"]
    new = _rotate.step_next(spec(cluster[0]), None, None, "", False, now)["ca_cert"]
    found = left(cluster)
    assert found.phases == ["cut"] and found.exchange and found.restart == cluster.names
    signed = sign_by_next(cluster, new)
    # Nothing that is in use has changed so far.
    assert seen(cluster).phase == TRUST and all(ask(member, of_old) == "" for member in cluster.members)
    numbers = [0]
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            with EtcdClient(cluster[numbers[0] % 3].endpoint, *of_old, timeout=2.0) as client:
                try:
                    client.call("kv/put", {"key": encoded(f"w{numbers[0] + 1}"), "value": encoded("x")})
                    numbers[0] += 1
                except EtcdUnreachableError:
                    return

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(1)
    begin = time.monotonic()
    _rotate.step_exchange(spec(cluster[0]), False, alone=True)
    for member in cluster.members:
        install(member, new, signed[member.name])
    assert left(cluster).issue == [] and seen(cluster).is_cut
    restart_at_once(cluster)
    gone = time.monotonic() - begin
    over.set()
    thread.join()
    assert left(cluster).phases == [] and seen(cluster) == Rotation(recent=True)
    # Clients with a certificate of the former CA are refused by every member.
    Path(of_old[0]).write_text(new)
    assert {ask(member, of_old) for member in cluster.members} == {"tls-client-refused"}
    assert cluster.agree()
    assert all(cluster.values(f"w{number}") == ["x"] * 3 for number in (1, numbers[0])) and numbers[0] > 3
    print(f"{version}: {numbers[0]} writes before, none lost; without quorum for {gone:.1f} s at most")


@pytest.mark.long
@each_version
def test_an_emergency_that_was_killed_is_finished(make_cluster: Make, version: str) -> None:
    """Killed by a power cut after the files of one host: the two other members form a quorum, and the next run starts over."""
    cluster = make_cluster(3, version)
    cluster.found()
    now = datetime.now(timezone.utc)
    new = _rotate.step_next(spec(cluster[0]), None, None, "", False, now)["ca_cert"]
    signed = sign_by_next(cluster, new)
    _rotate.step_exchange(spec(cluster[0]), False, alone=True)
    install(cluster[0], new, signed["infra0"])
    assert seen(cluster).is_cut and left(cluster).issue == ["infra1", "infra2"]
    cluster.power_cut()
    cluster.start_as_published()
    cluster.wait([cluster[1], cluster[2]])
    assert cluster[1].put("meanwhile") and not cluster[0].healthy()
    found = left(cluster)
    # A member that finds no quorum does not serve, and so does not say what it trusts.
    assert found.issue == ["infra1", "infra2"] and found.restart == cluster.names and not found.exchange
    # The certificates were only in the memory of the killed run. Now the CA signs new ones.
    issue_by_the_first(cluster, new)
    assert left(cluster).issue == []
    restart_at_once(cluster)
    assert left(cluster).phases == [] and cluster.agree() and cluster.values("meanwhile") == ["there"] * 3


@other_versions_long
def test_a_ca_that_was_put_on_the_hosts_by_hand(make_cluster: Make, version: str) -> None:
    """The new CA has the same name, as with kubeadm. The run detects it, and one restart of all members ends the outage."""
    cluster = make_cluster(3, version)
    cluster.found()
    cluster.write("before")
    for name in NAMES:
        (cluster.directory / name / "pki").rename(cluster.directory / name / "kept")
    issue(cluster.directory)
    assert all(not member.healthy() for member in cluster.members)
    found = left(cluster)
    assert found.by_hand and found.phases == ["cut"] and found.issue == [] and found.restart == cluster.names
    restart_at_once(cluster)
    assert left(cluster).restart == [] and not left(cluster).by_hand
    assert cluster.agree() and cluster.values("before") == ["there"] * 3


@pytest.mark.long
@each_version
def test_another_certificate_of_the_same_ca(make_cluster: Make, version: str) -> None:
    """When the former certificate expires, a member that was restarted since works, and one that was not refuses all clients."""
    cluster = make_cluster(3, version)
    now = datetime.now(timezone.utc)
    authority = spec(cluster[0])
    (first,) = load_certificates(Path(authority.path("etcd/ca.crt")).read_bytes())
    key = load_key(Path(authority.path("etcd/ca.key")).read_bytes())
    end = now + timedelta(seconds=60)
    for member in cluster.members:
        soon = certificate_pem(renewed(first, key, (now - timedelta(minutes=5), end)))
        (member.pki / "etcd" / "ca.crt").write_text(soon)
    # /proc has the start of a process in hundredths of a second, rounded down.
    time.sleep(0.1)
    cluster.found()
    serials = [item["serial"] for member in cluster.members for item in _pki.observe(spec(member), now).certificates]
    time.sleep(1)
    renewed_ca = _rotate.step_renew(authority, None, False, now)["ca_cert"]
    assert [trusts(member) for member in cluster.members] == ["earlier", "installed", "installed"]
    for member in cluster.members:
        _rotate.step_trust(spec(member), renewed_ca, False)
    assert [trusts(member) for member in cluster.members] == ["earlier"] * 3
    for member in cluster.members[:2]:
        restart(cluster, member)
    assert [trusts(member) for member in cluster.members] == ["installed", "installed", "earlier"]
    assert datetime.now(timezone.utc) < end, "the former certificate has expired too early for what follows"
    time.sleep((end - datetime.now(timezone.utc)).total_seconds() + 1)
    of_client = client_files(cluster[0], cluster.directory / "client", renewed_ca)
    assert [ask(member, of_client) for member in cluster.members] == ["", "", "tls-client-refused"]
    assert cluster[0].put("after")
    restart(cluster, cluster[2])
    assert [ask(member, of_client) for member in cluster.members] == [""] * 3
    assert cluster.agree() and cluster.values("after") == ["there"] * 3
    after = [item["serial"] for member in cluster.members for item in _pki.observe(spec(member), now).certificates]
    assert after == serials
