"""Partitions and workers: who owns what, what waits where, what changed hands."""

from common import ANNOTATIONS, GATEWAY, PARTITION, PARTITIONS, PROCESS, RATE, WORKER
from panels import GREY, PER_SECOND, below, course, dashboard, figure, limits, now, query, row, states, table

HELD = f"max by (paystream_partition, paystream_worker) (paystream_partition_held{PARTITION})"


def of_each(metric):
    return f"max by (paystream_partition) ({metric}{PARTITION})"


def worst(metric):
    """The five highest: a line for each of 64 partitions shows nothing."""
    return [query(f"topk(5, {of_each(metric)})", "{{paystream_partition}}")]


NOW = row(
    "Now",
    figure("Partitions", "Partitions of the topology. `paystream topology resize` changes their number. "
           "RUNBOOK: Change the number of partitions.", "max(paystream_partitions)", "short", PROCESS),
    figure("Partitions without owner",
           "Nobody settles their payments. For a moment it is a change of owners; after 30 s an alert fires. "
           "RUNBOOK: A partition has no owner.", "max(paystream_partitions_ownerless)", "short", PROCESS, below(1)),
    figure("Workers with a lease", "At 0 nobody settles anything. RUNBOOK: No worker lives.",
           "max(paystream_queue_consumers)", "short", PROCESS, limits(("red", None), ("green", 1))),
    figure("Oldest waiting entry", "Of any partition. When one partition stands still and the others go on, an entry of "
           "it is stuck. RUNBOOK: An entry is stuck.", "max(paystream_partition_oldest_age_seconds)", "s", PROCESS,
           below(60, 10)),
    figure("Entries in the streams", "Settled ones too, until they are trimmed. When it grows and nothing waits, trimming "
           "is held up. RUNBOOK: Streams are not trimmed.", "max(paystream_queue_length)", "short", PROCESS),
    figure("Oldest entry in the streams", "Entries are trimmed some seconds after every group has acknowledged them. Empty "
           "streams have none. RUNBOOK: Streams are not trimmed.",
           "max(paystream_trim_floor_age_seconds)", "s", "no entry, or no telemetry", below(900, 300), unknown=GREY),
)

OWNERS = row(
    "Ownership",
    states("Owners of each partition",
           "A row for each partition. None: nobody settles it. Two: one has just given it up or died, and its last report "
           "has not aged out yet (45 s); the ledger's fence lets one write only. RUNBOOK: A partition has no owner.",
           f"sum by (paystream_partition) ({HELD})", "{{paystream_partition}}",
           [(0, "none", "red"), (1, "one", "green"), (2, "two", "orange"), (3, "three", "orange")]),
    course("Partitions of each worker",
           "Shares differ by one at most, after a while. A worker that gets none does not reach Redis. "
           "RUNBOOK: Workers own unequal shares.",
           [query(f"sum by (paystream_worker) ({HELD})", "{{paystream_worker}}")], "short", stacked=True),
    course("Changes of owners",
           "Acquired, released in peace, or lost to another. Losing is a worker that was silent for too long. "
           "RUNBOOK: A worker is silent.",
           [query(f"sum by (paystream_move) (increase(paystream_partition_moves_total[{RATE}]))", "{{paystream_move}}")],
           "short"),
    states("Workers of each partition",
           "A row for each partition and worker that served it. A takeover is a row that ends while another begins. "
           "RUNBOOK: A worker is silent.",
           f"{HELD} > 0", "{{paystream_partition}} · {{paystream_worker}}", [(1, "serves", "blue")], height=14),
    course("Refused workers",
           "A worker that slept tried to write under an old epoch and was refused. Once is harmless; often means that it "
           "is overloaded. RUNBOOK: A worker logs \"fenced\".",
           [query(f"sum(increase(paystream_fenced_refusals_total[{RATE}]))", "refused"),
            query(f"sum(increase(paystream_redeliveries_total[{RATE}]))", "entries delivered again")],
           "short", width=24),
)

WAITING = row(
    "What waits, by partition",
    table("State of each partition",
          "Every partition that is chosen above. An epoch rises by one with each change of owner: one that is far above the "
          "others is handed to and fro. RUNBOOK: A partition has no owner; An entry is stuck; A worker logs \"fenced\".",
          [now(f"{HELD} > 0"), now(of_each("paystream_partition_depth")), now(of_each("paystream_partition_lag")),
           now(of_each("paystream_partition_pending")), now(of_each("paystream_partition_oldest_age_seconds")),
           now(of_each("paystream_partition_epoch"))],
          [("B", "waiting", "short"), ("C", "lag", "short"), ("D", "pending", "short"), ("E", "oldest", "s"),
           ("F", "epoch", "none")], PROCESS,
          labels=["paystream_partition", "paystream_worker"], hidden=["Value #A"], height=12),
    course("Highest lag",
           "The five partitions with most entries that no worker has taken. One that grows alone: its owner is stuck, or a "
           "customer is busy. All of them: too few workers. RUNBOOK: Payments wait and are not applied.",
           worst("paystream_partition_lag"), "short"),
    course("Most pending entries",
           "The five partitions with most entries that are taken and not acknowledged. One that stands still has an entry "
           "that is stuck. RUNBOOK: An entry is stuck.",
           worst("paystream_partition_pending"), "short"),
    course("Fullest partitions",
           "Waiting payments of the five fullest partitions, as a share of those that a partition may have. At 100 % its "
           "payments are answered 503. RUNBOOK: Payments are refused with 503; Payments wait and are not applied.",
           [query(f"topk(5, {of_each('paystream_partition_depth')} / on () group_left () "
                  "max(paystream_partition_backlog_limit))", "{{paystream_partition}}")],
           "percentunit", below(1, 0.8), missing=GATEWAY),
    course("Oldest waiting entries",
           "Of the five partitions that wait longest. A straight line upwards is a partition that stands still. "
           "RUNBOOK: An entry is stuck.", worst("paystream_partition_oldest_age_seconds"), "s", below(60)),
)

WORKERS = row(
    "Workers",
    course("Time without progress",
           "Of the slowest lane of each worker: since it settled a batch, or saw that nothing waits. Above 30 s an alert "
           "fires. RUNBOOK: A worker makes no progress.",
           [query("max by (paystream_worker) (paystream_worker_progress_age_seconds)", "{{paystream_worker}}")],
           "s", below(30)),
    course("Entries taken by each process",
           "It goes with the number of its partitions. RUNBOOK: Workers own unequal shares.",
           [query(f"sum by (instance) (rate(messaging_client_consumed_messages_total[{RATE}]))", "{{instance}}")],
           PER_SECOND, missing=WORKER),
)

BOARD = dashboard(
    "paystream-partitions", "Partitions and workers",
    "Who owns which partition, what waits in it, and what changed hands.",
    NOW, OWNERS, WAITING, WORKERS, variables=[PARTITIONS], annotations=ANNOTATIONS)
