"""How calls end when the network or a program fails: told apart by agents, in both logs and in both programs' metrics.

And what waits while a tunnel is detached: how long, in which order, how much. lib/scenes.py says how the scenarios are run.
"""

import asyncio
import collections
import re
import signal
import time

import pytest

from lib.lab import OWN_ERROR, Ended, until
from lib.procs import SCALE
from lib.scenes import QUICK, scenario

HELD_CALLS_MAX = 1024
DEBUG = (*QUICK, "--log-level", "debug")
TOGETHER = {}


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.timeout(300 * SCALE)
def test_ending(running, name):
    running[name].result()


async def outcome(agent):
    """What the agent was told: Ended, or None where it was the answer."""
    try:
        await agent.finish()
    except Ended as ended:
        return ended
    return None


async def begun(lab, *agents):
    for agent in agents:
        await until(lambda a=agent: lab.server.of(a.key), 10, "the calls to begin")
    return [lab.server.of(agent.key)[0] for agent in agents]


async def cut_off(lab):
    """Nothing gets through until lab.net.heal(), and both ends know."""
    marks = lab.marks()
    await lab.aside(lab.net.drop)
    for side in ("gateway", "relay"):
        await lab.aside(lab.net.kill, side)
    await lab.aside(lab.relay.process.wait_line, "lost its connection", 5, marks["relay"])
    await lab.aside(lab.gateway.process.wait_line, "not connected", 5, marks["gateway"])


async def heal(lab):
    before = lab.resumed()
    await lab.aside(lab.net.heal)
    await until(lambda: lab.resumed() > before, 20, lambda: f"the session to go on\n{lab.tails()}")


async def ended_as(lab, execution, reason):
    """Both logs say so of this call."""
    for process in (lab.relay.process, lab.gateway.process):
        await lab.aside(process.wait_line, rf"call {execution.call} ended: {reason}", 10)


def refused(ended, status, reason, executed):
    return ended and (ended.status, ended.error["data"]["reason"], ended.executed) == (status, reason, executed)


# ---- endings ----


@scenario(TOGETHER, relay=(*DEBUG, "--hold", "1s"), gateway=DEBUG)
async def endings_while_cut_off(lab):
    """Four calls end, each in its way, while nothing gets through; a fifth one cannot begin."""
    kinds = [("hang", {}), ("error", {}), ("broken", {}), ("json", {"gated": True})]
    agents = [await lab.agent(kind, size=1000, **plan).__aenter__() for kind, plan in kinds]
    executions = cancelled, failed, broken, complete = await begun(lab, *agents)
    await cut_off(lab)
    lab.ours |= {agents[0].key, agents[2].key}
    agents[0].close()
    for execution in (failed, broken, complete):
        execution.go.set()
    async with lab.agent("json", size=100) as fifth:
        late = await outcome(fifth)
        assert refused(late, 503, "not-attached", "no"), late
        assert fifth.answer["id"] == fifth.key and int(fifth.fields["retry-after"]) > 0
    assert not cancelled.cancelled, "the server was told while nothing could get through"
    await heal(lab)
    tolds = [await outcome(agent) for agent in agents[1:]]
    # The server's own error is an answer like another: its words, and nothing of ours.
    assert (tolds[0].status, tolds[0].error) == (500, OWN_ERROR) and agents[1].answer["id"] == agents[1].key
    assert refused(tolds[1], 502, "upstream-closed", "maybe") and agents[2].answer["id"] == agents[2].key
    assert tolds[2] is None
    for execution, reason in zip(executions, ("cancelled", "complete", "upstream-closed", "complete"), strict=True):
        await ended_as(lab, execution, reason)
    assert cancelled.cancelled
    assert not lab.server.of(fifth.key)
    await lab.aside(lab.relay.process.wait_line, r"answered 503 \(not-attached\)", 5)
    for who, ends in (await lab.endings()).items():
        assert ends == {"cancelled": 1, "none": 2, "upstream-closed": 1}, (who, ends)
    samples = await lab.metrics()
    assert samples['mcp_tunnel_relay_refused_total{reason="not-attached"}'] == 1
    assert samples["mcp_tunnel_relay_calls_held_expired_total"] == 1
    for agent in agents[1:]:
        agent.close()
    lab.verify(0)


