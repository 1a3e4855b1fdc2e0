# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a static pod, etcd or kube-apiserver, does not start on this host, with the error of the program that failed.

`diagnose` reads systemd, the kubelet's journal, the runtime and etcd's log; `causes` judges this evidence. Codes are derived from
structured data: unit properties, message ids, container states, and the reasons and fields of the kubelet's log (klog).
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.cri import (
    CREATED,
    DEADLINE_EXCEEDED,
    EXITED,
    NO_ANSWER,
    RUNNING,
    UNIMPLEMENTED,
    Container,
    CriError,
    containers,
    has_image,
    pull_image,
    runtime_answers,
    sandbox_image,
    sandboxes,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import open_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import DATA_DROP_IN, DROP_IN, own_pod
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.log import (
    cause_of_death,
    complaints,
    entry_of,
    in_words,
    split,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import run
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.causes import (
    ADMISSION,
    COMPLAINS,
    CONTAINER,
    ENDED,
    FLAG,
    IMAGE,
    KUBELET,
    MANIFEST,
    MEMORY,
    POD,
    RUNTIME,
    SANDBOX,
    STOPPED,
    UNIT,
    VOLUME,
    Cause,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import printable

# A failure that repeats after this many seconds is permanent: the first retry of a container, an image or (systemd, RestartSec) the
# kubelet itself comes after 10 s.
LASTING = 10.0

# After its manifest was replaced, the former pod may still log failures while it terminates (terminationGracePeriodSeconds: 30). It is
# recognised by what the kubelet logged about it before. If the same manifest was put back, it is the same pod, and counts after that time.
BEFORE, ENDING = 60.0, 30.0

# The maximum length of a text from a log.
MOST = 600

# Message ids of systemd (sd-messages.h): a unit failed, is starting, has stopped; a process could not be started, has ended.
_UNIT_FAILED = "d9b373ed55a64feb8242e02dbe79a49c"
_BEGINS = ("7d4958e842da4a758f6c1cdc7b36dcc5", "9d1aaa27d60140bd96365438aad20286", _UNIT_FAILED)
_NOT_SPAWNED = "641257651c1b4ec9a8624d7a40a9e1e7"
_EXITED = "98e322203f7a4ed290d09fe03c09fe15"

# The kubelet's reasons for a pod that it cannot start (pkg/kubelet/container/sync_result.go, pkg/kubelet/images/types.go).
_REASONS = {
    "CreatePodSandboxError": SANDBOX,
    "ConfigPodSandboxError": SANDBOX,
    "KillPodSandboxError": SANDBOX,
    "ErrImagePull": IMAGE,
    "ImagePullBackOff": IMAGE,
    "ImageInspectError": IMAGE,
    "InvalidImageName": IMAGE,
    "ErrImageNeverPull": IMAGE,
    "RegistryUnavailable": IMAGE,
    "SignatureValidationFailed": IMAGE,
    "CreateContainerConfigError": CONTAINER,
    "CreateContainerError": CONTAINER,
    "RunContainerError": CONTAINER,
    "PreCreateHookError": CONTAINER,
}
_CRASH_LOOP = "CrashLoopBackOff"

# Messages of the kubelet about the files of static pods (pkg/kubelet/config/file.go).
_OF_MANIFESTS = ("Unable to process watch event", "Could not process manifest file", "Unable to read config path")

_UID = re.compile(r'\(UID: "([^"]*)"\)')

# The message about a pod that does not fit on the host (pkg/kubelet/allocation/allocation_manager.go, all supported kubelets).
_DENIED = "Pod admission denied"

# Errors of a registry that a retry does not change.
_FINAL_PULL = re.compile(
    r": not found\b|\b(401|403|404) \w+|[Uu]nauthorized|authorization failed|pull access denied|insufficient_scope"
    r"|invalid reference format|no match for platform|manifest unknown"
)


@dataclass(frozen=True)
class Line:
    """A line of the journal. message_id, priority: from systemd. ended: how a process ended, if the line reports that."""

    time: float
    program: str
    pid: int
    text: str
    message_id: str = ""
    priority: int = 6
    ended: str = ""


@dataclass(frozen=True)
class Entry:
    """A line of the kubelet's log (klog). fields: of a structured line."""

    time: float
    level: str
    message: str
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        """The uid of the pod that the line is about, or ''. Each version of a manifest is a pod with its own uid."""
        named = _UID.search(self.message)
        return self.fields.get("podUID") or (named.group(1) if named else "")

    @property
    def words(self) -> str:
        """The message and its error."""
        said = self.fields.get("err") or self.fields.get("error") or self.fields.get("message")
        return f"{self.message}: {said}" if said else self.message


@dataclass(frozen=True)
class Evidence:
    """The evidence. since, now: Unix seconds. runtime: why the runtime does not answer. unit: properties of kubelet.service.

    program: what the pod runs, and the name of its container and manifest.
    journal: of the kubelet, from BEFORE seconds before the change. installed: whether the change was a new manifest.
    containers, sandboxes: of the pod, the newest first. logs: text by path.
    """

    since: float
    now: float
    pod: str
    unit: Mapping[str, str]
    journal: Sequence[Line] = ()
    installed: bool = True
    runtime: str | None = None
    containers: Sequence[Container] = ()
    sandboxes: Sequence[Container] = ()
    logs: Mapping[str, str] = field(default_factory=dict)
    program: str = "etcd"


# --- Judging ---------------------------------------------------------------------------------------------------------


def causes(seen: Evidence, hidden: Iterable[str] = ()) -> list[Cause]:
    """Why etcd does not start; empty if no cause is found.

    hidden: secret texts that are masked in all causes (values of etcd_extra_envs).
    """
    seen = without(seen, hidden)
    lines = [line for line in seen.journal if line.time >= seen.since]
    former = {
        entry.uid
        for entry in entries_of(seen.journal)
        if seen.installed
        and entry.uid
        and entry.time < seen.since
        and (entry.level in "EF" or entry.message == _DENIED)
    }
    counts = seen.since + ENDING
    entries = [entry for entry in entries_of(lines) if entry.uid not in former or entry.time > counts]
    # The path of a log contains the uid of its pod.
    items = [
        item for item in seen.containers if item.created > counts or not any(uid in item.log_path for uid in former)
    ]
    seen = replace(seen, containers=items)
    found = [
        *_runtime_causes(seen),
        *_unit_causes(seen, lines),
        *(_manifest_causes(seen, entries) or _pod_causes(seen, entries) or _program_causes(seen, entries)),
    ]
    return [replace(cause, text=shown(cause.text)) for cause in found]


def without(seen: Evidence, hidden: Iterable[str]) -> Evidence:
    """The evidence with secret values masked. This comes before texts are shortened, which could leave half of a value."""
    # Short values occur in other words too, and are no secrets. In JSON and in quotes, a value may be escaped.
    values = {value for value in hidden if len(value) > 3}
    values |= {json.dumps(value)[1:-1] for value in values}
    if not values:
        return seen
    pattern = re.compile("|".join(re.escape(value) for value in sorted(values, key=len, reverse=True)))

    def hide(text: str) -> str:
        return pattern.sub("***", text)

    return replace(
        seen,
        journal=[replace(line, text=hide(line.text)) for line in seen.journal],
        containers=[replace(item, message=hide(item.message)) for item in seen.containers],
        logs={path: hide(text) for path, text in seen.logs.items()},
    )


_GRPC = re.compile(r"rpc error: code = \w+ desc = ")


def shown(text: str) -> str:
    """A text for a message: on one line, without control characters, shortened in the middle if it is long."""
    text = printable(" ".join(_GRPC.sub("", text).split()))
    return text if len(text) <= MOST else f"{text[: MOST // 2]} ... {text[-MOST // 2 :]}"


def _runtime_causes(seen: Evidence) -> list[Cause]:
    if seen.runtime is None:
        return []
    return [Cause(RUNTIME, "runtime", f"the container runtime {seen.runtime}", seen.now - seen.since >= LASTING)]


def _unit_causes(seen: Evidence, journal: Sequence[Line]) -> list[Cause]:
    """Causes in kubelet.service: it does not run, or has just been restarted after a failure."""
    unit = seen.unit
    if unit.get("LoadState", "loaded") != "loaded":
        said = unit.get("LoadError", "").strip() or f"LoadState={unit['LoadState']}"
        return [Cause(UNIT, "systemd", f"kubelet.service cannot be started: {said}", True)]
    failures = [number for number, line in enumerate(journal) if line.message_id == _UNIT_FAILED]
    running = unit.get("ActiveState") == "active" and unit.get("SubState") == "running"
    starting = unit.get("ActiveState") in ("activating", "reloading", "deactivating")
    if running and (not failures or seen.now - journal[failures[-1]].time > 2 * LASTING):
        return []
    if not failures and starting:
        return []
    # A unit that systemd does not restart stays down. A running kubelet may stay up this time.
    final = not running and (not starting or len(failures) > 1)
    program, said = last_words_of_kubelet(last_attempt(journal, failures[-1] if failures else len(journal)))
    if not said:
        program = "systemd"
        details = f" ({unit['Result']})" if unit.get("Result") else ""
        said = f"kubelet.service is {unit.get('ActiveState', 'unknown')}{details}"
    others = foreign_drop_ins(unit.get("DropInPaths", ""))
    told = f" (kubelet.service has additional drop-ins: {', '.join(others)})" if others else ""
    return [Cause(KUBELET, program, f"{said}{told}", final)]


def foreign_drop_ins(paths: str) -> list[str]:
    """Drop-ins of kubelet.service that neither this collection nor a package has installed."""
    own = (DROP_IN, DATA_DROP_IN)
    return [path for path in paths.split() if path not in own and not path.startswith(("/usr/lib/", "/lib/"))]


def last_attempt(lines: Sequence[Line], end: int) -> Sequence[Line]:
    """The lines of the last start attempt before line `end`: of the kubelet, of the scripts before it, and of systemd."""
    begin = max((number for number, line in enumerate(lines[:end]) if line.message_id in _BEGINS), default=-1)
    return lines[begin + 1 : end]


def last_words_of_kubelet(lines: Sequence[Line]) -> tuple[str, str]:
    """The program and text that explain a failed start: the kubelet's last error, else plain output of it or of a script before it, else systemd."""
    # After a signal, the kubelet's last log lines do not explain the end.
    killed = [line.text for line in lines if line.ended in ("killed", "dumped")]
    if killed:
        return "systemd", killed[-1]
    # A child of systemd is named "(kubelet)" until it has executed the program.
    said = [line for line in joined(lines) if line.program != "systemd" and not line.program.startswith("(")]
    entries = [entry for entry in entries_of(said) if entry.level in "EF"]
    panics = [line.text for line in said if line.text.startswith(("panic:", "fatal error:"))]
    # "command failed" is the last error. Earlier errors may be from parts that could continue.
    words = panics[-1:] or [entry.words for entry in entries][-1:]
    if words:
        return "kubelet", words[0]
    plain = [line for line in said if line.text.strip() and entry_of_klog(line) is None]
    if plain:
        return plain[-1].program, " ".join(line.text for line in plain[-2:])
    for wanted in (_NOT_SPAWNED, _EXITED):
        of_systemd = [line.text for line in lines if line.message_id == wanted]
        if of_systemd:
            return "systemd", of_systemd[-1]
    return "systemd", " ".join([line.text for line in lines if line.program == "systemd" and line.priority <= 4][-1:])


def _manifest_causes(seen: Evidence, entries: Sequence[Entry]) -> list[Cause]:
    """Causes in the manifest: the kubelet cannot read it, or does not admit the pod."""
    newest = max((container.created for container in seen.containers), default=0.0)
    for entry in reversed(entries):
        if entry.time < newest:
            break
        if entry.message in _OF_MANIFESTS and f"{seen.program}.yaml" in entry.words:
            return [Cause(MANIFEST, "kubelet", entry.fields.get("err", entry.words), True)]
        if entry.message == _DENIED and is_about(entry, seen.pod):
            said = entry.fields.get("message", "")
            return [Cause(ADMISSION, "kubelet", f"{entry.message}: {entry.fields.get('reason', '')}: {said}", True)]
    return []


def is_about(entry: Entry, pod: str) -> bool:
    """Whether an entry of the kubelet's log is about a pod."""
    return entry.fields.get("pod") == f"kube-system/{pod}"


_SYNC_ERROR = re.compile(r'failed to "\w+" for "[^"]*" with (\w+): "((?:[^"\\]|\\.)*)"')
_MOUNT_ERROR = re.compile(
    r'MountVolume\.\w+ failed for volume "([^"]*)".*? pod "([^"]*)" \(UID: "[^"]*"\) ?: (.*)', re.DOTALL
)


@dataclass(frozen=True)
class SyncError:
    """One failure of the kubelet to start a pod. reason: the kubelet's reason, or ''. uid: of the pod."""

    time: float
    reason: str
    text: str
    uid: str


def sync_errors(entries: Sequence[Entry], pod: str) -> list[SyncError]:
    """The kubelet's failures to start a pod, for the newest version of the manifest only."""
    found = []
    for entry in entries:
        mount = _MOUNT_ERROR.search(entry.message)
        if mount and mount.group(2) == pod:
            text = f'MountVolume failed for volume "{mount.group(1)}": {mount.group(3)}'
            found.append(SyncError(entry.time, VOLUME, text, entry.uid))
        if entry.message.startswith("Error syncing pod") and is_about(entry, pod):
            err = entry.fields.get("err", "")
            parts = _SYNC_ERROR.findall(err)
            found += [SyncError(entry.time, reason, unquoted(text), entry.uid) for reason, text in parts]
            if not parts:
                found.append(SyncError(entry.time, "", err, entry.uid))
    return [error for error in found if error.uid == found[-1].uid]


def _pod_causes(seen: Evidence, entries: Sequence[Entry]) -> list[Cause]:
    """Causes in a pod that the kubelet has admitted but cannot start: sandbox, image, container, volume."""
    newest = max((item.created for item in seen.containers if item.state != CREATED), default=0.0)
    ready = max((item.created for item in seen.sandboxes if item.state == RUNNING), default=0.0)
    found = sync_errors(entries, seen.pod)
    errors = [
        error
        for error in found
        if error.time > newest and error.reason != _CRASH_LOOP and (code_of(error) != SANDBOX or error.time > ready)
    ]
    if not errors:
        return []
    code = code_of(errors[-1])
    same = [error for error in errors if code_of(error) == code]
    # "ErrImagePull" has the reason, "ImagePullBackOff" has not.
    last = next((error for error in reversed(same) if not error.reason.endswith("BackOff")), same[-1])
    # The kubelet backs off after a container that could not be started, as after one that ended.
    lasts = (found if code == CONTAINER else same)[-1].time - same[0].time >= LASTING
    return [Cause(code, "kubelet", last.text, lasts or (code == IMAGE and bool(_FINAL_PULL.search(last.text))))]


def code_of(error: SyncError) -> str:
    """The code of a cause."""
    return VOLUME if error.reason == VOLUME else _REASONS.get(error.reason, POD)


def _program_causes(seen: Evidence, entries: Sequence[Entry]) -> list[Cause]:
    """Causes in the program itself: it was started, and has ended, or (etcd) logs errors."""
    loops = [error.time for error in sync_errors(entries, seen.pod) if error.reason == _CRASH_LOOP]
    ours = [item for item in seen.containers if item.created >= seen.since]
    # After a restart of the kubelet alone, the pod may still be in back-off.
    if not ours and loops and not seen.installed:
        ours = list(seen.containers[:1])
    if not ours:
        return []
    pod = os.path.dirname(ours[0].log_path)
    ended = [item for item in ours if item.state == EXITED and os.path.dirname(item.log_path) == pod]
    if ours[0].state == RUNNING and not ended:
        if seen.program != "etcd":
            return []
        said = complaints(seen.logs.get(ours[0].log_path, ""))
        foreign = any(_FOREIGN in message.text for message in said) and seen.now - ours[0].started >= LASTING
        return [Cause(COMPLAINS, "etcd", message.text, foreign) for message in said[:1]]
    if not ended:
        return []
    last = ended[0]
    first = min([*loops, *(item.finished for item in ended)])
    again = len(ended) > 1 or last.attempt > 0 or bool(loops)
    # If a newer container exists, it may stay up.
    lasts = ours[0] is last and again and seen.now - first >= LASTING
    return [_death(last, seen.logs.get(last.log_path, ""), lasts)]


def _death(container: Container, log: str, lasts: bool) -> Cause:
    """Why a container ended."""
    if not container.started:
        return Cause(CONTAINER, "runtime", container.message or container.reason, lasts)
    lived = f"{max(0.0, container.finished - container.started):.0f} s after its start"
    if container.reason == "OOMKilled":
        return Cause(MEMORY, "runtime", f"{container.name} was killed {lived}: OOMKilled (not enough memory)", lasts)
    if container.name != "etcd":
        return _death_by_klog(container, log, lived, lasts)
    texts = [split(line)[1] for line in log.splitlines()]
    logged = [entry for entry in map(entry_of, texts) if entry]
    dead = cause_of_death(log)
    if dead and not logged:
        # etcd parses its flags before it starts to log, and they are the same at each start.
        return Cause(FLAG, "etcd", dead, True)
    refused = next((entry for entry in logged if entry.get("msg") == _REFUSED), None)
    if refused:
        return Cause(FLAG, "etcd", in_words(refused, MOST), True)
    error = next((entry for entry in reversed(logged) if entry.get("msg") == _SERVER_ERROR), None)
    if error:
        return Cause(ENDED, "etcd", in_words(error, MOST), lasts or _REMOVED in str(error.get("error")))
    # Before etcd handles signals, Go exits with 2 after a signal, because the kernel does not kill the first process of a container.
    stopped = any(entry.get("msg") == _SIGNALLED for entry in logged) or (container.exit_code == 2 and not dead)
    if stopped:
        before = log.split(_SIGNALLED, 1)[0]
        said = "".join(f"; its log says: {message.text}" for message in complaints(before)[:1])
        return Cause(
            STOPPED, "etcd", f"etcd was stopped {lived}, probably by the kubelet after a failed probe{said}", lasts
        )
    if dead:
        fatal = next((entry for entry in reversed(logged) if entry.get("level") in ("panic", "fatal")), None)
        text = in_words(fatal, MOST) if fatal else dead
        if fatal is None or _NEEDS_OTHERS not in str(fatal.get("error")):
            return Cause(ENDED, "etcd", text, lasts)
        refused = next((entry for entry in logged if entry.get("msg") == _NO_ANSWER), None)
        return Cause(ENDED, "etcd", f"{text}; {in_words(refused)}" if refused else text, False)
    status = f"etcd ended {lived} with exit code {container.exit_code}: {container.message or container.reason}"
    said = "".join(f"; its log says: {message.text}" for message in complaints(log)[:1])
    return Cause(ENDED, "etcd", f"{status}{said}", lasts)


def _death_by_klog(container: Container, log: str, lived: str, lasts: bool) -> Cause:
    """Why a program of Kubernetes ended: its last error, else the first line that is no log, such as a refused flag."""
    lines = [Line(0.0, container.name, 0, split(line)[1]) for line in log.splitlines()]
    errors = [entry.words for entry in entries_of(lines) if entry.level in "EF"]
    plain = [line.text for line in lines if line.text.strip() and entry_of_klog(line) is None]
    said = (errors[-1:] or plain[:1] or [container.message or container.reason])[0]
    return Cause(ENDED, container.name, f"ended {lived} with exit code {container.exit_code}: {said}", lasts)


# etcd's error if a peer belongs to another cluster.
_FOREIGN = "ignored by remote peer due to cluster ID mismatch"

# A joining member ends if no other member answers. The others may still come up, so this is not final.
_NEEDS_OTHERS = "cannot fetch cluster info from peer urls"
_NO_ANSWER = "failed to get cluster response"

# Messages of etcd: conflicting flags and server errors, which end it without the level "fatal"; a signal.
_REFUSED = "failed to verify flags"
_SERVER_ERROR, _REMOVED = "server error", "permanently removed from the cluster"
_SIGNALLED = "received signal; shutting down"


# --- The kubelet's log -----------------------------------------------------------------------------------------------

_KLOG = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^ \]]+\] (.*)", re.DOTALL)
_QUOTED = r'"((?:[^"\\]|\\.)*)"'


