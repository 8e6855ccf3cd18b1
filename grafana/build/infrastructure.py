"""Infrastructure: processes, PostgreSQL, Redis, the host, and the way of the telemetry itself."""

from common import ANNOTATIONS, COLLECTOR, INSTANCE, INSTANCES, PROCESS, RATE, or_idle, quantile
from panels import PER_SECOND, below, course, dashboard, figure, limits, query, row

NAMED = "{{job}} {{instance}}"
OF_A_POOL = "job, instance, db_client_connection_pool_name"


def each(expr):
    return [query(f"max by (job, instance) ({expr})", NAMED)]


def failures(metric):
    """Operations that failed, by kind, beside all of them: without a failure there is no series of failures."""
    return [query(f"sum(rate({metric}_count[{RATE}]))", "all"),
            query(f'sum by (error_type) (rate({metric}_count{{error_type!=""}}[{RATE}]))', "failed: {{error_type}}")]


PROCESSES = row(
    "Processes",
    course("CPU use",
           "Share of the processors that a process can use. Above 80 % for 5 minutes an alert fires: start another one. "
           "RUNBOOK: A process runs short.",
           each(f"process_cpu_utilization_ratio{INSTANCE}"), "percentunit", below(0.8), max=1),
    course("Memory use",
           "Share of a process's memory limit. Above 85 % for 5 minutes an alert fires. RUNBOOK: A process runs short.",
           each(f"process_memory_usage_bytes{INSTANCE} / paystream_process_memory_limit_bytes{INSTANCE}"), "percentunit",
           below(0.85)),
    course("Tasks",
           "Tasks of the runtime: connections, requests and loops. Above 10,000 an alert fires: requests pile up. "
           "RUNBOOK: A process runs short.",
           each(f"paystream_runtime_alive_tasks{INSTANCE}"), "short", below(10000), width=6),
    course("Memory",
           "In bytes, beside the share above. RUNBOOK: A process runs short.",
           each(f"process_memory_usage_bytes{INSTANCE}"), "bytes", width=6),
    course("Open files",
           "Connections are files. When it only grows, something is not closed; the system's limit is `ulimit -n`. "
           "RUNBOOK: A process runs short.",
           each(f"process_open_file_descriptor_count{INSTANCE}"), "short", width=6),
    course("Uptime",
           "Time since the start of each process, by its role. A line that begins at 0 is a start, or a restart. "
           "RUNBOOK: A process runs short.",
           [query(f"max by (job, instance, paystream_role) (process_uptime_seconds{INSTANCE})",
                  "{{paystream_role}} {{instance}}")], "s", width=6),
)

POSTGRESQL = row(
    "PostgreSQL",
    course("Time of operations, p99",
           "A batch's transaction, or a query of the gateway. RUNBOOK: Redis or PostgreSQL is slow; "
           "A session waits for a lock.",
           [query(quantile(0.99, "db_client_operation_duration_seconds", "le, db_operation_name"), "{{db_operation_name}}")],
           "s", width=8),
    course("Fullness of the pools",
           "Connections in use, of those that a pool may have. Above 90 % for 2 minutes an alert fires. "
           "RUNBOOK: Queries wait for a connection.",
           [query(f'max by ({OF_A_POOL}) (db_client_connection_count{{db_client_connection_state="used", '
                  f'instance=~"$instance"}}) / on ({OF_A_POOL}) max by ({OF_A_POOL}) (db_client_connection_max{INSTANCE})',
                  "{{db_client_connection_pool_name}} {{instance}}")], "percentunit", below(0.9), max=1, width=8),
    course("Queries in line",
           "Queries that wait for a connection of their pool. RUNBOOK: Queries wait for a connection.",
           [query("sum by (db_client_connection_pool_name) (db_client_connection_pending_requests)",
                  "{{db_client_connection_pool_name}}")], "short", width=4),
    course("Wait for a connection, p99",
           "Time from asking for a connection to having one. RUNBOOK: Queries wait for a connection.",
           [query(quantile(0.99, "db_client_connection_wait_time_seconds", "le, db_client_connection_pool_name"),
                  "{{db_client_connection_pool_name}}")], "s", width=4),
    course("Connections of the processes",
           "Used and idle, by process. RUNBOOK: Connections run out.",
           [query(f"sum by (instance, db_client_connection_state) (db_client_connection_count{INSTANCE})",
                  "{{db_client_connection_state}} {{instance}}")], "short", stacked=True),
    course("Failed operations of PostgreSQL",
           "Statements and transactions: all, and those that failed by kind. RUNBOOK: PostgreSQL is away; "
           "An entry fails again and again.",
           failures("db_client_operation_duration_seconds"), PER_SECOND),
)

