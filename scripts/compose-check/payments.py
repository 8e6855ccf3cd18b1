"""Sends payments through the front door while services restart, and checks afterwards that each
that was accepted was applied once. Speaks HTTP only and never looks into a store.

    payments.py send URL TOKEN FILE       until SIGTERM; FILE has a line for each accepted payment
    payments.py settled URL TOKEN FILE    waits until all of FILE are applied, and adds up accounts
"""

import collections
import decimal
import json
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

# nginx lets 100 requests a second pass.
PAUSE = 0.05
TIMEOUT = 10
SETTLED_WITHIN = 180
# Accounts that nothing else in the check pays into.
CUSTOMERS = [f"GIG{number:05}" for number in range(101, 121)]

command, url, token, path = sys.argv[1:]


def ask(resource, body=None):
    """The status, the headers and the document of an answer, or (None, None, why) without one."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url + resource, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode(errors="replace")
    except OSError as error:
        return None, None, str(error)


def send():
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run, count, replays, longest = uuid.uuid4().hex[:8], 0, 0, 0.0
    refusals = collections.Counter()
    with open(path, "a") as file:
        while not stop.is_set():
            count += 1
            reference, amount = f"CHECK{run}{count:06}", count % 40 + 10
            customer = CUSTOMERS[count % len(CUSTOMERS)]
            payment = {
                "customer_id": customer,
                "payment_status": "COMPLETE",
                "transaction_amount": str(amount),
                "transaction_date": time.strftime("%Y-%m-%d %H:%M:%S"),
                "transaction_reference": reference,
            }
            # Every tenth is sent twice on purpose; any other again only when its fate is unknown.
            wanted, begun = (2 if count % 10 == 0 else 1), time.monotonic()
            while wanted:
                status, headers, answer = ask("/api/v1/payments", payment)
                if status in (200, 202):
                    replays += headers.get("Idempotent-Replayed") == "true"
                    wanted -= 1
                elif status in (None, 429, 503):
                    refusals[status or "no answer"] += 1
                else:
                    sys.exit(f"payments: {reference} was answered {status}: {answer}")
                # Paces requests; nothing is awaited by it.
                time.sleep(PAUSE)
            longest = max(longest, time.monotonic() - begun)
            file.write(f"{reference} {customer} {amount}\n")
            file.flush()
    again = ", ".join(f"{n} times after {why}" for why, n in sorted(refusals.items(), key=str))
    print(
        f"{count} payments accepted, {replays} answered as replays, sent again {again or 'never'}; "
        f"longest wait for an acceptance {longest:.1f} s"
    )


def settled():
    with open(path) as file:
        payments = [line.split() for line in file]
    if not payments:
        sys.exit("payments: none was accepted")
    waiting, deadline = [reference for reference, *_ in payments], time.monotonic() + SETTLED_WITHIN
    while waiting:
        states = collections.Counter()
        left = []
        for start in range(0, len(waiting), 1000):
            body = {"transaction_references": waiting[start : start + 1000]}
            status, _, answer = ask("/api/v1/payments/lookup", body)
            if status != 200:
                left += body["transaction_references"]
                states[f"no answer ({status})"] += len(body["transaction_references"])
                continue
            for one in answer["payments"]:
                if one["status"] != "applied":
                    left.append(one["transaction_reference"])
                    states[one["status"]] += 1
        waiting = left
        if waiting and time.monotonic() > deadline:
            sys.exit(f"payments: not applied within {SETTLED_WITHIN} s: {dict(states)}, {waiting[:5]}")
        time.sleep(0.5 if waiting else 0)
    paid, rows = collections.defaultdict(decimal.Decimal), collections.Counter()
    for _, customer, amount in payments:
        paid[customer] += int(amount)
        rows[customer] += 1
    for customer in sorted(paid):
        status, _, balance = ask(f"/api/v1/customers/{customer}/balance")
        found = status == 200 and (decimal.Decimal(balance["total_paid"]), balance["version"])
        # Opening an account is no row of its statement.
        if found != (paid[customer], rows[customer]):
            wanted = f"{paid[customer]} in {rows[customer]} payments"
            sys.exit(f"payments: {customer} should have paid {wanted}; answered {status}: {balance}")
    print(f"{len(payments)} payments applied, each once: {len(paid)} accounts add up")


{"send": send, "settled": settled}[command]()
