"""A journald of its own for a test, real, in a mount namespace that programs enter with `prefix`."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess

from .procs import run, wait_until

JOURNALD = "/lib/systemd/systemd-journald"
CONFIG = {
    "Storage": "persistent",
    "SystemMaxUse": "1G",
    "RuntimeMaxUse": "1G",
    "RateLimitIntervalSec": "0",
    "ReadKMsg": "no",
    "Audit": "no",
}
SETUP = """
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal "$0/journal" "$0/lib"
: >/run/systemd/journal/flushed
mount -t tmpfs tmpfs /etc/systemd
printf '%s\\n' "$1" >/etc/systemd/journald.conf
mount --bind "$0" /var/log
[ -z "$2" ] || mount -t tmpfs -o "size=$2" tmpfs /var/log/journal
mount --bind "$0/lib" /var/lib/systemd
mount -t cgroup2 cgroup2 /sys/fs/cgroup
if ! [ -s /etc/machine-id ]; then
	echo 0123456789abcdef0123456789abcdef >/run/machine-id
	mount --bind /run/machine-id /etc/machine-id
fi
echo ready
exec cat
"""


class Journald:
    """directory becomes /var/log of the namespace, so that what is kept can be looked at from outside. With disk="64M" the
    journal is on a file system of that size, which is gone with the namespace and can be filled. config: keys of
    journald.conf."""

    def __init__(self, directory, disk=None, **config):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = {**CONFIG, **config}
        user = [] if os.geteuid() == 0 else ["-r"]
        # Ends by itself when the pipe closes, whatever becomes of the test.
        self.holder = subprocess.Popen(
            ["unshare", *user, "-m", "sh", "-ec", SETUP, str(self.directory), self._config_text(), disk or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if self.holder.stdout.readline() != b"ready\n":
            raise AssertionError(f"no mount namespace for journald: {self.holder.stderr.read().decode()}")
        self.prefix = [
            "nsenter",
            *(["-U", "--preserve-credentials"] if user else []),
            "-m",
            "-t",
            self.holder.pid,
            "--",
        ]
        self.prefix = [str(word) for word in self.prefix]
        self.daemon, self.groups = None, set()
        self.start()

    def _config_text(self):
        return "\n".join(["[Journal]"] + [f"{k}={v}" for k, v in self.config.items()])

    def path(self, name):
        """A file of the namespace, as seen from outside."""
        return pathlib.Path(f"/proc/{self.holder.pid}/root{name}")

    @property
    def socket_path(self):
        """journald's socket as seen from outside the namespace."""
        return f"/proc/{self.holder.pid}/root/run/systemd/journal/socket"

    def start(self):
        self.daemon = subprocess.Popen(
            [*self.prefix, JOURNALD], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: os.path.exists(self.socket_path), 10, "journald's socket")

    def kill(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait(10)

    def restart(self, **config):
        """In order: what it was sent is stored before, and its records have the same chain of numbers. config: changes."""
        self.daemon.terminate()
        self.daemon.wait(30)
        self.config.update(config)
        self.path("/etc/systemd/journald.conf").write_text(self._config_text() + "\n")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        self.start()

    def pause(self):
        """It stands still: its socket takes what fits into it, and nothing is stored."""
        self.daemon.send_signal(signal.SIGSTOP)
        stat = pathlib.Path(f"/proc/{self.daemon.pid}/stat")
        wait_until(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T", 5, "journald to stand still")

    def resume(self):
        self.daemon.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self):
        self.pause()
        try:
            yield self
        finally:
            self.resume()

    def remove_socket(self):
        os.unlink(self.socket_path)

    def rotate(self):
        self.run("journalctl", "--rotate")

    def vacuum(self, files=1):
        """Rotates, and keeps that many of the full files; 0: none. The oldest records are gone."""
        self.sync()
        self.rotate()
        self.run("journalctl", "-q", f"--vacuum-files={files + 1}" if files else "--vacuum-size=1")

    def fill(self):
        """No room on the disk: only with disk=..."""
        with open(self.path("/var/log/journal/filler"), "wb", buffering=0) as out, contextlib.suppress(OSError):
            while out.write(b"\0" * 65536):
                pass

    def unfill(self):
        self.path("/var/log/journal/filler").unlink()

    def stop(self):
        self.kill()
        for group in self.groups:
            with contextlib.suppress(OSError):
                os.rmdir(group)
        self.holder.stdin.close()
        self.holder.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def run(self, *argv, timeout=60):
        status, out, err = run([*self.prefix, *argv], timeout)
        assert status == 0, f"{argv}: status {status}\n{err}"
        return out

    def in_unit(self, unit):
        """What to put before a program so that journald takes it for a part of that unit (_SYSTEMD_UNIT)."""
        group = f"/sys/fs/cgroup/system.slice/{unit}"
        self.groups.add(f"/proc/{self.holder.pid}/root{group}")
        return [*self.prefix, "sh", "-ec", 'mkdir -p "$0"; echo $$ >"$0/cgroup.procs"; exec "$@"', group]

    def sync(self):
        self.run("journalctl", "--sync")

    def journalctl(self, *options):
        """Bytes: values may be anything."""
        self.sync()
        done = subprocess.run(
            [*self.prefix, "journalctl", "--no-pager", "-a", "-q", *options],
            capture_output=True,
            timeout=120,
            check=True,
        )
        return done.stdout

    def records(self, *matches):
        """Every record as a dict. Fields that are there twice are lists; those that are no UTF-8 are bytes."""
        lines = self.journalctl("-o", "json", *matches).splitlines()
        return [{name: _value(v) for name, v in json.loads(line).items()} for line in lines]


def _value(value):
    if isinstance(value, list) and value and all(isinstance(v, int) for v in value):
        return bytes(value)
    return value
