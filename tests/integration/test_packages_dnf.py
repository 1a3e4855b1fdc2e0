"""site.yml upgrades kubelet, kubeadm and etcd of real hosts by rpm packages, in one turn each, while a client writes. A real dnf, a repository of our own.

The hosts are those of the lab, which are Debian: they get dnf and rpm from Debian's packages, and lose apt-get. It takes minutes: `make test-long`.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import LAB, LAB_NAME, Lab, different, etcd_archive
from .test_live import flat, healthy, writing
from .test_packages import CHAIN, OLD, OLDEST, found_on, in_turn, members, on_all, served, turns, wanted

pytestmark = pytest.mark.long

# What is upgraded, to which version.
BEFORE, AFTER = OLDEST, OLD
PORT = 8098
# What the hosts get beside what the lab gives them.
DNF = ("dnf", "python3-dnf", "rpm", "rpm2cpio", "cpio")
REPOSITORY = "/etc/yum.repos.d/lab.repo"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages of rpm. Those of the kubelet restart it."""
    path = tmp_path_factory.mktemp("rpms")
    subprocess.run([str(LAB), "packages", "--rpm", "--restarts", str(path), BEFORE, AFTER], check=True, timeout=1800)
    return path


@pytest.fixture(scope="module")
def lab(repository: Path) -> Iterator[Lab]:
    """Three hosts of a lab of their own, and a repository that they reach."""
    it = Lab(f"{LAB_NAME}-rpms", ["infra0", "infra1", "infra2"])
    it("up", "--hosts", "3", "--kubernetes", BEFORE, "--etcd", CHAIN[BEFORE])
    with served(repository, it.gateway(), PORT):
        yield it
    if not os.environ.get("KUBEADM_ETCD_KEEP_LAB"):
        it("down")


