"""Connections that break: nothing is lost, nothing is executed twice, no event is missing, doubled or out of order."""

import asyncio
import random
import time

import pytest

from lib import netns
from lib.lab import NAMES, Ended, Lab, until
from lib.procs import SCALE

SHORT = ("--keepalive", "5s")


@pytest.fixture(scope="module")
def certificate(certs):
    netns.require()
    return certs.ca.issue("lab", san=NAMES)


@pytest.fixture
def make_lab(programs, work, certs, certificate):
    made = []

    def make(relay=SHORT, gateway=SHORT, **options):
        made.append(Lab(programs, work, certificate, certs.ca.cert, relay, gateway, **options))
        return made[-1]

    yield make
    for lab in made:
        lab.close()


async def cut(lab, side=None):
    """Kills the connection and waits until the session has gone on."""
    before = lab.resumed()
    killed = await lab.aside(lab.net.kill, side or random.choice(["relay", "gateway"]))
    if killed:
        await until(lambda: lab.resumed() > before, 20, lambda: f"the session to go on\n{lab.tails()}")
    return killed


@pytest.mark.timeout(200 * SCALE)
def test_killed_100_times_under_64_calls(make_lab):
    async def scenario(lab):
        stop, killed, began = asyncio.Event(), 0, time.monotonic()
        load = asyncio.create_task(lab.load(64, stop))
        while killed < 100 and not load.done():
            killed += await cut(lab)
            await asyncio.sleep(random.uniform(0, 0.3))
        print("cuts took", time.monotonic() - began)
        stop.set()
        await load
        print(dict(lab.outcomes), time.monotonic() - began)
        lab.verify(least=200)

    make_lab().run(scenario)
