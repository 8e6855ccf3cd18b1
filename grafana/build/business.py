"""Business: how much money came in, from how many, and how far customers are."""

from panels import bars, below, course, dashboard, figure, limits, query, row

RANGE = "$__range"
RATE = "$__rate_interval"
APPLIED = 'paystream_payments_processed_total{paystream_outcome="applied"}'

# Amounts are counted in hundredths.
SHOWN = row(
    "In the time that is shown",
    figure("Payments applied",
           "Payments that moved money to an account. Counted from what the services reported; the ledger is the judge: "
           "`paystream audit`.",
           f"sum(increase({APPLIED}[{RANGE}])) or vector(0)", "locale", decimals=0, spark=False),
    figure("Amount applied",
           "Money applied to accounts, in whole units. What is held in suspense is not in it. "
           "RUNBOOK: A payment is in suspense.",
           f"sum(increase(paystream_payments_amount_total[{RANGE}])) / 100 or vector(0)", "locale", decimals=2, spark=False),
    figure("Average payment",
           "Amount applied by payments applied. A jump is another kind of customer, or a wrong unit at a bank: compare "
           "with `GET /api/v1/payments/{reference}`.",
           f"sum(increase(paystream_payments_amount_total[{RANGE}])) / 100 / (sum(increase({APPLIED}[{RANGE}])) > 0) or vector(0)",
           "locale", decimals=2, spark=False),
    figure("Repetitions",
           "Share of payments that banks sent again. They have no effect; many of them are a bank to talk to.",
           '(sum(increase(paystream_payments_received_total{paystream_outcome="duplicate"}[$__range])) or vector(0))'
           " / (sum(increase(paystream_payments_received_total[$__range])) > 0) or vector(0)",
           "percentunit", decimals=2, spark=False),
    figure("Refused as invalid",
           "Share of payments that break a rule, answered with 422. A jump is a client's new release: tell them. "
           "RUNBOOK: Problem codes.",
           '(sum(increase(paystream_payments_received_total{paystream_outcome="invalid"}[$__range])) or vector(0))'
           " / (sum(increase(paystream_payments_received_total[$__range])) > 0) or vector(0)",
           "percentunit", decimals=2, spark=False),
    figure("Held, for nobody known",
           "Payments in suspense: money that came and is no customer's yet. RUNBOOK: A payment is in suspense.",
           "max(paystream_suspense_payments)", "locale", limits(("green", None), ("orange", 1))),
)

CUSTOMERS = row(
    "Customers",
    figure("Customers", "Customers with an account. Counted from time to time, not at each payment.",
           "max(paystream_customers)", "locale"),
    figure("Customers who have paid everything", "Their asset is theirs. What they pay from now on is credit.",
           "max(paystream_customers_completed)", "locale"),
    figure("Completion", "Share of customers who have paid everything.",
           "max(paystream_customers_completed) / (max(paystream_customers) > 0) or max(paystream_customers) * 0",
           "percentunit", decimals=2),
    course("How does completion grow?", "Customers, and those who have paid everything.",
           [query("max(paystream_customers)", "customers"), query("max(paystream_customers_completed)", "completed")],
           "locale"),
)

COURSE = row(
    "Course",
    course("How many payments come in an hour?",
           "At the rate of the moment, by what came of them in the ledger. Compare with the same hour of other days; a gap "
           "is a bank that is silent.",
           [query(f"sum by (paystream_outcome) (rate(paystream_payments_processed_total[{RATE}])) * 3600",
                  "{{paystream_outcome}}")], "locale", stacked=True),
    course("How much money comes in an hour?",
           "At the rate of the moment, in whole units.",
           [query(f"sum(rate(paystream_payments_amount_total[{RATE}])) * 36 or vector(0)", "applied")], "locale"),
    bars("What came of payments in the time that is shown?",
         "By outcome in the ledger. Rejected breaks a rule of the account; recorded moves no money. "
         "RUNBOOK: A payment is in suspense; A payment is in conflict; An entry became a dead letter.",
         f"sum by (paystream_outcome) (increase(paystream_payments_processed_total[{RANGE}]))",
         "{{paystream_outcome}}", "locale"),
    course("What waits for somebody to decide?",
           "Each is somebody's money. RUNBOOK: A payment is in suspense; A payment is in conflict; "
           "An entry became a dead letter.",
           [query("max(paystream_suspense_payments)", "suspense"), query("max(paystream_conflicts)", "conflicts"),
            query("max(paystream_queue_dead_letters)", "dead letters")], "short", below(1)),
)

BOARD = dashboard(
    "paystream-business", "Business",
    "How much money came in, from how many, and how far customers are.",
    SHOWN, CUSTOMERS, COURSE, span="now-24h")
