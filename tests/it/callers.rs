//! Proves who gets in with an access token, and to what: each attempt with its answer, on a
//! gateway with a key set, made with `paystream keys` and `paystream token`.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as URL};
use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::prelude::*;

pub const ISSUER: &str = "https://tokens.example";
/// A static token, which the loopback gateway takes beside access tokens.
const STATIC: &str = "a-static-token-of-the-api";

pub struct Keys {
    directory: PathBuf,
}

impl Keys {
    /// A key set with a key called `a`.
    pub async fn new(name: &str) -> Self {
        let process = std::process::id();
        let name = format!("keys-{name}-{process}");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).unwrap();
        let keys = Self { directory };
        keys.make("a").await;
        keys
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    fn set(&self) -> String {
        self.path("keys.json")
    }

    pub async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = paystream();
        command.args(arguments).env("PAYSTREAM_JWT_KEYS_FILE", self.set());
        command.env("PAYSTREAM_JWT_ISSUER", ISSUER);
        run(command).await
    }

    async fn make(&self, name: &str) -> String {
        let made = self.run(&["keys", "new", &self.path(name)]).await;
        assert_eq!(made.code(), Some(0), "{made:?}");
        let listed = self.run(&["keys", "list", "--json"]).await.json();
        listed.as_array().unwrap().last().unwrap()["kid"].as_str().unwrap().to_owned()
    }

    /// A token of bank-a's, as `paystream token` makes it.
    async fn token(&self, key: &str, more: &[&str]) -> String {
        self.token_of("bank-a", key, more).await
    }

    pub async fn token_of(&self, subject: &str, key: &str, more: &[&str]) -> String {
        let key = self.path(key);
        let fixed = ["token", "--key", &key, "--subject", subject];
        let made = self.run(&[&fixed[..], more].concat()).await;
        assert_eq!(made.code(), Some(0), "{made:?}");
        made.stdout.trim().to_owned()
    }

    async fn serve(&self, stores: &Stores, more: &[(&str, &str)]) -> Process {
        self.serve_as("all", stores, more).await
    }

    pub async fn serve_as(&self, role: &str, stores: &Stores, more: &[(&str, &str)]) -> Process {
        let set = self.set();
        let settings = [("PAYSTREAM_JWT_KEYS_FILE", &*set), ("PAYSTREAM_JWT_ISSUER", ISSUER)];
        Process::serve(role, stores, &[&settings[..], more].concat()).await
    }
}

/// The parts of a token, as JSON and signature.
fn parts(token: &str) -> (Value, Value, String) {
    let mut parts = token.split('.');
    let mut json = || serde_json::from_slice(&URL.decode(parts.next().unwrap()).unwrap()).unwrap();
    let (header, claims) = (json(), json());
    (header, claims, parts.next().unwrap().to_owned())
}

fn signed_with(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let text = |part: &Value| URL.encode(part.to_string());
    let message = format!("{}.{}", text(header), text(claims));
    format!("{message}.{}", URL.encode(sign(message.as_bytes())))
}

fn hmac(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    move |message| ring::hmac::sign(&key, message).as_ref().to_vec()
}

async fn ask(process: &Process, method: Method, path: &str, token: &str) -> Reply {
    let request = process.api.request(method.clone(), path).bearer_auth(token);
    let request = if method == Method::POST { request.json(&json!({})) } else { request };
    send(request).await
}

const ALL: &str = "payments:write,payments:read,customers:write,customers:read,operations:write,\
                   operations:read";

