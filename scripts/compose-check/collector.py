"""Stands in for the OpenTelemetry collector. Reads the mounted configuration, refuses components
that are named and not defined, paths that do not exist, and receivers and exporters that it does
not know; takes OTLP over gRPC and HTTP, hands spans on to Tempo, and shows metrics to Prometheus
under the collector's names, which otlp_receiver of examples/ makes. Of hosts and stores it tells
only whether what the receiver would ask is answered. Never keeps anything, and is not the
collector: whether the collector takes this configuration, it does not say."""

import os
import re
import subprocess
import threading
import time

import grpc
import psycopg
import redis

from common import METRICS, TRACES, ask, fail, option, read, serve_grpc, serve_http
from common import until_stopped, values

# How often hosts and stores are asked.
PAUSE = 10
RECEIVER_GRPC, RECEIVER_HTTP = "127.0.0.1:14317", "127.0.0.1:14318"


def kind(component):
    return component.partition("/")[0]


config = read(option("config"))
for path in values(config, lambda key: key == "root_path" or key.endswith("_file")):
    if not os.path.exists(path):
        fail(f"the configuration names {path}, which does not exist")
service = config["service"]
for name in service.get("extensions", []):
    if name not in config.get("extensions", {}):
        fail(f"the extension {name} is not defined")
used = {"receivers": set(), "processors": set(), "exporters": set()}
for pipeline, parts in service["pipelines"].items():
    for part, names in parts.items():
        for name in names:
            if name not in (config.get(part) or {}):
                fail(f"pipeline {pipeline}: {name} of its {part} is not defined")
            used[part].add(name)

# Names and labels are made by the program that the tests have.
receiver = subprocess.Popen(
    ["/stand-ins/otlp_receiver", "--grpc", RECEIVER_GRPC, "--metrics", RECEIVER_HTTP]
)
threading.Thread(target=lambda: os._exit(receiver.wait() or 1), daemon=True).start()
made = grpc.insecure_channel(RECEIVER_GRPC)

forward, failed, collected = {}, {}, {}


def take(method, request):
    made.unary_unary(method)(request, timeout=5, wait_for_ready=True)
    if method == TRACES:
        for name, channel in forward.items():
            try:
                channel.unary_unary(method)(request, timeout=5)
            except grpc.RpcError:
                # The collector would try again later.
                failed[name] += 1


def page(own):
    """Series of the collector itself, or all the others."""
    lines = ask(f"http://{RECEIVER_HTTP}/metrics").splitlines()

    def family(line):
        return line.split(" ")[2] if line.startswith("#") else line

    shown = [line for line in lines if family(line).startswith("otelcol_") == own]
    if own:
        for metric, label, values_of in (
            ("stand_in_forward_failures", "exporter", failed),
            ("stand_in_collected", "receiver", collected),
        ):
            shown += [f'{metric}{{{label}="{name}"}} {n}' for name, n in values_of.items()]
    return "\n".join(shown) + "\n"


for name in used["exporters"]:
    settings = config["exporters"][name] or {}
    match kind(name):
        case "otlp_grpc" | "otlp":
            if not settings.get("tls", {}).get("insecure"):
                fail(f"{name}: this stand-in speaks no TLS")
            forward[name], failed[name] = grpc.insecure_channel(settings["endpoint"]), 0
        case "prometheus":
            serve_http(settings["endpoint"], lambda path: page(False) if path == "/metrics" else None)
        case "debug" | "nop":
            pass
        case _:
            fail(f"there is no stand-in for the exporter {name}")

for reader in service.get("telemetry", {}).get("metrics", {}).get("readers", []):
    at = reader["pull"]["exporter"]["prometheus"]
    serve_http(
        f"{at['host']}:{at['port']}", lambda path: page(True) if path == "/metrics" else None
    )


def take_http(path, body, headers):
    if path not in ("/v1/traces", "/v1/metrics"):
        return None
    kept = ("Content-Type", "Content-Encoding")
    passed = {name: headers[name] for name in kept if name in headers}
    return ask(f"http://{RECEIVER_HTTP}{path}", body, passed)


