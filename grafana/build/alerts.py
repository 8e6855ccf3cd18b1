"""The alerts with the sections of the RUNBOOK that they link to.

Reads prometheus/paystream.rules.yml, in which every alert has a line `- alert: Name`
and, below it, `runbook_url: address#section`. Knows nothing else of YAML.
"""

import pathlib
import re

_RULES = pathlib.Path(__file__).resolve().parents[2] / "prometheus" / "paystream.rules.yml"
_LINES = r"^ *- alert: (\w+)$(?:(?!\n *- ).)*?^ *runbook_url: (\S+)#(\S+)$"
_FOUND = re.findall(_LINES, _RULES.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

# The section of each alert, by its anchor.
SECTIONS = {name: section for name, _, section in _FOUND}

# Where the RUNBOOK is read in a browser.
RUNBOOK = _FOUND[0][1]


def runbook(heading):
    """Where a section of the RUNBOOK is read; anchors are as those who show Markdown make them."""
    section = re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
    return f"{RUNBOOK}#{section}"
