"""etcd reads the CA when it starts, and its own certificates and keys at each handshake."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient, EtcdUnreachableError

from .conftest import ADDRESSES, Cluster, Make, Member, each_version, issue, wait_until


def another_pki(cluster: Cluster) -> Path:
    """Certificates of the same names by another CA."""
    directory = cluster.directory / "another"
    issue(directory)
    return directory


def exchange(member: Member, pki: Path) -> None:
    """Replace all files of a member, by copies that are renamed into place, as the collection does it."""
    for path in sorted((pki / member.name / "pki").rglob("*.*")):
        target = member.pki / path.relative_to(pki / member.name / "pki")
        fresh = target.with_name(target.name + ".new")
        shutil.copy2(path, fresh)
        fresh.replace(target)


def ask(member: Member, ca: Path, pair: Path) -> str:
    """The code of the client's error, '' without one. ca: the CA that the client trusts. pair: the client's certificate and key."""
    files = [pair / member.name / "pki" / "etcd" / f"healthcheck-client.{end}" for end in ("crt", "key")]
    try:
        with EtcdClient(
            member.endpoint, str(ca / member.name / "pki" / "etcd" / "ca.crt"), *map(str, files), timeout=2.0
        ) as client:
            client.status()
    except EtcdUnreachableError as exc:
        return exc.code
    return ""


@each_version
def test_a_ca_that_is_exchanged_under_a_running_member(make_cluster: Make, version: str) -> None:
    """The member uses its new certificate at once, and trusts the former CA until it restarts."""
    cluster = make_cluster(1, version)
    cluster.found()
    member, former = cluster[0], cluster.directory / "former"
    shutil.copytree(member.pki, former / member.name / "pki")
    new = another_pki(cluster)
    exchange(member, new)
    assert ask(member, former, former) == "tls-unknown-ca"
    assert ask(member, new, former) == ""
    assert ask(member, new, new) == "tls-client-refused"
    member.signal(signal.SIGKILL)
    cluster.start_as_published()
    wait_until("it is not healthy with its new CA", member.healthy)
    assert ask(member, new, new) == "" and ask(member, new, former) == "tls-client-refused"


@pytest.mark.parametrize("back", ["former files", "restart of all"])
def test_ways_out_of_a_ca_exchanged_on_all_members(make_cluster: Make, back: str) -> None:
    """New connections fail on every member, until the former files are back or all members are restarted."""
    cluster = make_cluster(3, "3.6.14")
    cluster.found()
    cluster.write("before")
    former = cluster.directory / "former"
    for member in cluster.members:
        shutil.copytree(member.pki, former / member.name / "pki")
    new = another_pki(cluster)
    for member in cluster.members:
        exchange(member, new)
    assert {ask(member, new, new) for member in cluster.members} == {"tls-client-refused"}
    if back == "former files":
        for member in cluster.members:
            exchange(member, former)
    else:
        for member in cluster.members:
            member.signal(signal.SIGTERM)
        cluster.start_as_published()
    cluster.wait()
    assert cluster.agree() and cluster.values("before") == ["there"] * 3


@each_version
def test_two_cas_at_once(make_cluster: Make, version: str) -> None:
    """With both CAs in ca.crt, a member accepts clients of both: this is what a rotation relies on."""
    cluster = make_cluster(1, version)
    member = cluster[0]
    former, new = cluster.directory / "former", another_pki(cluster)
    shutil.copytree(member.pki, former / member.name / "pki")
    bundle = member.pki / "etcd" / "ca.crt"
    bundle.write_bytes(bundle.read_bytes() + (new / member.name / "pki" / "etcd" / "ca.crt").read_bytes())
    cluster.found()
    assert ask(member, former, former) == "" and ask(member, former, new) == ""


@each_version
def test_a_peer_whose_certificate_lacks_the_address_it_comes_from(make_cluster: Make, version: str) -> None:
    """Its connections are refused: etcd compares the source address. Two such members never agree."""
    cluster = make_cluster(3, version)
    cluster.found()
    stranger = next(member for member in cluster.members if not member.leads())
    donor = next(member for member in cluster.members if member is not stranger)
    stranger.signal(signal.SIGKILL)
    for end in ("crt", "key"):
        shutil.copy2(donor.pki / "etcd" / f"peer.{end}", stranger.pki / "etcd" / f"peer.{end}")
    cluster.start_as_published([stranger])
    said = f'"{ADDRESSES[stranger.name]}" does not match'
    others = [member for member in cluster.members if member is not stranger]
    wait_until(
        "nobody refuses it", lambda: any(f"tls: {said}".replace('"', '\\"') in m.log.read_text() for m in others)
    )
