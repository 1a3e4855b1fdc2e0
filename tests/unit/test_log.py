"""Reading etcd's own log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import log as _log


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ([], None),
        (['{"level":"info","msg":"ready"}', '{"level":"warn","msg":"slow"}'], None),
        (
            [
                '{"level":"fatal","ts":"t","caller":"c","msg":"discovery failed","error":"x","stacktrace":"s"}',
                '{"level":"info"}',
            ],
            "discovery failed; error: x",
        ),
        (
            ["flag provided but not defined: -no-such-flag", "Usage:", "  etcd [flags]"],
            "flag provided but not defined: -no-such-flag",
        ),
        (['{"level":"info"}', "odd", "panic: no", "", "goroutine 1 [running]:"], "panic: no"),
    ],
)
def test_why_it_ended(lines: list[str], cause: str | None) -> None:
    log = "".join(f"2026-11-23T18:29:19.706118707Z stderr F {line}\n" for line in lines)
    assert _log.cause_of_death(log) == cause
    assert _log.cause_of_death(log + "broken\n") == cause


def test_last_lines_of_a_log() -> None:
    log = "".join(f"2026-11-23T00:00:00.0Z stderr F line {i}\n" for i in range(9))
    said = _log.last_lines(log)
    assert "line 3" not in said and said.endswith("  line 4\n  line 5\n  line 6\n  line 7\n  line 8\n")
    assert _log.last_lines("") == ""


def test_the_log_of_a_container_that_has_just_been_made_is_empty(tmp_path: Path) -> None:
    """Then the log before it is shown, unless that is older than the change."""
    place = tmp_path / "kube-system_etcd-infra0_1" / "etcd"
    place.mkdir(parents=True)
    for number, (name, text) in enumerate((("0.log", "old"), ("1.log", "why"), ("2.log", ""))):
        (place / name).write_text(text, encoding="utf-8")
        os.utime(place / name, (1000 + number, 1000 + number))
    paths = _log.log_paths(1001, str(tmp_path))
    assert [os.path.basename(path) for path in paths] == ["2.log", "1.log"]
    assert _log.last_words(paths) == "why"
    assert _log.last_words([*paths[:1], str(place / "gone.log")]) == ""


def log(*entries: tuple[int, str, dict[str, Any] | str]) -> str:
    """A log of the kubelet: seconds, level ('': plain text) and message with fields."""
    lines = []
    for second, level, content in entries:
        fields = {"msg": content} if isinstance(content, str) else content
        text = json.dumps({"level": level, "ts": "x", "caller": "y", **fields}) if level else str(content)
        lines.append(f"2026-11-26T21:{second // 60:02}:{second % 60:02}.312314942Z stderr F {text}\n")
    return "".join(lines)


REJECTED = {
    "msg": "rejected connection on peer endpoint",
    "remote-addr": "10.89.38.11:47424",
    "server-name": "",
    "error": 'tls: "10.89.38.11" does not match any of DNSNames ["infra1" "localhost"]',
    "stacktrace": "s",
}
FULL = {"msg": "failed to reach the peer URL", "error": "no space left on device"}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], []),
        ([(0, "info", "ready")], []),
        # As etcd 3.6.14 logs it: the cause many times, with its consequences in between.
        (
            [
                *[(second, "warn", REJECTED) for second in range(40)],
                *[(second, "warn", "waiting for ReadIndex response took too long, retrying") for second in range(60)],
                (59, "error", {"msg": "Health check error", "reason": "x"}),
                (59, "warn", {"msg": "prober detected unhealthy status", "rtt": "0s", "error": "EOF"}),
            ],
            [
                (
                    40,
                    'rejected connection on peer endpoint; remote-addr: 10.89.38.11:47424; error: tls: "10.89.38.11" does not match any of'
                    ' DNSNames ["infra1" "localhost"]',
                ),
                (1, "prober detected unhealthy status; rtt: 0s; error: EOF"),
            ],
        ),
        # Only consequences: they are shown if there is no cause.
        ([(0, "warn", "serving /health false")], [(1, "serving /health false")]),
        # A message of an hour ago does not count.
        (
            [(0, "warn", REJECTED), (3000, "error", FULL)],
            [(1, "failed to reach the peer URL; error: no space left on device")],
        ),
        # Our own probe of the port is left out, and so are plain text and messages of every start.
        ([(0, "warn", {**REJECTED, "error": "EOF"}), (1, "", "odd"), (2, "", "[1]")], []),
        (
            [(0, "warn", "simple token is not cryptographically signed"), (1, "warn", "serving /health false")],
            [(1, "serving /health false")],
        ),
        ([(0, level, level) for level in ("debug", "info", "warn", "error")], [(1, "warn"), (1, "error")]),
        ([(0, "warn", str(number)) for number in range(9)], [(1, "0"), (1, "1"), (1, "2")]),
    ],
)
def test_the_errors_of_a_member(entries: list[Any], said: list[tuple[int, str]]) -> None:
    assert [(message.count, message.text) for message in _log.complaints(log(*entries))] == said
    assert len(_log.complaints(log(*entries) + "broken\n")) == len(said)


@pytest.mark.parametrize(
    ("running", "listening", "text", "code", "words"),
    [
        (False, False, "", "refused", ["the kubelet has not started its container. See `journalctl -u kubelet`"]),
        (
            False,
            False,
            log((0, "fatal", FULL)),
            "refused",
            ["Its log says: failed to reach the peer URL; error: no space left"],
        ),
        (False, False, log((0, "info", "ready")), "refused", ["etcd is not running.\nThe last lines of its log:"]),
        (
            True,
            True,
            log((0, "warn", REJECTED), (1, "warn", REJECTED)),
            "timeout",
            ["(2 times in the last minute): rejected connection"],
        ),
        (True, True, log((0, "info", "ready")), "timeout", ["its log has no warning in the last minute"]),
        (True, False, log((0, "warn", FULL)), "refused", ["does not listen on its client port yet", "failed to reach"]),
        # A rule with REJECT: to a client the port seems closed.
        (
            True,
            True,
            log((0, "warn", FULL)),
            "refused",
            ["connections from other hosts fail: a firewall", "failed to reach"],
        ),
        (
            True,
            True,
            log((0, "warn", FULL)),
            "silent",
            ["connections from other hosts fail: a firewall", "failed to reach"],
        ),
        (True, True, log((0, "warn", FULL)), "", ["failed to reach"]),
    ],
)
def test_why_a_member_is_not_healthy(running: bool, listening: bool, text: str, code: str, words: list[str]) -> None:
    said = _log.explain_member(running, listening, text, code)
    assert len(said) == len(words) and all(word in line for word, line in zip(words, said)), said


def test_a_log_gives_no_commands_to_a_terminal() -> None:
    """Any client can send a server name, which etcd logs."""
    entry = {"level": "warn", "msg": "rejected connection on client endpoint", "server-name": "\x1b]0;x\x07\x1b[2J"}
    line = f"2026-11-26T20:00:00.000000Z stderr F {json.dumps(entry)}"
    texts = [
        _log.complaints(line)[0].text,
        _log.last_lines(line),
        _log.last_lines("a stderr F \x1b[2J"),
        _log.cause_of_death("a b F \x1b[2J"),
    ]
    assert not [text for text in texts if "\x1b" in str(text) or "\x07" in str(text)], texts
