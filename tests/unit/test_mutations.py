"""The tool that plants bugs: the places that it finds, and the places of its named bugs."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations import bugs
from tests.mutations.__main__ import equivalents, sample
from tests.mutations.operators import Site, sites_of

ROOT = Path(__file__).resolve().parents[2]
CODE = '''
NAMES = ("a", "b")

def f(a: int, b: list[str]) -> list[str]:
    """Text."""
    if not a and b:
        raise ValueError(f"{a if b else 0}")
    return sorted(b, reverse=True)
'''


def planted(code: str, operator: str, path: Path) -> list[str]:
    """The code with each of the bugs that an operator finds."""
    path.write_text(code)
    found = []
    for number in range(len([site for site in sites_of(path, path.parent)[1] if site.operator == operator])):
        tree, sites = sites_of(path, path.parent)
        [site for site in sites if site.operator == operator][number].plant()
        found.append(ast.unparse(tree))
    return found


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ("never", "if not a and b:", ["if False:"]),
        ("always", "if not a and b:", ["if True:"]),
        ("without not", "not a and b", ["a and b"]),
        ("without operand", "not a and b", ["if b:", "if not a:"]),
        ("and/or", "not a and b", ["not a or b"]),
        ("no statement", "raise ValueError(f'{(a if b else 0)}')", ["pass"]),
        ("first argument", "sorted(b, reverse=True)", ["return b"]),
        ("flag", "reverse=True", ["reverse=False"]),
        ("return []", "return sorted(b, reverse=True)", ["return []"]),
        ("fewer elements", "NAMES = ('a', 'b')", ["NAMES = ('b',)", "NAMES = ('a',)"]),
        ("comparison", "", []),
    ],
)
def test_operators(tmp_path: Path, operator: str, before: str, after: list[str]) -> None:
    found = planted(CODE, operator, tmp_path / "code.py")
    assert len(found) == len(after)
    for text, wanted in zip(found, after):
        assert before in ast.unparse(ast.parse(CODE)) and wanted in text


def test_keys_and_samples_survive_edits_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(CODE)
    before = sites_of(path, tmp_path)[1]
    path.write_text(f"import os\n\ndef g(x: int) -> bool:\n    return x > 1 and x < 7\n{CODE}")
    after = [site for site in sites_of(path, tmp_path)[1] if site.qualname != "g"]
    assert [site.key for site in after] == [site.key for site in before] and len({site.key for site in before}) == len(
        before
    )
    assert [site.key for site in sample(after, 0.5, 1)] == [site.key for site in sample(before, 0.5, 1)]
    assert 0 < len(sample(before, 0.5, 1)) < len(before) and len(sample(before, 0.0, 1)) == 3


def sites() -> list[Site]:
    return [site for name in bugs.TABLE for site in sites_of(ROOT / bugs.path_of(name), ROOT)[1]]


def test_equivalent_bugs_are_still_there_and_have_a_reason() -> None:
    known = equivalents()
    assert set(known) <= {site.key for site in sites()}, "remove what is gone from equivalent.txt"
    assert all(len(reason) > 10 for reason in known.values())


@pytest.mark.parametrize("bug", bugs.NAMED, ids=lambda bug: bug.name)
def test_named_bugs_have_their_place(bug: bugs.Named) -> None:
    places, _tree = bugs.named_sites(bug, ROOT)
    assert all(site.before != site.after for site in places)
    assert bug.module in bugs.TABLE


def test_the_tests_of_the_table_are_there() -> None:
    assert not [
        file for files in bugs.TABLE.values() for file in files if not (ROOT / "tests" / "unit" / file).is_file()
    ]
    assert importlib.util.find_spec("tests.mutations.run")


def in_a_process(code: str) -> str:
    """The output of a program in a new process, since a planted bug cannot be removed."""
    path = os.pathsep.join([str(ROOT / ".collections"), str(ROOT)])
    begin = "import os, sys, importlib\nfrom pathlib import Path\nfrom tests.mutations import bugs, operators, run\n"
    argv = [sys.executable, "-c", begin + code]
    return subprocess.run(
        argv, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True, text=True
    ).stdout


def test_a_bug_is_planted_in_code_that_others_have_imported() -> None:
    code = """
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import read_off
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import Step
bug = next(bug for bug in bugs.NAMED if bug.name == "the plan is always settled")
steps = [Step("turn", "infra0", "infra0", 1, ())]
before = read_off(steps)["settled"]
run.plant(*bugs.named_sites(bug, run.ROOT))
print(before, read_off(steps)["settled"])
"""
    assert in_a_process(code).split() == ["False", "True"]


def test_a_constant_is_replaced_wherever_it_was_imported() -> None:
    code = """
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import plan, steps
tree, sites = operators.sites_of(run.ROOT / "plugins/module_utils/_control/steps.py", run.ROOT)
plan.IMPORTED, before = steps.CA_KEY_KINDS, steps.CA_KEY_KINDS
run.plant([next(site for site in sites if site.qualname == "CA_KEY_KINDS")], tree)
print(plan.IMPORTED == steps.CA_KEY_KINDS == before[1:])
"""
    assert in_a_process(code) == "True\n"


HARM = [
    "os.kill(os.getppid(), 15)",
    "os.remove('/etc/kubernetes/x')",
    "os.rename('a', '/etc/kubernetes/x')",
    "open('/etc/kubernetes/x', 'w')",
    "os.open('/etc/kubernetes/x', os.O_WRONLY | os.O_CREAT)",
    "os.symlink('/etc', '../x')",
    "__import__('subprocess').run(['/usr/bin/systemctl', 'stop', 'kubelet'])",
    "__import__('shutil').rmtree('/etc/kubernetes')",
]


def test_a_planted_bug_does_no_harm(tmp_path: Path) -> None:
    """It cannot write files, signal processes or run systemctl."""
    code = f"""
os.chdir({str(tmp_path)!r})
run.guard(({str(tmp_path)!r},))
open("a", "w").close()
for act in {HARM!r}:
    try:
        exec(act)
    except PermissionError as exc:
        print(exc)
"""
    said = in_a_process(code).splitlines()
    assert len(said) == len(HARM) and all(line.startswith("a planted bug ") for line in said)
