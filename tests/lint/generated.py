#!/usr/bin/env python3
"""What is made from tables and kept in the tree: completions, gateway.conf(5), the tables of mcp-tunnel-protocol(7).

generated.py ROOT            checks that the files are what the tables say
generated.py --renew ROOT    writes them; options.py --renew does that, too
"""

import os
import re
import sys
import textwrap

import common

PROGRAMS = ["gateway", "relay"]
BEGIN, END = '.\\" Generated from %s: begin\n', '.\\" Generated: end\n'
ROW = re.compile(r"^(SECTION|OPTION|ACTION)\((.*?)\)$", re.M | re.S)
TABLE_ROW = re.compile(r"^(?:FRAME|REASON)\((.*?)\)$", re.M | re.S)
ARGUMENT = re.compile(r'\s*((?:"(?:\\.|[^"\\])*"\s*)+|[^,"]+)\s*(?:,|$)')
COMMANDS = {"relay": {"tunnel": ["add", "list", "rotate", "remove"], "agent": ["add", "list", "remove"],
                      "status": ["--state-dir", "--admin", "--json"]}}
# Options of these commands, which are not in config.def.
COMMAND_OPTIONS = {"relay": [
    {"name": "tunnel", "type": "STRING", "arg": "NAME", "flags": "", "help": "Tunnel that the agent may use"},
    {"name": "old-for", "type": "STRING", "arg": "TIME", "flags": "", "help": "How long the token before stays valid"},
    {"name": "end-old", "type": "BOOL", "arg": None, "flags": "", "help": "End the token before at once"},
    {"name": "json", "type": "BOOL", "arg": None, "flags": "", "help": "Print JSON (status)"},
    {"name": "admin", "type": "STRING", "arg": "ADDRESS", "flags": "", "help": "Ask there (status)"},
]}


def arguments(text):
    """The arguments of a macro; strings without their quotes, NULL as None."""
    found = []
    for m in ARGUMENT.finditer(text):
        word = m.group(1).strip()
        if word.startswith('"'):
            word = "".join(re.findall(r'"((?:\\.|[^"\\])*)"', word)).replace('\\"', '"')
        found.append(None if word == "NULL" else word)
    return found


def rows(root, short):
    """(kind, dictionary) of each row of config.def."""
    names = ["name", "type", "field", "arg", "value", "min", "max", "flags", "help", "man"]
    text = common.strip_c(common.read(root, "%s/config.def" % short), keep_strings=True)
    for m in ROW.finditer(text):
        found = arguments(m.group(2))
        if m.group(1) == "OPTION":
            yield "OPTION", dict(zip(names, found))
        else:
            yield m.group(1), {"name": found[0], "help": found[-1], "type": m.group(1), "arg": None, "flags": ""}


def options(root, short):
    return [row for kind, row in rows(root, short) if kind != "SECTION"] + COMMAND_OPTIONS.get(short, [])


# Completions.

def choices(row):
    """Values to offer; None where any value is possible."""
    if row["type"] == "BOOL":
        return []
    words = (row["arg"] or "").split("|")
    return [w for w in words if not w.isupper()] if len(words) > 1 else None


def takes_value(row):
    return row["type"] not in ("BOOL", "ACTION", "SECTION")


def bash(root, short):
    program, commands = "mcp-tunnel-" + short, COMMANDS.get(short, {})
    table = options(root, short)
    values = [r for r in table if takes_value(r)]
    files = "|".join("--" + r["name"] for r in values if r["type"] == "FILE")
    lines = ["# Completion of %s for bash; generated from %s/config.def." % (program, short), "",
             "_%s()" % program.replace("-", "_"), "{", "\tlocal cur prev", "", "\tCOMPREPLY=()",
             "\tcur=${COMP_WORDS[COMP_CWORD]}", "\tprev=${COMP_WORDS[COMP_CWORD - 1]}", "\tcase $prev in"]
    if files:
        lines += ["\t%s)" % files, "\t\tCOMPREPLY=($(compgen -f -- \"$cur\"))", "\t\treturn", "\t\t;;"]
    for r in values:
        if r["type"] != "FILE" and choices(r):
            lines += ["\t--%s)" % r["name"], "\t\tCOMPREPLY=($(compgen -W '%s' -- \"$cur\"))" % " ".join(choices(r)),
                      "\t\treturn", "\t\t;;"]
    rest = "|".join("--" + r["name"] for r in values if r["type"] != "FILE" and not choices(r))
    if rest:
        lines += ["\t%s)" % rest, "\t\treturn", "\t\t;;"]
    for noun, verbs in commands.items():
        lines += ["\t%s)" % noun, "\t\tCOMPREPLY=($(compgen -W '%s' -- \"$cur\"))" % " ".join(verbs), "\t\treturn", "\t\t;;"]
    words = list(commands) + ["--" + r["name"] for r in table]
    lines += ["\tesac", "\tCOMPREPLY=($(compgen -W '"]
    lines[-1] += textwrap.fill(" ".join(words), 100, break_on_hyphens=False, break_long_words=False,
                               subsequent_indent="\t\t") + "' -- \"$cur\"))"
    return "\n".join(lines + ["}", "complete -o filenames -F _%s %s" % (program.replace("-", "_"), program), ""])