def ask_redis(settings):
    host, port = settings["endpoint"].rsplit(":", 1)
    login = {name: settings.get(name) for name in ("username", "password")}
    redis.Redis(host, int(port), socket_timeout=5, **login).info("all")


def ask_postgresql(settings):
    host, port = settings["endpoint"].rsplit(":", 1)
    tls = "disable" if settings.get("tls", {}).get("insecure") else "require"
    for database in settings.get("databases") or ["postgres"]:
        with psycopg.connect(
            host=host,
            port=port,
            user=settings["username"],
            password=settings["password"],
            dbname=database,
            sslmode=tls,
            connect_timeout=5,
        ) as connection:
            for view in ("activity", "database", "bgwriter", "replication", "user_tables"):
                connection.execute(f"select count(*) from pg_stat_{view}")
            connection.execute("select pg_database_size(current_database()), count(*) from pg_locks")


def ask_sql(settings):
    if settings["driver"] != "postgres":
        fail(f"there is no stand-in for the driver {settings['driver']}")
    with psycopg.connect(settings["datasource"]) as connection:
        for query in settings["queries"]:
            answer = connection.execute(query["sql"])
            columns = {column.name for column in answer.description}
            for metric in query["metrics"]:
                missing = {metric["value_column"], *metric.get("attribute_columns", [])} - columns
                if missing:
                    raise psycopg.Error(f"the answer has no {missing}")
            if not answer.fetchall():
                raise psycopg.Error(f"no row: {query['sql']}")


def ask_host(settings):
    root = settings.get("root_path", "/")
    for file in ("stat", "meminfo", "loadavg"):
        open(f"{root}/proc/{file}").close()
    with open(f"{root}/proc/self/mountinfo") as file:
        mounts = [line.split(" ")[4] for line in file]
    filesystem = settings["scrapers"].get("filesystem") or {}
    for pattern in filesystem.get("include_mount_points", {}).get("mount_points", []):
        found = [mount for mount in mounts if re.search(pattern, mount)]
        if not found:
            raise OSError(f"nothing is mounted at {pattern}")
        for mount in found:
            os.statvfs(mount)


def ask_pages(settings):
    for target in settings["targets"]:
        for url in target.get("endpoints", []) + [target.get("endpoint")]:
            if url:
                ask(url)


ASKS = {
    "redis": ask_redis,
    "postgresql": ask_postgresql,
    "sqlquery": ask_sql,
    "nginx": lambda settings: ask(settings["endpoint"]),
    "hostmetrics": ask_host,
    "host_metrics": ask_host,
    "httpcheck": ask_pages,
    "http_check": ask_pages,
}


def collect(name, settings):
    while True:
        try:
            ASKS[kind(name)](settings)
            collected[name] = 1
        except (OSError, redis.RedisError, psycopg.Error) as error:
            print(f"stand-in: receiver {name}: {error}")
            collected[name] = 0
        time.sleep(PAUSE)


for name in service.get("extensions", []):
    settings = config["extensions"][name] or {}
    if kind(name) != "health_check":
        fail(f"there is no stand-in for the extension {name}")
    serve_http(settings.get("endpoint", "localhost:13133"), lambda _: "well\n")

servers = []
for name in used["receivers"]:
    settings = config["receivers"][name] or {}
    match kind(name):
        case "otlp":
            protocols = settings["protocols"]
            if "grpc" in protocols:
                servers.append(serve_grpc(protocols["grpc"]["endpoint"], take))
            if "http" in protocols:
                serve_http(protocols["http"]["endpoint"], lambda _: None, take_http)
        case asked if asked in ASKS:
            collected[name] = 0
            threading.Thread(target=collect, args=(name, settings), daemon=True).start()
        case _:
            fail(f"there is no stand-in for the receiver {name}")

until_stopped()