#[tokio::test]
async fn each_way_of_not_having_a_good_token_is_told_and_opens_nothing() {
    let stores = Stores::new().await;
    let keys = Keys::new("attempts").await;
    let process = keys.serve(&stores, &[]).await;
    let good = keys.token("a", &["--scope", ALL]).await;
    ask(&process, Method::GET, "/api/v1/customers", &good).await.is(200);
    let stranger = Keys::new("stranger").await.token("a", &["--scope", ALL]).await;
    let made = async |more: &[&str]| keys.token("a", &[&["--scope", ALL], more].concat()).await;
    let (header, claims, signature) = parts(&good);
    let with = |header: &Value, claims: &Value| {
        signed_with(header, claims, |_| URL.decode(&signature).unwrap())
    };
    let none = but(header.clone(), json!({"alg": "none", "typ": "at+jwt"}));
    let confused = but(header.clone(), json!({"alg": "HS256"}));
    let public: Value = serde_json::from_str(&fs::read_to_string(keys.set()).unwrap()).unwrap();
    let public = public["keys"][0]["x"].as_str().unwrap();
    let raw = URL.decode(public).unwrap();
    let more = but(claims.clone(), json!({"scope": "payments:write", "sub": "bank-b"}));
    let attempts: Vec<(String, &str)> = vec![
        ("not-a-token".to_owned(), "Authorization: Bearer"),
        ("a.b.c".to_owned(), "not a signed JWT"),
        (stranger, "is not in the key set"),
        (made(&["--audience", "other"]).await, "another audience"),
        (made(&["--issuer", "https://other.example"]).await, "another issuer"),
        (made(&["--lifetime", "2h", "--lifetime-max", "2h"]).await, "7200 s, more than the 3600 s"),
        (with(&none, &claims), "not a signed JWT"),
        (with(&but(header.clone(), json!({"alg": "ES256"})), &claims), "not that of its key"),
        (signed_with(&confused, &claims, hmac(public.as_bytes())), "not that of its key"),
        (signed_with(&confused, &claims, hmac(&raw)), "not that of its key"),
        (with(&header, &more), "signature is not that of its key"),
        (with(&but(header.clone(), json!({"kid": null})), &claims), "names no key"),
        (with(&but(header.clone(), json!({"typ": "JWT"})), &claims), "another `typ` than at+jwt"),
        (with(&but(header.clone(), json!({"crit": ["x"]})), &claims), "extensions"),
        (format!("{good}.{signature}"), "Authorization: Bearer"),
        (good[..good.len() - 6].to_owned(), "signature is not that of its key"),
    ];
    for (token, why) in attempts {
        for (method, path) in [
            (Method::POST, "/api/v1/payments"),
            (Method::GET, "/api/v1/customers"),
            (Method::GET, "/api/v1/admin/stats"),
            (Method::GET, "/console"),
        ] {
            let reply = ask(&process, method, path, &token).await;
            let reply = reply.is(401);
            if path.starts_with("/api") {
                assert!(reply.json()["detail"].as_str().unwrap().contains(why), "{why}: {reply:?}");
                assert_eq!(reply.header("www-authenticate"), "Bearer");
            }
        }
    }
    send(process.api.request(Method::GET, "/api/v1/customers")).await.is(401);
    assert!(!process.log().contains(&good), "a token is never logged");
}

#[tokio::test]
async fn a_scope_opens_what_is_its_own_and_nothing_else() {
    let stores = Stores::new().await;
    let keys = Keys::new("scopes").await;
    let settings = [("PAYSTREAM_API_TOKEN", STATIC)];
    let process = keys.serve(&stores, &settings).await;
    let requests = [
        (Method::POST, "/api/v1/payments", "payments:write"),
        (Method::POST, "/api/v1/payments/batch", "payments:write"),
        (Method::POST, "/api/v1/payments/lookup", "payments:read"),
        (Method::GET, "/api/v1/payments/x", "payments:read"),
        (Method::POST, "/api/v1/customers", "customers:write"),
        (Method::GET, "/api/v1/customers/ADA", "customers:read"),
        (Method::GET, "/api/v1/customers/ADA/balance", "customers:read"),
        (Method::GET, "/api/v1/admin/stats", "operations:read"),
        (Method::POST, "/api/v1/admin/partitions/0/release", "operations:write"),
        (Method::GET, "/console/partitions", "operations:read"),
    ];
    for held in ALL.split(',') {
        let token = keys.token("a", &["--scope", held]).await;
        for (method, path, needed) in &requests {
            let reply = ask(&process, method.clone(), path, &token).await;
            assert_eq!(reply.status != 403, held == *needed, "{held}: {path}: {reply:?}");
            assert_ne!(reply.status, 401, "{held}: {path}");
            if reply.status == 403 && path.starts_with("/api") {
                let problem = reply.is_problem(403, "insufficient_scope");
                assert!(reply.header("www-authenticate").contains("insufficient_scope"));
                let named = format!("the token of bank-a lacks the scope {needed}");
                assert_eq!(problem["detail"], *named);
            }
        }
    }
    // A static token of the API is no operator's where callers have scopes.
    ask(&process, Method::GET, "/api/v1/customers", STATIC).await.is(200);
    ask(&process, Method::GET, "/api/v1/admin/stats", STATIC).await.is(401);
    ask(&process, Method::GET, "/console", STATIC).await.is(401);
}

