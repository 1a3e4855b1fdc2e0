"""Consistency across files: roles and their specs, variables and their documentation, and rules that no linter has."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tools import variables_doc

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))
ON_HOSTS = [*MODULES, *sorted((ROOT / "plugins" / "module_utils").rglob("*.py"))]
PLAYS = sorted(
    path
    for pattern in ("*.yml", "playbooks/**/*.yml", "roles/*/tasks/**/*.yml", "roles/*/handlers/**/*.yml")
    for path in ROOT.glob(pattern)
    if path.name != "galaxy.yml"
)

# Variables with the prefix ansible_ that are not facts.
NO_FACTS = re.compile(
    r"ansible_(facts|host|port|user|connection|become\w*|ssh_\w+|python_interpreter|pipelining|check_mode|diff_mode|version|loop\w*"
    r"|play_\w+|failed_\w+|run_tags|skip_tags|limit|collection_name|role_name|parent_role_names|collections|search_path"
    r"|inventory_sources|playbook_python|config_file|forks|verbosity|managed)\b"
)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[Path]:
    """Files that git knows or would take."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / item for item in listing.split("\0") if item and (ROOT / item).is_file()]


def tasks(node: Any) -> Iterator[dict[str, Any]]:
    """All tasks and plays of a file, those in blocks too."""
    if isinstance(node, list):
        for item in node:
            yield from tasks(item)
    elif isinstance(node, dict):
        yield node
        for key in ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always"):
            yield from tasks(node.get(key))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_described_and_its_defaults_are_the_spec(role: str) -> None:
    folder = ROOT / "roles" / role
    assert (folder / "README.md").is_file(), f"roles/{role}/README.md is missing"
    (spec,) = read(folder / "meta" / "argument_specs.yml")["argument_specs"].values()
    assert spec["short_description"]
    file = folder / "defaults" / "main.yml"
    defaults = read(file) if file.is_file() else {}
    assert defaults == {option: value["default"] for option, value in (spec.get("options") or {}).items()}


def test_a_variable_belongs_to_one_role() -> None:
    owners: dict[str, list[str]] = {}
    for role in ROLES:
        for option in variables_doc.specs(role):
            owners.setdefault(option, []).append(role)
    assert {option: roles for option, roles in owners.items() if len(roles) > 1} == {}


def test_the_example_inventory_has_every_variable_once_with_its_default() -> None:
    text = (ROOT / "inventory.example" / "group_vars" / "etcd.yml").read_text(encoding="utf-8")
    lines = re.findall(r"^# (etcd_\w+:.*)$", text, flags=re.MULTILINE)
    shown = [(option, value) for line in lines for option, value in yaml.safe_load(line).items()]
    options = [(option, value["default"]) for role in ROLES for option, value in variables_doc.specs(role).items()]
    assert sorted(shown, key=str) == sorted(options, key=str)
    assert yaml.safe_load(text) is None, "every variable is commented out: the example works as it stands"


def test_the_variables_page_is_what_the_specs_say() -> None:
    page = (ROOT / "docs" / "variables.md").read_text(encoding="utf-8")
    assert page == variables_doc.document(), "run `make docs`"


def test_every_variable_that_is_used_exists() -> None:
    known = {option for role in ROLES for option in variables_doc.specs(role)}
    for role in ROLES:
        file = ROOT / "roles" / role / "vars" / "main.yml"
        known |= set(read(file)) if file.is_file() else set()
    modules = {path.stem for path in MODULES}
    for path in [*PLAYS, *ROOT.glob("roles/*/templates/*"), *ROOT.glob("roles/*/vars/*.yml")]:
        code = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
        unknown = set(re.findall(r"(?<![\w.-])etcd_\w+", code)) - known - modules
        assert not unknown, f"{name(path)}: {unknown}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_documented(path: Path) -> None:
    constants = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    documentation = yaml.safe_load(constants["DOCUMENTATION"])
    assert documentation["module"] == path.stem
    assert documentation["version_added"]
    examples = yaml.safe_load(constants["EXAMPLES"])
    assert any(f"kubeadm.etcd.{path.stem}" in task for task in examples)
    assert yaml.safe_load(constants["RETURN"])


