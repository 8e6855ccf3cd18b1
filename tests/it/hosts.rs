//! Proves that where no token guards it, the gateway answers to names of this machine
//! only, on every surface and however a request writes the name: a page from elsewhere
//! whose own name leads here (DNS rebinding) learns and changes nothing. Where tokens
//! guard it, published ones do not.

use crate::prelude::*;

/// A path of every surface, and what answers when the request may pass.
const SURFACES: [(&str, u16); 13] = [
    ("/livez", 200),
    ("/readyz", 200),
    ("/api/v1/health", 200),
    ("/openapi.json", 200),
    ("/docs/", 200),
    ("/api/v1/payments/x", 404),
    ("/api/v1/customers", 200),
    ("/api/v1/admin/stats", 200),
    ("/console", 200),
    ("/console/sign-in", 303),
    ("/console/assets/none.css", 404),
    ("/console/act/discard", 200),
    ("/none", 404),
];

/// The status of a request with this request line and these headers.
async fn status(h: &Harness, line: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(h.api.url.trim_start_matches("http://")).await.unwrap();
    let request = format!("{line}\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    in_time("it answers", stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn without_a_token_only_names_of_this_machine_are_answered() {
    let h = Harness::gateway(&[]).await;
    let address = h.api.url.trim_start_matches("http://").to_owned();
    for (path, answered) in SURFACES {
        let origin = format!("GET {path} HTTP/1.1");
        let ours = [
            (origin.clone(), format!("Host: {address}\r\n")),
            (origin.clone(), "Host: localhost\r\n".to_owned()),
            (origin.clone(), "Host: LocalHost:8081\r\n".to_owned()),
            (origin.clone(), "Host: [::1]:8081\r\n".to_owned()),
            (format!("GET http://localhost:8081{path} HTTP/1.1"), "Host: localhost\r\n".to_owned()),
            (format!("GET {path} HTTP/1.0"), "Host: 127.0.0.1\r\n".to_owned()),
        ];
        for (line, headers) in ours {
            let status = status(&h, &line, &headers).await;
            assert!(status == answered || (path == "/console/act/discard" && status != 401));
        }
        for host in [
            "evil.example",
            "evil.example:8081",
            "127.0.0.1.evil.example",
            "127.0.0.1.evil.example:8081",
            "localhost.evil.example",
            "evil.example@127.0.0.1",
            "127.0.0.1, evil.example",
            "10.0.0.1:8081",
            "0.0.0.0:8081",
            "[::2]:8081",
            "[::ffff:10.0.0.1]",
            "",
        ] {
            let status = status(&h, &origin, &format!("Host: {host}\r\n")).await;
            assert!([400, 401].contains(&status), "{path} {host}: {status}");
        }
        let foreign = [
            (origin.clone(), "Host: localhost\r\nHost: evil.example\r\n"),
            (origin.clone(), "Host: evil.example\r\nHost: localhost\r\n"),
            (origin.clone(), ""),
            (format!("GET {path} HTTP/1.0"), ""),
            (format!("GET {path} HTTP/1.0"), "Host: evil.example\r\n"),
            (format!("GET http://evil.example{path} HTTP/1.1"), "Host: localhost\r\n"),
            (format!("GET http://localhost{path} HTTP/1.1"), "Host: evil.example\r\n"),
            (origin, "X-Forwarded-Host: localhost\r\nHost: evil.example\r\n"),
        ];
        for (line, headers) in foreign {
            let status = status(&h, &line, headers).await;
            assert!([400, 401].contains(&status), "{line} {headers:?}: {status}");
        }
    }
    // Nothing is taken from such a page either.
    let body = json!({"customer_id": "EVIL", "asset_value": "1", "term_weeks": 50}).to_string();
    let headers = format!(
        "Host: evil.example\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    assert_eq!(status(&h, "POST /api/v1/customers HTTP/1.1", &headers).await, 401);
    h.api.get("/api/v1/customers/EVIL").await.is(404);
}

#[tokio::test]
async fn with_tokens_any_name_is_answered_and_details_need_the_token() {
    let (api, ada) = ("the-token-of-the-api", "the-token-of-ada-01");
    // Only the API's, only operators', both.
    for (settings, open) in [
        (vec!["--api-token", api], true),
        (vec!["--operator-tokens", "ada=the-token-of-ada-01"], false),
        (vec!["--api-token", api, "--operator-tokens", "ada=the-token-of-ada-01"], true),
    ] {
        let h = Harness::gateway(&settings).await;
        let foreign = "Host: pay.example\r\n";
        for path in ["/livez", "/readyz", "/api/v1/health", "/openapi.json", "/docs/"] {
            let wanted = if open { 200 } else { 401 };
            let line = format!("GET {path} HTTP/1.1");
            assert_eq!(status(&h, &line, foreign).await, wanted, "{settings:?} {path}");
        }
        let bearer = |token: &str| format!("{foreign}Authorization: Bearer {token}\r\n");
        let line = "GET /api/v1/customers HTTP/1.1";
        assert_eq!(status(&h, line, &bearer(api)).await, if open { 200 } else { 401 });
        assert_eq!(status(&h, line, foreign).await, 401);
        let operator = if settings.len() == 2 && open { api } else { ada };
        for line in ["GET /api/v1/admin/stats HTTP/1.1", "GET /console HTTP/1.1"] {
            assert_eq!(status(&h, line, &bearer(operator)).await, 200, "{settings:?} {line}");
            assert_eq!(status(&h, line, foreign).await, 401, "{settings:?} {line}");
        }
        h.stop().await;
    }
}

#[tokio::test]
async fn a_published_token_opens_nothing_that_others_reach() {
    let stores = Stores::new().await;
    let published = "paystream-local-token";
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("{published}\n")).unwrap();
    let file = file.path().to_str().unwrap();
    let outside = ("PAYSTREAM_BIND", "0.0.0.0:0");
    let operators = format!("ada={published}");
    let refused: [&[(&str, &str)]; 4] = [
        &[outside],
        &[outside, ("PAYSTREAM_API_TOKEN", published)],
        &[outside, ("PAYSTREAM_API_TOKEN_FILE", file)],
        &[
            outside,
            ("PAYSTREAM_API_TOKEN", "a-token-of-their-own"),
            ("PAYSTREAM_OPERATOR_TOKENS", &operators),
        ],
    ];
    for settings in refused {
        let ended = run(serve("gateway", &stores, settings)).await;
        assert_eq!(ended.code(), Some(2), "{settings:?}: {}", ended.stderr);
        let said = ["no token guards it", "published with compose.yaml"];
        assert!(said.iter().any(|said| ended.stderr.contains(said)), "{}", ended.stderr);
        assert!(!ended.stderr.contains(published), "{}", ended.stderr);
    }
    let alone = Process::serve("gateway", &stores, &[("PAYSTREAM_API_TOKEN", published)]).await;
    alone.stop().await;
    // What is published now has none; of compose.yaml `access` shows it.
    let example = read(".env.example");
    for name in ["PAYSTREAM_API_TOKEN", "PAYSTREAM_OPERATOR_TOKENS"] {
        assert!(example.contains(&format!("\n{name}=\n")), "{name} is set in .env.example");
    }
}
