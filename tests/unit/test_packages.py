"""Packages: values of the variable, output of package managers, the chosen version, and the installation in a turn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import packages as _packages
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.packages import (
    Apt,
    Change,
    Dnf,
    Installed,
    Manager,
    Staged,
    changes_of,
    choose,
    complaints_in,
    dpkg_installed,
    madison_versions,
    needed,
    rpm_installed,
    rpm_versions,
    simulated,
    staged,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import NOT_FOUND, TIMED_OUT, Done, run_apart
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.packages import (
    WantedPackage,
    packages_problems,
    parse_packages,
    program_version_of,
)

WANTED = parse_packages(["kubelet=1.37.2-*", "kubeadm=1.37.2-*"])
OLD, NEW = "1.36.3-1.1", "1.37.2-1.1"


@pytest.mark.parametrize(
    ("pattern", "version", "admitted"),
    [
        ("1.37.2-*", "1.37.2-1.1", True),
        ("1.37.2-*", "1.37.20-1.1", False),
        ("1.37.2", "1.37.2-1.1", True),
        ("1.37.2", "1.37.2", True),
        ("1.37.2", "1.37.20-1.1", False),
        ("1.37.2-1.1", "1.37.2-1.2", False),
        ("1.37.*", "1.37.2-1.1", True),
        ("1.37.2-*", "0:1.37.2-150500.1.1", True),
        ("0:1.37.2-*", "0:1.37.2-150500.1.1", True),
        ("*", "1.36.3-1.1", True),
    ],
)
def test_a_version_is_the_wanted_one(pattern: str, version: str, admitted: bool) -> None:
    assert WantedPackage("kubelet", pattern).admits(version) is admitted


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], []),
        (["kubelet=1.37.2-*", "kubeadm=1.37.2-1.1", "cri-tools=*", "libstdc++6=1:2.0~rc1"], []),
        ("kubelet=1.37.2-*", ["is not a list"]),
        ({"kubelet": "1.37.2"}, ["is not a list"]),
        (["kubelet"], ["'kubelet', which is not NAME=VERSION"]),
        (["kubelet-1.37.2"], ["not NAME=VERSION"]),
        ([{"name": "kubelet"}], ["not NAME=VERSION"]),
        (["--purge=1"], ["not NAME=VERSION"]),
        (["kubelet=-1"], ["not NAME=VERSION"]),
        (["kubelet=1.37.2 "], ["not NAME=VERSION"]),
        (["kubelet="], ["not NAME=VERSION"]),
        (["kubelet=1.37.2", "kubelet=1.36.3"], ["names kubelet more than once"]),
    ],
)
def test_values_of_etcd_packages(value: Any, words: list[str]) -> None:
    problems = packages_problems("etcd_packages", value)
    assert len(problems) == len(words)
    for problem, word in zip(problems, words):
        assert problem.startswith("etcd_packages ") and word in problem


@pytest.mark.parametrize(
    ("version", "program"),
    [
        ("1.37.2-1.1", "v1.37.2"),
        ("0:1.37.2-150500.1.1", "v1.37.2"),
        ("1.37.2", "v1.37.2"),
        ("1.37.2+k3s1-1", "v1.37.2"),
        ("1.37.2.3-1", None),
        ("20200601", None),
    ],
)
def test_the_version_of_a_program_by_that_of_its_package(version: str, program: str | None) -> None:
    assert program_version_of(version) == program


def test_what_dpkg_prints() -> None:
    """Recorded with dpkg 1.21: on hold, unpacked only, half installed, removed but for its configuration, never installed."""
    text = "hi \tkubeadm\t1.36.3-1.1\nii \tkubectl\t1.36.3-1.1\niU \tkubelet\t1.37.2-1.1\niHR\tcri-tools\t1.36.0-1.1\nrc \tetcd\t3.4\nun \tnode\t\n"
    assert dpkg_installed(text) == {
        "kubeadm": Installed(OLD, held=True),
        "kubectl": Installed(OLD),
        "kubelet": Installed(NEW, whole=False),
        "cri-tools": Installed("1.36.0-1.1", whole=False),
    }


def test_what_rpm_prints() -> None:
    text = "kubelet\t0:1.37.2-150500.1.1\nkubelet\t0:1.36.3-150500.1.1\npackage nothere is not installed\nkubeadm\t0:1.36.3-150500.1.1\n"
    text += "libc\t0:2.40-1\nlibc\t0:2.40-1\n"
    assert rpm_installed(text) == {
        "kubelet": Installed("1.37.2-150500.1.1", whole=False),
        "kubeadm": Installed("1.36.3-150500.1.1"),
        "libc": Installed("2.40-1"),
    }
    text = "kubelet\t0:1.36.3-1\tx86_64\n\nkubelet\t0:1.37.2-1\tx86_64\nkubeadm\t1:1.37.2-1\tx86_64\n"
    assert rpm_versions(text, "kubelet") == [
        "1.36.3-1",
        "1.37.2-1",
    ]
    assert rpm_versions("kubeadm\t1:1.37.2-1\n", "kubeadm") == ["1:1.37.2-1"]


def test_what_apt_prints() -> None:
    """Recorded with apt 2.6."""
    madison = "   kubelet | 1.37.2-1.1 | copy:/repo ./ Packages\n   kubelet | 1.36.3-1.1 | copy:/repo ./ Packages\n kubeadm | 1.35.0-1.1 | x\n"
    assert madison_versions(madison, "kubelet") == [NEW, OLD]
    text = (
        "The following held packages will be changed:\n  kubelet\nRemv kubelet-old [1.2-1]\nInst cri-tools (1.37.0-1.1 localhost [amd64])\n"
        "Inst kubelet [1.36.3-1.1] (1.37.2-1.1 localhost [amd64])\nConf kubelet (1.37.2-1.1 localhost [amd64])\n"
    )
    assert simulated(text) == (
        [
            Change("cri-tools", "", "1.37.0-1.1", is_wanted=False),
            Change("kubelet", OLD, NEW, is_wanted=False),
        ],
        ["kubelet-old"],
    )
    assert complaints_in("Reading package lists...\nE: Version '1.39' for 'kubelet' was not found\n") == (
        "E: Version '1.39' for 'kubelet' was not found"
    )


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({}, ["kubelet", "kubeadm"]),
        ({"kubelet": Installed(NEW), "kubeadm": Installed(NEW, held=True)}, []),
        ({"kubelet": Installed(NEW, whole=False), "kubeadm": Installed(NEW)}, ["kubelet"]),
        ({"kubelet": Installed(NEW), "kubeadm": Installed(OLD)}, ["kubeadm"]),
    ],
)
def test_which_packages_are_not_as_wanted(installed: dict[str, Installed], expected: list[str]) -> None:
    assert [package.name for package in needed(WANTED, installed)] == expected


@pytest.mark.parametrize(
    ("installed", "candidates", "expected"),
    [
        (None, [NEW], NEW),
        (Installed(OLD), ["1.37.2-1.2", NEW], "1.37.2-1.2"),
        # An interrupted installation is finished with its version.
        (Installed(NEW, whole=False), ["1.37.2-1.2", NEW], NEW),
        (Installed(OLD), [], ""),
    ],
)
def test_which_version_is_chosen(installed: Installed | None, candidates: list[str], expected: str) -> None:
    assert choose(WANTED[0], installed, candidates) == expected


class FakeManager(Manager):
    """A package manager whose repository has versions of both packages, and what was done with it."""

    name = "apt"

    def __init__(self, *versions: str, fresh: Iterable[str] = (), **installed: Installed) -> None:
        self.versions, self.fresh, self.present = list(versions), list(fresh), installed
        self.did: list[str] = []
        self.fails: list[str] = []
        self.extra: list[Change] = []
        self.has_kubeadm = True

    def _do(self, act: str) -> None:
        self.did.append(act)
        if act in self.fails:
            self.fails.remove(act)
            raise EtcdError(f"{act} failed")

    def installed(self, names: Iterable[str]) -> dict[str, Installed]:
        return {name: self.present[name] for name in names if name in self.present}

    def candidates(self, package: WantedPackage, scratch: str) -> list[str]:  # noqa: ARG002
        return [version for version in self.versions if package.admits(version)]

    def refresh(self, scratch: str) -> str:  # noqa: ARG002
        self.did.append("refresh")
        self.versions += [version for version in self.fresh if version not in self.versions]
        return "" if self.fresh else "W: Failed to fetch http://repo/"

    def is_older(self, version: str, other: str) -> bool:
        return version < other

    def companions(self, changes: list[Change], scratch: str) -> list[Change]:  # noqa: ARG002
        return self.extra

    def fetch(self, changes: Iterable[Change], scratch: str) -> None:  # noqa: ARG002
        self._do(f"fetch {' '.join(change.name for change in changes)}")

    def file_of(self, change: Change, scratch: str) -> str:
        self._do(f"file of {change.name}")
        return os.path.join(scratch, "kubeadm.deb")

    def unpack(self, path: str, target: str) -> Done:  # noqa: ARG002
        if self.has_kubeadm:
            program = Path(target) / "usr" / "bin" / "kubeadm"
            program.parent.mkdir(parents=True)
            program.write_text("")
        return Done(0, "", "")

    def install(self, changes: Iterable[Change], scratch: str) -> None:  # noqa: ARG002
        names = [change.name for change in changes]
        for name in names:
            self.present[name] = Installed(NEW, held=False)
        self._do(f"install {' '.join(names)}")

    def hold(self, names: Iterable[str]) -> None:
        self.did.append(f"hold {' '.join(names)}")
        for name in names:
            self.present[name] = Installed(self.present[name].version, held=True)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Our directory, which also gets downloaded packages."""
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(_packages, "DIRECTORY", str(tmp_path / "work" / "packages"))
    return str(tmp_path / "work")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeManager:
    """A host whose packages are on hold and one minor version behind."""
    manager = FakeManager(NEW, OLD, kubelet=Installed(OLD, held=True), kubeadm=Installed(OLD, held=True))
    monkeypatch.setattr(_packages, "find_manager", lambda: manager)
    monkeypatch.setattr(_packages, "replace_file", lambda path, data, _mode: Path(path).write_bytes(data) and None)
    return manager


