"""Reads every dashboard into Grafana's own types and writes it again.

What those types do not know is lost on the way, so a key that is misspelt or
stands in the wrong place is found without a Grafana. Needs the package
grafana-foundation-sdk (scripts/check-dashboards.sh brings it); says nothing about
how a panel looks.
"""

import json
import pathlib
import re
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

# Prometheus's own keys of an annotation: Grafana reads them (packages/grafana-prometheus/src/annotations.ts),
# and the types leave them out.
UNTYPED = re.compile(r"\.annotations\.list\[\d+\]\.(step|titleFormat|textFormat)")


def leaves(value, place=""):
    """Every value that is no list and no object, with where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{place}[{index}]")
    elif value is not None:
        yield place, value


def main():
    register_default_plugins()
    boards = sorted((pathlib.Path(__file__).parent / "dashboards").glob("*.json"))
    faults = 0
    for path in boards:
        board = json.loads(path.read_text(encoding="utf-8"))
        back = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
        kept = dict(leaves(back))
        for place, value in leaves(board):
            if kept.get(place) != value and not UNTYPED.fullmatch(place):
                print(f"{path.name}: {place} = {value!r} came back as {kept.get(place)!r}", file=sys.stderr)
                faults += 1
    if faults or not boards:
        sys.exit(f"{faults} values of {len(boards)} dashboards are unknown to Grafana's types")
    print(f"{len(boards)} dashboards are made of what Grafana's types know")


main()
