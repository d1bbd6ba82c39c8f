#!/usr/bin/env python3
"""Folders are layers: base < proto < daemon < gateway, relay. Checks every #include, and that proto/ has no clock."""

import os
import re
import sys

import common

# The only files that may include OpenSSL, and libsystemd.
OPENSSL_FILES = ["daemon/tls.c", "daemon/tls.h", "daemon/tls_pump.c", "daemon/channel.c", "daemon/digest.c"]
SYSTEMD_FILES = ["daemon/notify.c", "daemon/journal.c", r"daemon/audit\w*.c"]

BELOW = {
    "base": {"base"},
    "proto": {"base", "proto"},
    "daemon": {"base", "proto", "daemon"},
    "gateway": {"base", "proto", "daemon", "gateway"},
    "relay": {"base", "proto", "daemon", "relay"},
    "contrib": {"base", "contrib"},
}
LIBEVENT = re.compile(r"event2/|event\.h$|evhttp\.h$|evutil\.h$")
INIH = re.compile(r"ini\.h$")
PROTO_PRIVATE = {"proto/%s.h" % n for n in ["conn_impl", "replay", "sched", "stream", "window", "frame", "json"]}
# What reads logs, which are JSON.
PROTO_PRIVATE_USERS = {("proto/json.h", "gateway/audit/logrecord.c")}
NOT_FOR_PROTO = {"base/log.h"}

ISO_C = """assert ctype errno float inttypes iso646 limits locale math stdalign stdarg stdbool stddef stdint stdio
    stdlib stdnoreturn string time""".split()
PROTO_LIBC = {h + ".h" for h in ISO_C + ["endian", "strings", "sys/queue", "sys/types"]}
LIBC = PROTO_LIBC | {h + ".h" for h in """dirent dlfcn err fcntl fnmatch getopt glob grp ifaddrs libgen malloc mntent
    netdb paths poll pthread pwd regex sched search semaphore setjmp signal spawn stdatomic syscall syslog sysexits termios
    threads uchar ucontext unistd wchar""".split()}
LIBC_FOLDERS = re.compile(r"(sys|net|netinet|arpa|linux|asm)/")

CLOCKS = re.compile(r"(?<![\w.>])"
                    r"(clock_gettime|clock_nanosleep|gettimeofday|timespec_get|time|clock|nanosleep|u?sleep)\s*\(")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>|(\w+))')


def layer_of(name):
    return name.split("/")[0]


def check_own(root, name, inc):
    layer, target = layer_of(name), layer_of(inc)
    if "/" not in inc and layer != "contrib":
        return "name it with its folder"
    if layer == "contrib" and target not in BELOW:
        return None
    if target not in BELOW[layer]:
        return "%s/ may not include %s/" % (layer, target)
    if inc in PROTO_PRIVATE and layer != "proto" and (inc, name) not in PROTO_PRIVATE_USERS:
        return "private header of proto/"
    if inc in NOT_FOR_PROTO and layer == "proto":
        return "proto/ never logs"
    if not os.path.exists(os.path.join(root, inc)):
        return "no such file"
    return None


def check_system(name, inc):
    layer = layer_of(name)
    if inc.startswith("openssl/"):
        return None if name in OPENSSL_FILES else "OpenSSL is only for " + ", ".join(OPENSSL_FILES)
    if inc.startswith("systemd/"):
        ok = any(re.fullmatch(f.replace(".c", r"\.c"), name) for f in SYSTEMD_FILES)
        return None if ok else "libsystemd is only for notify, journal and audit of daemon/"
    if LIBEVENT.match(inc) or INIH.match(inc):
        return None if layer in ("daemon", "gateway", "relay") else "%s/ uses libc only" % layer
    if layer == "proto":
        return None if inc in PROTO_LIBC else "proto/ has no I/O, no clock, no threads"
    return None if inc in LIBC or LIBC_FOLDERS.match(inc) else "unknown library"


