"""Stands in for Grafana. Reads what is provisioned, refuses dashboards whose data source is not,
writes to its data folder, answers for its health, and tells which data sources answer. Never draws
a panel and never asks a query."""

import glob
import json
import os

import yaml

from common import ask, fail, serve_http, until_stopped, values, writable

PROVISIONING = "/etc/grafana/provisioning"
DATA = "/var/lib/grafana"
# What each kind of data source answers at when it is well.
READY = {"prometheus": "/-/ready", "alertmanager": "/-/ready", "tempo": "/ready"}
# Grafana's own.
BUILT_IN = {"grafana", "-- Grafana --", "-- Mixed --", "-- Dashboard --"}


def provisioned(kind):
    files = sorted(glob.glob(f"{PROVISIONING}/{kind}/*.y*ml"))
    if not files:
        fail(f"nothing is mounted in {PROVISIONING}/{kind}")
    for path in files:
        with open(path) as file:
            yield yaml.safe_load(file)


sources = {one["uid"]: one for file in provisioned("datasources") for one in file["datasources"]}
for one in sources.values():
    if one["type"] not in READY:
        fail(f"there is no stand-in for data sources of the type {one['type']}")
dashboards = []
for file in provisioned("dashboards"):
    for provider in file["providers"]:
        folder = provider["options"]["path"]
        dashboards += glob.glob(f"{folder}/*.json") or fail(f"there is no dashboard in {folder}")
for path in dashboards:
    with open(path) as file:
        board = json.load(file)
    for source in values(board, lambda key: key in ("datasource", "datasourceUid")):
        uid = source.get("uid") if isinstance(source, dict) else source
        if uid and not uid.startswith("$") and uid not in BUILT_IN and uid not in sources:
            fail(f"{path} asks the data source {uid}, which is not provisioned")
home = os.environ.get("GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH")
if home and home not in dashboards:
    fail(f"the home board {home} is none of those that are mounted")
if not os.environ.get("GF_SECURITY_ADMIN_PASSWORD"):
    fail("there is no password for the admin")
writable(DATA)


def answers(source):
    try:
        ask(source["url"] + READY[source["type"]])
    except OSError:
        return False
    return True


def get(path):
    if path == "/api/health":
        return json.dumps({"database": "ok"})
    if path == "/stand-in":
        reached = {uid: answers(source) for uid, source in sources.items()}
        return json.dumps({"dashboards": len(dashboards), "reached": reached})
    return None


serve_http("0.0.0.0:3000", get)
until_stopped()
