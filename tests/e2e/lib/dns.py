"""A DNS server of a test's own, in a network namespace, and the mount namespace that makes programs ask it."""

import socket
import struct
import threading

A, AAAA = 1, 28


class Dns:
    """names: {name: [addresses]}, changed at will; with silent = True nothing is answered. `asked` counts."""

    def __init__(self, namespace, directory, names):
        self.names, self.silent, self.asked = names, False, 0
        self.conf = directory / "resolv.conf"
        self.conf.write_text("nameserver 127.0.0.1\noptions timeout:3 attempts:1\n")
        with namespace.entered():
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.sock.bind(("127.0.0.1", 53))
        self.prefix = [*namespace.prefix(), "unshare", "-m", "sh", "-ec", 'mount --bind "$0" /etc/resolv.conf; exec "$@"', self.conf]
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self):
        self.sock.close()

    def _serve(self):
        while True:
            try:
                query, peer = self.sock.recvfrom(4096)
                self.asked += 1
                if not self.silent:
                    self.sock.sendto(self._answer(query), peer)
            except OSError:
                return

    def _answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        (kind,) = struct.unpack_from("!H", query, at + 1)
        known = self.names.get(".".join(labels).lower())
        family = {A: socket.AF_INET, AAAA: socket.AF_INET6}.get(kind)
        packed = [socket.inet_pton(family, it) for it in known or () if family and (":" in it) == (kind == AAAA)]
        flags = 0x8180 if known is not None else 0x8183
        head = query[:2] + struct.pack("!HHHHH", flags, 1, len(packed), 0, 0)
        records = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(it)) + it for it in packed)
        return head + query[12 : at + 5] + records
