#!/usr/bin/env python3
"""contrib/siem knows every field of the audit record, and no other; its rules name ids that exist, and match the unit.

The expressions of the Wazuh decoder are tried on lines as the product writes them.
"""

import json
import os
import re
import sys
import xml.etree.ElementTree as ElementTree

import common

README = "contrib/siem/README.md"
SPLUNK = "contrib/siem/splunk/inputs.conf"
DECODERS = "contrib/siem/wazuh/decoders.xml"
UNITS = ("mcp-tunnel-gateway", "mcp-tunnel-relay")
NAME = re.compile(r'"(MCP_[A-Z0-9_]*[A-Z0-9])"')
RECIPES = (".conf", ".yaml", ".yml", ".xml")
# Configuration of receivers and services, which sees records that were matched before.
UNMATCHED = ("props.conf", "restart.conf", "journal-upload.conf", "decoders.xml", "rules.xml")
LINE = (
    'MCPAUDIT v=1 ev=call.response seq=42 call=01890000-0000-7000-8000-000000000001 agent="al \\"ice\\" status=ok" '
    'method=tools/call tool="x\\\\ decision=deny method=no" decision=allow status=rpc_error reason=none chain='
    + "ab" * 32
)
SAID = {
    "mcp.event": "call.response",
    "mcp.seq": "42",
    "mcp.call": "01890000-0000-7000-8000-000000000001",
    "mcp.agent": 'al \\"ice\\" status=ok',
    "mcp.method": "tools/call",
    "mcp.tool": "x\\\\ decision=deny method=no",
    "mcp.decision": "allow",
    "mcp.status": "rpc_error",
    "mcp.reason": "none",
    "mcp.chain": "ab" * 32,
}


def audit_sources(root):
    names = [n for n in common.walk(root, [".c", ".h"], ["daemon"]) if os.path.basename(n).startswith("audit")]
    return "\n".join(common.strip_c(common.read(root, n), keep_strings=True) for n in names)


def differences(where, said, wanted):
    yield from ("%s: %s of the audit record is missing" % (where, n) for n in sorted(wanted - said))
    yield from ("%s: %s is no field of the audit record" % (where, n) for n in sorted(said - wanted))


def check_fields(root, fields):
    table = re.findall(r"^\| `(MCP_\w+)` \|", common.read(root, README), re.M)
    yield from differences(README, set(table), fields)
    yield from ("%s: %s is there twice" % (README, n) for n in sorted(set(table)) if table.count(n) > 1)
    listed = re.search(r"^journalctl-include-fields = (.*)$", common.read(root, SPLUNK), re.M)
    said = set(listed.group(1).split(",") if listed else [])
    yield from differences(SPLUNK, {n for n in said if n.startswith("MCP_")}, fields)


def check_decoders(root):
    found = {}
    for decoder in ElementTree.fromstring("<r>%s</r>" % common.read(root, DECODERS)).iter("decoder"):
        match = re.search(decoder.findtext("regex") or "$^", LINE)
        for number, name in enumerate((decoder.findtext("order") or "").split(", "), 1):
            if match and name:
                found[name] = match.group(number)
    for name in sorted(SAID):
        if found.get(name) != SAID[name]:
            yield "%s: %s is %r of a line that says %r" % (DECODERS, name, found.get(name), SAID[name])


def check_recipe(root, name, ids):
    text = common.read(root, name)
    if name.endswith(".json"):
        json.loads(text)
    if name.endswith(".xml"):
        ElementTree.fromstring("<r>%s</r>" % text)
    if not name.endswith(RECIPES) or os.path.basename(name) in UNMATCHED:
        return
    if "_SYSTEMD_UNIT" not in text or not any(unit[:11] in text for unit in UNITS):
        yield "%s: does not match the unit" % name
    for ident in re.findall(r"\b[0-9a-f]{32}\b", text):
        if ident not in ids:
            yield "%s: %s is the id of no audit record" % (name, ident)
    for field in re.findall(r"\bMCP_[A-Z0-9_]*[A-Z0-9]", text):
        if field not in ids:
            yield "%s: %s is no field of the audit record" % (name, field)


