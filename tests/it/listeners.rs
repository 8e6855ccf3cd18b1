//! Proves that with an address of their own operators are served there and nowhere
//! else, that the public address does not show that they are served at all, that
//! neither address takes the other's connections or requests, and that each of them
//! refuses to start where anybody could use it.

use crate::prelude::*;

const API: &str = "the-token-of-the-api";
const ADA: &str = "the-token-of-ada-01";
const OWN: (&str, &str) = ("PAYSTREAM_OPERATIONS_BIND", "127.0.0.1:0");
const TOKENS: [(&str, &str); 2] =
    [("PAYSTREAM_API_TOKEN", API), ("PAYSTREAM_OPERATOR_TOKENS", "ada=the-token-of-ada-01")];

const HEALTH: [&str; 3] = ["/livez", "/readyz", "/api/v1/health"];
const PUBLIC: [&str; 4] =
    ["/api/v1/customers", "/api/v1/payments/x", "/api/v1/payments/batch", "/api/v1/customers/x"];
const OPERATIONS: [&str; 8] = [
    "/api/v1/admin/stats",
    "/api/v1/admin/doctor",
    "/console",
    "/console/",
    "/console/partitions",
    "/console/sign-in",
    "/console/live",
    "/console/assets/console.css",
];

/// What tells two answers apart.
async fn answer(api: &Api, method: &Method, path: &str) -> (u16, Vec<String>, Value) {
    let reply = send(api.request(method.clone(), path)).await;
    let mut headers: Vec<String> = reply.headers.keys().map(ToString::to_string).collect();
    headers.sort();
    let mut body = reply.json();
    body["request_id"] = Value::Null;
    (reply.status, headers, body)
}

