"""Why etcd does not start, from recorded messages of kubelet 1.36.3, containerd 1.6.20, systemd 252 and etcd 3.6.14 (tests/unit/diagnosis)."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import cri
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import diagnosis as _diagnosis
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.cri import EXITED, RUNNING, Container, CriError
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.diagnosis import Evidence, Line
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import Done
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.causes import Cause

RECORDED = Path(__file__).with_name("diagnosis")
UNIT = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running"}

# By recording: code, program and words of the one cause that was final in the end.
TABLE = [
    # The manifest, and the pod that it makes.
    ("badyaml", "manifest", "kubelet", "couldn't parse as pod(yaml: line 12: did not find expected node content)"),
    ("badname", "manifest", "kubelet", 'metadata.name: Invalid value: "etcd_Foo-infra0"'),
    ("hostname", "manifest", "kubelet", 'metadata.name: Invalid value: "etcd-infra_0"'),
    ("admit", "admission", "kubelet", "Pod admission denied: UnexpectedAdmissionError: "),
    (
        "volume",
        "volume",
        "kubelet",
        'volume "etcd-certs": hostPath type check failed: /etc/kubernetes/pki/nope is not a directory',
    ),
    # The sandbox: pause image, resolver, cgroup driver.
    ("pause", "sandbox", "kubelet", 'failed to get sandbox image "registry.k8s.io/pause:3.99"'),
    ("resolv", "sandbox", "kubelet", "open /etc/resolv.conf: no such file or directory"),
    ("kcgroup", "sandbox", "kubelet", 'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups'),
    # The image.
    ("badimage", "image", "kubelet", 'failed to resolve reference "registry.invalid/k8s/etcd:3.6.8-0"'),
    ("notfound", "image", "kubelet", "127.0.0.1:5999/k8s/etcd:3.6.8-0: not found"),
    ("unauthorized", "image", "kubelet", "401 Unauthorized"),
    # The container, and etcd.
    ("nocommand", "container", "kubelet", 'exec: "etcdd": executable file not found in $PATH'),
    ("oom", "memory", "runtime", "OOMKilled"),
    ("quota", "flag", "etcd", 'invalid value "8G" for flag -quota-backend-bytes: parse error'),
    (
        "badargs",
        "flag",
        "etcd",
        "--election-timeout[300ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    (
        "nocert",
        "ended",
        "etcd",
        "listener failed; error: open /etc/kubernetes/pki/etcd/gone.crt: no such file or directory",
    ),
    ("nodatadir", "ended", "etcd", "failed to list data directory; dir: /etc/kubernetes/pki/etcd/ca.crt"),
    ("port", "ended", "etcd", "listen tcp 127.0.0.1:2999: bind: address already in use"),
    # The kubelet.
    ("kvalue", "kubelet", "kubelet", "invalid configuration: maxPods (--max-pods) -1 must not be a negative number"),
    ("kreserved", "kubelet", "kubelet", "Failed to start ContainerManager: invalid Node Allocatable configuration."),
    (
        "kflag",
        "kubelet",
        "kubelet",
        "unknown flag: --no-such-flag (kubelet.service has additional drop-ins: /etc/systemd/system/",
    ),
    ("kgone", "kubelet", "systemd", "Failed at step EXEC spawning /usr/bin/nokubelet: No such file or directory"),
    (
        "kpre",
        "kubelet",
        "systemd",
        "Control process exited, code=exited, status=1/FAILURE (kubelet.service has additional drop-ins: ",
    ),
    ("kdep", "kubelet", "systemd", "Unit nosuch.service not found."),
    ("guard", "kubelet", "sh", "etcd is not started: this host is a member of a cluster"),
]


def recorded(name: str) -> Evidence:
    """Evidence of a real host, shortened."""
    data = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    data["journal"] = [Line(**line) for line in data["journal"]]
    for key in ("containers", "sandboxes"):
        data[key] = [Container(**item) for item in data[key]]
    return Evidence(**data)


@pytest.mark.parametrize(("name", "code", "program", "words"), TABLE)
def test_what_was_seen_on_a_host(name: str, code: str, program: str, words: str) -> None:
    (cause,) = _diagnosis.causes(recorded(name))
    assert (cause.code, cause.program, cause.final) == (code, program, True)
    assert words in cause.text and len(cause.text) < 800 and "\n" not in cause.text


def test_every_recording_is_in_the_table() -> None:
    assert sorted(path.stem for path in RECORDED.glob("*.json")) == sorted(row[0] for row in TABLE)


# --- What does not count ---------------------------------------------------------------------------------------------


def container(**fields: Any) -> Container:
    return Container(**{"id": "c", "name": "etcd", "attempt": 0, "state": RUNNING, "created": 105.0, **fields})


@pytest.mark.parametrize("name", ["badimage", "volume", "pause", "badname", "admit", "nocommand"])
def test_a_failure_before_a_success_is_not_a_cause(name: str) -> None:
    """The container runs, so the failure before it is over."""
    seen = recorded(name)
    assert _diagnosis.causes(replace(seen, containers=[container(created=seen.now)])) == []


def test_a_sandbox_that_is_ready_had_no_lasting_trouble() -> None:
    seen = recorded("pause")
    assert _diagnosis.causes(replace(seen, sandboxes=[container(created=seen.now)])) == []


def test_a_last_attempt_of_the_former_pod() -> None:
    """It was on its way as the new manifest came."""
    seen = recorded("quota")
    uid = seen.containers[0].log_path.split("/")[-3].rsplit("_", 1)[1]
    text = f'E1127 01:00:00.000000 7 x.go:1] "Error syncing pod, skipping" err="e" pod="kube-system/etcd-infra0" podUID="{uid}"'
    before = replace(seen, journal=[Line(seen.since - 5.0, "kubelet", 7, text)])
    assert _diagnosis.causes(before) == []
    assert _diagnosis.causes(replace(before, installed=False)) != []


@pytest.mark.parametrize("name", ["badimage", "volume", "pause", "admit"])
def test_the_pod_of_the_former_manifest_is_not_the_new_one(name: str) -> None:
    """The old pod still fails for some seconds. It counts after that, or if the manifest has not changed."""
    seen = recorded(name)
    former = [replace(line, time=seen.since - 5.0) for line in seen.journal]
    before = replace(seen, journal=[*former, *seen.journal])
    assert _diagnosis.causes(before) == []
    assert _diagnosis.causes(replace(before, installed=False)) != []
    later = [replace(line, time=line.time + _diagnosis.ENDING) for line in seen.journal]
    assert _diagnosis.causes(replace(before, journal=[*former, *later])) != []


def test_the_container_of_the_former_manifest_is_not_the_new_one() -> None:
    seen = replace(recorded("quota"), since=recorded("quota").now)
    assert _diagnosis.causes(seen) == []


def test_no_cause_yet() -> None:
    assert _diagnosis.causes(Evidence(100.0, 101.0, "etcd-infra0", UNIT)) == []
    for state in ("activating", "deactivating"):
        assert _diagnosis.causes(Evidence(100.0, 101.0, "etcd-infra0", {**UNIT, "ActiveState": state})) == []


# --- The first look and the last one ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "seconds"), [("badimage", 8.0), ("pause", 8.0), ("volume", 8.0), ("kvalue", 8.0)])
def test_what_may_pass_is_not_final_at_once(name: str, seconds: float) -> None:
    seen = recorded(name)
    end = seen.journal[0].time + seconds
    early = replace(seen, now=end, journal=[line for line in seen.journal if line.time < end])
    (cause,) = _diagnosis.causes(early)
    assert not cause.final and cause.code == _diagnosis.causes(seen)[0].code


@pytest.mark.parametrize(
    ("said", "final"),
    [
        ('failed to resolve reference "127.0.0.1:5999/k8s/etcd:9": 127.0.0.1:5999/k8s/etcd:9: not found', True),
        ('pulling from host 127.0.0.1:5999 failed with status code [manifests 9]: 401 Unauthorized', True),
        ('failed to parse image reference "Bad image": invalid reference format', True),
        ("dial tcp: lookup registry.invalid on 127.0.0.1:53: read: connection refused", False),
        ('Head "https://r/v2/": net/http: TLS handshake timeout', False),
    ],
)  # fmt: skip
def test_an_answer_of_a_registry_is_final(said: str, final: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(*_arguments: object) -> None:
        raise CriError(cri.UNKNOWN, f"failed to pull: {said}\x1b[2J")

    monkeypatch.setattr(_diagnosis, "has_image", lambda _endpoint, _image: False)
    monkeypatch.setattr(_diagnosis, "pull_image", pull)
    cause = _diagnosis.ensure_image("unix:///c.sock", "registry/etcd:9", 1.0)
    assert cause and (cause.code, cause.program, cause.final) == ("image", "runtime", final)
    assert cause.text.startswith("image registry/etcd:9 cannot be pulled: failed to pull:") and "\x1b" not in cause.text


def test_an_image_that_is_there_is_not_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_diagnosis, "has_image", lambda _endpoint, _image: True)
    monkeypatch.setattr(_diagnosis, "pull_image", pytest.fail)
    assert _diagnosis.ensure_image("unix:///c.sock", "registry/etcd:9", 1.0) is None
    monkeypatch.undo()
    gone = _diagnosis.ensure_image("unix:///nowhere/c.sock", "registry/etcd:9", 1.0)
    assert gone == Cause("runtime", "runtime", "the container runtime does not exist", False)


# --- etcd's end ------------------------------------------------------------------------------------------------------


def ended(log: str, now: float = 130.0, **fields: Any) -> list[Cause]:
    text = "".join(f"2026-11-27T01:00:00.0Z stderr F {line}\n" for line in log.splitlines())
    item = container(
        state=EXITED, started=105.0, finished=106.0, log_path="/l", **{"attempt": 1, "exit_code": 1, **fields}
    )
    return _diagnosis.causes(Evidence(100.0, now, "etcd-infra0", UNIT, containers=[item], logs={"/l": text}))


def test_a_single_exit_of_etcd_is_not_final() -> None:
    """Except for refused flags, which are the same at each start."""
    fatal = '{"level":"fatal","msg":"discovery failed","error":"member count is unequal","stacktrace":"s"}'
    words = "discovery failed; error: member count is unequal"
    assert ended(fatal, now=107.0) == [Cause("ended", "etcd", words, False)]
    assert ended(fatal) == [Cause("ended", "etcd", words, True)]
    assert ended(fatal, attempt=0) == [Cause("ended", "etcd", words, False)]
    flag = "flag provided but not defined: -no-such-flag\nUsage:\n\n  etcd [flags]"
    assert ended(flag, now=107.0) == [Cause("flag", "etcd", "flag provided but not defined: -no-such-flag", True)]


def test_a_member_that_was_removed() -> None:
    """It ends with 0, and without a fatal error (etcd 3.6.14)."""
    log = (
        '{"level":"warn","msg":"skipped attributes update of removed member"}\n'
        '{"level":"error","msg":"server error","error":"the member has been permanently removed from the cluster"}\n'
        '{"level":"warn","msg":"data-dir used by this member must be removed"}'
    )
    words = "server error; error: the member has been permanently removed from the cluster"
    assert ended(log, now=107.0, exit_code=0) == [Cause("ended", "etcd", words, True)]


def test_a_peer_of_another_cluster() -> None:
    words = "request sent was ignored by remote peer due to cluster ID mismatch"
    log = f'2026-11-27T01:00:00.0Z stderr F {{"level":"warn","msg":"{words}","error":"cluster ID mismatch"}}\n'
    item = container(log_path="/l", started=105.0)
    seen = Evidence(100.0, 110.0, "p", UNIT, containers=[item], logs={"/l": log})
    assert _diagnosis.causes(seen) == [Cause("complains", "etcd", f"{words}; error: cluster ID mismatch", False)]
    assert _diagnosis.causes(replace(seen, now=116.0))[0].final


def test_an_etcd_that_needs_the_others_may_wait_for_them() -> None:
    """Seen with etcd 3.6.14 and initial-cluster-state=existing."""
    refused = 'Get "http://127.0.0.1:34380/members": dial tcp 127.0.0.1:34380: connect: connection refused'
    log = [
        {
            "level": "warn",
            "msg": "failed to get cluster response",
            "address": "http://127.0.0.1:34380/members",
            "error": refused,
        },
        {
            "level": "fatal",
            "msg": "discovery failed",
            "error": "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
        },
    ]
    (cause,) = ended("\n".join(map(json.dumps, log)))
    assert not cause.final and "could not retrieve cluster" in cause.text and refused in cause.text


def test_an_etcd_that_was_started_again_may_stay_up() -> None:
    seen = recorded("port")
    last = seen.containers[0]
    again = replace(last, id="new", state=RUNNING, created=last.finished + 5.0, finished=0.0, attempt=last.attempt + 1)
    (cause,) = _diagnosis.causes(replace(seen, containers=[again, *seen.containers]))
    assert (cause.code, cause.final) == ("ended", False)
    # Another pod is another manifest.
    other = replace(again, log_path="/var/log/pods/kube-system_etcd-infra0_other/etcd/0.log")
    assert _diagnosis.causes(replace(seen, containers=[other, *seen.containers])) == []


def test_an_exit_without_a_message() -> None:
    assert (
        ended("", exit_code=137, reason="Error")[0].text == "etcd ended 1 s after its start with exit code 137: Error"
    )
    (killed,) = ended("", exit_code=137, reason="OOMKilled")
    assert (killed.code, killed.program, killed.final) == ("memory", "runtime", True)


def test_the_errors_of_an_etcd_before_it_was_stopped() -> None:
    log = (
        '{"level":"warn","msg":"failed to reach the peer URL","error":"refused"}\n'
        '{"level":"info","msg":"received signal; shutting down","signal":"terminated"}\n'
        '{"level":"error","msg":"setting up serving from embedded etcd failed.","error":"use of closed network connection"}'
    )
    (cause,) = ended(log, exit_code=0)
    assert cause.code == "stopped" and cause.text.endswith("its log says: failed to reach the peer URL; error: refused")


def test_an_etcd_that_runs_and_complains() -> None:
    log = '2026-11-27T01:00:00.0Z stderr F {"level":"warn","msg":"failed to reach the peer URL","error":"refused"}\n'
    seen = Evidence(100.0, 130.0, "p", UNIT, containers=[container(log_path="/l")], logs={"/l": log})
    assert _diagnosis.causes(seen) == [
        Cause("complains", "etcd", "failed to reach the peer URL; error: refused", False)
    ]
    # Of the former manifest.
    assert _diagnosis.causes(replace(seen, since=110.0)) == []


def test_values_that_are_hidden() -> None:
    """Also if they are escaped or cut off. Very short values are not hidden, since they are part of other words."""
    (cause,) = _diagnosis.causes(recorded("quota"), hidden=["quota-backend-bytes", "8G", ""])
    assert cause.text == 'invalid value "8G" for flag -***: parse error'
    value = 'geheim"\n' * 99
    for log in (f"invalid value {json.dumps(value)}: no", json.dumps({"level": "fatal", "msg": "no", "error": value})):
        text = f"2026-11-27T01:00:00.0Z stderr F {log}\n"
        item = container(state=EXITED, started=105.0, finished=106.0, log_path="/l")
        seen = Evidence(100.0, 130.0, "p", UNIT, containers=[item], logs={"/l": text})
        assert "geheim" in _diagnosis.causes(seen)[0].text and "geheim" not in _diagnosis.causes(seen, [value])[0].text
    seen = Evidence(
        100.0, 130.0, "p", {**UNIT, "ActiveState": "failed", "SubState": "failed"}, [Line(101.0, "sh", 1, "geheim")]
    )
    assert _diagnosis.causes(seen, ["geheim"])[0].text == "***"


def test_what_is_shown() -> None:
    assert _diagnosis.shown("a\n\tb\x1b[0m") == "a b\ufffd[0m"
    assert _diagnosis.shown(f"begin {'x' * 5000} end").startswith("begin x") and _diagnosis.shown(
        "x" * 5000 + "end"
    ).endswith("xend")
    assert len(_diagnosis.shown("x" * 5000)) == _diagnosis.MOST + 5


# --- systemd ---------------------------------------------------------------------------------------------------------

FAILED = _diagnosis._UNIT_FAILED


def unit(lines: list[tuple[float, str, str, str]], now: float = 130.0, **properties: str) -> list[Cause]:
    journal = [Line(time, program, 7, text, message_id, 3) for time, program, text, message_id in lines]
    return _diagnosis.causes(Evidence(100.0, now, "etcd-infra0", {**UNIT, **properties}, journal))


DEATH = (
    (101.0, "kubelet", 'E1127 01:00:00.000000       7 run.go:72] "command failed" err="no"', ""),
    (101.1, "systemd", "kubelet.service: Failed with result 'exit-code'.", FAILED),
)


@pytest.mark.parametrize(
    ("lines", "properties", "final"),
    [
        (DEATH, {"ActiveState": "activating", "SubState": "auto-restart"}, False),
        (DEATH + DEATH, {"ActiveState": "activating", "SubState": "auto-restart"}, True),
        # systemd has given up.
        (DEATH, {"ActiveState": "failed", "SubState": "failed"}, True),
        # It has just been started once more.
        (DEATH, {"now": 105.0}, False),
        (DEATH + DEATH, {"now": 105.0}, False),
        (DEATH, {"now": 130.0}, None),
    ],
)
def test_a_kubelet_that_failed(lines: Any, properties: dict[str, Any], final: bool | None) -> None:
    expected = [] if final is None else [Cause("kubelet", "kubelet", "command failed: no", final)]
    assert unit(list(lines), **properties) == expected


def test_a_kubelet_without_words() -> None:
    stopped = unit([], ActiveState="inactive", SubState="dead", Result="success")
    assert stopped == [Cause("kubelet", "systemd", "kubelet.service is inactive (success)", True)]
    masked = unit(
        [], LoadState="masked", LoadError='org.freedesktop.systemd1.UnitMasked "Unit kubelet.service is masked."'
    )
    assert masked[0].code == "unit" and "is masked" in masked[0].text and masked[0].final
    assert "LoadState=not-found" in unit([], LoadState="not-found", LoadError="")[0].text


def test_a_panic_says_more_than_errors_before_it() -> None:
    lines = [DEATH[0], (101.0, "kubelet", "panic: nil", ""), (101.0, "kubelet", "goroutine 1 [running]:", ""), DEATH[1]]
    assert unit(lines, ActiveState="activating", SubState="auto-restart")[0].text == "panic: nil"


def test_a_kubelet_that_was_killed_did_not_end_for_its_last_error() -> None:
    lines = [
        Line(
            101.0,
            "kubelet",
            7,
            'E1127 01:00:00.000000       7 x.go:1] "Version from runtime service failed" err="canceled"',
        ),
        Line(101.1, "systemd", 1, "kubelet.service: Main process exited, code=killed, status=9/KILL", ended="killed"),
        Line(101.2, "systemd", 1, "kubelet.service: Failed with result 'signal'.", FAILED, 4),
    ]
    seen = Evidence(100.0, 105.0, "p", {**UNIT, "ActiveState": "activating", "SubState": "auto-restart"}, lines)
    words = "kubelet.service: Main process exited, code=killed, status=9/KILL"
    assert _diagnosis.causes(seen) == [Cause("kubelet", "systemd", words, False)]


def test_files_of_others_are_named() -> None:
    paths = "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf /etc/systemd/system/kubelet.service.d/20-etcd-service-manager.conf"
    other = "/etc/systemd/system/kubelet.service.d/90-site.conf"
    assert _diagnosis.foreign_drop_ins(f"{paths} {other}") == [other]
    (cause,) = unit(list(DEATH), ActiveState="failed", SubState="failed", DropInPaths=f"{paths} {other}")
    assert cause.text == f"command failed: no (kubelet.service has additional drop-ins: {other})"


def test_a_runtime_that_does_not_answer() -> None:
    seen = Evidence(100.0, 105.0, "p", UNIT, runtime="does not exist")
    assert _diagnosis.causes(seen) == [Cause("runtime", "runtime", "the container runtime does not exist", False)]
    assert _diagnosis.causes(replace(seen, now=111.0))[0].final


# --- Reading ---------------------------------------------------------------------------------------------------------


def test_klog() -> None:
    def entry(text: str) -> Any:
        return _diagnosis.entry_of_klog(Line(1.0, "kubelet", 7, text))

    head = "E1127 01:24:39.389887     369 pod_workers.go:1338] "
    quoted = entry(head + r'"Error syncing \"it\"" err="a \\\"b\\\" \x1b c" pod="kube-system/etcd" n=3')
    assert quoted.message == 'Error syncing "it"'
    assert quoted.fields == {"err": 'a \\"b\\" x1b c', "pod": "kube-system/etcd", "n": "3"}
    assert entry(head + "Operation for x failed").words == "Operation for x failed"
    assert entry("panic: no") is None
    lines = [
        Line(1.0, "kubelet", 7, text)
        for text in (head + '"command failed" err=<', "\ttwo", "\tlines", " >", head + '"x"')
    ]
    assert [item.words for item in _diagnosis.entries_of(lines)] == ["command failed: two\nlines", "x"]


def test_the_journal() -> None:
    rows = [
        {
            "MESSAGE": "a",
            "__REALTIME_TIMESTAMP": "1500000",
            "_PID": "7",
            "SYSLOG_IDENTIFIER": "kubelet",
            "PRIORITY": "3",
        },
        {"MESSAGE": [98, 255], "__REALTIME_TIMESTAMP": "2000000"},
        {"MESSAGE": None},
    ]
    text = "\n".join([*map(json.dumps, rows), "broken"])
    assert _diagnosis.journal_of(text) == [Line(1.5, "kubelet", 7, "a", "", 3), Line(2.0, "", 0, "b\ufffd")]


def test_a_host_without_systemd_and_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_diagnosis, "run", lambda _argv, _timeout: Done(127, "", "is not installed"))
    runtime, kubelet = _diagnosis.diagnose(0.0, "unix:///nowhere/c.sock", "etcd-infra0")
    assert runtime == Cause("runtime", "runtime", "the container runtime does not exist", True)
    assert kubelet == Cause("kubelet", "systemd", "kubelet.service is unknown", True)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    assert _diagnosis.tail(str(path)) == ""
    path.write_bytes(b"one\ntwo\nthree \xff\n")
    assert _diagnosis.tail(str(path)) == "one\ntwo\nthree \ufffd\n"
    assert _diagnosis.tail(str(path), 11) == "three \ufffd\n"


# --- Before a change -------------------------------------------------------------------------------------------------


def test_passwords_of_registries(tmp_path: Path) -> None:
    def auth(text: str) -> dict[str, str]:
        return {"auth": base64.b64encode(text.encode()).decode()}

    config = {
        "auths": {"https://r.example/v1/": auth("u:p:q"), "r.example/k8s": auth("v:w"), "other": auth("o:o"), "x": 3}
    }
    assert _diagnosis.credentials_in(config, "r.example/etcd:1") == {"username": "u", "password": "p:q"}
    assert _diagnosis.credentials_in(config, "r.example/k8s/etcd:1") == {"username": "v", "password": "w"}
    for data in (
        None,
        [],
        {"auths": {"r.example": {"auth": "%"}}},
        {"auths": {"r.example": {}}},
        {"auths": {"r.ex": auth("a:b")}},
    ):
        assert _diagnosis.credentials_in(data, "r.example/etcd:1") is None
    path = tmp_path / "config.json"
    assert _diagnosis.credentials_for("other/etcd:1", [str(path)]) is None
    path.write_text("{")
    assert _diagnosis.credentials_for("other/etcd:1", [str(path)]) is None
    path.write_text(json.dumps(config))
    assert _diagnosis.credentials_for("other/etcd:1", [str(path)]) == {"username": "o", "password": "o"}