def zsh_text(text):
    return re.sub(r"([\[\]:\\])", r"\\\1", text).replace("'", "'\\''")


def zsh(root, short):
    program, commands = "mcp-tunnel-" + short, COMMANDS.get(short, {})
    lines = ["#compdef %s" % program, "# Completion of %s for zsh; generated from %s/config.def." % (program, short), ""]
    for i, (noun, verbs) in enumerate(commands.items()):
        lines += ["%s [[ $words[CURRENT-1] == %s ]]; then" % ("elif" if i else "if", noun),
                  "\tcompadd -- %s" % " ".join(verbs), "\treturn"]
    lines += ["fi", ""] if commands else []
    lines.append("_arguments -S \\")
    for r in options(root, short):
        text = "\t'%s--%s" % ("*" if r["type"] == "LIST" else "", r["name"])
        if takes_value(r):
            action = "_files" if r["type"] == "FILE" else "(%s)" % " ".join(choices(r)) if choices(r) else ""
            text += "=[%s]:%s:%s" % (zsh_text(r["help"]), zsh_text(r["arg"]), action)
        else:
            text += "[%s]" % zsh_text(r["help"])
        lines.append(text + "' \\")
    if commands:
        lines.append("\t'1::command:(%s)'" % " ".join(commands))
    else:
        lines[-1] = lines[-1][:-2]
    return "\n".join(lines) + "\n"


def fish_text(text):
    return "'%s'" % text.replace("\\", "\\\\").replace("'", "\\'")


def fish(root, short):
    program = "mcp-tunnel-" + short
    lines = ["# Completion of %s for fish; generated from %s/config.def." % (program, short), "complete -c %s -f" % program]
    for noun, verbs in COMMANDS.get(short, {}).items():
        lines.append("complete -c %s -n __fish_use_subcommand -a %s" % (program, noun))
        lines.append("complete -c %s -n '__fish_seen_subcommand_from %s' -a '%s'" % (program, noun, " ".join(verbs)))
    for r in options(root, short):
        more = ""
        if takes_value(r):
            more = " -r -F" if r["type"] == "FILE" else " -x -a '%s'" % " ".join(choices(r)) if choices(r) else " -x"
        lines.append("complete -c %s -l %s%s -d %s" % (program, r["name"], more, fish_text(r["help"])))
    return "\n".join(lines) + "\n"


# Manual pages.

def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in ".'" else line for line in text.split("\n"))


def filled(text):
    return roff("\n".join(line for sentence in re.split(r"(?<=[.;:]) ", text)
                          for line in textwrap.wrap(sentence, 70, break_on_hyphens=False, break_long_words=False)))


def as_key(text):
    """What the table says of flags, said of keys."""
    return re.sub(r"--([a-z][a-z0-9-]*)", r"\1", text)


def bounds(row):
    said = []
    if "CONFIG_REQUIRED" in row["flags"]:
        said.append("Required.")
    if row["value"]:
        said.append("Default: %s." % row["value"])
    if row["type"] == "LIST":
        said.append("May be given %s times, one line each." % row["max"])
    elif row["min"] and row["max"]:
        zero = "0 for none, or " if "CONFIG_OR_ZERO" in row["flags"] else ""
        said.append("Allowed: %s%s to %s." % (zero, row["min"], row["max"]))
    if "CONFIG_LIVE" in row["flags"]:
        said.append("A reload applies it.")
    return said


def conf_keys(root):
    lines = []
    for kind, row in rows(root, "gateway"):
        if kind == "SECTION" and row["name"] != "Other":
            lines.append(".SS " + roff(row["name"]))
        if kind != "OPTION" or "CONFIG_NO_FILE" in row["flags"]:
            continue
        lines += [".TP", ".BR %s \" = \" \\fI%s\\fR" % (roff(row["name"]), roff(row["arg"])),
                  filled(as_key(row["help"]).rstrip(".") + ".")]
        if row["man"]:
            lines.append(filled(as_key(row["man"])))
        lines += map(roff, bounds(row))
    return "\n".join(lines) + "\n"


def table_rows(root, name):
    return [arguments(m.group(1)) for m in TABLE_ROW.finditer(common.strip_c(common.read(root, name), keep_strings=True))]


