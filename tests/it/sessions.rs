//! Proves what the console's sessions promise: the cookie is no token and the database has no
//! cookie; sessions outlive a restart and PostgreSQL's absence; and they end when they are not
//! used, when they expire, when somebody signs out, and when what they stand on is gone.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::{callers::Keys, prelude::*};

const ADA: &str = "the-token-of-ada-in-her-session";
const BEN: &str = "the-token-of-ben-in-his-session";
const OPERATORS: &str = "PAYSTREAM_OPERATOR_TOKENS";
const COOKIE: &str = "paystream_console";
/// Sessions that have not ended.
const LIVING: &str = "select count(*) from console_sessions where ends_at > now()";

/// A gateway that ada and ben may sign in to.
async fn gateway(stores: &Stores) -> Process {
    Process::serve("gateway", stores, &[(OPERATORS, &format!("ada={ADA},ben={BEN}"))]).await
}

async fn form(process: &Process, path: &str, cookie: &str, body: &str) -> Reply {
    let form = process.api.browse(Method::POST, path).header("cookie", cookie);
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    send(form.header("sec-fetch-site", "same-origin").body(body.to_owned())).await
}

/// The cookie of whoever signs in with this token.
async fn sign_in(process: &Process, token: &str) -> String {
    let answer = form(process, "/console/sign-in", "", &format!("token={token}")).await.is(303);
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

async fn sign_out(process: &Process, cookie: &str) {
    form(process, "/console/sign-out", cookie, "").await.is(303);
}

async fn page(process: &Process, cookie: &str) -> Reply {
    send(process.api.browse(Method::GET, "/console").header("cookie", cookie)).await
}

/// Whether the cookie opens the console; otherwise it leads to the page that asks for a token.
async fn opens(process: &Process, cookie: &str) -> bool {
    let page = page(process, cookie).await;
    if page.status == 401 {
        assert!(page.text.contains("Your token"), "{}", page.text);
    }
    assert!([200, 401].contains(&page.status), "{page:?}");
    page.status == 200
}

async fn until_ended(process: &Process, cookie: &str) {
    until("the session ends", async || !opens(process, cookie).await).await;
}

/// Live figures, with the first of them.
async fn live(process: &Process, cookie: &str) -> reqwest::Response {
    let asked = process.api.request(Method::GET, "/console/live?page=overview");
    let mut live = asked.header("cookie", cookie).send().await.unwrap();
    assert_eq!(live.status(), 200);
    assert!(live.chunk().await.unwrap().is_some());
    live
}

async fn until_over(mut live: reqwest::Response) {
    in_time("the stream ends", async { while live.chunk().await.unwrap().is_some() {} }).await;
}

#[tokio::test]
async fn the_cookie_is_no_token_and_the_database_has_no_cookie() {
    let stores = Stores::new().await;
    let process = gateway(&stores).await;
    let cookie = sign_in(&process, ADA).await;
    let id = cookie.strip_prefix(&format!("{COOKIE}=")).expect("a cookie for the console");
    let bytes = URL_SAFE_NO_PAD.decode(id).expect("an id");
    assert_eq!(bytes.len(), 32);
    let shown = page(&process, &cookie).await.is(200);
    assert!(shown.text.contains("signed in as <b>ada</b>"), "{}", shown.text);
    let digest = Sha256::digest(&bytes);
    let of_token = Sha256::digest(ADA);
    let rows = stores.texts("select s::text from console_sessions s").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(rows[0].contains(&hex(&digest)) && rows[0].contains("ada"), "{rows:?}");
    for secret in [id, ADA, &hex(&bytes), &hex(of_token.as_slice())] {
        assert!(!rows[0].contains(secret), "{secret} in {rows:?}");
        assert!(!process.log().contains(secret), "{secret} in {}", process.log());
    }
    // Guessed, with what the database has, as an older release wrote it, and of nothing.
    let seal = stores.texts("select encode(seal, 'hex') from console_sessions").await.remove(0);
    for forged in [
        URL_SAFE_NO_PAD.encode([7; 32]),
        URL_SAFE_NO_PAD.encode(digest),
        seal,
        hex(&bytes),
        ADA.to_owned(),
        id[1..].to_owned(),
        String::new(),
    ] {
        assert!(!opens(&process, &format!("{COOKIE}={forged}")).await, "{forged}");
    }
    let api = process.api.request(Method::GET, "/api/v1/admin/stats").header("cookie", &cookie);
    send(api).await.is(401);
    // Another session with the same token ends by itself.
    let other = sign_in(&process, ADA).await;
    sign_out(&process, &other).await;
    assert!(!opens(&process, &other).await && opens(&process, &cookie).await);
    process.until_logged("security: signed out").await;
    let out = process.events("security: signed out").remove(0);
    has(&out, json!({"operator": "ada", "address": "127.0.0.1"}));
    assert!(out["request_id"].is_string(), "{out}");
}

#[tokio::test]
async fn a_session_ends_when_it_is_not_used_and_when_it_expires() {
    let stores = Stores::new().await;
    let first = gateway(&stores).await;
    let cookie = sign_in(&first, ADA).await;
    let unused = "update console_sessions set last_used_at = now() - interval '29 min',
        ends_at = now() + interval '1 min'";
    stores.sql(unused).await;
    // A process that knows nothing of the session but what the database says.
    let second = gateway(&stores).await;
    let soon = "select count(*) from console_sessions where ends_at < now() + interval '2 min'";
    drop(live(&second, &cookie).await);
    stores.until(1, soon).await;
    assert!(opens(&second, &cookie).await, "and this is a use");
    stores.until(0, soon).await;
    let noted = "select extract(epoch from last_used_at)::text from console_sessions";
    let before = stores.texts(noted).await;
    assert!(opens(&second, &cookie).await);
    assert_eq!(stores.texts(noted).await, before, "within a minute it is not noted again");
    // Expires soon, however much it is used.
    stores.sql("update console_sessions set expires_at = now() + interval '1 min', ends_at = now() + interval '30 s', last_used_at = now() - interval '5 min'").await;
    let third = gateway(&stores).await;
    assert!(opens(&third, &cookie).await);
    stores.until(1, "select count(*) from console_sessions where ends_at = expires_at").await;
    for past in ["ends_at = now()", "expires_at = now(), ends_at = now()"] {
        stores.sql(&format!("update console_sessions set {past}")).await;
        let fourth = gateway(&stores).await;
        assert!(!opens(&fourth, &cookie).await, "{past}");
        fourth.until_logged("security: session ended").await;
        fourth.stop().await;
    }
    // Whoever signs in next clears what has ended.
    sign_in(&third, BEN).await;
    assert_eq!(stores.texts("select operator from console_sessions").await, ["ben"]);
}

#[tokio::test]
async fn signing_out_ends_the_session_at_every_gateway_and_a_restart_does_not() {
    let stores = Stores::new().await;
    let (first, second) = tokio::join!(gateway(&stores), gateway(&stores));
    let cookie = sign_in(&first, ADA).await;
    assert!(opens(&second, &cookie).await);
    first.kill().await;
    let first = gateway(&stores).await;
    assert!(opens(&first, &cookie).await, "after a restart");
    let (here, there) = (live(&first, &cookie).await, live(&second, &cookie).await);
    let of_ben = sign_in(&second, BEN).await;
    sign_out(&first, &cookie).await;
    assert!(!opens(&first, &cookie).await, "at once");
    until_ended(&second, &cookie).await;
    tokio::join!(until_over(here), until_over(there));
    assert!(opens(&first, &of_ben).await);
    // One session too many ends the oldest of its operator.
    let oldest = sign_in(&first, ADA).await;
    for _ in 0..10 {
        sign_in(&first, ADA).await;
    }
    until_ended(&first, &oldest).await;
    assert!(opens(&first, &of_ben).await);
    stores.until(11, LIVING).await;
    // A new session of a browser takes the place of the one it had.
    form(&first, "/console/sign-in", &of_ben, &format!("token={BEN}")).await.is(303);
    assert!(!opens(&first, &of_ben).await);
    stores.until(11, LIVING).await;
}

#[tokio::test]
async fn while_the_ledger_is_away_operators_stay_signed_in_and_sign_in() {
    let (mut postgres, stores) = Stores::on_own_postgres("postgres-sessions").await;
    let (first, second) = tokio::join!(gateway(&stores), gateway(&stores));
    let (kept, left) = (sign_in(&first, ADA).await, sign_in(&first, BEN).await);
    let unseen = sign_in(&second, BEN).await;
    assert!(opens(&second, &left).await);
    let mut watched = live(&first, &kept).await;
    postgres.stop().await.unwrap();
    let during = sign_in(&first, ADA).await;
    first.until_logged("session kept in the memory of this process only").await;
    assert!(opens(&first, &during).await && opens(&first, &kept).await);
    until("the circuit opens", async || {
        assert!(opens(&first, &kept).await && opens(&first, &during).await);
        first.log().contains("circuit opened")
    })
    .await;
    assert!(watched.chunk().await.unwrap().is_some(), "live figures go on");
    assert!(!opens(&first, &unseen).await, "nobody can say whether that is one");
    form(&first, "/console/sign-out", &unseen, "").await.is(503);
    form(&first, "/console/sign-in", &unseen, &format!("token={BEN}")).await.is(303);
    sign_out(&first, &left).await;
    assert!(!opens(&first, &left).await);
    postgres.restart().await.unwrap();
    until("it is stored", async || {
        assert!(opens(&first, &during).await && opens(&first, &kept).await);
        opens(&second, &during).await
    })
    .await;
    until_ended(&second, &left).await;
    assert!(!opens(&first, &left).await, "and it does not come back");
    until("the circuit closes", async || opens(&first, &unseen).await).await;
    stores.until(3, LIVING).await;
}

#[tokio::test]
async fn whoever_has_a_good_token_signs_in_whatever_cookie_the_browser_had() {
    let stores = Stores::new().await;
    let process = gateway(&stores).await;
    let unseen = format!("{COOKIE}={}", URL_SAFE_NO_PAD.encode([7; 32]));
    let refused = eventually("no more guesses are asked for", async || {
        let out = form(&process, "/console/sign-out", &unseen, "").await;
        (out.status != 303).then_some(out)
    });
    assert_eq!(refused.await.status, 429);
    let signed = form(&process, "/console/sign-in", &unseen, &format!("token={ADA}")).await.is(303);
    let cookie = signed.header("set-cookie").split(';').next().unwrap().to_owned();
    assert!(opens(&process, &cookie).await);
    stores.until(1, LIVING).await;
}

#[tokio::test]
async fn a_session_ends_with_the_token_that_it_stands_on() {
    let stores = Stores::new().await;
    let process = gateway(&stores).await;
    let (ada, ben) = (sign_in(&process, ADA).await, sign_in(&process, BEN).await);
    process.stop().await;
    // One who left, one whose token was changed.
    let changed = Process::serve("gateway", &stores, &[(OPERATORS, "ben=another-token-of-ben")]);
    let changed = changed.await;
    assert!(!opens(&changed, &ada).await && !opens(&changed, &ben).await);
    changed.stop().await;
    let process = gateway(&stores).await;
    assert!(opens(&process, &ada).await);
    for (settings, refused) in [
        ([("PAYSTREAM_SESSION_IDLE", "1m")], "PAYSTREAM_SESSION_IDLE (60s) must be at least 2m"),
        ([("PAYSTREAM_SESSION_LIFETIME", "10m")], "PAYSTREAM_SESSION_LIFETIME (600s)"),
    ] {
        run(serve("gateway", &stores, &settings)).await.refused(&[refused]);
    }
}

#[tokio::test]
async fn a_session_ends_with_the_key_and_the_time_of_its_access_token() {
    let stores = Stores::new().await;
    let keys = Keys::new("sessions").await;
    let process = keys.serve_as("gateway", &stores, &[]).await;
    let scope = |scope| ["--scope", scope, "--lifetime", "10m"];
    let token = keys.token_of("ada", "a", &scope("operations:read")).await;
    let cookie = sign_in(&process, &token).await;
    // Not later than the token.
    let within = "select count(*) from console_sessions
        where expires_at <= now() + interval '10 min' and ends_at = expires_at and kid is not null";
    assert_eq!(stores.count(within).await, 1);
    // Whoever may only look is offered nothing else.
    let shown = page(&process, &cookie).await.is(200);
    assert!(shown.text.contains("<b>ada</b>, read-only"), "{}", shown.text);
    let act = async |cookie: &str| {
        let act = "/console/act/release_partition?of=3";
        send(process.api.browse(Method::GET, act).header("cookie", cookie)).await.is(200).text
    };
    let text = act(&cookie).await;
    assert!(text.contains("operations:write") && !text.contains("textarea"), "{text}");
    form(&process, "/console/act/release_partition", &cookie, "of=3&reason=x").await.is(403);
    let both = keys.token_of("ben", "a", &scope("operations:read,operations:write")).await;
    let writer = sign_in(&process, &both).await;
    let text = act(&writer).await;
    assert!(!text.contains("operations:write") && text.contains("textarea"), "{text}");
    let pays = keys.token_of("cy", "a", &["--scope", "payments:write", "--source", "cy"]).await;
    form(&process, "/console/sign-in", "", &format!("token={pays}")).await.is(401);
    let kid = keys.run(&["keys", "list", "--json"]).await.json()[0]["kid"].clone();
    let watched = live(&process, &cookie).await;
    let made = keys.run(&["keys", "new", &keys.path("b")]).await;
    assert_eq!(made.code(), Some(0), "{made:?}");
    let removed = keys.run(&["keys", "remove", kid.as_str().unwrap()]).await;
    assert_eq!(removed.code(), Some(0), "{removed:?}");
    until_ended(&process, &cookie).await;
    until_ended(&process, &writer).await;
    until_over(watched).await;
}

#[tokio::test]
async fn an_operator_at_night_sees_who_is_signed_in_and_ends_that() {
    let stores = Stores::new().await;
    let process = gateway(&stores).await;
    stores.run(&["sessions", "list"]).await.is(0, "nobody is signed in\n");
    let cookies = join_all([ADA, ADA, BEN, BEN].map(|token| sign_in(&process, token))).await;
    let list = async || stores.said(&["sessions", "list"]).await;
    let ids = async |operator: &str| -> Vec<String> {
        let list = list().await;
        let of = list.as_array().unwrap().iter().filter(|one| one["operator"] == operator);
        of.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    has(&list().await[0], json!({"address": "127.0.0.1", "jti": null}));
    let table = stores.succeed(&["sessions", "list"]).await;
    assert!(table.contains("| ada") && table.contains("127.0.0.1"), "{table}");
    let end = |which: &str| {
        let words: Vec<&str> = ["sessions", "end"].into_iter().chain(which.split(' ')).collect();
        [&words[..], &["--reason", "left the company"]].concat().join("\n")
    };
    let end = async |which: &str| {
        let words = end(which);
        stores.run(&words.split('\n').collect::<Vec<_>>()).await
    };
    assert_eq!(end("0123456789ab").await.code(), Some(1));
    assert_eq!(end("--operator cy").await.code(), Some(1));
    for wrong in ["", "abc", "ghij", "--all --operator ada"] {
        assert_eq!(end(wrong).await.code(), Some(2), "{wrong}");
    }
    assert_eq!(stores.count(LIVING).await, 4);
    end(&ids("ada").await[0]).await.is(0, "1 session ended; gateways know within 3 seconds\n");
    assert_eq!(ids("ada").await.len(), 1);
    until("one of ada's ends", async || {
        opens(&process, &cookies[0]).await != opens(&process, &cookies[1]).await
    })
    .await;
    end("--operator ben").await.is(0, "2 sessions ended; gateways know within 3 seconds\n");
    until_ended(&process, &cookies[2]).await;
    until_ended(&process, &cookies[3]).await;
    assert_eq!(end("--all").await.code(), Some(0));
    until_ended(&process, &cookies[0]).await;
    until_ended(&process, &cookies[1]).await;
    let noted = "select actor || ' ' || action || ' ' || subject || ' ' || reason || ' '
        || (after ->> 'ended') from audit_log where action = 'console_sessions_ended' order by id";
    let noted = stores.texts(noted).await;
    assert_eq!(noted.len(), 3, "{noted:?}");
    assert_eq!(noted[1], "ada console_sessions_ended ben left the company 2");
    stores.audit().await;
}
