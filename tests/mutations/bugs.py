"""Maps modules to the tests that must notice their bugs, and lists named bugs, which would cost members or data."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutations.operators import Function, Site, called, lines_of, text_of

# The share of all places that `make test` tries.
SAMPLE = 0.04

# With --all, the share of a module's bugs that must be noticed. Raise it as tests are added.
LEAST = 0.6

# Tests that take too long to be run for each bug.
SLOW = ("test_every_combination[5]", "test_every_combination[4]")


def modules(folder: str, **tests: str) -> dict[str, list[str]]:
    return {f"plugins/{folder}/{name}": [f"test_{file}.py" for file in files.split()] for name, files in tests.items()}


TABLE = {
    **modules(
        "module_utils/_control",
        decision="decision run seams identity observe_seam",
        alarms="decision departure run",
        view="run seams departure move_ca report actions",
        judge="decision run seams departure authority restore rotate_ca upgrade",
        plan="decision departure run seams rotate_ca restore stages",
        stages="stages",
        cluster="cluster seams",
        identity="identity decision run",
        preflight="preflight",
        departure="departure",
        rotation="rotation rotate_ca emergency",
        emergency="emergency",
        renew_ca="renew_ca",
        authority="authority run rotate_ca emergency move_ca departure",
        steps="seams run decision",
        look="cluster seams actions",
        apiserver="apiserver apiserver_follow",
        upgrade="upgrade",
        downgrade="downgrade",
    ),
    **modules(
        "module_utils/_operations",
        run="seams departure restore defragment stages",
        converge="decision run seams departure authority restore",
        departure="departure run",
        move_ca="move_ca",
        rotate_ca="rotate_ca emergency renew_ca",
        defragment="defragment",
        restore="restore",
        drill="restore",
        hand_over="control_plane apiserver_follow renew_ca rotate_ca seams",
    ),
    **modules(
        "module_utils/_member",
        turn="turn join",
        trust="trusted_names",
        join="join",
        rollout="rollout turn downgrade",
        processes="rollout turn observe",
        record="record observe",
        observe="observe observe_seam observe_etcd known_addresses kubelet",
        departure="clear leave",
        ending="ending",
        restore="restore_host",
        staged="restore_host",
        readable="upgrade turn",
        downgrade="downgrade",
    ),
    **modules(
        "module_utils/_etcd",
        lock="lock turn join",
        membership="membership",
        health="health",
        restore="restore",
        snapshot="backup",
    ),
    **modules(
        "module_utils/_host",
        wal="wal",
        kubeadm="kubeadm manifest observe_seam",
        kubelet="kubelet turn",
        files="files",
        service="kubelet turn",
        packages="packages",
    ),
    **modules(
        "module_utils/_pki", state="pki_reasons pki pki_rotate", steps="pki pki_move pki_rotate", move="pki_move"
    ),
    **modules("module_utils/_values", members="membership decision cluster"),
    **modules("action", etcd_plan="actions", etcd_observe="actions"),
}


def path_of(name: str) -> str:
    return f"{name}.py"


# --- Bugs with a name ------------------------------------------------------------------------------------------------

# A place to change: the owner, its field, the index in a list, the new node.
Place = tuple[ast.AST, str, "int | None", ast.AST]
Finder = Callable[[ast.AST], list[Place]]


@dataclass(frozen=True)
class Named:
    """A named bug. find: returns its places in the function."""

    name: str
    module: str
    qualname: str
    find: Finder


def parsed(code: str) -> ast.expr:
    return ast.parse(code, mode="eval").body


def children(function: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every node in a function, and where it is."""
    for owner in ast.walk(function):
        for name, value in ast.iter_fields(owner):
            for number, child in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(child, ast.AST):
                    yield owner, name, number if isinstance(value, list) else None, child


def names_in(node: ast.AST) -> set[str]:
    """Names, attributes and texts in an expression."""
    found = {getattr(item, "id", getattr(item, "attr", None)) for item in ast.walk(node)}
    return {str(item) for item in found if item} | {
        str(item.value) for item in ast.walk(node) if isinstance(item, ast.Constant)
    }


