# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packages of the host: which differ from what is wanted, and how they are fetched, looked into and installed.

Everything that is fetched lies in a directory of ours, so that looking changes nothing of the package manager's state. A package that is on
hold is changed all the same, because its version was asked for, and is on hold again afterwards.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import has_content
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import read_text, replace_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import TIMED_OUT, Done, run, run_apart
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.packages import (
    WantedPackage,
    program_version_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import printable
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

# To read the package manager's databases.
ASK = 60.0

# To fetch package lists or packages, which may be large.
FETCH = 600.0

# To install. dpkg writes all to disk.
INSTALL = 600.0

# For the lock of another package manager, such as unattended-upgrades, seconds.
PATIENCE = 120

# What is fetched for a turn. Programs can be run from there, as those of images are; /tmp, /var/tmp and /run may be mounted with noexec.
DIRECTORY = "/var/lib/kubeadm-etcd-packages"

# In our directory: which packages were on hold.
HELD = "packages-on-hold"

# Of directories that an observation was killed in.
_LEFT_BEHIND = 3600.0

KUBEADM, KUBELET = "kubeadm", "kubelet"

# What packages restart is restarted behind the gate of the turn. needrestart would restart anything.
_APT_ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "NEEDRESTART_SUSPEND": "1",
    "APT_LISTCHANGES_FRONTEND": "none",
    "UCF_FORCE_CONFFOLD": "1",
}
# Configuration that was edited is kept, as ansible.builtin.apt keeps it.
_DPKG_JOURNAL = "/var/lib/dpkg/updates"
_DPKG_OPTIONS = ("--force-confdef", "--force-confold")


@dataclass(frozen=True)
class Installed:
    """A package as it is. whole: not left half-way by an installation that was interrupted."""

    version: str
    whole: bool = True
    held: bool = False


@dataclass(frozen=True)
class Change:
    """What becomes of a package. before: '' if it is not installed."""

    name: str
    before: str
    after: str
    held: bool = False
    is_wanted: bool = True

    @property
    def text(self) -> str:
        """The package and both versions."""
        return f"{self.name}: {self.before or 'none'} -> {self.after}"

    @property
    def reason(self) -> Reason:
        """Why the packages of the host have to change."""
        remarks = [] if self.is_wanted else ["another one needs it"]
        remarks += ["it stays on hold"] if self.held else []
        remark = f" ({', '.join(remarks)})" if remarks else ""
        if self.before == self.after:
            return Reason("packages", "interrupted", f"{self.name}: the installation of {self.after} was interrupted")
        return Reason("packages", "version", f"{self.text}{remark}")


@dataclass(frozen=True)
class Staged:
    """What a turn is to install.

    left_behind: directories of runs that were killed. kubeadm: the program that is installed, or that of the package that follows it.
    versions: of programs whose package changes.
    """

    changes: tuple[Change, ...] = ()
    lost_holds: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()
    kubeadm: str = KUBEADM
    versions: Mapping[str, str] = field(default_factory=dict)
    manager: Manager | None = None
    scratch: str = ""

    @property
    def reasons(self) -> list[Reason]:
        """Why the packages of the host have to change."""
        return [
            *(change.reason for change in self.changes),
            *(
                Reason("packages", "hold", f"{name}: on hold again, after a run that was killed")
                for name in self.lost_holds
            ),
            *(
                Reason("packages", "left-behind", f"{path}: left behind by a run that was killed")
                for path in self.left_behind
            ),
        ]

    @property
    def is_due(self) -> bool:
        """Whether anything is to be installed, put on hold again or removed."""
        return bool(self.reasons)


