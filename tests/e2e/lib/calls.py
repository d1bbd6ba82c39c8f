"""A call that the tests make again and again, and one that waits at the server until it is let go."""

import threading

from .procs import wait_until
from .rawhttp import JSON_HEADERS, rpc
from .records import exchange

CALL = rpc("tools/call", {"name": "x", "arguments": {}}, "call-1")


class Running:
    """A call that waits at the server."""

    def __init__(self, endpoint, key, control, *headers):
        self.endpoint, self.key, self.control, self.answer, self.error = endpoint, key, control, None, None
        self.headers = JSON_HEADERS + [("X-Case", "wait-then-echo"), ("X-Key", key), *headers]
        self.thread = threading.Thread(target=self._call, daemon=True)
        self.thread.start()
        wait_until(lambda: control("seen", key), 15, "the call to reach the server")

    def _call(self):
        try:
            self.answer = exchange(self.endpoint, "POST", self.headers, CALL)
        except Exception as error:
            self.error = error

    def finish(self, release=True):
        if release:
            self.control("release", self.key)
        self.thread.join(30)
        assert not self.thread.is_alive(), "the call never ended"
        assert self.error is None, self.error
        return self.answer
