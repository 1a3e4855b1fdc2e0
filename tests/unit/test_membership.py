"""Changes of the membership of a simulated cluster, without time. tests/etcd/test_membership.py has real etcd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Alarm, EtcdUnreachableError, Status
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import SilentError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import (
    Member,
    by_name,
    client_urls,
    name_and_address_problems,
)

from tests.unit.fakes import Client

Error = Exception


def line(number: int, name: str = "", learner: bool = False, started: bool = True) -> dict[str, Any]:
    urls = {"clientURLs": [f"client{number}"]} if started else {}
    return {"ID": str(number), "name": name, "peerURLs": [f"peer{number}"], "isLearner": learner, **urls}


class Cluster:
    """Answers as etcd does. errors: by path, what it answers before it carries a request out. leaders: as each client knows it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.members = [line(1, "infra1"), line(2, "infra2")]
        self.alarms: list[dict[str, str]] = []
        self.errors: dict[str, list[Error]] = {}
        self.leaders: dict[str, int | Error] = {"client1": 1, "client2": 1}
        self.asked: list[str] = []
        self.now = 0.0
        cluster = self

        class Server:
            def __init__(self, urls: Any, _credentials: Any) -> None:
                assert urls == ["u"]

            def call(self, path: str, body: dict[str, Any], _deadline: float) -> dict[str, Any]:
                return cluster.call(path, body)

        class Asked(Client):
            def status(self) -> Status:
                leader = cluster.leaders[self.url]
                if isinstance(leader, Exception):
                    raise leader
                return Status(1, 1, "3.6.0", 0, 0, None, leader, 1, 1, 1, False)

            def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
                assert self.url == "client1", "the leader is asked itself"
                return cluster.call(path, body)

        monkeypatch.setattr(membership, "Members", Server)
        monkeypatch.setattr(membership, "EtcdClient", Asked)
        monkeypatch.setattr(membership.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(membership.time, "sleep", self.sleep)
        self.acts = membership.Membership(["u"], ("ca", "crt", "key"))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        name = path.rsplit("/", 1)[-1]
        if self.errors.get(name):
            raise self.errors[name].pop(0)
        number = body.get("ID")
        if name == "list":
            assert body == {"linearizable": True}
            return {"members": self.members}
        if name == "alarm" and body["action"] == "GET":
            return {"alarms": self.alarms}
        self.asked.append(name)
        if name == "add":
            assert body["isLearner"] is True
            self.members.append({**line(9, learner=True, started=False), "peerURLs": body["peerURLs"]})
        elif name == "update":
            urls = {number: body["peerURLs"]}
            self.members = [{**item, "peerURLs": urls.get(item["ID"], item["peerURLs"])} for item in self.members]
        elif name == "promote":
            self.members = [{**item, "isLearner": item["isLearner"] and item["ID"] != number} for item in self.members]
        elif name == "remove":
            self.members = [item for item in self.members if item["ID"] != number]
        elif name == "alarm":
            gone = {"memberID": body["memberID"], "alarm": body["alarm"]}
            self.alarms = [item for item in self.alarms if item != gone]
        else:
            assert name == "transfer-leadership"
            self.leaders = dict.fromkeys(self.leaders, int(body["targetID"]))
        return {}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def refused(code: str = "precondition") -> EtcdUnreachableError:
    return EtcdUnreachableError(f"etcd says {code}.", code)


URL, FURTHER = "https://10.0.0.9:2380", "https://joining-10-0-0-9-2380@localhost:2380"


def test_the_further_url_is_that_of_one_member() -> None:
    """etcd refuses a URL of another member, and a killed run may have left one."""
    urls = membership.urls_while_joining(["https://[fd00::9]:2480"])
    assert urls == ["https://[fd00::9]:2480", "https://joining-fd00-9-2480@localhost:2480"]
    # It is tried last.
    assert sorted([FURTHER, URL]) == [URL, FURTHER] and sorted(urls) == urls


def test_a_learner_is_added_once(cluster: Cluster) -> None:
    """With a further URL, so that its first manifest cannot start it without data later (tests/etcd/test_lost_data.py)."""
    assert cluster.acts.add_learner("infra9", [URL], 60).peer_urls == [URL, FURTHER]
    assert cluster.acts.add_learner("infra9", [URL], 60).id == 9
    assert cluster.asked == ["add"]


@pytest.mark.parametrize(
    ("learner", "started", "asked"),
    [
        # The peer URLs of a learner are never updated.
        (True, False, ["remove", "add"]),
        (True, True, []),
        (False, False, ["update"]),
        (False, True, []),
    ],
)
def test_a_member_that_was_added_by_hand(cluster: Cluster, learner: bool, started: bool, asked: list[str]) -> None:
    """It gets the further URL too, but only before its first start."""
    cluster.members.append({**line(9, learner=learner, started=started), "peerURLs": [URL]})
    assert (cluster.acts.add_learner("infra9", [URL], 60).peer_urls == [URL, FURTHER]) != started
    assert cluster.asked == asked


@pytest.mark.parametrize(
    ("wanted", "there", "same"),
    [
        (URL, URL, True),
        ("https://[fd00::9]:2380", "https://[fd00:0::0009]:2380", True),
        # By hand, with the name of the host. Nobody here knows where that leads.
        (URL, "https://infra9.example:2380", True),
        (URL, "https://10.0.0.8:2380", False),
        (URL, "https://10.0.0.9:12380", False),
        (URL, FURTHER.replace("9", "8"), False),
    ],
)
def test_a_learner_that_has_started_is_not_added_again(cluster: Cluster, wanted: str, there: str, same: bool) -> None:
    """Its peer URLs must not change, so one at another place cannot be finished."""
    cluster.members.append({**line(9, "infra9", learner=True), "peerURLs": [there]})
    if same:
        assert cluster.acts.add_learner("infra9", [wanted], 60).id == 9
        assert cluster.acts.promote(9, [wanted], 60).peer_urls == [wanted]
    else:
        with pytest.raises(EtcdError, match=r"infra9 is a learner at .*replace_member\.yml -e etcd_member=infra9"):
            cluster.acts.add_learner("infra9", [wanted], 60)
    assert "add" not in cluster.asked and "remove" not in cluster.asked


@pytest.mark.parametrize("there", ["https://[fd00:0::0009]:2380", "https://[fd00::9]:12380"])
def test_a_learner_that_was_added_by_hand_at_another_port_is_added_again(cluster: Cluster, there: str) -> None:
    """It has not started: it is known by its address, in any spelling."""
    cluster.members.append({**line(9, learner=True, started=False), "peerURLs": [there]})
    urls = cluster.acts.add_learner("infra9", ["https://[fd00::9]:2380"], 60).peer_urls
    assert cluster.asked == ["remove", "add"] and urls[0] == "https://[fd00::9]:2380" and len(urls) == 2


def test_a_member_that_votes_is_never_added_again(cluster: Cluster) -> None:
    """Its address has changed since it was promoted. Nor does a host take over the entry of another member at its address."""
    cluster.members.append({**line(9, "infra9"), "peerURLs": ["https://10.0.0.8:2380", FURTHER]})
    assert cluster.acts.add_learner("infra9", [URL], 60).id == 9 and cluster.asked == []
    cluster.errors["add"] = [refused()]
    with pytest.raises(EtcdError, match="etcd says precondition"):
        cluster.acts.add_learner("infra7", ["https://10.0.0.8:2380"], 60)


def test_a_learner_is_promoted_once_it_is_accepted(cluster: Cluster) -> None:
    cluster.members.append(line(9, "infra9", learner=True))
    cluster.errors["promote"] = [refused(), refused()]
    assert not cluster.acts.promote(9, ["peer9"], 60).is_learner
    assert not cluster.acts.promote(9, ["peer9"], 60).is_learner
    assert cluster.asked == ["promote"]
    with pytest.raises(EtcdError, match="member 8 has left the membership"):
        cluster.acts.promote(8, ["peer8"], 60)


def test_a_learner_loses_its_further_url_when_it_votes(cluster: Cluster) -> None:
    """Not before (tests/etcd/test_membership.py). The message quotes etcd if the promotion is refused."""
    cluster.members.append({**line(9, learner=True, started=False), "peerURLs": [URL, FURTHER]})
    cluster.errors["promote"] = [refused()]
    with pytest.raises(EtcdError, match="etcd says precondition"):
        cluster.acts.promote(9, [URL], -1)
    assert cluster.asked == []
    cluster.members[-1].update(clientURLs=["client9"], name="infra9")
    # Another run, or one whose answer was lost, continues.
    cluster.errors["promote"] = [refused()]
    entry = cluster.acts.promote(9, [URL], 60)
    assert entry.peer_urls == [URL] and not entry.is_learner and cluster.asked == ["promote", "update"]


def test_a_member_is_removed_once(cluster: Cluster) -> None:
    cluster.acts.remove(2, 60)
    assert [item["ID"] for item in cluster.members] == ["1"]
    cluster.acts.remove(2, 60)
    assert cluster.asked == ["remove"]


def test_what_follows_a_removal_at_once_is_tried_again(cluster: Cluster) -> None:
    """For a moment, etcd says that a member is not found."""
    cluster.errors["add"] = [refused("not-found")]
    assert cluster.acts.add_learner("infra9", [URL], 60).id == 9
    cluster.members[-1].update(clientURLs=["client9"], peerURLs=[URL])
    cluster.errors["promote"] = [refused("not-found")]
    assert not cluster.acts.promote(9, [URL], 60).is_learner


def test_a_removal_whose_answer_was_lost(cluster: Cluster) -> None:
    """The answer of the first attempt was lost."""
    cluster.errors["remove"] = [refused("not-found")]
    cluster.acts.remove(2, 60)
    assert [item["ID"] for item in cluster.members] == ["1"]


def test_a_leader_hands_over(cluster: Cluster) -> None:
    cluster.members[1:1] = [line(5, learner=True), line(6, "infra6", started=False)]
    cluster.acts.hand_over(2, 60)
    assert cluster.asked == []
    cluster.acts.hand_over(1, 60)
    assert cluster.asked == ["transfer-leadership"] and cluster.leaders["client2"] == 2


def test_a_leader_hands_over_to_a_member_that_answers(cluster: Cluster) -> None:
    """The first of the others is down, the next one is cut off and knows no leader."""
    cluster.members += [line(3, "infra3"), line(4, "infra4")]
    cluster.leaders.update(client2=refused("unavailable"), client3=0, client4=1)
    cluster.acts.hand_over(1, 60)
    assert cluster.leaders["client1"] == 4 and cluster.now < 1
    cluster.leaders.update(client1=1, client2=refused("unavailable"), client3=0, client4=0)
    with pytest.raises(EtcdError, match="no other voting member follows the leader"):
        cluster.acts.hand_over(1, 60)
    assert cluster.now >= 60


@pytest.mark.parametrize("others", [[], [line(5, learner=True)], [line(6, "infra6", started=False)]])
def test_a_leader_without_an_heir(cluster: Cluster, others: list[dict[str, Any]]) -> None:
    cluster.members[1:] = others
    with pytest.raises(EtcdError, match="member 1 is the leader, and no other voting member has started"):
        cluster.acts.hand_over(1, 60)


@pytest.mark.parametrize("first", [0, refused("unavailable")])
def test_the_next_member_is_asked_for_the_leader(cluster: Cluster, first: int | Error) -> None:
    """A member may know no leader, or give no answer. A learner, and a member that never started, are not asked."""
    cluster.members[:0] = [line(5, learner=True), line(6, started=False)]
    cluster.leaders = {"client1": first, "client2": 2}
    cluster.acts.hand_over(1, 60)
    assert cluster.asked == []


def test_no_member_knows_a_leader(cluster: Cluster) -> None:
    cluster.leaders = {"client1": 0, "client2": refused("timeout")}
    with pytest.raises(EtcdError, match="etcd does not take the leadership from member 1: etcd says timeout"):
        cluster.acts.hand_over(1, 60)
    assert cluster.now > 60


def test_alarms_of_one_member_are_disarmed(cluster: Cluster) -> None:
    cluster.alarms = [
        {"memberID": "1", "alarm": "CORRUPT"},
        {"memberID": "1", "alarm": "NOSPACE"},
        {"memberID": "2", "alarm": "NOSPACE"},
    ]
    assert cluster.acts.alarms()[0] == Alarm(1, "CORRUPT")
    cluster.acts.disarm(1, 60)
    assert cluster.alarms == [{"memberID": "2", "alarm": "NOSPACE"}] and cluster.asked == ["alarm", "alarm"]


@pytest.mark.parametrize(
    "act",
    [
        lambda acts: acts.add_learner("infra9", [URL], 60),
        lambda acts: acts.remove(2, 60),
    ],
    ids=["add", "remove"],
)
@pytest.mark.parametrize("code", ["precondition", "exhausted", "grpc"])
def test_a_refusal_is_not_repeated(cluster: Cluster, act: Callable[[Any], Any], code: str) -> None:
    cluster.errors = {"add": [refused(code)], "remove": [refused(code)]}
    with pytest.raises(EtcdError, match=f"etcd says {code}"):
        act(cluster.acts)
    assert cluster.now == 0


@pytest.mark.parametrize("error", [refused("unavailable"), refused("timeout"), SilentError("nobody")])
def test_requests_without_an_answer_are_repeated_until_the_timeout(cluster: Cluster, error: Error) -> None:
    cluster.errors["remove"] = [error, error]
    cluster.acts.remove(2, 60)
    assert cluster.now >= 2
    cluster.errors["remove"] = [error] * 1000
    with pytest.raises(EtcdError, match=r"etcd does not remove member 1: (etcd says|nobody)"):
        cluster.acts.remove(1, 60)
    assert 60 < cluster.now < 70


def test_a_wait_ends_if_the_run_is_gone(cluster: Cluster) -> None:
    acts = membership.Membership(["u"], ("ca", "crt", "key"), while_waiting=lambda: pytest.fail("asked"))
    with pytest.raises(pytest.fail.Exception, match="asked"):
        acts.remove(1, 60)


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({"list": [SilentError("nobody")]}, "no member reports the membership: nobody."),
        ({"alarm": [SilentError("nobody")]}, "no member reports the alarms: nobody."),
    ],
)
def test_errors_of_members_that_do_not_answer(cluster: Cluster, errors: dict[str, list[Error]], words: str) -> None:
    cluster.errors = errors
    with pytest.raises(EtcdError) as error:
        (cluster.acts.members if "list" in errors else cluster.acts.alarms)()
    assert str(error.value) == words


def test_an_answer_that_is_not_etcds(cluster: Cluster) -> None:
    cluster.members = ["x"]  # type: ignore[list-item]
    with pytest.raises(EtcdError, match=r"is not etcd's"):
        cluster.acts.members()


def test_the_members_that_modules_are_given() -> None:
    given = [{"name": "infra0", "address": "10.0.0.6"}, {"name": "infra1", "address": "fd00::7"}]
    assert by_name(given) == [("infra0", "10.0.0.6"), ("infra1", "fd00::7")]


def test_client_urls() -> None:
    assert client_urls([("infra0", "10.0.0.6"), ("infra1", "fd00::7")], 2379) == [
        "https://10.0.0.6:2379",
        "https://[fd00::7]:2379",
    ]


@pytest.mark.parametrize(("length", "count"), [(253, 0), (254, 1)])
def test_the_longest_name(length: int, count: int) -> None:
    name = ("a" * 63 + ".") * 3 + "a" * (length - 192)
    assert len(name) == length and len(name_and_address_problems(Member("infra0", name, "10.0.0.6"))) == count
