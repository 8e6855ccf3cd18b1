//! Proves that a signed webhook is taken as one payment of its source, in the words of that
//! source; that nothing else is; and that what was signed is kept.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::{callers::Keys, prelude::*};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEXT: &str = "whsec_dGhlIG5leHQgc2VjcmV0IG9mIHRoaXMgYmFuaw==";

const OTHER: &str = "whsec_YW5vdGhlciBzZWNyZXQgb2YgdGhlIGJhbmstYw==";
const FRESH: &str = "whsec_YSBmcmVzaCBzZWNyZXQgb2YgdGhlIGJhbmstYQ==";

/// What the deployment is called.
const HOST: &str = "pay.example";

/// How two providers write payments.
fn sources() -> Value {
    json!({
        "bank-a": {"webhooks": {"secrets": [SECRET]}},
        "bank-b": {"webhooks": {
            "secrets": [NEXT],
            "fields": {
                "transaction_reference": "/data/reference",
                "customer_id": "/data/customer/codes/0",
                "payment_status": "/data/status",
                "transaction_amount": "/data/amount",
                "transaction_date": "/data/paid_at",
                "currency": "/data/currency",
            },
            "statuses": {"success": "COMPLETE", "failed": "FAILED"},
            "amounts_in_minor_units": true,
        }},
        "bank-c": {"networks": ["192.0.2.0/24"], "webhooks": {"secrets": [OTHER]}},
    })
}