REDIS = row(
    "Redis",
    figure("Fullness of Redis",
           "Share of `maxmemory`. Above 85 % an alert fires; at 100 % payments are answered 503. RUNBOOK: Redis is full.",
           or_idle("max(paystream_redis_memory_used_bytes) / (max(paystream_redis_memory_limit_bytes) > 0)",
                   "max(paystream_redis_memory_limit_bytes)"),
           "percentunit", PROCESS, below(0.85, 0.7), decimals=1, idle="no limit is set"),
    figure("Append-only file of Redis",
           "Whether Redis's last write to its append-only file went well. When it fails, the disk is full or "
           "broken, and Redis takes no writes. RUNBOOK: Redis takes no writes; A disk is filling up.",
           "max(paystream_redis_aof_failed)", "none", PROCESS,
           mappings=[(0, "written", "green"), (1, "failed", "red")]),
    course("Memory of Redis",
           "Used, and the limit (0 is no limit). RUNBOOK: Redis is full.",
           [query("max(paystream_redis_memory_used_bytes)", "used"),
            query("max(paystream_redis_memory_limit_bytes)", "limit")], "bytes", width=8),
    course("Time of operations of Redis, p99",
           "An append waits for one sync of Redis's disk. RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(0.99, "messaging_client_operation_duration_seconds", "le, messaging_operation_name"),
                  "{{messaging_operation_name}}")], "s", width=8),
    course("Failed operations of Redis",
           "All operations, and those that failed by kind. RUNBOOK: Redis is away; Redis takes no writes.",
           failures("messaging_client_operation_duration_seconds"), PER_SECOND),
    course("Open circuits",
           "1 while calls are refused at once because the store was found away. It closes by itself. "
           "RUNBOOK: A circuit is open.",
           [query(f"max by (job, instance, paystream_dependency) (paystream_circuit_open{INSTANCE})",
                  "{{paystream_dependency}} {{instance}}")], "none", below(1), max=1),
)

RECEIVERS = "the collector's receivers report nothing"

