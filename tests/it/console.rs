//! Proves what the console promises over plain HTTP: who may see it and change
//! something, where a form must come from, that nothing from outside becomes
//! markup, and that it works without script.

use std::sync::Arc;

use crate::prelude::*;

const API: &str = "the-token-of-the-api";
const ADA: &str = "the-token-of-ada-01";
const BEN: &str = "the-token-of-ben-02";

fn request(h: &Harness, method: Method, path: &str) -> RequestBuilder {
    h.api.browse(method, path)
}

async fn get(h: &Harness, path: &str) -> Reply {
    send(request(h, Method::GET, path)).await
}

/// A form as a page of ours sends it.
fn form(h: &Harness, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let body: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    request(h, Method::POST, path)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin")
        .body(body.join("&"))
}

#[tokio::test]
async fn each_token_opens_what_it_is_for() {
    let operators = format!("ada={ADA},ben={BEN}");
    let both = ["--api-token", API, "--operator-tokens", &operators];
    let (admin, console) = ("/api/v1/admin/stats", "/console");
    let api = "/api/v1/customers";
    // Settings, and for each path the tokens that open it.
    type Case<'a> = (&'a [&'a str], [(&'a str, &'a [Option<&'a str>]); 3]);
    let cases: [Case<'_>; 4] = [
        (&[], [(api, &[None]), (admin, &[None]), (console, &[None])]),
        (
            &["--api-token", API],
            [(api, &[Some(API)]), (admin, &[Some(API)]), (console, &[Some(API)])],
        ),
        (
            &["--operator-tokens", &operators],
            [(api, &[None]), (admin, &[Some(ADA), Some(BEN)]), (console, &[Some(ADA), Some(BEN)])],
        ),
        (
            &both,
            [
                (api, &[Some(API)]),
                (admin, &[Some(ADA), Some(BEN)]),
                (console, &[Some(ADA), Some(BEN)]),
            ],
        ),
    ];
    for (settings, paths) in cases {
        let h = Harness::gateway(settings).await;
        for (path, opened_by) in paths {
            let open = opened_by.contains(&None);
            for token in [None, Some(API), Some(ADA), Some(BEN), Some("the-token-of-nobody")] {
                let mut asked = request(&h, Method::GET, path);
                if let Some(token) = token {
                    asked = asked.bearer_auth(token);
                }
                let wanted = if open || opened_by.contains(&token) { 200 } else { 401 };
                let reply = send(asked).await;
                assert_eq!(reply.status, wanted, "{settings:?} {path} {token:?}");
            }
        }
        h.stop().await;
    }
}