class Manager:
    """A package manager."""

    name = ""

    def installed(self, names: Iterable[str]) -> dict[str, Installed]:
        """The packages that are installed, of these."""
        raise NotImplementedError

    def candidates(self, package: WantedPackage, scratch: str) -> list[str]:
        """Versions of a package in the repositories, the newest first."""
        raise NotImplementedError

    def refresh(self, scratch: str) -> str:
        """Read the repositories anew. Returns what went wrong, '' if nothing."""
        raise NotImplementedError

    def is_older(self, version: str, other: str) -> bool:
        """Whether a version is older than another one."""
        raise NotImplementedError

    def companions(self, changes: list[Change], scratch: str) -> list[Change]:
        """What else would change with the wanted packages. EtcdError if they cannot be installed, or if another package would be removed."""
        del changes, scratch
        return []

    def fetch(self, changes: Iterable[Change], scratch: str) -> None:
        """Fetch packages, and what they need. EtcdError if that fails."""
        raise NotImplementedError

    def file_of(self, change: Change, scratch: str) -> str:
        """Fetch one package alone, for a look into it. Returns the file."""
        raise NotImplementedError

    def unpack(self, path: str, target: str) -> Done:
        """Unpack the file of a package into a directory."""
        raise NotImplementedError

    def install(self, changes: Iterable[Change], scratch: str) -> None:
        """Install what was fetched. EtcdError if that fails."""
        raise NotImplementedError

    def hold(self, names: Iterable[str]) -> None:
        """Put packages on hold."""
        raise NotImplementedError


class Apt(Manager):
    """apt and dpkg."""

    name = "apt"

    def _options(self, scratch: str) -> list[str]:
        lists = os.path.join(scratch, "lists")
        values = {
            "Dir::Cache": scratch,
            "Dir::Cache::Archives": os.path.join(scratch, "archives"),
            # Lists that were refreshed here. Those of the host otherwise.
            **({"Dir::State::Lists": lists} if os.path.isdir(lists) else {}),
            # The directory is root's alone.
            "APT::Sandbox::User": "root",
            "DPkg::Lock::Timeout": str(PATIENCE),
            "Acquire::Retries": "2",
        }
        return ["-q", *(word for key, value in values.items() for word in ("-o", f"{key}={value}"))]

    def _get(self, scratch: str, *words: str, timeout: float = FETCH) -> Done:
        os.makedirs(os.path.join(scratch, "archives", "partial"), mode=0o700, exist_ok=True)
        return run(["apt-get", *self._options(scratch), *words], timeout, environment=_APT_ENVIRONMENT)

    def installed(self, names: Iterable[str]) -> dict[str, Installed]:
        """See Manager."""
        form = "${db:Status-Abbrev}\t${Package}\t${Version}\n"
        return dpkg_installed(run(["dpkg-query", "--show", f"--showformat={form}", *names], ASK).stdout)

    def candidates(self, package: WantedPackage, scratch: str) -> list[str]:
        """See Manager."""
        done = run(["apt-cache", *self._options(scratch), "madison", package.name], ASK)
        return [version for version in madison_versions(done.stdout, package.name) if package.admits(version)]

    def refresh(self, scratch: str) -> str:
        """See Manager."""
        os.makedirs(os.path.join(scratch, "lists", "partial"), mode=0o700, exist_ok=True)
        done = self._get(scratch, "update")
        complaints = complaints_in(done.stderr)
        return complaints if done.code != 0 or complaints else ""

    def is_older(self, version: str, other: str) -> bool:
        """See Manager."""
        return run(["dpkg", "--compare-versions", version, "lt", other], ASK).code == 0

    def companions(self, changes: list[Change], scratch: str) -> list[Change]:
        """See Manager."""
        done = self._get(scratch, "--simulate", *self._asked(changes))
        if done.code != 0:
            said = " ".join([*unmet_in(done.stdout), complaints_in(done.stderr)]).strip() or done.stdout.strip()
            raise EtcdError(
                f"apt cannot install {_listed(changes)}: {said} Add packages that are on hold, or too old, to etcd_packages."
            )
        upgraded, removed = simulated(done.stdout)
        if removed:
            raise EtcdError(
                f"apt would remove {', '.join(removed)} to install {_listed(changes)}. Name versions in etcd_packages that can be installed beside"
                f" {', '.join(removed)}, or remove what is not needed any more."
            )
        named = [change.name for change in changes]
        return [change for change in upgraded if change.name not in named]

    def _asked(self, changes: Iterable[Change]) -> list[str]:
        return ["--yes", "--allow-change-held-packages", "install", *(f"{item.name}={item.after}" for item in changes)]

    def fetch(self, changes: Iterable[Change], scratch: str) -> None:
        """See Manager."""
        # Into our own directory, so no lock is needed: an installation that was interrupted would keep it from being taken.
        done = self._get(scratch, "-o", "Debug::NoLocking=true", "--download-only", *self._asked(changes))
        if done.code != 0:
            raise EtcdError(f"apt cannot fetch {_listed(changes)}: {complaints_in(done.stderr) or done.stdout.strip()}")

    def file_of(self, change: Change, scratch: str) -> str:
        """See Manager."""
        archives = os.path.join(scratch, "archives")
        known = self._file_in(change, archives)
        if known:
            return known
        os.makedirs(archives, mode=0o700, exist_ok=True)
        done = run(
            ["apt-get", *self._options(scratch), "download", f"{change.name}={change.after}"],
            FETCH,
            environment=_APT_ENVIRONMENT,
            directory=archives,
        )
        path = self._file_in(change, archives)
        if done.code != 0 or not path:
            raise EtcdError(
                f"apt cannot fetch {change.name} {change.after}: {complaints_in(done.stderr) or done.stdout.strip()}"
            )
        return path

    @staticmethod
    def _file_in(change: Change, archives: str) -> str:
        # As apt writes it: the colon of an epoch is quoted.
        name = f"{change.name}_{change.after.replace(':', '%3a')}_"
        return next(iter(glob.glob(os.path.join(glob.escape(archives), f"{glob.escape(name)}*.deb"))), "")

    def unpack(self, path: str, target: str) -> Done:
        """See Manager."""
        return run(["dpkg-deb", "--extract", path, target], ASK)

    def install(self, changes: Iterable[Change], scratch: str) -> None:
        """See Manager."""
        log = os.path.join(scratch, "install.log")
        dpkg_options = [word for option in _DPKG_OPTIONS for word in ("-o", f"DPkg::Options::={option}")]
        argv = [
            "apt-get",
            *self._options(scratch),
            *dpkg_options,
            "--no-download",
            "--no-remove",
            *self._asked(changes),
        ]
        done = run_apart(argv, INSTALL, log, _APT_ENVIRONMENT)
        if done.code not in (0, TIMED_OUT) and has_content(_DPKG_JOURNAL):
            # dpkg was interrupted before, and apt leaves it at that.
            run_apart(["dpkg", *_DPKG_OPTIONS, "--configure", "--pending"], INSTALL, log, _APT_ENVIRONMENT)
            done = run_apart(argv, INSTALL, log, _APT_ENVIRONMENT)
        if done.code != 0:
            what = done.stderr or f"failed (exit code {done.code})"
            raise EtcdError(
                f"apt {what} while it installed {_listed(changes)}: {complaints_in(done.stdout) or done.stdout[-400:].strip()} The whole output is in"
                f" {log}. Correct the cause, and run again."
            )

    def hold(self, names: Iterable[str]) -> None:
        """See Manager."""
        done = run(["apt-mark", "hold", *names], ASK)
        if done.code != 0:
            raise EtcdError(
                f"{', '.join(names)} could not be put on hold again: {complaints_in(done.stderr)} Run again."
            )