def joined(lines: Sequence[Line]) -> list[Line]:
    """Lines with continuation lines joined: klog writes a text of several lines as KEY=<, the text, and ' >'."""
    found: list[Line] = []
    opened: dict[int, int] = {}
    for line in lines:
        number = opened.get(line.pid)
        if number is not None and not _KLOG.match(line.text):
            found[number] = replace(found[number], text=f"{found[number].text}\n{line.text}")
            if line.text.startswith(" >"):
                del opened[line.pid]
            continue
        if line.text.endswith("=<") and _KLOG.match(line.text):
            opened[line.pid] = len(found)
        found.append(line)
    return found


def entries_of(lines: Sequence[Line]) -> list[Entry]:
    """All entries in klog's format."""
    return [entry for line in joined(lines) for entry in [entry_of_klog(line)] if entry]


def entry_of_klog(line: Line) -> Entry | None:
    """A klog entry; None if the line has another format."""
    match = _KLOG.match(line.text)
    if not match:
        return None
    level, text = match.groups()
    head = re.match(_QUOTED, text)
    if not head:
        return Entry(line.time, level, text)
    pairs = re.findall(rf' (\w+)=(?:{_QUOTED}|<\n(.*?)\n >|([^ "<]\S*))', text[head.end() :], flags=re.DOTALL)
    fields = {key: unquoted(quoted) or block.replace("\t", "") or plain for key, quoted, block, plain in pairs}
    return Entry(line.time, level, unquoted(head.group(1)), fields)