def test_changes_of_a_host() -> None:
    manager = FakeManager(NEW, OLD)
    installed = {"kubelet": Installed(OLD, held=True)}
    changes = changes_of(manager, WANTED, installed, "")
    assert changes == [Change("kubelet", OLD, NEW, held=True), Change("kubeadm", "", NEW)]
    assert [change.reason.text for change in changes] == [
        "kubelet: 1.36.3-1.1 -> 1.37.2-1.1 (it stays on hold)",
        "kubeadm: none -> 1.37.2-1.1",
    ]
    assert manager.did == []
    interrupted = Change("kubelet", NEW, NEW).reason
    assert (interrupted.code, interrupted.restarts) == ("interrupted", False)


def test_lists_are_read_anew_if_a_version_is_unknown() -> None:
    manager = FakeManager(OLD, fresh=[NEW])
    assert {change.after for change in changes_of(manager, WANTED, {}, "")} == {NEW}
    assert manager.did == ["refresh"]


def test_a_version_that_no_repository_has() -> None:
    with pytest.raises(EtcdError) as caught:
        changes_of(FakeManager(OLD), WANTED, {}, "")
    assert len(caught.value.texts) == 2
    assert "kubelet=1.37.2-*, and the repositories of this host have 1.36.3-1.1" in caught.value.texts[0]
    assert "apt said: W: Failed to fetch" in caught.value.texts[0]
    with pytest.raises(EtcdError, match=r"have no package of this name"):
        changes_of(FakeManager(), WANTED, {}, "")


