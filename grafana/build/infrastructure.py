"""Infrastructure: processes, PostgreSQL, Redis, and the way of the telemetry itself."""

from panels import below, course, dashboard, figure, limits, query, row

RATE = "$__rate_interval"
PROCESS = "{{job}} {{instance}}"


def quantile(q, metric, by):
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket[{RATE}])))"


def each(expr):
    return [query(f"max by (job, instance) ({expr})", PROCESS)]


PROCESSES = row(
    "Processes",
    course("How busy are the processors?",
           "Share of what a process may use. Above 80 % for 5 minutes an alert fires: start another one. "
           "RUNBOOK: A process runs short.",
           each("process_cpu_utilization_ratio"), "percentunit", below(0.8), max=1),
    course("How full is the memory?",
           "Share of what a process may use. Above 85 % for 5 minutes an alert fires. RUNBOOK: A process runs short.",
           each("process_memory_usage_bytes / paystream_process_memory_limit_bytes"), "percentunit", below(0.85)),
    course("How many tasks are alive?",
           "Tasks of the runtime: connections, requests and loops. Above 10,000 an alert fires: requests pile up. "
           "RUNBOOK: A process runs short.",
           each("paystream_runtime_alive_tasks"), "short", below(10000), width=8),
    course("How much memory is used?",
           "In bytes, beside the share above. RUNBOOK: A process runs short.",
           each("process_memory_usage_bytes"), "bytes", width=8),
    course("How many files are open?",
           "Connections are files. When it only grows, something is not closed; the system's limit is `ulimit -n`. "
           "RUNBOOK: A process runs short.",
           each("process_open_file_descriptor_count"), "short", width=8),
)

POSTGRESQL = row(
    "PostgreSQL",
    course("How long does PostgreSQL take? (p99)",
           "A batch's transaction, or a query of the gateway. RUNBOOK: Redis or PostgreSQL is slow; "
           "A session waits for a lock.",
           [query(quantile(0.99, "db_client_operation_duration_seconds", "le, db_operation_name"), "{{db_operation_name}}")],
           "s", width=8),
    course("How full are the pools?",
           "Connections in use, of those there may be. Above 90 % for 2 minutes an alert fires. "
           "RUNBOOK: Queries wait for a connection.",
           [query('max by (job, instance, db_client_connection_pool_name) '
                  '(db_client_connection_count{db_client_connection_state="used"})'
                  " / on (job, instance, db_client_connection_pool_name) "
                  "max by (job, instance, db_client_connection_pool_name) (db_client_connection_max)",
                  "{{db_client_connection_pool_name}} {{instance}}")], "percentunit", below(0.9), max=1, width=8),
    course("Do queries wait for a connection?",
           "Queries in line, and how long they waited. RUNBOOK: Queries wait for a connection.",
           [query("sum by (db_client_connection_pool_name) (db_client_connection_pending_requests)",
                  "in line: {{db_client_connection_pool_name}}")], "short", width=4),
    course("How long do they wait? (p99)",
           "Time from asking for a connection to having one. RUNBOOK: Queries wait for a connection.",
           [query(quantile(0.99, "db_client_connection_wait_time_seconds", "le, db_client_connection_pool_name"),
                  "{{db_client_connection_pool_name}}")], "s", width=4),
    course("How many connections are there?",
           "Used and idle, by process. RUNBOOK: Connections run out.",
           [query("sum by (instance, db_client_connection_state) (db_client_connection_count)",
                  "{{db_client_connection_state}} {{instance}}")], "short", stacked=True),
    course("Does PostgreSQL refuse something?",
           "Statements and transactions that failed, by kind. RUNBOOK: PostgreSQL is away; An entry fails again and again.",
           [query(f'sum by (error_type) (rate(db_client_operation_duration_seconds_count{{error_type!=""}}[{RATE}])) or vector(0)',
                  "{{error_type}}")], "ops"),
)

REDIS = row(
    "Redis",
    figure("How full is Redis?",
           "Share of `maxmemory`; 0 where it has no limit. Above 85 % an alert fires; at 100 % payments are answered 503. "
           "RUNBOOK: Redis is full.",
           "max(paystream_redis_memory_used_bytes) / (max(paystream_redis_memory_limit_bytes) > 0)"
           " or max(paystream_redis_memory_used_bytes) * 0",
           "percentunit", below(0.85, 0.7), decimals=1),
    course("How much memory does Redis use?",
           "Used, and what it may use (0 is no limit). RUNBOOK: Redis is full.",
           [query("max(paystream_redis_memory_used_bytes)", "used"),
            query("max(paystream_redis_memory_limit_bytes)", "limit")], "bytes", width=10),
    course("How long does Redis take? (p99)",
           "An append waits for one sync of Redis's disk. RUNBOOK: Redis or PostgreSQL is slow.",
           [query(quantile(0.99, "messaging_client_operation_duration_seconds", "le, messaging_operation_name"),
                  "{{messaging_operation_name}}")], "s", width=10),
    course("Does Redis refuse something?",
           "Operations that failed, by kind. RUNBOOK: Redis is away; Redis takes no writes.",
           [query(f'sum by (error_type) (rate(messaging_client_operation_duration_seconds_count{{error_type!=""}}[{RATE}])) or vector(0)',
                  "{{error_type}}")], "ops"),
    course("Is a circuit open?",
           "1 while calls are refused at once because the store was found away. It closes by itself. "
           "RUNBOOK: A circuit is open.",
           [query("max by (job, instance, paystream_dependency) (paystream_circuit_open)",
                  "{{paystream_dependency}} {{instance}}")], "none", below(1), max=1),
)

TELEMETRY = row(
    "Telemetry",
    figure("Targets that answer Prometheus",
           "Share of what Prometheus scrapes that answers. Below 100 % some panels are blind; payments are not concerned. "
           "RUNBOOK: Telemetry is missing.",
           "avg(up)", "percentunit", limits(("red", None), ("green", 1))),
    course("What does the collector take in and send on?",
           "Spans. Refused: the collector is short of memory. Failed: Tempo is away; the collector tries again. "
           "RUNBOOK: Telemetry is missing.",
           [query(f"sum(rate(otelcol_receiver_accepted_spans[{RATE}])) or vector(0)", "taken in"),
            query(f"sum(rate(otelcol_exporter_sent_spans[{RATE}])) or vector(0)", "sent on"),
            query(f"sum(rate(otelcol_receiver_refused_spans[{RATE}])) or vector(0)", "refused"),
            query(f"sum(rate(otelcol_exporter_send_failed_spans[{RATE}])) or vector(0)", "failed")], "ops", width=10),
    course("How full is the collector's queue?",
           "What waits to be sent to Tempo, of what may wait. When it is full, spans are dropped. "
           "RUNBOOK: Telemetry is missing.",
           [query("max(otelcol_exporter_queue_size) / max(otelcol_exporter_queue_capacity)", "queue")],
           "percentunit", below(0.8), max=1, width=10),
    figure("When was the last whole audit?",
           "Since when the running audit has not come around. Above a day an alert fires. RUNBOOK: The audit is late.",
           "max(paystream_audit_age_seconds)", "s", below(86400)),
)

BOARD = dashboard(
    "paystream-infrastructure", "Infrastructure",
    "What the services stand on: processors, memory, PostgreSQL, Redis, and the telemetry's own way.",
    PROCESSES, POSTGRESQL, REDIS, TELEMETRY)
