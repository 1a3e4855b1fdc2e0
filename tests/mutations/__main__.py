"""Plants bugs one at a time. A unit test must notice each of them.

    .venv/bin/python -m tests.mutations [--all | --named] [--seed N] [MODULE...]

Tries the named bugs of bugs.py, and a sample of the bugs of operators.py in the modules of the table. The sample depends on the code only. --all
tries everything; a share of each module's bugs must be noticed (LEAST), and the others are printed. MODULE limits the run (turn, _control/decision ...).
The exit status is 1 if too few bugs are noticed, if a named bug has lost its place, or if there is nothing to try.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.mutations import run
from tests.mutations.bugs import LEAST, NAMED, SAMPLE, SLOW, TABLE, named_sites, path_of
from tests.mutations.operators import Site, sites_of

# The least size of a sample.
FEWEST = 3
EQUIVALENT = Path(__file__).with_name("equivalent.txt")


def equivalents() -> dict[str, str]:
    """Bugs that change nothing, by key, and why."""
    lines = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    return dict(line.split("  ", 1) for line in lines if line and not line.startswith("#"))


def sample(sites: list[Site], share: float, seed: int) -> list[Site]:
    """Some of the places, chosen by the hash of each, so that an edit does not change the rest of the sample."""

    def number(site: Site) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed}:{site.key}".encode()).digest()[:8], "big")

    taken = [site for site in sites if number(site) < share * 2**64]
    return taken if len(taken) >= FEWEST else sorted(sites, key=number)[:FEWEST]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--all", action="store_true", help="try everything instead of a sample")
    parser.add_argument("--named", action="store_true", help="try the named bugs only")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--share", type=float, default=SAMPLE, help="size of the sample, from 0 to 1")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="default: all of the table")
    options = parser.parse_args()
    begin = time.monotonic()
    # An exception ends the processes that try bugs, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    table = {
        name: files
        for name, files in TABLE.items()
        if not options.modules or any(item in name for item in options.modules)
    }
    trees, sites, broken = {}, [], []
    for name in table:
        trees[path_of(name)], found = sites_of(run.ROOT / path_of(name), run.ROOT)
        if options.named:
            continue
        taken = found if options.all else sample(found, options.share, options.seed)
        if not taken:
            broken.append(f"{name}: nothing to try")
        sites += taken
    known = equivalents()
    sites = [site for site in sites if site.key not in known]
    # The named bugs have trees of their own: a place is a node of its tree.
    named = []
    for bug in NAMED:
        if bug.module in table:
            try:
                named.append((bug, *named_sites(bug, run.ROOT)))
            except LookupError as exc:
                broken.append(f"named bug {bug.name!r} has lost its place: {exc}")
    if broken:
        print(*broken, sep="\n")
        return 1

    def work(session: pytest.Session) -> int:
        session.items = [item for item in session.items if not any(item.nodeid.endswith(name) for name in SLOW)]
        workers = os.cpu_count() or 1
        for name in table:
            importlib.import_module(run.module_name(path_of(name)))
        seen = run.find_baseline(session, workers)
        if seen.failures:
            print("Without any bug, tests fail:", *seen.failures, sep="\n")
            return 1
        print(f"{len(session.items)} tests pass without any bug ({time.monotonic() - begin:.0f} s)", flush=True)
        by_file: dict[str, list[pytest.Item]] = {}
        for item in session.items:
            by_file.setdefault(os.path.basename(item.nodeid.split("::")[0]), []).append(item)
        empty = [file for files in table.values() for file in files if not by_file.get(file)]
        if empty:
            print(f"no tests in {', '.join(empty)}")
            return 1

        def items_for(site: Site) -> list[pytest.Item]:
            name = next(name for name in table if path_of(name) == site.path)
            return run.tests_for(site, [item for file in table[name] for item in by_file[file]], seen)

        jobs = [(bug.name, places, tree, items_for(places[0])) for bug, places, tree in named]
        jobs += [("", [site], trees[site.path], items_for(site)) for site in sites]
        return report(session, jobs, seen, workers, begin, LEAST if options.all else 1.0)

    files = sorted({f"tests/unit/{file}" for files in table.values() for file in files})
    os.chdir(run.ROOT)
    return run.collect_and(work, files)


Job = tuple[str, list[Site], Any, list[pytest.Item]]


def report(
    session: pytest.Session, jobs: list[Job], seen: run.Baseline, workers: int, begin: float, least: float
) -> int:
    """Try the bugs, and print those that no test notices. least: the share of each module that must be noticed. Named bugs always must be."""
    counts: Counter[str] = Counter()
    by_module: dict[str, Counter[str]] = {}
    times: list[tuple[float, str]] = []
    unnoticed: list[str] = []
    is_enough = True

    def done(number: int, answer: Any, seconds: float) -> None:
        name, places, _tree, items = reached[number]
        result = answer or run.Result("timeout")
        record(name, places[0], result, seconds, len(items))

    def record(name: str, site: Site, result: run.Result, seconds: float, tests: int) -> None:
        counts[result.outcome] += 1
        by_module.setdefault(site.path, Counter())[result.outcome] += 1
        times.append((seconds, str(site)))
        if result.outcome in ("survived", "unreached", "died") or (name and result.outcome == "invalid"):
            label = f"NAMED BUG {name!r}: " if name else ""
            words = {"unreached": "no mapped test runs it", "survived": f"{tests} tests pass"}
            how = words.get(result.outcome, f"{result.outcome}: {result.by}")
            unnoticed.extend([name] if name else [])
            print(f"{label}{site}  [{how}]\n    {site.key}", flush=True)

    reached = []
    for job in jobs:
        if job[3]:
            reached.append(job)
        else:
            record(job[0], job[1][0], run.Result("unreached"), 0.0, 0)
    works = [
        (partial(run.try_bug, places, tree, items), run.timeout_for(items, seen))
        for _name, places, tree, items in reached
    ]
    run.run_all(session, works, workers, done)
    for path, outcome in sorted(by_module.items()):
        total = sum(outcome.values()) - outcome["invalid"]
        noticed = outcome["noticed"] + outcome["timeout"]
        is_enough = is_enough and noticed >= least * total
        if noticed < total:
            print(f"{path}: {noticed} of {total}{'' if noticed >= least * total else ', which is too little'}")
    tried = sum(counts.values()) - counts["invalid"]
    noticed = counts["noticed"] + counts["timeout"]
    print(
        f"{noticed} of {tried} bugs were noticed ({counts['timeout']} of them by a timeout), including"
        f" {len([job for job in jobs if job[0]])} named ones; {time.monotonic() - begin:.0f} s"
    )
    if os.environ.get("MUTATIONS_SLOWEST"):
        print(*(f"{seconds:.1f} s: {text}" for seconds, text in sorted(times, reverse=True)[:40]), sep="\n")
    return 0 if tried and is_enough and not unnoticed else 1


if __name__ == "__main__":
    sys.exit(main())