def test_no_package_is_replaced_by_an_older_one() -> None:
    with pytest.raises(EtcdError, match=r"1.38.0-1.1 is installed: a run installs no older package"):
        changes_of(FakeManager(NEW), WANTED[:1], {"kubelet": Installed("1.38.0-1.1")}, "")


def test_nothing_is_wanted(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packages, "find_manager", lambda: pytest.fail("the host is not asked"))
    with staged((), work, fetches=True) as found:
        assert found == Staged() and not found.is_due and found.kubeadm == "kubeadm"


def test_a_host_without_a_package_manager(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packages, "find_manager", lambda: None)
    with pytest.raises(EtcdError, match=r"neither apt nor dnf"), staged(WANTED, work, fetches=False):
        pass


def test_all_is_as_wanted(host: FakeManager, work: str) -> None:
    host.present = {name: Installed(NEW) for name in ("kubelet", "kubeadm")}
    with staged(WANTED, work, fetches=True) as found:
        assert not found.is_due and found.reasons == []
    assert host.did == [] and os.listdir(work) == []


def test_an_observation_leaves_no_files(host: FakeManager, work: str) -> None:
    """It downloads only the package of the new kubeadm, and removes it again."""
    with staged(WANTED, work, fetches=False) as found:
        assert os.path.isfile(found.kubeadm) and found.kubeadm.startswith(work)
        assert found.versions == {"kubelet": "v1.37.2", "kubeadm": "v1.37.2"}
        assert [reason.code for reason in found.reasons] == ["version", "version"]
    assert host.did == ["file of kubeadm"] and os.listdir(work) == []
    assert host.present["kubelet"].version == OLD


def test_an_observation_of_a_fresh_host(host: FakeManager, work: str) -> None:
    """It does not create our directory."""
    host.present = {}
    with staged(WANTED, os.path.join(work, "kubernetes", "kubeadm-etcd"), fetches=False) as found:
        assert found.changes[0].before == ""
    assert os.listdir(work) == []


