"""Business: how much money came in, from how many, and how far customers are."""

from common import ANNOTATIONS, GATEWAY, PROCESS, PROCESSED, RATE, RECEIVED, WORKER
from panels import bars, below, course, dashboard, figure, limits, query, row

RANGE = "$__range"
APPLIED = f'{PROCESSED}{{paystream_outcome="applied"}}'
AMOUNT = "paystream_payments_amount_total"
NONE_IN_RANGE = "no payments in this time"


def share(outcome):
    return f'sum(increase({RECEIVED}{{paystream_outcome="{outcome}"}}[{RANGE}])) / sum(increase({RECEIVED}[{RANGE}]))'


# Amounts are counted in hundredths.
SHOWN = row(
    "In the time that is shown",
    figure("Payments applied",
           "Payments that moved money to an account. Counted from what the services reported; the ledger is the judge: "
           "`paystream audit`.",
           f"sum(increase({APPLIED}[{RANGE}]))", "locale", WORKER, decimals=0),
    figure("Amount applied",
           "Money applied to accounts, in whole units. What is held in suspense is not in it. "
           "RUNBOOK: A payment is in suspense.",
           f"sum(increase({AMOUNT}[{RANGE}])) / 100", "locale", WORKER, decimals=2),
    figure("Average payment",
           "Amount applied by payments applied. A jump is another kind of customer, or a wrong unit at a bank: compare "
           "with `GET /api/v1/payments/{reference}`.",
           f"sum(increase({AMOUNT}[{RANGE}])) / 100 / sum(increase({APPLIED}[{RANGE}]))",
           "locale", WORKER, decimals=2, idle=NONE_IN_RANGE),
    figure("Repetitions",
           "Share of payments that banks sent again. They have no effect; many of them are a bank to talk to.",
           share("duplicate"), "percentunit", GATEWAY, decimals=2, idle=NONE_IN_RANGE),
    figure("Refused as invalid",
           "Share of payments that break a rule, answered with 422. A jump is a client's new release: tell them. "
           "RUNBOOK: Problem codes.",
           share("invalid"), "percentunit", GATEWAY, decimals=2, idle=NONE_IN_RANGE),
    figure("In suspense",
           "Payments of customers that nobody knows: money that came and is no customer's yet. "
           "RUNBOOK: A payment is in suspense.",
           "max(paystream_suspense_payments)", "locale", PROCESS, limits(("green", None), ("orange", 1))),
)

CUSTOMERS = row(
    "Customers",
    figure("Customers", "Customers with an account. Counted from time to time, not at each payment.",
           "max(paystream_customers)", "locale", PROCESS),
    figure("Customers who have paid everything", "Their asset is theirs. What they pay from now on is credit.",
           "max(paystream_customers_completed)", "locale", PROCESS),
    figure("Completion", "Share of customers who have paid everything.",
           "max(paystream_customers_completed) / max(paystream_customers)",
           "percentunit", PROCESS, decimals=2, idle="no customers"),
    course("Growth of completion", "Customers, and those who have paid everything.",
           [query("max(paystream_customers)", "customers"), query("max(paystream_customers_completed)", "completed")],
           "locale"),
)

COURSE = row(
    "Course",
    course("Payments in an hour",
           "At the rate of the moment, by outcome in the ledger. Compare with the same hour of other days; a gap "
           "is a bank that is silent.",
           [query(f"sum by (paystream_outcome) (rate({PROCESSED}[{RATE}])) * 3600", "{{paystream_outcome}}")],
           "locale", stacked=True),
    course("Money in an hour",
           "At the rate of the moment, in whole units.",
           [query(f"sum(rate({AMOUNT}[{RATE}])) * 36", "applied")], "locale"),
    bars("Payments by outcome",
         "In the time that is shown, in the ledger. Rejected breaks a rule of the account; recorded moves no money. "
         "RUNBOOK: A payment is in suspense; A payment is in conflict; An entry became a dead letter.",
         f"sum by (paystream_outcome) (increase({PROCESSED}[{RANGE}]))", "{{paystream_outcome}}", "locale", WORKER),
    course("Cases that wait for a decision",
           "Each is somebody's money. RUNBOOK: A payment is in suspense; A payment is in conflict; "
           "An entry became a dead letter.",
           [query("max(paystream_suspense_payments)", "suspense"), query("max(paystream_conflicts)", "conflicts"),
            query("max(paystream_queue_dead_letters)", "dead letters")], "short", below(1)),
)

BOARD = dashboard(
    "paystream-business", "Business",
    "How much money came in, from how many, and how far customers are.",
    SHOWN, CUSTOMERS, COURSE, span="now-24h", annotations=ANNOTATIONS)
