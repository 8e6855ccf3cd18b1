"""Partitions and workers: who owns what, what waits where, what changed hands."""

from panels import bars, below, course, dashboard, figure, limits, query, row, states

RATE = "$__rate_interval"
HELD = "max by (paystream_partition, paystream_worker) (paystream_partition_held)"


def each(metric):
    return [query(f"max by (paystream_partition) ({metric})", "{{paystream_partition}}")]


NOW = row(
    "Now",
    figure("Partitions", "Partitions of the topology. It changes by `paystream topology resize` only. "
           "RUNBOOK: Change the number of partitions.", "max(paystream_partitions)", "short"),
    figure("Partitions without an owner",
           "Nobody settles their payments. A moment of it is a change of hands; after 30 s an alert fires. "
           "RUNBOOK: A partition has no owner.", "max(paystream_partitions_ownerless)", "short", below(1)),
    figure("Living workers", "Workers whose lease runs. At 0 nobody settles anything. RUNBOOK: No worker lives.",
           "max(paystream_queue_consumers)", "short", limits(("red", None), ("green", 1))),
    figure("Oldest entry of any partition", "When one partition stands still and the others go on, an entry of it is stuck. "
           "RUNBOOK: An entry is stuck.", "max(paystream_partition_oldest_age_seconds)", "s", below(60, 10)),
    figure("Entries in the streams", "Settled ones too, until they are trimmed. When it grows and nothing waits, trimming "
           "is held up. RUNBOOK: Streams are not trimmed.", "max(paystream_queue_length)", "short"),
    figure("Age of the oldest entry kept", "Entries are trimmed some seconds after every group has acknowledged them. "
           "RUNBOOK: Streams are not trimmed.", "max(paystream_trim_floor_age_seconds) or max(paystream_queue_length) * 0", "s", below(900, 300)),
)

OWNERS = row(
    "Ownership",
    states("Is each partition owned, and by one?",
           "A row for each partition. None: nobody settles it. Two: one has just given it up or died, and its last report "
           "has not aged out yet (45 s); the ledger's fence lets one write only. RUNBOOK: A partition has no owner.",
           f"sum by (paystream_partition) ({HELD})", "{{paystream_partition}}",
           [(0, "none", "red"), (1, "one", "green"), (2, "two", "orange"), (3, "three", "orange")]),
    course("How many partitions has each worker?",
           "Shares differ by one at most, after a while. A worker that gets none does not reach Redis. "
           "RUNBOOK: Workers own unequal shares.",
           [query(f"sum by (paystream_worker) ({HELD})", "{{paystream_worker}}")], "short", stacked=True),
    course("How often do partitions change hands?",
           "Acquired, released in peace, or lost to another. Losing is a worker that was silent for too long. "
           "RUNBOOK: A worker is silent.",
           [query(f"sum by (paystream_move) (increase(paystream_partition_moves_total[{RATE}])) or vector(0)",
                  "{{paystream_move}}")], "short"),
    states("Which worker serves which partition?",
           "A row for each partition and worker that served it. A takeover is a row that ends while another begins. "
           "RUNBOOK: A worker is silent.",
           f"{HELD} > 0", "{{paystream_partition}} · {{paystream_worker}}", [(1, "serves", "blue")], height=14),
    bars("Which epoch is each partition in?",
         "It rises by one with each change of hands. One that is far above the others is handed to and fro. "
         "RUNBOOK: A worker logs \"fenced\".",
         "max by (paystream_partition) (paystream_partition_epoch)", "{{paystream_partition}}", "short"),
    course("How often is a worker refused?",
           "A worker that slept tried to write under an old epoch and was refused. Once is harmless; often means that it "
           "is overloaded. RUNBOOK: A worker logs \"fenced\".",
           [query(f"sum(increase(paystream_fenced_refusals_total[{RATE}])) or vector(0)", "refused"),
            query(f"sum(increase(paystream_redeliveries_total[{RATE}])) or vector(0)", "entries that came again")],
           "short"),
)

WAITING = row(
    "What waits, by partition",
    course("Lag: which partition is not taken?",
           "One that grows alone: its owner is stuck, or a customer is busy. All of them: too few workers. "
           "RUNBOOK: Payments wait and are not applied.", each("paystream_partition_lag"), "short"),
    course("Pending: which partition is not settled?",
           "Taken and not acknowledged. One that stands still has an entry that is stuck. RUNBOOK: An entry is stuck.",
           each("paystream_partition_pending"), "short"),
    course("How deep is each partition?",
           "Lag and pending together. At `PAYSTREAM_BACKLOG_MAX` the gateway answers 503. "
           "RUNBOOK: Payments are refused with 503.", each("paystream_partition_depth"), "short"),
    course("How long has the oldest entry of each waited?",
           "A straight line upwards is a partition that stands still. RUNBOOK: An entry is stuck.",
           each("paystream_partition_oldest_age_seconds"), "s", below(60)),
)

WORKERS = row(
    "Workers",
    course("For how long has a worker made no progress?",
           "Its slowest lane has neither settled anything nor seen that nothing waits. Above 30 s an alert fires. "
           "RUNBOOK: A worker makes no progress.",
           [query("max by (paystream_worker) (paystream_worker_progress_age_seconds)", "{{paystream_worker}}")],
           "s", below(30)),
    course("How much does each worker take?",
           "Entries taken in a second, by process. It goes with the number of its partitions.",
           [query(f"sum by (instance) (rate(messaging_client_consumed_messages_total[{RATE}]))", "{{instance}}")], "reqps"),
)

BOARD = dashboard(
    "paystream-partitions", "Partitions and workers",
    "Who owns which partition, what waits in it, and what changed hands.",
    NOW, OWNERS, WAITING, WORKERS)
