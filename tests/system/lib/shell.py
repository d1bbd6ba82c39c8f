"""Commands with a bound, whose output is in the error when they fail."""

import subprocess

TIMEOUT = 60


class Failed(AssertionError):
    pass


def run(command, check=True, timeout=TIMEOUT, **more):
    """A list of words; the result has .returncode, .stdout and .stderr (text)."""
    more.setdefault("stdin", subprocess.DEVNULL)
    if "input" in more:
        del more["stdin"]
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, text=True,
                       errors="replace", **more)
    if check and p.returncode != 0:
        raise Failed("%s: exit status %d\n%s%s" % (" ".join(command), p.returncode, p.stdout, p.stderr))
    return p
