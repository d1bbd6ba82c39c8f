"""A long and thin path (lib/netem.py): what arrives is complete and right, memory is bounded, windows grow.

How much of the link is used, and how fast a small call is meanwhile, is measured by tests/bench, not asserted here.
"""

import json
import threading
import time

import pytest

from lib import netem
from lib.longpath import Path
from lib.procs import SCALE, wait_until

MIB = 1 << 20
LONG = {"delay": "40ms", "rate": "100M", "queue": "600k"}
BUFFERED = "mcp_tunnel_gateway_session_memory_bytes"

pytestmark = [pytest.mark.skipif(netem.missing() is not None, reason=netem.missing() or ""), pytest.mark.timeout(200 * SCALE)]


@pytest.fixture
def path(programs, tmp_path):
    with Path(programs.build, tmp_path / "path", **LONG) as path:
        yield path
        for process in (path.gateway, path.relay):
            assert process.running(), process.tail()
            process.assert_no_sanitizer_report()


class Blob(threading.Thread):
    """One large answer, checked as it comes."""

    def __init__(self, path, size, pause_after=None):
        super().__init__(daemon=True)
        self.path, self.size, self.pause_after = path, size, pause_after
        self.got, self.error, self.go_on = 0, "not over", threading.Event()
        self.start()

    def run(self):
        try:
            with self.path.agent(120 * SCALE) as connection:
                self.path.request(connection, "blob", bytes=self.size)
                response = connection.head()
                assert response.status == 200, response.status
                body = bytearray()
                for piece in connection.pieces(response):
                    body += piece
                    self.got = len(body)
                    if self.pause_after and self.got >= self.pause_after:
                        self.go_on.wait()
                text = json.loads(body)["result"]["content"][0]["text"]
                right = ("0123456789abcdef" * (self.size // 16 + 1))[: self.size]
                self.error = None if text == right else "not what the server sent"
        except Exception as error:  # told by check()
            self.error = repr(error)

    def check(self):
        self.join(150 * SCALE)
        assert self.error is None, f"a blob of {self.size} bytes: {self.error}, {self.got} bytes came"


def peak_while(path, threads):
    peak = 0
    while any(t.is_alive() for t in threads):
        peak = max(peak, path.metrics("gateway")[BUFFERED])
        time.sleep(0.05)
    return peak


def test_one_large_answer(path):
    """More is under way than the initial window of 256 KiB allows, and less than a session may keep."""
    blob = Blob(path, 32 * MIB)
    peak = peak_while(path, [blob])
    blob.check()
    assert peak < 8 * MIB, f"the gateway kept {peak} bytes"
    # What a window that does not grow lets be kept is less. A build with sanitizers may be slower than the path.
    assert SCALE > 1 or peak > MIB, f"the gateway kept at most {peak} bytes: the window did not grow"
    wait_until(lambda: path.metrics("gateway")[BUFFERED] < 64 * 1024, 10, "kept frames to be acknowledged")


def test_small_calls_beside(path):
    blob = Blob(path, 16 * MIB)
    with path.agent() as connection:
        count = 0
        while blob.is_alive():
            path.echo(connection, f"small {count}", count)
            count += 1
    blob.check()
    assert count > 5, "small calls waited for the large one"


def test_agent_that_stops_reading(path):
    """Its answer waits, within its credit; others do not; then it gets the rest."""
    slow = Blob(path, 48 * MIB, pause_after=MIB)
    wait_until(lambda: slow.got >= MIB, 30, "the slow agent to begin")
    others = [Blob(path, 4 * MIB) for _ in range(4)]
    with path.agent() as connection:
        for number in range(10):
            path.echo(connection, f"beside {number}", number)
    peak = peak_while(path, others)
    for other in others:
        other.check()
    assert slow.got < 32 * MIB and slow.is_alive()
    assert peak < 16 * MIB, f"the gateway kept {peak} bytes"
    slow.go_on.set()
    slow.check()


def test_many_large_answers(path):
    """All at once, in both programs' bounds, and none stands still."""
    blobs = [Blob(path, 2 * MIB) for _ in range(16)]
    peak = peak_while(path, blobs)
    for blob in blobs:
        blob.check()
    assert peak < 24 * MIB, f"the gateway kept {peak} bytes"