def test_what_an_observation_has_left_is_removed(host: FakeManager, work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a turn, also if all packages are as wanted. One that is young may be in use, and one may vanish meanwhile."""
    old, young, gone = (Path(work) / f".packages-{name}" for name in ("old", "young", "gone"))
    for path in (old, young):
        path.mkdir()
    os.utime(old, (0, 0))
    seen = _packages.glob.glob
    monkeypatch.setattr(
        _packages.glob, "glob", lambda pattern: [*seen(pattern), *([str(gone)] if ".packages" in pattern else [])]
    )
    with staged(WANTED, work, fetches=False):
        assert old.exists()
    with staged(WANTED, work, fetches=True) as found:
        _packages.install(found, work)
    assert not old.exists() and young.exists()
    old.mkdir()
    os.utime(old, (0, 0))
    with staged(WANTED, work, fetches=True) as found:
        assert [reason.text for reason in found.reasons] == [f"{old}: left behind by a run that was killed"]
        _packages.install(found, work)
    assert not old.exists() and young.exists()


def test_a_turn_fetches_first_and_installs_what_it_has_fetched(host: FakeManager, work: str) -> None:
    with staged(WANTED, work, fetches=True) as found:
        assert host.did == ["fetch kubelet kubeadm", "file of kubeadm"]
        _packages.install(found, work)
    assert host.did[2:] == ["install kubelet kubeadm", "hold kubelet kubeadm"]
    assert os.listdir(work) == []
    assert host.present == {name: Installed(NEW, held=True) for name in ("kubelet", "kubeadm")}


def test_what_comes_along_is_shown_and_not_asked_for(host: FakeManager, work: str) -> None:
    host.extra = [Change("cri-tools", "", "1.37.0-1.1", is_wanted=False)]
    with staged(WANTED, work, fetches=True) as found:
        assert found.reasons[-1].text == "cri-tools: none -> 1.37.0-1.1 (another one needs it)"
        _packages.install(found, work)
    assert "install kubelet kubeadm" in host.did


def test_lists_that_are_out_of_date_are_read_anew(host: FakeManager, work: str) -> None:
    host.fails = ["fetch kubelet kubeadm"]
    with staged(WANTED, work, fetches=True):
        pass
    assert host.did[:3] == ["fetch kubelet kubeadm", "refresh", "fetch kubelet kubeadm"]


def test_a_package_without_kubeadm(host: FakeManager, work: str) -> None:
    host.has_kubeadm = False
    with pytest.raises(EtcdError, match=r"kubeadm 1.37.2-1.1 cannot be looked into: it has no usr/bin/kubeadm"), staged(
        WANTED, work, fetches=False
    ):
        pass


def test_lists_and_programs_of_a_killed_run_are_not_used(host: FakeManager, work: str) -> None:
    """An installation that still runs may read its packages."""
    for name in ("lists", "kubeadm-old", "archives"):
        (Path(work) / "packages" / name).mkdir(parents=True)
    with staged(WANTED, work, fetches=True):
        left = os.listdir(os.path.join(work, "packages"))
        assert "archives" in left and "lists" not in left and "kubeadm-old" not in left


@pytest.mark.parametrize("kubeadm", [Installed(NEW), Installed(NEW, whole=False)])
def test_a_kubeadm_that_is_there_already_is_the_one_that_is_asked(
    host: FakeManager, work: str, kubeadm: Installed
) -> None:
    host.present["kubeadm"] = kubeadm
    with staged(WANTED, work, fetches=False) as found:
        assert found.kubeadm == "kubeadm" and found.versions["kubelet"] == "v1.37.2"
    assert host.did == []


def test_a_failed_installation_keeps_the_hold(host: FakeManager, work: str) -> None:
    host.fails = ["install kubelet kubeadm"]
    with pytest.raises(EtcdError, match=r"install kubelet kubeadm failed"), staged(WANTED, work, fetches=True) as found:
        _packages.install(found, work)
    assert host.present["kubelet"].held


def test_a_hold_that_a_killed_run_has_lost(host: FakeManager, work: str) -> None:
    """Killed between the installation and the hold: the next run finds all packages as wanted, and a note."""

    def is_killed(_names: Iterable[str]) -> None:
        raise KeyboardInterrupt

    with staged(WANTED, work, fetches=True) as found:
        host.hold = is_killed  # type: ignore[method-assign]
        with contextlib.suppress(KeyboardInterrupt):
            _packages.install(found, work)
    del host.hold
    assert not host.present["kubelet"].held
    with staged(WANTED, work, fetches=False) as found:
        assert [reason.code for reason in found.reasons] == ["hold", "hold", "left-behind"] and not found.changes
    with staged(WANTED, work, fetches=True) as found:
        _packages.install(found, work)
    assert host.present["kubelet"].held and host.did[-1] == "hold kubelet kubeadm" and os.listdir(work) == []
    with staged(WANTED, work, fetches=True) as found:
        assert not found.is_due


def test_a_hold_of_a_package_that_is_not_wanted_any_more(host: FakeManager, work: str) -> None:
    """The list was changed after a run that was killed."""
    host.present = {name: Installed(NEW) for name in ("kubelet", "kubeadm", "kubectl")}
    (Path(work) / _packages.HELD).write_text("kubectl\n")
    with staged(WANTED, work, fetches=True) as found:
        assert [reason.text for reason in found.reasons] == ["kubectl: on hold again, after a run that was killed"]
        _packages.install(found, work)
    assert host.present["kubectl"].held and os.listdir(work) == []


class Shell:
    """Simulated programs: their output by words of the command line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.argvs: list[list[str]] = []
        self.answers: dict[str, Done] = {}
        self.environments: list[Any] = []
        self.directories: list[Any] = []
        monkeypatch.setattr(_packages, "run", self.run)
        monkeypatch.setattr(_packages, "run_apart", self.run_apart)

    def run(self, argv: list[str], _timeout: float, **options: Any) -> Done:
        self.argvs.append(argv)
        self.environments.append(options.get("environment"))
        self.directories.append(options.get("directory"))
        found = (answer for words, answer in self.answers.items() if set(words.split()) <= {argv[0], *argv})
        return next(found, Done(0, "", ""))

    def run_apart(self, argv: list[str], timeout: float, _output: str, environment: Any = None) -> Done:
        return self.run(argv, timeout, environment=environment)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(monkeypatch)


CHANGES = [Change("kubelet", OLD, NEW), Change("kubeadm", OLD, NEW)]


def test_apt_installs_without_a_question_and_removes_nothing(shell: Shell, tmp_path: Path) -> None:
    Apt().install(CHANGES, str(tmp_path))
    (install,) = shell.argvs
    for word in ("--yes", "--no-download", "--no-remove", "--allow-change-held-packages", "kubelet=1.37.2-1.1"):
        assert word in install
    assert "--allow-downgrades" not in install and "DPkg::Options::=--force-confold" in install
    assert shell.environments[0]["DEBIAN_FRONTEND"] == "noninteractive"


def test_each_command_of_apt(shell: Shell, tmp_path: Path) -> None:
    apt, scratch = Apt(), str(tmp_path)
    options = ["-q"]
    for value in (
        f"Dir::Cache={scratch}",
        f"Dir::Cache::Archives={scratch}/archives",
        "APT::Sandbox::User=root",
        "DPkg::Lock::Timeout=120",
        "Acquire::Retries=2",
    ):
        options += ["-o", value]
    asked = ["--yes", "--allow-change-held-packages", "install", f"kubelet={NEW}", f"kubeadm={NEW}"]
    apt.companions(CHANGES, scratch)
    assert (tmp_path / "archives" / "partial").is_dir(), "apt makes no such directory"
    apt.fetch(CHANGES, scratch)
    with pytest.raises(EtcdError, match=r"apt cannot fetch kubelet"):
        apt.file_of(CHANGES[0], scratch)
    apt.hold(["kubelet", "kubeadm"])
    apt.unpack("kubeadm.deb", "target")
    assert shell.argvs == [
        ["apt-get", *options, "--simulate", *asked],
        ["apt-get", *options, "-o", "Debug::NoLocking=true", "--download-only", *asked],
        ["apt-get", *options, "download", f"kubelet={NEW}"],
        ["apt-mark", "hold", "kubelet", "kubeadm"],
        ["dpkg-deb", "--extract", "kubeadm.deb", "target"],
    ]
    assert shell.directories[2] == f"{scratch}/archives"


def test_apt_fetches_into_our_directory_without_the_lock(shell: Shell, tmp_path: Path) -> None:
    Apt().fetch(CHANGES, str(tmp_path))
    (argv,) = shell.argvs
    assert f"Dir::Cache::Archives={tmp_path}/archives" in argv and "--download-only" in argv
    assert "Debug::NoLocking=true" in argv and not [word for word in argv if word.startswith("Dir::State::Lists")]
    Apt().refresh(str(tmp_path))
    Apt().fetch(CHANGES, str(tmp_path))
    assert f"Dir::State::Lists={tmp_path}/lists" in shell.argvs[-1]


def test_what_apt_would_remove_is_refused(shell: Shell, tmp_path: Path) -> None:
    shell.answers["apt-get --simulate"] = Done(0, "Remv kubelet-old [1.2]\n", "")
    with pytest.raises(EtcdError, match=r"apt would remove kubelet-old to install kubelet 1.37.2-1.1, kubeadm"):
        Apt().companions(CHANGES, str(tmp_path))
    shell.answers["apt-get --simulate"] = Done(100, "", "E: Unable to correct problems\n")
    with pytest.raises(EtcdError, match=r"cannot install .*: E: Unable to correct problems"):
        Apt().companions(CHANGES, str(tmp_path))
    # Recorded with apt 2.6: the other package is on hold.
    unmet = "The following packages have unmet dependencies:\n kubelet : Depends: kubernetes-cni (>= 1.8) but 1.7 is to be installed\n"
    shell.answers["apt-get --simulate"] = Done(
        100, unmet, "E: Unable to correct problems, you have held broken packages.\n"
    )
    said = r"kubelet : Depends: kubernetes-cni \(>= 1.8\) but 1.7 is to be installed. E: Unable .* packages. Add packages that are on hold"
    with pytest.raises(EtcdError, match=said):
        Apt().companions(CHANGES, str(tmp_path))
    text = f"Inst kubelet [{OLD}] ({NEW} x)\nInst cri-tools (1.37.0-1.1 x)\n"
    shell.answers["apt-get --simulate"] = Done(0, text, "")
    assert [change.name for change in Apt().companions(CHANGES, str(tmp_path))] == ["cri-tools"]


def test_what_apt_says_of_a_failure(shell: Shell, tmp_path: Path) -> None:
    apt = Apt()
    shell.answers["apt-get"] = Done(100, "", "E: Failed to fetch http://repo/kubelet.deb\n")
    for act in (lambda: apt.fetch(CHANGES, str(tmp_path)), lambda: apt.file_of(CHANGES[0], str(tmp_path))):
        with pytest.raises(EtcdError, match=r"apt cannot fetch kubelet 1.37.2-1.1.*: E: Failed to fetch"):
            act()
    assert apt.refresh(str(tmp_path)).startswith("E: Failed to fetch")
    shell.answers["apt-get"] = Done(TIMED_OUT, "", "did not end within 600 s, and goes on")
    with pytest.raises(EtcdError, match=r"apt did not end within 600 s, and goes on while it installed kubelet"):
        apt.install(CHANGES, str(tmp_path))
    shell.answers["apt-get"] = Done(100, "dpkg: error processing package kubelet (--configure):\n", "")
    with pytest.raises(EtcdError, match=r"apt failed \(exit code 100\) .*: dpkg: error processing package kubelet"):
        apt.install(CHANGES, str(tmp_path))
    shell.answers["apt-mark"] = Done(1, "", "E: lock\n")
    with pytest.raises(EtcdError, match=r"kubelet could not be put on hold again: E: lock"):
        apt.hold(["kubelet"])


@pytest.mark.parametrize(("journal", "programs"), [(["0001"], ["apt-get", "dpkg", "apt-get"]), ([], ["apt-get"])])
def test_what_dpkg_has_left_is_configured_first(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: list[str], programs: list[str]
) -> None:
    """apt says that dpkg was interrupted, and does nothing."""
    (tmp_path / "updates").mkdir()
    for name in journal:
        (tmp_path / "updates" / name).write_text("")
    monkeypatch.setattr(_packages, "_DPKG_JOURNAL", str(tmp_path / "updates"))
    shell.answers["apt-get"] = Done(100, "E: dpkg was interrupted\n", "")
    with pytest.raises(EtcdError, match=r"E: dpkg was interrupted"):
        Apt().install(CHANGES, str(tmp_path))
    assert [argv[0] for argv in shell.argvs] == programs


def test_apt_asks_what_there_is(shell: Shell, tmp_path: Path) -> None:
    shell.answers["apt-cache madison"] = Done(0, "kubelet | 1.37.2-1.1 | x\nkubelet | 1.36.3-1.1 | x\n", "")
    shell.answers["dpkg-query"] = Done(1, f"ii \tkubelet\t{OLD}\n", "dpkg-query: no packages found matching kubeadm")
    assert Apt().candidates(WANTED[0], str(tmp_path)) == [NEW]
    assert Apt().installed(["kubelet", "kubeadm"]) == {"kubelet": Installed(OLD)}
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "kubelet_1%3a2-1_amd64.deb").write_text("")
    assert Apt().file_of(Change("kubelet", "", "1:2-1"), str(tmp_path)).endswith("kubelet_1%3a2-1_amd64.deb")