def returns(code: str) -> Finder:
    """The function always returns this."""
    return lambda function: [(function, "body", 0, ast.Return(parsed(code)))]


def without_call(name: str) -> Finder:
    """Nothing calls this any more."""

    def find(function: ast.AST) -> list[Place]:
        return [
            (owner, place, index, ast.Pass())
            for owner, place, index, node in children(function)
            if isinstance(node, ast.Expr) and called(node.value) == name
        ]

    return find


def guard(code: str, *names: str) -> Finder:
    """The condition about these names is this."""

    def find(function: ast.AST) -> list[Place]:
        found: list[Place] = []
        for node in ast.walk(function):
            if isinstance(node, (ast.If, ast.IfExp)) and names_in(node.test) >= set(names):
                found.append((node, "test", None, parsed(code)))
            elif isinstance(node, ast.comprehension):
                found += [
                    (node, "ifs", i, parsed(code)) for i, test in enumerate(node.ifs) if names_in(test) >= set(names)
                ]
        return found

    return find


def value_of(key: str, code: str) -> Finder:
    """Replaces the value of this key or name in a mapping, a call or an assignment."""

    def find(function: ast.AST) -> list[Place]:
        found: list[Place] = []
        for node in ast.walk(function):
            if isinstance(node, ast.Dict):
                found += [
                    (node, "values", i, parsed(code))
                    for i, item in enumerate(node.keys)
                    if isinstance(item, ast.Constant) and item.value == key
                ]
            elif isinstance(node, ast.keyword) and node.arg == key:
                found.append((node, "value", None, parsed(code)))
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                last = target.slice if isinstance(target, ast.Subscript) else target
                if key in (getattr(last, "value", None), getattr(last, "attr", None), getattr(last, "id", None)):
                    found.append((node, "value", None, parsed(code)))
        return found

    return find


def leader_first(function: ast.AST) -> list[Place]:
    """Of a sort by whether a member is the leader, the opposite."""
    return [
        (owner, name, index, ast.UnaryOp(ast.Not(), node))
        for owner, name, index, node in children(function)
        if isinstance(owner, ast.Tuple) and isinstance(node, ast.Attribute) and node.attr == "leader"
    ]


OPERATIONS, CONTROL, MEMBER, ETCD, HOST = (
    f"plugins/module_utils/_{name}" for name in ("operations", "control", "member", "etcd", "host")
)
DECISION, VIEW, IDENTITY = (f"{CONTROL}/{name}" for name in ("decision", "view", "identity"))
TURN, ROLLOUT, OBSERVE, PROCESSES = (f"{MEMBER}/{name}" for name in ("turn", "rollout", "observe", "processes"))
ACTION = "plugins/action/etcd_plan"

