"""What a rotation of the CA relies on: what a running etcd says that it trusts, and whom it accepts in each phase."""

from __future__ import annotations

import shutil
import signal
import threading
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import rotation as _rotation
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster as Wanted
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import DROP, ISSUE, TRUST, Rotation
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import (
    EtcdClient,
    EtcdUnreachableError,
    trusted_names,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import rotate as _rotate
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import steps as _pki_steps
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import load_certificates, name_id
from ansible_collections.kubeadm.etcd.plugins.module_utils._values import members as _members

from .conftest import ADDRESSES, Cluster, Make, Member, each_version, encoded, other_versions_long, pki_spec


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


def seen(cluster: Cluster) -> Rotation:
    """The phase, from what the hosts show, by the code that runs on them."""
    observations = {
        member.name: {
            "pki": vars(_pki.observe(spec(member), datetime.now(timezone.utc))),
            "etcd": {"trusted": trusted_names(ADDRESSES[member.name], 2379)},
        }
        for member in cluster.members
    }
    members = [_members.Member(name, name, ADDRESSES[name]) for name in cluster.names]
    return _rotation.rotation_of(Wanted("etcd", members, "infra0"), observations)


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
        # Who has not followed is refused by every member.
        assert {ask(member, of_old) for member in cluster.members} == {"tls-client-refused"}
    finally:
        for event in done.values():
            event.set()
        for thread in threads:
            thread.join()
    assert refused == {"old": [], "new": []}
    cluster.wait()
    assert cluster.agree()
