//! Proves the HTTP contract: for each endpoint the statuses, headers, bodies
//! and problem documents; bounds on bodies; the token; the description of it
//! all.

use crate::prelude::*;

const PAYMENTS: &str = "/api/v1/payments";
const BATCH: &str = "/api/v1/payments/batch";
const CUSTOMERS: &str = "/api/v1/customers";
const SEED: &str = "/api/v1/admin/seed-customers";

async fn post_text(api: &Api, path: &str, media_type: &str, text: impl Into<String>) -> Reply {
    let request = api.request(Method::POST, path).header("content-type", media_type);
    send(request.body(text.into())).await
}

#[tokio::test]
async fn an_accepted_payment_says_where_it_is_and_a_replay_says_the_same() {
    let h = Harness::gateway(&[]).await;
    let sent = payment("VPAY25110713542114478761522000", "GIG00001", "10000");
    let first = h.api.post_payment(&sent).await.is(202);
    let body = first.json();
    let (partition, id) =
        (body["partition"].as_u64().unwrap(), body["stream_id"].as_str().unwrap());
    assert!(partition < u64::from(PARTITIONS));
    let self_link = "/api/v1/payments/VPAY25110713542114478761522000";
    let wanted = json!({
        "transaction_reference": "VPAY25110713542114478761522000",
        "status": "accepted",
        "partition": partition,
        "sequence": 1,
        "source": "default",
        "stream_id": id,
        "links": {"self": self_link, "balance": "/api/v1/customers/GIG00001/balance"},
    });
    assert_eq!(body, wanted);
    assert_eq!(first.header("location"), self_link);
    assert_eq!(first.header("idempotent-replayed"), "");

    // The same content, written differently.
    for same in [
        sent.clone(),
        but(sent.clone(), json!({"transaction_amount": 10000})),
        but(sent.clone(), json!({"transaction_amount": "010000.00"})),
        but(sent.clone(), json!({"transaction_date": "2025-11-07T13:54:16Z"})),
        but(sent.clone(), json!({"bank_code": "058", "nested": {"customer_id": "X"}})),
    ] {
        let again = h.api.post_payment(&same).await;
        let mut body = again.json();
        let ignored = body.as_object_mut().and_then(|body| body.remove("ignored"));
        assert_eq!((again.status, body), (200, wanted.clone()), "{same}");
        assert_eq!(ignored.is_some(), same.get("bank_code").is_some(), "{ignored:?}");
        assert_eq!(again.header("idempotent-replayed"), "true");
        assert_eq!(again.header("location"), self_link);
    }
    // Other content.
    for other in [
        but(sent.clone(), json!({"transaction_amount": "10000.01"})),
        but(sent.clone(), json!({"transaction_date": "2025-11-07 14:54:17"})),
    ] {
        let problem = h.api.post_payment(&other).await.is_problem(409, "reference_conflict");
        assert!(problem["detail"].as_str().unwrap().contains(id), "{problem}");
    }
    // What the stream holds is asked of the stream; there is no worker here.
    let found = h.api.payment("VPAY25110713542114478761522000").await;
    let wanted = json!({
        "status": "accepted", "customer_id": "GIG00001", "transaction_amount": "10000.00",
        "transaction_date": "2025-11-07T13:54:16Z", "sequence": 1, "stream_id": id,
    });
    has(&found, wanted);
    assert!(found["age_seconds"].as_i64().is_some_and(|age| age >= 0), "{found}");
}

