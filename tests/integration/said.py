"""Regular expressions for the messages of a failed run, by reason of the model. The text has single blanks."""

from __future__ import annotations

import re

from .model import Why

WORDS: dict[Why, str] = {
    Why.UNREACHABLE: "cannot be reached, or could not be observed",
    Why.REMOVED: "was removed from cluster '[^']*' on [^,]*, and the inventory still has it",
    Why.FORMER: ", so it does not join. If that belongs to",
    Why.LOST_DATA: "has lost its data",
    Why.INTERRUPTION: "would interrupt cluster",
    Why.NO_MEMBER: "no host of the inventory and no member is called",
    Why.NO_HELPER: "no other member of cluster '[^']*' that this run has seen is ready",
    Why.QUORUM: "would have no quorum: of its other",
    Why.UNWELL: "A healthy member is removed only while all others are healthy|no (other )?member joins (before that|while another one is unhealthy)",
    Why.ABSENT: "so its member cannot join anew",
    Why.HEALTHY: "is healthy. To replace it nevertheless",
    Why.UNCONNECTED: "Allow this connection between all members",
    Why.CA_KEY: "this host has the only ca.key",
    Why.CUT_OFF: "is not touched, because stopping|no member reports the membership|is not ready|no member answers",
    Why.JOIN_UNWELL: "does not join while another member is unhealthy",
    Why.ENDS_UNWELL: "PROBLEM:|members healthy|is not healthy",
}

# Messages of a run that restarts members, and stops because of another run.
GIVES_WAY = re.compile(
    "[Aa]nother run holds the cluster lock|Another run is changing this host|is not touched, because stopping it"
)

# The same, of a run that may also change the membership.
GIVES_WAY_IN_MEMBERSHIP = re.compile(
    f"{GIVES_WAY.pattern}|is not removed: |does not join while another member is unhealthy|has left the membership while"
)


def reasons_in(text: str) -> set[Why]:
    """The reasons that a run gives."""
    return {reason for reason, words in WORDS.items() if re.search(words, text)}
