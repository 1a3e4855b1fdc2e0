"""The report, and that text of a member is always escaped in the page and the files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.filter import report as report_filter
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import report as _report
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.report import Looked, Settings
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import asker
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import EVERYTHING, Problem, merged
from jinja2 import nodes

from tests.report import samples

TEMPLATES = Path(__file__).resolve().parents[2] / "roles" / "report" / "templates"


def one(looked: Looked) -> dict[str, Any]:
    report: dict[str, Any] = _report.assemble([looked], samples.NOW)["clusters"][0]
    return report


def codes(looked: Looked) -> list[tuple[str, str]]:
    return [(item["code"], item["member"]) for item in one(looked)["findings"]]


# --- The verdict -----------------------------------------------------------------------------------------------------


def test_a_cluster_that_is_well() -> None:
    report = _report.assemble([samples.well()], samples.NOW)
    assert (report["verdict"], report["at"]) == ("healthy", "2026-11-24T12:00:00+00:00")
    cluster = report["clusters"][0]
    assert cluster["findings"] == [] and cluster["reasons"] == [] and cluster["asked_on"] == "infra0"
    assert cluster["lines"] == samples.health([samples.row(0, samples.members(1)[0])])["table"]
    assert json.loads(json.dumps(report)) == report, "plain data"


def with_backups(**hosts: dict[str, Any]) -> Looked:
    """What was observed of snapshots, by host."""
    it = samples.well()
    seen = {host: {**next(iter(it.observations.values())), "backup": backup} for host, backup in hosts.items()}
    return replace(it, observations=seen)


def taken(hours: float, **state: Any) -> dict[str, Any]:
    newest = {"file": "etcd-x.db", "age": hours * 3600.0, "size": 3 << 20}
    return {"dir": "/var/backups/etcd", "newest": [newest] if hours else [], "count": int(hours), "state": state}


@pytest.mark.parametrize(
    ("version", "unreadable", "warned"),
    [("3.6.14", 2, True), ("3.6.14", 0, False), ("3.5.35", 2, False), ("", 2, False)],
)
def test_a_member_that_etcd_3_7_would_not_start_on(version: str, unreadable: int, warned: bool) -> None:
    it = samples.well()
    seen = next(iter(it.observations.values()))
    etcd = {"version": version, "unreadable": unreadable}
    looked = replace(it, observations={"infra0": {**seen, "etcd": etcd}})
    found = [item for item in one(looked)["findings"] if item["code"] == "unreadable-log"]
    assert bool(found) is warned
    assert not warned or (found[0]["text"].startswith("infra0: ") and "docs/unmarshal" in found[0]["remedy"])


def test_snapshots() -> None:
    """The newest snapshot of any host, and failures."""
    looked = with_backups(infra0=taken(0), infra1=taken(5), infra2=taken(60))
    report = one(looked)
    assert [item["host"] for item in report["backups"]] == ["infra1", "infra2", "infra0"]
    assert "newest snapshot: 5 hours old, 3 MiB, on infra1; 2 of 3 hosts have some" in report["lines"]
    assert not [item for item in report["findings"] if item["code"] == "backup"]
    nothing = one(with_backups(infra0=taken(0)))
    assert not [line for line in nothing["lines"] if "snapshot" in line]
    assert ("Newest snapshot", "none on the hosts") in _report.cluster_page(nothing, 1)["facts"]
    failed = one(with_backups(infra0=taken(0, error="no room."), infra1=taken(1, error="")))
    (found,) = [item for item in failed["findings"] if item["code"] == "backup"]
    assert found["text"] == "infra0: the last attempt at a snapshot failed: no room."
    assert one(samples.well())["backups"] == []
    # The clock of a host was ahead.
    ahead = one(with_backups(infra0=taken(-9000), infra1=taken(5)))
    assert "newest snapshot: 5 hours old, 3 MiB, on infra1; 2 of 2 hosts have some" in ahead["lines"]
    ahead = one(with_backups(infra0=taken(-9000)))
    assert "newest snapshot: of unknown age, since the clock of its host was wrong, 3 MiB, on infra0" in ahead["lines"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7200, "2 hours"), (200000, "2 days")],
)
def test_times_as_text(seconds: int, text: str) -> None:
    assert _report.span(seconds) == text


def changed(**health: Any) -> Looked:
    it = samples.well()
    return replace(it, health={**(it.health or {}), **health})


@pytest.mark.parametrize(
    ("looked", "verdict", "words"),
    [
        (changed(verdict="degraded", reasons=["infra2 is down."]), "degraded", ["infra2 is down."]),
        (changed(verdict="down", reasons=["No quorum."]), "down", ["No quorum."]),
        (changed(verdict="something new"), "unknown", []),
        (replace(samples.well(), health=None), "unknown", ["infra0 could not check the members."]),
        (
            replace(samples.well(), health={"msg": "no module"}),
            "unknown",
            ["infra0 could not check the members: no module"],
        ),
        (
            replace(samples.well(), health=None, speaker=""),
            "unknown",
            ["The members were not checked, because none of their hosts is reachable by ssh, or all have failed earlier in this run."],
        ),
        (
            replace(samples.well(), cluster=Cluster("etcd", samples.members(3), "infra0", [Problem("unknown variable etcd_x.", host="infra0")])),
            "unknown",
            ["The members were not checked, because the inventory is invalid.", "infra0: unknown variable etcd_x."],
        ),
    ],
)  # fmt: skip
def test_verdicts(looked: Looked, verdict: str, words: list[str]) -> None:
    cluster = one(looked)
    assert (cluster["verdict"], cluster["reasons"]) == (verdict, words)
    assert [row["name"] for row in cluster["members"]] == ["infra0", "infra1", "infra2"], (
        "members are shown in any case"
    )
    assert _report.page(_report.assemble([looked], samples.NOW))["clusters"][0]["word"].lower() == verdict


@pytest.mark.parametrize(
    ("verdicts", "worst", "words"),
    [
        ([], "unknown", "No clusters"),
        (["healthy"], "healthy", "The cluster is healthy"),
        (["degraded"], "degraded", "The cluster is degraded"),
        (["healthy", "healthy"], "healthy", "All 2 clusters are healthy"),
        (["healthy", "degraded"], "degraded", "1 of 2 clusters is not healthy"),
        (["unknown", "degraded", "healthy"], "unknown", "2 of 3 clusters are not healthy"),
        (["down", "unknown", "degraded"], "down", "3 of 3 clusters are not healthy"),
    ],
)
def test_the_worst_verdict_counts(verdicts: list[str], worst: str, words: str) -> None:
    report = _report.assemble([changed(verdict=verdict) for verdict in verdicts], samples.NOW)
    assert report["verdict"] == worst
    assert _report.page(report)["summary"] == words


# --- Certificates and findings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "state", "days"),
    [
        (timedelta(days=90, seconds=1), "good", 90),
        (timedelta(days=90), "window", 90),
        (timedelta(seconds=1), "window", 0),
        (timedelta(0), "ended", 0),
        (timedelta(seconds=-1), "ended", -1),
    ],
)
def test_states_of_a_certificate(left: timedelta, state: str, days: int) -> None:
    begin = (samples.NOW - timedelta(days=275)).isoformat()
    found = _report.certificate("m", "peer", begin, (samples.NOW + left).isoformat(), samples.NOW, Settings())
    assert (found["state"], found["days_left"]) == (state, days)
    assert found["end"] == int((samples.NOW + left).timestamp())


def test_times_without_a_zone_and_with_z() -> None:
    assert _report.moment("2026-11-24T12:00:00Z") == samples.NOW == _report.moment("2026-11-24T12:00:00")


def test_certificates_that_end_are_found_once() -> None:
    """The server certificate is judged by etcd_health where it could see it."""
    it = samples.well()
    ending = samples.observation({"server": 10, "peer": 10, "healthcheck-client": 5})
    looked = replace(it, observations={**it.observations, "infra1": ending})
    assert codes(looked) == [("certificate-window", "infra1")]
    text = one(looked)["findings"][0]["text"]
    assert text == "infra1: certificates peer, healthcheck-client: the first expires in 5 days (2026-11-29)."
    rows = [samples.silent(member) for member in it.cluster.members]
    looked = replace(looked, health={**(it.health or {}), "members": rows})
    assert "server, peer" in one(looked)["findings"][0]["text"]
    ended = replace(it, observations={"infra0": samples.observation({"peer": -1})})
    assert codes(ended) == [("certificate-ended", "infra0")]


def test_the_ca() -> None:
    it = samples.well()
    pki = {**samples.observation()["pki"], "ca_not_after": samples.end(364), "ca_not_before": None}
    looked = replace(it, observations={**it.observations, "infra0": samples.observation(pki=pki)})
    assert codes(looked) == [("ca-ends", "")]
    # If the CA host cannot be reached, the ca.crt of another host counts.
    away = {host: item for host, item in it.observations.items() if host != "infra0"}
    assert next(item["kind"] for item in one(replace(it, observations=away))["certificates"]) == "ca"
    assert codes(replace(it, observations={})) == []


def test_a_host_that_ssh_does_not_reach() -> None:
    """Its member may be healthy. The verdict comes from the members, and the server certificate from its connection."""
    it = samples.well()
    seen = {host: item for host, item in it.observations.items() if host != "infra2"}
    looked = replace(it, observations=seen, lost=["infra2"])
    cluster = one(looked)
    assert cluster["verdict"] == "healthy" and cluster["unreachable"] == ["infra2"]
    assert codes(looked) == [("ssh", "")] and "infra2: not reachable" in cluster["lines"][-1]
    kinds = [item["kind"] for item in cluster["certificates"] if item["member"] == "infra2"]
    assert kinds == ["server"]


def test_what_site_yml_would_change_or_refuse() -> None:
    it = samples.well()
    differs = samples.observation(
        reasons={
            "manifest": [{"part": "manifest", "code": "flag", "text": "etcd.yaml: --x=1 added", "restarts": True}],
            "kubelet": [],
        }
    )
    refused = samples.observation(problems=[{"text": "etcd_image_tag 'x' is not an image tag.", "stops": ["restart"]}])
    looked = replace(it, observations={"infra0": differs, "infra1": differs, "infra2": refused})
    assert [(item["code"], item["text"]) for item in one(looked)["findings"]] == [
        ("differs", "infra0, infra1: manifest: etcd.yaml: --x=1 added."),
        ("refused", "infra2: etcd_image_tag 'x' is not an image tag."),
    ]
    assert any(line.startswith("FINDING: infra0, infra1: manifest") for line in one(looked)["lines"])
    assert one(looked)["findings"][1]["remedy"] == "Until this is fixed, site.yml does not restart a running one."


@pytest.mark.parametrize(
    ("stops", "words"),
    [
        (
            EVERYTHING,
            "found the cluster, start a member or kubelet that does not run, restart a running one or issue certificates.",
        ),
        (("start", "restart"), "does not start a member or kubelet that does not run or restart a running one."),
        (("sign",), "does not issue certificates."),
        ((), "continues, with a warning"),
    ],
)
def test_what_a_problem_stops(stops: tuple[str, ...], words: str) -> None:
    assert words in _report.refusal(stops)


def test_alarms_are_in_the_report() -> None:
    """Of the whole cluster: for programs, among the reasons, and at each member of the page."""
    it = samples.well()
    rows = [{**row, "alarms": ["CORRUPT"], "healthy": False} for row in (it.health or {})["members"]]
    health = {**(it.health or {}), "verdict": "degraded", "reasons": ["Alarm CORRUPT for the whole cluster: x."]}
    looked = replace(it, health={**health, "members": rows, "alarms": [{"kind": "CORRUPT", "member": ""}]})
    cluster = one(looked)
    assert (cluster["verdict"], cluster["alarms"]) == ("degraded", [{"kind": "CORRUPT", "member": ""}])
    shown = _report.cluster_page(cluster, 1)
    assert shown["reasons"] == ["Alarm CORRUPT for the whole cluster: x."]
    assert [member["alarms"] for member in shown["members"]] == [["CORRUPT"]] * 3
    assert {member["state"] for member in shown["members"]} == {"unhealthy"}


def test_settings_come_from_the_inventory_or_the_defaults() -> None:
    options = {
        "etcd_client_port": {"default": 2379},
        "etcd_certificate_renewal_window": {"default": "2160h"},
        "etcd_metrics_exposed": {"default": False},
    }
    assert Settings.from_variables({}, options) == Settings()
    own = {"etcd_client_port": "12379", "etcd_metrics_port": 9, "etcd_metrics_exposed": "yes", "etcd_certificate_renewal_window": "48h"}  # fmt: skip
    assert Settings.from_variables(own, options) == Settings(12379, 9, True, 48 * 3600.0)
    wrong = {"etcd_client_port": "x", "etcd_metrics_exposed": "maybe", "etcd_certificate_renewal_window": "soon"}
    assert Settings.from_variables(wrong, options) == Settings()


# --- The filter: what a run knows ------------------------------------------------------------------------------------


def hostvars(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Two clusters of two hosts; a0 and b0 have asked."""
    found: dict[str, dict[str, Any]] = {
        f"{cluster}{i}": {
            "ansible_host": f"10.0.{number}.{i}",
            "etcd_cluster_name": cluster,
            "__etcd_host": samples.observation(),
            "__report_health": {"skipped": True, "changed": False} if i else samples.health([samples.row(0, samples.members(1)[0])]),
        }
        for number, cluster in enumerate("ab")
        for i in range(2)
    }  # fmt: skip
    for host, variables in changes.items():
        found[host].update(variables)
    return found


