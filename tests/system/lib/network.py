"""A network of its own for the systems of a test: one switch, one network namespace and address for each."""

import itertools
import os

from . import shell

_numbers = itertools.count(1)


class Network:
    def __init__(self):
        self.name = "mcpsys-%d-%d" % (os.getpid(), next(_numbers))
        self.namespaces = []
        self._add(self.name)
        self.ip("link", "add", "switch", "type", "bridge")
        self.ip("link", "set", "switch", "up")

    def _add(self, name):
        shell.run(["ip", "netns", "add", name])
        self.namespaces.append(name)

    def ip(self, *words, namespace=None):
        return shell.run(["ip", "-n", namespace or self.name] + list(words)).stdout

    def add(self, up=True):
        """(namespace, address) of a new member."""
        n = len(self.namespaces)
        name, address = "%s-%d" % (self.name, n), "10.77.0.%d" % n
        self._add(name)
        self.ip("link", "add", "port%d" % n, "type", "veth", "peer", "name", "eth0", "netns", name)
        self.ip("link", "set", "port%d" % n, "master", "switch")
        self.ip("link", "set", "port%d" % n, "up")
        self.ip("link", "set", "lo", "up", namespace=name)
        if up:
            self.up(name, address)
        return name, address

    def up(self, namespace, address):
        self.ip("address", "add", address + "/24", "dev", "eth0", namespace=namespace)
        self.ip("link", "set", "eth0", "up", namespace=namespace)

    def done(self):
        for name in reversed(self.namespaces):
            shell.run(["ip", "netns", "delete", name], check=False)
        self.namespaces = []