DNF4 = ["--disableexcludes=all", "--disableplugin=versionlock"]


@pytest.fixture
def dnf() -> Dnf:
    """dnf 4."""
    return Dnf("dnf")


def test_dnf_ignores_exclusions_once(shell: Shell, dnf: Dnf, tmp_path: Path) -> None:
    """What is fetched and tested is installed without the network, by its name: dnf does not check signatures of files."""
    dnf.fetch(CHANGES, str(tmp_path))
    dnf.install(CHANGES, str(tmp_path))
    begin = ["dnf", "--assumeyes", f"--setopt=cachedir={tmp_path}/cache", "--setopt=strict=1", *DNF4, "install"]
    asked = [f"--setopt=destdir={dnf.fetched}/install", "--setopt=keepcache=1", f"kubelet-{NEW}", f"kubeadm-{NEW}"]
    assert shell.argvs == [
        [*begin, "--downloadonly", *asked],
        [*begin, "--cacheonly", "--setopt=tsflags=test", *asked],
        [*begin, "--cacheonly", *asked],
    ]
    (Path(dnf.fetched) / "install").mkdir()
    path = Path(dnf.fetched) / "install" / f"kubeadm-{NEW}.x86_64.rpm"
    path.write_text("")
    assert dnf.file_of(CHANGES[1], str(tmp_path)) == str(path) and dnf.fetched.startswith(str(tmp_path))
    dnf.hold(["kubelet"])
    assert len(shell.argvs) == 3, "a version lock is not lost"


