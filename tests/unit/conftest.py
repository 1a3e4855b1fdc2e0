"""The unit tests run with the newest Python, and with the oldest that a host may have. There the controller's part rests."""

from __future__ import annotations

import sys

NEWEST_ONLY = ["collection", "layers", "lab", "report", "actions", "mutations"]

collect_ignore = [f"test_{name}.py" for name in NEWEST_ONLY] if sys.version_info < (3, 11) else []
