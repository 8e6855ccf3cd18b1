//! Proves what nginx does before the gateways, with its own configuration and a real
//! gateway behind it: no way of writing a path escapes the rate limit, one address
//! cannot have everything, TLS in front is not forgotten, and what nginx refuses
//! itself looks like a refusal of the gateway.
//!
//! The configuration is changed in its addresses and in where nginx may write.

use std::{
    cell::RefCell,
    fs::File,
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::Mutex,
};

use tempfile::TempDir;

use crate::{chromium::GUARDIAN, prelude::*};

const API: &str = "the-token-of-the-api";
const ADA: &str = "the-token-of-ada-01";
/// How often a start is tried: somebody may take its port.
const STARTS: usize = 5;
/// Requests after which the rate limit must have acted, however slow the machine.
const REQUESTS_MAX: usize = 20_000;
/// Clients that send at the same time.
const CLIENTS: usize = 32;
/// `limit_conn` of the configuration.
const UNDER_WAY_MAX: usize = 256;

/// nginx before a gateway. It ends when this is dropped, or the process is.
struct Front {
    address: SocketAddr,
    guardian: Mutex<Child>,
    _folder: TempDir,
}

impl Drop for Front {
    fn drop(&mut self) {
        let guardian = self.guardian.get_mut().unwrap();
        // Closes the pipe that it waits at.
        drop(guardian.stdin.take());
        guardian.wait().unwrap();
    }
}

/// Puts other text in place of what stands once.
fn replaced(text: &str, this: &str, that: &str) -> String {
    assert_eq!(text.matches(this).count(), 1, "nginx.conf has this once: {this}");
    text.replace(this, that)
}

impl Front {
    async fn before(gateway: &str) -> Self {
        let gateway = gateway.trim_start_matches("http://");
        for _ in 0..STARTS {
            let address = {
                let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                free.local_addr().unwrap()
            };
            if let Some(front) = Self::start(address, gateway).await {
                return front;
            }
        }
        panic!("nginx did not start {STARTS} times");
    }

    /// Nothing when it ends at once.
    async fn start(address: SocketAddr, gateway: &str) -> Option<Self> {
        let program = ["nginx", "/usr/sbin/nginx"]
            .into_iter()
            .find(|program| Command::new(program).arg("-v").stderr(Stdio::null()).status().is_ok());
        let program = program.expect("nginx is missing: scripts/install.sh --front-door");
        let folder = tempfile::Builder::new().prefix("paystream-nginx-").tempdir().unwrap();
        let place = |name: &str| folder.path().join(name).display().to_string();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx/nginx.conf");
        let text = fs::read_to_string(path).unwrap();
        let server = format!("server {gateway} max_fails");
        let text = replaced(&text, "server gateway:8081 resolve max_fails", &server);
        let listens = format!("listen {address} default_server");
        let text = replaced(&text, "listen 80 default_server", &listens);
        let writes = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {};", place(kind)))
            .join("\n");
        let text = replaced(&text, "\nhttp {\n", &format!("\nhttp {{\n{writes}\n"));
        fs::write(place("nginx.conf"), text).unwrap();
        let log = File::create(place("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", GUARDIAN, "nginx-guardian", program, "-e", "stderr", "-p"]);
        command.arg(folder.path()).args(["-c", &place("nginx.conf"), "-g"]);
        command.arg(format!("daemon off; pid {};", place("pid")));
        command.process_group(0).stdin(Stdio::piped());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let guardian = Mutex::new(command.spawn().unwrap());
        let front = Self { address, guardian, _folder: folder };
        let there = eventually("nginx answers", async || {
            if front.guardian.lock().unwrap().try_wait().unwrap().is_some() {
                return Some(false);
            }
            let answer = front.try_get("/livez", "").await.ok()?;
            answer.starts_with("HTTP/1.1 ").then_some(true)
        });
        let there = there.await;
        let log = fs::read_to_string(front._folder.path().join("log")).unwrap();
        assert!(there || log.contains("Address already in use"), "nginx does not start:\n{log}");
        there.then_some(front)
    }