#[tokio::test]
async fn every_wrong_field_is_named_with_its_reason() {
    let h = Harness::gateway(&["--date-ahead-max=2h"]).await;
    let ahead = |minutes| (clock::system() + chrono::TimeDelta::minutes(minutes)).to_rfc3339();
    let good = payment("r", "ADA", "1");
    // A field, the code of what is wrong with it, and such values.
    let cases = [
        ("transaction_amount", "exponent", json!(["1e3"])),
        (
            "transaction_amount",
            "not_a_decimal",
            json!(["10000abc", "NaN", "Infinity", " 1", "1,000"]),
        ),
        ("transaction_amount", "negative", json!(["-5", -5])),
        ("transaction_amount", "not_positive", json!(["0", "0.00"])),
        ("transaction_amount", "too_many_decimals", json!(["1.005", 1.005])),
        (
            "transaction_amount",
            "too_large",
            json!(["10000000000.01", "99999999999999999999999999"]),
        ),
        ("transaction_amount", "empty", json!([""])),
        ("transaction_amount", "wrong_type", json!([true, ["1"]])),
        ("transaction_amount", "missing", json!([null])),
        ("customer_id", "empty", json!([""])),
        ("customer_id", "too_long", json!(["A".repeat(65)])),
        ("customer_id", "bad_character", json!(["a b", "É"])),
        ("customer_id", "wrong_type", json!([7])),
        ("transaction_reference", "empty", json!([""])),
        ("transaction_reference", "too_long", json!(["r".repeat(129)])),
        ("transaction_reference", "bad_character", json!(["a b", "a\u{0}"])),
        // No path keeps these.
        ("transaction_reference", "bad_reference", json!([".", ".."])),
        ("payment_status", "unknown_status", json!(["complete", "REVERSED"])),
        ("transaction_date", "bad_date", json!(["2025-02-30 00:00:00", "2025-11-07", "yesterday"])),
        ("transaction_date", "wrong_type", json!([1_762_523_656])),
        (
            "transaction_date",
            "date_out_of_range",
            json!([
                "9999-12-31T23:30:00-01:00",
                "0000-01-01 00:00:00",
                "0001-01-01T00:30:00+01:00"
            ]),
        ),
        ("transaction_date", "date_in_future", json!([ahead(180)])),
    ];
    for (field, code, values) in cases {
        for value in values.as_array().unwrap() {
            let mut sent = good.clone();
            sent[field] = value.clone();
            let problem = h.api.post_payment(&sent).await.is_problem(422, "invalid_payment");
            let [error] = problem["errors"].as_array().unwrap().as_slice() else {
                panic!("{field} {value}: {problem}")
            };
            let found = json!({"pointer": format!("/{field}"), "code": code});
            has(error, found);
            let detail = error["detail"].as_str().unwrap();
            let starts = ["must ", "is ", "has "].iter().any(|start| detail.starts_with(start));
            assert!(starts, "{problem}");
        }
    }
    // An exponent as a number, which no JSON library of ours would write.
    let text = good.to_string().replace("\"1\"", "1e3");
    let problem = post_text(&h.api, PAYMENTS, "application/json", text).await;
    assert_eq!(problem.is_problem(422, "invalid_payment")["errors"][0]["code"], "exponent");
    // All at once.
    let problem = h.api.post_payment(&json!({"transaction_amount": "x"})).await;
    let problem = problem.is_problem(422, "invalid_payment");
    let errors = problem["errors"].as_array().unwrap().iter();
    let pointers: Vec<&str> = errors.map(|error| error["pointer"].as_str().unwrap()).collect();
    let wanted =
        "/customer_id /payment_status /transaction_amount /transaction_date /transaction_reference";
    assert_eq!(pointers.join(" "), wanted);
    // None of it was taken.
    h.api.get("/api/v1/payments/r").await.is_problem(404, "payment_not_found");
    assert_eq!(h.stores.delete_keys("*:seq").await, 0);

    // The edges of what is valid.
    for (number, edge) in [
        json!({"transaction_amount": "0.01"}),
        json!({"transaction_amount": "10000000000"}),
        json!({"transaction_amount": "10000000000.00"}),
        json!({"transaction_amount": 12.5}),
        json!({"customer_id": "A".repeat(64)}),
        json!({"customer_id": "_-"}),
        json!({"payment_status": "FAILED"}),
        json!({"transaction_date": "2024-02-29 23:59:59"}),
        json!({"transaction_date": "2025-11-07T14:54:16.123456+05:30"}),
        json!({"transaction_date": ahead(60)}),
    ]
    .into_iter()
    .enumerate()
    {
        let sent = but(payment(&format!("edge{number}"), "ADA", "1"), edge);
        let reply = h.api.post_payment(&sent).await;
        assert_eq!(reply.status, 202, "{sent} {}", reply.text);
    }
    let longest = payment(&"r".repeat(128), "ADA", "1");
    h.api.post_payment(&longest).await.is(202);
}

