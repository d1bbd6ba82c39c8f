"""Relay, gateway, MCP server and agents on a network that fails (lib/netns.py).

Server and agents are coroutines of one loop, written by hand: the server records each execution, the agents check each
byte and each event. What an agent saw and what the server did are compared at the end (Lab.verify).
"""

import asyncio
import collections
import contextlib
import hashlib
import itertools
import json
import random
import re
import signal
import socket
import threading
import time

from . import netns
from .procs import SANITIZER, SCALE, Process
from .tunnel import Gateway, Relay

AGENT_PORT, ADMIN_PORT, SERVER_PORT = 8080, 9100, 9000
TUNNEL = "lab"
# What the server says when it fails by itself.
OWN_ERROR = {"code": -32000, "message": "the tool failed", "data": {"why": "of its own"}}
# Names and addresses that the relay's certificate needs here.
NAMES = f"DNS:localhost,DNS:relay.test,IP:127.0.0.1,IP:{netns.RELAY_ADDR},IP:{netns.OTHER_RELAY_ADDR}"


def pad(key, size):
    """Text that belongs to the key."""
    unit = hashlib.sha256(key.encode()).hexdigest() + "-"
    return (unit * (size // len(unit) + 1))[:size]


async def until(condition, seconds, what):
    deadline = time.monotonic() + seconds * SCALE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, (
            f"waited {seconds * SCALE:g} s in vain: {what() if callable(what) else what}"
        )
        await asyncio.sleep(0.01)


# ---- the MCP server ----


class Execution:
    def __init__(self, key):
        self.key, self.start, self.end, self.cancelled, self.sent = key, time.monotonic(), None, None, 0
        self.go, self.more = asyncio.Event(), asyncio.Queue()
        self.call = None  # what the gateway calls it


class Server:
    """Does what X-Plan says (see Lab.call) and records each execution under X-Key."""

    def __init__(self):
        self.executions, self.open = [], set()

    def of(self, key):
        return [e for e in self.executions if e.key == key]

    async def start(self, namespace):
        with namespace.entered():
            sock = socket.create_server(("127.0.0.1", SERVER_PORT), backlog=2048)
        self.listening = await asyncio.start_server(self._serve, sock=sock, limit=1 << 20)

    async def stop(self):
        self.listening.close()
        for task in list(self.open):
            task.cancel()
        await asyncio.gather(*self.open, return_exceptions=True)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self.open.add(task)
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open.discard(task)
            writer.close()

    async def _request(self, reader, writer):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
        fields = {n.lower(): v.strip() for n, v in (line.split(":", 1) for line in lines)}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        if "x-key" not in fields:
            writer.write(b"HTTP/1.1 405 Not Here\r\nContent-Length: 0\r\n\r\n")
            return True
        execution = Execution(fields["x-key"])
        execution.call = fields.get("mcp-tunnel-call")
        self.executions.append(execution)
        plan = json.loads(fields["x-plan"])
        work = asyncio.create_task(getattr(self, "_" + plan["kind"])(execution, plan, body, writer))
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not isinstance(work.exception(), ConnectionError):
                await work
                execution.end = time.monotonic()
                return True
            execution.cancelled = time.monotonic()
            return False
        finally:
            # The next request of the connection comes only after the end of this answer, which is still to be written.
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            if execution.end:
                writer.write(execution.last)
                await writer.drain()

    @staticmethod
    def _head(writer, *lines):
        writer.write("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode())

    @staticmethod
    async def _chunk(writer, data):
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await writer.drain()

    async def _json(self, execution, plan, body, writer):
        """One JSON answer after `seconds`, or when the test says so; it proves that the body came whole."""
        if plan.get("gated"):
            await execution.go.wait()
        await asyncio.sleep(plan.get("seconds", 0))
        result = {"sha256": hashlib.sha256(body).hexdigest(), "pad": pad(execution.key, plan.get("size", 0))}
        text = json.dumps({"jsonrpc": "2.0", "id": execution.key, "result": result}).encode()
        self._head(writer, "Content-Type: application/json", f"Content-Length: {len(text)}")
        writer.write(text[:-1])
        await writer.drain()
        execution.last = text[-1:]

    async def _sse(self, execution, plan, body, writer):
        """`steps` numbered progress events over `seconds`, then the result."""
        self._head(writer, "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        for number in range(plan["steps"]):
            await self._chunk(writer, event(execution.key, number))
            execution.sent = number + 1
            await asyncio.sleep(plan["seconds"] / plan["steps"])
        await self._chunk(writer, event(execution.key, plan["steps"], last=True))
        execution.last = b"0\r\n\r\n"

    async def _stream(self, execution, plan, body, writer):
        """A GET stream: idle until the test puts something in."""
        self._head(writer, "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        for number in itertools.count():
            last = await execution.more.get()
            await self._chunk(writer, event(execution.key, number, last))
            if last:
                break
        execution.last = b"0\r\n\r\n"

    async def _error(self, execution, plan, body, writer):
        """An error of the server's own, when the test says so."""
        await execution.go.wait()
        text = json.dumps({"jsonrpc": "2.0", "id": execution.key, "error": OWN_ERROR}).encode()
        writer.write(b"HTTP/1.1 500 Mine\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text))
        writer.write(text[:-1])
        execution.last = text[-1:]

    async def _broken(self, execution, plan, body, writer):
        """Closes the connection without an answer, when the test says so."""
        await execution.go.wait()
        raise ConnectionError

    async def _hang(self, execution, plan, body, writer):
        await asyncio.Event().wait()

    async def _flood(self, execution, plan, body, writer):
        """`size` bytes as fast as they are taken."""
        self._head(writer, "Content-Type: application/octet-stream", f"Content-Length: {plan['size'] + 1}")
        piece = pad(execution.key, 65 * 1000).encode()
        while execution.sent < plan["size"]:
            data = piece[: plan["size"] - execution.sent]
            writer.write(data)
            await writer.drain()
            execution.sent += len(data)
        execution.last = b"!"


def event(key, number, last=False):
    data = {"key": key, "number": number, "last": bool(last)}
    return f"id: {number}\ndata: {json.dumps(data)}\n\n".encode()


# ---- the agents ----


class Ended(Exception):
    """The call did not get its answer: status and error are what the agent was told; 0 where the answer was cut."""

    def __init__(self, status, error, detail=""):
        super().__init__(f"{status} {error} {detail}")
        self.status, self.error = status, error

    @property
    def executed(self):
        return self.error.get("data", {}).get("executed")


class Agent:
    """One request on a connection of its own."""

    def __init__(self, lab, key, plan, method="POST", size=0):
        self.lab, self.key, self.plan, self.method, self.size = lab, key, plan, method, size
        self.events = 0

    async def __aenter__(self):
        await self.send()
        return self

    async def __aexit__(self, *_):
        self.close()

    def close(self):
        if self.writer:
            self.writer.transport.abort()
            self.writer = None

    async def send(self, pause_after=None):
        """With pause_after only so many bytes; gives a function that sends the rest."""
        self.body = b""
        if self.method == "POST":
            arguments = {"key": self.key, "pad": pad(self.key, self.size)}
            message = {"jsonrpc": "2.0", "id": self.key, "method": "tools/call"}
            self.body = json.dumps({**message, "params": {"name": "x", "arguments": arguments}}).encode()
        head = [
            f"{self.method} /t/{TUNNEL}/mcp HTTP/1.1",
            f"Host: 127.0.0.1:{AGENT_PORT}",
            f"Authorization: Bearer {self.lab.key}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"X-Key: {self.key}",
            f"X-Plan: {json.dumps(self.plan)}",
            *([f"Content-Length: {len(self.body)}"] if self.body else []),
        ]
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", AGENT_PORT, limit=1 << 20)
        request = "\r\n".join([*head, "", ""]).encode() + self.body

        async def rest():
            self.writer.write(request[pause_after:])
            await self.writer.drain()

        if pause_after is None:
            return await rest()
        self.writer.write(request[:pause_after])
        await self.writer.drain()
        return rest

    async def head(self):
        try:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Ended(0, {}, f"no answer: {error}") from None
        self.status = int(lines[0].split(" ")[1])
        self.fields = {n.lower(): v.strip() for n, v in (line.split(":", 1) for line in lines[1:-2])}
        if self.status != 200:
            self.answer = json.loads(await self.reader.readexactly(int(self.fields["content-length"])))
            raise Ended(self.status, self.answer["error"])
        return self

    async def _chunks(self):
        try:
            while size := int((await self.reader.readline()).strip() or b"x", 16):
                yield await self.reader.readexactly(size)
                await self.reader.readexactly(2)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            raise Ended(0, {}, f"cut after {self.events} events: {error}") from None

    async def each_event(self):
        """Numbers of the events, each checked to be the next one and this call's."""
        text, last = b"", False
        async for data in self._chunks():
            text += data
            while b"\n\n" in text:
                one, text = text.split(b"\n\n", 1)
                got = json.loads(one.split(b"data: ")[1])
                assert not last, f"{self.key}: an event after the last: {got}"
                assert got["key"] == self.key, f"{self.key} got an event of {got['key']}"
                assert got["number"] == self.events, f"{self.key}: event {got['number']} instead of {self.events}"
                last = got["last"]
                self.events += 1
                yield got["number"]
        assert last and not text, f"{self.key}: a clean end after {self.events} events, without the last one"

    async def next_event(self):
        if not hasattr(self, "source"):
            self.source = self.each_event()
        return await anext(self.source, None)

    async def finish(self):
        """Reads and checks the whole answer."""
        await self.head()
        if self.plan["kind"] == "json":
            try:
                answer = json.loads(await self.reader.readexactly(int(self.fields["content-length"])))
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise Ended(0, {}, f"cut: {error}") from None
            assert answer["id"] == self.key
            assert answer["result"]["sha256"] == hashlib.sha256(self.body).hexdigest(), f"{self.key}: request changed"
            assert answer["result"]["pad"] == pad(self.key, self.plan.get("size", 0)), f"{self.key}: answer changed"
        else:
            async for _ in self.each_event():
                pass
            assert self.events == self.plan.get("steps", self.events - 1) + 1, f"{self.key}: {self.events} events"
        return self


# ---- the programs ----


class LabRelay(Relay):
    def start(self):
        listeners = (f"https://0.0.0.0:{self.port or 8443}", f"http://127.0.0.1:{AGENT_PORT}")
        argv = [*self.namespace.prefix(), self.programs.relay]
        for listener in listeners:
            argv += ["--listen", listener]
        argv += ["--tls-cert", self.cert, "--tls-key", self.key, "--state-dir", self.state]
        argv += ["--admin-listen", f"127.0.0.1:{ADMIN_PORT}", *self.options]
        self.process = Process("relay", argv)
        self.process.wait_line(r" ready$")
        return self


class LabGateway(Gateway):
    def start(self, wait_ready=False):
        """Its health listener is in its own network, so that being attached is seen in its log."""
        super().start(wait_ready=False)
        if wait_ready:
            self.process.wait_line(r"connected to ")
        return self


class Lab:
    """host is how the gateway names the relay; hosts a file that it sees as /etc/hosts; network makes what is between them."""

    def __init__(
        self,
        programs,
        directory,
        certificate,
        ca,
        relay=(),
        gateway=(),
        host=netns.RELAY_ADDR,
        hosts=None,
        server_port=SERVER_PORT,
        network=netns.Network,
    ):
        self.programs, self.dir, self.ca, self.gateway_options = programs, directory, ca, gateway
        self.host, self.hosts = host, hosts
        self.net, self.gateways, self.helpers = network(), [], []
        self.outcomes = collections.Counter()
        self.relay = LabRelay(programs, directory, *certificate, *relay)
        self.relay.namespace = self.net.relay
        self.token = self.relay.add_tunnel(TUNNEL)
        self.key = self.relay.add_agent("agent", TUNNEL)
        self.serial, self.lost, self.ours = itertools.count(1), [], set()
        self.server, self.server_port = None, server_port

    def add_gateway(self, wait_ready=True, **changes):
        control = f"wss://{self.host}:{self.net.port}/v1/tunnel"
        upstream = f"http://127.0.0.1:{self.server_port}/mcp"
        args = (self.programs, self.dir, self.token, upstream, control, self.ca, *self.gateway_options)
        gateway = LabGateway(*args, **changes)
        gateway.argv = self.net.gateway.prefix(self.hosts) + gateway.argv
        self.gateways.append(gateway)
        return gateway.start(wait_ready)

    @property
    def gateway(self):
        return self.gateways[-1]

    def run(self, scenario):
        """Runs the coroutine scenario(lab) in a thread of its own, in the relay's namespace, with everything up;
        scenario.before(lab), if there is one, before the programs start."""
        failed = []

        def body():
            try:
                with self.net.relay.entered():
                    asyncio.run(self._main(scenario))
            except BaseException as error:  # handed to the test's thread
                failed.append(error)

        thread = threading.Thread(target=body, name="lab")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]

    async def _main(self, scenario):
        self.server = Server()
        await self.server.start(self.net.gateway)
        try:
            if hasattr(scenario, "before"):
                await self.aside(scenario.before, self)
            await self.aside(self.relay.start)
            await self.aside(self.add_gateway)
            await scenario(self)
        finally:
            await self.server.stop()

    @staticmethod
    async def aside(function, *args):
        """What blocks goes to another thread."""
        return await asyncio.to_thread(function, *args)

    def close(self):
        """Everything stops, in order, and removes the network; leaks and the like are told."""
        failures = []
        for process in self.helpers:
            process.kill()
        for process in [g.process for g in self.gateways] + [self.relay.process]:
            if process is None:
                continue
            if process.running():
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(AssertionError):
                    process.wait(2)
            # The second signal, where calls are still open: not waiting for them.
            process.stop()
            if process.child.returncode not in (0, -signal.SIGKILL) or SANITIZER.search(process.text()):
                failures.append(f"{process.name}: exit status {process.child.returncode}\n{process.tail(60)}")
        self.net.remove()
        assert not failures, "\n".join(failures)

    # ---- calls ----

    def fresh(self, kind):
        return f"{kind}-{next(self.serial)}"

    def agent(self, kind, method="POST", size=0, answer=None, **plan):
        """size is that of the request and, unless told, of the answer."""
        size_back = size if answer is None else answer
        return Agent(self, self.fresh(kind), {"kind": kind, "size": size_back, **plan}, method, size)

    async def call(self, kind, **plan):
        """One call, checked; raises Ended where it did not get its answer."""
        async with self.agent(kind, **plan) as agent:
            await agent.finish()
            self.outcomes[kind] += 1
            return agent

    async def _one(self, index, longest):
        """A call of the kind that the worker makes: 1 MiB both ways, small, with progress, or given up."""
        if index % 8 == 0:
            await self.call("json", size=1 << 20, seconds=random.uniform(0, 1))
        elif index % 8 < 3:
            await self.call("json", size=random.randrange(1, 3000), seconds=random.uniform(0, 2))
        elif index % 16 == 3:
            agent = self.agent("sse", steps=100, seconds=10)
            self.ours.add(agent.key)
            async with agent:
                await asyncio.sleep(random.uniform(0, 3))
        else:
            seconds = random.uniform(2, longest)
            await self.call("sse", steps=int(seconds * 10), seconds=seconds)

    @contextlib.asynccontextmanager
    async def load(self, workers, longest=10):
        """That many workers make calls meanwhile, one after the other; afterwards all are over, and verified."""
        stop = False

        async def work(index):
            while not stop:
                try:
                    await self._one(index, longest)
                except Ended as ended:
                    self.lost.append(str(ended))

        tasks = [asyncio.create_task(work(index)) for index in range(workers)]
        await until(lambda: len(self.server.executions) >= workers, 10, "the calls to begin")
        try:
            yield
        finally:
            stop = True
            await asyncio.gather(*tasks)
        await until(lambda: not self._left_running(), 5, lambda: f"the last cancels to arrive\n{self.tails()}")
        self.verify(workers)

    def _left_running(self):
        return [e.key for e in self.server.executions if e.key in self.ours and not (e.end or e.cancelled)]

    def verify(self, least=1):
        """0 lost, 0 executed twice, and no cut was taken for a cancel."""
        assert not self.lost, f"{len(self.lost)} calls lost: {self.lost[:5]}\n{self.tails()}"
        times = collections.Counter(e.key for e in self.server.executions)
        twice = [key for key, count in times.items() if count != 1]
        assert not twice, f"executed more than once: {twice[:5]}\n{self.tails()}"
        cancelled = [e.key for e in self.server.executions if e.cancelled and e.key not in self.ours]
        assert not cancelled, f"cancelled by nobody: {cancelled[:5]}\n{self.tails()}"
        assert sum(self.outcomes.values()) >= least, f"only {dict(self.outcomes)} calls"

    def tails(self):
        return "\n".join(p.tail(25) for p in [self.relay.process, *(g.process for g in self.gateways)] if p)

    # ---- logs ----

    def marks(self):
        return {"relay": self.relay.process.mark(), "gateway": self.gateway.process.mark()}

    def lines_since(self, marks):
        """What both ends have said since."""
        said = {}
        for end, mark in marks.items():
            process = getattr(self, end).process
            with process.changed:
                said[end] = list(process.lines[mark:])
        return said

    def resumed(self):
        return self.gateway.process.count(r"connected to \S+ again ")

    async def metrics(self, who="relay"):
        """Every sample of one of the programs by its name, with its labels."""
        namespace, port = (self.net.relay, ADMIN_PORT) if who == "relay" else (self.net.gateway, self.gateway.health_port)
        with namespace.entered():
            sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        return {n: float(v) for n, v in (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("mcp"))}

    async def endings(self):
        """{program: {reason: how many calls ended with it}}"""
        found = {}
        for who in ("relay", "gateway"):
            samples = await self.metrics(who)
            pattern = re.compile(rf'mcp_tunnel_{who}_calls_ended_total\{{reason="([^"]+)"\}}')
            found[who] = {m.group(1): n for m, n in ((pattern.fullmatch(k), v) for k, v in samples.items()) if m and n}
        return found
