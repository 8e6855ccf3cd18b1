"""The alerts and the headings of the RUNBOOK that they name, and addresses of the RUNBOOK.

Reads prometheus/paystream.rules.yml, in which every alert has a line
`- alert: Name` and, below it, `runbook: Heading`. Knows nothing else of YAML.
"""

import pathlib
import re

# Where the RUNBOOK is read in a browser. The rules' `runbook_url` begin with it, too.
RUNBOOK = "https://github.com/paystream/paystream/blob/main/RUNBOOK.md"

_RULES = pathlib.Path(__file__).resolve().parents[2] / "prometheus" / "paystream.rules.yml"


def anchor(heading):
    """The anchor of a heading, as those who show Markdown make it."""
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


def runbook(heading):
    """Where a heading of the RUNBOOK is read."""
    return f"{RUNBOOK}#{anchor(heading)}"


def _headings():
    name, named = None, {}
    for line in _RULES.read_text(encoding="utf-8").splitlines():
        if found := re.match(r" *- alert: (\w+)$", line):
            name = found[1]
        elif found := re.match(r" *runbook: (.+)$", line):
            named[name] = found[1]
    return named


# Of each alert.
HEADINGS = _headings()