def unquoted(text: str) -> str:
    """Undo Go's quoting (strconv.Quote)."""
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return re.sub(r"\\(.)", r"\1", text)


def journal_of(text: str) -> list[Line]:
    """Lines of `journalctl --output=json`."""
    found = []
    for row in text.splitlines():
        try:
            data = json.loads(row)
        except ValueError:
            continue
        said = data.get("MESSAGE")
        if isinstance(said, list):
            # journalctl writes invalid UTF-8 as a list of bytes.
            said = bytes(said).decode("utf-8", errors="replace")
        if isinstance(said, str):
            found.append(
                Line(
                    int(data.get("__REALTIME_TIMESTAMP", 0)) / 1e6,
                    str(data.get("SYSLOG_IDENTIFIER", "")),
                    int(data.get("_PID") or 0),
                    said,
                    str(data.get("MESSAGE_ID", "")),
                    int(data.get("PRIORITY") or 6),
                    str(data.get("EXIT_CODE", "")),
                )
            )
    return found


# --- Reading ---------------------------------------------------------------------------------------------------------

MANIFESTS_DIR = "/etc/kubernetes/manifests"

_PROPERTIES = "LoadState,LoadError,ActiveState,SubState,Result,MainPID,DropInPaths"
_FIELDS = "MESSAGE,SYSLOG_IDENTIFIER,PRIORITY,MESSAGE_ID,EXIT_CODE,_PID"