class Dnf(Manager):
    """dnf 4 or dnf5, and rpm. What a version lock or an exclusion holds stays held, since they are files: dnf is told to ignore them once."""

    name = "dnf"

    def __init__(self, program: str) -> None:
        # The directory of what was fetched.
        self.fetched = ""
        self.program = program
        # Often it has the name of dnf 4.
        self.is_dnf5 = os.path.basename(os.path.realpath(program)) == "dnf5"

    def _argv(self, scratch: str, command: str, *words: str) -> list[str]:
        cache = os.path.join(scratch, "cache")
        held = (
            ["--setopt=disable_excludes=*"]
            if self.is_dnf5
            else ["--disableexcludes=all", "--disableplugin=versionlock"]
        )
        # Otherwise dnf may leave out what it cannot install, and say that all is well. dnf5 has two options for it.
        strict = ["skip_broken=0", "skip_unavailable=0"] if self.is_dnf5 else ["strict=1"]
        options = [f"--setopt={option}" for option in (f"cachedir={cache}", *strict)]
        return [self.program, "--assumeyes", *options, *held, command, *words]

    def _dnf(self, scratch: str, command: str, *words: str) -> Done:
        return run(self._argv(scratch, command, *words), FETCH)

    def installed(self, names: Iterable[str]) -> dict[str, Installed]:
        """See Manager."""
        form = "%{NAME}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n"
        return rpm_installed(run(["rpm", "--query", f"--queryformat={form}", *names], ASK).stdout)

    def candidates(self, package: WantedPackage, scratch: str) -> list[str]:
        """See Manager."""
        # By name alone: dnf reads NAME-* as a name, too, and then finds other packages only.
        form = "%{name}\t%{epoch}:%{version}-%{release}\t%{arch}\n"
        done = self._dnf(scratch, "repoquery", "--quiet", f"--queryformat={form}", package.name)
        found = [version for version in rpm_versions(done.stdout, package.name) if package.admits(version)]
        newest: list[str] = []
        for version in found:
            place = next((at for at, known in enumerate(newest) if self.is_older(known, version)), len(newest))
            newest.insert(place, version)
        return newest

    def refresh(self, scratch: str) -> str:
        """See Manager."""
        done = self._dnf(scratch, "makecache", "--refresh")
        # With skip_if_unavailable, dnf succeeds without a repository that it cannot read.
        return dnf_complaints_in(f"{done.stdout}\n{done.stderr}", done.code)

    def is_older(self, version: str, other: str) -> bool:
        """See Manager."""
        return compare_rpm_versions(version, other) < 0

    def companions(self, changes: list[Change], scratch: str) -> list[Change]:
        """See Manager."""
        asked = [change for change in changes if change.before != change.after]
        if not asked:
            return []
        # The later option wins.
        done = self._dnf(scratch, "install", "--assumeno", *_names_of(asked))
        planned, removed = dnf_transaction(done.stdout)
        if not all(change.name in planned for change in asked):
            raise EtcdError(
                f"dnf cannot install {_listed(changes)}: {dnf_complaints_in(done.stderr, done.code)} Add packages that are too old to etcd_packages,"
                " or the repository that has what is missing to the host."
            )
        named = [change.name for change in changes]
        others = [name for name in removed if name not in (*named, *planned)]
        if others:
            raise EtcdError(
                f"dnf would remove {', '.join(others)} to install {_listed(changes)}. Name versions in etcd_packages that can be installed beside"
                f" {', '.join(others)}, or remove what is not needed any more."
            )
        present = self.installed([name for name in planned if name not in named] or [KUBEADM])
        return [
            Change(name, present[name].version if name in present else "", version, is_wanted=False)
            for name, version in planned.items()
            if name not in named
        ]

    def fetch(self, changes: Iterable[Change], scratch: str) -> None:
        """See Manager."""
        # A directory of its own: one of a run that was killed may be what an installation reads.
        self.fetched = tempfile.mkdtemp(prefix="archives-", dir=scratch)
        for command, some in _by_command(changes):
            # dnf5 checks signatures only when it installs. A test does all but to install.
            for options in (["--downloadonly"], ["--cacheonly", "--setopt=tsflags=test"]):
                done = self._dnf(scratch, command, *options, *self._fetched(command, some))
                if done.code != 0:
                    said = dnf_complaints_in(f"{done.stdout}\n{done.stderr}", done.code)
                    raise EtcdError(f"dnf cannot fetch {_listed(some)}: {said}")

    def _fetched(self, command: str, changes: Iterable[Change]) -> list[str]:
        """Where packages of a command are, and their names. By their files, dnf would not check their signatures."""
        return [f"--setopt=destdir={self.fetched}/{command}", "--setopt=keepcache=1", *_names_of(changes)]

    def file_of(self, change: Change, scratch: str) -> str:
        """See Manager."""
        if not self.fetched:
            self.fetch([change], scratch)
        version = change.after.split(":", 1)[-1]
        pattern = f"{glob.escape(self.fetched)}/*/{glob.escape(f'{change.name}-{version}')}.*.rpm"
        path = next(iter(glob.glob(pattern)), "")
        if not path:
            raise EtcdError(f"dnf has fetched {change.name} {change.after}, and its file is not in {self.fetched}.")
        return path

    def unpack(self, path: str, target: str) -> Done:
        """See Manager."""
        archive = os.path.join(target, "files.cpio")
        done = run_apart(["rpm2cpio", path], ASK, archive)
        if done.code != 0:
            return done
        words = ["--extract", "--make-directories", "--quiet", "--no-absolute-filenames", f"--file={archive}"]
        return run(["cpio", *words], ASK, directory=target)

    def install(self, changes: Iterable[Change], scratch: str) -> None:
        """See Manager."""
        log = os.path.join(scratch, "install.log")
        for command, some in _by_command(changes):
            argv = self._argv(scratch, command, "--cacheonly", *self._fetched(command, some))
            done = run_apart(argv, INSTALL, log)
            scripts = failed_scripts_in(done.stdout)
            if scripts:
                raise EtcdError(
                    f"a script failed while dnf installed {_listed(some)}: {scripts}. The whole output is in {log}. rpm does not run the script again:"
                    " do what it does (rpm --query --scripts NAME) by hand, and run again."
                )
            if done.code != 0:
                what = done.stderr or f"failed (exit code {done.code})"
                said = dnf_complaints_in(done.stdout, done.code) or done.stdout[-400:].strip()
                raise EtcdError(
                    f"dnf {what} while it installed {_listed(some)}: {said} The whole output is in {log}. Correct the cause, and run again."
                )

    def hold(self, names: Iterable[str]) -> None:
        """Nothing: a version lock is not lost."""


