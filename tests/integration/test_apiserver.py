"""Two control plane hosts with a real kube-apiserver each, made by phases of kubeadm, follow the membership of etcd.

The lab has no images of kube-controller-manager and kube-scheduler, so it is no whole `kubeadm init`: see INIT in test_control_plane.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Lab
from .test_control_plane import CONFIG_MAP, INIT, KUBECTL, MANIFEST, PKI, SERVERS, UPDATE, UPLOAD, WRITES, Plane
from .test_pki import meanwhile

pytestmark = pytest.mark.long

PLANES = ("infra3", "infra4")
SHARED = ("ca.crt", "ca.key", "sa.key", "sa.pub", "front-proxy-ca.crt", "front-proxy-ca.key")
REMOVE = "playbooks/remove_member.yml"


class Planes(Plane):
    """The lab with control plane hosts infra3 and infra4."""

    def ready_on(self, host: str, seconds: float = 120) -> None:
        begin = time.monotonic()
        while self.lab.sh(host, f"timeout 8 {KUBECTL} get --raw /readyz 2>&1", check=False).strip() != "ok":
            assert time.monotonic() - begin < seconds, f"kube-apiserver of {host} is not ready"
            time.sleep(1.0)

    def servers(self, host: str) -> list[str]:
        """Endpoints by the manifest, and by the process that runs."""
        manifest = self.lab.sh(host, SERVERS).strip()
        process = self.lab.sh(
            host, "tr '\\0' '\\n' < /proc/$(pgrep -xo kube-apiserver)/cmdline | grep -o 'etcd-servers=.*'"
        ).strip()
        assert manifest == process
        return sorted(manifest.split("=", 1)[1].split(","))

    def processes(self) -> list[str]:
        return [self.lab.sh(host, "stat -c '%n %Y' /proc/$(pgrep -xo kube-apiserver)") for host in PLANES]

    def module(self, host: str, arguments: str) -> str:
        """Call the module alone."""
        program = str(Path(sys.executable).parent / "ansible")
        arguments_of_module = ("-m", "kubeadm.etcd.etcd_apiserver", "-a", arguments)
        # An ad hoc command prints the host in place of a playbook.
        run = self.lab.play(
            *arguments_of_module, playbook=host, inventory=str(self.inventory), ANSIBLE_PLAYBOOK=program
        )
        return re.sub(r"\s+", " ", run.output)


@pytest.fixture(scope="module")
def planes(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planes]:
    """Two members, and a kube-apiserver on each of two further hosts; three hosts as new afterwards."""
    lab.fresh()
    text = Path(lab.inventory).read_text(encoding="utf-8")
    lab("add", "2")
    try:
        addresses = lab.addresses()
        variables = text.split("  vars:\n")[1]
        hosts = "".join(f'    {host}:\n      ansible_host: "{addresses[host]}"\n' for host in PLANES)
        inventory = tmp_path_factory.mktemp("planes") / "three.yml"
        inventory.write_text(f"{text}kube_control_plane:\n  hosts:\n{hosts}  vars:\n{variables}", encoding="utf-8")
        it = Planes(lab, inventory, addresses["infra3"])
        two = str(it.other("two", f'    infra2:\n      ansible_host: "{addresses["infra2"]}"\n', ""))
        lab.site(inventory=two)
        it.play(inventory=Path(two))
        lab("apiserver", *PLANES)
        lab.sh("infra3", INIT % addresses["infra3"])
        for name in SHARED:
            content = lab.sh("infra3", f"cat {PKI}/{name}").strip()
            lab.sh("infra4", f"umask 77; cat > {PKI}/{name} <<'EOF'\n{content}\nEOF")
        it.ready_on("infra3")
        lab.sh("infra3", UPLOAD)
        lab.sh("infra4", INIT % addresses["infra4"])
        it.ready_on("infra4")
        yield it
    finally:
        lab("remove", "2")
        lab.fresh()


def test_a_member_is_added_and_both_follow(planes: Planes) -> None:
    """The API servers restart one after the other. A client at infra3 is interrupted only by the restart of infra3."""
    addresses = planes.lab.addresses()
    urls = sorted(f"https://{addresses[host]}:2379" for host in ("infra0", "infra1", "infra2"))
    planes.lab.site(inventory=str(planes.inventory))
    said = planes.play()
    assert all(f"{host}: kube-apiserver does not use" in said for host in PLANES)
    before = planes.processes()
    planes.play("--check", *UPDATE)
    foreseen = planes.changed
    assert set(foreseen) == set(PLANES) and planes.processes() == before
    with meanwhile(planes.lab, ["infra3"], WRITES) as load:
        planes.play(*UPDATE)
    assert planes.changed == foreseen and all(one != other for one, other in zip(before, planes.processes()))
    assert [planes.servers(host) for host in PLANES] == [urls, urls]
    assert all(url in planes.sh(CONFIG_MAP) for url in urls)
    good, failed, gap = load["infra3"]
    print(f"{good} writes at infra3, {len(failed)} refused, longest gap {gap} s")
    assert good and len(planes.sh(f"{KUBECTL} get configmaps -o name").splitlines()) >= good
    after = planes.processes()
    planes.play(*UPDATE)
    assert planes.changed == {} and planes.processes() == after


def test_a_kube_apiserver_that_fails_gets_its_manifest_back(planes: Planes) -> None:
    """With an endpoint at which nothing listens. The message quotes kube-apiserver."""
    before = planes.sh(f"sha256sum {MANIFEST}; {CONFIG_MAP}")
    said = planes.module("infra3", "servers=https://192.0.2.1:2379")
    assert "The previous manifest was put back, and kube-apiserver is ready with it" in said, said
    assert "kube-apiserver: ended" in said and "context deadline exceeded" in said
    planes.ready_on("infra3", 5)
    assert planes.sh(f"sha256sum {MANIFEST}; {CONFIG_MAP}") == before
    planes.play(*UPDATE)
    assert planes.changed == {}


def test_a_control_plane_that_is_down_keeps_the_other_from_being_restarted(planes: Planes) -> None:
    addresses = planes.lab.addresses()
    planes.lab.sh("infra4", f"mv {MANIFEST} /root/kept.yaml; while pgrep -x kube-apiserver; do sleep 1; done")
    try:
        before = planes.sh(f"sha256sum {MANIFEST}")
        said = planes.module(
            "infra3", f"servers=https://{addresses['infra0']}:2379 others=https://{addresses['infra4']}:6443"
        )
        assert (
            "is not restarted while an API server is not ready" in said and planes.sh(f"sha256sum {MANIFEST}") == before
        )
    finally:
        planes.lab.sh("infra4", f"mv /root/kept.yaml {MANIFEST}")
        planes.ready_on("infra4")


def test_a_member_that_leaves_is_warned_of(planes: Planes) -> None:
    """Before it leaves, though one control plane host cannot be reached. Then both follow."""
    addresses = planes.lab.addresses()
    gone = planes.other("gone", f'    infra4:\n      ansible_host: "{addresses["infra4"]}"\n',
                        f'    infra4:\n      ansible_port: 1022\n      ansible_host: "{addresses["infra4"]}"\n')  # fmt: skip
    run = planes.lab.play("-e", "etcd_member=infra2", playbook=REMOVE, inventory=str(gone))
    said = re.sub(r"\s+", " ", run.output)
    assert run.code == 0, run.output[-4000:]
    url = f"https://{addresses['infra2']}:2379"
    warning = (
        f"infra3: kube-apiserver uses the member that leaves: {url} is in {MANIFEST} (--etcd-servers) and ConfigMap"
    )
    assert warning in said and "infra4: this host cannot be reached" in said
    assert said.index(warning) < said.index("Remove the member from the membership")
    planes.play(*UPDATE, inventory=planes.inventory.with_name("two.yml"))
    assert [url in planes.servers(host) for host in PLANES] == [False, False]
    for host in PLANES:
        planes.ready_on(host, 5)