def look(since: float, endpoint: str, pod: str, program: str = "etcd") -> Evidence:
    """Collect the evidence, in a fraction of a second."""
    shown_unit = run(["systemctl", "show", "kubelet.service", f"--property={_PROPERTIES}"], 10.0).stdout
    journal = run(
        ["journalctl", "--unit=kubelet.service", f"--since=@{since - BEFORE:.3f}", "--lines=4000", "--output=json",
         f"--output-fields={_FIELDS}", "--quiet", "--no-pager"],
        10.0,
    ).stdout  # fmt: skip
    problem = runtime_answers(endpoint)
    found: list[Container] = []
    boxes: list[Container] = []
    if problem is None:
        try:
            found = [item for item in containers(endpoint, pod) if item.name == program]
            boxes = sandboxes(endpoint, pod)
        except CriError as exc:
            problem = str(exc)
    return Evidence(
        since=since,
        now=time.time(),
        pod=pod,
        program=program,
        unit=dict(line.split("=", 1) for line in shown_unit.splitlines() if "=" in line),
        journal=journal_of(journal),
        installed=_changed(f"{MANIFESTS_DIR}/{program}.yaml") >= since,
        runtime=problem,
        containers=found,
        sandboxes=boxes,
        logs={item.log_path: tail(item.log_path) for item in found},
    )