#[tokio::test]
async fn bodies_of_the_wrong_kind_or_size_are_refused() {
    let h = Harness::gateway(&[]).await;
    let json_type = "application/json";
    for (path, media_type, text, status, code) in [
        (PAYMENTS, json_type, "{".to_owned(), 400, "malformed_json"),
        (PAYMENTS, json_type, String::new(), 400, "malformed_json"),
        (PAYMENTS, json_type, "{} {}".to_owned(), 400, "malformed_json"),
        (PAYMENTS, json_type, "[]".to_owned(), 422, "invalid_payment"),
        (PAYMENTS, json_type, "7".to_owned(), 422, "invalid_payment"),
        (PAYMENTS, "text/plain", "{}".to_owned(), 415, "unsupported_media_type"),
        (PAYMENTS, "application/x-ndjson", "{}".to_owned(), 415, "unsupported_media_type"),
        (PAYMENTS, json_type, " ".repeat(16 * 1024 + 1), 413, "body_too_large"),
        (PAYMENTS, json_type, " ".repeat(16 * 1024), 400, "malformed_json"),
        (BATCH, json_type, "{}".to_owned(), 422, "invalid_request"),
        (BATCH, "application/xml", "[]".to_owned(), 415, "unsupported_media_type"),
        (BATCH, json_type, " ".repeat(4 * 1024 * 1024), 400, "malformed_json"),
        (BATCH, json_type, format!("[{}1]", "1,".repeat(10_000)), 413, "batch_too_large"),
        (BATCH, "application/x-ndjson", "1\n".repeat(10_001), 413, "batch_too_large"),
        (CUSTOMERS, json_type, "nope".to_owned(), 400, "malformed_json"),
        (CUSTOMERS, json_type, " ".repeat(16 * 1024 + 1), 413, "body_too_large"),
        (CUSTOMERS, "text/plain", "{}".to_owned(), 415, "unsupported_media_type"),
        (SEED, json_type, "{}".to_owned(), 422, "invalid_request"),
        (SEED, json_type, r#"{"count": 0}"#.to_owned(), 422, "invalid_request"),
        (SEED, json_type, r#"{"count": 200001}"#.to_owned(), 422, "invalid_request"),
        (SEED, json_type, r#"{"count": -1}"#.to_owned(), 422, "invalid_request"),
    ] {
        let size = text.len();
        let reply = post_text(&h.api, path, media_type, text).await;
        println!("{path} {media_type} {size} bytes");
        reply.is_problem(status, code);
    }
    // One that says that it is larger is refused unread, and its connection is closed.
    let mut stream = TcpStream::connect(h.api.url.trim_start_matches("http://")).await.unwrap();
    let larger = format!(
        "POST {BATCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {json_type}\r\n\
         Content-Length: {}\r\n\r\n",
        4 * 1024 * 1024 + 1
    );
    stream.write_all(larger.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time("it is closed", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains(r#""code":"body_too_large""#), "{answer}");
    let untyped = h.api.request(Method::POST, PAYMENTS).body("{}");
    send(untyped).await.is_problem(415, "unsupported_media_type");
    let zipped = h.api.request(Method::POST, PAYMENTS).json(&payment("zipped", "ADA", "1"));
    let zipped = send(zipped.header("content-encoding", "gzip")).await;
    let detail = zipped.is_problem(415, "unsupported_media_type")["detail"].clone();
    assert!(detail.as_str().unwrap().contains("uncompressed"), "{detail}");
    let charset = payment("charset", "ADA", "1").to_string();
    let reply = post_text(&h.api, PAYMENTS, "Application/JSON; charset=utf-8", charset).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_problems_too() {
    let h = Harness::gateway(&[]).await;
    for path in ["/", "/api", "/api/v1/payment", "/api/v1/customers/ADA/other", "/nope?x=1"] {
        h.api.get(path).await.is_problem(404, "route_not_found");
    }
    for (method, path) in [
        (Method::GET, PAYMENTS),
        (Method::PUT, PAYMENTS),
        (Method::DELETE, "/api/v1/payments/x"),
        (Method::PATCH, CUSTOMERS),
        (Method::GET, SEED),
        (Method::POST, "/api/v1/admin/stats"),
        (Method::POST, "/livez"),
    ] {
        let reply = send(h.api.request(method.clone(), path)).await;
        reply.is_problem(405, "method_not_allowed");
        assert!(!reply.header("allow").is_empty(), "{method} {path} names what is allowed");
    }
    for path in [
        "/api/v1/customers/NOBODY",
        "/api/v1/customers/NOBODY/balance",
        "/api/v1/customers/NOBODY/payments",
        "/api/v1/customers/a%20b",
    ] {
        h.api.get(path).await.is_problem(404, "customer_not_found");
    }
    for path in ["/api/v1/payments/never", "/api/v1/payments/a%20b", "/api/v1/payments/%FF"] {
        let reply = h.api.get(path).await;
        assert!(matches!(reply.status, 400 | 404), "{path} {}", reply.text);
        assert_eq!(
            reply.header("content-type"),
            "application/problem+json",
            "{path} {}",
            reply.text
        );
    }
    for query in ["limit=0", "limit=1001", "limit=-1", "limit=x", "offset=-1", "offset=x"] {
        h.api.get(&format!("{CUSTOMERS}?{query}")).await.is_problem(400, "invalid_query");
    }
    h.api.open_account("ADA", "10").await;
    for query in ["limit=0", "limit=1001", "cursor=x"] {
        let path = format!("{CUSTOMERS}/ADA/payments?{query}");
        h.api.get(&path).await.is_problem(400, "invalid_query");
    }
}

#[tokio::test]
async fn every_request_has_an_id_that_comes_back() {
    let h = Harness::gateway(&[]).await;
    let mut seen = HashSet::new();
    for path in ["/livez", "/nope", "/api/v1/health", "/api/v1/payments/x"] {
        let made = h.api.get(path).await.header("x-request-id").to_owned();
        assert!(made.len() >= 32 && seen.insert(made.clone()), "{path} {made}");
        let given = h.api.request(Method::GET, path).header("x-request-id", "from-the-client-7");
        assert_eq!(send(given).await.header("x-request-id"), "from-the-client-7");
        for unfit in [b"\xff\xfe".to_vec(), Vec::new(), vec![b'x'; 129]] {
            let given = h.api.request(Method::GET, path).header("x-request-id", unfit);
            let made = send(given).await.header("x-request-id").to_owned();
            assert!(made.len() == 36 && seen.insert(made.clone()), "{path} {made}");
        }
    }
}

#[tokio::test]
async fn without_the_token_only_health_is_open() {
    let token = "correct-horse-battery";
    let h = Harness::gateway(&["--api-token", token]).await;
    for path in ["/livez", "/readyz", "/api/v1/health", "/openapi.json", "/docs", "/docs/"] {
        assert_eq!(h.api.get(path).await.status, 200, "{path}");
    }
    let health = h.api.get("/api/v1/health").await.json();
    assert_eq!(health, json!({"status": "ok"}), "details need the token");
    let closed = [
        (Method::POST, PAYMENTS),
        (Method::POST, BATCH),
        (Method::GET, "/api/v1/payments/x"),
        (Method::GET, CUSTOMERS),
        (Method::GET, "/api/v1/admin/stats"),
        (Method::GET, "/no/such/path"),
        (Method::GET, "/livez/"),
    ];
    for (method, path) in closed {
        for wrong in [
            None,
            Some("Bearer wrong"),
            Some("Bearer "),
            Some("Basic Y29ycmVjdA=="),
            Some("correct-horse-battery"),
            Some("Bearer correct-horse-batterx"),
        ] {
            let mut request = h.api.request(method.clone(), path);
            if let Some(wrong) = wrong {
                request = request.header("authorization", wrong);
            }
            let reply = send(request).await;
            reply.is_problem(401, "unauthorized");
            assert_eq!(reply.header("www-authenticate"), "Bearer");
        }
    }
    let request = h.api.request(Method::POST, PAYMENTS).json(&payment("r", "ADA", "1"));
    send(request.bearer_auth(token)).await.is(202);
    let request =
        h.api.request(Method::GET, CUSTOMERS).header("authorization", format!("bearer {token}"));
    assert_eq!(send(request).await.status, 200, "the scheme's case does not matter");
}

#[tokio::test]
async fn a_batch_answers_each_item_in_order() {
    let h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay("before", "ADA", "1").await;
    let cases = [
        (payment("a", "ADA", "10"), "accepted", None),
        (payment("a", "ADA", "10"), "replayed", None),
        (payment("a", "ADA", "11"), "refused", Some("reference_conflict")),
        (json!({"customer_id": "ADA"}), "refused", Some("invalid_payment")),
        (json!("not a payment"), "refused", Some("invalid_payment")),
        (payment("before", "ADA", "1"), "replayed", None),
        (payment("b", "NOBODY", "5"), "accepted", None),
        (
            but(payment("c", "ADA", "7"), json!({"transaction_amount": "7.001"})),
            "refused",
            Some("invalid_payment"),
        ),
        (payment("d", "ADA", "3"), "accepted", None),
    ];
    let items = cases.clone().map(|case| case.0);
    let (wanted, codes) = (cases.clone().map(|case| case.1), cases.map(|case| case.2));
    let check = |reply: &Reply, wanted: &[&str]| {
        assert_eq!(reply.status, 200, "{}", reply.text);
        let body = reply.json();
        let results = body["results"].as_array().unwrap();
        assert_eq!(results.len(), wanted.len());
        for (index, result) in results.iter().enumerate() {
            assert_eq!(result["index"], index);
            assert_eq!(result["status"], wanted[index], "{result}");
            assert_eq!(result["code"].as_str(), codes[index], "{result}");
            assert_eq!(result["stream_id"].is_string(), codes[index].is_none(), "{result}");
        }
        for status in ["accepted", "replayed", "refused"] {
            let count = wanted.iter().filter(|one| **one == status).count();
            assert_eq!(body[status], count, "{status}");
        }
        assert_eq!(results[7]["errors"][0]["pointer"], "/transaction_amount");
        assert_eq!(results[0]["stream_id"], results[1]["stream_id"]);
    };
    check(&h.api.post(BATCH, &json!(items)).await, &wanted);
    // The same as lines, with lines that say nothing: all of it is known.
    let lines: Vec<String> = items.iter().map(ToString::to_string).collect();
    let text = format!("\n{}\r\n\n", lines.join("\r\n"));
    let reply = post_text(&h.api, BATCH, "application/x-ndjson", text).await;
    check(&reply, &wanted.map(|one| if one == "accepted" { "replayed" } else { one }));
    h.settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "14.00");
    assert_eq!(h.api.payment("b").await["status"], "suspense");

    let empty = h.api.post(BATCH, &json!([])).await;
    assert_eq!(empty.json(), json!({"accepted": 0, "replayed": 0, "refused": 0, "results": []}));
}

#[tokio::test]
async fn ten_thousand_payments_fit_one_batch() {
    let h = Harness::start().await;
    h.api.seed(100).await;
    let lines: Vec<String> = (0..10_000)
        .map(|n| payment(&format!("n{n}"), &format!("GIG{:05}", n % 100 + 1), "1.01").to_string())
        .collect();
    let reply = post_text(&h.api, BATCH, "application/x-ndjson", lines.join("\n")).await;
    let body = reply.json();
    assert_eq!((reply.status, &body["accepted"]), (200, &json!(10_000)));
    h.settled().await;
    let totals = &h.api.stats().await["totals"];
    assert_eq!((&totals["applied"], &totals["amount"]), (&json!(10_000), &json!("10100.00")));
    let wanted: Vec<String> = (0..1_000).map(|n| format!("n{n}")).chain(["nix".into()]).collect();
    let path = "/api/v1/payments/lookup";
    let reply = h.api.post(path, &json!({"transaction_references": wanted})).await;
    reply.is_problem(413, "batch_too_large");
    let found = h.api.post(path, &json!({"transaction_references": wanted[1..]})).await.json();
    let found = found["payments"].as_array().unwrap();
    assert_eq!(found.len(), 1_000);
    assert!(
        found.iter().zip(&wanted[1..]).all(|(one, name)| one["transaction_reference"] == *name)
    );
    assert!(found[..999].iter().all(|one| one["status"] == "applied"));
    assert_eq!(found[999]["status"], "unknown");
}

#[tokio::test]
async fn whoever_prefers_to_wait_is_told_the_outcome() {
    let h = Harness::start().await.account("ADA", "100.00").await;
    let applied = h.api.pay_and_wait(&payment("w1", "ADA", "120")).await.is(200);
    assert_eq!(applied.header("preference-applied"), "wait=30");
    assert_eq!(applied.header("location"), "/api/v1/payments/w1");
    let wanted = json!({"status": "applied", "applied_amount": "100.00",
        "excess_amount": "20.00", "balance_after": "0.00", "account_version": 1});
    has(&applied.json(), wanted);

    let pending = but(payment("w2", "ADA", "5"), json!({"payment_status": "PENDING"}));
    assert_eq!(h.api.pay_and_wait(&pending).await.json()["status"], "recorded");
    let nobody = h.api.pay_and_wait(&payment("w3", "NOBODY", "5")).await;
    assert_eq!((nobody.status, &nobody.json()["status"]), (200, &json!("suspense")));

    // The same reference for another customer meets only in the ledger, as
    // their partitions differ.
    let reply = h.api.pay_and_wait(&payment("w1", &elsewhere("ADA"), "120")).await;
    reply.is_problem(409, "reference_conflict");
    let conflicts = h.api.payment("w1").await["conflicts"].clone();
    assert_eq!(conflicts[0]["state"], "open", "{conflicts}");

    // A replay may wait too.
    let replay = h.api.pay_and_wait(&payment("w1", "ADA", "120")).await;
    assert_eq!((replay.status, replay.header("idempotent-replayed")), (200, "true"));
    assert_eq!(replay.json()["status"], "applied");
    h.settled().await;

    for odd in ["wait=0", "wait=x", "respond-async", "wait=-1", ""] {
        let request = h.api.request(Method::POST, PAYMENTS).header("prefer", odd);
        let sent = payment(&format!("odd-{odd}"), "ADA", "1");
        assert_eq!(send(request.json(&sent)).await.status, 202, "{odd}");
    }
}

#[tokio::test]
async fn a_wait_that_is_over_is_answered_with_202() {
    let h = Harness::gateway(&[]).await;
    let request = h.api.request(Method::POST, PAYMENTS).header("prefer", "respond-async, wait=1");
    let reply = send(request.json(&payment("slow", "ADA", "1"))).await;
    assert_eq!((reply.status, &reply.json()["status"]), (202, &json!("accepted")));
    assert_eq!(reply.header("preference-applied"), "");
}

#[tokio::test]
async fn a_statement_is_paged_newest_first_with_a_running_balance() {
    let h = Harness::start().await.account("ADA", "100.00").await;
    for n in 1..=7 {
        h.api.pay(&format!("s{n}"), "ADA", &format!("{n}.00")).await;
    }
    let failed = but(payment("s8", "ADA", "50"), json!({"payment_status": "FAILED"}));
    h.api.post_payment(&failed).await.is(202);
    h.settled().await;
    let mut rows = Vec::new();
    let mut path = format!("{CUSTOMERS}/ADA/payments?limit=3");
    let mut pages = 0;
    loop {
        let page = h.api.get(&path).await.json();
        pages += 1;
        assert_eq!(page["customer_id"], "ADA");
        rows.extend(page["payments"].as_array().unwrap().clone());
        let Some(cursor) = page["next_cursor"].as_i64() else { break };
        path = format!("{CUSTOMERS}/ADA/payments?limit=3&cursor={cursor}");
    }
    assert_eq!(pages, 3);
    let seen: Vec<(&str, &str, &str)> = rows
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap();
            (text("transaction_reference"), text("status"), text("balance_after"))
        })
        .collect();
    let wanted = [
        ("s8", "recorded", "72.00"),
        ("s7", "applied", "72.00"),
        ("s6", "applied", "79.00"),
        ("s5", "applied", "85.00"),
        ("s4", "applied", "90.00"),
        ("s3", "applied", "94.00"),
        ("s2", "applied", "97.00"),
        ("s1", "applied", "99.00"),
    ];
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn customers_are_opened_once_listed_in_order_and_seeded_again_without_harm() {
    let h = Harness::gateway(&[]).await;
    let terms = json!({"customer_id": "ADA", "asset_value": "250.50", "term_weeks": 10});
    let opened = h.api.post(CUSTOMERS, &terms).await;
    assert_eq!((opened.status, opened.header("location")), (201, "/api/v1/customers/ADA"));
    let wanted = json!({"asset_value": "250.50", "total_paid": "0.00", "credit": "0.00",
        "outstanding_balance": "250.50"});
    has(&opened.json(), wanted);
    assert_eq!(h.api.get("/api/v1/customers/ADA").await.json()["term_weeks"], 10);
    h.api.post(CUSTOMERS, &terms).await.is(200);
    let other = but(terms, json!({"term_weeks": 11}));
    h.api.post(CUSTOMERS, &other).await.is_problem(409, "customer_exists");
    for (field, value) in [
        ("customer_id", json!("a b")),
        ("asset_value", json!("0")),
        ("asset_value", json!("-1")),
        ("asset_value", json!("x")),
        ("term_weeks", json!(0)),
        ("term_weeks", json!(5201)),
        ("term_weeks", json!("10")),
        ("term_weeks", json!(1.5)),
    ] {
        let mut wrong = json!({"customer_id": "BOB", "asset_value": "1", "term_weeks": 1});
        wrong[field] = value.clone();
        let problem = h.api.post(CUSTOMERS, &wrong).await.is_problem(422, "invalid_customer");
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"), "{value}");
    }

    let seeded = h.api.post(SEED, &json!({"count": 25})).await.json();
    assert_eq!(seeded, json!({"requested": 25, "created": 25, "existing": 0, "released": 0}));
    let seeded = h.api.post(SEED, &json!({"count": 30})).await.json();
    assert_eq!(seeded, json!({"requested": 30, "created": 5, "existing": 25, "released": 0}));
    let page = h.api.get(&format!("{CUSTOMERS}?limit=4&offset=1")).await.json();
    has(&page, json!({"total": 31, "limit": 4, "offset": 1}));
    let names: Vec<&Value> =
        page["customers"].as_array().unwrap().iter().map(|one| &one["customer_id"]).collect();
    assert_eq!(names, ["GIG00001", "GIG00002", "GIG00003", "GIG00004"]);
    has(&page["customers"][0], json!({"asset_value": "1000000.00", "term_weeks": 50}));
    let rest = h.api.get(&format!("{CUSTOMERS}?offset=31")).await.json();
    has(&rest, json!({"customers": [], "limit": 20}));
}

#[tokio::test]
async fn references_may_have_any_visible_character_and_look_like_paths() {
    let h = Harness::start().await.account("ADA", "1000").await;
    let all: String = (b'!'..=b'~').map(char::from).collect();
    let odd = ["a/b", "a%2Fb", "a?b=c", "a#b", "100%", "\"quoted\\", "a+b", "{x}", &all];
    let paths = ["batch", "lookup", "...", "balance", "%62atch"];
    for reference in odd.into_iter().chain(paths) {
        let sent = payment(reference, "ADA", "1");
        let reply = h.api.pay_and_wait(&sent).await.is(200);
        let location = reply.header("location");
        let found = h.api.get(location).await.is(200).json();
        has(&found, json!({"transaction_reference": reference, "status": "applied"}));
        assert_eq!(found["links"]["self"], location);
        let again = h.api.post_payment(&sent).await;
        assert_eq!(again.header("idempotent-replayed"), "true", "{reference}");
    }
    h.settled().await;
}

#[tokio::test]
async fn a_trace_context_travels_with_the_entry() {
    let h = Harness::gateway(&[]).await;
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    // Only a trusted caller may say that it is to be recorded.
    let kept = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    for (reference, sent, kept) in
        [("t1", Some(context), Some(kept)), ("t2", None, None), ("t3", Some("nonsense"), None)]
    {
        let mut request =
            h.api.request(Method::POST, PAYMENTS).json(&payment(reference, "ADA", "1"));
        if let Some(sent) = sent {
            request = request.header("traceparent", sent);
        }
        let place = send(request).await.json();
        let fields = entry(&h.stores, &place).await;
        assert_eq!(fields.get("traceparent").map(String::as_str), kept, "{fields:?}");
        assert_eq!(fields["v"], "1");
        assert_eq!(fields["seq"], place["sequence"].to_string());
    }
}

async fn entry(stores: &Stores, place: &Value) -> HashMap<String, String> {
    let key = stores.key(place["partition"].as_u64().unwrap(), "stream");
    let id = place["stream_id"].as_str().unwrap();
    let entries: Vec<(String, HashMap<String, String>)> =
        stores.ask(&["XRANGE", &key, id, id]).await;
    entries.into_iter().next().unwrap().1
}

#[tokio::test]
async fn stats_and_health_tell_the_truth() {
    let h = Harness::start().await.account("ADA", "10").await;
    h.api.open_account("BOB", "10").await;
    h.api.pay("p1", "ADA", "10").await;
    h.api.pay("p2", "BOB", "5").await;
    h.api.pay("p3", "NOBODY", "7").await;
    let failed = but(payment("p4", "BOB", "50"), json!({"payment_status": "FAILED"}));
    h.api.post_payment(&failed).await;
    h.settled().await;
    let stats = h.api.stats().await;
    let totals = json!({
        "payments": 4, "applied": 2, "recorded": 1, "rejected": 0, "suspense": 1,
        "dead_lettered": 0, "parked": 0, "conflicts": 0, "duplicates": 0, "amount": "15.00",
        "average_amount": "7.50",
    });
    assert_eq!(stats["totals"], totals);
    assert_eq!(stats["customers"], json!({"total": 2, "completed": 1, "completion_rate": 0.5}));
    assert_eq!(stats["backlog"], json!({"lag": 0, "pending": 0}));
    assert!(stats["settled_per_second"].is_number());
    let partitions = stats["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), usize::from(PARTITIONS));
    let sequences: i64 = partitions.iter().map(|one| one["last_sequence"].as_i64().unwrap()).sum();
    assert_eq!(sequences, 4);
    assert!(partitions.iter().all(|one| one["owner"] == "tester" && one["epoch"] == 1), "{stats}");
    let health = h.api.get("/api/v1/health").await.json();
    let up = json!({"status": "up", "circuit": "closed"});
    let up = json!({"redis": up, "postgresql": up});
    assert_eq!((&health["status"], &health["dependencies"]), (&json!("ok"), &up));
}

#[tokio::test]
async fn too_many_requests_at_once_are_refused_and_health_is_not() {
    let h = Harness::gateway(&["--requests-max", "1"]).await;
    let waiting = h.api.request(Method::POST, PAYMENTS).header("prefer", "wait=30");
    let waiting = waiting.json(&payment("waits", "ADA", "1"));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(send(waiting));
    until("it is appended", async || !h.stores.keys("*:seq").await.is_empty()).await;
    h.api.get("/api/v1/payments/waits").await.is_problem(503, "gateway_busy");
    h.api.get("/livez").await.is(200);
    h.api.get("/readyz").await.is(200);
    // A stop ends the wait, and the answer still comes.
    h.stop().await;
    let answered = in_time("it is answered", tasks.join_next()).await.unwrap().unwrap();
    assert_eq!(answered.status, 202, "{}", answered.text);
}

#[tokio::test]
async fn the_description_is_whole() {
    let h = Harness::gateway(&[]).await;
    let document = h.api.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    assert_eq!(document, serde_json::to_value(paystream::http::description()).unwrap());
    let mut described = Vec::new();
    let mut ids = HashSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            described.push((method.to_uppercase(), path.clone()));
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
            assert!(operation["responses"].as_object().is_some_and(|some| !some.is_empty()));
            assert!(operation["summary"].is_string(), "{operation}");
        }
    }
    for wanted in [
        "POST /api/v1/payments",
        "POST /api/v1/payments/batch",
        "POST /api/v1/payments/lookup",
        "GET /api/v1/payments/{reference}",
        "GET /api/v1/customers",
        "POST /api/v1/customers",
        "GET /api/v1/customers/{customer_id}",
        "GET /api/v1/customers/{customer_id}/balance",
        "GET /api/v1/customers/{customer_id}/payments",
        "POST /api/v1/admin/seed-customers",
        "GET /api/v1/admin/stats",
        "GET /api/v1/health",
        "GET /livez",
        "GET /readyz",
    ] {
        let (method, path) = wanted.split_once(' ').unwrap();
        assert!(described.contains(&(method.to_owned(), path.to_owned())), "{wanted}");
    }
    // What is described exists: neither nothing there, nor another method.
    for (method, path) in &described {
        let path = path.replace(['{', '}'], "x");
        let reply = send(h.api.request(method.parse().unwrap(), &path)).await;
        let code = reply.json()["code"].as_str().unwrap_or_default().to_owned();
        assert!(
            !["route_not_found", "method_not_allowed"].contains(&code.as_str()),
            "{method} {path}"
        );
    }
    check_references(&document, &document);
}

fn check_references(document: &Value, value: &Value) {
    if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
        let pointer = reference.strip_prefix('#').expect("references stay in the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for field in value.as_object().into_iter().flat_map(serde_json::Map::values) {
        check_references(document, field);
    }
    for item in value.as_array().into_iter().flatten() {
        check_references(document, item);
    }
}

#[tokio::test]
async fn the_page_of_the_description_needs_no_other_host() {
    let h = Harness::gateway(&[]).await;
    let page = h.api.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    let mut loaded = 0;
    for part in page.text.split(['"', '\'']) {
        assert!(
            !part.starts_with("http:") && !part.starts_with("https:") && !part.starts_with("//"),
            "{part}"
        );
        if part.ends_with(".js") || part.ends_with(".css") {
            let path = format!("/docs/{}", part.trim_start_matches("./"));
            let asset = h.api.get(&path).await;
            assert_eq!(asset.status, 200, "{path}");
            loaded += 1;
        }
    }
    assert!(loaded >= 3, "{}", page.text);
    let setup = h.api.get("/docs/swagger-initializer.js").await.text;
    assert!(setup.contains("/openapi.json"), "{setup}");
    assert!(!setup.contains("petstore") && !setup.contains("https://"), "{setup}");
}

#[tokio::test]
async fn only_objects_are_payments_accounts_and_requests() {
    let h = Harness::gateway(&[]).await;
    let array = r#"["GIG00001","COMPLETE","10","2025-11-07 14:54:16","pos1"]"#;
    let json_type = "application/json";
    post_text(&h.api, PAYMENTS, json_type, array).await.is_problem(422, "invalid_payment");
    for (media_type, batch) in
        [(json_type, format!("[{array}]")), ("application/x-ndjson", array.to_owned())]
    {
        let items = post_text(&h.api, BATCH, media_type, batch).await.json();
        has(&items, json!({"refused": 1, "accepted": 0}));
    }
    for (path, text, code) in [
        (CUSTOMERS, r#"["ADA","10",5]"#, "invalid_customer"),
        (SEED, "[3]", "invalid_request"),
        ("/api/v1/payments/lookup", r#"[["r"]]"#, "invalid_request"),
        ("/api/v1/admin/dead-letters/1/discard", r#"["ada","why"]"#, "invalid_request"),
    ] {
        post_text(&h.api, path, json_type, text).await.is_problem(422, code);
    }
    assert_eq!(h.stores.delete_keys("*:seq").await, 0);
}

#[tokio::test]
async fn what_no_store_keeps_is_refused_where_it_is_asked_for() {
    let h = Harness::gateway(&[]).await;
    for path in [
        "/api/v1/admin/audit-log?subject=%00",
        "/api/v1/admin/dead-letters?reference=a%00b",
        "/api/v1/admin/dead-letters?since=-262143-01-01T00:00:00Z",
        "/api/v1/admin/dead-letters?until=%2B262142-01-01T00:00:00Z",
        "/api/v1/admin/suspense?after=%00",
        "/api/v1/admin/conflicts?reference=%00",
    ] {
        h.api.get(path).await.is_problem(400, "invalid_query");
    }
    for path in ["/console/audit?subject=%00", "/console/dead-letters?customer=%00"] {
        assert_eq!(h.api.get(path).await.status, 400, "{path}");
    }
    let last = format!("/console/customers?offset={}", i64::MAX);
    h.api.get(&last).await.is(200);
    for wrong in [
        json!({"reference": "\0"}),
        json!({"since": "-262143-01-01T00:00:00Z"}),
        json!({"all": true, "actor": "a\u{202e}da"}),
        json!({"all": true, "reason": "fine\u{2066}"}),
    ] {
        let body = but(json!({"actor": "ada", "reason": "why"}), wrong);
        let reply = h.api.post("/api/v1/admin/dead-letters/redrive", &body).await;
        reply.is_problem(422, "invalid_request");
    }
}

#[tokio::test]
async fn another_currency_is_refused_and_unknown_fields_are_named() {
    let h = Harness::start().await;
    let account = json!({
        "customer_id": "ADA", "asset_value": "100", "term_weeks": 5, "currency": "NGN",
        "term_week": 6,
    });
    let opened = h.api.post(CUSTOMERS, &account).await.is(201);
    assert_eq!(opened.json()["currency"], "NGN");
    assert_eq!(opened.json()["ignored"], json!(["term_week"]));
    let other = but(account, json!({"currency": "USD", "customer_id": "BOB"}));
    h.api.post(CUSTOMERS, &other).await.is_problem(422, "invalid_customer");

    let plain = payment("plain", "ADA", "1");
    let named = but(plain.clone(), json!({"currency": "NGN", "curency": "USD"}));
    assert!(h.api.post_payment(&plain).await.json().get("ignored").is_none());
    let again = h.api.post_payment(&named).await;
    assert_eq!((again.status, &again.json()["ignored"]), (200, &json!(["curency"])));
    let waited = h.api.pay_and_wait(&named).await.json();
    assert_eq!((&waited["status"], &waited["ignored"]), (&json!("applied"), &json!(["curency"])));
    let dollars = but(payment("dollars", "ADA", "1"), json!({"currency": "USD"}));
    let problem = h.api.post_payment(&dollars).await.is_problem(422, "invalid_payment");
    assert_eq!(problem["errors"][0]["code"], "currency_mismatch");
    let batch = h.api.post(BATCH, &json!([named, dollars])).await.json();
    assert_eq!(batch["results"][0]["ignored"], json!(["curency"]), "{batch}");
    assert_eq!(batch["results"][1]["errors"][0]["pointer"], "/currency", "{batch}");
    h.settled().await;
}