def protocol_frames(root):
    sentences = {"SESSION": "Session frame", "STREAM": "Stream frame"}
    lines = []
    for name, number, scope, counted, flags, low, high in table_rows(root, "proto/frames.def"):
        text = "%s, %s" % (sentences[scope], "counted" if counted == "true" else "not counted")
        text += ", may carry END" if "TP_FLAG_END" in flags else ""
        names = {"MAX_FIELDS": "32768", "MAX_DETAIL": "512", "MAX_NOTE": "1024", "MAX_DATA": "the agreed payload limit"}
        size = low if low == high else "%s to %s" % (low, re.sub(r"[A-Z_]+", lambda m: names[m.group(0)], high))
        size = re.sub(r"(\d+) \+ (\d+)", lambda m: str(int(m.group(1)) + int(m.group(2))), size)
        lines += [".TP", ".BR %s \" (%s)\"" % (name, number), roff("%s." % text), roff("Payload: %s bytes." % size)]
    return "\n".join(lines).replace("limit bytes.", "limit.") + "\n"


def protocol_reasons(root):
    lines = []
    for _, code, name, executed, status, _, text in table_rows(root, "proto/reasons.def"):
        maybe = "It may have been executed." if executed == "MAYBE" else "It was not executed."
        lines += [".TP", ".BR %s \" (%s, HTTP %s)\"" % (roff(name), code, status),
                  filled(text[0].upper() + text[1:] + "."), maybe]
    return "\n".join(lines) + "\n"


WHOLE = [("contrib/completions/mcp-tunnel-%s.bash", bash), ("contrib/completions/_mcp-tunnel-%s", zsh),
         ("contrib/completions/mcp-tunnel-%s.fish", fish)]
BLOCKS = [("man/mcp-tunnel-gateway.conf.5", "gateway/config.def", conf_keys),
          ("man/mcp-tunnel-protocol.7", "proto/frames.def", protocol_frames),
          ("man/mcp-tunnel-protocol.7", "proto/reasons.def", protocol_reasons)]


def with_block(text, source, block):
    """The page with its block; None where the marks are missing."""
    start = text.find(BEGIN % source)
    end = text.find(END, max(start, 0))
    if start < 0 or end < 0:
        return None
    return text[:start] + BEGIN % source + block + text[end:]


def wanted(root):
    """{file: content}; None as content where the marks are missing."""
    files = {pattern % short: make(root, short) for short in PROGRAMS for pattern, make in WHOLE}
    for page, source, make in BLOCKS:
        text = files[page] if page in files else common.read(root, page)
        files[page] = None if text is None else with_block(text, source, make(root))
    return files


def check(root):
    problems = []
    for name, content in wanted(root).items():
        if content is None:
            problems.append("%s: the marks of a generated block are missing" % name)
        elif not os.path.exists(os.path.join(root, name)) or common.read(root, name) != content:
            problems.append("%s: not what the tables say; run tests/lint/generated.py --renew" % name)
    return problems


def renew(root):
    for name, content in wanted(root).items():
        if content is None:
            raise SystemExit("%s: the marks of a generated block are missing" % name)
        with open(os.path.join(root, name), "w", encoding="utf-8") as f:
            f.write(content)


_DEF = '''SECTION("One")
OPTION("a-file", FILE, a_file, "FILE", NULL, NULL, NULL, CONFIG_REQUIRED | URL_HTTP,
       "Text, with (a comma) and it's own", "More; see --b. "
       "And more.")
OPTION("b", CHOICE, b, "x|y", "x", NULL, NULL, 0, "B", NULL)
ACTION("help", "Print this help")
'''


def _good():
    import tempfile
    good = {"gateway/config.def": _DEF, "relay/config.def": _DEF,
            "proto/frames.def": "FRAME(HELLO, 0x01, SESSION, false, 0, 0, MAX_FIELDS)\n",
            "proto/reasons.def": 'REASON(NONE, 0, "none", NO, 500, -32603, "no error")\n',
            "man/mcp-tunnel-gateway.conf.5": "a\n" + BEGIN % "gateway/config.def" + END + "b\n",
            "man/mcp-tunnel-protocol.7": "".join(BEGIN % s + END for s in ("proto/frames.def", "proto/reasons.def"))}
    with tempfile.TemporaryDirectory() as root:
        common._write(root, good)
        good.update(wanted(root))
    return good


if __name__ == "__main__":
    if sys.argv[1:2] == ["--renew"]:
        renew(sys.argv[2])
        sys.exit(0)
    GOOD = _good() if sys.argv[1:] == ["--self-test"] else {}
    BAD = [
        ("contrib/completions/mcp-tunnel-relay.bash: not what",
         {"contrib/completions/mcp-tunnel-relay.bash": "complete\n"}),
        ("contrib/completions/_mcp-tunnel-gateway: not what", {"contrib/completions/_mcp-tunnel-gateway": ""}),
        ("man/mcp-tunnel-gateway.conf.5: the marks", {"man/mcp-tunnel-gateway.conf.5": "a\n"}),
        ("man/mcp-tunnel-protocol.7: not what",
         {"man/mcp-tunnel-protocol.7": GOOD.get("man/mcp-tunnel-protocol.7", "").replace("0x01", "0x02")}),
    ]
    sys.exit(common.main(check, GOOD, BAD))
