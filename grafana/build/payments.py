"""Payments operations: do payments come through, how fast, and how many fail."""

from panels import below, course, dashboard, figure, heatmap, limits, query, row

# What was asked for: 100,000 payments a minute.
TARGET = limits(("transparent", None), ("green", 1667))
RATE = "$__rate_interval"


def share(part, whole):
    """A share that reads 0 while nothing happens."""
    return f"({part}) / ({whole} > 0) or vector(0)"


def quantile(q, metric, by="le", where=""):
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{where}[{RATE}])))"


FAILED = (f'(sum(rate(paystream_payments_received_total{{paystream_outcome=~"error|overloaded"}}[{RATE}])) or vector(0))'
          f' + (sum(rate(paystream_payments_processed_total{{paystream_outcome="dead_lettered"}}[{RATE}])) or vector(0))')
RECEIVED = f"sum(rate(paystream_payments_received_total[{RATE}]))"
PROCESSED = f"sum(rate(paystream_payments_processed_total[{RATE}]))"
END_TO_END = "paystream_payment_end_to_end_duration_seconds"

NOW = row(
    "Now",
    figure("Payments settled",
           "Payments that the workers settle in a second, of whatever outcome. The target is 1,667/s; less is only bad "
           "while payments wait. RUNBOOK: Payments wait and are not applied.",
           f"{PROCESSED} or vector(0)", "reqps", decimals=0),
    figure("How many payments wait?",
           "Accepted and not settled, over all partitions. Above 10,000 an alert fires: start more workers, or see what "
           "they wait for with `paystream doctor`. RUNBOOK: Payments wait and are not applied.",
           "max(paystream_queue_depth)", "short", below(10000, 5000)),
    figure("How many payments fail?",
           "Share of payments that were answered with 5xx or became dead letters. Above 0.1 % an alert fires. "
           "RUNBOOK: Too many payments fail.",
           share(FAILED, RECEIVED), "percentunit", below(0.001), decimals=2),
    figure("How long does a payment take? (p99)",
           "From the gateway taking a payment to its commit. When it rises, see where the time goes below. "
           "RUNBOOK: Redis or PostgreSQL is slow.",
           f"{quantile(0.99, END_TO_END)} >= 0 or vector(0)", "s", below(5, 1)),
    figure("How long has the oldest waited?",
           "Age of the first entry that is not settled. Above 60 s an alert fires, also when few payments wait: one "
           "partition may stand still. RUNBOOK: Payments wait and are not applied.",
           "max(paystream_queue_oldest_age_seconds)", "s", below(60, 10)),
    figure("How much error budget is left?",
           "Of the 0.1 % of payments that may fail, what is left over the time that is shown. Below 0 the promise of "
           "99.9 % is broken. RUNBOOK: Too many payments fail.",
           '1 - (((sum(increase(paystream_payments_received_total{paystream_outcome=~"error|overloaded"}[$__range])) or vector(0))'
           ' + (sum(increase(paystream_payments_processed_total{paystream_outcome="dead_lettered"}[$__range])) or vector(0)))'
           " / (sum(increase(paystream_payments_received_total[$__range])) > 0) or vector(0)) / 0.001",
           "percentunit", limits(("red", None), ("orange", 0), ("green", 0.5)), decimals=1, spark=False),
)

QUEUE = row(
    "Queue",
    course("Are payments settled as fast as they come?",
           "Received over HTTP, appended to the streams, taken by workers, and settled. While received is above settled, "
           "the queue grows: start more workers, up to one for each partition. The line is the target of 1,667/s. "
           "RUNBOOK: Payments wait and are not applied.",
           [query(RECEIVED, "received"),
            query(f"sum(rate(messaging_client_sent_messages_total[{RATE}]))", "appended"),
            query(f"sum(rate(messaging_client_consumed_messages_total[{RATE}]))", "taken"),
            query(PROCESSED, "settled")], "reqps", TARGET),
    course("What waits: not taken, or not acknowledged?",
           "Lag is what no worker has taken: too few workers, or none. Pending is what was taken and not settled: workers "
           "wait for something, or an entry is stuck. RUNBOOK: Payments wait and are not applied; An entry is stuck.",
           [query("max(paystream_queue_lag)", "lag"), query("max(paystream_queue_pending)", "pending"),
            query("max(paystream_queue_depth)", "both")], "short", below(10000)),
    course("How long has the oldest entry waited?",
           "A straight line upwards is an entry that stands still. The line is the alert at 60 s. RUNBOOK: An entry is stuck.",
           [query("max(paystream_queue_oldest_age_seconds)", "oldest")], "s", below(60), width=8),
    course("How long do payments wait for a worker?",
           "From the gateway taking a payment to a worker taking it. When this rises and settling does not, workers are "
           "too few. RUNBOOK: Payments wait and are not applied.",
           [query(quantile(q, "paystream_payment_wait_duration_seconds"), name)
            for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))], "s", width=8),
    course("How many seconds of work wait?",
           "What waits, at the rate at which payments are settled now. Rising means that the workers do not keep up. "
           "RUNBOOK: Payments wait and are not applied.",
           [query(f"max(paystream_queue_depth) / ({PROCESSED} > 0) or max(paystream_queue_depth) * 0", "to settle all")], "s", width=8),
)