def check(root):
    code = audit_sources(root)
    fields, ids = set(NAME.findall(code)), set(re.findall(r'"([0-9a-f]{32})"', code))
    problems = [*check_fields(root, fields), *check_decoders(root)]
    for name in common.walk(root, [*RECIPES, ".json"], ["contrib/siem"]):
        try:
            problems += check_recipe(root, name, ids | fields)
        except (ValueError, ElementTree.ParseError) as e:
            problems.append("%s: %s" % (name, e))
    for unit in UNITS:
        if not os.path.exists(os.path.join(root, "packaging/systemd/%s.service" % unit)):
            problems.append("packaging/systemd/%s.service: the recipes match it, and it does not exist" % unit)
    return problems


def _decoder(expression, order):
    return "<decoder name='x'><regex>%s</regex><order>%s</order></decoder>\n" % (expression, order)


_QUOTED = r'(?:[^"]|"(?:[^"\\]|\\.)*")*?'
_DECODERS = "".join(
    [
        _decoder(r"ev=(\S+) seq=(\d+)", "mcp.event, mcp.seq"),
        _decoder(r'call=(\S+) agent="((?:[^"\\]|\\.)*)"', "mcp.call, mcp.agent"),
        _decoder(r'tool="((?:[^"\\]|\\.)*)"', "mcp.tool"),
        _decoder(r" chain=(\w+)$", "mcp.chain"),
    ]
    + [_decoder("^%s %s=([^ ]+)" % (_QUOTED, n), "mcp.%s" % n) for n in ("method", "decision", "status", "reason")]
)
_ID = "0123456789abcdef" * 2
_RULE = "detection:\n  unit: {_SYSTEMD_UNIT: mcp-tunnel-gateway.service}\n  record: {MESSAGE_ID: %s, MCP_X: 1}\n" % _ID
GOOD = {
    "daemon/audit.c": '"MCP_X", "MCP_Y", "%s", "MCP_" /* "MCP_Z" */\n' % _ID,
    "packaging/systemd/mcp-tunnel-gateway.service": "[Unit]\n",
    "packaging/systemd/mcp-tunnel-relay.service": "[Unit]\n",
    README: "| `MCP_X` | a |\n| `MCP_Y` | b |\n",
    SPLUNK: "[journald://x]\njournalctl-filter = _SYSTEMD_UNIT=mcp-tunnel-gateway.service\n"
    "journalctl-include-fields = MESSAGE,MCP_X,MCP_Y\n",
    DECODERS: _DECODERS,
    "contrib/siem/rules/a.yml": _RULE,
    "contrib/siem/elastic/a.json": "{}\n",
}
BAD = [
    ("MCP_Y of the audit record is missing", {README: "| `MCP_X` | a |\n"}),
    ("MCP_Z is no field", {README: GOOD[README] + "| `MCP_Z` | c |\n"}),
    ("there twice", {README: GOOD[README] + "| `MCP_X` | c |\n"}),
    ("MCP_Y of the audit record is missing", {SPLUNK: GOOD[SPLUNK].replace(",MCP_Y", "")}),
    ("mcp.seq is", {DECODERS: _DECODERS.replace("seq=", "sequence=")}),
    ("mcp.status is 'ok", {DECODERS: _DECODERS.replace("^%s status" % _QUOTED, "^.*? status")}),
    ("does not match the unit", {"contrib/siem/rules/b.yml": _RULE.replace("_SYSTEMD_UNIT", "UNIT")}),
    ("id of no audit record", {"contrib/siem/rules/b.yml": _RULE.replace(_ID, _ID[::-1])}),
    ("MCP_Q is no field", {"contrib/siem/rules/b.yml": _RULE.replace("MCP_X", "MCP_Q")}),
    ("b.json", {"contrib/siem/elastic/b.json": "{,}\n"}),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
