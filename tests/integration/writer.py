"""Writes without a pause until its standard input ends: run on a host of the lab, with the URLs of all members.

A request that fails, or takes longer than a second, goes to the next member; one that fails at all of them is counted.
Prints, as JSON: acknowledged (how many writes), lost (acknowledged and not there afterwards), nowhere (requests that no
member served), gap (the longest time between two acknowledged writes, seconds) and ended (when that was). Standard library only.
"""

import base64
import http.client
import json
import os
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit

# A test may give the client other files.
PKI = os.environ.get("WRITER_PKI", "/etc/kubernetes/pki/etcd/")


def call(url, path, body, pki=PKI):
    """One request over a new connection, so that certificates are verified each time. None if it fails. body: None for GET."""
    context = ssl.create_default_context(cafile=pki + "ca.crt")
    context.load_cert_chain(pki + "healthcheck-client.crt", pki + "healthcheck-client.key")
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=1.0, context=context)
    try:
        connection.request("POST" if body is not None else "GET", path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        text = answer.read()
        return json.loads(text) if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def main():
    urls = sys.argv[2:]
    prefix = sys.argv[1]
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    number = nowhere = 0
    gap, ended, last = 0.0, "", time.monotonic()
    while not done.is_set():
        body = {"key": encoded(f"{prefix}/{number:08d}"), "value": encoded("x")}
        for _attempt in urls:
            if call(urls[0], "/v3/kv/put", body):
                number += 1
                waited, last = time.monotonic() - last, time.monotonic()
                gap, ended = max((gap, ended), (waited, time.strftime("%H:%M:%S")))
                break
            urls.append(urls.pop(0))
        else:
            nowhere += 1
    question = {"key": encoded(prefix + "/"), "range_end": encoded(prefix + "0"), "keys_only": True}
    found = next(filter(None, (call(url, "/v3/kv/range", question) for url in urls * 5)))
    keys = {base64.b64decode(item["key"]).decode() for item in found.get("kvs", [])}
    lost = [n for n in range(number) if f"{prefix}/{n:08d}" not in keys]
    print(
        json.dumps(
            {"acknowledged": number, "lost": len(lost), "nowhere": nowhere, "gap": round(gap, 2), "ended": ended}
        )
    )


if __name__ == "__main__":
    main()
