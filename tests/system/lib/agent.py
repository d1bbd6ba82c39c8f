#!/usr/bin/env python3
"""An agent: calls a tool through a relay, and says what came of each call.

agent.py --url URL --key KEY --ca FILE [--resolve ADDRESS] [--seconds S] [--threads N] [--delay-ms MS]

One call, or calls without a pause for so long. Prints {"good": N, "bad": [what went wrong, ...], "slowest": seconds}.
"""

import argparse
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.parse


class Connection(http.client.HTTPSConnection):
    """To an address, under another name."""

    def __init__(self, address, name, port, context):
        super().__init__(name, port, timeout=90, context=context)
        self.address = address

    def connect(self):
        raw = socket.create_connection((self.address, self.port), self.timeout)
        self.sock = self._context.wrap_socket(raw, server_hostname=self.host)


def body(number, delay_ms):
    if delay_ms:
        call = {"name": "slow", "arguments": {"steps": 2, "delay_ms": delay_ms // 2}}
    else:
        call = {"name": "echo", "arguments": {"text": "number %d" % number}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": call}


def call(connection, target, key, number, delay_ms):
    """None, or what is wrong with the answer."""
    connection.request("POST", target, json.dumps(body(number, delay_ms)), {
        "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
        "Authorization": "Bearer " + key, "MCP-Protocol-Version": "2025-06-18"})
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    wanted = "steps done" if delay_ms else "number %d" % number
    if answer.status != 200 or wanted not in text:
        return "%d %s" % (answer.status, text[:300])
    return None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--url", required=True)
    p.add_argument("--key", required=True)
    p.add_argument("--ca", required=True)
    p.add_argument("--resolve")
    p.add_argument("--seconds", type=float, default=0)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--delay-ms", type=int, default=0)
    a = p.parse_args()
    url = urllib.parse.urlsplit(a.url)
    result = {"good": 0, "bad": [], "slowest": 0}
    lock = threading.Lock()
    end = time.monotonic() + a.seconds

    def work(first):
        number, connection = first, None
        while True:
            begun = time.monotonic()
            try:
                if connection is None:
                    connection = Connection(a.resolve or url.hostname, url.hostname, url.port or 443,
                                            ssl.create_default_context(cafile=a.ca))
                wrong = call(connection, url.path, a.key, number, a.delay_ms)
            except OSError as e:
                wrong, connection = "%s" % e, None
            except http.client.HTTPException as e:
                wrong, connection = "%r" % e, None
            with lock:
                result["slowest"] = max(result["slowest"], time.monotonic() - begun)
                if wrong:
                    result["bad"].append(wrong)
                else:
                    result["good"] += 1
            number += a.threads
            if time.monotonic() >= end:
                return
            if wrong:
                time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(a.threads)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
