"""The CA's key moves to another host of a running cluster, and is copied into a safe. Checked with openssl."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Lab, Run, different
from .test_live import flat, healthy
from .test_pki import RENEW, serials
from .test_site import PKI

MOVE = "playbooks/move_ca.yml"
KEY = f"{PKI}/etcd/ca.key"
PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def found(lab: Lab) -> Iterator[Lab]:
    """A new cluster, whose key is on the first host."""
    lab.fresh()
    lab.site()
    yield lab
    # Its key may be elsewhere than other tests expect it.
    lab.fresh()


def holders(lab: Lab) -> list[str]:
    """Hosts with a ca.key; on each it belongs to ca.crt, and has the page's mode."""
    script = (
        f'[ ! -e {KEY} ] || {{ test "$(openssl x509 -in {PKI}/etcd/ca.crt -pubkey -noout)" = "$(openssl pkey -in {KEY} -pubout)"'
        f" && stat -c '%a %U:%G' {KEY}; }}"
    )
    said = {host: lab.sh(host, script).strip() for host in lab.hosts}
    assert set(said.values()) <= {"", "600 root:root"}, said
    return [host for host, text in said.items() if text]


def to(host: str) -> tuple[str, str]:
    return ("-e", f"etcd_ca_host={host}")


def refused(lab: Lab, *arguments: str, words: str, playbook: str = MOVE) -> Run:
    before = lab.fingerprint()
    run = lab.play(*arguments, playbook=playbook)
    assert run.code != 0 and words in flat(run.output), run.output[-4000:]
    assert run.changed() == {} and different(before, lab.fingerprint()) == {}
    return run


def test_the_key_moves(found: Lab) -> None:
    """Even if Ansible keeps its temporary files, the key is only in its place. The next run changes nothing."""
    refused(found, words="etcd_ca_host is not set, so infra0, the first host")
    before = found.fingerprint()
    run = found.site(*to("infra1"), "--check", "--diff", playbook=MOVE)
    assert set(run.changed()) == {"infra0", "infra1"} and different(before, found.fingerprint()) == {}
    run = found.play(*to("infra1"))
    assert run.code == 0 and run.changed() == {} and "Run move_ca.yml, which brings it to infra1" in flat(run.output)
    plain, containers = found.sh("infra0", f"sed -n 2p {KEY}").strip(), found.containers()
    kept = {"ANSIBLE_PIPELINING": "False", "ANSIBLE_KEEP_REMOTE_FILES": "1"}
    run = found.site(*to("infra1"), "-vvvv", "--diff", playbook=MOVE, **kept)
    assert run.changed() == {"infra0": 1, "infra1": 1} and holders(found) == ["infra1"]
    assert "PRIVATE KEY" not in run.output and plain not in run.output
    for host in found.hosts:
        places = "/etc /root /tmp /home /var/tmp /run"
        assert found.sh(host, f"grep -rlsF '{plain}' {places} || true").split() == ([KEY] if host == "infra1" else [])
        assert found.sh(host, "find /etc/kubernetes -name '.kubeadm-etcd*'") == ""
        found.sh(host, "rm -rf /root/.ansible")
    for path in Path("~/.ansible/tmp").expanduser().rglob("*"):
        assert not path.is_file() or plain.encode() not in path.read_bytes()
    assert found.containers() == containers
    assert found.site(*to("infra1"), playbook=MOVE).changed() == {} and found.site(*to("infra1")).changed() == {}


