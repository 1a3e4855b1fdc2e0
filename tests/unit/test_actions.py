"""The action plugins as Ansible calls them, with the variables of a play: what they pass on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import VARIABLES

pytest.importorskip("ansible.plugins.action")

from ansible.errors import AnsibleConnectionFailure
from ansible.playbook.role import Role
from ansible_collections.kubeadm.etcd.plugins.action import etcd_observe, etcd_plan
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.stages import STAGES
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.variables import FIXED
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import EVERYTHING, Problem
from test_backup import certificate
from test_decision import HOSTS
from test_run import ALL_UP, observations
from test_seams import seen


class HostVars(dict[str, Any]):
    """As Ansible's: hosts with their templates, and as they were set."""

    def raw_get(self, host: str) -> Any:
        return self[host]


def templar() -> Any:
    """Variables of these tests have no templates."""
    found = SimpleNamespace(template=lambda value: value)
    found.copy_with_new_env = lambda **_: found
    return found


def role(name: str, tags: list[str]) -> Any:
    """A role as Ansible has loaded it."""
    found = Role()
    found._role_name, found._role_collection, found.tags = name, "kubeadm.etcd", tags
    return found


class Play:
    """A play over three members. printed: what each action plugin has shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found = seen(observations(*ALL_UP))
        self.strategy = "linear"
        self.batch = list(HOSTS)
        self.failed: list[str] = []
        # What the task has returned for hosts that have had their turn.
        self.results: dict[str, dict[str, Any]] = {}
        # Variables of the CA host.
        self.signer: dict[str, Any] = {}
        options = etcd_observe.variable_options()
        self.variables: dict[str, Any] = {name: option.get("default") for name, option in options.items()}
        # The roles of the play and their tags, and the role that a task includes.
        self.roles: dict[str, list[str]] = {}
        self.including = ""
        self.printed: list[str] = []
        self.wishes: list[Any] = []
        plan_run = etcd_plan.plan_run

        def watched(*arguments: Any) -> dict[str, Any]:
            self.wishes.append(arguments[3])
            return plan_run(*arguments)

        monkeypatch.setattr(etcd_plan, "plan_run", watched)
        monkeypatch.setattr(etcd_plan, "show", lambda lines, _color=None: self.printed.extend(lines))
        monkeypatch.setattr(etcd_plan, "failure", lambda text: {"failed": True, "msg": text})
        monkeypatch.setenv("PWD", "/here")

    def task(self, **args: Any) -> Any:
        play = SimpleNamespace(strategy=self.strategy, tags=[], roles=[role(*item) for item in self.roles.items()])
        own = SimpleNamespace(get_parents=lambda: [role(self.including, [])] if self.including else [])
        return SimpleNamespace(args=args, async_val=0, check_mode=False, action="x", get_play=lambda: play, _role=own)

    def plan(self, host: str = "infra0", **args: Any) -> dict[str, Any]:
        of_task = {name: value for name, value in args.items() if name in ("operation", "phase", "all_stages")}
        given = {VARIABLES.get(name, f"etcd_{name}"): value for name, value in args.items() if name not in of_task}
        action = object.__new__(etcd_plan.ActionModule)
        action._task, action._loader, action._templar = self.task(**of_task), None, templar()
        action._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/x"))
        return action.run(
            None,
            {
                "inventory_hostname": host,
                "ansible_play_batch": [item for item in self.batch if item not in self.results],
                "ansible_play_hosts": [item for item in self.batch if item not in [*self.failed, *self.results]],
                "ansible_play_hosts_all": self.batch,
                "hostvars": HostVars(
                    {
                        item: {
                            "__etcd_host": self.found.get(item),
                            "__etcd_plan": self.results.get(item),
                            **(self.signer if item == "infra0" else {}),
                        }
                        for item in self.batch
                    }
                ),
                **self.variables,
                **given,
            },
        )


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    return Play(monkeypatch)


def restart(play: Play, *hosts: str) -> None:
    for host in hosts:
        play.found[host]["reasons"]["manifest"] = [
            {"part": "manifest", "code": "line", "text": "etcd.yaml: differs", "restarts": True}
        ]


def test_a_settled_cluster(play: Play) -> None:
    result = play.plan()
    assert result["settled"] and not result["changed"] and "failed" not in result
    assert play.printed == ["cluster etcd: nothing to do"]
    assert result["own_ca"] == {} and result["signing_dir"].endswith("/etcd") and result["ca_export"]
    json.dumps(result)


@pytest.mark.parametrize(
    ("roles", "including", "all_stages", "tags", "stages"),
    [
        # site.yml lists the role etcd.
        ({"etcd": ["always"]}, "", True, ["all"], STAGES),
        ({"etcd": ["always"]}, "", True, ["certificates"], ("ca", "certificates")),
        # The roles of a play, each with its tags.
        ({"kubelet": ["one"], "static_pod": ["two"]}, "kubelet", False, ["all"], ("kubelet", "static_pod")),
        ({"kubelet": ["one"], "static_pod": ["two"]}, "kubelet", False, ["two"], ("static_pod",)),
        ({"kubelet": []}, "kubelet", False, ["two"], ()),
        # A role that is included: its tags are those of the task.
        ({}, "kubelet", False, ["all"], ("kubelet",)),
        ({}, "kubelet", False, ["two"], ("kubelet",)),
        ({}, "", False, ["all"], STAGES),
    ],
)
def test_the_stages_of_a_run(
    play: Play,
    roles: dict[str, list[str]],
    including: str,
    all_stages: bool,
    tags: list[str],
    stages: tuple[str, ...],
) -> None:
    play.roles, play.including = roles, including
    play.variables.update(ansible_run_tags=tags, ansible_skip_tags=[])
    restart(play, "infra1")
    play.plan(all_stages=all_stages)
    assert play.wishes[0].stages == stages
    assert ("infra1: manifest: etcd.yaml: differs" in play.printed) == ("static_pod" in stages)
    play.plan(all_stages=all_stages, operation="renew")
    assert play.wishes[1].stages == STAGES


@pytest.mark.parametrize(
    ("host", "operation", "incomplete"),
    [("infra1", "converge", True), ("infra1", "report", False), ("other", "converge", False)],
)
def test_nothing_is_planned_before_all_of_the_cluster_is_known(
    play: Play, host: str, operation: str, incomplete: bool
) -> None:
    """Hosts of other clusters are not waited for, and a report takes what there is."""
    if host == "other":
        play.batch.append(host)
        play.found[host] = {
            "cluster": {**play.found["infra0"]["cluster"], "name": "other", "members": []},
            "incomplete": True,
        }
    else:
        play.found[host]["incomplete"] = True
    result = play.plan(operation=operation)
    assert result.get("incomplete", False) is incomplete and (play.wishes == []) is incomplete
    assert result["finished"] is False if incomplete else "failed" not in result


def test_a_member_that_a_hand_over_does_not_observe(play: Play) -> None:
    """It continues, whatever the plan of the control plane hosts is."""
    play.found["infra1"] = {"cluster": play.found["infra1"]["cluster"]}
    assert "failed" not in play.plan("infra1", operation="hand_over")


def test_a_phase_of_a_rotation(play: Play) -> None:
    play.plan(operation="rotate_ca", phase="trust", until="issue")
    assert (play.wishes[0].phase, play.wishes[0].until, play.wishes[0].check) == ("trust", "issue", False)


def test_a_run_that_ends_with_its_plan_shows_the_cluster(play: Play) -> None:
    play.found["infra0"]["health"] = {"verdict": "healthy", "table": ["a table"]}
    assert play.plan()["finished"] is True
    assert play.printed[1] == "a table" and "kind: ClusterConfiguration" in play.printed
    assert play.plan("infra1")["finished"] is True and play.printed.count("a table") == 1


def test_a_host_that_the_run_has_refused_before_others_had_their_turn(play: Play) -> None:
    """With fewer forks than hosts, Ansible takes it out of the play before it plans for the others. It is not one that does not answer."""
    play.found["infra0"]["problems"] = [Problem("out of order", EVERYTHING).as_dict()]
    for host in HOSTS:
        play.results[host] = play.plan(host)
    assert all(result["failed"] for result in play.results.values())
    said = [result["msg"] for result in play.results.values()]
    assert (
        "1 problem(s)" in said[0]
        and "out of order" in said[0]
        and set(said[1:]) == {"Nothing has been changed here. See the message from infra0."}
    )
    # One that failed in an earlier phase is gone.
    play.results = {"infra0": {"failed": True, "phase": "trust"}}
    assert "cannot be reached" in play.plan("infra1")["msg"]


def test_the_operation_is_that_of_the_task(play: Play) -> None:
    play.variables["etcd_operation"] = "renew"
    play.plan()
    assert play.wishes[0].operation == "converge"


def test_what_a_control_plane_host_takes_from_the_ca_host(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(etcd_plan.ActionModule, "own_ca", lambda _self, args, _variables: given.append(args) or {})
    play.variables["__etcd_host"] = play.found["infra1"]
    play.signer = {
        "etcd_client_port": 3379,
        "etcd_ca_cert": "/s/ca.crt",
        "etcd_ca_key": "/s/ca.key",
        "etcd_ca_key_passphrase": "six words",
        "etcd_signing_dir": "/s/sign",
        "etcd_backup_before_change": False,
    }
    result = play.plan("infra1")
    assert ":3379" in result["external"] and result["client_port"] == 3379 and result["signing_dir"] == "/s/sign/etcd"
    names = ("ca_cert", "ca_key", "ca_key_passphrase", "backup_before_change")
    assert [given[0][f"etcd_{name}"] for name in names] == ["/s/ca.crt", "/s/ca.key", "six words", True]


def test_one_host_shows_the_plan(play: Play) -> None:
    restart(play, "infra1")
    assert play.plan("infra1")["order"] == ["infra1"] and play.printed == []
    assert not play.plan("infra0")["settled"] and "etcd.yaml: differs" in play.printed[1]


def test_hosts_that_have_failed_stop_it(play: Play) -> None:
    """A host fails in an earlier task, or leaves the batch as unreachable."""
    play.failed = ["infra2"]
    result = play.plan()
    assert result["failed"] and "infra2 cannot be reached" in result["msg"]
    assert "See the message from infra0" in play.plan("infra1")["msg"]


def test_what_the_run_is_limited_to(play: Play) -> None:
    play.failed, play.variables["ansible_limit"] = ["infra2"], "infra0,infra2"
    assert "--limit 'infra0,infra2,!infra2'" in play.plan()["msg"]


@pytest.mark.parametrize("strategy", ["free", "ansible.builtin.host_pinned"])
def test_a_strategy_in_which_hosts_do_not_wait(play: Play, strategy: str) -> None:
    play.strategy = strategy
    result = play.plan()
    assert result["failed"] and f"it runs with strategy {strategy}" in result["msg"] and play.wishes == []


def test_a_host_that_was_not_waited_for(play: Play) -> None:
    play.found["infra2"] = {"cluster": play.found["infra2"]["cluster"]}
    assert "do not wait for each other" in play.plan()["msg"]


@pytest.mark.parametrize("allow", [False, True])
def test_an_interruption_has_to_be_allowed(play: Play, allow: bool) -> None:
    play.batch, play.found = ["infra0"], {"infra0": play.found["infra0"]}
    restart(play, "infra0")
    play.found["infra0"]["cluster"]["members"] = play.found["infra0"]["cluster"]["members"][:1]
    play.found["infra0"]["etcd"]["members"] = play.found["infra0"]["etcd"]["members"][:1]
    result = play.plan(allow_interruption=allow)
    assert bool(result.get("failed")) is not allow
    if allow:
        assert result["order"] == ["infra0"] and result["gated"] is False


WISHES: dict[str, Any] = {
    "member": "infra2",
    "replace_healthy": True,
    "wipe_keys": True,
    "runtime_endpoint": "unix:///run/x.sock",
    "external_file": "/x/external.yaml",
    "allow_interruption": True,
    "allow_untested_kubeadm": True,
    "remove_stray_ca_keys": True,
    "ca_host": "infra1",
}


@pytest.mark.parametrize("name", WISHES)
def test_task_options_are_part_of_the_wish(play: Play, name: str) -> None:
    play.plan(**{name: WISHES[name]})
    play.plan()
    assert getattr(play.wishes[0], name) == WISHES[name] != getattr(play.wishes[1], name)


def test_an_invalid_value_is_not_part_of_the_wish(play: Play) -> None:
    """The plan shows it as a problem of the inventory. A report does not need it."""
    play.found["infra0"]["cluster"]["invalid"] = ["etcd_defragment_threshold"]
    play.variables["__etcd_host"] = play.found["infra0"]
    play.plan(defragment_threshold="x", member="infra2")
    play.plan(operation="report", member="infra2")
    assert [(wish.defragment_threshold, wish.member) for wish in play.wishes] == [(45, "infra2"), (45, "")]


def test_paths_begin_where_the_command_is_given(play: Play) -> None:
    assert play.plan(signing_dir="sign")["signing_dir"] == "/here/sign/etcd"
    play.plan(image_archive="images.tar")
    assert play.wishes[0].signing_dir == "/here/sign" and play.wishes[1].image_archive == "/here/images.tar"


def test_the_directory_for_snapshots_is_checked(play: Play, tmp_path: Path) -> None:
    """That of the host whose snapshot it is. Relative to where the command is given, as where it is copied to."""
    for item in play.found.values():
        item["etcd"]["answers"] = True
        item["backup"] = {"dir": "/var/backups/etcd", "newest": [], "count": 0, "state": {}}
    (tmp_path / "file").write_text("x")
    said = play.plan(operation="backup", backup_fetch_dir=str(tmp_path / "file"))
    assert said["failed"] and f"{tmp_path}/file is not a directory of the controller" in said["msg"]
    assert "failed" not in play.plan(operation="backup", backup_fetch_dir=str(tmp_path / "new"))
    play.plan(backup_fetch_dir="copies")
    assert play.wishes[-1].fetch_dirs["infra1"].path == "/here/copies"
    # A host may have its own.
    play.signer = {"etcd_backup_fetch_dir": str(tmp_path / "file")}
    assert "failed" not in play.plan(host="infra1", operation="backup", backup_fetch_dir=str(tmp_path / "new"))
    assert play.wishes[-1].fetch_dirs["infra0"].problem and not play.wishes[-1].fetch_dirs["infra1"].problem
    play.plan()
    assert [*play.wishes[-1].fetch_dirs] == ["infra0"] and not list(tmp_path.glob("new"))


def test_the_image_archive_is_checked(play: Play) -> None:
    play.found["infra1"]["images"] = []
    assert "/here/images.tar" in play.plan(image_archive="images.tar")["msg"]


def test_a_report_does_not_fail_if_hosts_have_failed(play: Play) -> None:
    play.failed = ["infra2"]
    result = play.plan(operation="report")
    assert "failed" not in result and result["problems"] and play.printed == []


def test_external_files_of_all_clusters(play: Play) -> None:
    play.plan(external_file="/x/external.yaml")
    assert play.wishes[0].external_files == {"etcd": "/x/external.yaml"}


# --- etcd_observe ----------------------------------------------------------------------------------------------------


class Look:
    """etcd_observe on a host. answer: what etcd_host_info returns, or raises."""

    def __init__(self) -> None:
        self.answer: Any = {"facts": {}, "etcd": {}}
        self.asked: list[dict[str, Any]] = []
        options = etcd_observe.variable_options()
        values = {name: option.get("default") for name, option in options.items()}
        self.variables: dict[str, Any] = {**dict.fromkeys(FIXED, "x"), **values}

    def execute(self, module_name: str, module_args: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert module_name == "kubeadm.etcd.etcd_host_info"
        self.asked.append(module_args)
        if isinstance(self.answer, Exception):
            raise self.answer
        return dict(self.answer)

    def run(self, host: str = "infra0", **args: Any) -> dict[str, Any]:
        action = object.__new__(etcd_observe.ActionModule)
        action._task = SimpleNamespace(args=args, async_val=0, check_mode=False, action="x")
        action._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/x"))
        action._execute_module = self.execute
        action._loader, action._templar = None, templar()
        hostvars = HostVars({item: {"ansible_host": f"10.0.0.{6 + i}"} for i, item in enumerate(HOSTS)})
        return action.run(
            None,
            {
                **self.variables,
                "etcd_member_name": host,
                "inventory_hostname": host,
                "groups": {"etcd": HOSTS, "control0": []},
                "hostvars": hostvars,
            },
        )


def test_a_host_is_observed() -> None:
    look = Look()
    result = look.run("infra1")
    assert [member["address"] for member in result["cluster"]["members"]] == ["10.0.0.6", "10.0.0.7", "10.0.0.8"]
    assert not result["changed"] and result["facts"] == {} and result["installs"] is False
    assert result["incomplete"] is False
    assert look.asked[0]["address"] == "10.0.0.7" and look.asked[0]["name"] == "infra1"


@pytest.mark.parametrize("installs", ["yes", "no"])
def test_a_package_that_the_host_lacks(installs: str) -> None:
    look = Look()
    look.answer = {"facts": {"cryptography_package": "python3-cryptography"}}
    look.variables["etcd_install_dependencies"] = installs
    assert look.run()["installs"] is (installs == "yes")


def test_only_a_host_that_leaves_may_be_unreachable() -> None:
    look = Look()
    look.answer = AnsibleConnectionFailure("no route")
    with pytest.raises(AnsibleConnectionFailure):
        look.run("infra2")
    look.variables["etcd_member"] = "infra2"
    assert "facts" not in look.run("infra2", operation="remove")
    with pytest.raises(AnsibleConnectionFailure):
        look.run("infra1", operation="remove")


def test_the_certificate_for_snapshots_is_read_on_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not if the inventory is invalid: the certificate itself may be invalid."""
    texts = {"/here/x.pem": certificate("rsa:2048")}
    monkeypatch.setenv("PWD", "/here")
    monkeypatch.setattr(etcd_observe, "file_text", lambda path, *_other: texts.get(path, ""))
    look = Look()
    look.variables.update(etcd_backup_recipient="x.pem")
    assert look.run()["cluster"]["problems"] == []
    assert look.asked[0]["backup"]["recipient"] == texts["/here/x.pem"]
    texts.clear()
    (problem,) = look.run()["cluster"]["problems"]
    assert problem["text"] == "etcd_backup_recipient: /here/x.pem cannot be read on the controller."
    look.variables["etcd_no_such_variable"] = "x"
    assert "x.pem" not in str(look.run()["cluster"]["problems"])
