"""Regular expressions for the messages of a failed run, by reason of the model. The text has single blanks."""

from __future__ import annotations

import re

from .model import Why

WORDS: dict[Why, str] = {
    Why.UNREACHABLE: "cannot be reached, or could not be observed",
    Why.REMOVED: "was removed from cluster '[^']*' on [^,]*, and the inventory still has it",
    Why.FORMER: "It does not join with it",
    Why.LOST_DATA: "has lost its data",
    Why.INTERRUPTION: "would interrupt cluster",
    Why.NO_MEMBER: "no host of the inventory and no member is called",
    Why.NO_HELPER: "no other member of cluster '[^']*' that this run has seen is ready",
    Why.QUORUM: "would not be healthy among them: no quorum",
    Why.UNWELL: "No healthy member leaves before the others are repaired|no (other )?member joins (before that|while another one is unwell)",
    Why.ABSENT: "so its member cannot join anew",
    Why.HEALTHY: "is healthy. To replace it all the same",
    Why.UNCONNECTED: "Allow this connection between all members",
    Why.CA_KEY: "this host has the only ca.key",
    Why.CUT_OFF: "is not touched, because stopping|no member tells the membership|is not ready|no member answers",
    Why.JOIN_UNWELL: "does not join while another member is unwell",
    Why.ENDS_UNWELL: "PROBLEM:|members healthy|is not healthy",
}

# Messages of a run that stops because of another run.
GIVES_WAY = re.compile(
    "[Aa]nother run holds the cluster lock|Another run is changing this host|is not touched, because stopping it"
    "|is not removed: |does not join while another member is unwell|has left the membership while"
)


def reasons_in(text: str) -> set[Why]:
    """The reasons that a run gives."""
    return {reason for reason, words in WORDS.items() if re.search(words, text)}