LATENCY = row(
    "Latency",
    course("How long does a payment take, from taken to settled?",
           "The promise to whoever waits for the outcome. RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(q, END_TO_END), name) for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))], "s"),
    course("Where does the time go? (p99)",
           "Each leg of the way: the append to Redis, the wait for a worker, the whole of a batch, and its transaction in "
           "PostgreSQL. The leg that rises is the one to look at. RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(0.99, "messaging_client_operation_duration_seconds",
                           where='{messaging_operation_name="send"}'), "append"),
            query(quantile(0.99, "paystream_payment_wait_duration_seconds"), "wait"),
            query(quantile(0.99, "messaging_process_duration_seconds"), "batch"),
            query(quantile(0.99, "db_client_operation_duration_seconds"), "PostgreSQL")], "s"),
    heatmap("How do times from taken to settled spread?",
            "All payments, from the services' own histograms. Two bands are two populations: one partition, or one worker, "
            "that is slower than the others.",
            query(f"sum by (le) (rate({END_TO_END}_bucket[{RATE}]))"), "s"),
    heatmap("How do answers to posted payments spread?",
            "From sampled traces. A dot is a trace: point at it and open it.",
            query(f'sum by (le) (rate(traces_spanmetrics_latency_bucket{{span_name="POST /api/v1/payments"}}[{RATE}]))',
                  exemplar=True), "s"),
    course("How long do answers take, by route? (p99)",
           "What clients see. A 202 waits for one sync of Redis's disk. RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(0.99, "http_server_request_duration_seconds", "le, http_route"), "{{http_route}}")], "s"),
    course("How many requests are under way?",
           "When it stays near `PAYSTREAM_REQUESTS_MAX`, requests are refused with 503. RUNBOOK: Payments are refused with 503.",
           [query("sum by (http_request_method) (http_server_active_requests)", "{{http_request_method}}")], "short"),
)

CORRECTNESS = row(
    "Correctness",
    course("What are clients answered?",
           "Answers by status. 5xx is ours to mend; 4xx is the client's. RUNBOOK: Problem codes.",
           [query(f"sum by (http_response_status_code) (rate(http_server_request_duration_seconds_count[{RATE}]))",
                  "{{http_response_status_code}}")], "reqps", stacked=True, width=8),
    course("What came of payments at the gateway?",
           "Accepted, duplicate, conflict, invalid, overloaded or error. Overloaded and error are refused by us. "
           "RUNBOOK: Payments are refused with 503.",
           [query(f"sum by (paystream_outcome) (rate(paystream_payments_received_total[{RATE}]))",
                  "{{paystream_outcome}}")], "reqps", stacked=True, width=8),
    course("What came of payments in the ledger?",
           "Applied and recorded are ordinary. RUNBOOK: A payment is in suspense; A payment is in conflict; "
           "An entry became a dead letter.",
           [query(f"sum by (paystream_outcome) (rate(paystream_payments_processed_total[{RATE}]))",
                  "{{paystream_outcome}}")], "reqps", stacked=True, width=8),
    course("How many payments come twice?",
           "Share of repetitions: found by the stream, and found by the ledger. They have no effect. A jump is a client that "
           "sends everything again: ask whose.",
           [query(share(f'sum(rate(paystream_payments_received_total{{paystream_outcome="duplicate"}}[{RATE}])) or vector(0)',
                        RECEIVED), "at the gateway"),
            query(share(f'sum(rate(paystream_payments_processed_total{{paystream_outcome="duplicate"}}[{RATE}])) or vector(0)',
                        PROCESSED), "in the ledger")], "percentunit", width=8),
    course("What is tried again, and why?",
           "Batches and appends that failed and were repeated. An outage shows which store; `entry` is an entry that fails. "
           "RUNBOOK: An entry fails again and again; Redis is away; PostgreSQL is away.",
           [query(f"sum by (paystream_retry_reason) (rate(paystream_retries_total[{RATE}])) or vector(0)",
                  "{{paystream_retry_reason}}"),
            query(f"sum(rate(paystream_redeliveries_total[{RATE}])) or vector(0)", "entries that came again")],
           "ops", width=8),
    course("How many payments share a transaction?",
           "Batches grow with the load. Small ones under load mean that a batch was too slow and was halved. "
           "RUNBOOK: Redis or PostgreSQL is slow.",
           [query(f"sum(rate(paystream_batch_size_sum[{RATE}])) / sum(rate(paystream_batch_size_count[{RATE}]))", "average"),
            query(quantile(0.99, "paystream_batch_size"), "p99")],
           "short", width=8),
    figure("Dead letters",
           "Payments that could not be settled and wait for a decision. Each is somebody's money. "
           "RUNBOOK: An entry became a dead letter.",
           "max(paystream_queue_dead_letters)", "short", below(1)),
    figure("Held in suspense",
           "Payments of customers that nobody knows. RUNBOOK: A payment is in suspense.",
           "max(paystream_suspense_payments)", "short", limits(("green", None), ("orange", 1))),
    figure("In conflict",
           "Two payments under one reference, and nobody has dealt with it. RUNBOOK: A payment is in conflict.",
           "max(paystream_conflicts)", "short", limits(("green", None), ("orange", 1))),
    figure("Customers parked",
           "Their payments wait behind a dead letter. RUNBOOK: Payments are parked.",
           "max(paystream_customers_parked)", "short", limits(("green", None), ("orange", 1))),
    figure("Losses open",
           "Redis has lost something and nobody has dealt with it. RUNBOOK: Losses are open.",
           "max(paystream_losses)", "short", below(1)),
    figure("Accounts that differ from their payments",
           "Found by the running audit. Anything but 0 is a bug or a change by hand. RUNBOOK: The audit reports drift.",
           "max(paystream_audit_drift)", "short", below(1)),
)

BOARD = dashboard(
    "paystream-payments", "Payments operations",
    "Do payments come through, how fast, and how many fail.",
    NOW, QUEUE, LATENCY, CORRECTNESS)
