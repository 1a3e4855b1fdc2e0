# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The members of a cluster, from the inventory alone, and the errors in the inventory.

Runs on the controller. Reads the variables of all hosts, so that a run with --limit knows the whole cluster.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.variables import (
    AGREED,
    FIXED,
    READ_BY_PEERS,
    VARIABLES,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import TRUTH, is_address, plain, shown
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import (
    Member,
    membership_problems,
    name_and_address_problems,
    same_port_problems,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, problems_of

_TYPES: dict[str, tuple[type, ...]] = {"dict": (Mapping,), "list": (list, tuple)}
_WORDS: dict[type, str] = {
    str: "text",
    bool: "truth value",
    int: "number",
    float: "number",
    list: "list",
    dict: "mapping",
}

_EXAMPLES = {
    "etcd_extra_args": 'a mapping of flag (without dashes) to value: {quota-backend-bytes: "8589934592"}',
    "etcd_extra_envs": 'a mapping of name to value: {GOMAXPROCS: "2"}',
    "etcd_kubelet_config": "a mapping of KubeletConfiguration fields: {maxPods: 10}",
    "etcd_server_cert_sans": "a list of names and addresses: [etcd.example.com, 10.0.0.5]",
    "etcd_peer_cert_sans": "a list of names and addresses: [etcd.example.com, 10.0.0.5]",
}


@dataclass(frozen=True)
class Cluster:
    """The cluster that a host belongs to. `problems` stop the run, `warnings` do not.

    invalid: variables of this host with an invalid value, which must not reach a module.
    """

    name: str
    members: list[Member]
    ca_host: str
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)

    @property
    def known(self) -> bool:
        """Whether every member has an address."""
        return all(member.address for member in self.members)

    def absent(self, observations: Mapping[str, Any]) -> list[str]:
        """Hosts of members without an observation: not part of the run, or not to be reached."""
        return [member.host for member in self.members if member.host not in observations]


# Ansible's variables for the connection to a host.
CONNECTION = ("ansible_host", "ansible_port", "ansible_ssh_common_args", "ansible_ssh_extra_args")


def member_of(host: str, variables: Mapping[str, Any], observed: str | None) -> Member:
    """The member that a host should be. observed: the address of its default route (None: not observed).

    The address is etcd_address, else ansible_host if that is an address, else the observed one.
    """
    name = str(variables.get("etcd_member_name") or host.lower())
    given = variables.get("etcd_address") or ""
    if not given and is_address(variables.get("ansible_host", host)):
        given = variables.get("ansible_host", host)
    address = str(given or observed or "")
    # Normalise the address, as kubeadm and certificates do, so that texts can be compared.
    address = str(ipaddress.ip_address(address)) if is_address(address) else address
    sans = [variables.get(key) for key in ("etcd_server_cert_sans", "etcd_peer_cert_sans")]
    return Member(host, name, address, *([str(san) for san in item] if isinstance(item, list) else [] for item in sans))


def cluster_name(variables: Mapping[str, Any]) -> str:
    """The cluster that a host with these variables belongs to."""
    return str(variables.get("etcd_cluster_name", "etcd"))


def resolve(
    host: str,
    group: Iterable[str],
    inventory: Mapping[str, Mapping[str, Any]],
    observed: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
    play: Mapping[str, Any] | None = None,
    names: Iterable[str] = (),
) -> Cluster:
    """The cluster of `host`.

    group: hosts of the etcd group, in inventory order. inventory: variables by host. observed: default addresses observed in this run.
    options: the etcd_* variables that exist, from argument_specs.yml. play: this host's values in the play. names: names of all etcd_*
    variables of the play.
    """
    name = cluster_name(inventory[host])
    hosts = [item for item in group if cluster_name(inventory[item]) == name]
    texts = []
    if host not in hosts:
        # Otherwise each host of a misnamed group would found a cluster of one (kubernetes/website#9563).
        texts.append(
            f"{host} is not in the group of the etcd members. Add it to that group, or set etcd_group to its group."
        )
        hosts = [host]
    members = [member_of(item, inventory[item], observed.get(item)) for item in hosts]
    ca_host = str(inventory[host].get("etcd_ca_host") or hosts[0])
    texts += [
        *membership_problems(members),
        *machine_problems(hosts, [item for item in group if item not in hosts], inventory),
        *agreement_problems(name, hosts, inventory, options),
    ]
    if ca_host not in hosts:
        texts.append(
            f"etcd_ca_host {plain(ca_host)} is not a host of cluster {shown(name)}. Set it to one of {', '.join(hosts)}, or remove it."
        )
    own = [
        *variable_problems(inventory[host], options, names, play),
        *play_problems(host, inventory[host], play or {}, options),
    ]
    problems = [
        *(
            problem
            for member in members
            for problem in problems_of("inventory", name_and_address_problems(member), member.host)
        ),
        *problems_of("inventory", texts),
        *problems_of("inventory", own, host=host),
    ]
    invalid = list(invalid_values({**inventory[host], **(play or {})}, options))
    return Cluster(name, members, ca_host, problems, size_warnings(name, members), invalid)


def size_warnings(name: str, members: list[Member]) -> list[str]:
    """Warnings about the number of members: one, an even number, more than seven."""
    count = len(members)
    if count == 1:
        return [
            f"cluster {shown(name)} has one member only, so any failure stops it. Use three members if it has to survive a failure."
        ]
    if count % 2 == 0:
        return [
            f"cluster {shown(name)} has {count} members, an even number: it survives the loss of {(count - 1) // 2}, like a cluster of"
            f" {count - 1}. Use an odd number."
        ]
    if count > 7:
        return [
            f"cluster {shown(name)} has {count} members, and each write waits for a majority of them. Use at most seven, as etcd advises."
        ]
    return []


def machine_problems(hosts: list[str], others: list[str], inventory: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Hosts with the same connection as another host of this cluster or of another one (others).

    The whole connection is compared, not addresses alone: the networks of several clusters may overlap.
    """
    ways = {
        item: [str(inventory[item].get(key) or (item if key == "ansible_host" else "")) for key in CONNECTION]
        for item in [*hosts, *others]
    }
    problems = [
        f"{host} and {other} of cluster {shown(cluster_name(inventory[other]))} are the same machine, {ways[host][0]}: it"
        " would get the files of both. Correct ansible_host, or remove one of them from the inventory."
        for host in hosts
        for other in others
        if ways[host] == ways[other]
    ]
    twins = [
        [host for host in hosts if ways[host] == way] for way in {tuple(way): way for way in ways.values()}.values()
    ]
    return problems + [
        f"{' and '.join(same)} are the same machine, {ways[same[0]][0]}: it would get the files of all of them, and run one member. Correct"
        " ansible_host, or remove all but one of them from the inventory."
        for same in twins
        if len(same) > 1
    ]


def variable_problems(
    variables: Mapping[str, Any],
    options: Mapping[str, Mapping[str, Any]],
    names: Iterable[str] = (),
    play: Mapping[str, Any] | None = None,
) -> list[str]:
    """Unknown etcd_* variables (with the likely spelling) and invalid values.

    variables: from the inventory. names: names of further variables, from the play and the roles. play: the values in the play.
    """
    problems = []
    given = {str(key) for key in variables if str(key).startswith("etcd_")}
    for name in sorted(given | set(names).difference(FIXED)):
        if name not in options:
            close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.75)
            hint = f"Did you mean {close[0]}?" if close else "docs/variables.md lists them all."
            problems.append(f"unknown variable {name}. {hint}")
    values = {**variables, **(play or {})}
    for texts in invalid_values(values, options).values():
        problems += texts
    problems += same_port_problems(values)
    return problems


def invalid_values(variables: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Problems with the values of the inventory, by variable: wrong types, then invalid formats."""
    found = {}
    for name in sorted(set(options).intersection(map(str, variables))):
        value = variables[name]
        problems = shape_problems(name, value, options[name])
        check = VARIABLES[name].check if name in VARIABLES else None
        if not problems and check:
            problems = check(name, value)
        if problems:
            found[name] = problems
    return found


def shape_problems(name: str, value: Any, option: Mapping[str, Any]) -> list[str]:
    """Why a value has the wrong type for its variable. option: its entry in argument_specs.yml."""
    kind = str(option.get("type", "str"))
    seen = "…" if option.get("no_log") else shown(str(value))
    if value is None:
        return [f"{name} has no value. Write a value, or remove the variable."]
    if kind in _TYPES and not isinstance(value, _TYPES[kind]):
        example = _EXAMPLES.get(name, f"a {kind}")
        return [f"{name} is a {_word(value)}, {seen}. Write {example}."]
    if kind == "int" and (isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,18}", str(value).strip())):
        return [f"{name} is {shown(value)}. Write a whole number."]
    if kind == "bool" and str(value).lower() not in TRUTH:
        return [f"{name} is {shown(value)}. Write true or false."]
    if kind in ("str", "path") and isinstance(value, (Mapping, list, tuple)):
        return [f"{name} is a {_word(value)}, {seen}. Write a text."]
    # In YAML, a colon and a blank turn an entry into a mapping, and a dash alone is null.
    wrong = (
        [item for item in value if item is None or isinstance(item, (Mapping, list, tuple))] if kind == "list" else []
    )
    problems = [
        f"{name} has the entry {shown(item)}, which is not a text. Write a text, in quotes if it contains a colon."
        for item in wrong
    ]
    choices = option.get("choices")
    # Each item of a list has to be one of the choices.
    chosen = [str(item) for item in value] if kind == "list" else [str(value)]
    if choices and not set(chosen) <= {str(choice) for choice in choices}:
        wanted = "only" if kind == "list" else "one of"
        named = ", ".join(str(choice) for choice in choices if choice != "")
        problems.append(f"{name} is {shown(value)}. Write {wanted} {named}{', or nothing' if '' in choices else ''}.")
    return problems


def _word(value: Any) -> str:
    # The types of Ansible's values are derived from Python's.
    return next((word for base, word in _WORDS.items() if isinstance(value, base)), "value")


def play_problems(
    host: str, variables: Mapping[str, Any], play: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Values from the play (its vars, those of import_playbook or of a role) that the other members cannot see."""
    problems = []
    for name in READ_BY_PEERS:
        if name not in play:
            continue
        value = play[name]
        default = host.lower() if name == "etcd_member_name" else options[name].get("default")
        # A name such as 1 is a number in the inventory and a text in the play.
        if str(value) != str(variables.get(name, default)):
            problems.append(
                f"{name} is {value!r} in this play only, but the other members read it from the inventory. Set it in the inventory"
                " (host_vars, group_vars), or with -e."
            )
    return problems


def agreement_problems(
    name: str,
    hosts: list[str],
    inventory: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Variables that must be the same on all members, and differ. If one is not set, its default is compared."""
    problems = []
    for variable in AGREED:
        default = hosts[0] if variable == "etcd_ca_host" else options.get(variable, {}).get("default")
        values = {host: str(inventory[host].get(variable) or default or "(not set)") for host in hosts}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{host} {plain(value)}" for host, value in values.items())
            problems.append(
                f"{variable} differs within cluster {shown(name)} ({listed}), but must be the same for all members. Set it once, for the"
                " group."
            )
    return problems
