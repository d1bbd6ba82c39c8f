"""The recipes of contrib/siem with the real programs: all that the journal has got arrives at the SIEM, unchanged."""

import json
import subprocess
import sys

import pytest

from lib import auditgen, shippers
from lib.journald import Journald
from lib.shippers import JournalUpload, Rsyslog, Siem, SyslogNg, wait_for

GATEWAY = "mcp-tunnel-gateway.service"
MANY, SOME = 10300, 2000  # calls of a chain; the first alone is more than rsyslog's limit of 20,000 in ten minutes
CHAINS = ("a" * 32, "b" * 32, "c" * 32)

pytestmark = [
    pytest.mark.skipif(shippers.why_not() is not None, reason=str(shippers.why_not())),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def packages(cache):
    return shippers.fetch(cache / "siem")


class Host:
    """A machine with a journal, and the unit that writes audit records."""

    def __init__(self, directory):
        self.dir, self.journald = directory, Journald(directory / "log")

    def write(self, ident, calls=SOME, unit=GATEWAY):
        """How many records."""
        generator = [sys.executable, auditgen.__file__, "/run/systemd/journal/socket", str(calls), ident]
        argv = [*self.journald.in_unit(unit), *generator]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=True)
        return int(done.stdout)

    def written(self, ident):
        """The records of a chain as they are in the journal."""
        found = self.journald.journalctl("-o", "json", f"MCP_CHAIN_ID={ident}", f"_SYSTEMD_UNIT={GATEWAY}")
        return [json.loads(line) for line in found.splitlines()]


@pytest.fixture
def host(work, request):
    directory = work / request.node.name.replace("/", "-")
    directory.mkdir()
    made = Host(directory)
    yield made
    made.journald.stop()


@pytest.fixture
def siem():
    made = Siem()
    yield made
    made.close()


def ours(record):
    """What the audit record says, without what journald and shippers add."""
    return {n: v for n, v in record.items() if n.startswith("MCP_") or n in ("MESSAGE", "MESSAGE_ID", "PRIORITY")}


def assert_whole(host, lines, sent):
    """Each record that was sent is there, once or more often; none of an impostor; the chain is whole."""
    found = {}
    for line in lines:
        record = json.loads(line)
        assert record["_SYSTEMD_UNIT"] == GATEWAY
        found.setdefault(record["MCP_CHAIN_ID"], {})[int(record["MCP_SEQ"])] = record
    assert {ident: len(records) for ident, records in found.items()} == sent
    for ident in sent:
        arrived = [ours(found[ident][seq]) for seq in sorted(found[ident])]
        assert auditgen.verify(arrived) is None
        assert arrived == [ours(record) for record in host.written(ident)]


@pytest.mark.parametrize("recipe", [Rsyslog, SyslogNg], ids=["rsyslog", "syslog-ng"])
def test_every_record_arrives(host, siem, packages, recipe):
    """Before the shipper's first start, while the SIEM is away, and across a SIGKILL: 28,000 in, 28,000 out."""
    sent = {CHAINS[0]: host.write(CHAINS[0], MANY)}
    host.write("d" * 32, 10, "impostor.service")
    shipper = recipe(packages, host.journald, host.dir, siem.port)
    try:
        shipper.start()
        sent[CHAINS[1]] = host.write(CHAINS[1])
        siem.open()
        wait_for(siem.distinct, sent[CHAINS[0]])
        shipper.kill()
        sent[CHAINS[2]] = host.write(CHAINS[2])
        shipper.start()
        total = sum(sent.values())
        assert sent[CHAINS[0]] > 20000
        wait_for(siem.distinct, total, 90)
        shipper.stop()
    finally:
        shipper.close()
    assert_whole(host, siem.taken(), sent)


def test_every_record_arrives_by_journal_upload(host, siem, packages):
    """The receiver is away at first; the sender is killed in between."""
    sent = {CHAINS[0]: host.write(CHAINS[0], MANY)}
    host.write("d" * 32, 10, "impostor.service")
    shipper = JournalUpload(packages, host.journald, host.dir, siem.port)
    try:
        shipper.start()
        sent[CHAINS[1]] = host.write(CHAINS[1])
        shipper.receive()
        wait_for(shipper.distinct, sent[CHAINS[0]])
        shipper.kill()
        sent[CHAINS[2]] = host.write(CHAINS[2])
        shipper.start()
        wait_for(shipper.distinct, sum(sent.values()), 90)
        lines = shipper.arrived()
    finally:
        shipper.close()
    assert_whole(host, lines, sent)