def test_changes_are_described_alike() -> None:
    """Modules that act return the same `changes`, and Ansible has no fragments for RETURN."""
    returns = [path.read_text(encoding="utf-8").split('RETURN = r"""')[1].split('"""')[0] for path in MODULES]
    found = [yaml.safe_load(text).get("changes") for text in returns]
    assert len([item for item in found if item]) >= 4
    assert all(item == next(filter(None, found)) for item in found if item)


@pytest.mark.parametrize("path", ON_HOSTS, ids=name)
def test_hosts_need_the_standard_library_only(path: Path) -> None:
    allowed = {"ansible", "ansible_collections", *sys.stdlib_module_names}
    if path.stem in ("x509", "making"):
        allowed.add("cryptography")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed, f"{name(path)}:{node.lineno}"
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and str(node.module).partition(".")[0] in allowed, f"{name(path)}:{node.lineno}"


@pytest.mark.parametrize("path", PLAYS, ids=name)
def test_rules_for_tasks(path: Path) -> None:
    for task in tasks(read(path)):
        where = f"{name(path)}: {task.get('name')}"
        assert not {"run_once", "ignore_errors", "ignore_unreachable"} & set(task), where
        assert not {"ansible.builtin.shell", "ansible.builtin.raw", "shell", "raw"} & set(task), where
        if "ansible.builtin.command" in task:
            assert {"changed_when", "timeout"} <= set(task), f"{where}: a command has changed_when and timeout"
    code = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
    facts = [word for word in re.findall(r"(?<![\w.])ansible_\w+", code) if not NO_FACTS.fullmatch(word)]
    assert not facts, f"{name(path)}: write ansible_facts['...'] instead of {facts}"


def quoted_messages(page: str) -> list[list[str]]:
    """The quotes of each entry of docs/troubleshooting.md, without what an ellipsis stands for.

    An entry is a paragraph or list item that begins with quotes in italics, up to a colon.
    """
    entries = re.findall(r"^(?:- )?((?:\*[^*]+\*[^*:]*)+): ?", page, flags=re.MULTILINE)
    return [
        [part.strip() for quote in re.findall(r"\*([^*]+)\*", entry) for part in quote.split("…")] for entry in entries
    ]


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    """A user searches the page for the words of a message. Very short parts of a quote are not compared."""
    entries = quoted_messages((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    files = [path for folder in ("plugins", "roles", "playbooks") for path in (ROOT / folder).rglob("*")]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".yml"))
    for entry in entries:
        quotes = [part for part in entry if len(part) > 8]
        assert quotes, entry
        assert not [part for part in quotes if part not in sources]
    assert len(entries) >= 25


def test_quotes_of_troubleshooting_are_found_in_its_text() -> None:
    """The test above would pass if it found none."""
    page = "# Title\n\n- *no such words … anywhere*, *second*: a remedy: *emphasis*.\n\n*third quote* in the log: mount it.\n\nText: *no entry*.\n"
    assert quoted_messages(page) == [["no such words", "anywhere", "second"], ["third quote"]]


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "roles").glob("*/README.md"))]


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", documents(), ids=name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        file, _hash, anchor = target.partition("#")
        if "://" in target:
            continue
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


