"""The cluster lock against a table of what etcd answers, without time. tests/etcd/test_lock.py has real etcd."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import lock as _lock
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdUnreachableError
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import (
    KEY,
    ClusterLock,
    Holder,
    LockBusyError,
    LockLostError,
    LockRefusedError,
    LockUnconfirmedError,
    NoQuorumError,
    Record,
    Standing,
    cluster_lock,
    read_standing,
)

URLS = ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]
FILES = ("ca.crt", "client.crt", "client.key")
HOLDER = Holder("infra0", "infra0", "manifest")
OTHER = Record("infra1", "infra1", "kubelet", "2026-11-27 01:06:39 UTC", 60, "another")


class FakeEtcd:
    """One store behind all URLs. Time passes only in sleep(), and by `seconds` for each request without an answer."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.value = ""
        self.lease = 0
        # etcd's own: 1.5 times its election timeout.
        self.least_ttl = 2
        self.leases: dict[int, float] = {}
        self.alarms: list[str] = []
        self.down = False
        # Path to how many answers get lost (after the request was carried out).
        self.lost: dict[str, int] = {}
        # Path to the code by which it is refused, once.
        self.refused: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for lease in [lease for lease, end in self.leases.items() if end <= self.now and "CORRUPT" not in self.alarms]:
            self.end(lease)

    def hold(self, record: Record, seconds: float = 60) -> None:
        self.lease, self.value = 7, record.dump()
        self.leases[7] = self.now + seconds

    def end(self, lease: int) -> None:
        del self.leases[lease]
        if self.lease == lease:
            self.value, self.lease = "", 0

    def found(self) -> dict[str, Any]:
        return {"kvs": [{"value": encoded(self.value), "lease": str(self.lease)}]} if self.value else {}

    def answer(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        lease = int(body.get("ID", 0))
        if self.alarms and path in ("lease/grant", "kv/txn", *(["lease/revoke"] if "CORRUPT" in self.alarms else [])):
            raise EtcdUnreachableError("refused", "grpc" if "CORRUPT" in self.alarms else "exhausted")
        if path == "lease/grant":
            if lease in self.leases:
                raise EtcdUnreachableError("exists", "precondition")
            ttl = max(self.least_ttl, int(body["TTL"]))
            self.leases[lease] = self.now + ttl
            return {"TTL": str(ttl)}
        if path == "lease/keepalive":
            if lease not in self.leases:
                return {"result": {"ID": body["ID"]}}
            self.leases[lease] = self.now + 60
            return {"result": {"ID": body["ID"], "TTL": "60"}}
        if path == "lease/timetolive":
            return {"TTL": str(int(self.leases.get(lease, 0) - self.now))}
        if path == "lease/revoke":
            if lease not in self.leases:
                raise EtcdUnreachableError("no such lease", "not-found")
            self.end(lease)
            return {}
        if path == "kv/range":
            return self.found()
        if path == "maintenance/alarm":
            return {"alarms": [{"alarm": alarm} for alarm in self.alarms]}
        assert path == "kv/txn"
        if self.value:
            return {"responses": [{"response_range": self.found()}]}
        put = body["success"][0]["request_put"]
        if int(put["lease"]) not in self.leases:
            raise EtcdUnreachableError("no such lease", "not-found")
        self.value, self.lease = base64.b64decode(put["value"]).decode(), int(put["lease"])
        return {"succeeded": True}

    def client(self, url: str, *_files: str, timeout: float) -> FakeClient:
        return FakeClient(self, url, timeout)


class FakeClient:
    def __init__(self, etcd: FakeEtcd, url: str, timeout: float) -> None:
        self.etcd, self.url, self.timeout = etcd, url, timeout

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.etcd.asked.append((self.url, path))
        if self.etcd.down:
            self.etcd.sleep(self.timeout)
            raise EtcdUnreachableError(f"{self.url} is down.", "silent")
        if path in self.etcd.refused:
            raise EtcdUnreachableError("refused", self.etcd.refused.pop(path))
        answer = self.etcd.answer(path, body)
        if self.etcd.lost.get(path, 0) > 0:
            self.etcd.lost[path] -= 1
            self.etcd.sleep(self.timeout)
            raise EtcdUnreachableError(f"{self.url} does not answer in time.", "timeout")
        return answer


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def etcd(monkeypatch: pytest.MonkeyPatch) -> FakeEtcd:
    fake = FakeEtcd()
    monkeypatch.setattr(_lock, "EtcdClient", fake.client)
    monkeypatch.setattr(_lock, "clock", lambda: fake.now)
    monkeypatch.setattr(_lock.time, "sleep", fake.sleep)
    # The renewing thread would depend on the speed of the machine. check() calls the same function.
    monkeypatch.setattr(_lock.ClusterLock, "_keep", lambda _lock: None)
    return fake


def take(etcd: FakeEtcd, patience: float = 100.0, **options: Any) -> None:
    """Take, check and release the lock."""
    with cluster_lock(URLS, FILES, HOLDER, patience=patience, **options) as lock:
        assert json.loads(etcd.value)["nonce"] == lock.record.nonce
        lock.check()


def check_for_ever(lock: ClusterLock) -> None:
    while True:
        lock.check()


def test_the_lock_is_taken_and_released(etcd: FakeEtcd) -> None:
    take(etcd)
    assert (etcd.value, etcd.leases) == ("", {})


def test_the_lock_is_released_after_an_error(etcd: FakeEtcd) -> None:
    with pytest.raises(KeyError), cluster_lock(URLS, FILES, HOLDER):
        raise KeyError
    assert (etcd.value, etcd.leases) == ("", {})


def test_the_key_is_apart_from_kubernetes() -> None:
    assert not KEY.startswith("/")


@pytest.mark.parametrize("path", ["lease/grant", "kv/txn", "lease/revoke", "kv/range", "lease/keepalive"])
@pytest.mark.parametrize("losses", [1, 2, 3])
def test_lost_answers(etcd: FakeEtcd, path: str, losses: int) -> None:
    etcd.lost[path] = losses
    take(etcd, patience=0)
    assert (etcd.value, etcd.leases) == ("", {})


@pytest.mark.parametrize("path", ["kv/range", "lease/grant", "kv/txn"])
def test_a_refusal_that_passes_is_tried_again(etcd: FakeEtcd, path: str) -> None:
    """Too many requests: the code of NOSPACE, and no alarm."""
    etcd.refused[path] = "exhausted"
    take(etcd)


def test_a_lease_that_ended_before_the_key_was_there(etcd: FakeEtcd) -> None:
    answer = etcd.answer

    def ended(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if path == "kv/txn":
            etcd.answer = answer  # type: ignore[method-assign]
            etcd.leases.clear()
        return answer(path, body)

    etcd.answer = ended  # type: ignore[method-assign]
    take(etcd)


def test_a_lease_that_ends_with_the_key_just_put(etcd: FakeEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is old, since another run held the lock first."""
    answer, puts = etcd.answer, []

    def ends(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        result = answer(path, body)
        if path == "kv/txn":
            puts.append(etcd.lease)
            if len(puts) == 1:
                etcd.end(etcd.lease)
        return result

    monkeypatch.setattr(etcd, "answer", ends)
    take(etcd)
    assert len(set(puts)) == 2


# --- Waiting ----------------------------------------------------------------------------------------------------------


def test_another_holder_is_waited_for(etcd: FakeEtcd) -> None:
    etcd.hold(OTHER, seconds=50)
    take(etcd)
    assert 1050 <= etcd.now < 1052


def test_another_holder_for_too_long(etcd: FakeEtcd) -> None:
    etcd.hold(OTHER)
    with pytest.raises(LockBusyError) as raised, cluster_lock(URLS, FILES, HOLDER, patience=20):
        pass
    assert raised.value.record == OTHER and etcd.lease == 7
    text = str(raised.value)
    assert "host infra1, which works on member infra1 (kubelet) since 2026-11-27 01:06:39 UTC" in text
    assert "waited 20 s" in text and "expires 60 s later" in text


def test_who_is_at_work(etcd: FakeEtcd) -> None:
    """For a run that waits in vain."""
    assert _lock.at_work(URLS, FILES) == []
    etcd.hold(OTHER)
    (text,) = _lock.at_work(URLS, FILES)
    assert "Another run holds the cluster lock (host infra1, which works on member infra1 (kubelet)" in text
    etcd.down = True
    assert _lock.at_work(URLS, FILES) == []


def test_a_wait_that_is_abandoned(etcd: FakeEtcd) -> None:
    etcd.hold(OTHER)
    calls = iter([None, None, KeyError()])

    def look() -> None:
        error = next(calls)
        if error:
            raise error

    with pytest.raises(KeyError), cluster_lock(URLS, FILES, HOLDER, while_waiting=look):
        pass
    assert etcd.lease == 7


def test_no_quorum(etcd: FakeEtcd) -> None:
    etcd.down = True
    with pytest.raises(NoQuorumError, match=r"the cluster has no quorum: .*10\.0\.0\.1.*10\.0\.0\.2"):
        take(etcd)
    assert etcd.now < 1000 + _lock.ELECTION + 2 * _lock.ANSWER * len(URLS) + _lock.CONFIRM


@pytest.mark.parametrize(
    ("alarms", "refused"), [(["NOSPACE"], "NOSPACE"), (["CORRUPT"], "CORRUPT"), (["NOSPACE", "CORRUPT"], "CORRUPT")]
)
def test_an_alarm(etcd: FakeEtcd, alarms: list[str], refused: str) -> None:
    etcd.alarms = alarms
    with pytest.raises(LockRefusedError) as raised:
        take(etcd)
    assert raised.value.alarm == refused


def test_a_holder_under_an_alarm_is_waited_for(etcd: FakeEtcd) -> None:
    etcd.hold(OTHER)
    etcd.alarms = ["NOSPACE"]
    with pytest.raises(LockBusyError):
        take(etcd, patience=20)


def test_a_holder_that_ended_under_corrupt(etcd: FakeEtcd) -> None:
    """Its key does not go away before the alarm does."""
    etcd.hold(OTHER, seconds=10)
    etcd.alarms = ["CORRUPT"]
    with pytest.raises(LockRefusedError, match="has expired, and etcd cannot delete it"):
        take(etcd)
    assert etcd.now < 1020


# --- Holding ----------------------------------------------------------------------------------------------------------


def test_without_answers_the_lock_is_held_for_two_thirds_of_its_lease(etcd: FakeEtcd) -> None:
    with cluster_lock(URLS, FILES, HOLDER, ttl=60) as lock:
        confirmed = etcd.now
        etcd.down = True
        while etcd.now < confirmed + 33:
            lock.check()
            etcd.sleep(1)
        with pytest.raises(LockUnconfirmedError, match=r"for 4\d s, and it expires after 60 s: .*is down"):
            check_for_ever(lock)
        # Before the lease ends.
        assert etcd.now < confirmed + 60
        etcd.down = False
        # No leader, no end of leases.
        etcd.now = confirmed + 500
        lock.check()


def test_the_time_counts_from_before_the_request(etcd: FakeEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the keepalive comes 30 s after it was sent."""
    slow = FakeClient.call

    def call(client: FakeClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = slow(client, path, body)
        if path == "lease/keepalive":
            etcd.now += 30
        return answer

    monkeypatch.setattr(FakeClient, "call", call)
    monkeypatch.setattr(_lock, "CONFIRM", 60.0)
    with cluster_lock(URLS, FILES, HOLDER, ttl=60) as lock:
        etcd.down = True
        etcd.now += 9
        with pytest.raises(LockUnconfirmedError):
            lock.check(patience=2)


def test_a_lock_that_is_gone(etcd: FakeEtcd) -> None:
    with cluster_lock(URLS, FILES, HOLDER) as lock:
        etcd.end(lock.lease)
        with pytest.raises(LockLostError, match="its lease has expired"):
            lock.check()
        # Even if it is the holder again later.
        etcd.hold(lock.record)
        with pytest.raises(LockLostError):
            lock.check()


def test_a_lock_that_another_run_has(etcd: FakeEtcd) -> None:
    with cluster_lock(URLS, FILES, HOLDER) as lock:
        etcd.end(lock.lease)
        etcd.hold(OTHER)
        with pytest.raises(LockLostError, match=r"another run holds it now .host infra1") as raised:
            lock.check()
        assert not isinstance(raised.value, LockUnconfirmedError)
    assert etcd.lease == 7


def test_a_new_leader_that_does_not_know_the_lease_yet(etcd: FakeEtcd) -> None:
    """The lock is held while its key exists."""
    with cluster_lock(URLS, FILES, HOLDER) as lock:
        end = etcd.leases.pop(lock.lease)
        lock.check()
        etcd.leases[lock.lease] = end
        lock.check()


def test_the_member_that_answers_is_asked_first(etcd: FakeEtcd) -> None:
    etcd.lost["kv/range"] = 1
    take(etcd)
    assert {url for url, _path in etcd.asked[1:]} == {URLS[1]}


def test_a_silent_member_leaves_time_for_the_next(etcd: FakeEtcd) -> None:
    with cluster_lock(URLS, FILES, HOLDER) as lock:
        etcd.lost["lease/keepalive"] = 1
        etcd.now += 41
        begin = etcd.now
        lock.check(patience=1)
        assert etcd.now - begin < 1


def test_an_error_in_a_stream_is_no_answer(etcd: FakeEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_lock(URLS, FILES, HOLDER) as lock:
        monkeypatch.setattr(FakeClient, "call", lambda *_: {"error": {"message": "etcdserver: no leader"}})
        etcd.now += 41
        with pytest.raises(LockUnconfirmedError, match="no leader"):
            lock.check()


def test_a_release_that_was_carried_out_without_an_answer(etcd: FakeEtcd) -> None:
    """The second attempt does not find the lease."""
    with cluster_lock(URLS, FILES, HOLDER) as lock:
        etcd.lost["lease/revoke"] = 1
        begin = etcd.now
        assert lock.release() and etcd.now - begin < _lock.CONFIRM + _lock.POLL
        assert lock.release() and etcd.asked[-1][1] == "lease/revoke"


def test_a_release_without_an_answer(etcd: FakeEtcd) -> None:
    with cluster_lock(URLS, FILES, HOLDER) as lock:
        etcd.down = True
        assert not lock.release()
    assert etcd.now < 1000 + 4 * _lock.CONFIRM


def test_a_lease_that_is_longer_than_asked_for(etcd: FakeEtcd) -> None:
    etcd.least_ttl = 75
    with cluster_lock(URLS, FILES, HOLDER, ttl=60) as lock:
        assert (lock.ttl, lock.record.ttl) == (75, 75)


# --- What stands in etcd ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "[" * 100000, "null", "{}", '{"ttl": "x", "host": null}'])
def test_a_value_that_we_did_not_write(text: str) -> None:
    record = Record.parse(text)
    assert (record.member, record.nonce, record.ttl) == ("unknown", "unknown", _lock.TTL)


def test_a_record_is_read_as_it_was_written() -> None:
    assert Record.parse(OTHER.dump()) == OTHER


def test_the_key_in_an_answer() -> None:
    assert read_standing({}) is None
    item = {"value": encoded(OTHER.dump()), "lease": "42"}
    assert read_standing({"kvs": [item]}) == Standing(OTHER, 42)
    assert read_standing({"kvs": [{"value": encoded(OTHER.dump())}]}) == Standing(OTHER, 0)