def test_dnf5_has_other_options(shell: Shell, tmp_path: Path) -> None:
    """Often dnf5 has the name of dnf 4. It refuses what it does not know, and options of a command before the command."""
    (tmp_path / "dnf5").write_text("")
    (tmp_path / "dnf").symlink_to("dnf5")
    dnf = Dnf(str(tmp_path / "dnf"))
    assert dnf.is_dnf5
    dnf.fetch(CHANGES[:1], str(tmp_path))
    options = ["cachedir=" + f"{tmp_path}/cache", "skip_broken=0", "skip_unavailable=0", "disable_excludes=*"]
    begin = [f"{tmp_path}/dnf", "--assumeyes", *(f"--setopt={option}" for option in options)]
    asked = [f"--setopt=destdir={dnf.fetched}/install", "--setopt=keepcache=1", f"kubelet-{NEW}"]
    assert shell.argvs[0] == [*begin, "install", "--downloadonly", *asked]


def test_dnf_reinstalls_what_is_there_twice(shell: Shell, dnf: Dnf, tmp_path: Path) -> None:
    """After rpm was killed, "install" has nothing to do, and both versions stay."""
    changes = [Change("kubelet", NEW, NEW), Change("kubeadm", OLD, NEW)]
    dnf.fetch(changes, str(tmp_path))
    dnf.install(changes, str(tmp_path))
    said = [(argv[6], argv[-1]) for argv in shell.argvs]
    first, second = ("install", f"kubeadm-{NEW}"), ("reinstall", f"kubelet-{NEW}")
    assert said == [first, first, second, second, first, second]
    assert dnf.companions(changes[:1], str(tmp_path)) == [] and len(shell.argvs) == 6


