# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs programs on the managed host, each with a deadline."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Exit codes of a shell and of timeout(1).
NOT_FOUND = 127
TIMED_OUT = 124


@dataclass(frozen=True)
class Done:
    """The exit code of a program and its output."""

    code: int
    stdout: str
    stderr: str


def feed(argv: list[str], pieces: Iterable[bytes], timeout: float) -> Done:
    """Run a program whose input comes piece by piece, for at most `timeout` seconds. Its output is its standard error only. Like run, but an
    exception of the pieces ends the program.
    """
    deadline = time.monotonic() + timeout
    try:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as exc:
        return Done(NOT_FOUND, "", f"cannot be run: {exc.strerror}")
    with process:
        try:
            with contextlib.suppress(BrokenPipeError):
                for piece in pieces:
                    process.stdin.write(piece)  # type: ignore[union-attr]
            _out, stderr = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            return Done(TIMED_OUT, "", f"did not end within {timeout:.0f} s")
        except BaseException:
            process.kill()
            raise
    return Done(process.returncode, "", stderr.decode("utf-8", errors="replace"))


def run(
    argv: list[str],
    timeout: float,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    directory: str | None = None,
) -> Done:
    """Run a program in the C locale, for at most `timeout` seconds. directory: where it runs, if that matters.

    Never raises. The code is NOT_FOUND if the program is missing or cannot be run, TIMED_OUT if it did not end; stderr has the reason.
    """
    try:
        # AnsibleModule.run_command has no deadline, and would wait forever for a program that hangs.
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            argv,
            input=stdin.encode(),
            capture_output=True,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            timeout=timeout,
            check=False,
            cwd=directory,
        )
    except FileNotFoundError:
        return Done(NOT_FOUND, "", "is not installed")
    except OSError as exc:
        return Done(NOT_FOUND, "", f"cannot be run: {exc.strerror}")
    except subprocess.TimeoutExpired:
        return Done(TIMED_OUT, "", f"did not end within {timeout:.0f} s")
    return Done(
        done.returncode, done.stdout.decode("utf-8", errors="replace"), done.stderr.decode("utf-8", errors="replace")
    )


def run_apart(argv: list[str], timeout: float, output: str, environment: Mapping[str, str] | None = None) -> Done:
    """Run a program that must not be ended half-way: if this process or its connection ends, or after `timeout` seconds, it goes on by itself.

    Both of its outputs go to the file `output`, which is read into stdout. Otherwise like run.
    """
    with open(output, "wb") as file:
        try:
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function,consider-using-with
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C", **(environment or {})},
                start_new_session=True,
            )
        except OSError as exc:
            return Done(NOT_FOUND, "", f"cannot be run: {exc.strerror}")
    try:
        code, problem = process.wait(timeout), ""
    except subprocess.TimeoutExpired:
        code, problem = TIMED_OUT, f"did not end within {timeout:.0f} s, and goes on"
    with open(output, "rb") as file:
        return Done(code, file.read().decode("utf-8", errors="replace"), problem)
