"""The report on a real cluster: files, exit codes, a member that is down; and Prometheus on real members."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT, Lab, Run, different
from .test_health import etcd_health

RULES = ROOT / "roles" / "report" / "files" / "etcd-alerts.yml"


def report(lab: Lab, place: Path, *arguments: str) -> Run:
    """Run the playbook, with all files."""
    files = {
        "etcd_report_html": place / "report.html",
        "etcd_report_json": place / "report.json",
        "etcd_prometheus_dir": place / "prometheus",
    }
    options = [item for name, path in files.items() for item in ("-e", f"{name}={path}")]
    return lab.play(*options, *arguments, playbook="playbooks/health.yml")


def clusters(place: Path) -> dict[str, Any]:
    """What the JSON file says, by cluster."""
    found = json.loads((place / "report.json").read_text(encoding="utf-8"))["clusters"]
    return {item["name"]: item for item in found}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_healthy_cluster(cluster: Lab, tmp_path: Path) -> None:
    before = cluster.fingerprint()
    run = report(cluster, tmp_path, "--check")
    assert run.code == 0 and list(tmp_path.iterdir()) == [], run.output[-4000:]
    run = report(cluster, tmp_path)
    assert run.code == 0 and "healthy: 3 of 3 members healthy" in run.output, run.output[-4000:]
    assert not different(before, cluster.fingerprint())
    said = clusters(tmp_path)["etcd"]
    assert said["verdict"] == "healthy" and said["unreachable"] == [] and len(said["certificates"]) == 13
    assert {item["endpoint"] for item in said["members"]} == {item["endpoint"] for item in cluster.health()}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "etcd: Healthy" in page and all(address in page for address in cluster.addresses().values())
    assert "Told on the loopback address" in page and "__report" not in page
    # One host writes each file, and only if it has changed.
    assert run.changed() == {"infra0": 5}
    files = contents(tmp_path / "prometheus")
    assert report(cluster, tmp_path).changed() == {"infra0": 2}, "only the page and the JSON contain the time"
    assert contents(tmp_path / "prometheus") == files
    # One host is enough to observe a cluster. Relative paths start at the current directory.
    options = ("--limit", "infra1", "-e", "etcd_report_json=here.json")
    environment = {"CWD": str(tmp_path), "PWD": str(tmp_path), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    run = cluster.play(*options, playbook=str(ROOT / "playbooks" / "health.yml"), **environment)
    assert run.code == 0 and run.changed() == {"infra1": 1} and "infra2" in run.output, run.output[-4000:]
    assert json.loads((tmp_path / "here.json").read_text(encoding="utf-8"))["verdict"] == "healthy"
    # Nothing is written unasked.
    run = cluster.play("--limit", "infra1", playbook="playbooks/health.yml")
    assert run.code == 0 and run.changed() == {}, run.output[-4000:]


def test_a_member_that_is_down_and_a_cluster_that_cannot_be_reached(cluster: Lab, tmp_path: Path) -> None:
    """Both are in the exit code, the table, the page and the JSON. The other members are still reported."""
    more = tmp_path / "more.yml"
    gone = {"ansible_host": "127.0.0.1", "ansible_port": 1, "etcd_address": "192.0.2.1", "etcd_cluster_name": "gone"}
    more.write_text(json.dumps({"etcd": {"hosts": {"gone0": gone}}}), encoding="utf-8")
    cluster("stop", "infra2")
    try:
        assert etcd_health(cluster, wait_for="degraded", timeout=30)["quorum"]
        run = report(cluster, tmp_path, "-i", str(more))
    finally:
        cluster("start", "infra2")
    assert run.code not in (0, 1) and "Traceback" not in run.output
    assert "Cluster etcd is degraded:\n" in run.output and "degraded: 2 of 3 members healthy" in run.output
    etcd, other = clusters(tmp_path).values()
    assert (etcd["verdict"], etcd["unreachable"]) == ("degraded", ["infra2"])
    assert (other["name"], other["verdict"], other["unreachable"]) == ("gone", "unknown", ["gone0"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "2 of 2 clusters are not healthy" in page and "etcd: Degraded" in page and "gone: Unknown" in page
    assert re.search(r"<li>infra2: [^<]*10\.", page) and "no answer" in page
    result = etcd_health(cluster, wait_for="healthy", timeout=120, fail=True)
    assert result["healthy"], result


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ('{"etcd_clientport": 1}', "unknown variable etcd_clientport. Did you mean etcd_client_port?"),
        ('{"etcd_client_port": "many"}', "etcd_client_port"),
    ],
)
def test_a_wrong_inventory(cluster: Lab, tmp_path: Path, variables: str, words: str) -> None:
    run = report(cluster, tmp_path, "-e", variables)
    assert run.code != 0 and words in run.output and "Traceback" not in run.output, run.output[-4000:]


# --- Prometheus ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def prometheus(directory: Path) -> Iterator[str]:
    """A Prometheus with the files that were written, for some seconds. Its URL."""
    config = yaml.safe_load((directory / "etcd-scrape.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "3s", "evaluation_interval": "1s"}
    config["rule_files"] = ["etcd-alerts.yml", "etcd-certificates.yml"]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    subprocess.run(["promtool", "check", "config", str(directory / "prometheus.yml")], check=True, timeout=60)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    process = subprocess.Popen(
        ["prometheus", *options, f"--web.listen-address={address}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def ask(url: str, path: str, **query: str) -> Any:
    """An answer of Prometheus' HTTP API."""
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        return json.load(answer)["data"]