@scenario(TOGETHER, relay=(*DEBUG, "--resume-grace", "1s", "--hold", "60s"), gateway=DEBUG)
async def endings_when_the_grace_is_over(lab):
    """Both ends give the calls up, each as soon as it knows; what waited begins afterwards."""
    plain = await lab.agent("json", gated=True, size=1000).__aenter__()
    events = await lab.agent("sse", steps=600, seconds=60).__aenter__()
    await events.next_event() if await events.head() else None
    executions = await begun(lab, plain, events)
    lab.ours |= {plain.key, events.key}
    await cut_off(lab)
    waiting = asyncio.create_task(lab.call("json", size=100))
    ends = [await asyncio.wait_for(outcome(plain), 5 * SCALE)]
    with pytest.raises(Ended) as cut:
        while await events.next_event() is not None:
            pass
    ends.append(cut.value)
    assert refused(ends[0], 502, "session-lost", "maybe"), ends
    assert ends[1].status == 0, "an answer that was cut looked whole"
    await heal(lab)
    await waiting
    for execution in executions:
        await ended_as(lab, execution, "session-lost")
    await until(lambda: all(e.cancelled for e in executions), 5, "the server to know")
    for who, reasons in (await lab.endings()).items():
        assert reasons == {"session-lost": 2, "none": 1}, (who, reasons)
    for agent in (plain, events):
        agent.close()
    lab.verify()


@scenario(TOGETHER, relay=DEBUG, gateway=(*DEBUG, "--drain-timeout", "1s"))
async def endings_when_the_drain_is_over(lab):
    """A gateway that stops tells why the rest did not get their answers."""
    plain = await lab.agent("json", gated=True, size=1000).__aenter__()
    events = await lab.agent("sse", steps=600, seconds=60).__aenter__()
    short = asyncio.create_task(lab.call("sse", steps=5, seconds=0.5))
    executions = await begun(lab, plain, events)
    await until(lambda: len(lab.server.executions) == 3, 10, "the calls to begin")
    lab.ours |= {plain.key, events.key}
    old = lab.gateway.process
    old.send_signal(signal.SIGTERM)
    ends = [await outcome(plain), await outcome(events)]
    await short
    assert await lab.aside(old.wait, 20) == 0, old.tail()
    assert refused(ends[0], 503, "gateway-stopped", "maybe") and ends[1].status == 0, ends
    assert int(plain.fields["retry-after"]) > 0
    for execution in executions:
        await ended_as(lab, execution, "gateway-stopped")
    samples = await lab.metrics()
    assert samples['mcp_tunnel_relay_calls_ended_total{reason="gateway-stopped"}'] == 2
    for agent in (plain, events):
        agent.close()
    lab.verify()


# ---- hold ----


@scenario(TOGETHER, relay=(*QUICK, "--hold", "2s"), gateway=QUICK)
async def hold_is_over_before_the_blip(lab):
    """Who waited in vain is told so when its time is over, and not before; who came later gets through."""
    await cut_off(lab)
    began, times = time.monotonic(), []

    async def waits(kind, **plan):
        async with lab.agent(kind, **plan) as agent:
            ended = await outcome(agent)
            times.append(time.monotonic() - began)
            assert refused(ended, 503, "not-attached", "no"), ended
            assert ended.error["code"] == -32012 and "not executed" in ended.error["message"]
            # The id of a large one is in what has not been read.
            assert agent.answer["id"] == (agent.key if 0 < len(agent.body) < 64 << 10 else None)
            assert int(agent.fields["retry-after"]) > 0
            return agent.key

    jobs = [asyncio.create_task(waits("json", size=100)) for _ in range(8)]
    # One whose body is larger than what is read before there is a gateway, and one without a body.
    jobs += [asyncio.create_task(waits("json", size=1 << 20)), asyncio.create_task(waits("stream", method="GET"))]
    async with lab.agent("json", size=100):
        await asyncio.sleep(1)
    # That agent has gone away: its call is not made afterwards.
    late = [asyncio.create_task(lab.call("json", size=100)) for _ in range(8)]
    keys = await asyncio.gather(*jobs)
    assert 2 <= min(times) and max(times) < 2 + 0.5 * SCALE, times
    await heal(lab)
    await asyncio.gather(*late)
    assert not [k for k in keys if lab.server.of(k)]
    assert len(lab.server.executions) == 8
    lab.verify(8)


@scenario(TOGETHER, relay=(*QUICK, "--hold", "60s"), gateway=QUICK)
async def held_calls_keep_their_order(lab):
    """The first to wait is the first to be made."""
    await cut_off(lab)
    agents = [await lab.agent("json", size=100).__aenter__() for _ in range(100)]
    await until_held(lab, 100)
    await heal(lab)
    for agent in agents:
        assert await outcome(agent) is None
        agent.close()
    ranks = [[a.key for a in agents].index(e.key) for e in lab.server.executions]
    # Each has a connection of its own to the server, so that neighbours may change places.
    assert all(abs(rank - place) < 20 for place, rank in enumerate(ranks)), ranks
    lab.verify(0)