GROUP = ["a0", "b0", "a1", "b1"]


def test_all_clusters_of_a_run() -> None:
    a, b = report_filter.look(hostvars(), GROUP, GROUP, GROUP)
    assert (a.cluster.name, a.speaker, list(a.observations), a.lost) == ("a", "a0", ["a0", "a1"], [])
    assert (b.cluster.name, b.speaker) == ("b", "b0") and b.health is not None and b.health["verdict"] == "healthy"


def test_hosts_that_are_lost_and_clusters_that_are_left_out() -> None:
    variables = hostvars(a0={"__etcd_host": {"unreachable": True}, "__report_health": {"skipped": True}})
    variables["a1"]["__report_health"] = samples.health([samples.row(0, samples.members(1)[0])])
    found = report_filter.look(variables, GROUP, ["a1"], ["a0", "a1"])
    assert [item.cluster.name for item in found] == ["a"]
    assert (found[0].speaker, found[0].lost, list(found[0].observations)) == ("a1", ["a0"], ["a1"])
    # A cluster without any host in the run is still reported.
    found = report_filter.look(variables, GROUP, ["a1"], GROUP)
    assert [(item.cluster.name, item.speaker, item.lost) for item in found][1] == ("b", "", ["b0", "b1"])
    assert report_filter.report(variables, GROUP, ["a1"], GROUP)["clusters"][1]["verdict"] == "unknown"


