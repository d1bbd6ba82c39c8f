"""The SDK clients: one long-lived driver process each, that runs scenarios on request."""

import itertools
import json
import pathlib
import subprocess

from .procs import Process, wait_until

CLIENTS = pathlib.Path(__file__).parent.parent / "clients"


class Driver:
    def __init__(self, name, cache, ca):
        self.name, self.cache, self.ca, self.process = name, pathlib.Path(cache), ca, None
        self.serial = itertools.count(1)

    def _argv(self):
        if self.name.startswith("ts"):
            return [self.cache / "bin/node", CLIENTS / f"{self.name}.mjs"]
        venv = {"py1": "venv-sdk1", "py2": "venv"}[self.name]
        return [self.cache / venv / "bin/python", "-u", CLIENTS / f"{self.name}.py"]

    def _start(self):
        env = {
            "E2E_JS_ROOT": str(self.cache / "js"),
            "NODE_EXTRA_CA_CERTS": str(self.ca),
            "SSL_CERT_FILE": str(self.ca),
            "NO_PROXY": "localhost,127.0.0.1",
        }
        self.process = Process(f"client {self.name}", self._argv(), env=env, stdin=subprocess.PIPE)
        self._answer(0, 30)

    def _answer(self, ident, timeout):
        def look():
            with self.process.changed:
                out = list(self.process.out)
            for line in out:
                if line.startswith("{") and json.loads(line).get("id") == ident:
                    return json.loads(line)
            assert self.process.running(), f"the client ended\n{self.process.tail()}"
            return None

        return wait_until(look, timeout, lambda: f"an answer of {self.name}\n{self.process.tail()}")

    def run(self, endpoint, scenario, timeout=30, **args):
        if self.process is None or not self.process.running():
            self._start()
        ident = next(self.serial)
        job = {"id": ident, "scenario": scenario, "url": endpoint.url, "headers": endpoint.headers, "args": args}
        self.process.child.stdin.write(json.dumps(job) + "\n")
        self.process.child.stdin.flush()
        try:
            answer = self._answer(ident, timeout)
        except AssertionError:
            self.stop()
            raise
        assert "failed" not in answer, (
            f"{self.name} {scenario} ({endpoint.via}): {answer['failed']}\n{self.process.tail(10)}"
        )
        return answer["record"]

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process = None