def test_the_new_ca_host_signs(found: Lab) -> None:
    before = serials(found)
    run = found.site(*to("infra1"), playbook=RENEW)
    after = serials(found)
    assert set(run.changed()) == set(found.hosts) and all(before[name] != after[name] for name in before)
    for host in found.hosts:
        for leaf in ("etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client"):
            assert ": OK" in found.sh(host, f"openssl verify -CAfile {PKI}/etcd/ca.crt {PKI}/{leaf}.crt")
    assert healthy(found) and holders(found) == ["infra1"]
    refused(found, playbook=RENEW, words="ca.key is on infra1, and not on the CA host infra0")


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("Write ca.key on the CA host, and prove that it signs", marks=pytest.mark.long),
        "Remove ca.key from its former host",
    ],
)
def test_killed_and_finished(found: Lab, tmp_path: Path, task: str) -> None:
    """Killed between two steps, at least one host has the key. After the next run, exactly one has it."""
    source = holders(found)[0]
    target = next(host for host in found.hosts if host != source)
    run = found.play(
        *to(target),
        playbook=MOVE,
        KILL_AT=task,
        KILL_AFTER="0",
        KILL_COUNT=str(tmp_path / "count"),
        KILL_MARKER=f"kill-{os.getpid()}",
        ANSIBLE_CALLBACK_PLUGINS=str(Path(__file__).with_name("callback")),
        ANSIBLE_CALLBACKS_ENABLED="kill_at",
    )
    assert run.code != 0
    copied = task.startswith("Remove")
    assert sorted(holders(found)) == sorted([source, *([target] if copied else [])])
    if copied:
        # Two runs with opposite aims: neither removes what the other one relies on.
        run = found.play(*to(source), playbook=MOVE)
        assert run.code != 0 and "another run is bringing the CA's key to this host" in flat(run.output)
    run = found.site(*to(target), playbook=MOVE)
    assert set(run.changed()) == ({source} if copied else {source, target}) and holders(found) == [target]
    assert found.site(*to(target)).changed() == {}


def test_a_copy_for_a_safe(found: Lab, tmp_path: Path) -> None:
    """It opens with openssl and the passphrase only, is checked by the next run, and brings a lost key back."""
    (host,) = holders(found)
    copy, vault = tmp_path / "ca-key.pem", tmp_path / "vault.yml"
    vault.write_text(json.dumps({"etcd_ca_export_passphrase": PASSPHRASE}), encoding="utf-8")
    export = (*to(host), "-e", f"etcd_ca_export={copy}")
    refused(found, *export, "-e", "etcd_ca_export_passphrase=hunter2", words="has fewer than 12 characters")
    kept = {"ANSIBLE_PIPELINING": "False", "ANSIBLE_KEEP_REMOTE_FILES": "1"}
    run = found.site(*export, "-e", f"@{vault}", "--check", playbook=MOVE)
    assert set(run.changed()) == {host} and not copy.exists()
    run = found.site(*export, "-e", f"@{vault}", "-vvvv", "--diff", playbook=MOVE, **kept)
    assert set(run.changed()) == {host} and copy.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" not in run.output and PASSPHRASE not in run.output
    for other in found.hosts:
        assert found.sh(other, f"grep -rlsF '{PASSPHRASE}' /etc /root /tmp /home /var/tmp /run || true") == ""
        found.sh(other, "rm -rf /root/.ansible")

    def opened(passphrase: str) -> str:
        command = ["openssl", "pkey", "-in", str(copy), "-passin", f"pass:{passphrase}", "-pubout"]
        return subprocess.run(command, text=True, capture_output=True, timeout=30, check=False).stdout

    assert opened(PASSPHRASE) == found.sh(host, f"openssl pkey -in {KEY} -pubout") and opened("wrong") == ""
    assert found.site(*export, "-e", f"@{vault}", playbook=MOVE).changed() == {}
    run = found.play(*export, "-e", '{"etcd_ca_export_passphrase": "another passphrase"}', playbook=MOVE)
    assert run.code != 0 and "opens with this passphrase. It is not replaced" in flat(run.output), run.output[-3000:]
    # The key is lost, with the host that had it or without.
    found.sh(host, f"rm {KEY}")
    run = refused(found, *to(host), words="the CA's key is lost: no host of cluster 'etcd' has")
    assert "The first certificate expires on 20" in flat(run.output)
    run = found.site(*to(host))
    assert run.changed() == {} and "the CA's key is lost" in flat(run.output)
    cert = tmp_path / "ca.crt"
    cert.write_text(found.sh(host, f"cat {PKI}/etcd/ca.crt"), encoding="utf-8")
    own = {"etcd_ca_cert": str(cert), "etcd_ca_key": str(copy), "etcd_ca_key_passphrase": PASSPHRASE}
    back = (*to("infra2"), "-e", json.dumps(own))
    assert set(found.site(*back).changed()) == {"infra2"} and holders(found) == ["infra2"]
    run = found.site(*back)
    assert run.changed() == {} and "was renewed after etcd started" not in flat(run.output)
    assert healthy(found)
