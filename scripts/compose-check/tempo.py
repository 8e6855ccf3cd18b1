"""Stands in for Tempo. Reads the mounted configuration, writes to each folder that it names, takes
spans over gRPC and counts the requests, and asks whether Prometheus takes what is written to it.
Never keeps a span, makes no metrics of them, and answers no search."""

import threading

from common import ask, fail, option, read, serve_grpc, serve_http, until_stopped, writable

# No series at all: a message of no bytes, in snappy's form.
NOTHING = b"\x00"
WRITE = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}

if option("target") != "all":
    fail("this stand-in is all of Tempo or nothing")
config = read(option("config.file"))
trace = config["storage"]["trace"]
if trace["backend"] != "local":
    fail(f"there is no stand-in for the storage {trace['backend']}")
generator = config["metrics_generator"]["storage"]
for folder in (trace["local"]["path"], trace["wal"]["path"], generator["path"]):
    writable(folder)

lock = threading.Lock()
taken = 0


def take(_, request):
    global taken
    with lock:
        taken += 1


def written(url):
    try:
        ask(url, NOTHING, WRITE)
    except OSError as error:
        print(f"stand-in: {url}: {error}")
        return 0
    return 1


def get(path):
    if path == "/ready":
        return "ready\n"
    if path == "/metrics":
        lines = [f"stand_in_requests_total {taken}"]
        for one in generator["remote_write"]:
            lines.append(f'stand_in_remote_write{{url="{one["url"]}"}} {written(one["url"])}')
        return "\n".join(lines) + "\n"
    return None


serve_http(f"0.0.0.0:{config['server']['http_listen_port']}", get)
receivers = config["distributor"]["receivers"]
server = serve_grpc(receivers["otlp"]["protocols"]["grpc"]["endpoint"], take)
until_stopped()
