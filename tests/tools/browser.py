# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Controls a headless Chromium by pipes (--remote-debugging-pipe), for the tests of the HTML report.

A browser window cannot be as narrow as a telephone. The viewport of the DevTools protocol can.

usage: python tests/tools/browser.py PAGE.html PICTURE.png [WIDTH] [light|dark] [HEIGHT]
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Debian's package, and others.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

# The page that is printed is A4 with margins of 12 mm.
A4_WIDTH, A4_HEIGHT = 8.27, 11.69


class Browser:
    """One page of a browser. Messages are JSON texts, each ended by a zero byte (DevTools protocol)."""

    def __init__(self, process: subprocess.Popen[bytes], to_browser: int, from_browser: int) -> None:
        self.process = process
        self._to = to_browser
        self._from = from_browser
        self._pending = b""
        self._last = 0
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            data = os.read(self._from, 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended")
            self._pending += data
        text, self._pending = self._pending.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{answer['exceptionDetails']}")
        return answer["result"].get("value")

    def look(self, page: Path, width: int, scheme: str = "light", media: str = "screen", height: int = 800) -> None:
        """Open a page as a device of this width shows it."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + 20
        wanted = page.resolve().as_uri()
        while self.evaluate("document.readyState === 'complete' ? location.href.split('#')[0] : ''") != wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{page} was not loaded in time")
            time.sleep(0.05)

    def picture(self, path: Path, height: int = 0) -> None:
        """Write the page that is looked at as a PNG file: all of it, or its beginning."""
        size = self.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], height or size[1]), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """Write the page that is looked at as it is printed."""
        printed = self.call(
            "Page.printToPDF",
            paperWidth=A4_WIDTH,
            paperHeight=A4_HEIGHT,
            preferCSSPageSize=True,
            printBackground=True,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(printed["data"]))


def program() -> str | None:
    """The browser of this machine; None where there is none."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a temporary profile."""
    path = program()
    if not path:
        raise RuntimeError("no chromium here: run `make setup`")
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()

    # The browser reads commands from file 3 and answers on file 4: far away from both, so that neither is in the other's way.
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser, from_browser))
    os.close(to_browser)
    os.close(from_browser)
    start = ["bash", "-c", f'exec "$0" "$@" 3<&{reading} 4>&{writing}', path]
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
        # The sandbox does not work as root. The browser opens only our own pages.
        options += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        options += [
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-proxy-server",
        ]
        process = subprocess.Popen(
            [*start, *options, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(reading, writing),
            env={**os.environ, "HOME": profile},
        )
        os.close(reading)
        os.close(writing)
        try:
            yield Browser(process, from_us, to_us)
        finally:
            os.close(from_us)
            os.close(to_us)
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def main() -> None:
    """Take one picture."""
    page, target = Path(sys.argv[1]), Path(sys.argv[2])
    width = int(sys.argv[3]) if len(sys.argv) > 3 else 1280
    scheme = sys.argv[4] if len(sys.argv) > 4 else "light"
    with browser() as it:
        it.look(page, width, scheme)
        it.picture(target, int(sys.argv[5]) if len(sys.argv) > 5 else 0)


if __name__ == "__main__":
    main()
