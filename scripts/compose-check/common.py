"""What the stand-ins for Grafana, Tempo and the OpenTelemetry collector share: configuration,
listening, ending. Never guesses: a configuration that it cannot follow ends the program."""

import http.server
import os
import re
import signal
import sys
import threading
import urllib.request
from concurrent import futures

import grpc
import yaml

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


def fail(sentence):
    sys.exit(f"stand-in: {sentence}")


def option(name):
    """The value of `--name=value`, or of `-name=value`, on the command line."""
    for argument in sys.argv[1:]:
        given, _, value = argument.lstrip("-").partition("=")
        if given == name:
            return value
    fail(f"there is no option {name}")


def read(path):
    """A YAML file, with ${env:NAME} and ${env:NAME:-default} filled in."""

    def value(match):
        name, default = match.groups()
        if name not in os.environ and default is None:
            fail(f"{path} names the variable {name}, which is not set")
        return os.environ.get(name, default)

    with open(path) as file:
        text = re.sub(r"\$\{env:(\w+)(?::-([^}]*))?\}", value, file.read())
    return yaml.safe_load(text)


def values(node, wanted):
    """Every value, at any depth, whose key is wanted."""
    if isinstance(node, dict):
        for key, value in node.items():
            if wanted(key):
                yield value
            yield from values(value, wanted)
    elif isinstance(node, list):
        for value in node:
            yield from values(value, wanted)


def writable(folder):
    """Makes a folder and writes to it."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "stand-in"), "a") as file:
        file.write("started\n")


def ask(url, body=None, headers=None):
    """The text that a URL answers with, or raises OSError."""
    request = urllib.request.Request(url, data=body, headers=headers or {})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read().decode()


def serve_grpc(endpoint, take):
    """Takes OTLP over gRPC: `take(method, bytes)` may raise grpc.RpcError."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            method = details.method
            if method not in (TRACES, METRICS):
                return None

            def handle(request, context):
                try:
                    take(method, request)
                except grpc.RpcError as error:
                    context.abort(grpc.StatusCode.UNAVAILABLE, error.details())
                # An empty answer is one that refuses nothing.
                return b""

            return grpc.unary_unary_rpc_method_handler(handle)

    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Handler()])
    if not server.add_insecure_port(endpoint):
        fail(f"could not listen at {endpoint}")
    server.start()
    return server


def serve_http(endpoint, get, post=None):
    """Serves HTTP: `get(path)` and `post(path, body, headers)` give a text, or None."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(get, self.path)

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(post or (lambda *_: None), self.path, body, self.headers)

        def answer(self, of, *arguments):
            try:
                text = of(*arguments)
                status = 200 if text is not None else 404
            except OSError as error:
                status, text = 503, str(error)
            body = (text or "").encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    host, _, port = endpoint.rpartition(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def until_stopped():
    """Waits for the end, which docker asks for with SIGTERM."""
    print("stand-in: ready")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