#[tokio::test]
async fn a_cookie_opens_the_console_and_nothing_else() {
    let h =
        Harness::gateway(&["--api-token", API, "--operator-tokens", &format!("ada={ADA}")]).await;
    let refused = send(form(&h, "/console/sign-in", &[("token", "not-a-token-at-all")])).await;
    assert_eq!(refused.status, 401);
    assert!(
        refused.text.contains("Not signed in: token not recognised; tokens of operators"),
        "{}",
        refused.text
    );
    let to = [("token", ADA), ("to", "/console/audit")];
    let sent = form(&h, "/console/sign-in", &to).header("x-forwarded-proto", "https");
    let signed = send(sent).await;
    assert_eq!((signed.status, signed.header("location")), (303, "/console/audit"));
    let cookie = signed.header("set-cookie").to_owned();
    for part in ["__Host-paystream_console", "HttpOnly", "SameSite=Strict", "Path=/;", "Secure"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap().to_owned();
    for (path, status) in
        [("/console", 200), ("/api/v1/admin/stats", 401), ("/api/v1/customers", 401)]
    {
        let asked = request(&h, Method::GET, path).header("cookie", &cookie);
        let asked = asked.header("x-forwarded-proto", "https");
        assert_eq!(send(asked).await.status, status, "{path}");
    }
    let out = send(form(&h, "/console/sign-out", &[]).header("cookie", &cookie)).await;
    assert_eq!(out.status, 303);
    assert!(out.header("set-cookie").contains("Max-Age=0"), "{out:?}");
    let elsewhere = [("token", ADA), ("to", "https://example.org/")];
    let signed = send(form(&h, "/console/sign-in", &elsewhere)).await;
    assert_eq!(signed.header("location"), "/console");
}

#[tokio::test]
async fn only_a_trusted_proxy_makes_a_cookie_secure() {
    let operators = format!("ada={ADA}");
    let settings = ["--operator-tokens", &operators, "--trusted-proxies", "10.0.0.0/8"];
    let h = Harness::gateway(&settings).await;
    let sent = form(&h, "/console/sign-in", &[("token", ADA)]).header("x-forwarded-proto", "https");
    let signed = send(sent).await.is(303);
    assert!(!signed.header("set-cookie").contains("Secure"), "{signed:?}");
}

#[tokio::test]
async fn pages_carry_a_strict_policy_and_are_not_kept() {
    let h = Harness::gateway(&[]).await;
    for path in ["/console", "/console/sign-in", "/console/nothing", "/console/dead-letters/x"] {
        let reply = get(&h, path).await;
        let policy = reply.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("referrer-policy"), "no-referrer");
        assert_eq!(reply.header("cache-control"), "no-store", "{path}");
    }
    let page = get(&h, "/console").await.text;
    assert!(!page.contains("<script>") && !page.contains("style="), "{page}");
    assert!(!page.contains("https://") && !page.contains("http://"), "{page}");
    // Assets may be kept for ever: their names change with them.
    for part in page.split("/console/assets/").skip(1) {
        let name = part.split('"').next().unwrap();
        let asset = get(&h, &format!("/console/assets/{name}")).await;
        assert_eq!(asset.status, 200, "{name}");
        assert!(asset.header("cache-control").contains("immutable"), "{name}");
    }
    get(&h, "/console/assets/console-000000000000.css").await.is(404);
}

#[tokio::test]
async fn a_problem_is_a_page_with_its_status() {
    let h = Harness::gateway(&[]).await;
    for (path, status, code) in [
        ("/console/nothing", 404, "route_not_found"),
        ("/console/dead-letters/4711", 404, "case_not_found"),
        ("/console/customers/NOBODY", 404, "customer_not_found"),
        ("/console/stuck?partition=x", 400, "invalid_query"),
        ("/console/act/explode?of=1", 404, "route_not_found"),
        ("/console/act/release?of=x", 404, "case_not_found"),
    ] {
        let reply = get(&h, path).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.header("content-type").starts_with("text/html"), "{path}");
        assert!(reply.text.contains(code), "{path}: {}", reply.text);
        assert!(reply.text.contains("Overview"), "{path} leads on");
    }
}

