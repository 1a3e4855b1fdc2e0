"""site.yml upgrades kubelet, kubeadm and etcd of real hosts by packages, in one turn each, while a client writes. A real apt, and a repository of our own.

All of it takes minutes: `make test-long`. See test_killed for KUBEADM_ETCD_SWEEP.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from .conftest import LAB, LAB_NAME, ROOT, Lab, different, etcd_archive
from .test_killed import STEP, in_parts, killed_at, tasks_of, unchanged
from .test_live import flat, healthy, writing

pytestmark = pytest.mark.long

# kubeadm and the kubelet, and the etcd that this kubeadm chooses.
CHAIN = {"1.35.4": "3.6.6", "1.36.3": "3.6.8", "1.37.2": "3.7.0"}
OLDEST, OLD, NEW = CHAIN
STEPS = list(zip(CHAIN, list(CHAIN)[1:]))
# A kill so many seconds after the first turn has begun is one in each part of each turn.
TURN, SECONDS = "Change the member, and wait for it", range(2, 92, 5)
PORT = 8099


def wanted(version: str = NEW, *names: str) -> tuple[str, str]:
    """The option with packages of a version."""
    packages = [f"{name}={version}-*" for name in names or ("kubelet", "kubeadm")]
    return "-e", json.dumps({"etcd_packages": packages})


@contextlib.contextmanager
def served(repository: Path, address: str, port: int) -> Iterator[None]:
    """A repository that hosts reach over HTTP."""
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", address, "--directory", str(repository)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three hosts of a lab of their own, and a repository that they reach."""
    it = Lab(f"{LAB_NAME}-pkgs", ["infra0", "infra1", "infra2"])
    it("up", "--hosts", "3", "--kubernetes", OLDEST, "--etcd", CHAIN[OLDEST])
    repository = tmp_path_factory.mktemp("repository")
    subprocess.run([str(LAB), "packages", "--restarts", str(repository), *CHAIN], check=True, timeout=1800)
    with served(repository, it.gateway(), PORT):
        yield it
    it("down")