def _changed(path: str) -> float:
    """When a file was installed (ctime); 0 if it does not exist."""
    try:
        return os.stat(path).st_ctime
    except OSError:
        return 0.0


def tail(path: str, most: int = 1 << 20) -> str:
    """The end of a log, starting with a whole line; empty if the kubelet has removed the log with its container."""
    try:
        with open_file(path) as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - most))
            data = handle.read(most)
    except OSError:
        return ""
    return (data if size <= most else data.partition(b"\n")[2]).decode("utf-8", errors="replace")


def diagnose(
    since: float, endpoint: str, pod: str = "", hidden: Iterable[str] = (), program: str = "etcd"
) -> list[Cause]:
    """Why a program does not start on this host since a change; empty if no cause is found.

    program: what the static pod runs, and the name of its container and manifest.
    since: Unix seconds, when the manifest was installed or the kubelet started. endpoint: of the container runtime. hidden: secret texts
    to mask (values of etcd_extra_envs).
    """
    return causes(look(since, endpoint, pod or own_pod(program=program), program), hidden)


# --- Images ----------------------------------------------------------------------------------------------------------


def ensure_image(endpoint: str, image: str, timeout: float) -> Cause | None:
    """Make the runtime pull an image if it does not have it. Returns why that failed, or None."""
    try:
        if not has_image(endpoint, image):
            pull_image(endpoint, image, timeout, credentials_for(image))
    except CriError as exc:
        if exc.code in (NO_ANSWER, UNIMPLEMENTED):
            return Cause(RUNTIME, "runtime", f"the container runtime {exc}", False)
        late = exc.code == DEADLINE_EXCEEDED
        text = f"image {image} cannot be pulled: {f'the pull did not end within {timeout:.0f} s' if late else exc}"
        return Cause(IMAGE, "runtime", shown(text), bool(_FINAL_PULL.search(str(exc))))
    return None