def check(root):
    problems = []
    for name in common.walk(root, [".c", ".h"], [f for f in BELOW if os.path.isdir(os.path.join(root, f))]):
        text = common.read(root, name)
        for n, line in enumerate(common.strip_c(text, keep_strings=True).split("\n"), 1):
            m = INCLUDE.match(line)
            if not m:
                continue
            own, system, macro = m.groups()
            if macro:
                why = "a macro hides what is included"
            elif own:
                why = check_own(root, name, own)
            else:
                why = None if layer_of(name) == "contrib" else check_system(name, system)
            if why:
                problems.append("%s:%d: #include of %s: %s" % (name, n, own or system or macro, why))
        if layer_of(name) == "proto":
            for n, line in enumerate(common.strip_c(text).split("\n"), 1):
                m = CLOCKS.search(line)
                if m:
                    problems.append("%s:%d: %s(): time is an argument in proto/" % (name, n, m.group(1)))
    return problems


GOOD = {
    "base/buf.h": "#include <string.h>\n",
    "base/log.h": "",
    "proto/json.h": '#include "base/buf.h"\n#include <time.h>\n/* no time() here */\nint x(uint64_t time);\n',
    "proto/mcp.h": '#include "proto/json.h"\n// #include <openssl/ssl.h>\n',
    "daemon/tls.c": "#include <openssl/ssl.h>\n",
    "daemon/audit_journal.c": "#include <systemd/sd-journal.h>\n",
    "daemon/loop.c": '#include <event2/event.h>\n#include <sys/socket.h>\n#include "proto/mcp.h"\n'
                     '#include "base/log.h"\n',
    "gateway/main.h": '#include "proto/mcp.h"\n#include <event2/event.h>\n',
    "gateway/audit/logrecord.c": '#include "proto/json.h"\n',
    "relay/main.h": "",
    "contrib/tool/tool.c": '#include <openssl/ssl.h>\n#include "tool.h"\n#include "base/buf.h"\n',
}
BAD = [
    ("base/ may not include proto/", {"base/a.c": '#include "proto/mcp.h"\n'}),
    ("proto/ may not include daemon/", {"proto/a.c": '#  include "daemon/loop.h"\n'}),
    ("daemon/ may not include gateway/", {"daemon/a.c": '#include "gateway/main.h"\n'}),
    ("gateway/ may not include relay/", {"gateway/a.c": '#include "relay/main.h"\n'}),
    ("relay/ may not include gateway/", {"relay/a.c": '#include "gateway/main.h"\n'}),
    ("gateway/ may not include tests/", {"gateway/a.c": '#include "tests/lib/unit.h"\n'}),
    ("private header", {"relay/a.c": '#include "proto/json.h"\n'}),
    ("private header", {"daemon/a.c": '#include "proto/json.h"\n'}),
    ("private header", {"gateway/audit/a.c": '#include "proto/json.h"\n'}),
    ("never logs", {"proto/a.c": '#include "base/log.h"\n'}),
    ("with its folder", {"proto/a.c": '#include "json.h"\n'}),
    ("no such file", {"proto/a.c": '#include "proto/jsom.h"\n'}),
    ("a macro", {"proto/a.c": "#include WHAT\n"}),
    ("OpenSSL is only", {"daemon/digest.h": "#include <openssl/evp.h>\n"}),
    ("OpenSSL is only", {"gateway/a.c": "#include <openssl/evp.h>\n"}),
    ("libsystemd is only", {"daemon/loop2.c": "#include <systemd/sd-daemon.h>\n"}),
    ("libc only", {"base/a.c": "#include <event2/event.h>\n"}),
    ("unknown library", {"daemon/a.c": "#include <curl/curl.h>\n"}),
    ("no I/O", {"proto/a.c": "#include <sys/socket.h>\n"}),
    ("no I/O", {"proto/a.c": "#include <pthread.h>\n"}),
    ("libc only", {"proto/a.c": "#include <event2/event.h>\n"}),
    ("OpenSSL is only", {"proto/a.c": "#include <openssl/ssl.h>\n"}),
    ("time is an argument", {"proto/a.c": "long f(void)\n{\n\treturn time(NULL);\n}\n"}),
    ("time is an argument", {"proto/a.c": "x = 1 + clock_gettime(CLOCK_MONOTONIC, &t);\n"}),
    ("contrib/ may not include proto/", {"contrib/tool/b.c": '#include "proto/mcp.h"\n'}),
    ("contrib/ may not include gateway/", {"contrib/tool/b.h": '#include "gateway/main.h"\n'}),
    ("no such file", {"contrib/tool/b.c": '#include "base/bug.h"\n'}),
    ("no I/O", {"proto/a.c": "#include <stdatomic.h>\n"}),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
