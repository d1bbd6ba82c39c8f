"""promtool: the one of the system, or that of Debian's package, unpacked beside the system and not installed."""

import fcntl
import os
import shutil
import subprocess

from .shippers import why_not


def _download(directory):
    argv = ["apt-get", "-q", "download", "prometheus"]
    return subprocess.run(argv, cwd=directory, capture_output=True, timeout=300, check=False).returncode == 0


def find(cache):
    """The program; None where there is none to be had."""
    known = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if known or why_not():
        return known
    directory = cache / "prometheus"
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "root/usr/bin/promtool"
    with open(directory / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "complete").exists():
            if not _download(directory):
                subprocess.run(["apt-get", "-q", "update"], capture_output=True, timeout=300, check=False)
                assert _download(directory), "apt-get download prometheus failed"
            for deb in directory.glob("prometheus_*.deb"):
                subprocess.run(["dpkg-deb", "-x", deb, directory / "root"], check=True)
            (directory / "complete").touch()
    return program
