import glob
import os
import shutil
import signal
import subprocess
import tempfile

import pytest

from lib import scene, shell
from lib.network import Network
from lib.system import System

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def obstacle():
    """Why no system can be booted here; None when one can."""
    if os.geteuid() != 0:
        return "booting a system needs root"
    for program, package in (("systemd-nspawn", "systemd-container"), ("debootstrap", "debootstrap"), ("ip", "iproute2")):
        if not shutil.which(program):
            return "%s is missing: install %s" % (program, package)
    if subprocess.run(["unshare", "-mn", "mount", "-t", "tmpfs", "none", "/mnt"], stderr=subprocess.DEVNULL,
                      check=False).returncode != 0:
        return "namespaces and mounts are not allowed here"
    return None


def run_container(directory):
    """Why systemd-nspawn cannot run even /bin/true in the root file system; None when it can."""
    p = shell.run(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--pipe", "-D", directory,
                   "--volatile=overlay", "/bin/true"], check=False,
                  env=dict(os.environ, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1"))
    return None if p.returncode == 0 else "systemd-nspawn cannot run here: " + p.stderr.strip()[-300:]


@pytest.fixture(scope="session", autouse=True)
def _orderly_end():
    """On SIGTERM, too: what was mounted, started and named has to go."""
    def stop(number, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@pytest.fixture(scope="session")
def build():
    return os.environ["SYSTEM_BUILD"]


@pytest.fixture(scope="session")
def base():
    """The common root file system, which nobody writes to."""
    why = obstacle()
    if why:
        pytest.skip(why)
    directory = tempfile.mkdtemp(prefix="mcp-tunnel-base-")
    os.chmod(directory, 0o755)
    try:
        shell.run(["sh", os.path.join(HERE, "rootfs.sh"), directory], timeout=600)
        why = run_container(directory)
        if why:
            pytest.skip(why)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(name="network", scope="module")
def _network(base):
    n = Network()
    yield n
    n.done()


@pytest.fixture(name="make_system", scope="module")
def _make_system(base, network):
    """make_system(name, up=True): a System that ends with the module."""
    made = []

    def make(name="system", up=True):
        made.append(System(base, network, name, up))
        return made[-1]

    yield make
    for system in reversed(made):
        system.done()


def build_packages(root, directory, **environment):
    shell.run(["sh", os.path.join(root, "packaging/build.sh"), "all"], timeout=600,
              env=dict(os.environ, DIST=directory, **environment))
    return directory


@pytest.fixture(scope="session")
def dist():
    """A directory with the packages of this tree and their SBOMs; those in SYSTEM_DIST where that is set."""
    if os.environ.get("SYSTEM_DIST"):
        yield os.environ["SYSTEM_DIST"]
        return
    for program, package in (("dpkg-buildpackage", "dpkg-dev"), ("dh", "debhelper"), ("rpmbuild", "rpm")):
        if not shutil.which(program):
            pytest.skip("%s is missing: install %s" % (program, package))
    directory = tempfile.mkdtemp(prefix="mcp-tunnel-dist-")
    try:
        yield build_packages(ROOT, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def debs(dist):
    """{package: path}"""
    return {name: glob.glob(os.path.join(dist, name + "_*.deb"))[0] for name in ("mcp-tunnel-gateway", "mcp-tunnel-relay")}


@pytest.fixture(scope="session")
def rpms(dist):
    return {name: glob.glob(os.path.join(dist, name + "-[0-9]*.rpm"))[0]
            for name in ("mcp-tunnel-gateway", "mcp-tunnel-relay")}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return scene.make_certificate(str(tmp_path_factory.mktemp("certificate")))


@pytest.fixture(scope="module")
def relay(make_system, debs, certificate):
    return scene.Relay(make_system("relay"), debs["mcp-tunnel-relay"], certificate)


@pytest.fixture(scope="module")
def tunnel(relay):
    """(token, agent's key)"""
    return relay.add("prod")


@pytest.fixture(scope="module")
def gateway(make_system, relay, build, debs, tunnel):
    """Installed, configured, booted and ready."""
    return scene.make_gateway(make_system("gateway"), relay, build, debs["mcp-tunnel-gateway"], tunnel[0])
