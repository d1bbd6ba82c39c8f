"""The recipes of contrib/siem with the real programs: all that the journal has got arrives at the SIEM, unchanged."""

import json
import subprocess
import sys

import pytest

from lib import auditgen, shippers
from lib.audited import Audited, http
from lib.calls import CALL
from lib.journald import Journald
from lib.procs import run
from lib.shippers import JournalUpload, Rsyslog, Siem, SyslogNg, wait_for

CATALOG = shippers.CONTRIB.parents[1] / "packaging/systemd/mcp-tunnel.catalog"
GATEWAY = "mcp-tunnel-gateway.service"
MANY, SOME = 10300, 2000  # calls of a chain; the first alone is more than rsyslog's limit of 20,000 in ten minutes
CHAINS = ("a" * 32, "b" * 32, "c" * 32)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def packages(cache):
    if shippers.why_not():
        pytest.skip(shippers.why_not())
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


def assert_verified(programs, directory, records):
    """mcp-tunnel-audit verify on what arrived, as it arrived."""
    path = directory / "arrived.json"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    status, out, err = run([programs.audit, "verify", path], 120)
    assert status == 0, out + err
    path.write_text(path.read_text().replace("read_file", "read_life", 1))
    assert run([programs.audit, "verify", path], 120)[0] == 1


def assert_whole(programs, host, lines, sent):
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
        assert_verified(programs, host.dir, [found[ident][seq] for seq in sorted(found[ident])])
        assert arrived == [ours(record) for record in host.written(ident)]


@pytest.mark.parametrize("recipe", [Rsyslog, SyslogNg], ids=["rsyslog", "syslog-ng"])
def test_every_record_arrives(host, siem, packages, programs, recipe):
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
    assert_whole(programs, host, siem.taken(), sent)


def test_every_record_arrives_by_journal_upload(host, siem, packages, programs):
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
    assert_whole(programs, host, lines, sent)


def test_journalctl_explains_the_records(programs, work, certs):
    """journalctl -x, with the catalog that is installed: what a record of a real call means and what to do."""
    answer = http(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    audited = Audited(programs, work / "explained", certs, lambda *_: answer)
    try:
        assert audited.post(CALL).status == 200
        audited.stop_programs()
        here = "/usr/lib/systemd/catalog"
        put = 'mount -t tmpfs tmpfs "$1" && cp "$0" "$1/x.catalog" && journalctl --update-catalog'
        audited.journald.run("sh", "-ec", put, CATALOG, here)
        match = ("MESSAGE_ID=b841c1811f564dbba297bc18d8dee8aa", "_COMM=mcp-tunnel-gate")
        said = audited.journald.journalctl("-x", *match).decode()
        (record,) = audited.journald.records(*match)
    finally:
        audited.stop()
    assert "Subject: An agent calls the MCP server" in said
    assert "is own-agent, vouched for by: bearer." in said
    assert f"journalctl MCP_CALL_ID={record['MCP_CALL_ID']}" in said
