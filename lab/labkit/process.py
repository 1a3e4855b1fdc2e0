"""Running other programs, saying what takes time, and failing in one clear line."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

HEARTBEAT_SECONDS = 15.0
_STARTED = time.monotonic()
_output_lock = threading.Lock()


class LabError(Exception):
    """An error that the user can act on. The lab prints its text and no traceback."""


def say(text: str) -> None:
    """Print one progress line, with the seconds since the program started, on standard error."""
    with _output_lock:
        print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a long step, repeat it every 15 seconds while it runs, and say how long it took."""
    began = time.monotonic()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            say(f"{text}: still at it after {time.monotonic() - began:.0f} s")

    say(f"{text} ...")
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()
    say(f"{text}: done in {time.monotonic() - began:.1f} s")


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float = 300,
    log: Path | None = None,
) -> str:
    """Run a command and return what it prints; a failure becomes a LabError that quotes the end of its output.

    With `log`, everything it prints goes to that file instead (for steps whose output is long), and "" is returned.
    """
    result = _run(command, cwd=cwd, env=env, stdin=stdin, timeout=timeout, log=log)
    if result.returncode:
        raise LabError(_failure(command, result, log))
    return "" if log else result.stdout.decode(errors="replace")


def attempt(command: Sequence[str], *, timeout: float = 60, stdin: bytes | None = None) -> tuple[int, str, str]:
    """Run a command that may fail. Returns exit code, standard output and standard error."""
    result = _run(command, cwd=None, env=None, stdin=stdin, timeout=timeout, log=None)
    return result.returncode, result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")


def _run(
    command: Sequence[str],
    *,
    cwd: Path | None,
    env: Mapping[str, str] | None,
    stdin: bytes | None,
    timeout: float,
    log: Path | None,
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **env} if env else None
    try:
        with ExitStack() as files:
            out: int | IO[bytes] = subprocess.PIPE
            err: int = subprocess.PIPE
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                out, err = files.enter_context(log.open("wb")), subprocess.STDOUT
            process = files.enter_context(
                subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=environment,
                    stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                    stdout=out,
                    stderr=err,
                )
            )
            try:
                printed, complained = process.communicate(stdin, timeout=timeout)
            except BaseException:
                process.kill()
                raise
            return subprocess.CompletedProcess(list(command), process.returncode, printed, complained)
    except FileNotFoundError as error:
        raise LabError(f"{error.filename} is not there: run `lab setup` first") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"`{_short(command)}` did not end within {timeout:.0f} seconds") from None


def _short(command: Sequence[str]) -> str:
    text = " ".join(command)
    return text if len(text) <= 120 else text[:117] + "..."


def _failure(command: Sequence[str], result: subprocess.CompletedProcess[bytes], log: Path | None) -> str:
    printed = log.read_bytes() if log else (result.stderr or b"") + (result.stdout or b"")
    last = [line for line in printed.decode(errors="replace").splitlines() if line.strip()][-5:]
    where = f" (all of it: {log})" if log else ""
    return f"`{_short(command)}` failed with exit code {result.returncode}{where}: " + " | ".join(last)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a file lock, so that two labs started at once do not build or take the same thing twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step(f"waiting for another lab command that {what}"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