def test_problems_in_the_inventory_are_reported() -> None:
    variables = hostvars(a0={"etcd_client": 1}, a1={"etcd_x": 1})
    found = report_filter.look(variables, GROUP, GROUP, GROUP)
    problems = " ".join(merged(found[0].cluster.problems))
    assert "a0: unknown variable etcd_client" in problems and "a1: unknown variable etcd_x" in problems
    assert report_filter.report(variables, GROUP, GROUP, GROUP)["clusters"][0]["verdict"] == "unknown"
    stranger = report_filter.look(hostvars(), ["a0"], ["b0"], ["b0"])
    assert "b0 is not in the group" in merged(stranger[0].cluster.problems)[0]


# --- The page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (25 << 20, "25 MiB"), (341 << 20, "341 MiB"), (2 << 30, "2 GiB"), (9 << 40, "9216 GiB")],
)  # fmt: skip
def test_numbers_as_text(size: int, words: str) -> None:
    assert _report.amount(size) == words


@pytest.mark.parametrize(
    ("size", "level", "percent"),
    [(79, "good", "79.0"), (80, "warn", "80.0"), (94, "warn", "94.0"), (95, "bad", "95.0"), (120, "bad", "100.0")],
)
def test_a_database_against_its_quota(size: int, level: str, percent: str) -> None:
    shown = _report.database_page({"db_size": size, "quota": 100, "db_size_in_use": 10})
    assert (shown["level"], shown["percent"], shown["in_use_percent"]) == (level, percent, "10.0")
    tiny = _report.database_page({"db_size": 1, "quota": 2048, "db_size_in_use": 1})
    assert (tiny["label"], tiny["in_use_percent"]) == ("1 B of 2 KiB, below 0.1 %", "")


