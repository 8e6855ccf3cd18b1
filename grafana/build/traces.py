"""Traces: one trace, the way of single payments, and figures made of spans alone.

Rates here are extrapolated from sampled traces by Tempo. The other boards count
everything.
"""

from common import ANNOTATIONS, RATE, TEMPO
from panels import (PER_SECOND, TRACES_BOARD, course, dashboard, entry, found, heatmap, now, query, row, services, table,
                    trace)

CALLS = "traces_spanmetrics_calls_total"
LATENCY = "traces_spanmetrics_latency"
EDGE = "traces_service_graph_request"
SAMPLED = "Extrapolated from sampled traces; the other boards count everything. "


def quantile(metric, by):
    return f"histogram_quantile(0.95, sum by (le, {by}) (rate({metric}_bucket[{RATE}])))"


ONE = row(
    "One trace",
    trace("Trace",
          "The trace whose id is above. Links of tables and of dots in heatmaps put it there; so can you, with the "
          "`trace_id` of a log line. A payment's trace ends with `process payments`, which links to the trace of its batch. "
          "RUNBOOK: Redis or PostgreSQL is slow.", "trace"),
)

SEARCHES = row(
    "Single payments",
    found("Slowest posted payments",
          "Click on one to see above where its time went. RUNBOOK: Redis or PostgreSQL is slow.",
          '{ name = "POST /api/v1/payments" && duration > 20ms } | select(span.http.response.status_code)'),
    found("Payments that failed",
          "Requests that ended in 5xx, attempts that failed, dead letters. `paystream show REFERENCE` tells the whole life. "
          "RUNBOOK: An entry fails again and again.",
          "{ status = error } | select(span.error.type, span.paystream.reference)"),
    found("Payments that were tried more than once",
          "A second attempt links to the first. RUNBOOK: An entry fails again and again.",
          '{ name = "process payments" && span.paystream.attempt > 1 } | select(span.paystream.attempt, span.paystream.outcome)'),
    found("Batches that PostgreSQL was slow for",
          "The transaction of a batch, with its number of payments. RUNBOOK: A session waits for a lock.",
          '{ name = "INSERT processed_transactions" && duration > 100ms } | select(span.db.operation.batch.size)'),
)

SPANS = row(
    "Steps of a payment",
    table("Steps",
          SAMPLED + "A row for each kind of span: calls in a second, failed ones, and p95. The step that stands out is where "
          "to look; an empty cell is none that failed. RUNBOOK: Redis or PostgreSQL is slow.",
          [now(f"sum by (service, span_name) (rate({CALLS}[{RATE}]))"),
           now(f'sum by (service, span_name) (rate({CALLS}{{status_code="STATUS_CODE_ERROR"}}[{RATE}]))'),
           now(quantile(LATENCY, "service, span_name"))],
          [("A", "calls", PER_SECOND), ("B", "failed", PER_SECOND), ("C", "p95", "s")], TEMPO,
          labels=["service", "span_name"]),
    course("Time of each step, p95",
           SAMPLED + "A dot is a trace: point at it and show it. RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(LATENCY, "span_name"), "{{span_name}}", exemplar=True)], "s", missing=TEMPO),
    course("Calls of each step",
           SAMPLED + "One payment is one send and one process; receive, INSERT and ack are one a batch. "
           "RUNBOOK: Telemetry is missing.",
           [query(f"sum by (span_name) (rate({CALLS}[{RATE}]))", "{{span_name}}")], PER_SECOND, missing=TEMPO),
    heatmap("Spread of the time of settling",
            SAMPLED + "A dot is a trace: point at it and show it. RUNBOOK: Redis or PostgreSQL is slow.",
            query(f'sum by (le) (rate({LATENCY}_bucket{{span_name="process payments"}}[{RATE}]))', exemplar=True), "s"),
    course("Failed calls of each step",
           SAMPLED + "Beside all calls: without a failure there is no series of failures. "
           "RUNBOOK: Too many payments fail.",
           [query(f"sum(rate({CALLS}[{RATE}]))", "all"),
            query(f'sum by (span_name) (rate({CALLS}{{status_code="STATUS_CODE_ERROR"}}[{RATE}]))', "failed: {{span_name}}")],
           PER_SECOND, height=9, missing=TEMPO),
)

GRAPH = row(
    "Between services",
    services("Calls between services",
             "Made by Tempo of spans that belong together: client, gateway, worker, PostgreSQL. An edge that turns red fails. "
             "Its menus lead to Explore, which needs the role Editor. RUNBOOK: Too many payments fail."),
    course("Calls along each edge",
           SAMPLED + "Failed ones beside them. RUNBOOK: Too many payments fail.",
           [query(f"sum by (client, server) (rate({EDGE}_total[{RATE}]))", "{{client}} → {{server}}"),
            query(f"sum by (client, server) (rate({EDGE}_failed_total[{RATE}]))", "failed: {{client}} → {{server}}")],
           PER_SECOND, width=8, missing=TEMPO),
    course("Wait in the stream, p95",
           SAMPLED + "From the end of the gateway's send to the start of the worker's process. "
           "RUNBOOK: Payments wait and are not applied.",
           [query(quantile(f"{EDGE}_messaging_system_seconds", "client, server"), "{{client}} → {{server}}")], "s", width=8,
           missing=TEMPO),
    course("Time of the called side, p95",
           SAMPLED + "RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(f"{EDGE}_server_seconds", "client, server"), "{{client}} → {{server}}")], "s", width=8,
           missing=TEMPO),
)

BOARD = dashboard(
    TRACES_BOARD, "Traces",
    "One trace, and the way of single payments. Rates on this board are extrapolated from sampled traces.",
    ONE, SEARCHES, SPANS, GRAPH, variables=[entry("trace", "Trace id")], annotations=ANNOTATIONS)