def _by_command(changes: Iterable[Change]) -> list[tuple[str, list[Change]]]:
    """Which command of dnf each package needs.

    If rpm was killed, a package is there in two versions, and dnf has nothing to install. A reinstallation removes the older one.
    """
    found = list(changes)
    parts = (
        ("install", [change for change in found if change.before != change.after]),
        ("reinstall", [change for change in found if change.before == change.after]),
    )
    return [(command, some) for command, some in parts if some]


def _names_of(changes: Iterable[Change]) -> list[str]:
    return [f"{item.name}-{item.after}" for item in changes]


# --- What package managers print -------------------------------------------------------------------------------------


def dpkg_installed(text: str) -> dict[str, Installed]:
    """Packages in the output of dpkg-query: wanted state, state and error in one letter each, name and version."""
    found = {}
    for line in text.splitlines():
        status, name, version = [*line.split("\t"), "", ""][:3]
        # Not installed, or its configuration files only.
        if version and status[1:2] not in ("n", "c", ""):
            found[name] = Installed(version, status[1:].strip() == "i", held=status[0] == "h")
    return found


def rpm_installed(text: str) -> dict[str, Installed]:
    """Packages in the output of rpm.

    A transaction that was interrupted leaves two versions of one package: the newer one counts. One version of two architectures is whole.
    """
    found: dict[str, Installed] = {}
    for line in text.splitlines():
        name, _tab, version = line.partition("\t")
        if not version:
            continue
        known = found.get(name)
        order = compare_rpm_versions(version, known.version) if known else 0
        newer = known.version if known and order < 0 else _without_epoch(version)
        found[name] = Installed(newer, whole=order == 0 and (known is None or known.whole))
    return found


