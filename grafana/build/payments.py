"""Payments operations, the home board: are payments taken, are they settled, how late, what is stuck, what fires.

Its first row answers that; the rows below it are closed and say more.
"""

from common import (ANNOTATIONS, GATEWAY, PROCESS, PROCESSED, RATE, RECEIVED, WORKER, or_idle, quantile,
                    while_reported)
from panels import (GREY, PER_SECOND, TRACES_BOARD, below, course, dashboard, figure, firing, heatmap, limits, link,
                    query, row)

# What was asked for: 100,000 payments a minute.
TARGET = limits(("transparent", None), ("green", 1667))
BUDGET = limits(("red", None), ("orange", 0), ("green", 0.5))
WAITING = limits(("green", None), ("orange", 1))
END_TO_END = "paystream_payment_end_to_end_duration_seconds"
QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
DEPTH = "max(paystream_queue_depth)"
# Labels that tell one alert from another of its name.
WHERE = ["job", "instance", "paystream_role", "paystream_worker", "paystream_partition", "paystream_dependency",
         "mountpoint", "exporter", "receiver", "replication_client"]
QUOTED = ", ".join(f'"{label}"' for label in WHERE)
RECEIVED_NOW = f"sum(rate({RECEIVED}[{RATE}]))"
PROCESSED_NOW = f"sum(rate({PROCESSED}[{RATE}]))"


def linked(panel, title, url):
    """A panel with one more link."""
    panel["links"].append(link(title, url))
    return panel


