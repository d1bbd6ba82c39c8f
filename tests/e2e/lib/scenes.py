"""Scenarios: coroutines that a lab (lab.py) runs on a network of its own. A test file keeps them in two tables.

TOGETHER holds those that run side by side, since they spend their time waiting; ALONE those that measure latency, which run one
by one after them. The fixtures that play them are in conftest.py.
"""

import pytest

from . import netem, netns
from .lab import Lab

QUICK = ("--keepalive", "5s")
SIDE_BY_SIDE = 4


def scenario(where, name=None, seconds=10, **options):
    """Registers a coroutine. seconds: about how long it takes, where that is long; options are those of Lab."""

    def register(function):
        function.seconds = seconds
        function.options = options or {"relay": QUICK, "gateway": QUICK}
        where[(name or function.__name__).replace("_", "-")] = function
        return function

    return register


def play(scene, programs, work, certificate, ca):
    """Runs it to its end on a new network."""
    options = dict(scene.options)
    if "network" in options and netem.missing():
        pytest.skip(netem.missing())
    if "host" in options:
        options["hosts"] = work / f"hosts-{scene.__name__}"
        options["hosts"].write_text(f"{netns.RELAY_ADDR} {options['host']}\n")
    lab = Lab(programs, work, certificate, ca, **options)
    try:
        lab.run(scene)
    finally:
        lab.close()