# What the collector's receivers ask (otel-collector.yaml), so that our processes measure no host.
HOST = row(
    "Host and stores",
    course("Fullness of disks",
           "Used share of each file system that the collector sees. Above 90 % an alert fires; when it is full, Redis takes "
           "no writes and PostgreSQL stops. RUNBOOK: A disk is filling up.",
           [query('1 - sum by (mountpoint) (system_filesystem_usage_bytes{state="free"})'
                  " / sum by (mountpoint) (system_filesystem_usage_bytes)", "{{mountpoint}}")],
           "percentunit", below(0.9), max=1, width=8, missing=RECEIVERS),
    course("Memory of the host", "By what it is used for. RUNBOOK: A process runs short.",
           [query("sum by (state) (system_memory_usage_bytes)", "{{state}}")], "bytes", stacked=True, width=8,
           missing=RECEIVERS),
    course("Load of the host",
           "Tasks that run or wait for a processor or a disk, over a minute. RUNBOOK: A process runs short.",
           [query("max(system_cpu_load_average_1m)", "load")], "short", width=8, missing=RECEIVERS),
    course("Fullness of PostgreSQL's connections",
           "Connections of all clients, as a share of `max_connections`. Above 80 % for 5 minutes an alert fires. "
           "RUNBOOK: Connections run out.",
           [query("sum(postgresql_backends) / max(postgresql_connection_max)", "in use")], "percentunit", below(0.8), max=1,
           width=8, missing=RECEIVERS),
    course("Longest wait for a lock",
           "Of a session of PostgreSQL. Above 30 s an alert fires. RUNBOOK: A session waits for a lock.",
           [query("max(postgresql_lock_wait_age_seconds)", "wait")], "s", below(30), width=8, missing=RECEIVERS),
    course("Transactions of PostgreSQL",
           "Committed, rolled back, and ended by a deadlock. RUNBOOK: Redis or PostgreSQL is slow.",
           [query(f"sum(rate(postgresql_commits_total[{RATE}]))", "committed"),
            query(f"sum(rate(postgresql_rollbacks_total[{RATE}]))", "rolled back"),
            query(f"sum(rate(postgresql_deadlocks_total[{RATE}]))", "deadlocks")], PER_SECOND, width=8, missing=RECEIVERS),
    course("Lag of replicas",
           "What a promotion would lose now. Above 64 MiB for 5 minutes an alert fires. RUNBOOK: A replica lags.",
           [query("max(redis_replication_offset_bytes) - min(redis_replication_replica_offset_bytes)", "Redis"),
            query("max by (replication_client) (postgresql_replication_data_delay_bytes)",
                  "PostgreSQL {{replication_client}}")], "bytes", below(67108864), width=8,
           missing="no replica reports"),
    course("Clients and replicas of Redis",
           "Connections that Redis has. RUNBOOK: Too few replicas; Connections run out.",
           [query("max(redis_clients_connected)", "clients"), query("max(redis_slaves_connected)", "replicas")], "short",
           width=8, missing=RECEIVERS),
    course("Connections to nginx",
           "Active connections of clients, and of these those that are read, written or idle. "
           "RUNBOOK: Refused in front of the gateways.",
           [query("sum by (state) (nginx_connections_current)", "{{state}}")], "short", width=8, missing=RECEIVERS),
)

TELEMETRY = row(
    "Telemetry",
    figure("Targets that answer Prometheus",
           "Share of Prometheus's targets that answer. Below 100 % some panels are blind; payments are not concerned. "
           "RUNBOOK: Telemetry is missing.",
           "avg(up)", "percentunit", "Prometheus has no targets", limits(("red", None), ("green", 1))),
    course("Spans through the collector",
           "Refused: the collector is short of memory. Failed: Tempo is away; the collector tries again. "
           "RUNBOOK: Telemetry is missing.",
           [query(f"sum(rate(otelcol_receiver_accepted_spans[{RATE}]))", "taken in"),
            query(f"sum(rate(otelcol_exporter_sent_spans[{RATE}]))", "sent on"),
            query(f"sum(rate(otelcol_receiver_refused_spans[{RATE}]))", "refused"),
            query(f"sum(rate(otelcol_exporter_send_failed_spans[{RATE}]))", "failed")], PER_SECOND, width=10,
           missing=COLLECTOR),
    course("Fullness of the collector's queue",
           "What waits to be sent to Tempo, of what may wait. When it is full, spans are dropped. "
           "RUNBOOK: Telemetry is missing.",
           [query("max(otelcol_exporter_queue_size) / max(otelcol_exporter_queue_capacity)", "queue")],
           "percentunit", below(0.8), max=1, width=10, missing=COLLECTOR),
    figure("Last full audit",
           "Time since the running audit last looked at every account. Above a day an alert fires. RUNBOOK: The audit is late.",
           "max(paystream_audit_age_seconds)", "s", "no audit runs, or no telemetry", below(86400)),
)

BOARD = dashboard(
    "paystream-infrastructure", "Infrastructure",
    "What the services stand on: processors, memory, PostgreSQL, Redis, the host, and the telemetry's own way.",
    PROCESSES, POSTGRESQL, REDIS, HOST, TELEMETRY, variables=[INSTANCES], annotations=ANNOTATIONS)