NOW = row(
    "Now",
    figure("Front door",
           "Whether the collector's probe, once in 10 seconds, reaches a gateway through nginx. "
           "RUNBOOK: The front does not answer.",
           "paystream:front_up", "none", "not probed: is the collector up?",
           mappings=[(0, "down", "red"), (1, "up", "green")]),
    figure("Payments accepted",
           "Payments a second that gateways answered with 202. Less than usual is a silent bank, or a front door "
           "that is down. RUNBOOK: Too many payments fail.",
           f'sum(rate({RECEIVED}{{paystream_outcome="accepted"}}[{RATE}]))', PER_SECOND, GATEWAY, decimals=1),
    figure("Refused by our fault",
           "Share of the payments of the last 5 minutes that were answered with 5xx, for want of a store or of room. "
           "The promise is 0.1 % over 30 days. RUNBOOK: Too many payments fail.",
           while_reported(or_idle("paystream:availability_errors:ratio_rate5m", f"sum(rate({RECEIVED}[5m]))"), RECEIVED),
           "percentunit", GATEWAY, below(0.001), decimals=2, idle="no payments"),
    figure("Payments settled",
           "Payments a second that workers settle, of whatever outcome. The target is 1,667/s; less is only bad "
           "while payments wait. RUNBOOK: Payments wait and are not applied.",
           PROCESSED_NOW, PER_SECOND, WORKER, decimals=1),
    figure("Time to settle, p99",
           "99 of 100 payments of the last 5 minutes were settled within this time of their receipt. The promise is 5 s. "
           "RUNBOOK: Redis or PostgreSQL is slow.",
           while_reported(quantile(0.99, END_TO_END, window="5m"), PROCESSED),
           "s", WORKER, below(5, 1), idle="no payments"),
    figure("Payments waiting",
           "Accepted and not settled, over all partitions. Above 10,000 an alert fires. `paystream doctor` says what "
           "the workers wait for. RUNBOOK: Payments wait and are not applied.",
           DEPTH, "short", PROCESS, below(10000, 5000)),
    figure("Oldest waiting payment",
           "Age of the first entry that is not settled. Above 60 s an alert fires, also when few payments wait: one "
           "partition may stand still. RUNBOOK: Payments wait and are not applied; An entry is stuck.",
           "max(paystream_queue_oldest_age_seconds)", "s", PROCESS, below(60, 10)),
    figure("Partitions without owner",
           "Nobody settles their payments. For a moment it is a change of owners; after 30 s an alert fires. "
           "RUNBOOK: A partition has no owner; No worker lives.",
           "max(paystream_partitions_ownerless)", "short", PROCESS, below(1)),
    figure("Availability budget of 30 days",
           "Of the 0.1 % of payments that may be refused by our fault in 30 days, the share that is left. Below 0 the "
           "promise is broken. RUNBOOK: Too many payments fail.",
           while_reported("paystream:availability_budget_left:ratio30d", RECEIVED),
           "percentunit", "no payments in 30 days, or no gateway reports", BUDGET, decimals=1, unknown=GREY),
    figure("Freshness budget of 30 days",
           "Of the 1 % of payments that may be settled later than 5 s in 30 days, the share that is left. Below 0 the "
           "promise is broken. RUNBOOK: Payments wait and are not applied.",
           while_reported("paystream:freshness_budget_left:ratio30d", PROCESSED),
           "percentunit", "no payments in 30 days, or no worker reports", BUDGET, decimals=1, unknown=GREY),
    figure("Waiting for a decision",
           "Cases that a person has to decide; each is somebody's money. RUNBOOK: An entry became a dead letter; "
           "Losses are open; A payment is in conflict; A payment is in suspense; Payments are parked.",
           [("dead letters", "max(paystream_queue_dead_letters)"), ("losses", "max(paystream_losses)"),
            ("conflicts", "max(paystream_conflicts)"), ("suspense", "max(paystream_suspense_payments)"),
            ("parked customers", "max(paystream_customers_parked)")],
           "short", PROCESS, WAITING, width=8),
    firing("Firing alerts",
           "Alerts of Prometheus that fire now; the last column opens the section of the RUNBOOK that says what to do. "
           "PaystreamWatchdog always fires: without it no alert would. RUNBOOK: What the alerts say.",
           f'label_replace(label_join(max by (severity, alertname, {", ".join(WHERE)}) (ALERTS{{alertstate="firing"}}), '
           f'"where", " ", {QUOTED}), "runbook", "$1", "alertname", "(.*)")',
           WHERE, "no watchdog: does Prometheus evaluate its rules?"),
    course("Payments received and settled",
           "Received over HTTP, and settled by workers. While received is above settled, the queue grows: start more "
           "workers, up to one for each partition. The line is the target of 1,667/s. "
           "RUNBOOK: Payments wait and are not applied.",
           [query(RECEIVED_NOW, "received"), query(PROCESSED_NOW, "settled")], PER_SECOND, TARGET),
    linked(course("Time to settle",
                  "From receipt by a gateway to the commit in the ledger. The line is the promise of 5 s. "
                  "RUNBOOK: Redis or PostgreSQL is slow.",
                  [query(quantile(q, END_TO_END), name) for q, name in QUANTILES], "s", below(5),
                  missing="no payments, or no worker reports"),
           "Traces of slow payments", f"/d/{TRACES_BOARD}?${{__url_time_range}}"),
    course("Partitions with the oldest waiting payments",
           "The five worst. When one rises and the others do not, an entry of it is stuck; when all do, workers are too "
           "slow or wait. RUNBOOK: An entry is stuck; Payments wait and are not applied.",
           [query("topk(5, max by (paystream_partition) (paystream_partition_oldest_age_seconds))",
                  "{{paystream_partition}}")], "s", below(60)),
)