fn sign(secret: &str, signed: &str) -> String {
    let secret = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
    format!("v1,{}", STANDARD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

/// A webhook as its sender makes it, in parts that may be changed.
#[derive(Clone)]
struct Hook {
    source: &'static str,
    id: String,
    timestamp: String,
    signature: String,
    body: String,
}

impl Hook {
    fn new(source: &'static str, secret: &str, id: &str, body: &Value) -> Self {
        Self::at(source, secret, id, body, clock::system().timestamp())
    }

    fn at(source: &'static str, secret: &str, id: &str, body: &Value, seconds: i64) -> Self {
        let body = body.to_string();
        let signature = sign(secret, &format!("{id}.{seconds}.{body}"));
        let (id, timestamp) = (id.to_owned(), seconds.to_string());
        Self { source, id, timestamp, signature, body }
    }

    async fn send(&self, api: &Api) -> Reply {
        let path = format!("/api/v1/webhooks/{}", self.source);
        let request = api.request(Method::POST, &path).header("content-type", "application/json");
        let request = request.header("webhook-id", &self.id);
        let request = request.header("webhook-timestamp", &self.timestamp);
        send(request.header("webhook-signature", &self.signature).body(self.body.clone())).await
    }
}

struct Hooks {
    stores: Stores,
    keys: Keys,
    process: Process,
}

impl Hooks {
    async fn new(name: &str) -> Self {
        let (stores, keys) = (Stores::new().await, Keys::new(name).await);
        fs::write(keys.path("sources.json"), sources().to_string()).unwrap();
        let file = keys.path("sources.json");
        let settings = [("PAYSTREAM_SOURCES_FILE", &*file), ("PAYSTREAM_PUBLIC_HOSTS", HOST)];
        let process = keys.serve_as("all", &stores, &settings).await;
        Self { stores, keys, process }
    }

    async fn of(&self, source: &str) -> Api {
        let scopes = "payments:read,customers:read,customers:write,payments:write";
        let token = ["--source", source, "--scope", scopes];
        self.process.api.with_token(&self.keys.token_of(source, "a", &token).await)
    }
}

#[tokio::test]
async fn a_webhook_is_one_payment_however_often_it_comes() {
    let hooks = Hooks::new("webhook").await;
    let Hooks { stores, process, .. } = &hooks;
    let (a, api) = (hooks.of("bank-a").await, &process.api);
    a.open_account("ADA", "100").await;
    let body = payment("W", "ADA", "1");
    let first = Hook::new("bank-a", SECRET, "msg_1", &body);
    let answer = first.send(api).await.is(202);
    assert_eq!(answer.header("location"), "/api/v1/payments/W");
    // Each attempt is signed anew.
    let later = clock::system().timestamp() + 60;
    let again = Hook::at("bank-a", SECRET, "msg_1", &body, later).send(api).await.is(202);
    assert_eq!(again.json(), answer.json());
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = payment("X", "ADA", "1");
    Hook::new("bank-a", SECRET, "msg_1", &other)
        .send(api)
        .await
        .is_problem(409, "webhook_conflict");
    // Another id with the same reference, and the same id of another source.
    Hook::new("bank-a", SECRET, "msg_2", &body).send(api).await.is(202);
    let conflict = but(body.clone(), json!({"transaction_amount": "2"}));
    let conflict = Hook::new("bank-a", SECRET, "msg_3", &conflict).send(api).await;
    conflict.is_problem(409, "reference_conflict");
    a.until_is("W", "applied").await;
    a.get("/api/v1/payments/X").await.is(404);
    assert_eq!(a.balance("ADA").await["total_paid"], "1.00");

    let shown = stores.said(&["show", "bank-a W"]).await;
    let evidence = shown["evidence"].as_array().unwrap();
    assert_eq!(evidence.len(), 1, "{shown}");
    let (base, kept) =
        (evidence[0]["signature_base"].as_str().unwrap(), evidence[0]["body"].as_str());
    assert_eq!((base, kept), (&*format!("msg_1.{}.", first.timestamp), Some(&*first.body)));
    assert_eq!(evidence[0]["signature"], sign(SECRET, &format!("{base}{}", first.body)));
    assert_eq!(evidence[0]["scheme"], "standard-webhooks");
    let change = "update payment_evidence set body = ''";
    let refused = sqlx::query(change).execute(&mut stores.advisory_lock(7).await).await;
    assert!(refused.unwrap_err().to_string().contains("append-only"));
    assert!(!process.log().contains(&SECRET[6..]), "a secret is never logged");
    stores.audit().await;
}

#[tokio::test]
async fn what_is_not_signed_as_it_must_be_is_refused_and_changes_nothing() {
    let hooks = Hooks::new("unsigned").await;
    let api = &hooks.process.api;
    let now = clock::system().timestamp();
    let body = payment("U", "ADA", "1");
    let good = Hook::new("bank-a", SECRET, "msg_1", &body);
    let with = |change: fn(&mut Hook)| {
        let mut hook = good.clone();
        change(&mut hook);
        hook
    };
    let old = Hook::at("bank-a", SECRET, "msg_1", &body, now - 400);
    let early = Hook::at("bank-a", SECRET, "msg_1", &body, now + 400);
    for (hook, why) in [
        (with(|hook| hook.signature.clear()), "no signature in webhook-signature"),
        (with(|hook| hook.signature = "v1,AAAA".to_owned()), "no signature"),
        (with(|hook| hook.signature.replace_range(..3, "v1a,")), "no signature"),
        (with(|hook| hook.body.push(' ')), "no signature"),
        (with(|hook| hook.id = "msg_2".to_owned()), "no signature"),
        (with(|hook| hook.source = "bank-b"), "no signature"),
        (with(|hook| hook.source = "nobody"), "no signature"),
        (with(|hook| hook.source = "..%2Fpayments"), "no signature"),
        (Hook::new("bank-a", NEXT, "msg_1", &body), "no signature"),
        (old, "more than 5 minutes"),
        (early, "more than 5 minutes"),
        (with(|hook| hook.timestamp = "now".to_owned()), "seconds since 1970"),
        (with(|hook| hook.timestamp = "9".repeat(30)), "seconds since 1970"),
        (with(|hook| hook.id = "a.b".to_owned()), "webhook-id"),
        (with(|hook| hook.id = "i".repeat(129)), "webhook-id"),
    ] {
        let refused = hook.send(api).await.is_problem(401, "bad_signature");
        assert!(refused["detail"].as_str().unwrap().contains(why), "{why}: {refused}");
    }
    let path = "/api/v1/webhooks/bank-a";
    let bare = api.post(path, &body).await.is_problem(401, "bad_signature");
    assert_eq!(bare["detail"], "send the header webhook-id");
    api.get(path).await.is(405);
    let large = but(body.clone(), json!({"filler": "x".repeat(17_000)}));
    Hook::new("bank-a", SECRET, "big", &large).send(api).await.is_problem(413, "body_too_large");
    // Signed, and no payment.
    let wrong = but(body.clone(), json!({"transaction_amount": "-1"}));
    Hook::new("bank-a", SECRET, "msg_9", &wrong).send(api).await.is_problem(422, "invalid_payment");
    let array = Hook::new("bank-a", SECRET, "msg_9", &json!([1])).send(api).await;
    array.is_problem(422, "invalid_payment");
    // From where this source does not send.
    let elsewhere = Hook::new("bank-c", OTHER, "msg_1", &body).send(api).await;
    elsewhere.is_problem(403, "address_not_allowed");
    let token = hooks.of("bank-c").await;
    token.get("/api/v1/payments/U").await.is_problem(403, "address_not_allowed");
    // Signed, and not clear: whoever checks it elsewhere may see the other amount.
    for twice in [
        body.to_string().replace("{", r#"{"transaction_amount":"9","#),
        json!({"a": 1}).to_string().replace('}', r#","\ud800":1}"#),
    ] {
        let seconds = clock::system().timestamp();
        let signature = sign(SECRET, &format!("msg_9.{seconds}.{twice}"));
        let timestamp = seconds.to_string();
        let hook =
            Hook { body: twice, signature, timestamp, id: "msg_9".to_owned(), ..good.clone() };
        let refused = hook.send(api).await.is_problem(422, "invalid_payment");
        assert_eq!(refused["errors"].as_array().unwrap().len(), 1, "{refused}");
    }
    for refused in ["no signature in webhook-signature", "the settings of the source bank-c name"] {
        hooks.process.until_logged(refused).await;
    }
    let nothing = hooks.stores.keys("paystream:webhook:*").await;
    assert!(nothing.is_empty(), "{nothing:?}");
    good.send(api).await.is(202);
}

#[tokio::test]
async fn a_provider_writes_payments_in_words_of_its_own() {
    let hooks = Hooks::new("mapped").await;
    let api = &hooks.process.api;
    let b = hooks.of("bank-b").await;
    b.open_account("ADA", "100").await;
    let event = |reference: &str, status: &str, amount: Value| {
        json!({"event": "charge", "data": {
            "reference": reference, "status": status, "amount": amount, "currency": "NGN",
            "paid_at": "2025-11-07T14:54:16.000Z", "customer": {"codes": ["ADA"]},
        }})
    };
    let send = async |event: &Value| {
        let id = format!("msg-{}", event["data"]["reference"].as_str().unwrap_or_default());
        Hook::new("bank-b", NEXT, &id, event).send(api).await
    };
    send(&event("M", "success", json!(150))).await.is(202);
    send(&event("N", "failed", json!("7"))).await.is(202);
    b.until_is("M", "applied").await;
    b.until_is("N", "recorded").await;
    has(&b.payment("M").await, json!({"transaction_amount": "1.50", "source": "bank-b"}));
    assert_eq!(b.payment("N").await["transaction_amount"], "0.07");
    for (event, field, code) in [
        (event("P", "COMPLETE", json!(1)), "payment_status", "unknown_status"),
        (event("P", "success", json!(1.5)), "transaction_amount", "not_a_number"),
        (event("P", "success", json!(-1)), "transaction_amount", "not_a_number"),
        (event("P", "success", json!({})), "transaction_amount", "not_a_number"),
        (json!({"data": []}), "transaction_reference", "missing"),
        (json!({"data": {"reference": {"deep": 1}}}), "transaction_reference", "wrong_type"),
    ] {
        let refused = send(&event).await.is_problem(422, "invalid_payment");
        let errors = refused["errors"].as_array().unwrap();
        let pointer = format!("/{field}");
        let found = errors.iter().find(|error| error["pointer"] == *pointer).unwrap();
        assert_eq!(found["code"], code, "{refused}");
    }
}

#[tokio::test]
async fn a_secret_is_changed_while_webhooks_come() {
    let hooks = Hooks::new("secrets").await;
    let Hooks { keys, process, .. } = &hooks;
    let with = |secrets: Value| {
        let mut all = sources();
        all["bank-a"]["webhooks"]["secrets"] = secrets;
        fs::write(keys.path("sources.json"), all.to_string()).unwrap();
    };
    let mut sent = 0;
    let mut send = async |secret: &str| {
        sent += 1;
        let (name, id) = (format!("S{sent}"), format!("msg-{sent}"));
        let hook = Hook::new("bank-a", secret, &id, &payment(&name, "ADA", "1"));
        hook.send(&process.api).await.status
    };
    assert_eq!((send(SECRET).await, send(FRESH).await), (202, 401));
    with(json!([FRESH, SECRET]));
    until("both secrets are taken", async || send(FRESH).await == 202).await;
    assert_eq!(send(SECRET).await, 202);
    // A file that cannot be used changes nothing.
    with(json!([]));
    process.until_logged("the file of sources cannot be used").await;
    assert_eq!((send(SECRET).await, send(FRESH).await), (202, 202));
    with(json!([FRESH]));
    until("the old secret is refused", async || send(SECRET).await == 401).await;
    assert_eq!(send(FRESH).await, 202);
    let bad = keys.path("bad.json");
    fs::write(&bad, "[]").unwrap();
    let start = serve("gateway", &hooks.stores, &[("PAYSTREAM_SOURCES_FILE", &*bad)]);
    run(start).await.refused(&["PAYSTREAM_SOURCES_FILE", "at line 1"]);
    for host in ["https://pay.example", "pay.example:0", "pay.example:x", "a b", "[::1", "a:b:80"] {
        let start = serve("gateway", &hooks.stores, &[("PAYSTREAM_PUBLIC_HOSTS", host)]);
        run(start).await.refused(&["it must be a host with or without a port"]);
    }
}

/// A bank's key, and what its public half is called.
struct BankKey {
    pair: Ed25519KeyPair,
    id: &'static str,
}

impl BankKey {
    fn new(id: &'static str) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[u8::try_from(id.len()).unwrap(); 32]);
        Self { pair: pair.unwrap(), id }
    }

    fn public(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x})
    }
}

#[tokio::test]
async fn a_sender_that_signs_with_a_key_of_its_own_shares_no_secret() {
    let hooks = Hooks::new("public-key").await;
    let api = &hooks.process.api;
    let pair = BankKey::new("webhooks").pair;
    let public = pair.public_key().as_ref();
    let mut all = sources();
    let known = format!("whpk_{}", STANDARD.encode(public));
    all["bank-k"] = json!({"webhooks": {"public_keys": [known]}});
    fs::write(hooks.keys.path("sources.json"), all.to_string()).unwrap();
    let mut hook = Hook::new("bank-k", SECRET, "msg_1", &payment("K", "ADA", "1"));
    let signed = format!("{}.{}.{}", hook.id, hook.timestamp, hook.body);
    hook.signature = format!("v1a,{}", STANDARD.encode(pair.sign(signed.as_bytes())));
    until("the key is known", async || hook.send(api).await.status < 400).await;
    hooks.of("bank-k").await.until_is("K", "suspense").await;
    let shown = hooks.stores.said(&["show", "bank-k K"]).await;
    let digest = ring::digest::digest(&ring::digest::SHA256, public);
    let key: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    has(&shown["evidence"][0], json!({"key_id": key, "signature": hook.signature}));
    hook.body.push(' ');
    hook.send(api).await.is_problem(401, "bad_signature");
}

/// Signs a request as a bank would, with none of our code.
fn signed(api: &Api, key: &BankKey, method: Method, path: &str, body: &str) -> RequestBuilder {
    signed_to(HOST, api, key, (method, path, body))
}

fn signed_to(
    host: &str,
    api: &Api,
    key: &BankKey,
    (method, path, body): (Method, &str, &str),
) -> RequestBuilder {
    let created = clock::system().timestamp();
    let digest = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
    let digest = format!("sha-256=:{}:", STANDARD.encode(digest));
    let mut covers = r#""@method" "@authority" "@path""#.to_owned();
    let mut base = format!("\"@method\": {method}\n\"@authority\": {host}\n\"@path\": {path}\n");
    if !body.is_empty() {
        covers += " \"content-digest\"";
        base += &format!("\"content-digest\": {digest}\n");
    }
    let parameters = format!("({covers});created={created};keyid=\"{}\"", key.id);
    base += &format!("\"@signature-params\": {parameters}");
    let signature = STANDARD.encode(key.pair.sign(base.as_bytes()));
    let request = api.request(method, path).header("signature-input", format!("bank={parameters}"));
    let request = request.header("signature", format!("bank=:{signature}:")).header("host", host);
    let request = request.header("content-type", "application/json");
    request.header("content-digest", digest).body(body.to_owned())
}

#[tokio::test]
async fn a_bank_that_signs_requests_needs_no_token() {
    let hooks = Hooks::new("messages").await;
    let Hooks { stores, keys, process } = &hooks;
    let api = &process.api;
    let app = hooks.of("bank-s").await;
    app.open_account("ADA", "100").await;
    let (key, stranger) = (BankKey::new("bank-s-1"), BankKey::new("nobodys-key"));
    let mut all = sources();
    all["bank-s"] = json!({"keys": [key.public()]});
    fs::write(keys.path("sources.json"), all.to_string()).unwrap();
    let body = payment("S", "ADA", "1").to_string();
    let post = |key: &BankKey, body: &str| signed(api, key, Method::POST, "/api/v1/payments", body);
    until("the key is known", async || send(post(&key, &body)).await.status < 400).await;
    send(post(&key, &body)).await.is(200);
    app.until_is("S", "applied").await;
    let found = send(signed(api, &key, Method::GET, "/api/v1/payments/S", "")).await.is(200);
    has(&found.json(), json!({"source": "bank-s", "balance_after": null}));
    let shown = stores.said(&["show", "bank-s S"]).await;
    has(&shown["evidence"][0], json!({"scheme": "rfc9421", "key_id": key.id, "body": body}));

    let other = payment("T", "ADA", "1").to_string();
    let of_other = post(&key, &body).body(other.clone());
    let parts = (Method::POST, "/api/v1/payments", &*other);
    for (request, why) in [
        (post(&stranger, &other), "not that of a key of ours"),
        (signed_to("test.example", api, &key, parts), "not one of PAYSTREAM_PUBLIC_HOSTS"),
        (of_other, "not the one that content-digest tells of"),
        (post(&key, &other).header("signature-input", "x=();created=1"), "one signature"),
        (post(&stranger, &other).header("authorization", "x"), "not that of a key of ours"),
        (signed(api, &key, Method::GET, "/api/v1/payments/S?a=1", ""), "@query"),
    ] {
        let refused = send(request).await.is_problem(401, "bad_signature");
        assert!(refused["detail"].as_str().unwrap().contains(why), "{why}: {refused}");
    }
    let get = |path: &str| signed(api, &key, Method::GET, path, "");
    send(get("/api/v1/customers/ADA")).await.is_problem(403, "insufficient_scope");
    send(get("/api/v1/admin/stats")).await.is_problem(401, "unauthorized");
    let batch = format!("[{other}]");
    let batch = signed(api, &key, Method::POST, "/api/v1/payments/batch", &batch);
    send(batch).await.is_problem(422, "not_possible");
    app.get("/api/v1/payments/T").await.is(404);
    stores.audit().await;
}