def madison_versions(text: str, name: str) -> list[str]:
    """Versions in the output of apt-cache madison, the newest first, as apt sorts them."""
    fields = [[field.strip() for field in line.split("|")] for line in text.splitlines()]
    return list(dict.fromkeys(item[1] for item in fields if len(item) > 2 and item[0] == name))


def rpm_versions(text: str, name: str) -> list[str]:
    """Versions in the output of dnf repoquery: name, version and architecture. Sources of a package are none."""
    lines = ([*line.strip().split("\t"), "", ""][:3] for line in text.splitlines())
    return list(
        dict.fromkeys(
            _without_epoch(version)
            for found, version, architecture in lines
            if found == name and version and architecture not in ("src", "nosrc")
        )
    )


def _without_epoch(version: str) -> str:
    """A version of rpm as people write it: the epoch 0 is left out."""
    return version[2:] if version.startswith("0:") else version


# Sections of the table that dnf prints. Others have what it leaves out.
_COMES = ("Installing", "Upgrading", "Downgrading", "Reinstalling")


def dnf_transaction(text: str) -> tuple[dict[str, str], list[str]]:
    """What dnf would install, by name, and which packages would go, in the table that it prints: name, architecture and version in each row.

    A row whose name is long goes on in the next line. Packages that are replaced are below the one that replaces them.
    """
    rows: list[list[str]] = []
    section = ""
    for line in text.splitlines():
        if re.match(r"[A-Z][A-Za-z ]*:$", line):
            section = line
        elif line.startswith(" ") and section and not section.startswith("Transaction"):
            words = line.split()
            if words[:1] == ["replacing"]:
                # NAME.ARCHITECTURE VERSION or NAME ARCHITECTURE VERSION.
                rows.append(["replaced", re.sub(r"\.[^.]+$", "", words[1]) if len(words) == 3 else words[1], "", ""])
            elif line[1:2] != " ":
                rows.append([section, *words])
            elif rows:
                rows[-1] += words
    gone = [row[1] for row in rows if row[0] == "replaced" or row[0].startswith("Removing")]
    comes = {row[1]: _without_epoch(row[3]) for row in rows if row[0].startswith(_COMES) and len(row) > 3}
    return comes, gone