#[tokio::test]
async fn what_is_changed_is_signed_with_the_subject_of_the_token() {
    let stores = Stores::new().await;
    let keys = Keys::new("signed").await;
    let process = keys.serve(&stores, &[]).await;
    until_spread(&stores, &["tester"]).await;
    let scopes = "operations:write,customers:write";
    let token = keys.token("a", &["--scope", scopes]).await;
    let account = json!({"customer_id": "ADA", "asset_value": "100", "term_weeks": 50});
    let open = process.api.request(Method::POST, "/api/v1/customers").bearer_auth(&token);
    send(open.json(&account)).await.is(201);
    let path = "/api/v1/admin/partitions/0/release";
    let release = process.api.request(Method::POST, path).bearer_auth(&token);
    let body = json!({"actor": "somebody else", "reason": "why"});
    send(release.json(&body)).await.is(200);
    let actors = stores.texts("select distinct actor from audit_log").await;
    assert_eq!(actors, ["bank-a"]);
}

#[tokio::test]
async fn keys_are_changed_while_payments_come() {
    let stores = Stores::new().await;
    let keys = Keys::new("rotated").await;
    let process = keys.serve(&stores, &[]).await;
    let old = keys.token("a", &["--scope", ALL]).await;
    let path = "/api/v1/customers";
    ask(&process, Method::GET, path, &old).await.is(200);
    let first = keys.run(&["keys", "list", "--json"]).await.json()[0]["kid"].clone();
    keys.make("b").await;
    let new = keys.token("b", &["--scope", ALL]).await;
    until("the new key is used", async || {
        ask(&process, Method::GET, path, &new).await.status == 200
    })
    .await;
    ask(&process, Method::GET, path, &old).await.is(200);
    // A file that cannot be used changes nothing.
    let good = fs::read_to_string(keys.set()).unwrap();
    fs::write(keys.set(), "{").unwrap();
    process.signal("HUP").await;
    process.until_logged("the key set cannot be used").await;
    ask(&process, Method::GET, path, &old).await.is(200);
    fs::write(keys.set(), good).unwrap();
    let removed = keys.run(&["keys", "remove", first.as_str().unwrap()]).await;
    assert_eq!(removed.code(), Some(0), "{removed:?}");
    until("the old key is refused", async || {
        ask(&process, Method::GET, path, &old).await.status == 401
    })
    .await;
    ask(&process, Method::GET, path, &new).await.is(200);
}

