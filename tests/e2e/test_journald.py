"""The journald of the tests does what others take for granted: it stores, stands still, limits, forgets, is full."""

import socket

import pytest

from lib.journald import Journald
from lib.procs import Process

# Sends records by the native protocol: argv is the first number and how many. Lives on, since journald looks at the
# sender to say which unit it is of.
SENDER = """
import os, socket, sys, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect("/run/systemd/journal/socket")
first, count = int(sys.argv[1]), int(sys.argv[2])
for n in range(first, first + count):
    sock.send(b"MESSAGE=%d %s\\nPRIORITY=6\\nMCP_TEST=1\\nMCP_SEQ=%d\\n" % (n, os.urandom(450).hex().encode(), n))
print("end", flush=True)
time.sleep(3600)
"""
DISK = "/var/log/journal"


@pytest.fixture
def make(tmp_path):
    made = []

    def start(**options):
        made.append(Journald(tmp_path / f"log{len(made)}", **options))
        return made[-1]

    yield start
    for it in made:
        it.stop()


def send(journald, first, count, unit=None):
    prefix = journald.in_unit(unit) if unit else journald.prefix
    sender = Process("sender", [*prefix, "python3", "-c", SENDER, first, count])
    try:
        sender.wait_line("end", 60)
        journald.sync()
    finally:
        sender.kill()


def seqs(journald):
    return [int(record["MCP_SEQ"]) for record in journald.records("MCP_TEST=1")]


def files(journald, top):
    return sorted(path.name for path in journald.path(top).glob("*/*.journal*"))


def test_stores_on_disk_and_restarts(make):
    journald = make()
    send(journald, 0, 300)
    journald.restart()
    send(journald, 300, 100)
    journald.kill()
    journald.start()
    send(journald, 400, 100)
    assert seqs(journald) == list(range(500))
    assert files(journald, DISK) and not files(journald, "/run/log/journal")
    assert "_SYSTEMD_UNIT" not in journald.records("MCP_SEQ=3")[0]


def test_stores_in_memory(make):
    journald = make(Storage="volatile")
    send(journald, 0, 10)
    assert seqs(journald) == list(range(10))
    assert files(journald, "/run/log/journal") and not files(journald, DISK)


def test_stores_nothing(make):
    journald = make(Storage="none")
    send(journald, 0, 10)
    assert seqs(journald) == [] and not files(journald, DISK)
    journald.restart(Storage="persistent")
    send(journald, 10, 1)
    assert seqs(journald) == [10]


def test_stands_still(make):
    journald = make()
    with journald.paused(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(journald.socket_path)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sock.send(b"MESSAGE=x\nMCP_TEST=1\nMCP_SEQ=%d\n" % sent)
                sent += 1
        assert not files(journald, DISK) or not journald.run("journalctl", "-q", "-o", "cat", "MCP_TEST=1")
    assert seqs(journald) == list(range(sent)) and sent > 0


def test_has_no_socket(make):
    journald = make()
    journald.remove_socket()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, pytest.raises(FileNotFoundError):
        sock.connect(journald.socket_path)
    journald.restart()
    send(journald, 0, 1)
    assert seqs(journald) == [0]


def test_limits_the_rate_of_a_unit(make):
    # The burst is multiplied by how much room there is on the disk.
    journald = make(disk="64M", RateLimitIntervalSec="600s", RateLimitBurst="50")
    send(journald, 0, 2000, unit="mcp-tunnel-gateway.service")
    assert 50 <= len(seqs(journald)) < 2000
    assert journald.records("MCP_SEQ=3")[0]["_SYSTEMD_UNIT"] == "mcp-tunnel-gateway.service"


def test_forgets_the_oldest(make):
    journald = make()
    for turn in range(4):
        if turn:
            journald.rotate()
        send(journald, 100 * turn, 100)
    journald.vacuum(files=2)
    left = seqs(journald)
    assert left and left[0] > 0 and left == list(range(left[0], 400))
    journald.vacuum(files=0)
    assert seqs(journald) == []


def test_has_a_full_disk(make):
    """journald then goes on in memory, without a word to anybody who sends."""
    journald = make(disk="24M")
    send(journald, 0, 10)
    journald.fill()
    send(journald, 10, 10000)
    assert seqs(journald) == list(range(10010))
    assert files(journald, "/run/log/journal")
    on_disk = journald.run("journalctl", "-q", "-D", DISK, "-o", "cat", "--output-fields=MCP_SEQ", "MCP_TEST=1").split()
    assert on_disk == [str(n) for n in range(len(on_disk))] and len(on_disk) < 10010
    journald.unfill()
    journald.restart()
    send(journald, 10010, 10)
    assert seqs(journald)[-10:] == list(range(10010, 10020))
