"""What a kube-apiserver answers to a write that etcd has dropped while its leader changed: the request may be repeated, and that is for its client.

A leader that hands its leadership over takes no proposal (raft, stepLeader: "transfer leadership is in progress; dropping proposal"), and one that
a follower has forwarded is lost without a word, so that it times out after seven seconds. The client of etcd in kube-apiserver does not repeat a write
that may have been done (client/v3/retry.go, isSafeRetryMutableRPC: at most once), and kube-apiserver answers 500.
"""

CHANGE_OF_LEADER = (
    "etcdserver: request timed out",
    "etcdserver: request timed out, possibly due to previous leader failure",
    "etcdserver: leader changed",
    "raft proposal dropped",
)


def by_change_of_leader(message: str) -> bool:
    """Whether a change of the leader explains the message of a Status with code 500."""
    return message.split("desc = ", 1)[-1] in CHANGE_OF_LEADER