#[tokio::test]
async fn a_form_from_elsewhere_changes_nothing() {
    let h = Harness::start().await;
    let host = h.api.url.trim_start_matches("http://").to_owned();
    let origin = format!("http://{host}");
    let fields = "of=1&reason=because&actor=ada&token=x";
    let sent = |path: &str, headers: &[(&str, &str)]| {
        let mut sent = request(&h, Method::POST, path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(fields);
        for (name, value) in headers {
            sent = sent.header(*name, *value);
        }
        sent
    };
    let refused: [&[(&str, &str)]; 5] = [
        &[],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site"), ("origin", &origin)],
        &[("origin", "https://example.org")],
        &[("origin", "null")],
    ];
    let acts = [
        "redrive",
        "discard",
        "assign",
        "refund_mark",
        "resolve",
        "release_partition",
        "unpark",
        "accept_losses",
        "register_group",
        "retire_group",
        "no_act",
    ];
    let acts = acts.map(|act| format!("/console/act/{act}"));
    for path in acts.iter().map(String::as_str).chain(["/console/sign-in", "/console/sign-out"]) {
        for headers in refused {
            let reply = send(sent(path, headers)).await;
            assert_eq!(reply.status, 403, "{path} {headers:?}");
            assert!(reply.text.contains("cross_origin"), "{path}: {}", reply.text);
        }
    }
    let taken: [&[(&str, &str)]; 3] = [
        &[("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none")],
        &[("origin", &origin)],
    ];
    for headers in taken {
        // There is no dead letter 1; that is said by the console itself.
        let reply = send(sent("/console/act/discard", headers)).await;
        assert_eq!(reply.status, 404, "{headers:?}: {}", reply.text);
        assert!(!reply.text.contains("cross_origin"));
    }
    // A name from elsewhere that leads here is not let in where nothing else guards.
    let rebound = request(&h, Method::GET, "/console").header("host", "example.org");
    send(rebound).await.is(401);
}

#[tokio::test]
async fn what_comes_from_outside_never_becomes_markup() {
    let h = Harness::start().await;
    let hostile = "<script>alert(1)</script>\"'><img src=x>";
    let raw = "<script>alert";
    h.api.open_account("ADA", "1000").await;
    let reference = "<b>\"x\"</b>";
    let strange = but(payment("x", "ADA", "5"), json!({ "transaction_reference": reference }));
    let accepted = h.api.post_payment(&strange).await;
    // References may have such characters or not; either way a page shows none.
    h.api.pay("HELD-1", "NOBODY", "7").await;
    h.api.until_settled().await;
    let fields = [("of", "HELD-1"), ("reason", hostile), ("actor", "<i>ada</i>")];
    send(form(&h, "/console/act/refund", &fields)).await.is(303);
    let encoded = "%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    let paths = [
        "/console/audit".to_owned(),
        format!("/console/audit?subject={encoded}"),
        format!("/console/payments?reference={encoded}"),
        format!("/console/customers?customer={encoded}"),
        format!("/console/suspense?customer={encoded}&all=yes"),
        format!("/console/stuck?reference={encoded}"),
        format!("/console/dead-letters?customer={encoded}&code={encoded}"),
        format!("/console/conflicts?reference={encoded}"),
        format!("/console?done={encoded}"),
        "/console/customers/ADA".to_owned(),
    ];
    for path in paths {
        let page = get(&h, &path).await.text;
        assert!(
            !page.contains(raw) && !page.contains("<img src=x") && !page.contains("<i>ada"),
            "{path}: {page}"
        );
        assert!(!page.contains("<b>\"x\""), "{path} ({})", accepted.status);
    }
    let audit = get(&h, "/console/audit").await.text;
    assert!(
        audit.contains("&#60;script&#62;alert(1)") || audit.contains("&lt;script&gt;alert(1)"),
        "{audit}"
    );
}

#[tokio::test]
async fn without_script_a_held_payment_is_assigned_once() {
    let h = Harness::with(&["--operator-tokens", &format!("ada={ADA}")]).await;
    h.api.open_account("ADA", "1000").await;
    h.api.pay("HELD-2", "NOBODY", "70").await;
    let as_ada = |asked: RequestBuilder| asked.bearer_auth(ADA);
    until("it is held", async || {
        let list = send(as_ada(request(&h, Method::GET, "/console/suspense"))).await;
        list.text.contains("/console/act/assign?of=HELD-2")
    })
    .await;
    let asked = request(&h, Method::GET, "/console/act/assign?of=HELD-2");
    let page = send(as_ada(asked)).await;
    assert!(page.text.contains("Why, for the audit log"), "{}", page.text);
    assert!(!page.text.contains("Your name"), "the token says who");
    let act =
        async |fields: &[(&str, &str)]| send(as_ada(form(&h, "/console/act/assign", fields))).await;
    // What is missing is said, and what was typed is kept.
    let short = act(&[("of", "HELD-2"), ("reason", "  "), ("customer", "ADA")]).await.is(422);
    assert!(short.text.contains("reason must not be empty"), "{}", short.text);
    assert!(short.text.contains("value=\"ADA\""), "{}", short.text);
    let unknown = act(&[("of", "HELD-2"), ("reason", "typo"), ("customer", "EVE")]).await.is(422);
    assert!(unknown.text.contains("no customer has the id EVE"), "{}", unknown.text);
    let fields = [("of", "HELD-2"), ("reason", "the bank mistyped it"), ("customer", "ADA")];
    let done = act(&fields).await;
    assert_eq!((done.status, done.header("location")), (303, "/console/suspense?done=assign"));
    let again = act(&fields).await.is(409);
    assert!(again.text.contains("Nothing was changed"), "{}", again.text);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "70.00");
    let audit = send(as_ada(request(&h, Method::GET, "/console/audit?subject=HELD-2"))).await.text;
    assert!(audit.contains("the bank mistyped it") && audit.contains("<td>ada</td>"), "{audit}");
}