#[tokio::test]
async fn one_caller_that_floods_is_held_back_and_another_is_not() {
    let stores = Stores::new().await;
    let keys = Keys::new("quota").await;
    let process = keys.serve(&stores, &[("PAYSTREAM_CALLER_RATE_MAX", "1")]).await;
    let scope = ["--scope", ALL];
    let flooding = keys.token("a", &scope).await;
    let more = keys.token_of("bank-a-2", "a", &scope).await;
    let other = keys.token_of("bank-b", "a", &[&scope[..], &["--source", "bank-b"]].concat()).await;
    let post = async |path: &str, body: &Value, token: &str| {
        let request = process.api.request(Method::POST, path).bearer_auth(token);
        send(request.json(body)).await
    };
    let batch = |name: &str, count: u32| {
        let one = |number| payment(&format!("{name}{number}"), "GHOST", "1");
        Value::from((0..count).map(one).collect::<Vec<_>>())
    };
    // As many as fit into one body, until no more are allowed.
    let refused = eventually("it is held back", async || {
        let reply = post("/api/v1/payments/batch", &batch("f", 5_000), &flooding).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    let problem = refused.is_problem(429, "rate_limited");
    assert!(problem["detail"].as_str().unwrap().contains("nothing was taken"), "{problem}");
    let references: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    let look_up = json!({ "transaction_references": references });
    let reply = post("/api/v1/payments/lookup", &look_up, &flooding).await;
    let wait: u32 = reply.header("retry-after").parse().unwrap();
    assert!(wait > 500, "{reply:?}");
    reply.is_problem(429, "rate_limited");
    // Under another name it is still the same source.
    post("/api/v1/payments/lookup", &look_up, &more).await.is(429);
    post("/api/v1/payments", &payment("b", "GHOST", "1"), &other).await.is(202);
    post("/api/v1/payments/lookup", &look_up, &other).await.is(200);
}

#[tokio::test]
async fn a_key_set_that_cannot_be_read_or_used_stops_nothing() {
    let stores = Stores::new().await;
    let keys = Keys::new("unusable").await;
    let process = keys.serve(&stores, &[]).await;
    let token = keys.token("a", &["--scope", ALL]).await;
    let good = fs::read_to_string(keys.set()).unwrap();
    fs::remove_file(keys.set()).unwrap();
    process.until_logged("it cannot be read").await;
    // Nobody writes into it: whoever opens it waits for ever.
    let mut mkfifo = Command::new("mkfifo");
    assert!(mkfifo.arg(keys.set()).status().await.unwrap().success());
    process.until_logged("it is not a regular file").await;
    fs::remove_file(keys.set()).unwrap();
    let mut short: Value = serde_json::from_str(&good).unwrap();
    short["keys"][0]["x"] = "AAAA".into();
    fs::write(keys.set(), short.to_string()).unwrap();
    process.until_logged("key 1 is damaged").await;
    ask(&process, Method::GET, "/api/v1/customers", &token).await.is(200);
    process.signal("HUP").await;
    process.stop().await;
}

#[tokio::test]
async fn whoever_reads_the_key_set_still_can_when_it_is_changed() {
    let keys = Keys::new("modes").await;
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&keys.set()), 0o644);
    fs::set_permissions(keys.set(), fs::Permissions::from_mode(0o640)).unwrap();
    // Behind a link, and beside a file with a name that is near.
    fs::rename(keys.set(), keys.path("real.json")).unwrap();
    std::os::unix::fs::symlink("real.json", keys.set()).unwrap();
    fs::write(keys.path("real.new"), "mine").unwrap();
    let names: Vec<String> = (0..8).map(|number| format!("k{number}")).collect();
    join_all(names.iter().map(|name| keys.make(name))).await;
    let set: Value = serde_json::from_str(&fs::read_to_string(keys.set()).unwrap()).unwrap();
    assert_eq!(set["keys"].as_array().unwrap().len(), 9, "none was lost");
    assert_eq!(mode(&keys.path("real.json")), 0o640);
    assert!(fs::symlink_metadata(keys.set()).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(keys.path("real.new")).unwrap(), "mine");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-noout", "-in", &keys.path("k0")]);
    assert!(openssl.status().await.unwrap().success(), "OpenSSL reads it");
}

#[tokio::test]
async fn a_page_of_live_figures_ends_with_its_token() {
    let stores = Stores::new().await;
    let keys = Keys::new("live").await;
    let process = keys.serve(&stores, &[]).await;
    let token = keys.token("a", &["--scope", "operations:read"]).await;
    let live = process.api.request(Method::GET, "/console/live?page=overview");
    let mut live = live.bearer_auth(&token).send().await.unwrap();
    assert_eq!(live.status(), 200);
    assert!(live.chunk().await.unwrap().is_some());
    let kid = keys.run(&["keys", "list", "--json"]).await.json()[0]["kid"].clone();
    keys.make("b").await;
    let removed = keys.run(&["keys", "remove", kid.as_str().unwrap()]).await;
    assert_eq!(removed.code(), Some(0), "{removed:?}");
    in_time("the stream ends", async { while live.chunk().await.unwrap().is_some() {} }).await;
    // Who may only look can go, and so can who may not even look any more.
    let out = process.api.browse(Method::POST, "/console/sign-out");
    let out = out.header("cookie", format!("paystream_console={token}"));
    let out = send(out.header("sec-fetch-site", "same-origin")).await.is(303);
    assert!(out.header("set-cookie").contains("Max-Age=0"), "{out:?}");
}

#[tokio::test]
async fn static_tokens_with_dots_go_on_beside_a_key_set() {
    let stores = Stores::new().await;
    let keys = Keys::new("dots").await;
    let settings = [
        ("PAYSTREAM_API_TOKEN", "a.static.token-of-the-api"),
        ("PAYSTREAM_OPERATOR_TOKENS", "ada=a.token.of-an-operator"),
    ];
    let process = keys.serve(&stores, &settings).await;
    let (api, ada) = ("a.static.token-of-the-api", "a.token.of-an-operator");
    ask(&process, Method::GET, "/api/v1/customers", api).await.is(200);
    ask(&process, Method::GET, "/api/v1/admin/stats", ada).await.is(200);
    ask(&process, Method::GET, "/api/v1/admin/stats", api).await.is(401);
    // Nobody else acts under the name of such an operator.
    let twin = keys.token_of("ada", "a", &["--scope", ALL]).await;
    ask(&process, Method::GET, "/api/v1/admin/stats", &twin).await.is(401);
}

