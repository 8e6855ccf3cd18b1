//! Proves that the API's token opens nothing of the operators' beyond this machine,
//! that compose.yaml sets both tokens, and that a misspelt field never widens what an
//! operator's request does.

use crate::prelude::*;

const API: &str = "the-token-of-the-api";
const ADMIN: &str = "/api/v1/admin";

/// Requests that change something, with a body that would be taken.
fn changes() -> Vec<(Method, &'static str, Value)> {
    let signed = json!({"actor": "ada", "reason": "ticket 4711"});
    let with = |more: Value| but(signed.clone(), more);
    vec![
        (Method::POST, "/suspense/held/assign", with(json!({"customer_id": "ADA"}))),
        (Method::POST, "/suspense/held/refund-mark", signed.clone()),
        (Method::POST, "/conflicts/0/1/resolve", signed.clone()),
        (Method::POST, "/parked/ADA/release", with(json!({"force": false}))),
        (Method::POST, "/partitions/0/release", with(json!({"force": false}))),
        (Method::POST, "/dead-letters/1/redrive", with(json!({"dry_run": false}))),
        (Method::POST, "/dead-letters/1/discard", signed.clone()),
        (Method::POST, "/dead-letters/redrive", with(json!({"all": true}))),
        (Method::POST, "/dead-letters/discard", with(json!({"all": true}))),
        (Method::POST, "/seed-customers", json!({"count": 1})),
        (Method::PUT, "/log", json!({"level": "debug"})),
    ]
}

#[tokio::test]
async fn the_token_of_the_api_opens_nothing_of_the_operators_beyond_loopback() {
    let stores = Stores::new().await;
    let settings = [("PAYSTREAM_BIND", "0.0.0.0:0"), ("PAYSTREAM_API_TOKEN", API)];
    let gateway = Process::serve("gateway", &stores, &settings).await;
    let api = &gateway.api;
    let with_token = |method: Method, path: &str| api.request(method, path).bearer_auth(API);
    for (method, path, body) in changes() {
        let refused = send(with_token(method, &format!("{ADMIN}{path}")).json(&body)).await;
        let problem = refused.is_problem(401, "unauthorized");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("PAYSTREAM_OPERATOR_TOKENS"), "{path}: {detail}");
    }
    for path in ["/audit-log", "/dead-letters", "/log", "/doctor", "/stats", "/payments/x"] {
        let reply = send(with_token(Method::GET, &format!("{ADMIN}{path}"))).await;
        reply.is_problem(401, "unauthorized");
    }
    send(with_token(Method::GET, "/console/partitions")).await.is(401);
    send(with_token(Method::GET, "/api/v1/customers")).await.is(200);
    assert_eq!(stores.count("select count(*) from audit_log").await, 0);
    assert_eq!(stores.count("select count(*) from customer_accounts").await, 0);
}

#[test]
fn compose_sets_the_tokens_of_the_api_and_of_operators() {
    let compose: Value = serde_saphyr::from_str(&read("compose.yaml")).unwrap();
    let services = compose["services"].as_object().unwrap();
    let serves = |service: &&Value| service["environment"].get("PAYSTREAM_BIND").is_some();
    let gateways: Vec<&Value> = services.values().filter(serves).collect();
    assert!(!gateways.is_empty(), "a service binds an address");
    for gateway in gateways {
        for name in ["PAYSTREAM_API_TOKEN", "PAYSTREAM_OPERATOR_TOKENS"] {
            let value = gateway["environment"][name].as_str().unwrap_or_default();
            // Without a default, and refused by compose where it is not set.
            assert!(value.starts_with(&format!("${{{name}:?")), "{name}: {value}");
        }
    }
}

#[tokio::test]
async fn the_secrets_of_compose_are_made_and_none_is_another() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("scripts")).unwrap();
    for file in [".env.example", "scripts/make-env.sh"] {
        fs::write(folder.path().join(file), read(file)).unwrap();
    }
    let make = || {
        let mut make = Command::new("sh");
        make.arg(folder.path().join("scripts/make-env.sh"))
            .current_dir(env!("CARGO_TARGET_TMPDIR"));
        make
    };
    run(make()).await.is(0, "");
    let made = fs::read_to_string(folder.path().join(".env")).unwrap();
    let made: BTreeMap<&str, &str> = made
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .collect();
    let compose = read("compose.yaml");
    let asked = compose.split("${").filter_map(|rest| rest.split_once(":?")).map(|(name, _)| name);
    for name in asked.collect::<BTreeSet<_>>() {
        assert!(made.get(name).is_some_and(|secret| secret.len() >= 64), "{name} is not made");
    }
    let secrets: BTreeSet<_> = made.values().collect();
    assert_eq!(secrets.len(), made.len(), "two are the same");
    run(make()).await.refused(&["is there already"]);
}

#[tokio::test]
async fn a_misspelt_field_is_named_and_changes_nothing() {
    let mut h = Harness::gateway(&["--attempts-max", "1"]).await;
    refuse_poison(&h.stores).await;
    h.api.open_account("ADA", "100").await;
    h.api.open_account("BOB", "100").await;
    h.api.pay("POISON1", "ADA", "5").await;
    h.api.pay("POISON2", "BOB", "6").await;
    h.work().await;
    allow_poison(&h.stores).await;
    let before = everything(&h.stores).await;
    for (method, path, body) in changes() {
        let path = format!("{ADMIN}{path}");
        for wrong in ["custmer", "dry_rum"] {
            let body = but(body.clone(), json!({ wrong: "BOB" }));
            let reply = send(h.api.request(method.clone(), &path).json(&body)).await;
            let problem = reply.is_problem(422, "invalid_request");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(&format!("`{wrong}`")), "{path}: {detail}");
        }
        // What is meant as a filter does not stand in the query.
        let filtered = format!("{path}?customer=BOB");
        send(h.api.request(method, &filtered).json(&body)).await.is_problem(400, "invalid_query");
    }
    // A filter that is not there narrows nothing down.
    for path in ["/dead-letters", "/suspense", "/conflicts", "/pending", "/audit-log"] {
        let reply = h.api.get(&format!("{ADMIN}{path}?custmer=BOB")).await;
        let problem = reply.is_problem(400, "invalid_query");
        assert!(problem["detail"].as_str().unwrap().contains("`custmer`"), "{problem}");
    }
    assert_eq!(everything(&h.stores).await, before);
}
