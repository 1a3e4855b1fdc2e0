"""site.yml upgrades kubelet, kubeadm and etcd of real hosts by packages, in one turn each, while a client writes. A real apt, and a repository of our own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import LAB, LAB_NAME, ROOT, Lab, different
from .test_live import flat, healthy, writing

pytestmark = pytest.mark.long

OLD, NEW = "1.36.3", "1.37.2"
ETCD, NEW_ETCD = "3.6.14", "3.7.3"
PORT = 8099


def wanted(version: str = NEW, *names: str) -> tuple[str, str]:
    """The option with packages of a version."""
    packages = [f"{name}={version}-*" for name in names or ("kubelet", "kubeadm")]
    return "-e", json.dumps({"etcd_packages": packages})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three hosts of a lab of their own, and a repository that they reach."""
    it = Lab(f"{LAB_NAME}-pkgs", ["infra0", "infra1", "infra2"])
    it("up", "--hosts", "3", "--kubernetes", OLD, "--etcd", ETCD)
    repository = tmp_path_factory.mktemp("repository")
    subprocess.run([str(LAB), "packages", "--restarts", str(repository), OLD, NEW], check=True, timeout=1800)
    gateway = re.sub(r"\d+$", "1", it.addresses()["infra0"])
    argv = [sys.executable, "-m", "http.server", str(PORT), "--bind", gateway, "--directory", str(repository)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield it
        finally:
            server.terminate()
            it("down")


def prepare(lab: Lab) -> Lab:
    """A cluster whose hosts have their programs from packages, on hold, and the image that the next kubeadm chooses."""
    lab.fresh()
    gateway = re.sub(r"\d+$", "1", lab.addresses()["infra0"])
    argv = [str(LAB), "images", "--kubernetes", NEW, "--etcd", NEW_ETCD]
    printed = subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE, timeout=1800).stdout
    image = next(line for line in printed.split() if Path(line).name.startswith("etcd-"))
    for host in lab.hosts:
        lab.sh(
            host,
            "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*;"
            f" echo 'deb [trusted=yes] http://{gateway}:{PORT}/ ./' >/etc/apt/sources.list.d/lab.list;"
            f" apt-get -qq update && apt-get -qq -y install kubelet={OLD}-1.1 kubeadm={OLD}-1.1 >/dev/null 2>&1"
            " && apt-mark hold kubelet kubeadm",
        )
        command = f"podman exec -i {lab.name}-{host} ctr -n k8s.io images import - <{image}"
        subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.PIPE, timeout=300)
    lab.site(*wanted(OLD))
    return lab


def programs(lab: Lab) -> set[str]:
    """Packages, kubelets and members that run, by version, on all hosts."""
    script = (
        "dpkg-query -W -f '${Package} ${db:Status-Abbrev}${Version}\\n' kubeadm kubelet;"
        " echo running $(/proc/$(systemctl show -p MainPID --value kubelet)/exe --version | cut -d' ' -f2);"
        " ls -A /etc/kubernetes/kubeadm-etcd /var/lib | grep packages || true"
    )
    return {line.strip() for host in lab.hosts for line in lab.sh(host, script).splitlines()}


def members(lab: Lab) -> list[str]:
    """What the members run, as etcdctl tells it."""
    text = lab.etcdctl("infra0", "--endpoints", lab.endpoints(), "endpoint", "status", "-w", "json", check=False)
    return sorted(re.findall(r'"version":"([^"]+)"', text))


def in_turn(lab: Lab) -> list[str]:
    """The hosts in the order of their turns: the leader last."""
    text = lab.etcdctl("infra0", "--endpoints", lab.endpoints(), "endpoint", "status", "-w", "json")
    status = {item["Endpoint"]: item["Status"] for item in json.loads(text)}
    leads = {
        host: status[f"https://{address}:2379"]["leader"] == status[f"https://{address}:2379"]["header"]["member_id"]
        for host, address in lab.addresses().items()
    }
    return sorted(lab.hosts, key=lambda host: leads[host])


