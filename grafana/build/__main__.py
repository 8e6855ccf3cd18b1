"""Writes the dashboards: `python3 grafana/build`; with --check only compares.

The JSON beside this folder is what Grafana reads, and it is committed; this is
what people change. A test holds the one against the other. Needs nothing but
Python, and talks to nobody.
"""

import json
import pathlib
import sys

sys.dont_write_bytecode = True

import business  # noqa: E402
import infrastructure  # noqa: E402
import partitions  # noqa: E402
import payments  # noqa: E402
import traces  # noqa: E402

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "dashboards"
BOARDS = {
    "payments-operations.json": payments.BOARD,
    "partitions.json": partitions.BOARD,
    "infrastructure.json": infrastructure.BOARD,
    "business.json": business.BOARD,
    "traces.json": traces.BOARD,
}


def main():
    written = {name: json.dumps(board, indent=2, ensure_ascii=False) + "\n" for name, board in BOARDS.items()}
    if sys.argv[1:] != ["--check"]:
        for name, text in written.items():
            (FOLDER / name).write_text(text, encoding="utf-8")
        return
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    differ = sorted(name for name in written.keys() | there.keys() if written.get(name) != there.get(name))
    if differ:
        sys.exit(f"grafana/dashboards differ from grafana/build: {', '.join(differ)}; run `python3 grafana/build`")


main()
