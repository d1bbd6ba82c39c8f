"""A Debian system with a booted systemd: an overlay of its own over the common root file system, run by systemd-nspawn.

    s = System(base, network, "gateway")
    s.install(path of a .deb)
    s.boot()
    s.run("systemctl start mcp-tunnel-gateway")
    s.journal(unit="mcp-tunnel-gateway.service")
    s.done()
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time

from . import shell

BOOT_SECONDS = 30


def children(pid):
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid), encoding="ascii") as f:
            return [int(word) for word in f.read().split()]
    except OSError:
        return []


class System:
    def __init__(self, base, network, name="system", up=True):
        self.name = name
        self.nspawn = self.leader = None
        self.network = network
        self.namespace, self.address = network.add(up)
        self.directory = tempfile.mkdtemp(prefix="mcp-tunnel-system-")
        self.root = os.path.join(self.directory, "root")
        for part in ("upper", "work", "root"):
            os.mkdir(os.path.join(self.directory, part), 0o755)
        os.chmod(self.directory, 0o755)
        shell.run(["mount", "-t", "overlay", "overlay", "-o", "lowerdir=%s,upperdir=%s/upper,workdir=%s/work" %
                   (base, self.directory, self.directory), self.root])

    def path(self, inside):
        return self.root + inside

    def write(self, inside, text, mode=0o644):
        os.makedirs(os.path.dirname(self.path(inside)), exist_ok=True)
        with open(self.path(inside), "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(self.path(inside), mode)

    def read(self, inside):
        with open(self.path(inside), encoding="utf-8", errors="replace") as f:
            return f.read()

    def copy(self, outside, inside, mode=0o755):
        os.makedirs(os.path.dirname(self.path(inside)), exist_ok=True)
        shutil.copyfile(outside, self.path(inside))
        os.chmod(self.path(inside), mode)

    # Power.

    def boot(self):
        """Until everything of multi-user.target is up or has failed."""
        with open(os.path.join(self.directory, "console"), "ab") as log:
            # Without the filter a container may lock no memory.
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--machine=" + self.name, "--boot",
                 "--system-call-filter=@memlock",
                 "--network-namespace-path=/run/netns/" + self.namespace, "-D", self.root],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=dict(os.environ, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1"))
        end = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < end:
            if self.nspawn.poll() is not None:
                break
            if self._is_up():
                return self
            time.sleep(0.05)
        with open(os.path.join(self.directory, "console"), encoding="utf-8", errors="replace") as f:
            console = f.read()[-4000:]
        self.off()
        raise shell.Failed("%s does not boot:\n%s" % (self.name, console))

    def _is_up(self):
        self.leader = next(iter(children(self.nspawn.pid)), None)
        if self.leader is None:
            return False
        state = self.run("systemctl is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def off(self):
        """At once, as when the power fails."""
        if self.nspawn is None:
            return
        for pid in children(self.nspawn.pid):
            os.kill(pid, signal.SIGKILL)
        try:
            self.nspawn.wait(10)
        except subprocess.TimeoutExpired:
            self.nspawn.kill()
            self.nspawn.wait()
        self.nspawn = self.leader = None

    def shut_down(self):
        """In order."""
        self.run("systemctl poweroff --no-block")
        self.nspawn.wait(60)
        self.nspawn = self.leader = None

    def done(self):
        self.off()
        shell.run(["umount", self.root], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    # Commands.

    def command(self, words):
        if isinstance(words, str):
            words = ["sh", "-c", words]
        if self.leader:
            return ["nsenter", "-a", "-t", str(self.leader), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                    "DEBIAN_FRONTEND=noninteractive", "HOME=/root"] + words
        return ["chroot", self.root, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND=noninteractive", "HOME=/root"] + words

    def run(self, words, check=True, timeout=shell.TIMEOUT, **more):
        """In the system, booted or not: a list of words, or a line for sh."""
        return shell.run(self.command(words), check, timeout, **more)

    def start(self, words, **more):
        """The same, without waiting: a subprocess.Popen."""
        return subprocess.Popen(self.command(words), stdin=subprocess.DEVNULL, **more)

    def outside(self, words):
        """The words of a command that runs on the machine, in the system's network."""
        return ["ip", "netns", "exec", self.namespace] + words

    def install(self, *packages):
        names = []
        for package in packages:
            name = "/root/" + os.path.basename(package)
            self.copy(package, name, 0o644)
            names.append(shlex.quote(name))
        return self.run("dpkg -i %s 2>&1" % " ".join(names), timeout=120)

    # What systemd knows.

    def show(self, unit, *properties):
        """{property: value}"""
        out = self.run(["systemctl", "show", "--property=" + ",".join(properties), unit]).stdout
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def pid(self, unit):
        return int(self.show(unit, "MainPID")["MainPID"])

    def journal(self, *matches, unit=None):
        """Entries as dictionaries, oldest first."""
        words = ["journalctl", "-a", "-o", "json", "--no-pager", "-q"] + list(matches)
        if unit:
            words += ["_SYSTEMD_UNIT=" + unit]
        self.run("journalctl --sync")
        return [json.loads(line) for line in self.run(words).stdout.splitlines()]

    def messages(self, unit):
        """What `journalctl -u` says, systemd's own words about the unit too."""
        self.run("journalctl --sync")
        return self.run(["journalctl", "--no-pager", "-q", "-o", "cat", "-u", unit]).stdout

    def wait(self, words, seconds=20, said=""):
        """Until the command succeeds and its output has the words."""
        end = time.monotonic() + seconds
        while True:
            p = self.run(words, check=False)
            if p.returncode == 0 and said in p.stdout:
                return p.stdout
            if time.monotonic() > end:
                raise shell.Failed("%s: not within %d s: %s%s" % (words, seconds, p.stdout, p.stderr))
            time.sleep(0.1)
