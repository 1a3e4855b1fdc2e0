"""Recognizes the answer of kube-apiserver to a write that etcd has dropped during a change of its leader.

A leader that transfers its leadership drops proposals (raft, stepLeader: "transfer leadership is in progress; dropping proposal"). A proposal that a
follower has forwarded is lost without an error, and times out after seven seconds. etcd's client does not repeat a write that may
have succeeded (client/v3/retry.go, isSafeRetryMutableRPC), so kube-apiserver answers 500 and its client may repeat the request.
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
