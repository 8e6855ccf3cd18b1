"""What several boards ask and say alike: quantiles, texts for missing telemetry, variables and annotations.

Lays nothing out.
"""

from panels import annotation, choice

RATE = "$__rate_interval"

# Where a panel is empty, what is missing.
GATEWAY = "no telemetry: is a gateway up?"
WORKER = "no telemetry: is a worker up?"
PROCESS = "no telemetry: is any process up?"
COLLECTOR = "no telemetry: is the collector up?"
TEMPO = "no span metrics: are traces sampled, and is Tempo up?"

RECEIVED = "paystream_payments_received_total"
PROCESSED = "paystream_payments_processed_total"


def quantile(q, metric, by="le", where="", window=RATE):
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{where}[{window}])))"


def while_reported(expr, metric):
    """Empty once nobody reports a metric any more. Rates and recorded rules outlive the process by their window."""
    return f"({expr}) and on () sum({metric})"


def or_idle(expr, traffic):
    """NaN where a recorded rule is absent because nothing happens. No traffic and no telemetry differ."""
    return f"{expr} or 0 / ({traffic} == 0)"


PARTITION = '{paystream_partition=~"$partition"}'
INSTANCE = '{instance=~"$instance"}'
PARTITIONS = choice("partition", "Partition", "label_values(paystream_partition_depth, paystream_partition)")
INSTANCES = choice("instance", "Process", "label_values(process_memory_usage_bytes, instance)")

# A process is new when nobody had its name for an hour; it is so for the first minute.
STARTED = ('count by (job, service_version) (target_info{job=~"payments/.*"} unless on (job, instance) '
           'max_over_time(target_info{job=~"payments/.*"}[1h] offset 1m))')

ANNOTATIONS = (
    annotation("Alerts", "red", 'max by (alertname, severity) (ALERTS{alertstate="firing", severity=~"critical|warning"})',
               "{{alertname}}", "{{severity}}"),
    annotation("Deploys and starts", "blue", STARTED, "{{job}} started", "version {{service_version}}"),
    annotation("Partition moves", "purple",
               'sum by (paystream_move) (increase(paystream_partition_moves_total{paystream_move=~"acquired|lost"}[1m])) > 0',
               "Partitions {{paystream_move}}", "the board Partitions and workers shows which"),
)