QUEUE = row(
    "Queue",
    course("Payments along their way",
           "Received over HTTP, appended to the streams, taken by workers, and settled. The first that is below the "
           "others is where they stop. RUNBOOK: Payments wait and are not applied.",
           [query(RECEIVED_NOW, "received"),
            query(f"sum(rate(messaging_client_sent_messages_total[{RATE}]))", "appended"),
            query(f"sum(rate(messaging_client_consumed_messages_total[{RATE}]))", "taken"),
            query(PROCESSED_NOW, "settled")], PER_SECOND, TARGET),
    course("Lag and pending entries",
           "Lag is what no worker has taken: too few workers, or none. Pending is what was taken and not settled: workers "
           "wait for something, or an entry is stuck. RUNBOOK: Payments wait and are not applied; An entry is stuck.",
           [query("max(paystream_queue_lag)", "lag"), query("max(paystream_queue_pending)", "pending"),
            query(DEPTH, "both")], "short", below(10000)),
    course("Age of the oldest waiting entry",
           "A straight line upwards is an entry that stands still. The line is the alert at 60 s. RUNBOOK: An entry is stuck.",
           [query("max(paystream_queue_oldest_age_seconds)", "oldest")], "s", below(60), width=8),
    course("Wait for a worker",
           "From receipt by a gateway to a worker taking the payment. When this rises and settling does not, workers are "
           "too few. RUNBOOK: Payments wait and are not applied.",
           [query(quantile(q, "paystream_payment_wait_duration_seconds"), name) for q, name in QUANTILES], "s", width=8,
           missing="no payments, or no worker reports"),
    course("Time to settle what waits",
           "What waits, at the rate at which payments are settled now. Rising means that the workers do not keep up; "
           "empty while payments wait means that none is settled. RUNBOOK: Payments wait and are not applied.",
           [query(f"{DEPTH} / ({PROCESSED_NOW} > 0)", "to settle all")], "s", width=8,
           missing="nothing is settled, or no worker reports"),
    collapsed=True)

LATENCY = row(
    "Latency",
    course("Time of each step, p99",
           "The append to Redis, the wait for a worker, the whole of a batch, and its transaction in PostgreSQL. The step "
           "that rises is the one to look at. RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(0.99, "messaging_client_operation_duration_seconds",
                           where='{messaging_operation_name="send"}'), "append"),
            query(quantile(0.99, "paystream_payment_wait_duration_seconds"), "wait"),
            query(quantile(0.99, "messaging_process_duration_seconds"), "batch"),
            query(quantile(0.99, "db_client_operation_duration_seconds"), "PostgreSQL")], "s"),
    course("Time to answer by route, p99",
           "What clients see. A 202 waits for one sync of Redis's disk. RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(0.99, "http_server_request_duration_seconds", "le, http_route"), "{{http_route}}")], "s"),
    heatmap("Spread of the time to settle",
            "All payments, from the services' own histograms. Two bands are two populations: one partition, or one worker, "
            "that is slower than the others. RUNBOOK: Redis or PostgreSQL is slow.",
            query(f"sum by (le) (rate({END_TO_END}_bucket[{RATE}]))"), "s"),
    heatmap("Spread of the time to answer posted payments",
            "From sampled traces. A dot is a trace: point at it and show it. RUNBOOK: Redis or PostgreSQL is slow.",
            query(f'sum by (le) (rate(traces_spanmetrics_latency_bucket{{span_name="POST /api/v1/payments"}}[{RATE}]))',
                  exemplar=True), "s"),
    course("Requests under way",
           "When it stays near `PAYSTREAM_REQUESTS_MAX`, requests are refused with 503. RUNBOOK: Payments are refused with 503.",
           [query("sum by (http_request_method) (http_server_active_requests)", "{{http_request_method}}")], "short"),
    course("Payments in a transaction",
           "Batches grow with the load. Small ones under load mean that a batch was too slow and was halved. "
           "RUNBOOK: Redis or PostgreSQL is slow.",
           [query(f"sum(rate(paystream_batch_size_sum[{RATE}])) / sum(rate(paystream_batch_size_count[{RATE}]))", "average"),
            query(quantile(0.99, "paystream_batch_size"), "p99")], "short",
           missing="no payments, or no worker reports"),
    collapsed=True)

