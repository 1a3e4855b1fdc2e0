"""The unit tests run with the newest Python, and with the oldest that a host may have. There the controller's part rests."""

from __future__ import annotations

import sys

collect_ignore = (
    ["test_collection.py", "test_layers.py", "test_lab.py", "test_report.py"] if sys.version_info < (3, 11) else []
)