def expected(version: str) -> set[str]:
    return {f"kubeadm hi {version}-1.1", f"kubelet hi {version}-1.1", f"running v{version}"}


def test_one_minor_version_by_packages(lab: Lab) -> None:
    """What is refused before; check mode; the run; a second one."""
    prepare(lab)
    assert programs(lab) == expected(OLD)
    before, containers = lab.fingerprint(), lab.containers()
    for options, words in (
        (wanted("1.37.9"), f"the repositories of this host have {NEW}-1.1, {OLD}-1.1"),
        (wanted(NEW, "kubelet"), "have different minor versions"),
        (wanted("1.35.4"), "the repositories of this host have"),
    ):
        run = lab.play(*options)
        assert run.code != 0 and words in flat(run.output) and run.changed() == {}, run.output[-3000:]
    check = lab.site("--check", "--diff", *wanted())
    said = flat(check.output)
    assert f"kubelet: {OLD}-1.1 -> {NEW}-1.1 (it stays on hold)" in said, check.output[-6000:]
    assert f"chosen by kubeadm v{NEW}" in said
    assert different(before, lab.fingerprint()) == {} and lab.containers() == containers
    assert programs(lab) == expected(OLD)
    with writing(lab, "packages") as counted:
        run = lab.site("-v", *wanted())
    waited = [seconds for seconds in re.findall(r"waited: ([0-9.]+)", run.output) if seconds != "0.0"]
    print(
        f"kubelet and kubeadm {OLD} -> {NEW}, etcd {ETCD} -> {NEW_ETCD}: {counted}, {run.seconds:.0f} s, each member {waited} s"
    )
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
    assert programs(lab) == expected(NEW) and members(lab) == [NEW_ETCD] * 3 and healthy(lab)
    assert lab.site(*wanted()).changed() == {}
    run = lab.play(*wanted(OLD))
    assert run.code != 0 and "a run installs no older package" in flat(run.output), run.output[-3000:]


def killed_at(lab: Lab, host: str, process: str, power: bool = False) -> None:
    """A run that is killed, or a host that loses its power, when a process is seen on the host. process: a pattern that does not match itself."""
    program = str(Path(sys.executable).parent / "ansible-playbook")
    argv = [program, "site.yml", "-i", lab.inventory, *wanted()]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as run:
        lab.sh(host, f"for i in $(seq 6000); do pgrep -f '{process}' >/dev/null && exit 0; sleep 0.05; done; exit 1")
        if power:
            lab("stop", host)
        else:
            os.killpg(run.pid, signal.SIGKILL)
        state = "dpkg-query -W -f '${Package} ${db:Status-Abbrev}${Version}, ' kubeadm kubelet; apt-mark showhold"
        if power:
            lab("start", host)
        print(f"{host}, killed: {' '.join(lab.sh(host, state).split())}")
        run.wait(300)


def test_killed_while_packages_are_installed(lab: Lab) -> None:
    """The controller in the turn of one member, then the power of another host. The next run finishes both."""
    prepare(lab)
    with writing(lab, "killed") as counted:
        # infra0 has the client.
        first, second = [host for host in in_turn(lab) if host != "infra0"]
        killed_at(lab, first, "[d]pkg .*--unpack")
        killed_at(lab, second, "[a]pt-get .*--no-download", power=True)
        deadline = time.monotonic() + 120
        while not healthy(lab) and time.monotonic() < deadline:
            time.sleep(2)
        run = lab.site(*wanted())
    print(f"finished in {run.seconds:.0f} s: {counted}")
    # A leader without power does not transfer its leadership: writes wait for an election.
    assert counted["lost"] == 0 and counted["nowhere"] <= 3 and counted["gap"] < 10, counted
    assert programs(lab) == expected(NEW) and members(lab) == [NEW_ETCD] * 3 and healthy(lab)
    assert lab.site(*wanted()).changed() == {}