/// The paths that an address describes.
async fn described(api: &Api) -> BTreeSet<String> {
    let document = api.get("/openapi.json").await.is(200).json();
    document["paths"].as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn each_address_serves_its_own_paths_and_hides_the_others() {
    let stores = Stores::new().await;
    let gateway = Process::serve("gateway", &stores, &[&[OWN][..], &TOKENS].concat()).await;
    let (public, operations) = (&gateway.api, gateway.operations().await);
    let (bank, ada) = (public.with_token(API), operations.with_token(ADA));
    for path in HEALTH.into_iter().chain(["/docs/"]) {
        public.get(path).await.is(200);
        operations.get(path).await.is(200);
    }
    for path in PUBLIC {
        public.get(path).await.is_problem(401, "unauthorized");
        let reply = bank.get(path).await;
        assert_ne!(reply.json()["code"], "route_not_found", "{path}");
    }
    for path in OPERATIONS {
        let reply = ada.get(path).await;
        assert_ne!(reply.json()["code"], "route_not_found", "{path}");
        assert_ne!(reply.status, 401, "{path}");
    }
    // Whoever asks, with whatever token: nothing tells a path that is served elsewhere
    // from one that nobody serves.
    for (api, paths) in [
        (public, &OPERATIONS[..]),
        (&bank, &OPERATIONS[..]),
        (&public.with_token(ADA), &OPERATIONS[..]),
        (&operations, &PUBLIC[..]),
        (&ada, &PUBLIC[..]),
    ] {
        for method in [Method::GET, Method::POST] {
            let missing = answer(api, &method, "/none").await;
            assert_eq!((missing.0, &missing.2["code"]), (404, &json!("route_not_found")));
            for path in paths {
                assert_eq!(answer(api, &method, path).await, missing, "{method} {path}");
            }
        }
    }
    // Each describes what it serves, and together they are the whole.
    let (theirs, ours) = (described(public).await, described(&operations).await);
    assert!(!theirs.iter().any(|path| path.contains("/admin/")), "{theirs:?}");
    let both: BTreeSet<String> = theirs.intersection(&ours).cloned().collect();
    assert_eq!(both, HEALTH.map(str::to_owned).into());
    let whole = serde_json::to_value(paystream::http::description()).unwrap();
    assert_eq!(theirs.len() + ours.len(), whole["paths"].as_object().unwrap().len() + both.len());
    let text = public.get("/openapi.json").await.text;
    for word in ["console", "operators' API", "operator_token"] {
        assert!(!text.contains(word), "the public description has {word}");
    }
}

#[tokio::test]
async fn a_flood_at_the_public_address_keeps_no_operator_out() {
    let stores = Stores::new().await;
    let few = [OWN, ("PAYSTREAM_CONNECTIONS_MAX", "3"), ("PAYSTREAM_REQUESTS_MAX", "1")];
    let gateway = Process::serve("gateway", &stores, &few).await;
    let (public, operations) = (gateway.api.clone(), gateway.operations().await);
    public.open_account("ADA", "100").await;
    // It waits for an outcome, and nobody settles; that is all the requests there may be.
    let (mut waits, mut number) = (JoinSet::new(), 0);
    until("a request has the only place", async || {
        // It may have found the place taken by a look of ours.
        if waits.is_empty() || waits.try_join_next().is_some() {
            let waiting = public.clone();
            number += 1;
            let payment = payment(&format!("waits-{number}"), "ADA", "1");
            waits.spawn(async move { waiting.pay_and_wait(&payment).await });
        }
        let reply = try_send(public.request(Method::GET, "/api/v1/customers")).await;
        reply.is_ok_and(|reply| reply.json()["code"] == "gateway_busy")
    })
    .await;
    operations.get("/api/v1/admin/stats").await.is(200);
    let mut flood = Vec::new();
    let address = public.url.trim_start_matches("http://");
    until("no connection is left", async || {
        flood.push(TcpStream::connect(address).await.unwrap());
        let fresh = Api::new(public.url.clone());
        try_send(fresh.request(Method::GET, "/livez")).await.is_err()
    })
    .await;
    for path in ["/livez", "/api/v1/admin/stats", "/console"] {
        Api::new(operations.url.clone()).get(path).await.is(200);
    }
}

#[tokio::test]
async fn an_address_that_anybody_could_use_is_refused() {
    let stores = Stores::new().await;
    let outside = ("PAYSTREAM_OPERATIONS_BIND", "0.0.0.0:0");
    let published = ("PAYSTREAM_OPERATOR_TOKENS", "ada=paystream-local-token");
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let nobody = "PAYSTREAM_OPERATIONS_BIND 0.0.0.0:0 is reachable from outside, but no operator \
                  has a token";
    for (settings, sentence) in [
        (vec![outside], nobody),
        // The API's token is no operator's.
        (vec![outside, TOKENS[0]], nobody),
        (vec![outside, published], "published with compose.yaml"),
        (vec![OWN, ("PAYSTREAM_BIND", "0.0.0.0:0")], "PAYSTREAM_BIND 0.0.0.0:0 is reachable"),
        (
            vec![OWN, ("PAYSTREAM_BIND", "0.0.0.0:0"), TOKENS[1]],
            "PAYSTREAM_BIND 0.0.0.0:0 is reachable",
        ),
        (
            vec![("PAYSTREAM_OPERATIONS_BIND", taken.as_str())],
            "set PAYSTREAM_OPERATIONS_BIND to another address",
        ),
    ] {
        run(serve("gateway", &stores, &settings)).await.refused(&[sentence]);
    }
    // Tokens of operators guard theirs; the public one is for this machine alone.
    let gateway = Process::serve("gateway", &stores, &[outside, TOKENS[1]]).await;
    let operations = gateway.operations().await;
    operations.get("/api/v1/admin/stats").await.is_problem(401, "unauthorized");
    operations.with_token(ADA).get("/api/v1/admin/stats").await.is(200);
    let foreign =
        |api: &Api, path: &str| api.request(Method::GET, path).header("host", "x.example");
    send(foreign(&operations, "/livez")).await.is(200);
    send(foreign(&gateway.api, "/livez")).await.is_problem(401, "unauthorized");
    gateway.api.get("/api/v1/customers").await.is(200);
}

#[tokio::test]
async fn both_addresses_stay_when_the_number_of_partitions_changes() {
    let stores = Stores::new().await;
    let both = Process::serve("all", &stores, &[OWN]).await.account("ADA", "100").await;
    let operations = both.operations().await;
    both.api.pay("before", "ADA", "1").await;
    stores.succeed(&resize(&["--partitions", "16"])).await;
    until("the new topology is served at both", async || {
        let answer = try_send(operations.request(Method::GET, "/api/v1/admin/stats")).await;
        answer.is_ok_and(|answer| answer.json()["partitions"].as_array().map(Vec::len) == Some(16))
    })
    .await;
    both.api.until_taken(&payment("after", "ADA", "2")).await;
    operations.until_settled().await;
    both.api.statuses(&[("before", "applied"), ("after", "applied")]).await;
    both.api.get("/console").await.is_problem(404, "route_not_found");
}