def wait_for_members(url: str, count: int) -> None:
    """Until each member has been asked often enough for a rate, and rules have been evaluated since."""
    deadline = time.monotonic() + 60
    found: Any = None
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            found = ask(url, "query", query="count_over_time(up[1m]) > 5 and up == 1")["result"]
            if len(found) == count:
                return
        time.sleep(0.5)
    pytest.fail(f"{found}\n{ask(url, 'targets')}")


def copy_credentials(lab: Lab, directory: Path) -> None:
    """The three files that the scrape configuration asks for."""
    directory.mkdir(mode=0o700)
    for name in ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key"):
        text = lab.sh("infra0", f"cat /etc/kubernetes/pki/etcd/{name}")
        (directory / name).touch(0o600)
        (directory / name).write_text(text, encoding="utf-8")


def metrics_in_rules() -> set[str]:
    """Every metric that an expression names."""
    rules = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    return {name for rule in rules for name in re.findall(r"(\w+)(?=\{)", rule["expr"])}


def test_prometheus_asks_real_members(cluster: Lab, tmp_path: Path) -> None:
    """Over TLS at the client port: every metric of the rules is there, of each member, and no alert fires."""
    assert report(cluster, tmp_path).code == 0
    directory = tmp_path / "prometheus"
    copy_credentials(cluster, directory / "etcd")
    # The metric of alarms exists only while one is raised.
    names = metrics_in_rules() - {"etcd_debugging_server_alarms"}
    assert len(names) == 13, names
    with prometheus(directory) as url:
        wait_for_members(url, 3)
        for name in names:
            seen = ask(url, "query", query=f"count by (cluster, member) ({name})")["result"]
            members = {item["metric"].get("member", "") for item in seen if item["metric"]["cluster"] == "etcd"}
            assert members - {""} == {"infra0", "infra1", "infra2"}, name
        rules = [rule for group in ask(url, "rules")["groups"] for rule in group["rules"]]
        assert len(rules) == 17 + 1 + 12 * 2 and all(rule["health"] == "ok" for rule in rules), rules
        # A slow disk of a busy machine is pending. It fires only after ten minutes.
        bad = [r for r in rules if r["type"] == "alerting" and r["state"] != "inactive" and r["name"] != "EtcdSlowDisk"]
        assert bad == []
        ratio = ask(url, "query", query="etcd_mvcc_db_total_size_in_bytes / etcd_server_quota_backend_bytes")["result"]
        assert len(ratio) == 3 and all(0 < float(item["value"][1]) < 0.5 for item in ratio)


@pytest.mark.long
def test_the_metrics_port_is_opened_and_closed(cluster: Lab, tmp_path: Path) -> None:
    """The members change one after the other. The run warns of the open port, which needs no certificate."""
    before = cluster.containers()
    addresses = list(cluster.addresses().values())
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{addresses[0]}:2381/metrics", timeout=5)
    run = cluster.site("-e", "etcd_metrics_exposed=true")
    try:
        assert "one member after the other" in run.output
        assert all(before[host] != container for host, container in cluster.containers().items())
        for address in addresses:
            with urllib.request.urlopen(f"http://{address}:2381/metrics", timeout=5) as answer:
                assert b"etcd_server_has_leader" in answer.read()
        run = report(cluster, tmp_path, "-e", "etcd_metrics_exposed=true")
        assert run.code == 0, run.output[-4000:]
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert f"Open without a certificate:</b> http://{addresses[0]}:2381" in page
        with prometheus(tmp_path / "prometheus") as url:
            wait_for_members(url, 3)
            assert {target["scrapePool"] for target in ask(url, "targets")["activeTargets"]} == {"etcd/etcd/metrics"}
    finally:
        cluster.site()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{addresses[0]}:2381/metrics", timeout=5)