TABLE4 = """Last metadata expiration check: 0:00:03 ago on Sat Nov 28 08:37:42 2026.
Dependencies resolved.
================================================================================
 Package                 Architecture    Version              Repository   Size
================================================================================
Upgrading:
 kubelet                 x86_64          1.37.2-1.1           t1          6.0 k
     replacing  kubelet-extras.x86_64 1.0-1
 kubernetes-cni          x86_64          2:1.8.0-1            t1          6.0 k
Installing dependencies:
 a-package-with-a-name-that-needs-a-line-of-its-own
                         noarch          1.0-1                t1          6.0 k
Skipping packages with broken dependencies:
 left-out                noarch          1.0-1                t1          6.0 k

Transaction Summary
================================================================================
Upgrade  2 Packages
"""
TABLE5 = """Package                     Arch   Version             Repository        Size
Upgrading:
 kubelet                    x86_64 0:1.37.2-1.1        t1            30.0   B
   replacing kubelet        x86_64 0:1.36.3-1.1        @commandline  30.0   B
   replacing kubelet-extras x86_64 0:1.0-1             <unknown>     34.0   B
Removing:
 gone                       x86_64 0:1.0-1             <unknown>     34.0   B

Transaction Summary:
 Upgrading:          1 package
"""


def test_the_table_of_dnf() -> None:
    """Recorded with dnf 4.14 and 5.4."""
    long = "a-package-with-a-name-that-needs-a-line-of-its-own"
    versions = {"kubelet": NEW, "kubernetes-cni": "2:1.8.0-1", long: "1.0-1"}
    assert _packages.dnf_transaction(TABLE4) == (versions, ["kubelet-extras"])
    assert _packages.dnf_transaction(TABLE5) == ({"kubelet": NEW}, ["kubelet", "kubelet-extras", "gone"])
    assert _packages.dnf_transaction("Nothing to do.\n") == ({}, [])


def test_what_dnf_would_remove_is_refused(shell: Shell, dnf: Dnf, tmp_path: Path) -> None:
    shell.answers["dnf --assumeno"] = Done(1, TABLE5, "Operation aborted by the user.")
    with pytest.raises(EtcdError, match=r"dnf would remove kubelet-extras, gone to install kubelet 1.37.2-1.1"):
        dnf.companions(CHANGES[:1], str(tmp_path))
    with pytest.raises(EtcdError, match=r"dnf cannot install kubelet .*, kubeadm"):
        dnf.companions(CHANGES, str(tmp_path))
    # Recorded with dnf 4.14.
    conflict = (
        "Error: \n Problem: conflicting requests\n  - nothing provides that needed by kubelet-1.37.2-1.1.x86_64\n"
    )
    shell.answers["dnf --assumeno"] = Done(1, "(try to add '--skip-broken')\n", conflict)
    with pytest.raises(EtcdError, match=r"cannot install kubelet .*: Error: Problem: conflicting requests - nothing"):
        dnf.companions(CHANGES[:1], str(tmp_path))
    shell.answers["dnf --assumeno"] = Done(1, TABLE4.replace("     replacing  kubelet-extras.x86_64 1.0-1\n", ""), "")
    shell.answers["rpm --query"] = Done(0, "kubernetes-cni\t2:1.7.0-1\n", "")
    found = dnf.companions(CHANGES[:1], str(tmp_path))
    assert [change.text for change in found] == [
        "kubernetes-cni: 2:1.7.0-1 -> 2:1.8.0-1",
        "a-package-with-a-name-that-needs-a-line-of-its-own: none -> 1.0-1",
    ]
    assert not any(change.is_wanted for change in found)


def test_dnf_and_rpm_are_asked(shell: Shell, dnf: Dnf, tmp_path: Path) -> None:
    form = "%{NAME}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n"
    shell.answers["rpm --query"] = Done(0, "kubelet\t0:1.36.3-1\n", "")
    assert dnf.installed(["kubelet"]) == {"kubelet": Installed("1.36.3-1")}
    assert shell.argvs == [["rpm", "--query", f"--queryformat={form}", "kubelet"]]
    assert not dnf.refresh(str(tmp_path))
    assert shell.argvs[1][-2:] == ["makecache", "--refresh"]
    target = str(tmp_path)
    assert dnf.unpack("kubeadm.rpm", target).code == 0
    words = ["--extract", "--make-directories", "--quiet", "--no-absolute-filenames", f"--file={target}/files.cpio"]
    assert shell.argvs[-2:] == [["rpm2cpio", "kubeadm.rpm"], ["cpio", *words]] and shell.directories[-1] == target
    shell.answers["rpm2cpio"] = Done(1, "", "broken")
    assert dnf.unpack("kubeadm.rpm", target).code == 1 and shell.argvs[-1][0] == "rpm2cpio"