OUTCOMES = row(
    "Outcomes",
    course("Answers by status",
           "5xx is ours to mend; 4xx is the client's. RUNBOOK: Problem codes.",
           [query(f"sum by (http_response_status_code) (rate(http_server_request_duration_seconds_count[{RATE}]))",
                  "{{http_response_status_code}}")], PER_SECOND, stacked=True, width=8),
    course("Payments at the gateway by outcome",
           "Accepted, duplicate, conflict, invalid, overloaded or error. Overloaded and error are refused by our fault. "
           "RUNBOOK: Payments are refused with 503.",
           [query(f"sum by (paystream_outcome) (rate({RECEIVED}[{RATE}]))", "{{paystream_outcome}}")],
           PER_SECOND, stacked=True, width=8),
    course("Payments in the ledger by outcome",
           "Applied and recorded are ordinary. RUNBOOK: A payment is in suspense; A payment is in conflict; "
           "An entry became a dead letter.",
           [query(f"sum by (paystream_outcome) (rate({PROCESSED}[{RATE}]))", "{{paystream_outcome}}")],
           PER_SECOND, stacked=True, width=8),
    course("Share refused by our fault",
           "Answered with 5xx, over 5 minutes and over an hour. The line is 14.4 times what the promise of 99.9 % allows: "
           "at that rate a month's budget is gone in two days. RUNBOOK: Too many payments fail.",
           [query("paystream:availability_errors:ratio_rate5m", "5 minutes"),
            query("paystream:availability_errors:ratio_rate1h", "1 hour")], "percentunit", below(0.0144), width=8,
           missing="no payments in this time, or no gateway reports"),
    course("Share settled late",
           "Settled later than 5 s, over 5 minutes and over an hour. The line is 14.4 times what the promise of 99 % allows. "
           "RUNBOOK: Payments wait and are not applied.",
           [query("paystream:freshness_late:ratio_rate5m", "5 minutes"),
            query("paystream:freshness_late:ratio_rate1h", "1 hour")], "percentunit", below(0.144), width=8,
           missing="no payments in this time, or no worker reports"),
    course("Share of repeated payments",
           "Repetitions that the gateway and the ledger found. They have no effect. A jump is a client that "
           "sends everything again: ask whose. RUNBOOK: Problem codes.",
           [query(f'sum(rate({RECEIVED}{{paystream_outcome="duplicate"}}[{RATE}])) / {RECEIVED_NOW}', "at the gateway"),
            query(f'sum(rate({PROCESSED}{{paystream_outcome="duplicate"}}[{RATE}])) / {PROCESSED_NOW}', "in the ledger")],
           "percentunit", width=8, missing="no payments in this time, or no telemetry"),
    course("Retries by reason",
           "Batches and appends that failed and were repeated. An outage shows which store; `entry` is an entry that fails. "
           "RUNBOOK: An entry fails again and again; Redis is away; PostgreSQL is away.",
           [query(f"sum by (paystream_retry_reason) (rate(paystream_retries_total[{RATE}]))", "{{paystream_retry_reason}}"),
            query(f"sum(rate(paystream_redeliveries_total[{RATE}]))", "entries delivered again")], PER_SECOND, width=8),
    course("Oldest cases that wait for a decision",
           "Time since the first open conflict was found, and since the first parked customer was parked; 0 without one. "
           "RUNBOOK: A payment is in conflict; Payments are parked.",
           [query("max(paystream_conflicts_oldest_age_seconds)", "conflict"),
            query("max(paystream_parked_oldest_age_seconds)", "parked customer")], "s", width=8),
    figure("Accounts that differ from their payments",
           "Found by the running audit. Anything but 0 is a bug or a change by hand. RUNBOOK: The audit reports drift.",
           "max(paystream_audit_drift)", "short", PROCESS, below(1), width=8),
    collapsed=True)

BOARD = dashboard(
    "paystream-payments", "Payments operations",
    "Are payments taken, are they settled, how late, what is stuck, and what fires.",
    NOW, QUEUE, LATENCY, OUTCOMES, annotations=ANNOTATIONS)
