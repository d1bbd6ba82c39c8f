"""Programs under test: started with a log, watched by condition, stopped by pid."""

import os
import pathlib
import re
import signal
import subprocess
import threading
import time


def _time_scale():
    """A build with sanitizers is slower; every bound is multiplied, no test waits for the bound when all is well."""
    if "E2E_TIME_SCALE" not in os.environ:
        gateway = pathlib.Path(os.environ.get("E2E_BUILD", "."), "gateway/mcp-tunnel-gateway")
        slow = gateway.exists() and b"__asan_init" in gateway.read_bytes()
        os.environ["E2E_TIME_SCALE"] = "3" if slow else "1"
    return float(os.environ["E2E_TIME_SCALE"])


SCALE = _time_scale()
# What a build that counts lines says where the user may not write the counts.
UNCOUNTED = re.compile(r"(?m)^profiling:.*\n")
SANITIZER = re.compile(r"(ERROR: (Address|Leak|Undefined|Thread)Sanitizer|runtime error:).*")


def wait_until(condition, timeout, what):
    """Polls condition until it gives something true, which is returned."""
    deadline = time.monotonic() + timeout * SCALE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout * SCALE:g} s in vain: {what() if callable(what) else what}")
        time.sleep(0.01)


def environment():
    """A copy of this process's; pytest changes it meanwhile, in another thread."""
    return {name: value for name in list(os.environ) if (value := os.environ.get(name)) is not None}


class Process:
    """A child with stdout and stderr kept as lines; `name` says who it is in messages."""

    def __init__(self, name, argv, env=None, cwd=None, stdin=subprocess.DEVNULL, stdout_lines=True):
        self.name, self.argv, self.lines, self.out = name, [str(a) for a in argv], [], []
        self.changed = threading.Condition()
        full = {**environment(), **(env or {})}
        self.child = subprocess.Popen(
            self.argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=full,
            cwd=cwd,
            text=True,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
        )
        self.readers = [threading.Thread(target=self._read, args=(self.child.stderr, self.lines), daemon=True)]
        if stdout_lines:
            self.readers.append(threading.Thread(target=self._read, args=(self.child.stdout, self.out), daemon=True))
        for reader in self.readers:
            reader.start()

    def _read(self, stream, into):
        for line in stream:
            with self.changed:
                into.append(line.rstrip("\n"))
                self.changed.notify_all()

    @property
    def pid(self):
        return self.child.pid

    def text(self):
        with self.changed:
            return "\n".join(self.lines + self.out)

    def tail(self, count=30):
        return f"--- {self.name}, last lines ---\n" + "\n".join(
            line[:400] for line in self.text().splitlines()[-count:]
        )

    def running(self):
        return self.child.poll() is None

    def find(self, pattern, start=0):
        with self.changed:
            for line in self.lines[start:] + self.out:
                match = re.search(pattern, line)
                if match:
                    return match
        return None

    def count(self, pattern):
        with self.changed:
            return sum(1 for line in self.lines + self.out if re.search(pattern, line))

    def mark(self):
        """A position in stderr; give it to find() as start to look at later lines only."""
        with self.changed:
            return len(self.lines)

    def wait_line(self, pattern, timeout=15, start=0):
        deadline = time.monotonic() + timeout * SCALE
        while True:
            match = self.find(pattern, start)
            if match:
                return match
            if not self.running() and not self.find(pattern, start):
                self.join()
                match = self.find(pattern, start)
                if match:
                    return match
                raise AssertionError(
                    f"{self.name} ended with status {self.child.returncode} before "
                    f"a line with {pattern!r}\n{self.tail()}"
                )
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"{self.name}: no line with {pattern!r} in {timeout * SCALE:g} s\n{self.tail()}")
            with self.changed:
                self.changed.wait(min(left, 0.2))

    def wait(self, timeout=15):
        try:
            status = self.child.wait(timeout * SCALE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end in {timeout * SCALE:g} s\n{self.tail()}") from None
        self.join()
        return status

    def join(self):
        for reader in self.readers:
            reader.join(2)

    def send_signal(self, number):
        self.child.send_signal(number)

    def stop(self, timeout=15):
        """SIGTERM, then SIGKILL; the exit status is returned."""
        if self.running():
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(timeout * SCALE)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(10)
        self.join()
        return self.child.returncode

    def kill(self):
        if self.running():
            self.child.kill()
        self.child.wait(10)
        self.join()

    def assert_no_sanitizer_report(self):
        match = SANITIZER.search(self.text())
        assert not match, f"{self.name}: {match.group(0)}\n{self.tail(60)}"


def run(argv, timeout=20, **options):
    """Runs to the end: (status, stdout, stderr)."""
    done = subprocess.run(
        [str(a) for a in argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout * SCALE,
        errors="replace",
        **options,
    )
    return done.returncode, done.stdout, UNCOUNTED.sub("", done.stderr)
