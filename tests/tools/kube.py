"""A client of kube-apiserver, and a watch that notices a revision that goes back. Standard library only, shared by the tests with processes and with hosts."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAPS = "/api/v1/namespaces/default/configmaps"


@dataclass
class Api:
    """A kube-apiserver. headers, context: who asks."""

    address: str
    context: ssl.SSLContext
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, method: str, path: str, body: Any = None, timeout: float = 20.0) -> http.client.HTTPResponse:
        """One request. OSError if it is not answered with success."""
        connection = http.client.HTTPSConnection(self.address, 6443, timeout=timeout, context=self.context)
        headers = {**self.headers, "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
        except http.client.HTTPException as exc:
            raise OSError(str(exc)) from exc
        if answer.status not in (200, 201):
            raise OSError(answer.status, answer.read())
        return answer

    def is_ready(self) -> bool:
        try:
            return self.request("GET", "/readyz").read() == b"ok"
        except OSError:
            return False

    def create(self, name: str) -> int:
        """A ConfigMap. Returns its revision."""
        body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}}
        return revision_of(json.loads(self.request("POST", MAPS, body).read()))

    def names(self) -> set[str]:
        """The ConfigMaps that tests have created."""
        found = json.loads(self.request("GET", MAPS, timeout=60).read())["items"]
        return {item["metadata"]["name"] for item in found if item["metadata"]["name"] != "kube-root-ca.crt"}

    @contextlib.contextmanager
    def creating(self) -> Iterator[dict[str, int]]:
        """ConfigMaps are created meanwhile: name and revision of each that was acknowledged."""
        created: dict[str, int] = {}
        done = threading.Event()

        def write() -> None:
            while not done.is_set():
                name = f"load-{len(created)}"
                created[name] = self.create(name)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield created
        finally:
            done.set()
            thread.join()


def revision_of(item: dict[str, Any]) -> int:
    return int(item["metadata"]["resourceVersion"])


class Watch(threading.Thread):
    """Works like client-go's informers: lists, watches from that revision, resumes after a lost connection, and lists again if the revision is too old.

    It records every revision that is lower than an earlier one.
    """

    def __init__(self, api: Api) -> None:
        super().__init__(daemon=True)
        self.api = api
        self.done = threading.Event()
        self.seen = self.resume = self.events = self.lists = self.expired = 0
        self.back: list[tuple[str, int, int]] = []

    def saw(self, kind: str, revision: int) -> None:
        if revision < self.seen:
            self.back.append((kind, self.seen, revision))
        self.seen = self.resume = max(revision, self.seen)

    def follow(self) -> None:
        if not self.resume:
            self.saw("list", revision_of(json.loads(self.api.request("GET", f"{MAPS}?limit=1").read())))
            self.lists += 1
        path = f"{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=5&resourceVersion={self.resume}"
        for line in self.api.request("GET", path):
            event = json.loads(line)
            if event["type"] == "ERROR":
                self.expired += event["object"].get("code") == 410
                self.resume = 0
                return
            self.events += event["type"] != "BOOKMARK"
            self.saw(event["type"], revision_of(event["object"]))

    def run(self) -> None:
        while not self.done.is_set():
            try:
                self.follow()
            except (OSError, ValueError, http.client.HTTPException) as exc:
                if exc.args and exc.args[0] == 410:
                    self.expired, self.resume = self.expired + 1, 0
                time.sleep(0.2)