NAMED = [
    # The plan, as the action plugin calls it.
    Named("the plan is always settled", f"{CONTROL}/plan", "read_off", value_of("settled", "True")),
    Named("turns are no steps", f"{CONTROL}/plan", "read_off", value_of("order", "[]")),
    Named("no cluster exists", VIEW, "exists", returns("False")),
    Named("lost hosts are forgotten by the plan", VIEW, "view_of", value_of("failed", "[]")),
    Named("hosts without an observation are forgotten", VIEW, "view_of", value_of("unobserved", "[]")),
    Named("lost hosts are forgotten by the action", ACTION, "ActionModule.run", value_of("lost", "[]")),
    Named("problems end no run", ACTION, "ActionModule.run", guard("False", "problems", "speaks")),
    Named("any strategy will do", ACTION, "ActionModule.run", guard("False", "is_lockstep")),
    # Snapshots and restores.
    Named("any data will do for any etcd", f"{MEMBER}/restore", "is_too_new", returns("False")),
    Named(
        "the image that is wanted is not looked at",
        f"{MEMBER}/restore",
        "prepare",
        guard("False", "process", "is_too_new"),
    ),
    Named(
        "a restore of a dead cluster stops one that was started",
        f"{MEMBER}/restore",
        "stop",
        guard("False", "replace_healthy"),
    ),
    Named("a restore replaces the data of another one", f"{MEMBER}/restore", "_check_former", guard("False", "former")),
    Named("a member is started in the middle of a restore", TURN, "take_turn", guard("False", "waiting")),
    Named("restored data waits for ever", f"{MEMBER}/staged", "waiting_restore", returns("path")),
    Named("every restore begins at the same revision", f"{ETCD}/restore", "bump_of", returns("1000000000")),
    Named("a restore begins anew with each run", f"{ETCD}/restore", "restore_token", guard("False", "cluster_id")),
    Named("a restore that has ended is continued", f"{OPERATIONS}/restore", "has_ended", returns("False")),
    Named("a part of a database is taken for one", f"{ETCD}/restore", "database_size", returns("0")),
    Named(
        "a clock that was ahead rules for ever",
        f"{ETCD}/snapshot",
        "in_order",
        returns("sorted(snapshots, key=lambda item: -item.taken)"),
    ),
    Named("any description fits", f"{ETCD}/snapshot", "described_in", value_of("fits", "True")),
    Named("a snapshot that was exchanged is restored", f"{ETCD}/restore", "recorded", returns("(None, '')")),
    Named("keys are removed while another run asks with them", f"{MEMBER}/departure", "_hold_keys", returns("None")),
    Named("an interruption is always allowed", DECISION, "decide_with_cluster", guard("False", "allow_interruption")),
    Named("the leader goes first", DECISION, "decide_with_cluster", leader_first),
    Named("turns have no gate", DECISION, "decide_with_cluster", value_of("gated", "False")),
    Named("a cluster is founded beside data", DECISION, "decide_without_cluster", value_of("formed", "[]")),
    Named("lost data is no loss", DECISION, "MemberView.has_lost_data", returns("False")),
    Named("nobody joins as a learner", DECISION, "MemberView.joins", returns("False")),
    Named("corruption stops nothing", f"{CONTROL}/alarms", "corruption_problems", returns("[]")),
    Named("whose data it is does not matter", IDENTITY, "identity_problems", returns("[]")),
    Named("a lost record makes a fresh host", IDENTITY, "record_problems", returns("[]")),
    Named("who has left misses its data", IDENTITY, "record_problems", value_of("has_left", "False")),
    Named("a former member confuses the hosts", DECISION, "membership_problems", value_of("is_former", "False")),
    Named("two copies of one member", IDENTITY, "copy_problems", returns("[]")),
    # A new CA.
    Named(
        "issued although a process has not loaded the new CA",
        f"{CONTROL}/rotation",
        "phase_of",
        value_of("restart", "[]"),
    ),
    Named(
        "dropped although a certificate is of the former CA",
        f"{CONTROL}/rotation",
        "phase_of",
        value_of("is_new", "True"),
    ),
    Named(
        "a kube-apiserver has always loaded its CA", f"{CONTROL}/rotation", "plane_host", value_of("is_read", "True")
    ),
    Named("a phase begins before the one before is over", f"{OPERATIONS}/rotate_ca", "not_over", returns("[]")),
    Named("a member that says nothing trusts everything", f"{OPERATIONS}/rotate_ca", "member_problems", returns("[]")),
    Named("an emergency needs no name", f"{CONTROL}/emergency", "consent_problems", returns("[]")),
    Named("a CA put there by hand is in use", f"{CONTROL}/emergency", "is_in_use", returns("True")),
    Named(
        "a member that refuses everybody trusts its ca.crt",
        f"{CONTROL}/emergency",
        "loaded_host",
        value_of("refuses", "False"),
    ),
    Named("an emergency leaves members behind", f"{CONTROL}/emergency", "member_problems", returns("[]")),
    Named("others renew in the middle of an emergency", f"{CONTROL}/rotation", "has_been_cut", returns("False")),
    Named(
        "every run makes another certificate of the CA", f"{CONTROL}/renew_ca", "renewal_of", value_of("makes", "True")
    ),
    Named("no member loads the certificate of its CA", f"{CONTROL}/renew_ca", "renewal_of", value_of("restart", "[]")),
    Named("a renewed CA is always loaded", f"{MEMBER}/trust", "not_loaded", value_of("has_names", "True")),
    # The observation.
    Named("nobody moves", OBSERVE, "observe_with", value_of("moved", "False")),
    Named("no manifest restarts", f"{HOST}/kubeadm", "manifest_reasons", value_of("restarts", "False")),
    Named("the record is not read", OBSERVE, "observe_record", returns("None")),
    Named("data elsewhere is not there", OBSERVE, "observe_with", value_of("data_elsewhere", "False")),
    Named("the observation has no problems", OBSERVE, "observe_with", value_of("problems", "[]")),
    Named("a log that has seen a leader has seen none", f"{HOST}/wal", "read_wal", value_of("formed", "False")),
    # The turn.
    Named("the gate is always open", ROLLOUT, "gate_problems", returns("[]")),
    Named("the gate is not asked", TURN, "Turn.roll", without_call("check_gate")),
    Named("the lock is never taken", TURN, "Turn.roll", without_call("_hold_lock")),
    Named("the lock is never checked", TURN, "Turn._check_lock", returns("None")),
    Named("a lost lock is still held", f"{ETCD}/lock", "ClusterLock.check", guard("False", "_lost")),
    Named("the lock is never released", f"{ETCD}/lock", "cluster_lock", without_call("release")),
    Named("the proof accepts the old process", PROCESSES, "process_problem", guard("False", "old", "started")),
    Named("the proof accepts any command line", PROCESSES, "missing_arguments", returns("[]")),
    Named("what lags has caught up", ROLLOUT, "lag_problem", returns("None")),
    Named("3.7 starts on a log that it cannot read", TURN, "Turn.act", guard("False", "content", "unreadable")),
    Named("an entry of the former API is none", f"{HOST}/wal", "is_former", returns("False")),
    Named("any etcd may follow", f"{CONTROL}/upgrade", "change_problems", returns("[]")),
    Named("a member goes back though its data is not ready", TURN, "Turn.roll", without_call("wait_until_lowered")),
    Named("data is always ready for an older etcd", ROLLOUT, "wait_until_lowered", returns("None")),
    Named(
        "a run that does not ask for it continues a downgrade",
        f"{CONTROL}/downgrade",
        "left_alone",
        returns("Downgrade(enabled)"),
    ),
    Named("a downgrade goes to any image", f"{CONTROL}/downgrade", "image_problems", returns("[]")),
    Named("a downgrade is enabled without all members", f"{CONTROL}/downgrade", "enable_problems", returns("[]")),
    Named(
        "a downgrade is enabled beside a member that is unwell", f"{MEMBER}/downgrade", "gate_problems", returns("[]")
    ),
    Named("a downgrade is enabled without the lock", f"{MEMBER}/downgrade", "enable", without_call("check")),
    Named("a downgrade is not waited for", f"{MEMBER}/downgrade", "waiting_for", returns("[]")),
    Named("there is always a way back", TURN, "Turn._no_way_back", returns("''")),
    Named("nothing is put back", TURN, "Turn._put_back", returns("[]")),
    Named("put back although another run holds the lock", TURN, "Turn._lost_lock", returns("''")),
    Named("images are pulled after etcd has stopped", TURN, "Turn.roll", without_call("have_images")),
    Named("packages are installed without the lock", TURN, "Turn.install_packages", without_call("_check_lock")),
    Named("programs of packages are not looked at again", TURN, "Turn.install_packages", without_call("look")),
    Named("packages on hold stay free", f"{HOST}/packages", "install", without_call("hold")),
    Named("an older package may follow", f"{HOST}/packages", "changes_of", guard("False", "is_older")),
    Named("what apt removes does not matter", f"{HOST}/packages", "Apt.companions", guard("False", "removed")),
    Named("what dnf removes does not matter", f"{HOST}/packages", "Dnf.companions", guard("False", "others")),
    Named("a script that fails does not matter", f"{HOST}/packages", "Dnf.install", guard("False", "scripts")),
    Named("an abandoned turn goes on", ROLLOUT, "check_controller", guard("False", "POLLERR")),
    Named("a learner is promoted unasked", f"{MEMBER}/join", "JoinTurn._wait_until_promoted", guard("True", "problem")),
    Named("a member joins beside one that is unwell", f"{MEMBER}/join", "join_problems", returns("[]")),
    Named("a member joins with a vote", f"{ETCD}/membership", "Membership.add_learner", value_of("isLearner", "False")),
    Named(
        "a member joins with the URLs that it keeps",
        "plugins/module_utils/_values/members",
        "urls_while_joining",
        returns("list(peer_urls)"),
    ),
    Named(
        "a promotion leaves the URLs of the join",
        f"{ETCD}/membership",
        "Membership.promote",
        guard("False", "peer_urls"),
    ),
    Named("a learner gets other URLs", ROLLOUT, "announce_peer_urls", guard("entry is None", "is_learner")),
    Named(
        "a member is replaced beside another one that is unwell", f"{CONTROL}/departure", "rest_problems", returns("[]")
    ),
    Named("3.7 joins beside what it cannot read", f"{CONTROL}/upgrade", "early_problems", returns("[]")),
    Named("a member that has left takes its turn", f"{MEMBER}/turn", "Turn._hold_lock", guard("False", "mine")),
    Named("a former member is kept from starting", f"{MEMBER}/turn", "Turn._set_former_record_aside", returns("None")),
    Named("any ca.key will do", f"{CONTROL}/departure", "ca_key_problems", value_of("mine", "None")),
    Named("a name of two members means the first", f"{CONTROL}/departure", "shared_name", returns("''")),
    Named(
        "a namesake is the member itself",
        ROLLOUT,
        "own_entry",
        returns("next(m for m in members if m.name == target.name)"),
    ),
    Named("a member joins twice", f"{ETCD}/membership", "Membership.add_learner", value_of("entry", "None")),
    Named("a member that another run has removed is waited for", f"{ETCD}/health", "absent", returns("[]")),
    Named(
        "a join waits for a learner that has left",
        f"{MEMBER}/join",
        "JoinTurn._take_back",
        guard("True", "mine", "any"),
    ),
    Named("a quorum leaves", f"{MEMBER}/departure", "departure_problems", returns("[]")),
    Named("a live member is cleared", f"{MEMBER}/departure", "check_has_left", returns("None")),
]


def named_sites(bug: Named, root: Path) -> tuple[list[Site], ast.Module]:
    """Its places, and the tree that they are in. LookupError if it has none any more."""
    path = root / path_of(bug.module)
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    node: ast.AST = tree
    for part in bug.qualname.split("."):
        scopes = [item for item in getattr(node, "body", []) if isinstance(item, (*Function, ast.ClassDef))]
        found = [item for item in scopes if item.name == part]
        if len(found) != 1:
            raise LookupError(f"{path_of(bug.module)} has no {bug.qualname}")
        node = found[0]
    sites = []
    for owner, name, index, new in bug.find(node):
        old = getattr(owner, name) if index is None else getattr(owner, name)[index]
        ast.copy_location(new, old)
        # Any test that enters the function may notice.
        lines = lines_of(node)
        sites.append(
            Site(
                path_of(bug.module),
                bug.qualname,
                bug.qualname,
                bug.name,
                lines,
                text_of(old),
                text_of(new),
                owner,
                name,
                index,
                new,
            )
        )
    if not sites:
        raise LookupError(f"{path_of(bug.module)}, {bug.qualname}: no such code")
    return sites, tree
