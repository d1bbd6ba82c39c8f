"""The tables in data/: bytes that a hostile end sends. Their form is told at the beginning of each."""

import ast
import pathlib
import re
from dataclasses import dataclass

DATA = pathlib.Path(__file__).parent.parent / "data"


@dataclass(frozen=True)
class Case:
    name: str
    comes: tuple
    text: str

    def bytes(self, **names):
        """With $X replaced by what names has for X."""
        text = re.sub(r"(?<!\\)\{(.+?)\}\*(\d+)", lambda m: m.group(1) * int(m.group(2)), self.text)
        text = text.replace(r"\{", "{").replace(r"\}", "}")
        data = ast.literal_eval('b"' + text.replace('"', r"\"") + '"')
        for _ in range(2):
            data = re.sub(rb"\$([A-Z])", lambda m: names[m.group(1).decode()], data)
        return data


def read(name):
    cases = []
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            case, comes, text = (line + " ").split(" | ", 2)
            cases.append(Case(case, tuple(comes.split()), text[:-1]))
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases of one name"
    return cases