def test_dnf_chooses_the_newest(shell: Shell, dnf: Dnf, tmp_path: Path) -> None:
    """dnf is asked for the name: it reads kubelet-* as a name, too, and then lists kubelet-extras only."""
    rows = ("1.37.2~rc.1-1", "1.37.2-2", "1.37.2-10", "1.37.2-9")
    text = "".join(f"kubelet\t0:{row}\tx86_64\n\n" for row in rows) + "kubelet\t0:1.37.2-99\tsrc\n"
    shell.answers["dnf repoquery"] = Done(0, text, "")
    found = dnf.candidates(WantedPackage("kubelet", "*"), str(tmp_path))
    assert found == ["1.37.2-10", "1.37.2-9", "1.37.2-2", "1.37.2~rc.1-1"]
    assert shell.argvs[-1][-1] == "kubelet"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2.0-1", "1:1.0-1"),
        ("1.37.0~rc.1-1", "1.37.0-1"),
        ("1.37.0-1", "1.37.0^git1-1"),
        ("1.37.0^git1-1", "1.37.0.1-1"),
        ("1.36.3-2", "1.36.3-150500.1.1"),
        ("1.9-1", "1.10-1"),
        ("1.0-1", "1.0a-1"),
        ("1.a-1", "1.1-1"),
        ("1.a-1", "1.b-1"),
    ],
)
def test_versions_of_rpm(dnf: Dnf, older: str, newer: str) -> None:
    """As rpm 4.18 and 6.1 compare them."""
    assert dnf.is_older(older, newer) and not dnf.is_older(newer, older) and not dnf.is_older(newer, newer)
    assert _packages.compare_rpm_versions("0:1.0-01", "1.0-1") == 0


def test_what_dnf_says_of_a_failure(shell: Shell, dnf: Dnf, tmp_path: Path) -> None:
    shell.answers["dnf"] = Done(1, "Error: scriptlet", "Error: Failed to download metadata")
    assert dnf.refresh(str(tmp_path)) == "Error: scriptlet Error: Failed to download metadata"
    with pytest.raises(EtcdError, match=r"dnf cannot fetch kubelet .*Failed to download metadata"):
        dnf.fetch(CHANGES, str(tmp_path))
    with pytest.raises(EtcdError, match=r"dnf Error: Failed"):
        dnf.install(CHANGES, str(tmp_path))
    shell.answers["dnf"] = Done(1, "No more words\n", "")
    with pytest.raises(EtcdError, match=r"dnf failed \(exit code 1\) while it installed kubelet .*: No more words"):
        dnf.install(CHANGES, str(tmp_path))
    shell.answers["dnf"] = Done(0, "", "")
    with pytest.raises(EtcdError, match=r"its file is not in"):
        Dnf("dnf").file_of(CHANGES[0], str(tmp_path))
    assert shell.argvs[-1][-1] == "kubelet-1.37.2-1.1"


def test_a_script_of_a_package_that_fails(shell: Shell, dnf: Dnf, tmp_path: Path) -> None:
    """dnf 4 succeeds all the same. Recorded with dnf 4.14."""
    said = "  Running scriptlet: kubelet\nwarning: %post(kubelet-1.37.2-1.1.x86_64) scriptlet failed, exit status 1\n\nComplete!\n"
    shell.answers["dnf"] = Done(0, said, "")
    words = r"a script failed while dnf installed kubelet 1.37.2-1.1: %post\(kubelet-1.37.2-1.1.x86_64\) scriptlet failed, exit status 1. The"
    with pytest.raises(EtcdError, match=words):
        dnf.install(CHANGES[:1], str(tmp_path))


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        # dnf 4 with skip_if_unavailable succeeds.
        (
            0,
            "Metadata cache created.\nErrors during downloading metadata for repository 'bad':\n  - Curl error (7)\nIgnoring repositories: bad\n",
            "Errors during downloading metadata for repository 'bad': - Curl error (7) Ignoring repositories: bad",
        ),
        (0, "Last metadata expiration check: 0:00:03 ago.\nMetadata cache created.\n", ""),
        (0, "Updating and loading repositories:\n t1 100%\nRepositories loaded.\n", ""),
        (1, "Unknown argument\n\nof a command\n", "Unknown argument of a command"),
        (
            1,
            "[1/1] kubeadm 100%\n>>> Already downloaded\nRunning transaction\nTransaction failed: Signature verification failed.\n",
            "Transaction failed: Signature verification failed.",
        ),
    ],
)
def test_what_dnf_complains_of(code: int, text: str, said: str) -> None:
    assert _packages.dnf_complaints_in(text, code) == said


@pytest.mark.parametrize(
    ("programs", "manages", "name"),
    [
        ("apt-get dpkg-query", True, "apt"),
        ("dnf rpm", False, "dnf"),
        ("dnf5 rpm", False, "dnf"),
        # Each distribution has packages of the other one's programs.
        ("apt-get dpkg-query dnf rpm", True, "apt"),
        ("apt-get dpkg-query dnf rpm", False, "dnf"),
        ("apt-get rpm", False, ""),
    ],
)
def test_which_package_manager_a_host_has(
    monkeypatch: pytest.MonkeyPatch, shell: Shell, programs: str, manages: bool, name: str
) -> None:
    monkeypatch.setattr(_packages.shutil, "which", lambda program: program if program in programs.split() else None)
    shell.answers["dpkg-query"] = Done(0, "ii \tdpkg\t1.21\n", "") if manages else Done(1, "", "no packages found")
    found = _packages.find_manager()
    assert (found.name if found else "") == name


def test_a_program_that_continues_after_its_module(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    assert run_apart(["sh", "-c", "echo out; echo err >&2; exit 3"], 10, log) == Done(3, "out\nerr\n", "")
    assert run_apart([str(tmp_path / "nothing")], 10, log).code == NOT_FOUND
    done = run_apart(["sh", "-c", "sleep 1; echo later"], 0.05, log)
    assert done.code == TIMED_OUT and "goes on" in done.stderr
