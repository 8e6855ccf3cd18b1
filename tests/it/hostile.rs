//! Proves that text is text: whatever means something to SQL, to Redis' protocol, to a log, a
//! terminal, a shell or a template, in whichever field it comes, is kept as it is or refused,
//! and is never obeyed.

use crate::prelude::*;

const HOSTILE: [&str; 16] = [
    "'; drop table customer_accounts; --",
    "' or '1'='1",
    // These are references that a bank may choose.
    "';drop/**/table/**/customer_accounts;--",
    "\"$(id)`id`%00%0d%0a<b>&lt;{{7*7}}",
    "$$; delete from audit_log; $$",
    "%s%n%_\\",
    "x\r\nFLUSHALL\r\n",
    "*1\r\n$8\r\nFLUSHALL\r\n",
    "x\n{\"level\":\"ERROR\",\"message\":\"forged\"}",
    "\",\"message\":\"forged",
    "\u{1b}[2J\u{1b}]0;owned\u{7}",
    "${jndi:ldap://localhost/x}{{7*7}}<%= 7*7 %>",
    "$(touch /tmp/owned)`id`|id",
    "../../../../etc/passwd",
    "\u{202e}evil\u{200b}",
    "\0",
];

const TOKENS: [(&str, &str); 2] = [
    ("PAYSTREAM_API_TOKEN", "the-token-of-the-api"),
    ("PAYSTREAM_OPERATOR_TOKENS", "ada=the-token-of-ada-01"),
];

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Every place of a request where somebody writes something, with this text in it.
fn requests(api: &Api, text: &str) -> Vec<RequestBuilder> {
    let post = |path: &str, body: &Value| api.request(Method::POST, path).json(body);
    let whole = payment("ref", "ADA", "1");
    let mut requests = Vec::new();
    for field in whole.as_object().unwrap().keys() {
        let mut sent = whole.clone();
        sent[field] = json!(text);
        requests.push(post("/api/v1/payments", &sent));
        requests.push(post("/api/v1/payments/batch", &json!({"payments": [sent]})));
    }
    for extra in ["currency", text] {
        requests.push(post("/api/v1/payments", &but(whole.clone(), json!({extra: text}))));
    }
    requests.push(post("/api/v1/payments/lookup", &json!({"transaction_references": [text]})));
    for body in [
        json!({"customer_id": text, "asset_value": "100", "term_weeks": 50}),
        json!({"customer_id": "EVE", "asset_value": text, "term_weeks": 50}),
        json!({"customer_id": "EVE", "asset_value": "100", "term_weeks": text}),
        json!({"customer_id": "EVE", "asset_value": "100", "term_weeks": 50, text: 1}),
    ] {
        requests.push(post("/api/v1/customers", &body));
    }
    let act = json!({"actor": text, "reason": text});
    let encoded = encoded(text);
    for path in [
        "admin/dead-letters/1/redrive".to_owned(),
        "admin/conflicts/0/1/resolve".to_owned(),
        format!("admin/suspense/{encoded}/refund-mark"),
        format!("admin/parked/{encoded}/release"),
    ] {
        requests.push(post(&format!("/api/v1/{path}"), &act));
    }
    let get = |path: String| api.request(Method::GET, &path);
    for path in [
        "payments/{}",
        "customers/{}",
        "customers/{}/balance",
        "customers/{}/payments?before={}",
        "customers?after={}&limit={}",
        "admin/payments/{}",
        "admin/dead-letters?code={}&customer_id={}",
        "admin/suspense?reference={}&state={}",
        "admin/audit-log?actor={}&subject={}",
        "webhooks/{}",
    ] {
        requests.push(get(format!("/api/v1/{}", path.replace("{}", &encoded))));
    }
    for path in ["payments?reference={}", "customers/{}", "act/{}?of={}", "audit?actor={}", "{}"] {
        requests.push(get(format!("/console/{}", path.replace("{}", &encoded))));
    }
    // What a header can carry of it.
    let visible: String = text.chars().filter(|one| !one.is_control()).collect();
    for name in ["x-request-id", "traceparent", "prefer", "user-agent", "x-forwarded-for", "cookie"]
    {
        requests
            .push(api.request(Method::GET, "/api/v1/customers").header(name, visible.as_bytes()));
    }
    requests
}

#[tokio::test]
async fn text_is_kept_or_refused_and_never_obeyed() {
    let stores = Stores::new().await;
    let process = Process::serve("all", &stores, &TOKENS).await;
    let [bank, ada] = TOKENS.map(|(_, token)| token.rsplit('=').next().unwrap());
    let [bank, ada] = [bank, ada].map(|token| process.api.with_token(token));
    bank.open_account("ADA", "1000").await;
    let tables = "select string_agg(relname, ' ' order by relname) from pg_class
         where relnamespace = 'public'::regnamespace and relkind = 'r'";
    let before = stores.texts(tables).await;
    let mut taken = 0;
    for text in HOSTILE {
        for request in requests(&bank, text).into_iter().chain(requests(&ada, text)) {
            let shown = format!("{request:?}");
            let reply = send(request).await;
            assert!(reply.status < 500, "{shown}: {}", reply.text);
            assert!(!reply.text.contains("SQLSTATE"), "{shown}: {}", reply.text);
            assert!(reply.headers.get("set-cookie").is_none(), "{shown}");
        }
        // A name that is taken is found under itself, letter by letter.
        let reply = bank.post_payment(&payment(text, "ADA", "1")).await;
        let found = bank.get(&format!("/api/v1/payments/{}", encoded(text))).await;
        match reply.status {
            200 | 202 => {
                assert_eq!(found.is(200).json()["transaction_reference"], text);
                taken += 1;
            }
            422 => assert_ne!(found.status, 200, "{text}"),
            other => panic!("{text}: {other} {}", reply.text),
        }
    }
    assert!(taken >= 2, "some of them are references");
    let settled = async || {
        ada.until_settled().await;
        stores.audit().await;
    };
    settled().await;
    assert_eq!(stores.texts(tables).await, before, "no table came or went");
    assert!(!Path::new("/tmp/owned").exists());
    // Each line of the log is one event, and none is of somebody else's making.
    let log = process.log();
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"));
        assert_ne!(event["message"], "forged", "{line}");
        assert!(!line.contains(|one: char| one.is_control()), "{line:?}");
    }
    assert!(log.lines().count() > 100, "what was refused was logged");
    bank.pay("as-before", "ADA", "1").await;
    settled().await;
    process.stop().await;
}