#[tokio::test]
async fn keys_of_every_kind_that_openssl_makes_can_be_used() {
    let stores = Stores::new().await;
    let keys = Keys::new("kinds").await;
    for (name, options) in [
        ("ed", &["-algorithm", "ED25519"][..]),
        ("ec", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        ("rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ] {
        let mut openssl = Command::new("openssl");
        openssl.args(["genpkey", "-out", &keys.path(name)]).args(options);
        assert!(openssl.output().await.unwrap().status.success(), "{name}");
        let public = keys.path(&format!("{name}-public"));
        let mut openssl = Command::new("openssl");
        openssl.args(["pkey", "-in", &keys.path(name), "-pubout", "-out", &public]);
        assert!(openssl.output().await.unwrap().status.success(), "{name}");
        let added = keys.run(&["keys", "add", &public]).await;
        assert_eq!(added.code(), Some(0), "{added:?}");
        // The private key names the same one.
        let again = keys.run(&["keys", "add", &keys.path(name)]).await;
        again.refused(&["has the key"]);
    }
    let mut openssl = Command::new("openssl");
    let other = ["genpkey", "-algorithm", "X25519", "-out", &keys.path("other")];
    assert!(openssl.args(other).output().await.unwrap().status.success());
    let mut openssl = Command::new("openssl");
    openssl.args([
        "pkey",
        "-in",
        &keys.path("other"),
        "-pubout",
        "-out",
        &keys.path("other-public"),
    ]);
    assert!(openssl.output().await.unwrap().status.success());
    for name in ["other", "other-public"] {
        let refused = keys.run(&["keys", "add", &keys.path(name)]).await;
        refused.refused(&["is not one for EdDSA"]);
    }
    let process = keys.serve(&stores, &[]).await;
    for name in ["a", "ed", "ec", "rsa"] {
        let token = keys.token(name, &["--scope", "customers:read"]).await;
        ask(&process, Method::GET, "/api/v1/customers", &token).await.is(200);
        let damaged = format!("{}AAAA{}", &token[..token.len() - 8], &token[token.len() - 4..]);
        ask(&process, Method::GET, "/api/v1/customers", &damaged).await.is(401);
    }
}

#[tokio::test]
async fn commands_and_starts_that_make_no_sense_say_so() {
    let stores = Stores::new().await;
    let keys = Keys::new("refused").await;
    let private = keys.path("a");
    let again = keys.run(&["keys", "new", &private]).await;
    again.refused(&["could not write the private key"]);
    keys.run(&["keys", "add", &private]).await.refused(&["has the key"]);
    keys.run(&["keys", "remove", "nobody"]).await.refused(&["has no key nobody"]);
    let kid = keys.run(&["keys", "list", "--json"]).await.json()[0]["kid"].clone();
    let last = keys.run(&["keys", "remove", kid.as_str().unwrap()]).await;
    last.refused(&["is left as it is"]);
    keys.run(&["keys", "add", &keys.set()]).await.refused(&["it is not a PEM file"]);
    let scope = ["token", "--key", &private, "--issuer", "x", "--subject", "x", "--scope", "all"];
    keys.run(&scope).await.refused(&["must be one of payments:write"]);
    for (name, value) in
        [("--subject", ""), ("--issuer", ""), ("--lifetime", "0s"), ("--lifetime", "61m")]
    {
        let mut of: Vec<&str> = vec!["token", "--key", &private, "--scope", "payments:read"];
        let others = [("--subject", "x"), ("--issuer", "x")];
        of.extend(others.iter().filter(|other| other.0 != name).flat_map(|(a, b)| [*a, *b]));
        of.extend([name, value]);
        keys.run(&of).await.refused(&[name, "must"]);
    }
    let mode = fs::metadata(&private).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let set = keys.set();
    for (settings, sentence) in [
        (vec![("PAYSTREAM_JWT_KEYS_FILE", &*set)], "--jwt-issuer"),
        (vec![("PAYSTREAM_JWT_ISSUER", ISSUER)], "--jwt-keys-file"),
        (
            vec![("PAYSTREAM_JWT_KEYS_FILE", &*set), ("PAYSTREAM_JWT_ISSUER", "")],
            "must not be empty",
        ),
        (
            vec![("PAYSTREAM_JWT_KEYS_FILE", &*private), ("PAYSTREAM_JWT_ISSUER", ISSUER)],
            "it is not a JSON object with a list `keys`",
        ),
        (
            vec![("PAYSTREAM_JWT_KEYS_FILE", "/nowhere"), ("PAYSTREAM_JWT_ISSUER", ISSUER)],
            "it cannot be read",
        ),
    ] {
        run(serve("gateway", &stores, &settings)).await.refused(&[sentence]);
    }
}

#[tokio::test]
async fn one_source_whose_reads_are_stuck_leaves_connections_to_others() {
    let stores = Stores::new().await;
    let keys = Keys::new("shares").await;
    let process = keys.serve(&stores, &[("PAYSTREAM_QUERY_CONNECTIONS", "2")]).await;
    let scope = ["--scope", ALL];
    let asks_much = keys.token("a", &scope).await;
    let other = keys.token_of("bank-b", "a", &[&scope[..], &["--source", "bank-b"]].concat()).await;
    let held = lock(&stores, "customer_accounts", "access exclusive").await;
    let path = "/api/v1/customers/ADA";
    let mut many: FuturesUnordered<_> =
        (0..70).map(|_| ask(&process, Method::GET, path, &asks_much)).collect();
    // Once these are refused, all the others have come, and whatever they may take is taken.
    for _ in 0..6 {
        let refused = many.next().await.unwrap().is_problem(429, "rate_limited");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("as many reads under way"), "64 may wait for their turn: {detail}");
    }
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
         and datname = current_database() and query like '%from customer_accounts where%'";
    stores.until(1, waiting).await;
    for _ in 0..5 {
        ask(&process, Method::GET, "/api/v1/payments/x", &other).await.is(404);
    }
    held.close().await.unwrap();
    while let Some(answer) = many.next().await {
        answer.is(404);
    }
    ask(&process, Method::GET, path, &asks_much).await.is(404);
}

#[tokio::test]
async fn attempts_to_sign_in_are_bounded_and_logged_without_their_tokens() {
    let stores = Stores::new().await;
    let token = "a-token-of-adas-to-sign-in";
    let operators = format!("ada={token}");
    let settings = [("PAYSTREAM_OPERATOR_TOKENS", &*operators)];
    let process = Process::serve("gateway", &stores, &settings).await;
    let sign_in = async |token: &str, https: bool| {
        let form = process.api.browse(Method::POST, "/console/sign-in");
        let form = if https { form.header("x-forwarded-proto", "https") } else { form };
        let form = form.header("content-type", "application/x-www-form-urlencoded");
        let form = form.body(format!("token={token}"));
        send(form.header("sec-fetch-site", "same-origin")).await
    };
    let cookie = sign_in(token, true).await.is(303).header("set-cookie").to_owned();
    assert!(cookie.starts_with("__Host-paystream_console="), "{cookie}");
    assert!(cookie.contains("Path=/;") && cookie.contains("; Secure"), "{cookie}");
    let page = process.api.browse(Method::GET, "/console/partitions");
    let page = page.header("x-forwarded-proto", "https");
    send(page.header("cookie", cookie.split(';').next().unwrap())).await.is(200);
    process.until_logged("security: signed in").await;
    process.until_logged("security: operator").await;
    let refused = eventually("it is refused without a look", async || {
        let refused = sign_in("guessed-token-of-somebody", false).await;
        (refused.status != 401).then_some(refused)
    })
    .await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.text.contains("too many attempts to sign in from 127.0.0.1"), "{refused:?}");
    assert!(refused.header("retry-after").parse::<u32>().is_ok(), "{refused:?}");
    sign_in(token, false).await.is(429);
    process.until_logged("security: sign-in refused").await;
    send(process.api.request(Method::GET, "/api/v1/admin/stats")).await.is(401);
    process.until_logged("security: refused").await;
    let log = process.log();
    assert!(!log.contains("guessed-token") && !log.contains(token), "{log}");
}
