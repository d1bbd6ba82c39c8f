"""The units by themselves: how exposed they are, whether systemd understands every line."""

import glob
import os
import re
import shutil

import pytest

from conftest import ROOT
from lib import shell

UNITS = os.path.join(ROOT, "packaging/systemd")
LIMITS = {"mcp-tunnel-gateway.service": 1.2, "mcp-tunnel-gateway@.service": 1.2, "mcp-tunnel-relay.service": 1.5}


def unit(name):
    with open(os.path.join(UNITS, name), encoding="utf-8") as f:
        return f.read()


def test_every_unit_has_a_limit():
    assert sorted(os.path.basename(p) for p in glob.glob(UNITS + "/*.service")) == sorted(LIMITS)


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_exposure(name):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing: install systemd")
    shell.run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=%d" % (LIMITS[name] * 10),
               os.path.join(UNITS, name)])


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_verify(make_system, name):
    """Nothing unknown, nothing ignored, in the systemd of the root file system."""
    s = make_system()
    for program in ("mcp-tunnel-gateway", "mcp-tunnel-relay"):
        s.write("/usr/bin/" + program, "", 0o755)
    for file in LIMITS:
        s.write("/etc/systemd/system/" + file, unit(file))
    said = s.run("systemd-analyze verify --man=no --recursive-errors=no /etc/systemd/system/%s" %
                 name.replace("@", "@x"))
    assert (said.stdout + said.stderr).strip() == ""


def test_instance_differs_in_names_alone():
    plain, template = unit("mcp-tunnel-gateway.service"), unit("mcp-tunnel-gateway@.service")
    assert template.replace("-%i", "").replace(" (%i)", "") == plain


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_audit_log_is_not_limited(name):
    text = unit(name)
    assert "\nLogRateLimitIntervalSec=1s\n" in text and "\nLogRateLimitBurst=1000000000\n" in text
    assert not re.search(r"^(LogLevelMax|LogNamespace)=", text, re.M)


def test_boots(make_system):
    s = make_system("plain").boot()
    assert s.run("systemctl is-system-running").stdout.strip() == "running"
    s.run("logger --id=$$ a word" if shutil.which("logger") else "echo a word | systemd-cat")
    assert any(e["MESSAGE"] == "a word" for e in s.journal())
    s.off()
    assert s.boot().run("hostname").stdout.strip() == "plain"
