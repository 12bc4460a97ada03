"""The table of faults in docs/reliability.md: rows by name, each with the command that made it."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Sequence

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->"
HEAD = "| fault | tries | outcome | command |\n| --- | ---: | --- | --- |\n"


@dataclasses.dataclass(frozen=True)
class Row:
    """A fault, how often it was tried, what came of it, and what of that breaks a promise."""

    fault: str
    tries: int
    outcome: str
    wrong: tuple[str, ...] = ()


def write(rows: Sequence[Row], command: str, path: pathlib.Path = DOCUMENT) -> None:
    """Puts rows and the command that made them into the table, in place of those of that name."""
    text = path.read_text()
    inside = text.partition(BEGIN)[2].partition(END)[0]
    lines = {_name(line): line for line in inside.splitlines()[2:]}
    for row in rows:
        outcome = f"BROKEN: {'; '.join(row.wrong)}" if row.wrong else row.outcome
        cells = [row.fault, str(row.tries), outcome, f"`{command}`"]
        line = (
            "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
        )
        lines[_name(line)] = line
    path.write_text(replaced(text, BEGIN, END, HEAD + "\n".join(lines.values()) + "\n"))


def replaced(text: str, begin: str, end: str, inside: str) -> str:
    """Returns a text with something else between two marks, each of which it has once."""
    before, rest = text.split(begin)
    return f"{before}{begin}{inside}{end}{rest.split(end)[1]}"


def _name(line: str) -> str:
    return re.split(r" (?<!\\)\| ", line, maxsplit=1)[0]