def pause_image(endpoint: str) -> str | None:
    """The image that the runtime uses for sandboxes; None if it does not report it."""
    try:
        return sandbox_image(endpoint)
    except CriError:
        return None


# Files in which the kubelet looks for registry credentials (pkg/credentialprovider/config.go).
_DOCKER_CONFIGS = ("/var/lib/kubelet/config.json", "/root/.docker/config.json", "/.docker/config.json")


def credentials_for(image: str, paths: Iterable[str] = _DOCKER_CONFIGS) -> dict[str, str] | None:
    """Username and password for the registry of an image, as the kubelet would send them; None if there are none."""
    for path in paths:
        try:
            data = json.loads(tail(path) or "{}")
        except ValueError:
            continue
        found = credentials_in(data, image)
        if found:
            return found
    return None


def credentials_in(data: Any, image: str) -> dict[str, str] | None:
    """Username and password from a docker configuration, for the longest registry or path that is a prefix of the image name."""
    auths = data.get("auths") if isinstance(data, dict) else None
    best, found = -1, None
    for key, value in auths.items() if isinstance(auths, dict) else ():
        place = re.sub(r"^https?://|/v[12]/?$|/$", "", str(key))
        is_for = image == place or image.startswith(f"{place}/")
        if not is_for or len(place) <= best or not isinstance(value, dict):
            continue
        try:
            user, _colon, password = base64.b64decode(value.get("auth", "")).decode().partition(":")
        except ValueError:
            continue
        user, password = user or str(value.get("username", "")), password or str(value.get("password", ""))
        if user:
            best, found = len(place), {"username": user, "password": password}
    return found
