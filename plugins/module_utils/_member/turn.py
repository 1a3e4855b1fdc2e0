# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A turn changes one member: its packages, kubelet and manifest. Lock, gate, act, prove, undo if that fails, unlock.

The kubelet's files and the manifest change in one turn. A kubelet that runs is changed first, and has to work before etcd is
restarted. A kubelet that does not run finds the new manifest when it starts. The same engine starts members of a cluster that does not
run: all at once, so without lock and gate. If a turn is interrupted, the next one continues from the state of the host.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member, probe
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import (
    ClusterLock,
    Holder,
    LockError,
    LockLostError,
    LockRefusedError,
    LockUnconfirmedError,
    NoQuorumError,
    cluster_lock,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import Membership, entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import diagnosis, service
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import facts as _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import log as _log
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import packages as _packages
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    ensure_directory,
    locked,
    mode_problem,
    move_file,
    read_text,
    remove_strays,
    replace_file,
    set_mode,
    strays,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import KubeletSpec
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import count_beyond, read_wal, unreadable_by_3_7
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.readable import (
    is_without_former_api,
    log_reasons,
    with_snapshot_count,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import read_record
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.staged import restore_under_way, waiting_restore
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.causes import Cause
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, system_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import urls_while_joining
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.packages import WantedPackage
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import record_path
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, reported, texts
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import (
    EtcdVersion,
    etcd_version_in,
    etcd_version_of,
)

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

# In the work directory: the manifest before the last change. The kubelet would read it in its own directory.
PREVIOUS = "etcd.yaml.previous"

# Not the lock of the PKI: a run that renews certificates need not wait for a member.
LOCK = "lock-manifest"

# Seconds for which the kubelet may go on with a manifest that was replaced.
SETTLES = 10.0

# Long enough for most runs whose connection was cut: a member starts within half a minute, or has its
# previous manifest back in little more than a minute.
LOCK_PATIENCE = 120.0

# How long a member may take to come up with the manifest that is there: a host that has just booted needs half of it.
BACK_AGAIN = 60.0

# A flag that etcd refuses, or data that it cannot read, ends its process within a second or two.
LASTS = 10.0

# How long the kubelet may take to say that it is healthy.
KUBELET_STARTS = 30.0

# How long it may take that another member leads. It takes some milliseconds.
HANDS_OVER = 10.0

# The kubelet is healthy before it makes its cgroups, which may end it, and before it looks at the running pods, which it does every two seconds.
# Seconds since its start.
KUBELET_LASTS = 10.0

# etcd writes a raft snapshot right after it has applied its log, which it has done when it is ready.
SNAPSHOT_IS_WRITTEN = 30.0

# For the image, which may be large.
PULL = 600.0

# A registry that does not answer is asked again for some seconds.
PULL_AGAIN = 15.0
PULL_PAUSE = 3.0


# What a turn may change.
KUBELET, CONFIG, MANIFEST = PARTS = ("kubelet", "config", "manifest")


def no_reason(_process: _processes.Process | None, _pki_dir: str) -> str:
    """Why etcd has to be restarted for the CA, in a turn that is not about that."""
    return ""


@dataclass(frozen=True)
class TurnSpec:
    """What a member is to be, and how it may be changed.

    packages: what is installed before anything restarts. parts: what of it is changed. turn: the number of its turn in a cluster that runs, 0 if none
    runs. allow_interruption: without a gate. ca_reason: why a process has to be restarted for the CA, by the directory of certificates (not_loaded in
    trust.py); '' if it need not be.
    """

    config: _kubeadm.ConfigSpec
    kubelet: KubeletSpec
    packages: tuple[WantedPackage, ...] = ()
    parts: tuple[str, ...] = PARTS
    turn: int = 0
    allow_interruption: bool = False
    ca_reason: Callable[[_processes.Process | None, str], str] = no_reason
    timeout: float = 300.0

    @property
    def member(self) -> str:
        """Name of the member."""
        return self.config.name

    @property
    def manifest(self) -> str:
        """Path of the manifest."""
        return os.path.join(self.kubelet.manifests_dir, "etcd.yaml")

    @property
    def target(self) -> _rollout.Target:
        """The member and how to ask it."""
        config = self.config
        members = [(member.name, member.address) for member in config.members]
        return _rollout.make_target(config.name, members, config.client_port, config.metrics_port, config.pki_dir)


def hold_host_lock(stack: contextlib.ExitStack, work_dir: str, lasts: float = 0.0) -> None:
    """Keep other runs from changing the member of this host. lasts: seconds that another run may take."""
    ensure_directory(work_dir, DIRECTORY_MODE)
    stack.enter_context(locked(os.path.join(work_dir, LOCK), LOCK_PATIENCE, lasts))


def changed_since(manifest: str) -> str:
    """Why nothing is put back: the manifest is not the one that this run has installed."""
    return f"Another run or a person has changed {manifest} since, so nothing was put back. Run again."


def put_manifest_back(kept: str, manifest: str) -> str:
    """Install a manifest that was kept. Returns why that failed, '' if it did not."""
    try:
        # By a rename, which needs no space: that may be what is missing. With its age: see younger_than.
        os.utime(kept)
        move_file(kept, manifest)
    except (OSError, EtcdError) as exc:
        return f"The previous manifest could not be put back ({exc}). It is {kept}: move it to {manifest}."
    return ""


def take_turn(spec: TurnSpec, check: bool) -> dict[str, Any]:
    """Change the member of this host, or look what would be changed (check). Returns the module's result."""
    with contextlib.ExitStack() as stack:
        if not check:
            # It waits again where the previous manifest is put back.
            hold_host_lock(stack, spec.kubelet.work_dir, 2 * spec.timeout if spec.turn else 0)
        waiting = waiting_restore(spec.config.data_dir)
        if waiting and not _processes.find_etcd_process(spec.member):
            raise EtcdError(f"{spec.member}: {restore_under_way(waiting)}")
        turn = Turn(spec, check, stack.enter_context(stage(spec, check)))
        if spec.turn:
            turn.roll(stack)
        else:
            turn.start()
        return turn.result()


def pull_images(spec: TurnSpec, check: bool) -> dict[str, Any]:
    """Have the images pulled that the member of this host is to run, and its packages fetched, and change nothing else. Returns the module's result."""
    with contextlib.ExitStack() as stack:
        if not check:
            hold_host_lock(stack, spec.kubelet.work_dir)
        # The member's turn comes later, and installs the kubeadm that chooses the image.
        turn = Turn(spec, check, stack.enter_context(stage(replace(spec, turn=1), check)))
        if not check:
            turn.have_images()
        turn.package_reasons, turn.reasons, turn.content = [], [], []
        return turn.result()


@contextlib.contextmanager
def stage(spec: TurnSpec, check: bool) -> Iterator[_packages.Staged]:
    """What is installed in this turn, fetched before anything stops; in check mode, what can be said of it without that.

    A cluster that is down is started with the packages that are there, and so is a member whose packages cannot be had.
    """
    wal = read_wal(spec.config.data_dir)
    has_run = bool(wal and wal.formed and os.path.exists(spec.manifest))
    with contextlib.ExitStack() as stack:
        staged = _packages.Staged()
        if spec.turn or not has_run:
            try:
                staged = stack.enter_context(_packages.staged(spec.packages, spec.kubelet.work_dir, fetches=not check))
            except EtcdError:
                if not has_run or _processes.find_etcd_process(spec.member):
                    raise
        yield staged


class KubeletError(EtcdError):
    """The kubelet does not work as changed."""


class Turn:
    """One turn of the member of this host. It sees the host when it is made, so under the lock."""

    # Seconds since its start for which a kubelet has to run.
    kubelet_lasts = KUBELET_LASTS

    def __init__(self, spec: TurnSpec, check: bool, staged: _packages.Staged | None = None) -> None:
        self.spec = spec
        self.check = check
        # What is still to be installed, and why.
        self.staged = staged or _packages.Staged()
        self.package_reasons = self.staged.reasons
        self.look()
        # From here on, what has been done.
        self.lock: ClusterLock | None = None
        self.is_alone = False
        # Whether the member is started for the first time: it then has a further peer URL until it runs (urls_while_joining).
        self.starts_first = False
        self.since = time.time()
        # The manifest that this run has installed.
        self.installed = ""
        self.kept: dict[str, service.KeptFile] | None = None
        self.installed_packages: tuple[_packages.Change, ...] = ()
        # Whether the kubelet ran before packages were installed, and is another process since.
        self.kubelet_ran = self.package_restarted_kubelet = False
        self.former_urls: list[str] = []
        self.waited = 0.0

    # --- What differs ------------------------------------------------------------------------------------------------

    def look(self, published: bool = False) -> None:
        """Compare the host with what is wanted. published: whether the membership shows the member as started."""
        spec = self.spec
        self.published = published
        self.process = _processes.find_etcd_process(spec.member)
        self.before = read_text(spec.manifest)
        self.kubelet: service.KubeletState | None = None
        self.config: _kubeadm.ConfigState | None = None
        self.wanted = ""
        self.content: list[Reason] = []
        self.left: list[Reason] = []
        self.stale = ""
        self.unreadable: list[int] = []
        self.formed = False
        self.own: list[tuple[str, int]] = []
        self.modes: dict[str, str | None] = {}
        self.reasons: list[Reason] = []
        if KUBELET in spec.parts:
            installed = _host.program_version(["kubelet", "--version"])
            version = self.staged.versions.get(_packages.KUBELET, installed)
            files = service.kubelet_files(spec.kubelet, version, _host.cgroup_version())
            self.kubelet = service.kubelet_state(spec.kubelet, files)
            self.reasons += self.kubelet.reasons
        if CONFIG in spec.parts or MANIFEST in spec.parts:
            self.config = self._look_at_config(published)
            self.reasons += self.config.reasons
        if MANIFEST in spec.parts and self.config:
            self._look_at_manifest(self.config.text)

    def _look_at_config(self, published: bool) -> _kubeadm.ConfigState:
        """Compare kubeadmcfg.yaml with what is wanted."""
        asked = replace(self.spec.config, kubeadm=self.kubeadm_program)
        wal = read_wal(asked.data_dir)
        self.formed = bool(wal and wal.formed)
        version = _kubeadm.find_kubeadm_version(asked.kubeadm)
        config = replace(asked, published=asked.published or published)
        config = config.completed(version, _kubeadm.database_size(asked.data_dir), self.before)
        _kubeadm.raise_problems([problem.text for problem in _kubeadm.config_problems(config, version)])
        return _kubeadm.config_state(config, self.formed)

    def _look_at_manifest(self, config: str) -> None:
        """Compare the manifest with what kubeadm makes of the configuration."""
        data_dir, manifests_dir = self.spec.config.data_dir, self.spec.kubelet.manifests_dir
        self.wanted = _kubeadm.render_manifest(config, self.kubeadm_program)
        _kubeadm.check_other_pods(manifests_dir)
        self.stale = _processes.stale_directory(self.process, self.spec.config.pki_dir)
        self.stale = self.stale or self.spec.ca_reason(self.process, self.spec.config.pki_dir)
        counts = _kubeadm.startup_counts(self.spec.config.startup_timeout, self.formed, self._is_ready)
        self.content = _kubeadm.manifest_reasons(self.before, self.wanted, self.formed, counts)
        # A directory that others share is not taken from them.
        own = [] if _host.foreign_entries(data_dir) else [(data_dir, DIRECTORY_MODE)]
        self.own = [(self.spec.manifest, FILE_MODE), *own]
        self.modes = {path: mode_problem(path, mode) for path, mode in self.own}
        missing = [path for path in (manifests_dir, data_dir) if not os.path.isdir(path)]
        self.reasons += [
            *(
                Reason("manifest", "left-behind", f"{path}: left behind by a run that was killed")
                for path in strays(manifests_dir)
            ),
            *(Reason("manifest", "mode", f"{path}: {problem}") for path, problem in self.modes.items() if problem),
            *(Reason("manifest", "missing", f"{path}: missing") for path in missing),
            *([Reason("manifest", "stale", self.stale, restarts=True)] if self.stale else []),
            *self._look_at_log(data_dir),
        ]

    def _look_at_log(self, data_dir: str) -> list[Reason]:
        """Whether the wanted etcd can read the log of the member."""
        images = [_kubeadm.manifest_image(text) for text in (self.before or "", self.wanted)]
        if is_without_former_api(images[1]):
            self.unreadable = unreadable_by_3_7(data_dir)
        return log_reasons(len(self.unreadable), *images)

    def _is_ready(self) -> bool:
        """Whether etcd runs and is ready."""
        metrics = self.spec.target.metrics
        return bool(self.process and _processes.is_ready(_processes.metrics_of(self.process.argv, metrics)))

    @property
    def kubeadm_program(self) -> str:
        """The program kubeadm, which may be that of a package that is not installed yet."""
        return self.staged.kubeadm if self.staged.changes else self.spec.config.kubeadm

    @property
    def restarts_etcd(self) -> bool:
        """Whether this turn restarts etcd."""
        return bool(self.content or self.stale)

    @property
    def restarts_kubelet(self) -> bool:
        """Whether this turn restarts the kubelet, which may restart etcd: the kubelet starts what the present manifest says."""
        return bool(self.kubelet and self.kubelet.restart)

    @property
    def stops(self) -> bool:
        """Whether this turn may stop etcd. A package may restart what it likes."""
        return self.restarts_etcd or self.restarts_kubelet or bool(self.staged.changes)

    @property
    def raises_version(self) -> bool:
        """Whether the wanted manifest has a newer minor version of etcd than the one before."""
        former, wanted = self._versions()
        return bool(former and wanted and former.minor < wanted.minor)

    @property
    def lowers_version(self) -> bool:
        """Whether the wanted manifest has an older minor version of etcd than the one before."""
        former, wanted = self._versions()
        return bool(former and wanted and former.minor > wanted.minor)

    def _versions(self) -> tuple[EtcdVersion | None, EtcdVersion | None]:
        """The version of etcd of the manifest before, and of the wanted one; None if its tag is none."""
        before, wanted = (etcd_version_of(_kubeadm.manifest_image(text)) for text in (self.before or "", self.wanted))
        return before, wanted

    def leave_content(self) -> None:
        """Start the member with the manifest that is there, as it was."""
        if self.before:
            self.content, self.left = [], [*self.left, *self.content]

    def leave_packages(self) -> None:
        """Start the member with the packages that are there."""
        if self.staged.changes:
            reasons, self.package_reasons, self.staged = self.package_reasons, [], _packages.Staged()
            self.look(self.published)
            self.left = reasons

    def result(self) -> dict[str, Any]:
        """What the module returns."""
        diff = []
        if self.kubelet:
            diff = [
                {"before_header": path, "after_header": path, "before": self.kubelet.found[path] or "", "after": text}
                for path, text in self.kubelet.differing.items()
            ]
        if self.config and self.config.content:
            diff.append(self.config.diff)
        if MANIFEST in self.spec.parts:
            diff.append(_kubeadm.shown_diff(self.spec.manifest, self.before, self._installed()))
        return {
            **reported([*self.package_reasons, *self.reasons, *self.content]),
            "manifest": self.spec.manifest,
            "left": texts(self.left),
            "waited": round(self.waited, 1),
            "diff": diff,
        }

    def _installed(self) -> str:
        return self.wanted if self.content else self.before or ""

    # --- The two kinds of a turn -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the member of a cluster that does not run. Each host proves itself; none waits for the others."""
        if not self.check:
            _rollout.check_controller()
            self._take_peers_of_membership()
            self.install_packages()
            if self.config:
                self.config.write()
            self._start_kubelet()
        if MANIFEST not in self.spec.parts:
            # The kubelet of a host that has no manifest yet. It is proven with its member.
            return
        # A cluster that is down is started as it was. What differs is for a run that sees it, member by member.
        is_down = self.content and self.before and self.formed
        if is_down and (self.stale or self.check or self._starts() or self._runs_another_image()):
            self.leave_content()
        if self.check:
            return
        self.see_that_kubelet_runs()
        self.have_images()
        self.change_manifest()
        self.waited = self._wait_until_started()

    def _take_peers_of_membership(self) -> None:
        """If a voting member was added by hand and has never started, the quorum may need it. Without data, etcd compares initial-cluster with the
        membership, and the inventory may have members that have not joined yet."""
        config, target = self.spec.config, self.spec.target
        if self.formed or config.initial_cluster_state != "existing" or MANIFEST not in self.spec.parts:
            return
        try:
            _client, members = _rollout.ask_membership(target, self.process, linearizable=False)
        except EtcdError:
            return
        mine = entry_of(members, target.name, peer_urls(self.wanted))
        if mine:
            self.take_peers(members, mine)

    def take_peers(self, members: list[Member], mine: Member) -> None:
        """Compare the host with what this membership makes of the configuration. mine: the entry of the member."""
        peers = peers_of(members, mine.id, self.spec.member)
        self.spec = replace(self.spec, config=replace(self.spec.config, peers=peers))
        self.look(mine.started)

    def roll(self, stack: contextlib.ExitStack) -> None:
        """Change the member of a cluster that runs."""
        target = self.spec.target
        if not self.check:
            _rollout.check_controller()
            self.see_that_kubelet_runs()
            self.have_images()
            if self.stops:
                self._hold_lock(stack, target)
        # In check mode, what earlier steps and turns would have repaired has not been repaired.
        unrepaired = self.check and (self.spec.turn > 1 or not self.restarts_etcd)
        if self.stops and not self.spec.allow_interruption and not unrepaired:
            _rollout.check_gate(target)
        if not self.check:
            _rollout.check_controller()
        was_ready = MANIFEST not in self.spec.parts and self._is_ready()
        if self.check:
            self._announce(target)
            return
        wanted = self._versions()[1]
        if wanted and self.lowers_version and self.content and self.process:
            _rollout.wait_until_lowered(self._as_it_runs(target), wanted)
        try:
            with system_errors():
                self.act(target)
                if self.is_alone:
                    self.waited = self._wait_until_started()
                elif MANIFEST in self.spec.parts or was_ready:
                    # A member that is down may need more than its kubelet.
                    self.waited += self._wait_for_member(target, self._installed(), self._old())
        except (_rollout.AbandonedError, LockError):
            raise
        except EtcdError as exc:
            raise EtcdError(self.undo(exc, target)) from exc
        if self.starts_first:
            _rollout.announce_peer_urls(target, None, peer_urls(self._installed()), check=False)
        if self.installed and self.raises_version:
            _rollout.wait_for_cluster_version(target)
        if self.installed and self.lowers_version:
            _rollout.wait_for_end_of_downgrade(target)
        if self.restarts_etcd and self.spec.ca_reason(
            _processes.find_etcd_process(self.spec.member), self.spec.config.pki_dir
        ):
            raise EtcdError(
                f"{self.spec.member}: etcd was restarted and trusts other CAs than ca.crt holds. Run again."
            )

    # --- Lock and gate -----------------------------------------------------------------------------------------------

    def _hold_lock(self, stack: contextlib.ExitStack, target: _rollout.Target) -> None:
        """Take the cluster lock for the rest of the turn, and look again: while another run held it, that may have changed the cluster."""
        try:
            _client, members = _rollout.ask_membership(target, self.process)
        except EtcdError:
            members = []
        # This member restarts, so it is asked last.
        ordered = sorted(members, key=lambda member: member.name == target.name)
        urls = dict.fromkeys([*(url for member in ordered for url in member.client_urls[:1]), *target.urls])
        kubelet = self.restarts_kubelet or bool(self.staged.changes)
        parts = [("kubelet", kubelet), ("etcd", self.restarts_etcd)]
        purpose = f"restart of {' and '.join(name for name, is_due in parts if is_due)}"
        holder = Holder(socket.gethostname(), self.spec.member, purpose)
        try:
            self.lock = stack.enter_context(
                cluster_lock(list(urls), target.credentials, holder, while_waiting=_rollout.check_controller)
            )
        except NoQuorumError:
            if self.process:
                raise
            # To start a member takes no quorum away. What differs is for a run that has one.
            self.is_alone = True
            self.leave_packages()
            self.leave_content()
        except LockRefusedError as exc:
            # A turn may be what raises the quota. It has its gate.
            if exc.alarm != "NOSPACE":
                raise
        else:
            client, members = _rollout.ask_membership(target, self.process)
            mine = entry_of(members, target.name, peer_urls(self.wanted))
            if not mine:
                raise EtcdError(
                    f"{target.name}: nothing was changed, because it has left the membership while this run waited for the cluster lock. Run again."
                )
            if not mine.started and not mine.is_learner:
                joining = urls_while_joining(peer_urls(self.wanted))
                client.update_member(mine.id, joining)
                self.starts_first = True
                # Without data, etcd compares initial-cluster with the membership. The inventory may have members that have not joined yet.
                listed = [replace(item, peer_urls=joining) if item.id == mine.id else item for item in members]
                self.take_peers(listed, mine)
            else:
                self.look(mine.started)

    def _check_lock(self) -> None:
        if self.lock:
            self.lock.check()

    def see_that_kubelet_runs(self) -> None:
        """EtcdError if etcd would be stopped and nothing would start it again."""
        if self.kubelet or not self.restarts_etcd or not (self.process or self.spec.turn):
            return
        if not _host.kubelet_unit().active:
            raise EtcdError(
                f"{self.spec.manifest} is not changed: kubelet.service does not run, so nothing would start etcd again. Run site.yml, which also starts"
                " the kubelet. `journalctl -u kubelet` shows why it does not run."
            )

    def have_images(self) -> None:
        """Have the images of etcd and of its sandbox pulled before anything stops."""
        image = _kubeadm.manifest_image(self._installed())
        if not image or not (self.content or not self.process):
            return
        self._have(
            image,
            "Correct etcd_image_repository or etcd_image_tag, make the registry reachable, or set etcd_image_archive",
        )
        pause = diagnosis.pause_image(self.spec.kubelet.runtime_endpoint)
        if pause:
            self._have(
                pause, "Correct the sandbox image in the configuration of the runtime, or make the registry reachable"
            )

    def _have(self, image: str, remedy: str) -> None:
        deadline = time.monotonic() + PULL_AGAIN
        cause = diagnosis.ensure_image(self.spec.kubelet.runtime_endpoint, image, PULL)
        while cause and not cause.final and time.monotonic() < deadline:
            _rollout.check_controller()
            time.sleep(PULL_PAUSE)
            cause = diagnosis.ensure_image(self.spec.kubelet.runtime_endpoint, image, PULL)
        if cause:
            raise EtcdError(
                f"{self.spec.member}: nothing was started or restarted, because {cause.text}. {remedy}, and run again."
            )

    def _announce(self, target: _rollout.Target) -> None:
        """Tell the cluster where the peers of this member will reach it."""
        urls = peer_urls(self.wanted)
        if self.content and not self.is_alone and peer_urls(self.before) != urls:
            self.former_urls = _rollout.announce_peer_urls(target, self.process, urls, self.check)
        if self.former_urls:
            text = f"membership: {', '.join(self.former_urls)} -> {', '.join(urls)}"
            self.reasons.append(Reason("manifest", "membership", text))

    # --- Acts --------------------------------------------------------------------------------------------------------

    def act(self, target: _rollout.Target) -> None:
        """Install packages, change the kubelet, then the manifest. A kubelet that does not run is to find the new manifest."""
        if self.staged.changes or self.restarts_kubelet:
            self.hand_over(target)
        self.install_packages()
        # One that does not run any more since its package was replaced has to be proven before etcd depends on it.
        runs = bool(self.kubelet and (self.kubelet.unit.active or self.kubelet_ran))
        if runs:
            self._check_lock()
            self.change_kubelet()
            self.prove_kubelet()
        if self.config:
            self.config.write()
        if MANIFEST in self.spec.parts:
            self._check_lock()
            if self.content and self.unreadable:
                self.make_readable(target)
            self._announce(target)
            self.change_manifest()
        if not runs:
            self.change_kubelet()
            self.prove_kubelet()

    def hand_over(self, target: _rollout.Target) -> None:
        """Have another member lead, if this one does.

        A kubelet of another minor version gives its static pods other ids. When it starts, it ends etcd for that, and clients would wait for an election.
        """
        if not self.process:
            return
        try:
            _client, members = _rollout.ask_membership(target, self.process)
            mine = _rollout.own_entry(target, self.process, members)
            urls = [url for member in members for url in member.client_urls[:1]]
            if mine:
                Membership(urls, target.credentials, _rollout.check_controller).hand_over(mine.id, HANDS_OVER)
        except _rollout.AbandonedError:
            raise
        except EtcdError:
            # Of a single member, for example. It costs an election.
            pass

    def install_packages(self) -> None:
        """Install what was fetched, and compare the host once more: by the programs that it has now."""
        if not self.staged.is_due:
            return
        self._check_lock()
        self.since, former = time.time(), _host.kubelet_unit()
        _packages.install(self.staged, self.spec.kubelet.work_dir)
        _rollout.check_controller()
        self.installed_packages, self.staged = self.staged.changes, _packages.Staged()
        # Its start is reckoned by two clocks.
        restarted = abs(_host.kubelet_unit().started - former.started) > 1.0
        self.kubelet_ran, self.package_restarted_kubelet = former.active, former.active and restarted
        self.look(self.published)

    def _start_kubelet(self) -> None:
        """The same for a host whose member does not run: there is nothing to put back."""
        try:
            self.change_kubelet()
        except KubeletError as exc:
            raise EtcdError(
                f"{self.spec.member}: the kubelet does not start: {exc}{service.last_lines(self.since)}"
            ) from exc

    def change_kubelet(self) -> None:
        """Write the kubelet's files, and start it if what runs is not what would run."""
        if not self.kubelet or not self.kubelet.reasons:
            return
        for path in (self.spec.kubelet.work_dir, self.spec.kubelet.manifests_dir):
            ensure_directory(path, DIRECTORY_MODE)
        self.since = time.time()
        self.kept = service.keep(list(self.kubelet.differing))
        service.write(self.kubelet.differing)
        try:
            service.start(self.restarts_kubelet)
        except EtcdError as exc:
            raise KubeletError(self._with_causes(str(exc))) from exc

    def change_manifest(self) -> None:
        """Install the manifest, or restart etcd with the one that is there."""
        spec = self.spec
        for path in (spec.kubelet.manifests_dir, spec.config.data_dir):
            ensure_directory(path, DIRECTORY_MODE)
        remove_strays(spec.kubelet.manifests_dir)
        for path, mode in self.own:
            if self.modes[path]:
                set_mode(path, mode)
        if not self.restarts_etcd:
            return
        self.since = time.time()
        if self.content:
            self._set_former_record_aside()
            self._install(self.wanted)
        elif self.process:
            _processes.stop(self.process)

    def _set_former_record_aside(self) -> None:
        """Move the record of a member that has left away. It would keep the kubelet from starting a member without data (before-kubelet.sh)."""
        record = read_record(self.spec.kubelet.work_dir)
        if record and record.removed:
            path = record_path(self.spec.kubelet.work_dir)
            move_file(path, f"{path}.former")

    def _install(self, manifest: str) -> None:
        """Replace the manifest, and keep the one before."""
        work_dir = self.spec.kubelet.work_dir
        if self.before:
            replace_file(os.path.join(work_dir, PREVIOUS), self.before.encode(), FILE_MODE)
        replace_file(self.spec.manifest, manifest.encode(), FILE_MODE, staging_dir=work_dir)
        self.installed = manifest

    def make_readable(self, target: _rollout.Target) -> None:
        """Restart etcd on its present version, so that it writes a raft snapshot newer than what the wanted version cannot read, and see that it has."""
        data_dir = self.spec.config.data_dir
        count = count_beyond(self._applied(target), self.unreadable)
        interim = with_snapshot_count(self.before or "", count)
        if interim is None:
            raise EtcdError(
                f"{self.spec.member}: the log has entries of etcd 3.5 that etcd 3.7 cannot read, and {self.spec.manifest} does not set --snapshot-count as"
                " kubeadm does, so this run cannot have etcd write a raft snapshot. Set etcd_image_tag to the version that runs, run site.yml, and then"
                " upgrade."
            )
        self.since = time.time()
        if interim != self.before:
            self._install(interim)
        elif self.process:
            _processes.stop(self.process)
        self.waited += self._wait_for_member(target, interim, self.process)
        deadline = time.monotonic() + SNAPSHOT_IS_WRITTEN
        while unreadable_by_3_7(data_dir):
            _rollout.check_controller()
            if time.monotonic() > deadline:
                raise EtcdError(
                    f"{self.spec.member}: restarted with --snapshot-count={count}, etcd has written no raft snapshot (member/snap/*.snap) newer than"
                    f" the entries of etcd 3.5 in its log after {SNAPSHOT_IS_WRITTEN:.0f} s, so etcd 3.7 would not start. It was not upgraded."
                )
            time.sleep(0.5)
        self.process = _processes.find_etcd_process(self.spec.member)
        self._check_lock()
        if not self.spec.allow_interruption:
            _rollout.check_gate(target)

    def _as_it_runs(self, target: _rollout.Target) -> _rollout.Target:
        """The member with the URL that clients reach it by now."""
        url = _processes.client_url_of(self.process.argv, target.urls[0]) if self.process else target.urls[0]
        return replace(target, urls=[url, *target.urls[1:]])

    def _applied(self, target: _rollout.Target) -> int:
        """The index that the member has applied; if it does not answer, that of the last entry that is not to be read again."""
        try:
            return _rollout.status_at(self._as_it_runs(target).urls[0], target).raft_applied_index
        except EtcdError:
            return self.unreadable[-1]

    # --- Proof -------------------------------------------------------------------------------------------------------

    def causes(self) -> list[Cause]:
        """What keeps the kubelet or etcd from coming up since the last act."""
        hidden = [value for text in (self.wanted, self.before or "") for value in _kubeadm.env_values(text).values()]
        try:
            return diagnosis.diagnose(self.since, self.spec.kubelet.runtime_endpoint, hidden=hidden)
        except EtcdError:
            return []

    def _with_causes(self, text: str) -> str:
        return _rollout.sentence(text, self.causes())

    def prove_kubelet(self) -> None:
        """Prove a kubelet that was restarted."""
        if self.restarts_kubelet or self.package_restarted_kubelet:
            self.see_that_kubelet_lasts()

    def see_that_kubelet_lasts(self) -> None:
        """Wait until the kubelet is healthy and has run for some seconds. KubeletError if it does not."""
        begin = time.monotonic()
        watch = _rollout.Watch(self.causes)
        while not service.is_healthy():
            _rollout.check_controller()
            late = time.monotonic() - begin > KUBELET_STARTS
            if late or watch.is_hopeless():
                raise KubeletError(self._with_causes(f"it is not healthy after {time.monotonic() - begin:.0f} s"))
            time.sleep(0.5)
        begin, started = time.monotonic(), _host.kubelet_unit().started
        # An earlier task may have started it.
        age = max(0.0, time.time() - started) if started else 0.0
        while time.monotonic() - begin < self.kubelet_lasts - age:
            _rollout.check_controller()
            if not service.answers():
                raise KubeletError(self._with_causes(f"it ended {time.monotonic() - begin:.0f} s after it was healthy"))
            time.sleep(0.5)

    def _old(self) -> _processes.Process | None:
        """The process that has to give way."""
        return self.process if self.restarts_etcd else None

    def _starts(self) -> bool:
        """Whether etcd comes up with the manifest that is there. It gets a minute; a process that lasts for ten seconds has come up.

        It need not be ready: that may take the others. EtcdError if the controller has ended meanwhile.
        """
        deadline = time.monotonic() + BACK_AGAIN
        while True:
            process = _processes.find_etcd_process(self.spec.member)
            if process and time.time() - _host.process_started(process.pid) >= LASTS:
                return True
            if time.monotonic() > deadline:
                return False
            _rollout.check_controller()
            time.sleep(1.0)

    def _runs_another_image(self) -> bool:
        """Whether the manifest would bring another image to data that etcd has run on: an upgrade, which is rolled.

        An image that could not be pulled has never run: there is no log of it.
        """
        images = [_kubeadm.manifest_image(text) for text in (self.before or "", self.wanted)]
        return images[0] != images[1] and bool(_log.log_paths(0.0))

    def _wait_until_started(self) -> float:
        """Wait until etcd runs as wanted and lasts; seconds. It need not be ready: that may take the other members."""
        begin = time.monotonic()
        wanted, old = _kubeadm.manifest_arguments(self._installed()), self._old()
        watch = _rollout.Watch(self.causes)
        while True:
            _rollout.check_controller()
            process = _processes.find_etcd_process(self.spec.member)
            problem = _processes.process_problem(process, old, wanted)
            if not problem and not service.answers():
                problem = "the kubelet does not answer"
            if process and not problem:
                ready = probe(_processes.metrics_of(process.argv, self.spec.target.metrics), _processes.ANSWER)[0]
                if ready or time.time() - _host.process_started(process.pid) >= LASTS:
                    return time.monotonic() - begin
            waited = time.monotonic() - begin
            if waited > self.spec.timeout or watch.is_hopeless():
                what = f"etcd does not run after {waited:.0f} s ({problem or 'it ends again and again'})"
                raise EtcdError(f"{self.spec.member}: {_rollout.told(what, self.causes(), self.since)}")
            time.sleep(_rollout.POLL)

    def _wait_for_member(self, target: _rollout.Target, installed: str, old: _processes.Process | None) -> float:
        """Wait until the member runs with the manifest that we have installed; seconds."""
        command = _kubeadm.manifest_arguments(installed)
        # A manifest that was put back may have etcd listen elsewhere.
        urls = [_processes.client_url_of(command, target.urls[0]), *target.urls[1:]]
        target = replace(target, urls=urls, metrics=_processes.metrics_of(command, target.metrics))
        settled = _processes.younger_than(self.spec.manifest)
        return _rollout.wait_for_member(target, command, old, self.spec.timeout, settled, self.causes)

    # --- Undo --------------------------------------------------------------------------------------------------------

    def undo(self, exc: EtcdError, target: _rollout.Target) -> str:
        """Restore what ran before, and return the result for the message."""
        _rollout.check_controller()
        # Before the kubelet starts again and writes more.
        log = service.last_lines(self.since) if isinstance(exc, KubeletError) else ""
        outcome = self._lost_lock() or " ".join(filter(None, self._put_back(target, isinstance(exc, KubeletError))))
        if self.installed_packages:
            outcome += f" The packages stay installed ({', '.join(change.text for change in self.installed_packages)})."
        if isinstance(exc, KubeletError):
            return (
                f"{self.spec.member}: the kubelet does not work with the change: {exc} {outcome} No further host has been changed. Correct"
                f" etcd_kubelet_config, and run again.{log}"
            )
        return f"{exc} {outcome}"

    def _lost_lock(self) -> str:
        """Why nothing is put back: another run changes a member, and this one may be what its quorum needs. '' if it may be."""
        try:
            self._check_lock()
        except LockUnconfirmedError:
            # A cluster that needs this member does not answer without it.
            return ""
        except LockLostError as exc:
            return f"{exc} Nothing was put back." if _processes.find_etcd_process(self.spec.member) else ""
        return ""

    def _put_back(self, target: _rollout.Target, kubelet_failed: bool) -> list[str]:
        """What ran before, in the reverse order. What was down already may come up with either manifest, so the new one stays."""
        has_manifest = bool(self.installed and self.before and self.process)
        has_kubelet = bool(self.restarts_kubelet and self.kept)
        if has_manifest and read_text(self.spec.manifest) != self.installed:
            return [changed_since(self.spec.manifest)]
        said = []
        old = _processes.find_etcd_process(self.spec.member)
        failed = (self._no_way_back(target) or self._put_manifest_back()) if has_manifest else ""
        if has_kubelet or kubelet_failed:
            said.append(self._put_kubelet_back())
        if not has_manifest:
            # etcd was not stopped, and keeps its address.
            if self.former_urls and not self.installed:
                _rollout.announce_peer_urls(target, old, self.former_urls, check=False)
            return said if kubelet_failed else [*said, _rollout.WHERE_TO_LOOK]
        return [failed or self._prove_previous(target, old), *said]

    def _no_way_back(self, target: _rollout.Target) -> str:
        """Why the previous manifest is not put back: its etcd would not start on this data. '' if it would, or if that is unknown."""
        if not self.raises_version:
            return ""
        former = etcd_version_of(_kubeadm.manifest_image(self.before or ""))
        agreed = etcd_version_in(_rollout.ask_cluster_version(target))
        if not former or not agreed or former.minor >= agreed.minor:
            return ""
        return (
            f"The previous manifest was not put back: the cluster has agreed on version {agreed.branch} meanwhile, and etcd {former} does not start on this"
            f" data any more. {_rollout.WHERE_TO_LOOK}"
        )

    def _put_manifest_back(self) -> str:
        """Install the previous manifest. Returns why that failed, '' if it did not."""
        failed = put_manifest_back(os.path.join(self.spec.kubelet.work_dir, PREVIOUS), self.spec.manifest)
        # The kubelet may not have seen yet that the manifest was replaced, and start etcd with the former one once more.
        self.since = time.time() + SETTLES
        return failed

    def _prove_previous(self, target: _rollout.Target, old: _processes.Process | None) -> str:
        try:
            if self.former_urls:
                _rollout.announce_peer_urls(target, old, self.former_urls, check=False)
            self._wait_for_member(target, self.before or "", old)
        except _rollout.AbandonedError:
            raise
        except EtcdError as exc:
            return f"The previous manifest was put back, and the member does not come up with it either: {exc} {_rollout.WHERE_TO_LOOK}"
        return (
            "The previous manifest was put back, and the member is healthy with it. No further member has been changed. Correct the"
            " change, and run again."
        )

    def _put_kubelet_back(self) -> str:
        """Start the kubelet with the files that were there before."""
        if not self.kept:
            return "This run has not changed its configuration, so there is nothing to put back."
        try:
            with system_errors():
                service.put_back(self.kept)
                service.start(restart=True)
        except EtcdError as exc:
            return f"The previous configuration of the kubelet could not be put back: {exc}"
        self.since = time.time()
        try:
            self.prove_kubelet()
        except KubeletError:
            return "The previous configuration was put back, and the kubelet does not come up with it either."
        return "The previous configuration was put back, and the kubelet runs with it."


def peers_of(members: Iterable[Member], member_id: int, name: str) -> tuple[tuple[str, str], ...]:
    """Name and peer URL of all members, as initial-cluster has them. name: of the member with this id.

    etcd learns a name when the member starts, and compares the URLs only (ValidateClusterAndAssignIDs). Names have to differ here, and need not in the
    membership.
    """
    members = list(members)
    counts = Counter([name, *(member.name for member in members if member.name and member.id != member_id)])
    names = {member.id: member.name if counts[member.name] == 1 else f"{member.id:x}" for member in members}
    return tuple(
        (name if member.id == member_id else names[member.id], url) for member in members for url in member.peer_urls
    )


def peer_urls(manifest: str | None) -> list[str]:
    """Where the other members reach the member of a manifest."""
    arguments = _kubeadm.manifest_arguments(manifest or "")
    return (_processes.value_of_flag(arguments, "initial-advertise-peer-urls") or "").split(",")
