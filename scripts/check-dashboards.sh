#!/bin/sh
# Holds the dashboards against Grafana's own types, without a Grafana. Brings the
# package that has them into target/, once; installs nothing on the machine.
set -eu
cd "$(dirname "$0")/.."

# Types of Grafana 11.6, which 13 still reads; the package's versions are dates.
SDK='grafana-foundation-sdk==1769699379!11.6.0'
venv=target/grafana-sdk

if [ ! -e "$venv/$SDK" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$SDK"
    : >"$venv/$SDK"
fi
PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" grafana/roundtrip.py