# What dnf prints of its progress between complaints, and advice that is not ours.
_DNF_PROGRESS = r"(>>> Already|Running|Repositories loaded|You can try|\(try to add|--|\[\d+/\d+\])"
_DNF_COMPLAINS = r"(Error|Failed|Problem|No match|Transaction failed|Curl error|>>> |Package \S+ is not signed|Public key|OpenPGP|Cannot)"


def dnf_complaints_in(text: str, code: int) -> str:
    """What dnf says of a failure, in one line: from the first complaint on. '' if it has succeeded without any."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not re.match(_DNF_PROGRESS, line)]
    first = next((at for at, line in enumerate(lines) if re.match(_DNF_COMPLAINS, line)), None)
    if first is None:
        return printable(" ".join(lines))[-400:] if code != 0 else ""
    return printable(" ".join(dict.fromkeys(lines[first:])))[:600]


def failed_scripts_in(text: str) -> str:
    """Scripts of packages that have failed, as rpm says it. dnf 4 succeeds all the same."""
    return printable(" ".join(re.findall(r"\S*%\S+ scriptlet failed, [^\n]*", text)))[:600]


def compare_rpm_versions(version: str, other: str) -> int:
    """Which of two versions of rpm is the newer one: -1, 0 or 1. [EPOCH:]VERSION[-RELEASE], as rpmvercmp compares them.

    The programs that compare versions differ: the rpm of RHEL 8 does not know an epoch.
    """
    for mine, theirs in zip(_parts(version), _parts(other)):
        found = _compare_part(mine, theirs)
        if found:
            return found
    return 0


def _parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.rpartition(":")
    number, _dash, release = rest.partition("-")
    return (epoch if colon else "0"), number, release


def _compare_part(mine: str, theirs: str) -> int:
    """Digits and letters are compared piece by piece. ~ is older than the end, ^ is newer than the end and older than anything else."""
    pieces = [re.findall(r"\d+|[A-Za-z]+|~|\^", text) for text in (mine, theirs)]
    for one, two in itertools.zip_longest(*pieces, fillvalue=""):
        if one == two:
            continue
        ranks = [_rank(piece) for piece in (one, two)]
        if ranks[0] != ranks[1]:
            return -1 if ranks[0] < ranks[1] else 1
        if one.isdigit():
            if int(one) != int(two):
                return -1 if int(one) < int(two) else 1
        else:
            return -1 if one < two else 1
    return 0


def _rank(piece: str) -> int:
    if piece in ("~", "", "^"):
        return ("~", "", "^").index(piece)
    return 4 if piece.isdigit() else 3


def simulated(text: str) -> tuple[list[Change], list[str]]:
    """What a simulation of apt-get would install and remove: Inst NAME [BEFORE] (AFTER ORIGIN)."""
    changes = [
        Change(match.group(1), match.group(2) or "", match.group(3), is_wanted=False)
        for match in re.finditer(r"^Inst (\S+)(?: \[([^\]]*)\])? \((\S+)", text, flags=re.MULTILINE)
    ]
    return changes, re.findall(r"^Remv (\S+)", text, flags=re.MULTILINE)


def complaints_in(text: str) -> str:
    """Errors and warnings in what apt or dpkg prints, in one line."""
    lines = [
        line.strip()
        for line in text.splitlines()
        if re.match(r"(E:|W:|Err:|dpkg: error|.*subprocess returned error)", line)
    ]
    return printable(" ".join(dict.fromkeys(lines)))[:600]


def unmet_in(text: str) -> list[str]:
    """What a simulation of apt-get says of dependencies, such as a package on hold that would have to be upgraded."""
    found = re.findall(r"^ *(\S+ : (?:Pre)?Depends: .*)$", text, flags=re.MULTILINE)
    return [f"{printable(' '.join(line.split()))[:200]}." for line in found[:3]]


def _listed(changes: Iterable[Change]) -> str:
    return ", ".join(f"{change.name} {change.after}" for change in changes)


# --- What differs ----------------------------------------------------------------------------------------------------


def find_manager() -> Manager | None:
    """The package manager of the host."""
    apt = Apt() if shutil.which("apt-get") and shutil.which("dpkg-query") else None
    program = shutil.which("dnf") or shutil.which("dnf5")
    dnf = Dnf(program) if program and shutil.which("rpm") else None
    if apt and dnf:
        # Each distribution has packages of the other one's programs. The one that manages the host has a package of itself.
        return apt if apt.installed(["dpkg"]) else dnf
    return apt or dnf


def needed(wanted: Iterable[WantedPackage], installed: Mapping[str, Installed]) -> list[WantedPackage]:
    """The packages that are not installed as wanted."""
    return [
        package
        for package in wanted
        if not (
            package.name in installed
            and installed[package.name].whole
            and package.admits(installed[package.name].version)
        )
    ]


def choose(package: WantedPackage, installed: Installed | None, candidates: list[str]) -> str:
    """The version that a package gets, '' if there is none. What was interrupted is finished."""
    if installed and package.admits(installed.version):
        return installed.version
    return next(iter(candidates), "")


def changes_of(
    manager: Manager, packages: Iterable[WantedPackage], installed: Mapping[str, Installed], scratch: str
) -> list[Change]:
    """What becomes of packages. EtcdError for a version that no repository has, or that is older than the installed one."""
    chosen: dict[WantedPackage, str] = {}
    problems = []
    said = ""
    for again in (False, True):
        lacking = [package for package in packages if not chosen.get(package)]
        if not lacking:
            break
        if again:
            said = manager.refresh(scratch)
        for package in lacking:
            chosen[package] = choose(package, installed.get(package.name), manager.candidates(package, scratch))
    for package, version in chosen.items():
        present = installed.get(package.name)
        if not version:
            known = manager.candidates(WantedPackage(package.name, "*"), scratch)
            has = f"have {', '.join(known[:6])}" if known else "have no package of this name"
            problems.append(
                f"etcd_packages has {package}, and the repositories of this host {has}. Correct etcd_packages, or add the repository that has it"
                f" to the host.{f' When their lists were read anew, {manager.name} said: {said}' if said else ''}"
            )
        elif present and manager.is_older(version, present.version):
            problems.append(
                f"etcd_packages has {package}, and {present.version} is installed: a run installs no older package. Name the installed version, or go back"
                f" to {version} by hand on one host after the other, and run site.yml after each."
            )
    if problems:
        raise EtcdError(*problems)
    return [
        Change(
            package.name,
            installed[package.name].version if package.name in installed else "",
            version,
            package.name in installed and installed[package.name].held,
        )
        for package, version in chosen.items()
    ]


def names_on_hold(work_dir: str) -> list[str]:
    """Packages that were on hold before a run that was killed, also those that are not wanted any more."""
    return (read_text(os.path.join(work_dir, HELD)) or "").split()


def lost_holds(names: Iterable[str], installed: Mapping[str, Installed]) -> tuple[str, ...]:
    """Packages of these that are not on hold any more."""
    return tuple(name for name in names if name in installed and not installed[name].held)


def directories_left_behind() -> tuple[str, ...]:
    """What turns have fetched and not installed, and what observations have left when the host lost its power."""
    found = [DIRECTORY] if os.path.isdir(DIRECTORY) else []
    for path in sorted(glob.glob(f"{glob.escape(_observed())}*")):
        # The observation that it belongs to may end meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found += [path] if time.time() - os.stat(path).st_mtime > _LEFT_BEHIND else []
    return tuple(found)


def _observed() -> str:
    """How the directories of observations begin, beside that of turns."""
    parent, name = os.path.split(DIRECTORY)
    return os.path.join(parent, f".{name}-")


# --- Staging and installing ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def staged(wanted: tuple[WantedPackage, ...], work_dir: str, fetches: bool) -> Iterator[Staged]:
    """What is to be installed on the host, with the kubeadm that follows, unpacked.

    fetches: everything is fetched, and stays until it is installed; otherwise only what is looked into, which is removed again.
    """
    if not wanted:
        yield Staged()
        return
    manager = find_manager()
    if manager is None:
        raise EtcdError(
            "etcd_packages is set, and this host has neither apt nor dnf. Leave it empty for this host, and install packages before the run."
        )
    names = names_on_hold(work_dir)
    installed = manager.installed([*(package.name for package in wanted), *names])
    missing, holds = needed(wanted, installed), lost_holds(names, installed)
    if not missing:
        yield Staged(lost_holds=holds, left_behind=directories_left_behind(), manager=manager)
        return
    with contextlib.ExitStack() as stack:
        if fetches:
            scratch = DIRECTORY
            os.makedirs(scratch, mode=0o700, exist_ok=True)
            # Of a run that was killed. Packages are kept: an installation may still go on.
            for path in (
                os.path.join(scratch, "lists"),
                *glob.glob(os.path.join(glob.escape(scratch), f"{KUBEADM}-*")),
            ):
                shutil.rmtree(path, ignore_errors=True)
        else:
            scratch = stack.enter_context(_private_directory())
        changes = changes_of(manager, missing, installed, scratch)
        changes += manager.companions(changes, scratch)
        if fetches:
            fetch_again(manager, changes, scratch)
        versions = {change.name: version for change in changes if (version := program_version_of(change.after))}
        replaced = next(
            (change for change in changes if change.name == KUBEADM and change.before != change.after), None
        )
        program = _unpacked(manager, replaced, scratch, stack) if replaced else KUBEADM
        yield Staged(tuple(changes), holds, (), program, versions, manager, scratch)


def fetch_again(manager: Manager, changes: list[Change], scratch: str) -> None:
    """Fetch packages. If the lists of the host are out of date, with new ones."""
    wanted = [change for change in changes if change.is_wanted]
    try:
        manager.fetch(wanted, scratch)
    except EtcdError:
        manager.refresh(scratch)
        manager.fetch(wanted, scratch)


@contextlib.contextmanager
def _private_directory() -> Iterator[str]:
    """A directory beside that of turns. What another observation has left is removed by a turn."""
    parent, prefix = os.path.split(_observed())
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as path:
        yield path


def _unpacked(manager: Manager, change: Change, scratch: str, stack: contextlib.ExitStack) -> str:
    """The program kubeadm of a package that is not installed yet. It is removed with the stack."""
    path = manager.file_of(change, scratch)
    target = stack.enter_context(tempfile.TemporaryDirectory(prefix="kubeadm-", dir=scratch))
    done = manager.unpack(path, target)
    program = os.path.join(target, "usr", "bin", KUBEADM)
    if done.code != 0 or not os.path.isfile(program):
        said = printable(" ".join(done.stderr.split()))[:300] or "it has no usr/bin/kubeadm"
        raise EtcdError(f"the package {change.name} {change.after} cannot be looked into: {said}.")
    return program


def install(staged_packages: Staged, work_dir: str) -> None:
    """Install what was fetched. What was on hold is on hold again, whatever happens: a run that is killed in between leaves a note."""
    manager, changes = staged_packages.manager, [change for change in staged_packages.changes if change.is_wanted]
    if manager is None:
        return
    note = os.path.join(work_dir, HELD)
    held = [*staged_packages.lost_holds, *(change.name for change in changes if change.held)]
    if held:
        replace_file(note, "".join(f"{name}\n" for name in held).encode(), 0o600)
    try:
        if changes:
            manager.install(changes, staged_packages.scratch)
    finally:
        if held:
            manager.hold(held)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(note)
    for path in directories_left_behind():
        shutil.rmtree(path, ignore_errors=True)
