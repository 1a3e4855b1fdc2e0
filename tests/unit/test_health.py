"""The verdict on a cluster from the answers of its members."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import client as _etcd_client
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import health as _health
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Certificate, Member, Status
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.alarms import alarm_text
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.database import quota_of

# Beyond 2^53: a float would change it.
IDS = [0xF000000000000001, 0xF000000000000003, 0xF000000000000005]
MEMBERS = [Member(IDS[i], f"infra{i}", [f"https://10.0.0.{6 + i}:2380"], ["x"], False) for i in range(3)]
NOW = 1_000_000.0
DAY = 86400.0
WINDOW = 90 * DAY


def seen(number: int, **changes: Any) -> _health.Seen:
    """A healthy member; infra0 leads."""
    status = Status(0xABC, IDS[number], "3.6.14", 20480, 16384, None, IDS[0], 2, 100, 100, False)
    status = replace(status, **{k: v for k, v in changes.items() if k in Status.__dataclass_fields__})
    it = _health.Seen(
        f"https://10.0.0.{6 + number}:2379",
        f"infra{number}",
        status,
        True,
        "",
        list(MEMBERS),
        "3.6.0",
        Certificate(f"infra{number}", NOW - DAY, NOW + 300 * DAY, ["localhost"]),
        0.0042,
    )
    return replace(it, **{k: v for k, v in changes.items() if k in _health.Seen.__dataclass_fields__})


def silent(number: int, code: str = "refused") -> _health.Seen:
    return _health.Seen(f"https://10.0.0.{6 + number}:2379", f"infra{number}", error="refuses connections", code=code)


def alarm(number: int | None, kind: str, blanks: str = " ") -> dict[str, Any]:
    """The status error while a member (None: the whole cluster) has an alarm. blanks: etcd 3.7 writes two."""
    return {"errors": [f"alarm:{kind}" if number is None else f"memberID:{IDS[number]}{blanks}alarm:{kind} "]}


def judge(*views: _health.Seen) -> _health.Report:
    return _health.evaluate(list(views), NOW, WINDOW)


def test_a_healthy_cluster() -> None:
    report = judge(seen(0), seen(1), seen(2))
    assert (report.verdict, report.reasons, report.findings) == ("healthy", [], [])
    assert report.healthy and report.quorum and not report.lasting
    assert (report.leader, report.cluster_id, report.version) == ("infra0", "abc", "3.6.14")
    assert (report.cluster_version, report.quorum_size) == ("3.6.0", 2)
    assert [member["id"] for member in report.members] == [f"{i:x}" for i in IDS]
    assert [member["role"] for member in report.members] == ["leader", "follower", "follower"]
    first = report.members[0]
    assert (first["leader"], first["membership"], first["round_trip"]) == (
        "infra0",
        ["infra0", "infra1", "infra2"],
        4.2,
    )
    assert (first["fragmentation"], first["quota"], first["raft_lag"]) == (0.2, 2 << 30, 0)
    assert (first["certificate"]["days_left"], first["certificate"]["not_after"][:10]) == (300, "1970-11-08")
    table = _health.render_table(report)
    assert table[-1].startswith("healthy: 3 of 3 members healthy, quorum 2, leader infra0")
    assert all(len(line) <= 90 for line in table[:-1])


def test_members_that_another_run_removes_meanwhile() -> None:
    """Two removals at once: each run expects the member that the other one removes."""
    views = [seen(0, members=MEMBERS[:2]), seen(1, members=MEMBERS[:2]), silent(2)]
    report = _health.evaluate(views, NOW, WINDOW, may_be_absent=["infra1", "infra2"])
    assert (report.verdict, report.reasons) == ("healthy", []) and len(report.members) == 2
    assert [(finding.code, finding.member) for finding in report.findings] == [
        ("absent", "infra2"),
        ("even-members", ""),
    ]
    assert any("infra2 is not in the membership" in line for line in _health.render_table(report))
    # Other operations expect it.
    assert "reports why not" in " ".join(judge(*views).reasons)
    for still in (
        # A member that lags still lists it, or no member can commit.
        [seen(0, members=MEMBERS[:2]), seen(1), silent(2)],
        [seen(0, members=MEMBERS[:2], **LOST), silent(1), silent(2)],
        [silent(0), silent(1), silent(2)],
    ):
        report = _health.evaluate(still, NOW, WINDOW, may_be_absent=["infra1", "infra2"])
        assert not report.healthy and len(report.members) == 3
    # The membership of a member that has left itself does not count.
    own = [*views[:2], seen(2, commits=False, reason="stopped")]
    assert _health.evaluate(own, NOW, WINDOW, may_be_absent=["infra2"]).healthy


def test_a_former_member_of_the_same_name_is_reported() -> None:
    """Its vote counts, and it is not asked."""
    former = Member(0xF0, "infra2", ["https://10.0.0.99:2380"], ["x"], False)
    report = judge(*(seen(i, members=[former, *MEMBERS]) for i in range(3)))
    assert report.verdict == "degraded" and report.quorum_size == 3
    assert "2 members are called infra2: f0 (https://10.0.0.99:2380); f000000000000005 (" in report.reasons[0]


LEARNER = [*MEMBERS[:2], replace(MEMBERS[2], is_learner=True)]
LOST = {"commits": False, "reason": "RAFT NO LEADER", "leader": 0}

# The answers, the verdict, and a part of the reasons.
VERDICTS: dict[str, tuple[list[_health.Seen], str, str]] = {
    "one down": ([seen(0), seen(1), silent(2)], "degraded", "infra2: refuses connections"),
    "two down": ([seen(0, **LOST), silent(1), silent(2)], "down", "infra1: refuses connections"),
    "two cut off": ([seen(0, **LOST), silent(1, "timeout"), silent(2, "timeout")], "down", "No member knows a leader"),
    "all down": ([silent(0), silent(1), silent(2)], "down", "infra0: refuses connections"),
    "two refuse, one is silent": ([silent(0), silent(1), silent(2, "timeout")], "down", "infra1: refuses"),
    "one refuses, two are silent": ([silent(0), silent(1, "timeout"), silent(2, "timeout")], "unknown", "infra0"),
    "nobody accepts us": ([silent(i, "tls-client-refused") for i in range(3)], "unknown", "infra0"),
    "one lags behind an election": (
        [seen(0), seen(1), seen(2, **LOST)],
        "degraded",
        "infra2 is not healthy: RAFT NO LEADER",
    ),
    "no leader": ([seen(i, **LOST) for i in range(3)], "down", "quorum is lost, or an election"),
    "no leader any more": ([seen(0), seen(1), seen(2, leader=0)], "degraded", "infra2 knows no leader"),
    "two leaders": ([seen(0), seen(1, leader=IDS[1]), seen(2)], "degraded", "different leaders"),
    "two clusters": ([seen(0), seen(1, cluster_id=0xDEF), seen(2)], "degraded", "infra0 abc, infra1 def"),
    "one missing": (
        [seen(0, members=MEMBERS[:2]), seen(1, members=MEMBERS[:2]), silent(2)],
        "degraded",
        "infra2 is not in the membership",
    ),
    "one too many": ([seen(0), seen(1)], "degraded", "infra2 is in the membership, but not in the inventory"),
    "two memberships": ([seen(0), seen(1, members=MEMBERS[:2]), seen(2)], "degraded", "report different memberships"),
    "full": ([seen(0), seen(1, **alarm(1, "NOSPACE")), seen(2)], "degraded", "Alarm NOSPACE at infra1: the database"),
    "corrupt": ([seen(0, **alarm(2, "CORRUPT")), seen(1), seen(2)], "degraded", "Alarm CORRUPT at infra2: its data"),
    "corrupt, and etcd does not know where": (
        [seen(i, **alarm(None, "CORRUPT")) for i in range(3)],
        "degraded",
        "Alarm CORRUPT for the whole cluster: the data of the members differs, etcd cannot tell which",
    ),
    "corrupt, told by one member only": (
        [seen(0), seen(1), seen(2, **alarm(None, "CORRUPT"))],
        "degraded",
        "Alarm CORRUPT for the whole cluster",
    ),
    "full, all of it": (
        [seen(0, **alarm(None, "NOSPACE")), seen(1)],
        "degraded",
        "Alarm NOSPACE for the whole cluster: the",
    ),
    "an alarm of a later etcd": (
        [seen(0), seen(1, **alarm(2, "9", "  ")), seen(2)],
        "degraded",
        "Alarm 9 at infra2: see the log of etcd.",
    ),
    "an error of a later etcd": (
        [seen(0), seen(1, errors=["disk is slow"]), seen(2)],
        "degraded",
        "infra1 reports: disk is slow.",
    ),
    "learner": (
        [seen(0, members=LEARNER), seen(1, members=LEARNER), seen(2, members=[], is_learner=True, commits=False)],
        "degraded",
        "infra2 is a learner: it has no vote and serves no clients. Run site.yml to finish its join",
    ),
    "no address": ([seen(0), seen(1), silent(2, "address")], "degraded", "infra2: refuses"),
    "half an answer": ([seen(0), seen(1), seen(2, error="infra2 hangs", commits=False)], "degraded", "infra2 hangs"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_verdicts(case: str) -> None:
    views, verdict, words = VERDICTS[case]
    report = judge(*views)
    assert report.verdict == verdict, report
    assert any(words in text for text in report.reasons), report.reasons
    assert report.quorum == (verdict == "degraded") and not report.healthy
    table = _health.render_table(report)
    assert table[len(views) + 1].startswith(f"{verdict}: ") and any(line.startswith("PROBLEM: ") for line in table)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_of_endpoints_without_names_there_may_be_more(count: int) -> None:
    assert judge(*(replace(silent(i), name="") for i in range(count))).verdict == "unknown"


@pytest.mark.parametrize("kind", ["CORRUPT", "NOSPACE"])
def test_data_is_compared_only_if_it_is_in_doubt(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """At a revision that all have. Members without an answer are not asked again."""
    answers = {"infra0": seen(0, revision=9, **alarm(None, kind)), "infra1": seen(1, revision=7), "infra2": silent(2)}
    asked: list[tuple[str, int]] = []

    def ask(endpoint: str, revision: int, _paths: Any, _timeout: float) -> _health.Data:
        asked.append((endpoint, revision))
        return _health.Data(1, revision, 5)

    monkeypatch.setattr(_health, "look", lambda name, *_given: answers[name])
    monkeypatch.setattr(_health, "ask_data", ask)
    found = _health.look_at_all([(name, answers[name].endpoint) for name in answers], ("", "", ""), 1.0)
    expected = [(answers[name].endpoint, 7) for name in ("infra0", "infra1")] if kind == "CORRUPT" else []
    assert sorted(asked) == expected and [bool(item.data) for item in found] == [bool(expected)] * 2 + [False]


def test_a_member_without_an_address_is_not_asked() -> None:
    seen_it = _health.look_at_all([("infra2", "")], ("", "", ""), 1)
    assert seen_it[0].code == "address"
    report = judge(seen(0), seen(1), *seen_it)
    assert report.reasons == ["infra2: its address is unknown. Set etcd_address or ansible_host to its address."]
    assert _health.render_table(report)[3].split()[:4] == ["infra2", "-", "no", "answer"]


@pytest.mark.parametrize(
    ("told", "given", "size", "found"),
    [
        (None, 8 << 30, 3 << 30, False),
        (None, 2 << 30, 3 << 30, True),
        (4 << 30, 2 << 30, 3 << 30, False),
        (-1, 2 << 30, 3 << 30, False),
        (None, -1, 3 << 30, False),
    ],
)
def test_the_quota_that_counts(told: int | None, given: int, size: int, found: bool) -> None:
    """The quota that the member reports, else its flag. A negative one means no quota."""
    views = [seen(i, quota=told, db_size=size, db_size_in_use=size) for i in range(3)]
    report = _health.evaluate(views, NOW, WINDOW, given)
    assert ("quota" in [finding.code for finding in report.findings]) is found
    assert all("-" not in line.split()[7] for line in _health.render_table(report)[1:4])


@pytest.mark.parametrize(
    ("value", "quota"),
    [
        (None, 2 << 30),
        (8589934592, 8589934592),
        ("8589934592", 8589934592),
        ("0x200000000", 8589934592),
        # A flag that is given twice.
        (["1", "8589934592"], 8589934592),
        ([], 2 << 30),
        (0, 2 << 30),
        ("-1", 0),
        ("8G", 0),
        ("8 GiB", 0),
        ("8e9", 0),
        (8.5, 0),
        (True, 0),
        ("", 0),
        ({"a": 1}, 0),
        (["8G"], 0),
    ],
)
def test_a_quota_as_it_is_written_for_etcd(value: Any, quota: int) -> None:
    assert quota_of(value) == quota
    assert judge(seen(0)).members[0]["quota"] == 2 << 30
    assert _health.evaluate([seen(0)], NOW, WINDOW, quota).members[0]["quota"] == quota


@pytest.mark.parametrize(
    ("verdict", "wanted", "enough"),
    [
        ("healthy", "healthy", True),
        ("healthy", "degraded", True),
        ("degraded", "healthy", False),
        ("degraded", "degraded", True),
        ("unknown", "degraded", False),
        ("down", "degraded", False),
    ],
)
def test_which_verdict_is_good_enough(verdict: str, wanted: str, enough: bool) -> None:
    assert replace(judge(seen(0)), verdict=verdict).at_least(wanted) is enough


@pytest.mark.parametrize(
    ("views", "lasting"),
    [
        ([seen(0), seen(1), seen(2)], False),
        ([seen(0, **alarm(1, "NOSPACE")), seen(1), seen(2)], True),
        ([seen(0, **alarm(1, "NOSPACE")), seen(1), seen(2, **LOST)], False),
        ([seen(0, **alarm(1, "NOSPACE")), seen(1), silent(2)], False),
        # The inventory lacks a member.
        ([seen(0), seen(1)], True),
        ([seen(0), seen(1, **LOST)], False),
        # The membership lacks a member.
        ([seen(number, members=MEMBERS[:2]) for number in range(3)], False),
    ],
)
def test_what_stays_is_not_waited_for(views: list[_health.Seen], lasting: bool) -> None:
    assert judge(*views).lasting is lasting


def test_a_member_with_an_alarm_of_its_own_is_not_healthy() -> None:
    report = judge(*(seen(i, **alarm(1, "NOSPACE")) for i in range(3)))
    assert [line["healthy"] for line in report.members] == [True, False, True]
    assert [line["alarms"] for line in report.members] == [[], ["NOSPACE"], []]
    assert report.alarms == [{"kind": "NOSPACE", "member": "infra1"}]


@pytest.mark.parametrize("kind", ["CORRUPT", "NOSPACE", "9"])
def test_an_alarm_of_the_whole_cluster_is_one_of_each_member(kind: str) -> None:
    report = judge(seen(0, **alarm(None, kind)), seen(1), silent(2))
    assert [line["healthy"] for line in report.members] == [False, False, False]
    assert [line.get("alarms") for line in report.members] == [[kind], [kind], None]
    assert report.alarms == [{"kind": kind, "member": ""}]
    table = _health.render_table(report)
    assert "UNHEALTHY" in table[1] and kind in table[1] and "degraded: 0 of 3 members healthy" in table[4]


def test_an_alarm_of_the_whole_cluster_asks_to_compare_data_first() -> None:
    assert "defragment.yml" in alarm_text("NOSPACE", "")
    # It ends when the member leaves.
    assert "replace_member.yml" in alarm_text("CORRUPT", "a")
    words = alarm_text("CORRUPT", "")
    assert words.index("snapshot") < words.index("health.yml") and "disarm" not in words


# The answer of one member, and the finding: code, words of its text, words of its remedy.
FINDINGS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "certificate": (
        {"certificate": Certificate("x", NOW - DAY, NOW + 10 * DAY, [])},
        "certificate",
        "infra1 expires in 10 days",
        "Run site.yml",
    ),
    "certificate at the edge": (
        {"certificate": Certificate("x", NOW - DAY, NOW + WINDOW - 1, [])},
        "certificate",
        "in 89 days",
        "site.yml",
    ),
    "default quota": ({"db_size": 1900 << 20}, "quota", "has reached 92 % of its quota", "quota-backend-bytes"),
    "quota": ({"db_size": 190, "quota": 200}, "quota", "has reached 95 %", "defragment.yml"),
    "fragmented": (
        {"db_size": 600 << 20, "db_size_in_use": 60 << 20},
        "fragmentation",
        "90 % of the",
        "defragment.yml",
    ),
    "mixed": ({"version": "3.6.15"}, "mixed-versions", "3.6.14, 3.6.15", "Finish the upgrade"),
    "downgrade": (
        {"version": "3.5.35", "downgrade": "3.5.0"},
        "downgrade",
        "to etcd 3.5 is under way: 1 of 3 members run 3.5",
        "site.yml -e etcd_downgrade=cancel",
    ),
    "lag": ({"raft_index": 6000, "raft_applied_index": 100}, "lag", "infra1 lags 5900 log entries behind", "disk"),
    "below the floor": (
        {"version": "3.6.13"},
        "security",
        "GHSA-6vch-q96h-7gc3",
        "etcd_image_tag to 3.6.14-0 or later",
    ),
    "below the floor of 3.5": ({"version": "3.5.24"}, "security", "etcd 3.5.24", "3.5.33-0"),
    "below the floor of 3.7": ({"version": "3.7.0"}, "security", "etcd 3.7.0", "3.7.1-0"),
    "no more fixes": ({"version": "3.4.45"}, "security", "gets no more fixes", "one minor version at a time"),
}


def test_a_downgrade_is_not_reported_as_an_unfinished_upgrade() -> None:
    report = judge(seen(0, downgrade="3.6.0"), seen(1, version="3.7.3"), seen(2))
    assert report.downgrade == "3.6" and "mixed-versions" not in [finding.code for finding in report.findings]
    assert judge(seen(0), seen(1), seen(2)).downgrade == ""


@pytest.mark.parametrize("case", FINDINGS)
def test_findings(case: str) -> None:
    change, code, words, remedy = FINDINGS[case]
    report = judge(seen(0), seen(1, **change), seen(2))
    assert report.verdict == "healthy", report.reasons
    found = [finding for finding in report.findings if finding.code == code]
    if code != "lag":
        assert [finding.member for finding in found] == ["" if code in ("mixed-versions", "downgrade") else "infra1"], (
            report.findings
        )
    assert any(words in finding.text and remedy in finding.remedy for finding in found), report.findings
    assert any(line.startswith("FINDING: ") and words in line for line in _health.render_table(report))


@pytest.mark.parametrize(
    "change",
    [
        {"version": "3.6.14"},
        {"version": "3.5.33"},
        {"version": "3.7.1"},
        {"version": "3.8.0"},
        {"version": "3.10.0"},
        {"certificate": Certificate("x", NOW - DAY, NOW + WINDOW, [])},
        {"certificate": None},
        {"db_size": 160, "quota": 200},
        {"db_size": 100 << 20, "db_size_in_use": 1},
        {"raft_index": 1100, "raft_applied_index": 100},
    ],
)
def test_no_findings(change: dict[str, Any]) -> None:
    assert judge(*(seen(i, **change) for i in range(3))).findings == []


@pytest.mark.parametrize(("count", "found"), [(1, False), (2, True), (3, False), (4, True)])
def test_an_even_number_of_members(count: int, found: bool) -> None:
    members = [Member(i + 1, f"infra{i}", ["x"], ["x"], False) for i in range(count)]
    report = judge(seen(0, members=members))
    assert [f.code for f in report.findings] == (["even-members"] if found else [])
    assert report.quorum_size == count // 2 + 1


def test_versions_are_compared_as_numbers() -> None:
    report = judge(seen(0, version="3.10.1"), seen(1, version="3.9.0"), seen(2, version="3.9.0"))
    assert report.version == "3.9.0"


def test_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting ends when the verdict is good enough. Each change is reported once."""
    clock = [0.0]
    monkeypatch.setattr(_health.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(_health.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    reports = [judge(*(seen(i, **LOST) for i in range(3)))] * 5 + [judge(seen(0), seen(1), silent(2))] * 5
    reports += [judge(seen(0), seen(1), seen(2))]
    told: list[str] = []
    given: list[float] = []

    def ask(seconds: float) -> _health.Report:
        given.append(seconds)
        clock[0] += 1.0
        return reports[min(len(given), len(reports)) - 1]

    report, progress, waited = _health.wait_for("healthy", 60, 3, ask, told.append)
    assert report.healthy and progress == told and len(progress) == 3
    assert progress[0].startswith("after 1 s: down; ") and progress[2] == f"after {waited:.0f} s: healthy"
    assert _health.wait_for(None, 60, 3, ask, told.append)[2] == 1.0
    # The timeout always holds.
    given.clear()
    clock[0] = 0.0
    report, progress, waited = _health.wait_for("healthy", 5, 3, ask, told.append)
    assert not report.healthy and waited <= 6 and given[0] == 3 and given[-1] < 3
    given.clear()
    assert _health.wait_for("degraded", 60, 3, ask, told.append)[0].verdict == "degraded"


@pytest.mark.parametrize(
    ("runs", "code", "seconds"), [(True, "refused", 16), (False, "refused", 59), (True, "expired", 59)]
)
def test_a_member_that_runs_behind_a_firewall(
    runs: bool, code: str, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host sees it run, so a firewall is in between, and waiting does not help."""
    clock = [0.0]
    monkeypatch.setattr(_health.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(_health.time, "sleep", lambda pause: clock.__setitem__(0, clock[0] + pause))
    report = judge(seen(0), seen(1), silent(2, code))
    waited = _health.wait_for("healthy", 60, 3, lambda _seconds: report, lambda _line: None, runs)[2]
    assert abs(waited - seconds) <= 2


def verification(number: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_message, error.verify_code = "words of OpenSSL", number
    return error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "refused", "refuses connections"),
        (socket.timeout("timed out"), "silent", "does not answer on TCP: the host is down, a firewall drops"),
        (TimeoutError("timed out"), "silent", "does not answer on TCP"),
        (socket.gaierror(-2, "Name or service not known"), "name", "cannot be resolved (Name or service not known)"),
        (verification(62), "tls-san", "etcd_server_cert_sans"),
        (verification(64), "tls-san", "etcd_server_cert_sans"),
        (verification(10), "tls-expired", "has expired"),
        (verification(9), "tls-not-yet-valid", "compare the clocks"),
        (verification(19), "tls-unknown-ca", "ca.crt did not sign (words of OpenSSL)"),
        (ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] x"), "tls-client-refused", "our client certificate"),
        (ssl.SSLError(1, "[SSL: SSLV3_ALERT_BAD_CERTIFICATE] x"), "tls-client-refused", "our client certificate"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] x"), "tls-client-refused", "our client certificate"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR] x"), "tls-server", "its own certificate and key"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] x"), "tls", "fails in the TLS handshake"),
        (ssl.SSLEOFError(8, "EOF occurred"), "closed", "closes the connection"),
        (ConnectionResetError(104, "Connection reset by peer"), "closed", "closes the connection"),
        (http.client.RemoteDisconnected("closed"), "closed", "closes the connection"),
        (http.client.BadStatusLine("220"), "garbage", "not HTTP (BadStatusLine)"),
        (OSError(113, "No route to host"), "unreachable", "No route to host"),
    ],
)
def test_failed_connections_are_explained(error: Exception, code: str, words: str) -> None:
    found, text = _etcd_client.explain(error)
    assert (found, words in text) == (code, True), text


def test_a_firewall_is_not_suspected_once_tcp_came_through() -> None:
    for error in (socket.timeout("timed out"), TimeoutError("timed out")):
        code, text = _etcd_client.explain(error, connected=True)
        assert code == "timeout" and "firewall" not in text and "etcd has seen no leader" in text


@pytest.mark.parametrize("ends_with_ca", [False, True])
def test_the_remedy_for_a_certificate_that_expires_soon(ends_with_ca: bool) -> None:
    """No run can renew one that expires with its CA."""
    soon = Certificate("infra1", NOW - DAY, NOW + 20 * DAY, ["localhost"], ends_with_ca)
    finding = judge(seen(0), seen(1, certificate=soon), seen(2)).findings[0]
    assert finding.code == "certificate" and ("Run site.yml to renew it" in finding.remedy) is not ends_with_ca
    assert ("Its CA expires at the same time" in finding.remedy) is ends_with_ca


def test_a_member_that_runs_and_refuses_connections() -> None:
    """The remedy does not ask whether etcd runs: its host has seen it."""
    assert "a firewall rejects them" in _health.known_to_run(silent(1)).error
    assert _health.known_to_run(silent(1, "expired")) == silent(1, "expired") and _health.known_to_run(seen(1)) == seen(
        1
    )


def test_where_members_are_asked() -> None:
    members = [{"name": "a", "address": "10.0.0.6"}, {"name": "b", "address": "fd00::7"}, {"name": "c", "address": ""}]
    assert _health.expected(members, 2379) == [
        ("a", "https://10.0.0.6:2379"),
        ("b", "https://[fd00::7]:2379"),
        ("c", ""),
    ]


A, B, C = (_health.Data(5, 90, number) for number in (0xA, 0xB, 0xC))


@pytest.mark.parametrize(
    ("held", "behind", "differs", "words"),
    [
        ((A, A, A), (), [""], "infra0, infra1, infra2 have the same data."),
        ((A, A, B), (), ["infra2"], "The data of infra2 is not that of infra0, infra1."),
        ((B, A, A), (), ["infra0"], "The data of infra0 is not that of infra1, infra2."),
        # Its data is the same up to its revision, but later writes are missing.
        ((A, A, replace(A, revision=89)), (), ["infra2"], "The data of infra2 is not"),
        (
            (A, B, C),
            (),
            [""],
            "infra0: hash a up to revision 90, now at 100; infra1: hash b up to revision 90, now at 100",
        ),
        ((A, B, None), (), [""], "No 2 members are known to have the same data"),
        ((A, None, None), (), [""], "No 2 members"),
        ((None, None, None), (), [], ""),
        # It has not applied all entries yet.
        ((A, A, B), (2,), [], ""),
        ((A, B, B), (2,), [""], "No 2 members"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_members_whose_data_differs(
    held: tuple[_health.Data | None, ...], behind: tuple[int, ...], differs: list[str], words: str, whole: bool
) -> None:
    answers = [seen(number, revision=100, raft_applied_index=99 if number in behind else 100) for number in range(3)]
    for answer, data in zip(answers, held):
        answer.data = data
    found = _health.data_findings(answers, 2, whole)
    assert [finding.member for finding in found] == differs and words in " ".join(item.text for item in found)
    assert all(("Disarm the alarm" in item.remedy) is whole for item in found if item.member)
    assert all(("restore.yml" in item.remedy) is (item.code == "data-differs") for item in found if not item.member)
