"""A network that fails on demand, made of namespaces: gateway - middle - relay. Needs root.

    gateway namespace            middle namespace (a router)             relay namespace
    10.77.1.2  uplink ---------- gw 10.77.1.1   rl 10.77.2.1 ---------- uplink  10.77.2.2, 10.77.2.3

Every network has namespaces of its own, so all use the same addresses and may run side by side.
"""

import contextlib
import ctypes
import itertools
import os
import subprocess

GATEWAY_ADDR, RELAY_ADDR, OTHER_RELAY_ADDR, OTHER_GATEWAY_ADDR = "10.77.1.2", "10.77.2.2", "10.77.2.3", "10.77.1.3"
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count(1)


def _command(*args, stdin=None, check=True):
    done = subprocess.run([str(a) for a in args], input=stdin, capture_output=True, text=True, timeout=30)
    assert not check or done.returncode == 0, f"{' '.join(map(str, args))}: {done.stderr or done.stdout}{stdin or ''}"
    return done.stdout


def require():
    """A clear line where there can be no namespaces."""
    assert os.geteuid() == 0, "the tests of broken networks make network namespaces: run them as root"
    name = f"mcpe2e-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    assert made.returncode == 0, f"no network namespaces here, which these tests need: {made.stderr.strip()}"
    _command("ip", "netns", "del", name)


class Namespace:
    def __init__(self, role):
        self.name = f"mcpe2e-{os.getpid()}-{next(_serial)}-{role}"
        _command("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def prefix(self, hosts=None):
        """What to put before a program so that it runs here; hosts is a file that it sees as /etc/hosts."""
        enter = ["nsenter", f"--net=/run/netns/{self.name}"]
        if hosts:
            enter += ["unshare", "-m", "sh", "-ec", 'mount --bind "$0" /etc/hosts; exec "$@"', str(hosts)]
        return enter

    def run(self, *args, stdin=None, check=True):
        return _command(*self.prefix(), *args, stdin=stdin, check=check)

    @contextlib.contextmanager
    def entered(self):
        """Sockets that this thread makes meanwhile belong to the namespace, and stay there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        here = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _setns(here)
            yield self
        finally:
            _setns(before)
            os.close(here)
            os.close(before)

    def remove(self):
        _command("ip", "netns", "del", self.name, check=False)


def _setns(descriptor):
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Network:
    """`port` is the relay's, where gateways attach; faults hit that traffic alone."""

    def __init__(self, port=8443):
        self.port, self.parts = port, []
        try:
            self._make()
        except BaseException:
            self.remove()
            raise

    def _make(self):
        for role in ("gateway", "middle", "relay"):
            self.parts.append(Namespace(role))
        self.gateway, self.middle, self.relay = self.parts
        middle = self.middle.run
        self._cable(self.gateway, "gw", "10.77.1.1/24", [GATEWAY_ADDR, OTHER_GATEWAY_ADDR])
        self._cable(self.relay, "rl", "10.77.2.1/24", [RELAY_ADDR, OTHER_RELAY_ADDR])
        middle("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def _cable(self, far, name, near_addr, addrs):
        middle = self.middle.run
        middle("ip", "link", "add", name, "type", "veth", "peer", "name", "uplink", "netns", far.name)
        middle("ip", "addr", "add", near_addr, "dev", name)
        middle("ip", "link", "set", name, "up")
        for addr in addrs:
            far.run("ip", "addr", "add", f"{addr}/24", "dev", "uplink")
        far.run("ip", "link", "set", "uplink", "up")
        far.run("ip", "route", "add", "default", "via", near_addr.split("/")[0])

    # ---- faults ----

    def kill(self, side="relay"):
        """Kills the tunnel's connections; how many. The other end gets a reset."""
        where = "sport" if side == "relay" else "dport"
        out = getattr(self, side).run(
            "ss", "-H", "-t", "-n", "-K", "state", "established", "( %s = :%d )" % (where, self.port), check=False
        )
        return len(out.splitlines())

    def link(self, up, which="rl"):
        self.middle.run("ip", "link", "set", which, "up" if up else "down")

    def _rules(self, verdict, address=None):
        lines = ["add table ip faults", "delete table ip faults"]
        if verdict:
            lines += ["table ip faults {", "chain c {", "type filter hook forward priority 0; policy accept;"]
            of = {"sport": "ip daddr", "dport": "ip saddr"}
            for end, field in of.items():
                only = f"{field} {address} " if address else ""
                lines.append(f"{only}tcp {end} {self.port} {verdict}")
            lines += ["}", "}"]
        self.middle.run("nft", "-f", "-", stdin="\n".join(lines) + "\n")

    def drop(self, address=None):
        """Packets vanish without a word: all, or those of a gateway at that address."""
        self._rules("drop", address)

    def reset(self):
        """Whoever sends a packet gets a reset from the middle."""
        self._rules("reject with tcp reset")

    def heal(self):
        self._rules(None)

    def remove(self):
        for part in self.parts:
            part.remove()
        self.parts = []
