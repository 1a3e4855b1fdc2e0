"""Plan, table and problems are printed as text with every callback."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = ["MEMBER  HEALTH", 'infra0  healthy: it\'s "well"', "  - " + "x" * 200]
TASKS = [
    {"kubeadm.etcd.etcd_show": {"lines": LINES}},
    {"kubeadm.etcd.etcd_fail": {"text": "2 problems:\n- 'a'\n- b"}},
]


@pytest.mark.parametrize("core", [".venv", ".venv-oldest"], ids=["newest", "oldest"])
@pytest.mark.parametrize("callback", ["default", "default, yaml", "minimal", "oneline"])
def test_text_is_printed_as_it_is(tmp_path: Path, core: str, callback: str) -> None:
    program = ROOT / core / "bin" / "ansible-playbook"
    if not program.exists():
        pytest.skip("that ansible-core is not here")
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": TASKS}]
    (tmp_path / "play.yml").write_text(json.dumps(play), encoding="utf-8")
    name, _comma, form = callback.partition(", ")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE")},
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_STDOUT_CALLBACK": name,
        "ANSIBLE_NOCOLOR": "true",
        **({"ANSIBLE_CALLBACK_RESULT_FORMAT": form} if form else {}),
    }
    done = subprocess.run(
        [str(program), "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")],
        cwd=tmp_path,
        env=environment,
        check=False,
        text=True,
        capture_output=True,
        timeout=120,
    )
    said = done.stdout.splitlines() + done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert all(line in said for line in [*LINES, "2 problems:", "- 'a'", "- b"]), done.stdout
    # Once, and not again in the quotes of a result.
    assert done.stdout.count("- b") + done.stderr.count("- b") == 1, done.stdout
