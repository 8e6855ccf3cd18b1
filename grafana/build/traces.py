"""Traces: the way of single payments, and figures made of spans alone.

Rates here are extrapolated from sampled traces by Tempo. The other boards count
everything.
"""

from panels import course, dashboard, found, heatmap, now, query, row, services, table

RATE = "$__rate_interval"
CALLS = "traces_spanmetrics_calls_total"
LATENCY = "traces_spanmetrics_latency_bucket"
SAMPLED = "Extrapolated from sampled traces; the other boards count everything. "


def quantile(q, where, by="le, span_name"):
    return f"histogram_quantile({q}, sum by ({by}) (rate({LATENCY}{where}[{RATE}])))"


SPANS = row(
    "Steps of a payment",
    table("Which step is slow, and which fails?",
          SAMPLED + "A row for each kind of span: calls in a second, failed ones, and p95. The step that stands out is where "
          "to look. RUNBOOK: Redis or PostgreSQL is slow.",
          [now(f"sum by (service, span_name) (rate({CALLS}[{RATE}]))"),
           now(f'sum by (service, span_name) (rate({CALLS}{{status_code="STATUS_CODE_ERROR"}}[{RATE}]))'
               f" or sum by (service, span_name) (rate({CALLS}[{RATE}])) * 0"),
           now(quantile(0.95, "", "le, service, span_name"))],
          [("A", "calls", "reqps"), ("B", "failed", "reqps"), ("C", "p95", "s")]),
    course("How long does each step take? (p95)",
           SAMPLED + "RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(0.95, ""), "{{span_name}}", exemplar=True)], "s"),
    course("How many of each step are there?",
           SAMPLED + "One payment is one send and one process; receive, INSERT and ack are one a batch.",
           [query(f"sum by (span_name) (rate({CALLS}[{RATE}]))", "{{span_name}}")], "reqps"),
    heatmap("How does settling spread?",
            SAMPLED + "A dot is a trace: point at it and open it.",
            query(f'sum by (le) (rate({LATENCY}{{span_name="process payments"}}[{RATE}]))', exemplar=True), "s"),
    course("Which steps fail?",
           SAMPLED + "Failures and slow payments are kept whether sampled or not, up to some a second. "
           "RUNBOOK: Too many payments fail.",
           [query(f'sum by (span_name) (rate({CALLS}{{status_code="STATUS_CODE_ERROR"}}[{RATE}])) or vector(0)',
                  "{{span_name}}")], "reqps", height=9),
)

GRAPH = row(
    "Between services",
    services("Who calls whom?",
             "Made by Tempo of spans that belong together: client, gateway, worker, PostgreSQL. An edge that turns red fails. "
             "RUNBOOK: Too many payments fail."),
    course("How many calls go along each edge?",
           SAMPLED + "Failed ones beside them.",
           [query(f"sum by (client, server) (rate(traces_service_graph_request_total[{RATE}]))", "{{client}} → {{server}}"),
            query(f"sum by (client, server) (rate(traces_service_graph_request_failed_total[{RATE}])) or vector(0)",
                  "failed: {{client}} → {{server}}")], "reqps", width=8),
    course("How long do payments lie in the stream? (p95)",
           SAMPLED + "From the end of the gateway's send to the start of the worker's process. "
           "RUNBOOK: Payments wait and are not applied.",
           [query("histogram_quantile(0.95, sum by (le, client, server) "
                  f"(rate(traces_service_graph_request_messaging_system_seconds_bucket[{RATE}])))",
                  "{{client}} → {{server}}")], "s", width=8),
    course("How long does the called side take? (p95)",
           SAMPLED + "RUNBOOK: Redis or PostgreSQL is slow.",
           [query("histogram_quantile(0.95, sum by (le, client, server) "
                  f"(rate(traces_service_graph_request_server_seconds_bucket[{RATE}])))",
                  "{{client}} → {{server}}")], "s", width=8),
)

SEARCHES = row(
    "Single payments",
    found("Slowest posted payments",
          "Open one to see where its time went, from the request to the commit. RUNBOOK: Redis or PostgreSQL is slow.",
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

BOARD = dashboard(
    "paystream-traces", "Traces",
    "The way of single payments. Rates on this board are extrapolated from sampled traces.",
    SPANS, GRAPH, SEARCHES)
