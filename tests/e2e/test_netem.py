"""The wire itself: what the other tests build on it is only worth as much."""

import os
import statistics
import threading
import time

import pytest
from lib import netem

pytestmark = pytest.mark.skipif(netem.missing() is not None, reason=netem.missing() or "")
BUILD = os.environ.get("E2E_BUILD", ".")


def pair(net):
    """A connection over the wire: (socket in a, socket in b)."""
    with net.a.listen(net.a_addr) as server:
        client = net.b.connect(*server.getsockname())
        peer, _ = server.accept()
    for sock in (client, peer):
        sock.settimeout(30)
    return peer, client


def echo(sock):
    while data := sock.recv(65536):
        sock.sendall(data)


def round_trips(sock, count):
    times = []
    for _ in range(count):
        start = time.monotonic()
        sock.sendall(b"x")
        sock.recv(1)
        times.append(time.monotonic() - start)
    return times


def test_delay():
    with netem.wire(BUILD, delay="20ms") as net:
        a, b = pair(net)
        with a, b:
            thread = threading.Thread(target=echo, args=(a,))
            thread.start()
            first = round_trips(b, 10)
            net.set("delay", "5ms")
            then = round_trips(b, 10)
            b.shutdown(1)
            thread.join()
    assert min(first) >= 0.040
    assert 0.010 <= statistics.median(then) < 0.040


def test_rate_and_queue():
    size = 2 * 1024 * 1024
    with netem.wire(BUILD, delay="5ms", rate="40M", queue="64k") as net:
        a, b = pair(net)
        with a, b:
            thread = threading.Thread(target=a.sendall, args=(bytes(size),))
            thread.start()
            start, got = time.monotonic(), 0
            while got < size:
                got += len(b.recv(262144))
            seconds = time.monotonic() - start
            thread.join()
        stats = net.stats()
    assert seconds >= size * 8 / 40e6, "faster than the wire"
    assert stats["a>b"]["bytes"] > size


def test_loss_and_down():
    with netem.wire(BUILD, delay="1ms", loss=10, seed=7) as net:
        a, b = pair(net)
        with a, b:
            thread = threading.Thread(target=a.sendall, args=(bytes(1024 * 1024),))
            thread.start()
            got = 0
            while got < 1024 * 1024:
                got += len(b.recv(262144))
            thread.join()
            stats = net.stats()["a>b"]
            assert stats["lost"] > 0.03 * stats["carried"], stats
            net.set("loss", 0)
            net.down()
            before = net.stats()["a>b"]["carried"]
            a.sendall(b"x")
            b.settimeout(0.3)
            with pytest.raises(TimeoutError):
                b.recv(1)
            assert net.stats()["a>b"]["carried"] == before
            net.up()
            b.settimeout(30)
            assert b.recv(1) == b"x", "TCP sends again when the wire is back"
