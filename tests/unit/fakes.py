"""What stands in for a part of the collection in more than one file of unit tests."""

from __future__ import annotations

from typing import Any


class Client:
    """An EtcdClient that is opened and closed; what it answers, its subclasses say."""

    def __init__(self, url: str, *_files: str, **_timeout: float) -> None:
        self.url = url

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass
