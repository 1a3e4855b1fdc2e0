"""What is said of a cluster, from what its members say."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils import _etcd_client, _health
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd_client import Alarm, Member, Status

# Beyond 2^53: a float would change it.
IDS = [0xF000000000000001, 0xF000000000000003, 0xF000000000000005]
MEMBERS = [Member(IDS[i], f"infra{i}", [f"https://10.0.0.{6 + i}:2380"], ["x"], False) for i in range(3)]
NOW = 1_000_000.0


def seen(number: int, **changes: Any) -> _health.Seen:
    """A healthy member; infra0 leads."""
    status = Status(0xABC, IDS[number], "3.6.14", 20480, 16384, None, IDS[0], 2, 100, 100, False)
    status = replace(status, **{k: v for k, v in changes.items() if k in Status.__dataclass_fields__})
    it = _health.Seen(
        f"https://10.0.0.{6 + number}:2379", f"infra{number}", status, True, "", list(MEMBERS), [], NOW + 300 * 86400
    )
    return replace(it, **{k: v for k, v in changes.items() if k in _health.Seen.__dataclass_fields__})


def silent(number: int) -> _health.Seen:
    return _health.Seen(f"https://10.0.0.{6 + number}:2379", f"infra{number}", error="refuses connections")


def test_a_healthy_cluster() -> None:
    report = _health.evaluate([seen(0), seen(1), seen(2)], NOW, 30)
    assert report.healthy and report.quorum and not report.problems and not report.warnings
    assert (report.leader, report.cluster_id, report.version) == ("infra0", "abc", "3.6.14")
    assert [member["id"] for member in report.members] == [f"{i:x}" for i in IDS]
    table = _health.render_table(report)
    assert table[-1].startswith("3 of 3 members healthy, quorum 2, leader infra0")
    assert all(len(line) <= 90 for line in table[:-1])


@pytest.mark.parametrize(
    ("views", "quorum", "words"),
    [
        ([seen(0), seen(1), silent(2)], True, "infra2: refuses connections"),
        ([seen(0), silent(1), silent(2)], False, "infra1: refuses connections"),
        (
            [seen(0), seen(1), seen(2, healthy=False, reason="RAFT NO LEADER")],
            True,
            "infra2 is not healthy: RAFT NO LEADER",
        ),
        ([seen(0, leader=0), seen(1, leader=0), seen(2, leader=0)], True, "No member knows a leader"),
        ([seen(0), seen(1, leader=IDS[1]), seen(2)], True, "different leaders"),
        ([seen(0), seen(1, cluster_id=0xDEF), seen(2)], True, "are different clusters"),
        (
            [seen(0, members=MEMBERS[:2]), seen(1, members=MEMBERS[:2]), silent(2)],
            True,
            "infra2 is not in the membership",
        ),
        ([seen(0), seen(1)], True, "infra2 is in the membership, but not expected"),
        ([seen(0), seen(1, members=MEMBERS[:2]), seen(2)], True, "do not agree on the membership"),
        ([seen(0, alarms=[Alarm(IDS[1], "NOSPACE")]), seen(1), seen(2)], True, "Alarm NOSPACE at infra1"),
    ],
)
def test_problems(views: list[_health.Seen], quorum: bool, words: str) -> None:
    report = _health.evaluate(views, NOW, 30)
    assert not report.healthy and report.quorum is quorum
    assert any(words in text for text in report.problems), report.problems
    assert any(line.startswith("PROBLEM: ") for line in _health.render_table(report))


@pytest.mark.parametrize(
    ("views", "lasting"),
    [
        ([seen(0), seen(1), seen(2)], False),
        ([seen(0, alarms=[Alarm(IDS[1], "NOSPACE")]), seen(1), seen(2)], True),
        ([seen(0, alarms=[Alarm(IDS[1], "NOSPACE")]), seen(1, healthy=False, reason="ALARM NOSPACE"), seen(2)], True),
        ([seen(0, alarms=[Alarm(IDS[1], "NOSPACE")]), seen(1, healthy=False, reason="RAFT NO LEADER"), seen(2)], False),
        ([seen(0, alarms=[Alarm(IDS[1], "NOSPACE")]), seen(1), silent(2)], False),
    ],
)
def test_alarms_are_not_waited_for(views: list[_health.Seen], lasting: bool) -> None:
    assert _health.evaluate(views, NOW, 30).lasting is lasting


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"certificate_end": NOW + 10 * 86400}, "ends in 10 days"),
        ({"db_size": 1900 << 20}, "has reached 92 % of its quota"),
        ({"db_size": 190, "quota": 200}, "has reached 95 % of its quota"),
        ({"raft_applied_index": 100, "is_learner": True}, "is a learner"),
        ({"version": "3.6.15"}, "different versions: 3.6.14, 3.6.15"),
    ],
)
def test_warnings(change: dict[str, Any], words: str) -> None:
    report = _health.evaluate([seen(0), seen(1, **change), seen(2)], NOW, 30)
    assert report.healthy and any(words in text for text in report.warnings), report.warnings


def test_lag() -> None:
    report = _health.evaluate([seen(0, raft_index=5000), seen(1), seen(2)], NOW, 30)
    assert "infra1 is 4900 entries behind." in report.warnings


def test_nobody_answers() -> None:
    report = _health.evaluate([silent(0), silent(1), silent(2)], NOW, 30)
    assert not report.healthy and not report.quorum and report.leader == ""
    assert "no answer" in _health.render_table(report)[1]


def verification(text: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(text)
    error.verify_message = text
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "refuses connections"),
        (TimeoutError("timed out"), "does not answer in time"),
        (verification("IP address mismatch, certificate is not valid for '10.0.0.6'."), "etcd_server_cert_sans"),
        (verification("certificate has expired"), "has expired"),
        (verification("self signed certificate in certificate chain"), "ca.crt did not sign"),
        (ssl.SSLError(1, "tlsv13 alert certificate required"), "does not accept our client certificate"),
        (ConnectionResetError(104, "Connection reset by peer"), "does not accept our client certificate"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
def test_failed_connections_are_explained(error: Exception, words: str) -> None:
    assert words in _etcd_client.explain(error)


def test_missing_files_are_named(tmp_path: Any) -> None:
    with pytest.raises(_etcd_client.EtcdUnreachableError, match=r"ca\.crt is missing or cannot be read"):
        _etcd_client.EtcdClient("https://10.0.0.6:2379", str(tmp_path / "ca.crt"), "", "")


@pytest.mark.parametrize(
    ("errors", "alarms"),
    [
        ([], []),
        (["etcdserver: no leader"], []),
        (["memberID:17949158737846155715 alarm:CORRUPT "], [Alarm(17949158737846155715, "CORRUPT")]),
        (["memberID:1  alarm:NOSPACE", "etcdserver: no leader"], [Alarm(1, "NOSPACE")]),
    ],
)
def test_alarms_in_a_status(errors: list[str], alarms: list[Alarm]) -> None:
    assert Status(0, 0, "", 0, 0, None, 0, 0, 0, 0, False, errors).alarms == alarms