@pytest.fixture(scope="module")
def debs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of Debian that a host lacks for dnf, in one archive."""
    top = tmp_path_factory.mktemp("debs")
    (top / "archives" / "partial").mkdir(parents=True)
    # The lab may be one that was kept.
    lab("wipe", "infra0")
    (top / "status").write_text(lab.sh("infra0", "cat /var/lib/dpkg/status"), encoding="utf-8")
    options = {
        "Dir::State::status": top / "status",
        "Dir::Cache::archives": top / "archives",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "root",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    subprocess.run(["apt-get", "-qq", *words, "update"], check=True, timeout=600, stdout=subprocess.DEVNULL)
    argv = ["apt-get", "-qq", "--yes", *words, "--no-install-recommends", "--download-only", "install", *DNF]
    subprocess.run(argv, check=True, timeout=900, stdout=subprocess.DEVNULL)
    archive = top / "debs.tar"
    subprocess.run(["tar", "--create", f"--file={archive}", f"--directory={top}/archives", "."], check=True)
    return archive


def prepare(lab: Lab, debs: Path) -> Lab:
    """A cluster whose hosts have their programs from packages of rpm, and the images that each kubeadm chooses."""
    lab.fresh()
    lab.import_image(etcd_archive(AFTER, CHAIN[AFTER]))
    for host in lab.hosts:
        lab.feed(host, debs, "mkdir -p /root/debs && tar -C /root/debs -xf -")
    on_all(
        lab,
        "set -e; export DEBIAN_FRONTEND=noninteractive; dpkg --install /root/debs/*.deb >/root/dpkg.log 2>&1; rm -rf /root/debs /root/dpkg.log;"
        # Debian's rpm has its database in the home directory.
        " mkdir -p /etc/rpm /etc/yum.repos.d; echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros;"
        " rm /usr/bin/apt-get /usr/bin/kubelet /usr/bin/kubeadm /usr/lib/systemd/system/kubelet.service;"
        " rm -r /usr/lib/systemd/system/kubelet.service.d;"
        # As pkgs.k8s.io has it: an exclusion keeps the packages from being upgraded by accident.
        f" printf '[lab]\\nname=lab\\nbaseurl=http://{lab.gateway()}:{PORT}/\\ngpgcheck=0\\nexclude=kubelet kubeadm\\n' >{REPOSITORY};"
        # No key is known to rpm, and dnf asks for one otherwise.
        " sed -i 's/^gpgcheck=.*/gpgcheck=0/' /etc/dnf/dnf.conf;"
        f" dnf -q -y --disableexcludes=lab install kubelet-{BEFORE} kubeadm-{BEFORE} >/dev/null 2>&1;"
        " systemctl daemon-reload; systemctl enable --now kubelet.service",
    )
    lab.site(*wanted(BEFORE))
    return lab


def programs(lab: Lab) -> set[str]:
    """See found_on."""
    return found_on(lab, "rpm -q --qf '%{NAME} %{VERSION}-%{RELEASE}\\n' kubeadm kubelet")


def expected(version: str) -> set[str]:
    return {f"kubeadm {version}-1.1", f"kubelet {version}-1.1", f"running v{version}"}


def test_a_minor_version_by_packages(lab: Lab, debs: Path, tmp_path: Path) -> None:
    """What is refused before; check mode; the run; a second one."""
    prepare(lab, debs)
    assert programs(lab) == expected(BEFORE)
    before, containers = lab.fingerprint(), lab.containers()
    for options, words in (
        (wanted("1.37.9"), f"the repositories of this host have {AFTER}-1.1, {BEFORE}-1.1"),
        (wanted(AFTER, "kubelet"), "have different minor versions"),
    ):
        run = lab.play(*options)
        assert run.code != 0 and words in flat(run.output) and run.changed() == {}, run.output[-3000:]
    check = lab.site("--check", "--diff", *wanted(AFTER))
    said = flat(check.output)
    assert f"kubelet: {BEFORE}-1.1 -> {AFTER}-1.1" in said, check.output[-6000:]
    assert f"etcd: {CHAIN[BEFORE]} -> {CHAIN[AFTER]}" in said and f"chosen by kubeadm v{AFTER}" in said
    assert different(before, lab.fingerprint()) == {} and lab.containers() == containers
    assert programs(lab) == expected(BEFORE)
    log = tmp_path / "log"
    with writing(lab, "dnf") as counted:
        run = lab.site("-v", *wanted(AFTER), ANSIBLE_LOG_PATH=str(log))
    print(
        f"kubelet and kubeadm {BEFORE} -> {AFTER} by dnf, etcd {CHAIN[BEFORE]} -> {CHAIN[AFTER]}: {counted}, {run.seconds:.0f} s,"
        f" each turn {turns(log)} s, of which etcd's restart {run.waited()} s"
    )
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
    assert programs(lab) == expected(AFTER) and members(lab) == [CHAIN[AFTER]] * 3 and healthy(lab)
    assert lab.site(*wanted(AFTER)).changed() == {}
    run = lab.play(*wanted(BEFORE))
    assert run.code != 0 and "a run installs no older package" in flat(run.output), run.output[-3000:]


def test_rpm_is_killed_in_the_middle(lab: Lab, debs: Path) -> None:
    """The database of rpm then has two versions of the kubelet. The next run finishes it. A file of a package was edited by hand."""
    prepare(lab, debs)
    drop_in = "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"
    on_all(lab, f"echo '# by hand' >>{drop_in}; systemctl daemon-reload")
    assert lab.site(*wanted(BEFORE)).changed() == {}
    # infra0 has the client.
    first = next(host for host in in_turn(lab) if host != "infra0")
    killer = "until [ $(rpm -q kubelet | wc -l) = 2 ]; do sleep 0.02; done; pkill -KILL -x dnf"
    with writing(lab, "killed") as counted:
        with ThreadPoolExecutor() as pool:
            killed = pool.submit(lab.sh, first, f"timeout 500 bash -c '{killer}'")
            run = lab.play(*wanted(AFTER))
            killed.result()
        versions = lab.sh(first, "rpm -q kubelet").split()
        assert run.code != 0 and "dnf failed" in flat(run.output) and len(versions) == 2, run.output[-3000:]
        # The script of the package may have restarted the kubelet already, which restarts etcd.
        deadline = time.monotonic() + 120
        while not healthy(lab) and time.monotonic() < deadline:
            time.sleep(2)
        assert len(members(lab)) == 3
        check = lab.site("--check", *wanted(AFTER))
        assert f"kubelet: the installation of {AFTER}-1.1 was interrupted" in flat(check.output), check.output[-3000:]
        run = lab.site(*wanted(AFTER))
    # rpm replaces a file that the package does not mark as configuration.
    assert {lab.sh(host, f"grep -c hand {drop_in} || true").strip() for host in lab.hosts} == {"0"}
    print(f"{first}, killed with {versions}, finished in {run.seconds:.0f} s: {counted}")
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
    assert programs(lab) == expected(AFTER) and members(lab) == [CHAIN[AFTER]] * 3 and healthy(lab)
    assert lab.site(*wanted(AFTER)).changed() == {}
