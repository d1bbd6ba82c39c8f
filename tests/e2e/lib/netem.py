"""Network namespaces, and a wire with delay, loss and a rate between two of them (tests/lib/netem.c). Needs root."""

import contextlib
import ctypes
import itertools
import os
import pathlib
import shutil
import socket
import subprocess
import threading

_serial = itertools.count(1)
_CLONE_NEWNET = 0x40000000


def missing():
    """Why there can be no namespaces here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "the ip command is missing"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun is missing"
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True)
    return None if probe.returncode == 0 else "no new network namespace is allowed here"


def _ip(*args):
    done = subprocess.run(["ip", *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"ip {' '.join(map(str, args))}: {done.stderr.strip()}"
    return done.stdout


class Namespace:
    """A network namespace of its own with lo up; a context manager."""

    def __init__(self, hint="ns"):
        self.name = f"mct{os.getpid()}-{next(_serial)}-{hint}"

    def __enter__(self):
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)

    def ip(self, *args):
        return _ip("-n", self.name, *args)

    def argv(self, argv):
        """The command line that runs argv in there, under the pid of the child."""
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def run(self, argv, timeout=20):
        done = subprocess.run(
            self.argv(argv), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout
        )
        assert done.returncode == 0, f"{self.name}: {' '.join(map(str, argv))}: {done.stderr.strip()}"
        return done.stdout

    def call(self, function, *args, **kwargs):
        """function(...) in a thread that lives in the namespace: a socket that it makes belongs there for good."""
        result = []

        def inside():
            libc = ctypes.CDLL(None, use_errno=True)
            fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(fd, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {self.name}")
                result.append((function(*args, **kwargs), None))
            except BaseException as error:  # handed to the caller
                result.append((None, error))
            finally:
                os.close(fd)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        value, error = result[0]
        if error is not None:
            raise error
        return value

    def connect(self, host, port, timeout=30):
        return self.call(socket.create_connection, (host, port), timeout)

    def listen(self, host, port=0):
        return self.call(socket.create_server, (host, port))


class Netem:
    """The wire between two namespaces; a context manager. Sides a and b are a_addr and b_addr.

    build is the build directory; options as of tests/netem: delay="40ms", loss=0, rate="100M", queue="256k", seed=1.
    congestion names the TCP congestion control of both sides ("cubic"); None: what the kernel takes by default.
    """

    def __init__(self, build, a, b, net="10.71.0", dev="wire0", congestion=None, **options):
        self.a, self.b, self.dev, self.congestion = a, b, dev, congestion
        self.net = f"{net}.0/30"
        self.a_addr, self.b_addr = f"{net}.1", f"{net}.2"
        self.argv = [pathlib.Path(build) / "tests/netem", "--a", a.name, "--a-addr", f"{self.a_addr}/30"]
        self.argv += ["--b", b.name, "--b-addr", f"{self.b_addr}/30", "--dev", dev]
        for name, value in options.items():
            self.argv += [f"--{name}", str(value)]
        self.child, self.lock = None, threading.Lock()

    def __enter__(self):
        self.child = subprocess.Popen(
            [str(a) for a in self.argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if self.child.stdout.readline().strip() != "ready":
            raise AssertionError(f"netem did not start: {self.child.communicate(timeout=10)[1].strip()}")
        if self.congestion:
            for side, addr in ((self.a, self.a_addr), (self.b, self.b_addr)):
                side.ip("route", "replace", self.net, "dev", self.dev, "src", addr, "congctl", self.congestion)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait(5)
        self.child.stdout.close()
        self.child.stderr.close()

    @property
    def pid(self):
        return self.child.pid

    def tell(self, line):
        """One command, for instance "loss 10"; gives what netem answers behind "ok"."""
        with self.lock:
            self.child.stdin.write(line + "\n")
            self.child.stdin.flush()
            answer = self.child.stdout.readline().split()
        assert answer and answer[0] == "ok", f"netem, {line}: {' '.join(answer) or 'it ended'}"
        return answer[1:]

    def down(self):
        """Every packet is gone without a word from now on, those on their way too."""
        self.tell("down")

    def up(self):
        self.tell("up")

    def set(self, what, value):
        self.tell(f"{what} {value}")

    def stats(self):
        """{"a>b": {"carried": 1, "bytes": ..., "lost": ..., "dropped": ...}, "b>a": ...}"""
        words = self.tell("stats")
        half = len(words) // 2
        return {
            part[0]: {name: int(value) for name, value in zip(part[1::2], part[2::2])}
            for part in (words[:half], words[half:])
        }


@contextlib.contextmanager
def wire(build, **options):
    """Two namespaces and a wire between them: `with wire(build, delay="40ms") as net: net.a.listen(net.a_addr) ...`"""
    with Namespace("a") as a, Namespace("b") as b, Netem(build, a, b, **options) as net:
        yield net