async def until_held(lab, count):
    deadline = time.monotonic() + 20 * SCALE
    while (await lab.metrics())["mcp_tunnel_relay_calls_held"] < count:
        assert time.monotonic() < deadline, f"not {count} calls wait"
        await asyncio.sleep(0.02)


NO_OTHER_BOUND = ("--max-connections-per-address", "0", "--max-streams-per-agent", "0")


@scenario(TOGETHER, relay=(*QUICK, *NO_OTHER_BOUND, "--hold", "60s"), gateway=QUICK)
async def held_calls_are_bounded(lab):
    """In number: the rest is refused at once, and nothing of it is executed."""
    await cut_off(lab)
    gate, agents = asyncio.Semaphore(50), []

    async def begin():
        async with gate:
            agents.append(await lab.agent("json", size=100).__aenter__())

    await asyncio.gather(*(begin() for _ in range(HELD_CALLS_MAX)))
    await until_held(lab, HELD_CALLS_MAX)
    for _ in range(20):
        async with lab.agent("json", size=100) as agent:
            ended = await asyncio.wait_for(outcome(agent), 5 * SCALE)
            assert refused(ended, 503, "not-attached", "no"), ended
            assert not lab.server.of(agent.key)
    await heal(lab)
    for agent in agents:
        assert await outcome(agent) is None
        agent.close()
    assert len(lab.server.executions) == HELD_CALLS_MAX
    lab.verify(0)


# ---- a relay that stops under load ----


class Rush:
    """Workers that make small calls without a pause, and try again what was not executed."""

    def __init__(self, lab, workers):
        self.lab, self.workers, self.stop = lab, workers, False
        self.seen, self.answered, self.never = collections.Counter(), set(), set()

    async def one(self):
        agent = self.lab.agent("json", size=100)
        try:
            await agent.send()
            ended = await outcome(agent)
        except ConnectionError:
            ended = Ended(0, {}, "no connection")
        finally:
            if hasattr(agent, "writer"):
                agent.close()
        self.seen[ended and (ended.status or str(ended))] += 1
        (self.never if ended else self.answered).add(agent.key)
        if ended and ended.status:
            assert refused(ended, 503, "refused-not-executed", "no"), ended
        if ended:
            await asyncio.sleep(0.05)

    async def work(self):
        while not self.stop:
            await self.one()

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(self.work()) for _ in range(self.workers)]
        return self

    async def __aexit__(self, *_):
        self.stop = True
        await asyncio.gather(*self.tasks)


@scenario(TOGETHER)
async def relay_is_stopped_under_load(lab):
    """What is open gets its answer, what comes too late is not executed, and afterwards all is as before."""
    for _ in range(2):
        began = len(lab.server.executions)
        running = [asyncio.create_task(lab.call("sse", steps=20, seconds=1 + n / 8)) for n in range(16)]
        await until(lambda b=began: len(lab.server.executions) >= b + 16, 10, "the calls to begin")
        async with Rush(lab, 16) as rush:
            await asyncio.sleep(0.5)
            old = lab.relay.process
            old.send_signal(signal.SIGTERM)
            assert await lab.aside(old.wait, 20) == 0, old.tail()
            await lab.aside(lab.relay.start)
            before = len(rush.answered)
            await until(lambda b=before, r=rush: len(r.answered) > b + 16, 20, "calls to be answered again")
        await asyncio.gather(*running)
        executed = {e.key for e in lab.server.executions}
        assert rush.answered <= executed and not rush.never & executed, (rush.seen, rush.never & executed)
        assert re.search(r"stopping", old.text())
    lab.verify(32)


@scenario(TOGETHER, relay=(*QUICK, "--hold", "60s"), gateway=QUICK)
async def relay_is_stopped_while_calls_wait(lab):
    """They are told that nothing was executed, and so is one whose head comes only now."""
    await cut_off(lab)
    agents = [await lab.agent("json", size=100).__aenter__() for _ in range(4)]
    await until_held(lab, 4)
    agents.append(lab.agent("json", size=100))
    rest = await agents[-1].send(pause_after=20)
    mark = lab.relay.process.mark()
    old = lab.relay.process
    old.send_signal(signal.SIGTERM)
    await lab.aside(old.wait_line, "stopping", 5, mark)
    await rest()
    for agent in agents:
        ended = await asyncio.wait_for(outcome(agent), 5 * SCALE)
        assert refused(ended, 503, "refused-not-executed", "no"), ended
        assert agent.answer["id"] == agent.key
        agent.close()
    assert await lab.aside(old.wait, 20) == 0, old.tail()
    assert not lab.server.executions