def test_bars_of_certificates() -> None:
    made = _report.certificate("m", "peer", samples.begin(73), samples.end(73), samples.NOW, Settings())
    shown = _report.certificate_page(made)
    assert (shown["percent"], shown["mark"], shown["level"], shown["label"]) == ("20.0", "24.7", "warn", "73 days")
    # A window longer than the whole life: no mark, and nothing outside of the bar.
    made = _report.certificate("m", "peer", samples.begin(1, 30), samples.end(-2), samples.NOW, Settings())
    shown = _report.certificate_page(made)
    assert (shown["percent"], shown["mark"], shown["label"]) == ("0.0", "", "expired")


def test_members_that_answer_and_that_do_not() -> None:
    member = samples.members(1)[0]
    shown = _report.member_page(samples.row(0, member, raft_lag=7))
    assert (shown["state"], shown["raft"], shown["why"], shown["round_trip"]) == (
        "healthy",
        "term 2, 7 behind",
        "",
        "3 ms",
    )
    shown = _report.member_page(samples.silent(member, "refuses connections"))
    assert (shown["state"], shown["level"], shown["why"], shown["answered"]) == (
        "no answer",
        "bad",
        "refuses connections",
        False,
    )
    shown = _report.member_page(samples.row(0, member, healthy=False, reason="ALARM NOSPACE"))
    assert (shown["state"], shown["why"]) == ("unhealthy", "ALARM NOSPACE")


VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Elements of a page and its text; complains of tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("looked", [[samples.well()], samples.hard(), []], ids=["well", "hard", "none"])
def test_the_page_stands_on_its_own(looked: list[Looked]) -> None:
    """No script, nothing that is fetched, no link that leads elsewhere, no text that could become one."""
    reader = read(samples.render(looked))
    allowed = "html head meta title style body header main footer nav section h1 h2 h3 p ul li a div span b dl dt dd table caption thead tbody tr th td"
    assert {tag for tag, _attributes in reader.elements} <= set(allowed.split())
    for tag, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")], tag
        assert (attributes.get("href") or "#").startswith("#")
        style = attributes.get("style")
        assert style is None or re.fullmatch(r"(width|left):\d{1,3}(\.\d)?%", style), style
    policy = [a.get("content") for _tag, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    ids = [a["id"] for _tag, a in reader.elements if "id" in a]
    assert len(set(ids)) == len(ids)


def test_what_members_say_is_text() -> None:
    text = read(samples.render(samples.hard())).text
    for said in (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'\"<x>",
        "</style><script>x</script>",
        "</li><script>alert(2)</script>",
        "<b>bold</b>",
        "{{ 7 * 6 }} <a href='javascript:x'>",
        "<leader>",
        "<lost>",
        "h&<b>",
    ):
        assert said in text, said


def test_the_template_escapes_all_that_it_shows() -> None:
    """In its syntax tree, each expression ends with the filter e or calls a macro of the template, which does the same."""
    source = (TEMPLATES / "report.html.j2").read_text(encoding="utf-8")
    tree = jinja2.Environment(autoescape=False).parse(source)
    macros = {node.name for node in tree.find_all(nodes.Macro)}
    shown = list(chain.from_iterable(node.nodes for node in tree.find_all(nodes.Output)))
    for node in shown:
        if isinstance(node, nodes.TemplateData):
            continue
        call = isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name in macros
        assert call or (isinstance(node, nodes.Filter) and node.name == "e"), f"line {node.lineno}"
    assert "| safe" not in source and "autoescape" not in source and len(shown) > 50


def test_all_that_matters_is_on_the_page() -> None:
    text = " ".join(read(samples.render(samples.hard())).text.split())
    for words in (
        "3 of 4 clusters are not healthy",
        "etcd: Healthy",
        "gone: Unknown",
        "The database of m1.",
        "Do: Compact and defragment it",
        "1.7 GiB of 2 GiB, 85.0 %",
        "NOSPACE",
        "CORRUPT",
        "term 4711, 123456789 behind",
        "40 days of 365, until 2027-01-03",
        "Open without a certificate: http://[2001:db8:1234:5678:9abc:def0:1234:6]:2381",
        "not reachable by ssh: dead-host",
        "looked at on 2026-11-24 12:00:00 UTC",
    ):
        assert words in text, words


# --- Files for Prometheus --------------------------------------------------------------------------------------------


def prometheus(name: str, looked: list[Looked]) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, undefined=jinja2.StrictUndefined)  # fmt: skip
    environment.filters["to_json"] = json.dumps
    environment.filters["flatten"] = lambda lists: list(chain.from_iterable(lists))
    return environment.get_template(name).render(__report=_report.assemble(looked, samples.NOW))


def test_members_are_asked_over_tls() -> None:
    text = prometheus("etcd-scrape.yml.j2", [samples.well()])
    assert "BEWARE" in text and "etcd_metrics_exposed opens" in text and "in clear text" not in text
    assert yaml.safe_load(text) == {
        "scrape_configs": [
            {
                "job_name": "etcd/etcd",
                "scheme": "https",
                "tls_config": {
                    "ca_file": "etcd/ca.crt",
                    "cert_file": "etcd/healthcheck-client.crt",
                    "key_file": "etcd/healthcheck-client.key",
                },
                "static_configs": [
                    {"targets": [f"10.0.0.{6 + i}:2379"], "labels": {"cluster": "etcd", "member": f"infra{i}"}}
                    for i in range(3)
                ],
            }
        ]
    }


