"""Bugs that are made on purpose, one at a time, each of which has to make a unit test fail: who watches the tests.

    .venv/bin/python tests/tools/mutations.py [--all]

Without --all, every third bug and those at the seams are tried (`make test`). The code to be broken has to be there for all of them.
Ends with 1 where a bug went unnoticed, or where the code to be broken is not there any more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PKI, STEPS, X509, FILES, PLAN, ROLLOUT, HEALTH, REPORT = (
    f"plugins/module_utils/{name}.py"
    for name in (
        "_pki/state",
        "_pki/steps",
        "_pki/x509",
        "_host/files",
        "_control/plan",
        "_member/rollout",
        "_etcd/health",
        "_control/report",
    )
)
PREFLIGHT, KUBEADM, VALUES = (
    f"plugins/module_utils/{name}.py" for name in ("_control/preflight", "_host/kubeadm", "_values/formats")
)
VERSIONS = "plugins/module_utils/_values/versions.py"
CLIENT, LOG = (f"plugins/module_utils/{name}.py" for name in ("_etcd/client", "_host/log"))
AUTHORITY = "plugins/module_utils/_control/authority.py"
IDENTITY, RUN, WAL, RECORD, CONFIG = (
    f"plugins/module_utils/{name}.py"
    for name in ("_control/identity", "_control/run", "_host/wal", "_member/record", "_host/kubeadm")
)
TURN, SERVICE = (f"plugins/module_utils/{name}.py" for name in ("_member/turn", "_host/service"))
PLANES = "plugins/module_utils/_control/control_plane.py"
KUBELET, HOST, OBSERVE = (
    f"plugins/module_utils/{name}.py" for name in ("_host/kubelet", "_host/facts", "_member/observe")
)
JOIN, CLEAR, LEAVES = (
    f"plugins/module_utils/{name}.py" for name in ("_member/join", "_member/departure", "_control/departure")
)
PAGE = "roles/report/templates/report.html.j2"


@dataclass(frozen=True)
class Bug:
    """Some code, what it is replaced by, and the unit tests that have to notice."""

    name: str
    path: str
    code: str
    instead: str
    tests: str = "test_pki_reasons.py"


BUGS = [
    # Each reason: the comparison that finds it.
    Bug("missing is unreadable", PKI, 'if leaf.certificate_problem == "missing"', 'if leaf.certificate_problem == "gone"'),
    Bug("no certificate is good", PKI, "if leaf.certificate is None:", "if False:"),
    Bug("no key is good", PKI, "if leaf.key is None:", "if False and leaf.key is None:"),
    Bug("missing key is unreadable", PKI, 'if leaf.key_problem == "missing"', 'if leaf.key_problem == "gone"'),
    Bug("broken key stays", PKI, 'f"key: {leaf.key_problem}", True', 'f"key: {leaf.key_problem}", False'),
    Bug("any algorithm", PKI, "elif algorithm_of(leaf.key.public_key()) != spec.algorithm:", "elif False:"),
    Bug("key of an old algorithm stays", PKI, "not {spec.algorithm}\", True)", "not {spec.algorithm}\", False)"),
    Bug("any size of RSA", X509, 'return f"RSA-{public_key.key_size}"', 'return "RSA-2048"', "test_x509.py"),
    Bug("any key fits", X509, "return public_fingerprint(one) == public_fingerprint(other)", "return True"),
    Bug("foreign key stays", PKI, '"its key belongs to another certificate", True', '"its key belongs to another certificate", False'),
    Bug("a broken key is good", X509, "return key if _fits_itself(key) else None", "return key", "test_x509.py"),
    Bug("any CA", PKI, "authority is not None and not _x509.signed_by(certificate, authority)", "False"),
    Bug("CA by name", X509, "    public, data, signature =", "    return True\n    public, data, signature ="),
    Bug("CA by key only", X509, "if not same_name(certificate.issuer, authority.subject):", "if False:"),
    Bug("any subject", PKI, "if subject != wanted_subject:", "if False:"),
    Bug("key of another subject stays", PKI, "not {wanted_subject}\", True)", "not {wanted_subject}\", False)"),
    Bug("any SANs", PKI, "if sorted(sans) != sorted(wanted):", "if False:"),
    Bug("more SANs than wanted", PKI, "if sorted(sans) != sorted(wanted):", "if set(wanted) - set(sans):"),
    Bug("SANs as a set", PKI, "if sorted(sans) != sorted(wanted):", "if set(sans) != set(wanted):"),
    Bug("any usages", PKI, "if usages != sorted(wanted_usages(kind)):", "if False:"),
    Bug("one usage will do", PKI, "if usages != sorted(wanted_usages(kind)):", "if not set(usages) & set(wanted_usages(kind)):"),
    Bug("any key usages", PKI, 'if key_usages != ["digitalSignature", "keyEncipherment"]:', "if False:"),
    Bug("no key usages are good", PKI,
        'if key_usages != ["digitalSignature", "keyEncipherment"]:',
        'if key_usages and key_usages != ["digitalSignature", "keyEncipherment"]:'),
    Bug("weak signatures", X509, 'return name if name in ("md5", "sha1") else ""', 'return ""'),
    Bug("a leaf may sign", PKI, "if _x509.is_authority(certificate):", "if False:"),
    Bug("too early", PKI, "if now < begin:", "if False:"),
    Bug("expired", PKI, "if now >= end:", "if False:"),
    Bug("expired a second later", PKI, "if now >= end:", "if now > end:"),
    Bug("no window", PKI, "if now >= end - renewal_window(spec, certificate) and", "if False and"),
    Bug("window a second later", PKI, "if now >= end - renewal_window(spec", "if now > end - renewal_window(spec"),
    Bug("nothing can be asked for", PKI, 'if ("all" in spec.renew or leaf.kind in spec.renew)', "if False"),
    Bug("all is nothing", PKI, '"all" in spec.renew or', ""),
    Bug("all are asked for", PKI, "leaf.kind in spec.renew)", "spec.renew)"),
    Bug("new key always", PKI, "spec.renew_keys)\n    return flaws", "True)\n    return flaws"),
    Bug("new key never", PKI, "spec.renew_keys)\n    return flaws", "False)\n    return flaws"),
    Bug("renewed, whatever the reason", PKI, 'codes <= {"window", "asked-for"}', 'codes & {"window", "asked-for"}'),
    # Signing: what a member may not get.
    Bug("possession is not checked", STEPS, "if not request.is_signature_valid:", "if False:", "test_pki.py"),
    Bug("another member's name", STEPS, "if common_name(request.subject) != spec.common_name(kind):", "if False:", "test_pki.py"),
    Bug("other SANs", STEPS, "if sorted(sans_of(request)) != sorted(spec.wanted_sans(kind)):", "if False:", "test_pki.py"),
    Bug("weaker key", STEPS, "if algorithm_of(request.public_key()) != spec.algorithm:", "if False:", "test_pki.py"),
    Bug("signed before it is refused", STEPS,
        "    if problems:\n        raise EtcdError(\" \".join(problems))\n    return accepted",
        "    return accepted",
        "test_pki.py"),
    Bug("longer than the CA", STEPS, "min(now + spec.validity, not_after(authority))", "now + spec.validity", "test_pki.py"),
    Bug("collected as it is", STEPS, 'problem = "; ".join(reason.text', 'problem = "" and "; ".join(reason.text', "test_pki.py"),
    Bug("collected once more", STEPS, "if asked.serial ==", "if False and asked.serial ==", "test_pki.py"),
    Bug("some of what is collected", STEPS, '"signed": {} if waiting else signed', '"signed": signed', "test_pki.py"),
    Bug("installed as it is", STEPS,
        "    if found:\n        raise EtcdError(f\"the certificate for",
        "    if False:\n        raise EtcdError(f\"the certificate for",
        "test_pki.py"),
    Bug("another CA over the one in use", STEPS, "and not replace_ca:", "and False:", "test_pki.py"),
    Bug("stray key removed from the CA host", STEPS, "before.ca_key and not spec.ca_host", "before.ca_key", "test_pki.py"),
    Bug("root beside the intermediate", PKI, "return certificate_pem(load_certificate(cert_pem.encode()))", "return cert_pem", "test_pki.py"),
    Bug("CA that may not sign", PKI, 'if key_usages and "keyCertSign" not in key_usages:', "if False:", "test_pki.py"),
    Bug("CA for others", PKI, 'if usages and "2.5.29.37.0" not in usages', "if False and usages", "test_pki.py"),
    Bug("CA with constraints", PKI, "    if forbidden:", "    if False:", "test_pki.py"),
    Bug("CA with a short key", PKI, "int(algorithm[4:]) < LEAST_RSA_BITS", "False", "test_pki.py"),
    # Files.
    Bug("renamed one by one", FILES,
        "            ready.append(_Prepared(item, target, _prepare(item, target, staging_dir)))",
        "            ready.append(_Prepared(item, target, _prepare(item, target, staging_dir)))\n            _rename(ready.pop())",
        "test_files.py"),
    Bug("half a pair", FILES, "new = _roll_back(ready[:number])", "new: list[str] = []", "test_files.py"),
    Bug("new files are not named", FILES, "            new.append(prepared.target)", "            pass", "test_files.py"),
    Bug("no way across mounts", FILES, "if exc.errno != errno.EXDEV:\n            raise\n        staged", "if True:\n            raise\n        staged",
        "test_files.py"),
    Bug("directory for everybody", FILES, 'if found & 0o022 else None', 'if found & 0o002 else None', "test_files.py"),
    Bug("temporary file left", FILES, "    except BaseException:\n        os.unlink(temporary)\n", "    except BaseException:\n", "test_files.py"),
    Bug("open for a moment", FILES, "os.O_NOFOLLOW, item.mode)", "os.O_NOFOLLOW, 0o644)", "test_files.py"),
    Bug("link replaced by a file", FILES, "os.path.realpath(path) if os.path.exists(path) else path", "path", "test_files.py"),
    Bug("context forgotten", FILES, "            _keep_context(target, temporary)\n", "", "test_files.py"),
    Bug("no lock", FILES, "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", "test_files.py"),
    # What is decided of the CA.
    Bug("any ca.crt is a broken one", AUTHORITY,
        "        and any(item[\"authority_key_id\"] == wanted",
        "        or any(item[\"authority_key_id\"] == wanted",
        "test_authority.py"),
    Bug("any CA that runs", AUTHORITY, 'if etcd[host].get("trusts") == "former"]', 'if etcd[host].get("trusts") == "x"]', "test_authority.py"),
    Bug("any CA of the record", AUTHORITY, 'recorded[host] != pki[host]["ca_cert_key"]', "False", "test_authority.py"),
    Bug("the record over what runs", AUTHORITY, 'if pki[host]["ca_id"] not in proven]', "]", "test_authority.py"),
    Bug("members ended with former certificates", AUTHORITY, 'and not pki[host].get("foreign")]', "]", "test_authority.py"),
    Bug("the older CA certificate wins", AUTHORITY, 'own["not_after"] > pki["ca_not_after"]', "True", "test_authority.py"),
    Bug("any stray key is a copy", AUTHORITY, 'observation["pki"].get("ca_public_key") == key', 'observation["pki"].get("ca_key")', "test_authority.py"),
    Bug("a key that is no copy is removed", STEPS, "if stray and (given is None or", "if False and (given is None or", "test_pki.py"),
    Bug("former addresses by request", STEPS, "**entry,", '**entry, "known_addresses": ["10.0.0.6"],', "test_pki.py"),
    Bug("issued for ever under a CA that ends", PKI, " and not ends_with_its_ca(certificate, authority):", ":", "test_pki.py"),
    Bug("asked again by every run", PKI, "if life < spec.validity else spec.renewal_window", "if False else spec.renewal_window", "test_pki.py"),
    Bug("names compared as text", X509, "one.public_bytes() == other.public_bytes()", "one == other", "test_pki.py"),
    Bug("a transport key stays", STEPS, "        os.unlink(spec.transport)\n    data = ", "        pass\n    data = ", "test_pki.py"),
    Bug("trusted after a refusal", PKI, "if accepted or (accepted is False and not foreign):", "if accepted:", "test_pki.py"),
    Bug("last ca.key removed", AUTHORITY,
        'and key and observation["pki"].get("ca_public_key") == key', 'and observation["pki"].get("ca_key")', "test_authority.py"),
    # What is handed over.
    Bug("whatever a host asks for", STEPS, "if kind not in member.kinds:", "if kind not in LEAVES:", "test_pki.py"),
    Bug("address of a server", PKI, "if any(LEAVES[kind][2] for kind in kinds) and", "if False and", "test_pki.py"),
    Bug("another CA's ca.crt replaced", PLANES, 'pki.get("ca_id") not in (None, wanted)', "False", "test_control_plane.py"),
    Bug("another CA's client replaced", PLANES, '("other-ca" in item["reasons"] or other)', "False", "test_control_plane.py"),
    Bug("member and control plane", PLANES, "    if host in members:\n        return [\n", "    if False:\n        return [\n",
        "test_control_plane.py"),
    Bug("the first of several clusters", PLANES, "if len(names) > 1:", "if False:", "test_control_plane.py"),
    Bug("copied key stays", PLANES, "copied[host] = owners", "_ = owners", "test_control_plane.py"),
    Bug("handed over before it exists", PLANES, 'if not signer["etcd"].get("formed") and', "if False and", "test_control_plane.py"),
    Bug("overruled in silence", PLANES, "for variable in OVERRULES_CLIENTS:", "for variable in ():", "test_control_plane.py"),
    # What a plan may never do.
    Bug("the leader first", PLAN, "key=lambda v: (v.leader, not v.moved)", "key=lambda v: (not v.leader, not v.moved)", "test_plan.py"),
    Bug("who moves last", PLAN, "key=lambda v: (v.leader, not v.moved)", "key=lambda v: v.leader", "test_plan.py"),
    Bug("who works before who is down", PLAN, "order = [*starting, *first, *later]", "order = [*later, *first, *starting]", "test_plan.py"),
    Bug("all restart at once without quorum", PLAN, "if item.has_data is not None and not item.running and not item.joins]", "if item.has_data]",
        "test_plan.py"),
    Bug("founded beside data", PLAN, "    if not formed:\n", "    if len(formed) < 2:\n",
        "test_plan.py"),
    Bug("founded without looking at all", PLAN, "        if absent:", "        if False:", "test_plan.py"),
    Bug("lost data starts empty", PLAN, "elif item.has_lost_data:", "elif False:", "test_plan.py"),
    Bug("emptied and started since", PLAN, "and self.has_data is not None and not self.formed", "and self.has_data is False", "test_plan.py"),
    Bug("a minority that was led starts", PLAN, "if unled and len(formed)", "if False and len(formed)", "test_identity.py"),
    Bug("a learner is waited for", PLAN, "and not item.ready and not item.joins)", "and not item.ready)", "test_plan.py"),
    Bug("a host with data joins", PLAN, "is_fresh = not (self.has_data or ", "is_fresh = not (", "test_plan.py"),
    Bug("joined while nobody is ready", PLAN, "if item.joins and any(other.ready for other in views)]", "if item.joins]", "test_plan.py"),
    Bug("joined beside a member that never started", PLAN, "    if unstarted_elsewhere:\n", "    if False:\n", "test_plan.py"),
    Bug("restarted beside a learner", PLAN, "    if incomplete:\n", "    if False:\n", "test_plan.py"),
    Bug("a small cluster restarts before it grows", PLAN, "[*new, *differing] if len(listed) <= SURVIVES_NONE",
        "[*differing, *new] if len(listed) <= SURVIVES_NONE", "test_plan.py"),
    Bug("joined beside an unwell member", JOIN, "            if not problems:\n", "            if True:\n", "test_join.py"),
    Bug("promoted without the lock", JOIN, "                self._check_lock()\n", "", "test_join.py"),
    Bug("a member that was promoted is removed", JOIN, "if mine and not mine.is_learner:", "if False:", "test_join.py"),
    Bug("a slow learner is removed", JOIN, "if _rollout.find_etcd_process(self.spec.member) and", "if False and", "test_join.py"),
    Bug("the inventory's membership", JOIN, "replace(self.spec.config, peers=peers)", "replace(self.spec.config)", "test_join.py"),
    Bug("the kubelet ends a learner", JOIN, "config.startup_timeout or STARTUP", "config.startup_timeout", "test_join.py"),
    Bug("the last one leaves", LEAVES, "    if not helpers:\n", "    if False:\n", "test_departure.py"),
    Bug("quorum leaves", LEAVES, "if left < len(voters) // 2 + 1:", "if False:", "test_departure.py"),
    Bug("a healthy one leaves beside one that is down", LEAVES, "if unwell and is_well and", "if False and", "test_departure.py"),
    Bug("a live member is cleared", LEAVES, "    if stays:\n", "    if False:\n", "test_departure.py"),
    Bug("data of another cluster is archived", LEAVES, "    if not ids or not answers:\n", "    if True:\n", "test_departure.py"),
    Bug("the only CA key leaves", LEAVES, 'if not item or not item["pki"].get("ca_key"):', "if True:", "test_departure.py"),
    Bug("a healthy one is replaced", LEAVES, '["etcd"].get("ready") and not replace_healthy:', '["etcd"].get("x"):', "test_departure.py"),
    Bug("others are changed by a removal", LEAVES,
        "else {part: [] for part in item", 'else item["reasons"] or {part: [] for part in item', "test_departure.py"),
    Bug("cleared while a member", CLEAR, "    if still:\n", "    if False:\n", "test_clear.py"),
    Bug("renamed before it is recorded", CLEAR, "            _mark_record(spec, record)\n            archive = archive_data(spec.data_dir, time.time())\n",
        "            archive = archive_data(spec.data_dir, time.time())\n            _mark_record(spec, record)\n", "test_clear.py"),
    Bug("keys are wiped unasked", CLEAR, "        if spec.wipe_keys:\n", "        if True:\n", "test_clear.py"),
    Bug("small clusters are interrupted", PLAN, "if interrupting and small and not allow_interruption:", "if False:", "test_plan.py"),
    Bug("always settled", RUN, '"settled": not steps,', '"settled": True,', "test_seams.py"),
    Bug("turns without steps", PLAN, "for number, host in enumerate(plan.order, 1)", "for number, host in enumerate([], 1)", "test_seams.py"),
    Bug("no manifest restarts", KUBEADM, 'f"etcd.yaml: {text}", restarts=True', 'f"etcd.yaml: {text}", restarts=False', "test_observe_seam.py"),
    Bug("nobody moves", "plugins/module_utils/_member/observe.py", "reason.code == _kubeadm.MOVED", "False", "test_observe_seam.py"),
    Bug("founded twice", PLAN, "if item.founded]", "if False]", "test_plan.py"),
    Bug("moved while nobody can be told", PLAN, "if not moved:", "if True:", "test_plan.py"),
    Bug("a small cluster's member without certificates", PLAN, "if item.running and item.stale)", "if False)", "test_plan.py"),
    Bug("the archive of another image", "plugins/module_utils/_control/archive.py", "if names and image not in names", "if not names", "test_archive.py"),
    Bug("no gate", PLAN, "gated=not small", "gated=False", "test_plan.py"),
    Bug("a first run that was killed is a cluster", PLAN, "if listed is None or unborn:", "if listed is None:", "test_plan.py"),
    Bug("corruption is ignored", PLAN, 'if kind != "NOSPACE"', 'if kind == "x"', "test_plan.py"),
    Bug("the data of another member", IDENTITY, 'if found and entry and str(entry["id"]) != found:', "if False:", "test_plan.py"),
    Bug("two copies of one member", IDENTITY, "if found and len(hosts) > 1", "if False", "test_plan.py"),
    Bug("published and yet unborn", PLAN, "or item.ready or item.published for", "or item.ready for", "test_plan.py"),
    Bug("data elsewhere is lost", PLAN, " and not self.data_elsewhere", "", "test_run.py"),
    Bug("any address is confirmed", RUN, 'if has_address({"peer_urls": urls}, address)', "if address", "test_authority.py"),
    Bug("certificates for the wrong host", IDENTITY, "EVERYTHING, member.host", "PROCESSES, member.host", "test_run.py"),
    # What crafted states have shown.
    Bug("founded over members that run", PLAN, "        if emptied:", "        if False:", "test_run.py"),
    Bug("ready and lost", IDENTITY, 'or observation["etcd"].get("ready"))', "or False)", "test_run.py"),
    Bug("the membership of who is cut off", PLAN, 'key=lambda item: not item["etcd"].get("ready")', "key=lambda item: False", "test_plan.py"),
    Bug("stopped before a snapshot", PLAN, "if item.running and not item.has_data:\n        text", "if False:\n        text", "test_plan.py"),
    Bug("replaced without a quorum", PLAN, "if not unseen and not any(view.ready for view in views):", "if False:", "test_plan.py"),
    Bug("a learner keeps a member down", PLAN, "if host in stopped]", "if False]", "test_plan.py"),
    Bug("a live member is stopped", IDENTITY, "                if whose\n", "                if False\n", "test_identity.py"),
    Bug("renamed while down", IDENTITY, 'record.get("name", member.name) != member.name', "False", "test_identity.py"),
    Bug("the token of an emptied host", RUN, 'if item["etcd"].get("has_data") and (', "if (", "test_run.py"),
    Bug("restored and not recorded", RUN, "return not record or any(", "return not record and any(", "test_run.py"),
    Bug("first start without certificates", RUN, "(FOUND, START) if host in first", "(START,) if host in first", "test_run.py"),
    Bug("a CA that cannot be read is lost", AUTHORITY, 'if signer["pki"] and authority is None', "if authority is None", "test_authority.py"),
    Bug("down for a renewal", RUN, "if signing and (start or order) and can_start", "if False and can_start", "test_run.py"),
    Bug("started without certificates", RUN, "and can_start and not whole", "and not whole", "test_run.py"),
    Bug("an expired CA is put back", AUTHORITY, "if former and all(", "if False and all(", "test_authority.py"),
    Bug("a CA in use is replaced", AUTHORITY, 'item["authority_key_id"] is not None and item', 'False and item', "test_authority.py"),
    Bug("no way to start the others", RUN, "[*outcome.refusals, *way_out]", "outcome.refusals", "test_run.py"),
    Bug("commands of a log", "plugins/module_utils/_values/problems.py", 'if char.isprintable() or char == "\\n"', "if True", "test_log.py"),
    Bug("a record without data", IDENTITY, "            if not is_new and not etcd.get(", "            if False and not etcd.get(", "test_identity.py"),
    Bug("a record beside other data", IDENTITY, "if not proven and (etcd", "if False and (etcd", "test_identity.py"),
    Bug("a record that what runs disproves", IDENTITY, 'bool(answers) and etcd["cluster_id"] == answers', "False", "test_identity.py"),
    Bug("restored beside data", IDENTITY, "if not restored or not (answers or others or unseen):", "if True:", "test_identity.py"),
    Bug("one spelling of an address", IDENTITY, "return is_address(one) and is_address(other) and", "return False and", "test_identity.py"),
    # How problems are weighed.
    Bug("founded in spite of a problem", RUN, "    if not exists(observations):\n        return", "    if False:\n        return", "test_run.py"),
    Bug("renewal is held up", RUN, "[] if signs else processes", "processes", "test_run.py"),
    Bug("held in silence", RUN, "        held=processes,\n", "", "test_run.py"),
    Bug("another host's problem", RUN, 'p.host in ("", host)', "True", "test_run.py"),
    Bug("not in lockstep", RUN, "if attendance.unobserved else []", "if False else []", "test_run.py"),
    Bug("any strategy", RUN, '_APART = ("free", "host_pinned")', '_APART = ("freedom",)', "test_run.py"),
    Bug("one token for all", RUN, "for observation in observations.values()))\n    return hashlib", "for observation in ()))\n    return hashlib",
        "test_run.py"),
    Bug("what is held is done", RUN, "nothing if processes else replace(", "replace(", "test_run.py"),
    Bug("a record beside a log that nobody has led", IDENTITY, 'if not etcd["formed"]:', 'if not etcd["has_data"]:', "test_identity.py"),
    # Data, record and configuration.
    Bug("a log of its own volume", WAL, 'if has_applied(database) else None', "if False else None", "test_wal.py"),
    Bug("what cannot be listed is empty", WAL, "except (FileNotFoundError, NotADirectoryError):\n        return []", "except OSError:\n        return []",
        "test_wal.py"),
    Bug("nothing proves the record", OBSERVE, 'etcd["answers"] and etcd["formed"]', 'etcd["formed"]', "test_observe.py"),
    Bug("a new image is not seen", OBSERVE, '        if settled(process)\n', '        if True\n', "test_observe.py"),
    Bug("a removed flag is not seen", OBSERVE, "if surplus and not any", "if False and not any", "test_observe.py"),
    Bug("the configuration is forgotten", OBSERVE, "found.append(_kubeadm.data_dir_in(", "list(_kubeadm.data_dir_in(", "test_observe.py"),
    Bug("links are other directories", OBSERVE, "        return os.path.samefile(one, other)", "        return one == other", "test_observe.py"),
    Bug("a restored snapshot is recorded", RECORD, "or wal.restored or", "or", "test_record.py"),
    Bug("all in initial-cluster", CONFIG, "if peer == name or not alone", "if True", "test_kubeadm.py"),
    Bug("itself only while it joins", CONFIG, "alone = published and", "alone =", "test_kubeadm.py"),
    Bug("hosts that nobody looked at are down", PLAN, "if stopped and not (unseen and rest_may_be_quorum) and not", "if stopped and not", "test_plan.py"),
    Bug("a machine in two clusters", "plugins/module_utils/_control/cluster.py", "if ways[host] == ways[other]", "if False", "test_cluster.py"),
    Bug("a machine twice in one cluster", "plugins/module_utils/_control/cluster.py", "for same in twins", "for same in []", "test_cluster.py"),
    Bug("invalid values reach the hosts", "plugins/module_utils/_control/cluster.py", "size_warnings(name, members), invalid)",
        "size_warnings(name, members), [])",
        "test_cluster.py"),
    Bug("any cluster name", VALUES, "if _CLUSTER_NAME.fullmatch(str(name)):", "if True:", "test_cluster.py"),
    Bug("system directories for data", VALUES, "if real in _SHARED_DIRECTORIES or _is_in(real, _TAKEN):", "if False:", "test_cluster.py"),
    Bug("data in memory", VALUES, "if _is_in(real, _VOLATILE):", "if False:", "test_cluster.py"),
    Bug("values of variables are shown", KUBEADM, "return f\"{match.group(1)}(hidden", "return f\"{match.group(0)}(hidden", "test_manifest.py"),
    Bug("a startup probe restarts members", KUBEADM, "if startup_counts and probes[0] != probes[1]:", "if probes[0] != probes[1]:", "test_manifest.py"),
    Bug("a raised startup probe is taken back", KUBEADM, "max(needed, probe_seconds(installed))", "needed", "test_kubeadm.py"),
    Bug("renewal needs a kubeadm", PREFLIGHT, "Problem(text, PROCESSES, code=\"programs\")", "Problem(text, code=\"programs\")",
        "test_preflight.py"),
    Bug("a copied kubeconfig stops a member", PREFLIGHT, 'if facts["leftovers"] and not is_member(facts):', 'if facts["leftovers"]:', "test_preflight.py"),
    Bug("any data makes a member", PREFLIGHT, 'facts["kubelet_override"] and', "", "test_preflight.py"),
    Bug("any newer kubeadm", VERSIONS, "if minor is not None and allow_untested:", "if minor is not None:", "test_preflight.py"),
    Bug("the clock of one host is right", PREFLIGHT, "} if absent else {})", "} if False else {})", "test_preflight.py"),
    Bug("two hosts with one address", PREFLIGHT, "member.host != host and member.address in item", "False and item", "test_preflight.py"),
    Bug("shared directories are taken", TURN, "[] if _host.foreign_entries(data_dir) else", "[] if False else", "test_turn.py"),
    Bug("a doubled dollar is waited for", ROLLOUT, 'or "$$" in argument', "", "test_rollout.py"),
    Bug("clocks are read at one moment", "plugins/module_utils/_host/facts.py", "else time.time() - asked_at", "else time.time()", "test_host.py"),
    Bug("a restored snapshot is new", WAL, "formed=led or has_snapshot", "formed=led", "test_wal.py"),
    Bug("a member that took a snapshot is restored", WAL, "restored=has_snapshot and not led", "restored=has_snapshot", "test_wal.py"),
    Bug("a volume that is linked to is not missed", WAL, "if os.path.islink(path) and not os.path.exists(path):", "if False:", "test_wal.py"),
    Bug("any text is a truth value", "plugins/module_utils/_control/cluster.py", "str(value).lower() not in TRUTH", "False", "test_cluster.py"),
    Bug("what is not set differs from nothing", "plugins/module_utils/_control/cluster.py",
        'or default or "(not set)") for host in hosts}', 'or "(not set)") for host in hosts if inventory[host].get(variable)}', "test_cluster.py"),
    # Gates around one member.
    Bug("an unhealthy one is counted", ROLLOUT, "if left >= size // 2 + 1 and not", "if left >= 0 and not", "test_rollout.py"),
    Bug("who is not ready does not vote", ROLLOUT, "        if not problems:\n            return\n",
        "        if not problems or not ready:\n            return\n", "test_rollout.py"),
    Bug("waits for nobody", ROLLOUT, "        check_controller()\n", "", "test_rollout.py"),
    # The turn of a member.
    Bug("the next run's manifest is undone", TURN, "if has_manifest and read_text(self.spec.manifest) != self.wanted:", "if False:", "test_turn.py"),
    Bug("a stop is an upgrade", TURN, "return images[0] != images[1] and bool(", "return bool(", "test_turn.py"),
    Bug("a start is a change", TURN, "self.content, self.left = [], self.content", "self.left = self.content", "test_turn.py"),
    Bug("stopped for good", TURN, "if not _host.kubelet_unit().active:", "if False:", "test_turn.py"),
    Bug("certificates wait for a member", TURN, 'LOCK = "lock-manifest"', 'LOCK = "lock"', "test_turn.py"),
    Bug("the list of members is that of before", TURN, "self.look(any(member.name == target.name", "any(any(member.name == target.name", "test_turn.py"),
    Bug("the gate of the last is asked in check mode", TURN, "self.spec.turn > 1 or not", "not", "test_turn.py"),
    Bug("the configuration is not written", TURN, "        if self.config:\n            self.config.write()\n", "", "test_turn.py"),
    Bug("no lock in the cluster", TURN, "                self._hold_lock(stack, target)", "                pass", "test_turn.py"),
    Bug("the gate is not asked", TURN, "            _rollout.check_gate(target)", "            pass", "test_turn.py"),
    Bug("a full database is never repaired", TURN, 'if exc.alarm != "NOSPACE":', "if True:", "test_turn.py"),
    Bug("stopped without a quorum", TURN, "            if self.process:\n                raise\n", "", "test_turn.py"),
    Bug("put back against another run", TURN, 'return f"{exc} Nothing was put back." if', 'return "" if', "test_turn.py"),
    Bug("a lost lock is not noticed", TURN, "            self.lock.check()", "            pass", "test_turn.py"),
    Bug("key of another CA", AUTHORITY, "not in (None, own.get(\"public_key\"))", "is Ellipsis", "test_authority.py"),
    # The kubelet.
    Bug("an old program goes on", KUBELET, "if unit.replaced:", "if False:", "test_kubelet.py"),
    Bug("a script is a program", HOST, "not script and not os.path.samestat", "not os.path.samestat", "test_kubelet.py"),
    Bug("a removed program is the same", HOST, '.endswith(" (deleted)")', '.endswith(" (gone)")', "test_kubelet.py"),
    Bug("files come back open", SERVICE, "st_mode & 0o7777 if", "st_mode | 0o7777 if", "test_turn.py"),
    Bug("times tell what runs", KUBELET, "unit.config != config if known else", "False if known else", "test_kubelet.py"),
    Bug("a clock that was ahead is right", KUBELET, "unit.started + 1 < written <= now", "unit.started + 1 < written", "test_kubelet.py"),
    Bug("enabled until the reboot", HOST, '("enabled", "static")', '("enabled", "enabled-runtime", "static")', "test_host.py"),
    Bug("etcd starts empty", KUBELET, 'if ! [ -e "$1" ]; then', "if false; then", "test_kubelet.py"),
    Bug("a database is the data", KUBELET, '"$data"/member/wal/*.wal', '"$data"/member', "test_kubelet.py"),
    Bug("a first run is held", KUBELET, '[ -e "$record" ] && ', "", "test_kubelet.py"),
    Bug("a replacement is held", KUBELET, ' && [ -n "$data" ]', "", "test_kubelet.py"),
    Bug("no copy, no kubelet", KUBELET, '"$started_with" || :', '"$started_with"', "test_kubelet.py"),
    Bug("nobody waits for the volume", KUBELET, 'f"RequiresMountsFor={directories}\\n"', 'f"After={directories}\\n"', "test_kubelet.py"),
    Bug("a volume with a specifier", KUBELET, '.replace("%", "%%")', "", "test_kubelet.py"),
    Bug("any drop-in wins", KUBELET, "if os.path.basename(item.path) > os.path.basename(DROP_IN)]", "]", "test_kubelet.py"),
    Bug("a drop-in that adds is refused", KUBELET, 'in commands[-1].split():', "in []:", "test_kubelet.py"),
    Bug("drop-ins by directory", HOST, "in sorted(paths.items())", "in paths.items()", "test_kubelet.py"),
    Bug("a mismatch is fine", KUBELET, "if driver in (None, spec.cgroup_driver):", "if True:", "test_kubelet.py"),
    Bug("a mismatch holds what runs", KUBELET, "PROCESSES if is_new else (FOUND, START)", "PROCESSES", "test_kubelet.py"),
    Bug("a member is taken down by a mismatch", KUBELET, "PROCESSES if is_new else (FOUND, START)", "(FOUND, START)", "test_kubelet.py"),
    Bug("containerd 2 is judged", HOST, 'or runtime_answers(endpoint, method="RuntimeConfig") is None', "", "test_host.py"),
    Bug("remove what still runs", KUBELET, "and not any(PAGE_CONFIG in argument for argument in unit.argv)", "", "test_kubelet.py"),
    Bug("remove what will run", KUBELET, "config_is_there and is_ours and", "config_is_there and", "test_kubelet.py"),
    Bug("a package for a venv", HOST, '!= ("/usr", "/usr")', '== ()', "test_x509.py"),
    Bug("what is set is advised", HOST, "    elif installs:", "    elif False:", "test_x509.py"),
    # The verdict.
    Bug("one healthy member is no quorum", HEALTH, "if any(item.commits for item in seen):", "if all(item.commits for item in seen):", "test_health.py"),
    Bug("reasons do not count", HEALTH, "return DEGRADED if reasons else HEALTHY", "return HEALTHY", "test_health.py"),
    Bug("silence is down", HEALTH, "stopped = sum(item.code == \"refused\" for item in seen if item.name)", "stopped = len(seen)", "test_health.py"),
    Bug("what is asked is all there is", HEALTH, "for item in seen if item.name)", "for item in seen)", "test_health.py"),
    Bug("no key waits in vain", STEPS, "key is None or (certificate and not", "key is None or (False and not", "test_pki.py"),
    Bug("the first host asks", RUN, "if etcd[host].get(\"ready\")), *able", ")", "test_report.py"),
    Bug("alarms are waited for", HEALTH, "lasting=bool(raised) and not trouble", "lasting=False", "test_health.py"),
    Bug("never mind the others' alarms", HEALTH, "if status and member in (0, status.member_id)})", "if status})", "test_health.py"),
    Bug(
        "an alarm of the whole cluster is nobody's",
        HEALTH,
        "if status and member in (0, status.member_id)})",
        "if status and member == status.member_id})",
        "test_health.py",
    ),
    Bug(
        "an alarm has a member",
        CLIENT,
        'int(member.group(1)) if member else 0, kind.group(1)))',
        'int(member.group(1)), kind.group(1))) if member else None',
        "test_etcd_client.py",
    ),
    Bug(
        "alarms of the first host only",
        PLAN,
        'for alarm in observation["etcd"].get("alarms") or []',
        'for alarm in next(iter(observations.values()))["etcd"].get("alarms") or []',
        "test_plan.py",
    ),
    Bug("the host's level of OpenSSL", CLIENT, "    context.set_ciphers(CIPHERS)\n", "", "test_etcd_client.py"),
    Bug("the host's protocols", CLIENT, "    context.minimum_version = ssl.TLSVersion.TLSv1_2\n", "", "test_etcd_client.py"),
    Bug(
        "TLS secrets are written",
        CLIENT,
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)",
        "context = ssl.create_default_context()",
        "test_etcd_client.py",
    ),
    Bug("always a firewall", CLIENT, "        if connected:\n", "        if False:\n", "test_health.py"),
    Bug("no route is open", HOST, "            states[target] = state_of(error)\n", "            states[target] = OPEN\n", "test_host.py"),
    Bug("a listener is looked at once", HOST, "_LOOKS, _LOOK_AGAIN = 4, 0.25", "_LOOKS, _LOOK_AGAIN = 1, 0.25", "test_host.py"),
    Bug("any source will do", PREFLIGHT, "if name and not any(same_address(source, known) for known in accepted):", "if False:", "test_preflight.py"),
    Bug("a temporary address for ever", PREFLIGHT, 'if source in item["temporary_addresses"]', "if False", "test_preflight.py"),
    Bug(
        "a hung etcd is a firewall",
        PREFLIGHT,
        "hung = [port for port in missed if is_hung",
        "hung = [port for port in missed if not port and is_hung",
        "test_preflight.py",
    ),
    Bug("unreachable is reached", PREFLIGHT, 'NOT_REACHED = ("silent", "unreachable")', 'NOT_REACHED = ("silent",)', "test_preflight.py"),
    Bug("a quota as Python reads it", HEALTH, "int(str(value).strip(), 0)", "int(value)", "test_health.py"),
    Bug(
        "what follows is the cause",
        LOG,
        "telling = [said for said in found if said not in _CONSEQUENCES] or list(found)",
        "telling = list(found)",
        "test_log.py",
    ),
    Bug("what is over is told", LOG, "time >= last - RECENT", "time >= 0", "test_log.py"),
    Bug("our own look is told", LOG, ' and entry.get("error") == "EOF")', ' and not entry)', "test_log.py"),
    Bug("a learner is a member", HEALTH, "if item.status and item.status.is_learner:", "if False:", "test_health.py"),
    Bug("versions as texts", HEALTH, "return tuple(int(number) for", "return tuple(number for", "test_health.py"),
    Bug("the floor itself is too low", HEALTH, "numbers[2] >= floor", "numbers[2] > floor", "test_health.py"),
    Bug("any verdict will do", HEALTH, "VERDICTS.index(self.verdict) <= VERDICTS.index(verdict)", "True", "test_health.py"),
    # The report.
    Bug("a reason is not escaped", PAGE, "<li>{{ reason | e }}</li>", "<li>{{ reason }}</li>", "test_report.py"),
    Bug("half of a value is escaped", PAGE, "aria-label=\"{{ words | e }}\"", "aria-label=\"{{ words ~ '' | e }}\"", "test_report.py"),
    Bug("scripts may run", PAGE, "default-src 'none'", "default-src *", "test_report.py"),
    Bug("the best verdict counts", REPORT, "verdict = max((item", "verdict = min((item", "test_report.py"),
    Bug("an unknown verdict is passed on", REPORT, 'verdict if verdict in VERDICTS else "unknown"', "verdict", "test_report.py"),
    Bug("a wrong inventory is judged", REPORT, "if looked.cluster.problems:", "if False:", "test_report.py"),
    Bug("an ended certificate is in the window", REPORT, '"ended" if left <= 0', '"ended" if left <= -DAY', "test_report.py"),
    Bug("a window of a second less", REPORT, '"window" if left <= window', '"window" if left < window', "test_report.py"),
    Bug("judged twice", REPORT, 'or (item["kind"] == "server" and item["member"] in judged_there)', "", "test_report.py"),
    Bug("hosts that are lost are forgotten", REPORT, "    if not looked.lost:\n", "    if looked:\n", "test_report.py"),
    Bug("a bar beyond its end", REPORT, "min(100.0, max(0.0, 100.0 * part / whole))", "100.0 * part / whole", "test_report.py"),
    Bug("plain where it is not open", REPORT, '"tls": not settings.metrics_exposed', '"tls": False', "test_report.py"),
    Bug("names lead out of the directory", REPORT, 'r"[^A-Za-z0-9._-]|^[.]+"', 'r"[^A-Za-z0-9._/-]"', "test_report.py"),
]  # fmt: skip


def noticed(bug: Bug, where: Path) -> str:
    """What is wrong: empty where a test fails because of this bug."""
    copy = where / bug.name.replace(" ", "_")
    for part in (
        "plugins",
        "tests/unit",
        "tests/tools",
        "tests/report",
        "roles",
        "inventory.example",
        "lab",
        "playbooks",
        "docs",
    ):
        shutil.copytree(ROOT / part, copy / part, symlinks=True)
    for name in ("pyproject.toml", "galaxy.yml"):
        shutil.copy(ROOT / name, copy / name)
    place = copy / ".collections" / "ansible_collections" / "kubeadm"
    place.mkdir(parents=True)
    (place / "etcd").symlink_to(copy)
    text = (copy / bug.path).read_text(encoding="utf-8")
    (copy / bug.path).write_text(text.replace(bug.code, bug.instead), encoding="utf-8")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/unit/{bug.tests}"],
        cwd=copy,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    shutil.rmtree(copy)
    # 1: a test failed. All else (nothing collected, a syntax error) says nothing of the tests.
    return "" if done.returncode == 1 else f"unnoticed (pytest ended with {done.returncode})\n{done.stdout[-400:]}"


def main() -> int:
    gone = [bug for bug in BUGS if (ROOT / bug.path).read_text(encoding="utf-8").count(bug.code) != 1]
    for bug in gone:
        print(f"{bug.name}: {bug.path} does not have this once: {bug.code}")
    # The seams between host, play and plan always: what is wrong there no other test sees.
    seams = [bug for bug in BUGS if bug.path in (RUN, TURN, OBSERVE) or "test_observe_seam.py" in bug.tests]
    tried = BUGS if "--all" in sys.argv[1:] else [bug for bug in BUGS if bug in BUGS[::3] or bug in seams]
    with tempfile.TemporaryDirectory() as where, ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        results = list(pool.map(noticed, tried, [Path(where)] * len(tried)))
    for bug, problem in zip(tried, results):
        if problem:
            print(f"{bug.name} ({bug.tests}): {problem}")
    print(f"{results.count('')} of {len(tried)} bugs were noticed")
    return 1 if gone or any(results) else 0


if __name__ == "__main__":
    sys.exit(main())