    /// The whole answer to these bytes, as they are.
    async fn raw(&self, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        in_time("nginx answers", stream.read_to_end(&mut answer)).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn try_get(&self, path: &str, headers: &str) -> std::io::Result<String> {
        let host = self.address;
        let rest = format!("Host: {host}\r\nConnection: close\r\n{headers}\r\n");
        self.raw(&format!("GET {path} HTTP/1.1\r\n{rest}")).await
    }

    async fn get(&self, path: &str, headers: &str) -> String {
        self.try_get(path, headers).await.unwrap()
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> String {
        let (host, length) = (self.address, body.len());
        let rest = format!("Host: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n");
        self.raw(&format!("POST {path} HTTP/1.1\r\n{rest}{headers}\r\n{body}")).await.unwrap()
    }

    /// Sends this again and again, until the rate limit answers.
    async fn until_limited(&self, path: &str) -> String {
        let mut sent = 0;
        while sent < REQUESTS_MAX {
            let mut clients = JoinSet::new();
            for _ in 0..CLIENTS {
                let (address, path) = (self.address, path.to_owned());
                clients.spawn(async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
                    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).await.unwrap();
                    answer
                });
            }
            let answers = in_time("nginx answers", clients.join_all()).await;
            sent += answers.len();
            if let Some(limited) = answers.into_iter().find(|answer| status(answer) == 429) {
                return limited;
            }
        }
        panic!("{path}: the rate limit did not act within {REQUESTS_MAX} requests");
    }
}

async fn gateway() -> Harness {
    Harness::gateway(&["--api-token", API, "--operator-tokens", &format!("ada={ADA}")]).await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(one, _)| one.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
}

/// Fails unless nginx refused with a problem document like the gateway's.
#[track_caller]
fn is_problem(answer: &str, wanted: u16, code: &str) {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    assert_eq!((status(answer), &body["code"]), (wanted, &json!(code)), "{answer}");
    assert_eq!(header(answer, "content-type"), "application/problem+json", "{answer}");
    assert_eq!(body["type"], format!("urn:paystream:problem:{code}"));
    assert_eq!(body["status"], wanted);
    assert_eq!(body["request_id"], header(answer, "x-request-id"), "{answer}");
    assert_eq!(!header(answer, "retry-after").is_empty(), wanted != 413, "{answer}");
}