def test_members_are_asked_at_the_open_port() -> None:
    it = samples.well()
    looked = replace(it, settings={"infra0": Settings(metrics_exposed=True, metrics_port=9381)})
    text = prometheus("etcd-scrape.yml.j2", [looked])
    assert "BEWARE" in text and "in clear text" in text
    tls, plain = yaml.safe_load(text)["scrape_configs"]
    assert (plain["job_name"], plain["scheme"]) == ("etcd/etcd/metrics", "http") and "tls_config" not in plain
    assert [item["targets"] for item in plain["static_configs"]] == [["10.0.0.6:9381"]]
    assert [item["targets"] for item in tls["static_configs"]] == [["10.0.0.7:2379"], ["10.0.0.8:2379"]]


def test_any_name_can_stand_in_the_files() -> None:
    """IPv6, several clusters, and names that would break YAML or lead out of the directory."""
    names = ["../../etc", 'a: "b" #', "{{ 1 }}", "Ä\n- x", *(item.cluster.name for item in samples.hard())]
    looked = [replace(samples.well(), cluster=replace(samples.well().cluster, name=name)) for name in names[:4]]
    looked += samples.hard()
    jobs = yaml.safe_load(prometheus("etcd-scrape.yml.j2", looked))["scrape_configs"]
    assert [job["static_configs"][0]["labels"]["cluster"] for job in jobs] == names
    assert "[2001:db8:1234:5678:9abc:def0:1234:6]:2381" in jobs[4]["static_configs"][0]["targets"]
    directories = [job["tls_config"]["ca_file"].rsplit("/", 1)[0] for job in jobs if "tls_config" in job]
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", item) for item in directories), directories
    rules = yaml.safe_load(prometheus("etcd-certificates.yml.j2", looked))["groups"][0]["rules"]
    assert {rule["labels"]["cluster"] for rule in rules} >= set(names[:4])


def test_ends_of_certificates_are_constants() -> None:
    text = prometheus("etcd-certificates.yml.j2", [samples.well()])
    assert text == prometheus("etcd-certificates.yml.j2", [samples.well()])
    rules = yaml.safe_load(text)["groups"][0]["rules"]
    assert len(rules) == 1 + 3 * 4 * 2
    end = int((samples.NOW + timedelta(days=364, hours=1)).timestamp())
    assert rules[1] == {
        "record": "kubeadm_etcd_certificate_end_timestamp_seconds",
        "expr": f"vector({end})",
        "labels": {"cluster": "etcd", "member": "infra0", "certificate": "server"},
    }
    assert rules[2] == {
        "record": "kubeadm_etcd_certificate_window_seconds",
        "expr": f"vector({90 * 86400})",
        "labels": rules[1]["labels"],
    }
    assert rules[0]["labels"] == {"cluster": "etcd", "certificate": "ca"}


def test_files_of_nothing() -> None:
    assert yaml.safe_load(prometheus("etcd-scrape.yml.j2", [])) == {"scrape_configs": []}
    assert yaml.safe_load(prometheus("etcd-certificates.yml.j2", []))["groups"][0]["rules"] == []


@pytest.mark.parametrize(
    ("etcd", "host"),
    [
        ([{"members": [1], "ready": True}, {"members": [1], "ready": True}], "infra0"),
        # Without a certificate of its own, and cut off from the others.
        ([{"members": None, "ready": True}, {"members": [1], "ready": True}], "infra1"),
        ([{"members": [1], "ready": False}, {"members": [1], "ready": True}], "infra1"),
        ([{"members": None}, {"members": [1], "ready": False}], "infra1"),
        ([{"members": None}, {"members": None}], "infra0"),
        ([{}, {}], "infra0"),
    ],
)
def test_the_host_whose_answer_counts(etcd: list[dict[str, Any]], host: str) -> None:
    """The first host that can tell of the whole cluster."""
    observations = {f"infra{number}": {"etcd": item} for number, item in enumerate(etcd)}
    assert asker(["infra0", "infra1"], observations) == host
    assert asker(["infra0", "infra1"], {}) == "infra0" and asker([], {}) is None


def test_a_member_without_an_address_is_not_a_target() -> None:
    it = samples.well()
    members = [*it.cluster.members[:2], Member("infra2", "infra2", "")]
    looked = replace(it, cluster=Cluster("etcd", members, "infra0"))
    assert [item["member"] for item in one(looked)["metrics"]["targets"]] == ["infra0", "infra1"]