def test_messages_refer_to_pages_and_headings_that_exist() -> None:
    """docs/PAGE.md ("HEADING"), or docs/PAGE.md, "HEADING", in code and tasks."""
    for folder in ("plugins", "roles", "playbooks"):
        for path in (path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yml")):
            source = path.read_text(encoding="utf-8").replace('\\"', '"')
            for page, text in re.findall(r"\bdocs/([\w-]+\.md)((?: \(|, )\"[^).]*)?", source):
                target = ROOT / "docs" / page
                assert target.is_file(), f"{name(path)}: docs/{page}"
                headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
                missing = set(re.findall(r'"([^"]+)"', text)) - set(headings)
                assert not missing, f"{name(path)}: docs/{page} has no {missing}"


def test_fragments_can_be_read() -> None:
    sections = {section for section, _title in read(ROOT / "changelogs" / "config.yaml")["sections"]}
    sections |= {"release_summary", "trivial"}
    fragments = sorted((ROOT / "changelogs" / "fragments").glob("*"))
    for path in fragments:
        content = read(path)
        assert isinstance(content, dict) and set(content) <= sections, name(path)
        for section, entries in content.items():
            assert isinstance(entries, str if section == "release_summary" else list), f"{name(path)}: {section}"
    assert fragments or (ROOT / "changelogs" / "changelog.yaml").is_file()


def test_nothing_secret_and_nothing_of_this_machine_is_tracked() -> None:
    key = re.compile(r"BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")
    home = Path.home()
    places = [f"{ROOT}/", "/root/" + ".pyenv", "/root/" + ".cache", *([f"{home}/"] if home.name != "root" else [])]
    machine = re.compile(rf"(?<![\w./-])({'|'.join(map(re.escape, places))})")
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "proxy" + ".golang.org", "deb" + ".debian.org"]
    registries = re.compile("|".join(map(re.escape, hosts)))
    for path in tracked():
        if path.name in ("go.sum", "LICENSE") or path.suffix == ".png":
            continue
        text = path.read_text(encoding="utf-8")
        for what, pattern in (("private key", key), ("path of one machine", machine), ("package host", registries)):
            found = pattern.search(text)
            assert not found, f"{name(path)}: {what}: {found and found.group()[:40]}"


