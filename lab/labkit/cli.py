"""The command line of the lab."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import machine
from .hosts import Facts, HostStatus, Lab, is_terminal, labs, left_behind
from .image import Images, VersionSet
from .packages import make_repository, make_rpm_repository
from .pins import pin
from .process import LabError, say
from .programs import ETCD, KUBERNETES, Store
from .settings import DEFAULT_ETCD, DEFAULT_HOSTS, DEFAULT_KUBERNETES, DEFAULT_LAB, parse_version, state_directory

# These neither start nor ask podman.
_WITHOUT_ROOT = ("packages", "programs", "pin", "list", "inventory", "ssh")


def _store(options: argparse.Namespace) -> Store:
    given = options.programs or os.environ.get("KUBEADM_ETCD_LAB_PROGRAMS")
    return Store(state_directory(), Path(given).absolute() if given else None)


def _versions(options: argparse.Namespace) -> VersionSet:
    kubernetes = parse_version(options.kubernetes or DEFAULT_KUBERNETES)
    return VersionSet(kubernetes, parse_version(options.etcd or DEFAULT_ETCD))


def _lab(options: argparse.Namespace) -> Lab:
    return Lab(state_directory(), options.name)


def _image(options: argparse.Namespace, versions: VersionSet) -> str:
    store = _store(options)
    return Images(store.state, store).host(versions)


def cmd_setup(options: argparse.Namespace) -> None:
    """Install what the machine lacks."""
    machine.set_up()
    say("this machine has what the lab needs")


def cmd_build(options: argparse.Namespace) -> None:
    """Make programs and images, and print where the programs stand."""
    store, versions = _store(options), _versions(options)
    if options.only:
        project = next((p for p in (KUBERNETES, ETCD) if options.only in p.packages), None)
        if project is None:
            known = ", ".join([*KUBERNETES.packages, *ETCD.packages])
            raise LabError(f"--only {options.only}: the programs are {known}")
        version = versions.kubernetes if project is KUBERNETES else versions.etcd
        print(store.get(project, version, [options.only])[options.only])
        return
    machine.set_up()
    for project, version in ((KUBERNETES, versions.kubernetes), (ETCD, versions.etcd)):
        for path in store.get(project, version).values():
            print(path)
    images = Images(store.state, store)
    for path in images.archives(versions).values():
        print(path)
    print(images.host(versions))


def cmd_packages(options: argparse.Namespace) -> None:
    """Write a repository with packages of kubeadm and the kubelet, and print where it is."""
    store = _store(options)
    versions = [parse_version(text) for text in options.version]
    make = make_rpm_repository if options.rpm else make_repository
    print(make(store, versions, options.restarts, Path(options.directory).absolute()))


def cmd_programs(options: argparse.Namespace) -> None:
    """Print the directory of programs that are there; builds nothing."""
    store, versions = _store(options), _versions(options)
    wanted = [(KUBERNETES, versions.kubernetes)] if options.kubernetes or not options.etcd else []
    wanted += [(ETCD, versions.etcd)] if options.etcd or not options.kubernetes else []
    for project, version in wanted:
        first = next(iter(project.packages))
        path = store.find(project, version, first)
        if path is None:
            raise LabError(f"{first} {version} is not here: `lab build --{project.name} {version}` builds it")
        print(path.parent)


def cmd_images(options: argparse.Namespace) -> None:
    """Print the archives of the etcd and pause images, written if need be."""
    store = _store(options)
    for name, path in Images(store.state, store).archives(_versions(options)).items():
        print(f"{name}\t{path}")


def cmd_pin(options: argparse.Namespace) -> None:
    """Pin a version, for a developer of the lab."""
    replacements = dict(item.split("=", 1) for item in options.replace)
    if options.kubernetes:
        print(pin(KUBERNETES, parse_version(options.kubernetes), state_directory(), replacements, options.only))
    if options.etcd:
        print(pin(ETCD, parse_version(options.etcd), state_directory(), replacements, options.only))


def cmd_up(options: argparse.Namespace) -> None:
    """Make a lab, or start its stopped hosts."""
    machine.set_up()
    machine.raise_inotify_limits()
    lab = _lab(options)
    with lab.lock():
        if lab.exists():
            facts = lab.facts()
            for word, asked, is_so in (
                ("kubernetes", options.kubernetes, facts.kubernetes),
                ("etcd", options.etcd, facts.etcd),
                ("subnet", options.subnet, facts.subnet),
            ):
                if asked and asked.lstrip("v") != is_so:
                    raise LabError(
                        f"the lab {lab.name!r} exists with {word} {is_so}: run `lab down --name {lab.name}` first"
                    )
            if options.hosts and options.hosts < facts.hosts:
                say(f"the lab has {facts.hosts} hosts; none is removed")
        else:
            _check_count(options.hosts)
            versions = _versions(options)
            images = "pause" if options.no_images else "all"
            hosts = options.hosts or DEFAULT_HOSTS
            facts = Facts(lab.name, "", str(versions.kubernetes), str(versions.etcd), hosts, images)
            # The image first: without it, the lab would exist without hosts.
            _image(options, versions)
            lab.create(facts, options.subnet)
        if options.hosts and options.hosts > facts.hosts:
            lab.grow(options.hosts)
        lab.start(lambda: _image(options, lab.facts().versions))
    _print_status(lab)
    print(f"inventory: {lab.inventory}")


def _check_count(count: int | None) -> None:
    if count is not None and count < 1:
        raise LabError(f"{count} hosts: a lab has at least one")


def cmd_add(options: argparse.Namespace) -> None:
    """Add hosts."""
    _check_count(options.count)
    machine.raise_inotify_limits()
    lab = _lab(options)
    with lab.lock():
        before = lab.host_names()
        lab.grow(len(before) + options.count)
        lab.start(lambda: _image(options, lab.facts().versions), lab.host_names()[len(before) :])
    _print_status(lab)


def cmd_remove(options: argparse.Namespace) -> None:
    """Remove the hosts that were added last."""
    lab = _lab(options)
    with lab.lock():
        say(f"removed {', '.join(lab.remove(options.count))}")
    _print_status(lab)


def cmd_apiserver(options: argparse.Namespace) -> None:
    """Give hosts kubectl and the image of kube-apiserver, which are built where they are not cached."""
    lab, store = _lab(options), _store(options)
    versions = lab.facts().versions
    archive = Images(store.state, store).apiserver(versions)
    program = store.get(KUBERNETES, versions.kubernetes, ["kubectl"])["kubectl"]
    with lab.lock():
        for host in options.host:
            lab.bring(host, archive, program)


def cmd_stop(options: argparse.Namespace) -> None:
    """Stop hosts."""
    lab = _lab(options)
    with lab.lock():
        for host in options.host:
            lab.stop(host, options.gently)


def cmd_start(options: argparse.Namespace) -> None:
    """Start stopped hosts and wait until they have booted."""
    lab = _lab(options)
    with lab.lock():
        hosts = [lab.check_host(host) for host in options.host]
        lab.start(lambda: _image(options, lab.facts().versions), hosts)


def cmd_cut(options: argparse.Namespace) -> None:
    """Cut hosts off."""
    lab = _lab(options)
    with lab.lock():
        for host in options.host:
            lab.cut(host)


def cmd_heal(options: argparse.Namespace) -> None:
    """Undo `cut`."""
    lab = _lab(options)
    with lab.lock():
        for host in options.host:
            lab.heal(host)


def cmd_wipe(options: argparse.Namespace) -> None:
    """Make hosts fresh."""
    lab = _lab(options)
    with lab.lock():
        names = lab.host_names()
        if bool(options.host) == options.all:
            raise LabError("name the hosts to wipe, or say --all")
        hosts = names if options.all else [lab.check_host(host) for host in options.host]
        lab.wipe(hosts, lambda: _image(options, lab.facts().versions))


def cmd_down(options: argparse.Namespace) -> None:
    """Remove a lab, or all of them."""
    state = state_directory()
    names = sorted({*labs(state), *left_behind(state)}) if options.all else [options.name]
    for name in names:
        lab = Lab(state, name)
        with lab.lock():
            if not lab.down():
                say(f"there is no lab {name!r}: nothing to remove")
        (state / "labs" / f".{name}.lock").unlink(missing_ok=True)


def _print_status(lab: Lab) -> None:
    rows = [HostStatus("HOST", "ADDRESS", "STATE", "KUBELET", "ETCD"), *lab.status()]
    cells = [(r.name, r.address, r.state, r.kubelet, r.etcd) for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    for row in cells:
        print("  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip())


def cmd_status(options: argparse.Namespace) -> None:
    """Print the table of hosts."""
    _print_status(_lab(options))


def cmd_list(options: argparse.Namespace) -> None:
    """Print the labs."""
    for name in labs(state_directory()):
        facts = Lab(state_directory(), name).facts()
        print(f"{name}  {facts.hosts} hosts  {facts.subnet}  kubernetes {facts.kubernetes}  etcd {facts.etcd}")


def cmd_inventory(options: argparse.Namespace) -> None:
    """Print the inventory, or where it is."""
    lab = _lab(options)
    lab.facts()
    if options.path:
        print(lab.inventory)
    else:
        sys.stdout.write(lab.inventory.read_text())


def _become(command: list[str]) -> None:
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not there: run `lab setup` first") from None


def _without_dashes(words: list[str]) -> list[str]:
    return words[1:] if words[:1] == ["--"] else words


def cmd_ssh(options: argparse.Namespace) -> None:
    """Become ssh."""
    _become(_lab(options).ssh_command(options.host, options.user, _without_dashes(options.command)))


def cmd_exec(options: argparse.Namespace) -> None:
    """Become podman exec."""
    lab = _lab(options)
    terminal = ["-t"] if is_terminal() else []
    command = _without_dashes(options.command) or ["bash"]
    _become(["podman", "exec", "-i", *terminal, lab.container(lab.check_host(options.host)), *command])


def parser() -> argparse.ArgumentParser:
    """All subcommands."""
    top = argparse.ArgumentParser(prog="lab", description="Real hosts for kubeadm.etcd on one machine.")
    commands = top.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)

    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default=DEFAULT_LAB, help=f"which lab (default: {DEFAULT_LAB})")
    programs = argparse.ArgumentParser(add_help=False)
    programs.add_argument("--programs", metavar="DIR", help="look for programs here first ($KUBEADM_ETCD_LAB_PROGRAMS)")
    versions = argparse.ArgumentParser(add_help=False)
    versions.add_argument("--kubernetes", metavar="VERSION", help=f"default: {DEFAULT_KUBERNETES}")
    versions.add_argument("--etcd", metavar="VERSION", help=f"default: {DEFAULT_ETCD}")

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=list(parents))
        sub.set_defaults(action=globals()[f"cmd_{name}"])
        return sub

    add("setup", "install the Debian packages that are missing")
    sub = add("build", "build programs and images that are not cached", versions, programs)
    sub.add_argument(
        "--only",
        metavar="PROGRAM",
        help="just this one: kubeadm, kubelet, kubectl, kube-apiserver, etcd, etcdctl, etcdutl",
    )
    sub = add("packages", "write a repository with packages of kubeadm and the kubelet", programs)
    sub.add_argument("--restarts", action="store_true", help="the kubelet's packages restart the kubelet")
    sub.add_argument("--rpm", action="store_true", help="packages for dnf instead of those for apt")
    sub.add_argument("directory", metavar="DIRECTORY")
    sub.add_argument("version", nargs="+", metavar="VERSION")
    add("programs", "print the directory of cached programs", versions, programs)
    add("images", "print the archives of the etcd and pause images", versions, programs)
    sub = add("pin", "write go.mod and go.sum for another version (for developers of the lab)")
    sub.add_argument("--kubernetes", metavar="VERSION")
    sub.add_argument("--etcd", metavar="VERSION")
    sub.add_argument(
        "--only", metavar="PROGRAM", action="append", default=[], help="pin just this program (repeatable)"
    )
    sub.add_argument(
        "--replace", metavar="MODULE=VERSION", action="append", default=[], help="a staging module's version"
    )

    sub = add("up", "make a lab, or start its stopped hosts", named, versions, programs)
    sub.add_argument("--hosts", type=int, metavar="N", help=f"default: {DEFAULT_HOSTS}")
    sub.add_argument("--subnet", metavar="CIDR", help="default: the first that is free")
    sub.add_argument("--no-images", action="store_true", help="hosts without the etcd image, as without a registry")
    sub = add("add", "add hosts", named, programs)
    sub.add_argument("count", type=int, metavar="N")
    sub = add("remove", "remove the hosts that were added last", named)
    sub.add_argument("count", type=int, metavar="N")
    sub = add("apiserver", "give hosts the image of kube-apiserver, and kubectl", named, programs)
    sub.add_argument("host", nargs="+", metavar="HOST")
    sub = add("stop", "cut the power of hosts", named)
    sub.add_argument("host", nargs="+", metavar="HOST")
    sub.add_argument("--gently", action="store_true", help="shut down instead")
    sub = add("start", "boot stopped hosts", named, programs)
    sub.add_argument("host", nargs="+", metavar="HOST")
    sub = add("cut", "take hosts off the network, but for the controller's ssh", named)
    sub.add_argument("host", nargs="+", metavar="HOST")
    sub = add("heal", "put hosts back on the network", named)
    sub.add_argument("host", nargs="+", metavar="HOST")
    sub = add("wipe", "make hosts fresh: same name, address and ssh host key", named, programs)
    sub.add_argument("host", nargs="*", metavar="HOST")
    sub.add_argument("--all", action="store_true")
    sub = add("down", "remove a lab and all that belongs to it", named)
    sub.add_argument("--all", action="store_true", help="every lab")
    add("status", "what each host does", named)
    add("list", "list all labs")
    sub = add("inventory", "print the Ansible inventory", named)
    sub.add_argument("--path", action="store_true", help="print where it is instead")
    sub = add("ssh", "ssh to a host", named)
    sub.add_argument("--user", "-l", default="root", help="root or admin (who has sudo)")
    sub.add_argument("host", metavar="HOST")
    sub.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    sub = add("exec", "run a command in a host without ssh", named)
    sub.add_argument("host", metavar="HOST")
    sub.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand. Exit codes: 0, 1 for an error that the user can fix, 130 for an interruption."""
    options = parser().parse_args(arguments)
    # podman and iptables may be in sbin, which PATH may lack.
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{machine.SYSTEM_PATH}"
    try:
        if options.subcommand not in _WITHOUT_ROOT and not getattr(options, "only", None):
            machine.require_root()
        options.action(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted. Run the same command again to continue.", file=sys.stderr)
        return 130
    return 0
