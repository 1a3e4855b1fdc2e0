"""The alert rules, by Prometheus' own tool."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "roles" / "report" / "files" / "etcd-alerts.yml"


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(ROOT / "tests" / "report" / "alerts.test.yml"))


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", str(RULES))


def test_each_alert_is_tested_and_says_what_to_do() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    tests = (ROOT / "tests" / "report" / "alerts.test.yml").read_text(encoding="utf-8")
    for rule in rules:
        assert f'alertname="{rule["alert"]}"' in tests, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical") and rule["for"]
        assert "$labels.cluster" in rule["annotations"]["summary"] and rule["annotations"]["description"]
