"""The unit tests run with the newest Python, and with the oldest that hosts may have. The latter skips tests of the controller."""

from __future__ import annotations

import sys

NEWEST_ONLY = ["collection", "layers", "lab", "report", "actions", "mutations"]

collect_ignore = [f"test_{name}.py" for name in NEWEST_ONLY] if sys.version_info < (3, 11) else []