#[tokio::test]
async fn live_figures_have_a_heartbeat_while_redis_hangs() {
    let stores = Stores::new().await;
    let proxy = Proxy::before(&stores.redis_url).await;
    let gateway = Process::serve("gateway", &stores, &[("PAYSTREAM_REDIS_URL", &proxy.url)]).await;
    let live = gateway.api.request(Method::GET, "/console/live?page=overview");
    let mut viewer = live.send().await.unwrap();
    assert_eq!(viewer.status(), 200);
    proxy.set(Way::Dumb);
    until("a heartbeat comes between the figures", async || {
        let event = viewer.chunk().await.unwrap().unwrap();
        event.starts_with(b"event: beat\n")
    })
    .await;
}

#[tokio::test]
async fn askers_that_give_up_cost_those_behind_them_nothing_while_redis_hangs() {
    let mut stores = Stores::new().await;
    let proxy = Proxy::before(&stores.redis_url).await;
    stores.redis_url.clone_from(&proxy.url);
    let operations = Arc::new(operations(&stores).await);
    assert!(operations.snapshot(Duration::ZERO).await.redis_available);
    proxy.set(Way::Dumb);
    let mut askers = JoinSet::new();
    for tenths in [19, 38, 57, 76, 95] {
        let operations = Arc::clone(&operations);
        askers.spawn(async move {
            let asking = operations.snapshot(Duration::ZERO);
            tokio::time::timeout(Duration::from_millis(100 * tenths), asking).await.is_ok()
        });
    }
    // They ask first, each in its turn.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    // Two snapshots of two seconds, and as much again for a busy machine.
    let asking = operations.snapshot(Duration::ZERO);
    let snapshot = tokio::time::timeout(Duration::from_secs(8), asking).await;
    assert!(!snapshot.expect("nobody waits for more than two").redis_available);
}

#[tokio::test]
async fn viewers_of_live_figures_are_bounded_and_do_not_hold_requests() {
    let operators = format!("ada={ADA},ben={BEN}");
    let h = Harness::gateway(&["--requests-max", "1", "--operator-tokens", &operators]).await;
    let as_whom = |path: &str, token: &str| request(&h, Method::GET, path).bearer_auth(token);
    let watch =
        async |token: &str| as_whom("/console/live?page=overview", token).send().await.unwrap();
    let mut viewers = Vec::new();
    for _ in 0..8 {
        let viewer = watch(ADA).await;
        assert_eq!(viewer.status(), 200);
        assert_eq!(viewer.headers()["content-type"], "text/event-stream");
        viewers.push(viewer);
    }
    let one_more = watch(ADA).await;
    assert_eq!(one_more.status(), 503);
    let said = one_more.text().await.unwrap();
    assert!(said.contains("8 pages of yours show live figures"), "{said}");
    assert_eq!(watch(BEN).await.status(), 200, "another operator watches");
    // The one request that may be under way is free.
    send(as_whom("/console", ADA)).await.is(200);
    for _ in 0..2 {
        until("figures come, and go on", async || {
            viewers[0].chunk().await.unwrap().unwrap().starts_with(b"data:")
        })
        .await;
    }
    drop(viewers);
    until("a place is free again", async || watch(ADA).await.status() == 200).await;
    // Streams end with the process: the stop does not wait for them.
    let last = as_whom("/console/live?page=partitions", ADA).send().await.unwrap();
    h.stop().await;
    drop(last);
}
