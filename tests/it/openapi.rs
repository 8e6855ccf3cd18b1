//! Proves that the API is as its description says, and that no request that can
//! be made of the description breaks it: schemathesis asks the real binary. Also
//! that no query, path or form is answered with 500.

use tokio::time::timeout;

use crate::prelude::*;

const API_TOKEN: &str = "a-token-for-payments";
const OPERATOR_TOKEN: &str = "a-token-for-an-operator";
/// Bounds a failure; a run takes about a minute.
const TIME_MAX: Duration = Duration::from_secs(300);

/// The program, which `scripts/install.sh --openapi` installs.
fn schemathesis() -> Command {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let program = target.join("schemathesis/bin/schemathesis");
    assert!(
        program.exists(),
        "schemathesis is missing: run `scripts/install.sh --openapi`, as `make test` does \
         (expected at {})",
        program.display()
    );
    let mut command = Command::new(program);
    command.kill_on_drop(true).current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

#[tokio::test]
async fn the_api_is_as_it_is_described() {
    let mut command = schemathesis();
    let stores = Stores::new().await;
    let settings = [
        ("PAYSTREAM_API_TOKEN", API_TOKEN),
        ("PAYSTREAM_OPERATOR_TOKENS", &format!("ada={OPERATOR_TOKEN}")),
        // A schema cannot say what day it is.
        ("PAYSTREAM_DATE_AHEAD_MAX", "10000y"),
    ];
    let mut serving = Process::serve("all", &stores, &settings).await;
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/schemathesis.toml");
    command.arg("--config-file").arg(config).args(["run", "--no-color"]);
    command.arg(format!("{}/openapi.json", serving.api.url));
    command.env("API_TOKEN", API_TOKEN).env("OPERATOR_TOKEN", OPERATOR_TOKEN);
    let ended = timeout(TIME_MAX, command.output()).await.expect("schemathesis ends").unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    serving.must_live();
}

#[test]
fn a_request_may_be_signed_in_place_of_a_token_unless_it_is_a_batch() {
    let described = serde_json::to_value(paystream::http::description()).unwrap();
    let security = |path: &str, method: &str| described["paths"][path][method]["security"].clone();
    let token = json!({"token": []});
    let either = json!([token, {"signature_input": [], "signature": []}]);
    assert_eq!(security("/api/v1/payments", "post"), either);
    assert_eq!(security("/api/v1/payments/{reference}", "get"), either);
    assert_eq!(security("/api/v1/payments/batch", "post"), json!([token]));
    for (name, header) in [("signature_input", "Signature-Input"), ("signature", "Signature")] {
        let scheme = &described["components"]["securitySchemes"][name];
        has(scheme, json!({"type": "apiKey", "in": "header", "name": header}));
    }
}

/// What no parameter should have to bear: in a query or a path as it stands.
const NASTY: [&str; 16] = [
    "",
    "%00",
    "a%00b",
    "%FF%FE",
    "%ED%A0%80",
    "%",
    "%zz",
    "-1",
    "9223372036854775808",
    "-9223372036854775808",
    "1e400",
    "-262143-01-01T00:00:00Z",
    "%2B262142-12-31T23:59:59Z",
    "0/99999999999999999999-0",
    "65536/1-1",
    "%27%3B--%5C%22%E2%80%AE%F0%9F%92%A3",
];
/// Pages of the console, and everything that one of them asks for.
const PAGES: &str = " /partitions /stuck /payments /dead-letters /suspense /conflicts /parked /customers \
     /customers/ADA /audit /act/redrive";
const ASKED: &str = "all reference after subject before customer offset state code from partition \
     consumer min_idle of done";

#[tokio::test]
async fn no_query_path_or_form_is_answered_with_500() {
    let h = Harness::gateway(&[]).await.account("ADA", "10").await;
    let mut paths = Vec::new();
    for (path, item) in &paystream::http::description().paths.paths {
        let operation = serde_json::to_value(item).unwrap();
        let parameters = operation["get"]["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in &parameters {
            let name = parameter["name"].as_str().unwrap();
            let wanted =
                if parameter["in"] == "path" { format!("{{{name}}}") } else { String::new() };
            for nasty in NASTY {
                paths.push(match wanted.is_empty() {
                    true => format!("{}?{name}={nasty}", path.replace(['{', '}'], "")),
                    false => path.replace(&wanted, nasty),
                });
            }
        }
    }
    assert!(paths.len() > 300, "parameters are described: {}", paths.len());
    for page in PAGES.split(' ') {
        for name in ASKED.split_whitespace() {
            paths.extend(NASTY.map(|nasty| format!("/console{page}?{name}={nasty}")));
        }
    }
    for below in ["customers", "dead-letters", "act", "assets", "live"] {
        paths.extend(NASTY.map(|nasty| format!("/console/{below}/{nasty}?of=1")));
    }
    paths.extend(NASTY.map(|nasty| format!("/console/live?page={nasty}&from={nasty}")));
    for path in paths.iter().chain([&"/console/audit?before=1&before=2".to_owned()]) {
        let answer = h.api.request(Method::GET, path).send().await.expect("an answer");
        assert!(answer.status().as_u16() < 500, "GET {path}: {}", answer.status());
    }
    let mine = h.api.url.clone();
    for kind in ["release", "redrive", "discard", "assign", "refund", "resolve", "unpark", "x"] {
        for nasty in NASTY {
            let text = format!("of={nasty}&reason={nasty}&actor={nasty}&customer={nasty}");
            for form in [text.replace(&format!("of={nasty}"), "of=1"), text] {
                let path = format!("/console/act/{kind}");
                let request = h.api.request(Method::POST, &path).header("origin", &mine);
                let request = request.header("content-type", "application/x-www-form-urlencoded");
                let reply = send(request.body(form.clone())).await;
                assert!(reply.status < 500, "POST {path} {form}: {}", reply.text);
            }
        }
    }
}
