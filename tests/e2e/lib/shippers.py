"""Log shippers from Debian's packages, unpacked beside the system, not installed, and the SIEM that they send to."""

import contextlib
import fcntl
import glob
import json
import pathlib
import re
import shutil
import socket
import subprocess
import threading

from .procs import wait_until

CONTRIB = pathlib.Path(__file__).resolve().parents[3] / "contrib/siem"
PACKAGES = ("rsyslog", "syslog-ng-core", "systemd-journal-remote")


def why_not():
    """Why the packages cannot be had here; None where they can."""
    with contextlib.suppress(OSError):
        with open("/etc/os-release", encoding="utf-8") as text:
            if "VERSION_CODENAME=bookworm" in text.read() and shutil.which("apt-get"):
                return None
    return "the recipes are tested with the packages of Debian 12"


def _apt(*args, cwd=None):
    done = subprocess.run(["apt-get", "-q", *args], capture_output=True, text=True, cwd=cwd, timeout=300, check=False)
    return done.stdout if done.returncode == 0 else None


def _download(package, directory):
    """The package and what is missing for it on this machine."""
    plan = _apt("install", "-s", "--no-install-recommends", package)
    wanted = re.findall(r"^Inst (\S+)", plan or "", re.M)
    return not wanted or _apt("download", *wanted, cwd=directory) is not None


def fetch(cache):
    """The directory in which the packages are unpacked; fetched once."""
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / "root"
    with open(cache / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (cache / "complete").exists():
            return root
        shutil.rmtree(root, ignore_errors=True)
        for package in PACKAGES:
            debs = cache / package
            debs.mkdir(exist_ok=True)
            if not _download(package, debs):
                _apt("update")
                assert _download(package, debs), f"apt-get download {package} failed"
            for deb in debs.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
        (cache / "complete").touch()
    return root


class Siem:
    """Takes lines over TCP. Closed at first: shippers have to wait for it."""

    def __init__(self):
        self.lines, self.seen, self.lock, self.listener = [], set(), threading.Lock(), None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    def open(self):
        self.listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._read, args=(sock,), daemon=True).start()

    def _read(self, sock):
        with sock, contextlib.suppress(OSError):
            for line in sock.makefile("rb"):
                if line.endswith(b"\n"):
                    with self.lock:
                        self.lines.append(line)
                        self.seen.add(line)

    def taken(self):
        with self.lock:
            return list(self.lines)

    def distinct(self):
        return len(self.seen)

    def close(self):
        if self.listener:
            self.listener.close()


class Shipper:
    """One program, as its recipe in contrib/siem says; only addresses and directories are put in."""

    def __init__(self, root, journald, directory, port):
        self.root, self.journald, self.port = root, journald, port
        self.dir = directory / "shipper"
        self.dir.mkdir()
        self.child, self.log = None, open(directory / "shipper.log", "ab")

    def program(self, path):
        """What starts a program of the packages in journald's namespace."""
        libraries = [*glob.glob(f"{self.root}/usr/lib/*-linux-gnu"), *glob.glob(f"{self.root}/lib/*-linux-gnu")]
        libraries.append(f"{self.root}/usr/lib/syslog-ng")
        found = self.root / path if (self.root / path).exists() else pathlib.Path("/", path)
        return [*self.journald.prefix, "env", f"LD_LIBRARY_PATH={':'.join(libraries)}", str(found)]

    def recipe(self, name, **changes):
        text = (CONTRIB / name).read_text()
        for old, new in {"siem.example.com": "127.0.0.1", "6514": str(self.port), **changes}.items():
            assert old in text, f"{name} has no {old}"
            text = text.replace(old, new)
        return text

    def spawn(self, argv):
        argv = [str(a) for a in argv]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=self.dir)

    def check(self, argv):
        """The program's own look at the configuration."""
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        self.child = self.spawn(self.argv())

    def kill(self):
        self.child.kill()
        self.child.wait(30)

    def stop(self):
        self.child.terminate()
        self.child.wait(60)

    def close(self):
        if self.child and self.child.poll() is None:
            self.kill()
        self.log.close()