def test_the_collection_holds_what_it_should(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("ansible-galaxy")
    command = [str(program), "collection", "build", "--output-path", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        files = {member.name for member in archive if not member.isdir()}
        folders = {member.name for member in archive if member.isdir()}
        assert sum(member.size for member in archive) < 5_500_000
    made = {"MANIFEST.json", "FILES.json"}
    strangers = files - made - {name(path) for path in tracked()}
    assert not strangers, "add them to build_ignore in galaxy.yml"
    hidden = {path for path in folders if any(part.startswith((".", "__pycache__")) for part in Path(path).parts)}
    assert not hidden
    assert {
        "README.md",
        "LICENSE",
        "CHANGELOG.rst",
        "meta/runtime.yml",
        "playbooks/site.yml",
        "docs/variables.md",
    } <= files


# Files that the commands of the documents write into a checkout, or read there. Some hold secrets.
KEPT_IN_A_CHECKOUT = [
    "inventory/hosts.yml", "inventory/group_vars/etcd.yml", "backups/etcd-20261127T090000Z-r51234.db", "etcd-signing/etcd/infra0/server.csr",
    "prometheus/etcd-scrape.yml", "backup.key", "backup.crt", "ca.crt", "ca-key.pem", "etcd-ca-key.pem", "vault.yml", "external.yaml",
    "report.html", "report.json",
]  # fmt: skip


def test_the_collection_and_git_ignore_what_the_documents_have_people_keep(tmp_path: Path) -> None:
    for path in [*KEPT_IN_A_CHECKOUT, "README.md", "galaxy.yml"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("a secret\n", encoding="utf-8")
    shutil.copy(ROOT / "galaxy.yml", tmp_path)
    program = Path(sys.executable).with_name("ansible-galaxy")
    command = [str(program), "collection", "build", "--output-path", str(tmp_path), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        assert {member.name for member in archive if member.isfile()} == {"MANIFEST.json", "FILES.json", "README.md"}
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *KEPT_IN_A_CHECKOUT],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ignored.stdout.split() == KEPT_IN_A_CHECKOUT


def test_filters_load_nothing_before_they_are_called() -> None:
    """Ansible loads all of them in each worker of each task that uses one."""
    names = [path.stem for path in sorted((ROOT / "plugins" / "filter").glob("*.py"))]
    code = "import sys\n" + "".join(
        f"import ansible_collections.kubeadm.etcd.plugins.filter.{name}\n" for name in names
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print([name for name in sys.modules if '.module_utils._' in name])"],
        env={"PYTHONPATH": str(ROOT / ".collections")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert ast.literal_eval(done.stdout) == []


@pytest.mark.parametrize("path", sorted((ROOT / "playbooks").glob("*.yml")), ids=name)
def test_plays_are_run_in_lockstep(path: Path) -> None:
    """Members would not take turns with another strategy, which the user may have set for all playbooks."""
    plays = [play for play in read(path) if "roles" in play]
    assert plays and all(play.get("strategy") == "ansible.builtin.linear" for play in plays)


# Texts that look like numbers, through the variables that the roles hand to the modules.
PLAY = """\
- hosts: localhost
  gather_facts: false
  connection: local
  vars_files: ["{root}/roles/etcd/defaults/main.yml", "{root}/roles/etcd/vars/main.yml"]
  vars:
    __etcd_host: {{wanted: {{config: {{image_tag: "3.10", extra_args: {{a: "1e3"}}}}}}}}
    __etcd_plan: {{state: new, token: "12e4", published: []}}
  tasks:
    - ansible.builtin.debug:
        msg: "{{{{ __etcd_wanted_config | to_json }}}}"
"""


@pytest.mark.parametrize("venv", [".venv", ".venv-oldest"])
def test_text_that_looks_like_a_number_stays_text(venv: str, tmp_path: Path) -> None:
    """With jinja2_native, which makes numbers of texts in ansible-core up to 2.18."""
    program = ROOT / venv / "bin" / "ansible-playbook"
    if not program.exists():
        pytest.skip(f"{venv} is not there")
    playbook = tmp_path / "play.yml"
    playbook.write_text(PLAY.format(root=ROOT))
    done = subprocess.run(
        [str(program), "-i", "localhost,", str(playbook)],
        env={
            **os.environ,
            "ANSIBLE_JINJA2_NATIVE": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.oneline",
            "HOME": str(tmp_path),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout.replace("\\", "")
    for words in (
        '"image_tag": "3.10"',
        '"a": "1e3"',
        '"initial_cluster_token": "12e4"',
    ):
        assert words in said, (words, done.stdout, done.stderr)


@pytest.mark.parametrize("path", ON_HOSTS, ids=name)
def test_every_problem_has_a_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
            assert [word.arg for word in node.keywords if word.arg == "code"], f"{name(path)}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "map":
            assert getattr(node.args[0], "id", "") != "Problem", f"{name(path)}:{node.lineno}"


def test_what_roles_read_of_a_plan_is_there() -> None:
    """A misspelt key would only fail on hosts."""
    files = [path for directory in ("roles", "playbooks") for path in (ROOT / directory).rglob("*.yml")]
    read_by_roles = {key for path in files for key in re.findall(r"__etcd_plan\.(\w+)", path.read_text("utf-8"))}
    code = [
        path for layer in ("_control", "_operations") for path in (ROOT / "plugins/module_utils" / layer).glob("*.py")
    ]
    text = "".join(path.read_text("utf-8") for path in [*code, ROOT / "plugins/action/etcd_plan.py"])
    assert "watched" in read_by_roles and [key for key in sorted(read_by_roles) if f'"{key}"' not in text] == []


def main_of(path: Path) -> ast.FunctionDef | None:
    found = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    return next((node for node in found if node.name == "main"), None)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_states_its_errors(path: Path) -> None:
    """All that main does once the options are read is in stated_errors, so an error of the disk is no traceback. A module without main is run by its action."""
    main = main_of(path)
    if main is None:
        assert (ROOT / "plugins" / "action" / path.name).is_file()
        return
    begun = [ast.unparse(node).startswith("module = AnsibleModule(") for node in main.body].index(True)
    assert all(isinstance(node, ast.Assign) for node in main.body[:begun])
    assert [ast.unparse(node).splitlines()[0] for node in main.body[begun + 1 :]] == [
        "with stated_errors(module.fail_json):"
    ]