def on_all(lab: Lab, script: str) -> None:
    """A script on all hosts at once."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: lab.sh(host, script), lab.hosts))


def prepare(lab: Lab, version: str = OLD) -> Lab:
    """A cluster whose hosts have their programs from packages, on hold, and the images that each kubeadm chooses."""
    lab.fresh()
    for kubernetes, etcd in list(CHAIN.items())[1:]:
        lab.import_image(etcd_archive(kubernetes, etcd))
    on_all(
        lab,
        "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*;"
        f" echo 'deb [trusted=yes] http://{lab.gateway()}:{PORT}/ ./' >/etc/apt/sources.list.d/lab.list;"
        f" apt-get -qq update && apt-get -qq -y install kubelet={version}-1.1 kubeadm={version}-1.1 >/dev/null 2>&1"
        " && apt-mark hold kubelet kubeadm",
    )
    lab.site(*wanted(version))
    return lab


def found_on(lab: Lab, packages: str) -> set[str]:
    """Packages, kubelets that run, and what a run has left, on all hosts. packages: the command that prints the packages."""
    script = (
        f"{packages}; echo running $(/proc/$(systemctl show -p MainPID --value kubelet)/exe --version | cut -d' ' -f2);"
        " ls -A /etc/kubernetes/kubeadm-etcd /var/lib | grep packages || true"
    )
    return {line.strip() for host in lab.hosts for line in lab.sh(host, script).splitlines()}


def programs(lab: Lab) -> set[str]:
    """See found_on."""
    return found_on(lab, "dpkg-query -W -f '${Package} ${db:Status-Abbrev}${Version}\\n' kubeadm kubelet")


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


def turns(log: Path) -> list[float]:
    """Seconds of each turn, by the times in a log of Ansible."""
    words = r"TASK \[.*Change the member, and wait for it|(?:changed|fatal): \["
    found = re.findall(rf"^(\S+ \S+) p=.*\| ({words})", log.read_text(encoding="utf-8"), flags=re.MULTILINE)
    times = [(datetime.fromisoformat(at.replace(",", ".")), is_task.startswith("TASK")) for at, is_task in found]
    return [
        round((after - at).total_seconds(), 1)
        for (at, is_task), (after, is_next) in zip(times, times[1:])
        if is_task and not is_next
    ]


def test_two_minor_versions_by_packages(lab: Lab, tmp_path: Path) -> None:
    """One after the other, each with the etcd that its kubeadm chooses: what is refused before; check mode; the run; a second one."""
    prepare(lab, OLDEST)
    for old, new in STEPS:
        assert programs(lab) == expected(old)
        before, containers = lab.fingerprint(), lab.containers()
        for options, words in (
            (wanted("1.37.9"), f"the repositories of this host have {NEW}-1.1, {OLD}-1.1"),
            (wanted(new, "kubelet"), "have different minor versions"),
            *([] if new == NEW else [(wanted(NEW), "Have etcd_packages install 1.36 first")]),
        ):
            run = lab.play(*options)
            assert run.code != 0 and words in flat(run.output) and run.changed() == {}, run.output[-3000:]
        check = lab.site("--check", "--diff", *wanted(new))
        said = flat(check.output)
        assert f"kubelet: {old}-1.1 -> {new}-1.1 (it stays on hold)" in said, check.output[-6000:]
        assert f"etcd: {CHAIN[old]} -> {CHAIN[new]}" in said and f"chosen by kubeadm v{new}" in said
        assert different(before, lab.fingerprint()) == {} and lab.containers() == containers
        assert programs(lab) == expected(old)
        log = tmp_path / new
        with writing(lab, f"to{new}") as counted:
            run = lab.site("-v", *wanted(new), ANSIBLE_LOG_PATH=str(log))
        print(
            f"kubelet and kubeadm {old} -> {new}, etcd {CHAIN[old]} -> {CHAIN[new]}: {counted}, {run.seconds:.0f} s,"
            f" each turn {turns(log)} s, of which etcd's restart {run.waited()} s"
        )
        assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
        assert programs(lab) == expected(new) and members(lab) == [CHAIN[new]] * 3 and healthy(lab)
        assert lab.site(*wanted(new)).changed() == {}
        run = lab.play(*wanted(old))
        assert run.code != 0 and "a run installs no older package" in flat(run.output), run.output[-3000:]


def killed_during(lab: Lab, host: str, process: str, power: bool = False) -> None:
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
        killed_during(lab, first, "[d]pkg .*--unpack")
        killed_during(lab, second, "[a]pt-get .*--no-download", power=True)
        deadline = time.monotonic() + 120
        while not healthy(lab) and time.monotonic() < deadline:
            time.sleep(2)
        run = lab.site(*wanted())
    print(f"finished in {run.seconds:.0f} s: {counted}")
    # A leader without power does not transfer its leadership: writes wait for an election.
    assert counted["lost"] == 0 and counted["nowhere"] <= 3 and counted["gap"] < 10, counted
    assert programs(lab) == expected(NEW) and members(lab) == [CHAIN[NEW]] * 3 and healthy(lab)
    assert lab.site(*wanted()).changed() == {}


@in_parts(5)
def test_killed_at_every_task(lab: Lab, tmp_path: Path, part: range) -> None:
    """All along the turns of the members, and at every task, of both steps in turn. The next run finishes it, while a client writes."""
    version, worst, nowhere, killed, finished, total = NEW, 0.0, 0, 0, 0, 200
    seconds = SECONDS[::STEP] if part.start == 1 else []
    points = [*((TURN, str(after)) for after in seconds), *((at, "") for at in tasks_of(part, total))]
    for at, after in points:
        if at != TURN and int(at) > total:
            break
        if version == NEW:
            version = OLDEST
            prepare(lab, version)
            before = lab.fingerprint(), lab.containers()
        new = dict(STEPS)[version]
        where = f"{version} -> {new}, killed at {at}{after and f' after {after} s'}"
        with writing(lab, f"sweep{killed}") as counted:
            run, begun = killed_at(lab, tmp_path, at, *wanted(new), after=after)
            killed += run.code != 0
            # Modules see that nobody waits for them any more. An observation ends first.
            for _attempt in range(10):
                time.sleep(2)
                if not any(line.startswith(".kubeadm-etcd") for line in programs(lab)):
                    break
            left = programs(lab) != expected(version) or not unchanged(lab, before)
            again = lab.play(*wanted(new)) if left else run
        print(f"{where}: {'something' if left else 'nothing'} left to finish, {counted}", flush=True)
        assert counted["lost"] == 0, (where, counted)
        worst, nowhere = max(worst, counted["gap"]), nowhere + int(counted["nowhere"])
        total = begun if run.code == 0 else total
        if not left:
            continue
        finished += 1
        assert again.code == 0, f"{where}:\n{run.output[-1500:]}\nand again:\n{again.output[-6000:]}"
        assert programs(lab) == expected(new) and members(lab) == [CHAIN[new]] * 3 and healthy(lab), where
        assert lab.site(*wanted(new)).changed() == {}, where
        version, before = new, (lab.fingerprint(), lab.containers())
    print(
        f"upgrade by packages: killed {killed} times, {finished} with something left to finish, longest gap {worst} s"
    )
    assert nowhere == 0, f"{nowhere} requests were refused by all members"