#[tokio::test]
async fn what_is_published_is_what_the_tokens_open() {
    let h = gateway().await;
    let front = Front::before(&h.api.url).await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let sent = payment("through-nginx", "ADA", "1").to_string();
    let headers = format!("Content-Type: application/json\r\n{}", bearer(API));
    assert_eq!(status(&front.post("/api/v1/payments", &headers, &sent).await), 202);
    // Path, and the status without a token, with that of the API and with Ada's.
    for (path, [none, api, ada]) in [
        ("/livez", [200, 200, 200]),
        ("/readyz", [200, 200, 200]),
        ("/livez?x=1", [200, 200, 200]),
        ("/api/v1/health", [200, 200, 200]),
        ("/docs/", [200, 200, 200]),
        ("/openapi.json", [200, 200, 200]),
        ("/api/v1/payments/through-nginx", [401, 200, 401]),
        ("/api/v1/customers", [401, 200, 401]),
        ("/api/v1/admin/stats", [401, 401, 200]),
        ("/console", [401, 401, 200]),
        ("/console/sign-in", [200, 200, 200]),
        // Each is what it says as it is written, not a health path.
        ("/api/v1/payments/..%2F..%2F..%2Flivez", [401, 404, 401]),
        ("/api/v1/payments/../../../livez", [401, 404, 401]),
        ("/livez/..%2Fapi%2Fv1%2Fcustomers", [401, 404, 401]),
        ("//livez", [401, 404, 401]),
        ("/%6Civez", [401, 404, 401]),
        ("/livez/", [401, 404, 401]),
        ("/LIVEZ", [401, 404, 401]),
    ] {
        let headers = [String::new(), bearer(API), bearer(ADA)];
        for (headers, wanted) in headers.iter().zip([none, api, ada]) {
            let answer = front.get(path, headers).await;
            assert_eq!(status(&answer), wanted, "{path} {headers}: {answer}");
        }
    }
    let health = front.get("/api/v1/health", "").await;
    assert!(health.ends_with(r#"{"status":"ok"}"#), "details need a token: {health}");
    // nginx's own refusals.
    let answer = front.post("/api/v1/payments/batch", &headers, &" ".repeat((4 << 20) + 1)).await;
    is_problem(&answer, 413, "body_too_large");
    h.stop().await;
    is_problem(&front.get("/api/v1/customers", "").await, 503, "gateway_unavailable");
    let answer = front.post("/api/v1/payments", &headers, &sent).await;
    is_problem(&answer, 503, "gateway_unavailable");
}

#[tokio::test]
async fn no_way_of_writing_a_path_escapes_the_rate_limit() {
    // Nobody is behind it: nginx counts a request before it passes it on, and so alone
    // decides how many there are in a second.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for path in [
        "/api/v1/payments/x",
        "/api/v1/payments/..%2F..%2F..%2Flivez",
        "/api/v1/payments/../../../livez",
        "/api/v1/admin/stats/..%2F..%2Fhealth",
        "//livez",
        "/%6Civez",
        "/console",
        "/openapi.json",
    ] {
        // Each begins with a full allowance.
        let front = Front::before(&nobody.to_string()).await;
        is_problem(&front.until_limited(path).await, 429, "rate_limited");
        for health in ["/livez", "/readyz", "/api/v1/health", "/livez?x"] {
            assert_eq!(status(&front.get(health, "").await), 503, "{health} is free");
        }
    }
}

#[tokio::test]
async fn one_address_has_so_many_requests_under_way() {
    let h = gateway().await;
    let front = Front::before(&h.api.url).await;
    // Health is free of the rate limit, so only the other one can act. nginx waits
    // for the rest of each body.
    let hold = async || {
        let mut stream = TcpStream::connect(front.address).await.unwrap();
        let head = "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let held = RefCell::new(Vec::new());
    for _ in 0..UNDER_WAY_MAX {
        let stream = hold().await;
        held.borrow_mut().push(stream);
    }
    let answer = eventually("one more is refused", async || {
        let answer = front.get("/livez", "").await;
        if status(&answer) == 429 {
            return Some(answer);
        }
        // On a busy machine the first ones may have been given up by now.
        let stream = hold().await;
        held.borrow_mut().push(stream);
        None
    });
    is_problem(&answer.await, 429, "rate_limited");
    drop(held);
    until("there is room again", async || status(&front.get("/livez", "").await) == 200).await;
}

#[tokio::test]
async fn cookies_stay_secure_behind_whoever_ends_tls() {
    let h = gateway().await;
    let front = Front::before(&h.api.url).await;
    let origin = format!("Origin: http://{}\r\n", front.address);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    for (proto, secure) in [
        ("", false),
        ("X-Forwarded-Proto: http\r\n", false),
        ("X-Forwarded-Proto: https\r\n", true),
        ("X-Forwarded-Proto: gopher\r\n", false),
    ] {
        let headers = format!("{form}{origin}{proto}");
        let answer = front.post("/console/sign-in", &headers, &format!("token={ADA}")).await;
        assert_eq!(status(&answer), 303, "{answer}");
        let cookie = header(&answer, "set-cookie");
        assert!(cookie.contains("paystream_console="), "{answer}");
        assert_eq!(cookie.contains("; Secure"), secure, "{proto}{cookie}");
    }
}