class Rsyslog(Shipper):
    def __init__(self, *args):
        super().__init__(*args)
        self.config = self.dir / "rsyslog.conf"
        text = self.recipe("rsyslog/mcp-tunnel-siem.conf", **{"/var/lib/mcp-tunnel-siem": str(self.dir)})
        self.config.write_text(text)
        self.check([*self.argv(), "-N1"])

    def argv(self):
        modules = next(iter(glob.glob(f"{self.root}/usr/lib/*-linux-gnu/rsyslog")), None)
        where = ["-M", modules] if modules else []
        return [*self.program("usr/sbin/rsyslogd"), "-n", "-i", "NONE", *where, "-f", self.config]


class SyslogNg(Shipper):
    def __init__(self, *args):
        super().__init__(*args)
        self.config = self.dir / "syslog-ng.conf"
        text = self.recipe("syslog-ng/mcp-tunnel.conf", **{"/var/lib/syslog-ng": str(self.dir)})
        self.config.write_text("@version: 3.38\n" + text)
        self.check([*self.argv(), "--syntax-only"])

    def argv(self):
        modules = self.root / "usr/lib/syslog-ng/3.38"
        where = ["--module-path", modules] if modules.exists() else []
        files = ["-R", self.dir / "persist", "-c", self.dir / "control", "-p", self.dir / "pid"]
        return [*self.program("usr/sbin/syslog-ng"), "-F", "--no-caps", *where, "-f", self.config, *files]


class JournalUpload(Shipper):
    """Restarted like the unit does it with our drop-in; sends to a real systemd-journal-remote."""

    def __init__(self, *args):
        super().__init__(*args)
        text = self.recipe("systemd-journal-upload/journal-upload.conf", **{"https": "http", "19532": str(self.port)})
        text = re.sub(r"(?m)^(Server|Trusted).*\n", "", text)
        etc = pathlib.Path(f"/proc/{self.journald.holder.pid}/root/etc/systemd")
        (etc / "journal-upload.conf").write_text(text)
        self.wanted, self.receiver, self.output = False, None, self.dir / "arrived.journal"
        self.keeper = None

    def recipe(self, name, **changes):
        text = (CONTRIB / name).read_text().replace("siem.example.com", "127.0.0.1")
        for old, new in changes.items():
            assert old in text, f"{name} has no {old}"
            text = text.replace(old, new)
        return text

    def argv(self):
        return [*self.program("lib/systemd/systemd-journal-upload"), f"--save-state={self.dir}/state"]

    def start(self):
        self.wanted = True
        self.child = self.spawn(self.argv())
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()

    def _keep(self):
        """Restart=always."""
        ended = threading.Event()
        while self.wanted:
            if self.child.poll() is not None:
                ended.wait(0.5)
                if self.wanted:
                    self.child = self.spawn(self.argv())
            ended.wait(0.1)

    def kill(self):
        self.wanted = False
        self.keeper.join(10)
        super().kill()

    def stop(self):
        self.kill()

    def receive(self):
        """The other end starts."""
        listen = f"--listen-http=127.0.0.1:{self.port}"
        remote = [*self.program("lib/systemd/systemd-journal-remote"), listen, "--split-mode=none"]
        self.receiver = self.spawn([*remote, "--output", self.output])

    def arrived(self):
        """JSON lines, filtered as the receiver has to do it."""
        # It begins a new file after a sender that broke off.
        if not list(self.dir.glob("arrived*.journal")):
            return []
        match = [f"_SYSTEMD_UNIT=mcp-tunnel-{end}.service" for end in ("gateway", "relay")]
        argv = ["journalctl", "--file", f"{self.dir}/arrived*.journal", "-a", "-q", "-o", "json", *match]
        done = subprocess.run([str(a) for a in argv], capture_output=True, timeout=120, check=False)
        return done.stdout.splitlines(keepends=True)

    def distinct(self):
        return len({json.loads(line)["MCP_CHAIN"] for line in self.arrived()})

    def close(self):
        if self.wanted:
            self.kill()
        super().close()
        if self.receiver:
            self.receiver.terminate()
            self.receiver.wait(60)


def wait_for(count, at_least, timeout=60):
    """Until count() is at least so many."""
    wait_until(lambda: count() >= at_least, timeout, lambda: f"{count()} of {at_least} records")
