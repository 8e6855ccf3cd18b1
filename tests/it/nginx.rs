//! Proves what nginx does before the gateways, with its own configuration and a real
//! gateway behind it: no way of writing a path escapes the rate limit, one address
//! cannot have everything, TLS in front is not forgotten, and what nginx refuses
//! itself looks like a refusal of the gateway.
//!
//! The configuration is changed in its addresses and in where nginx may write.

use std::{
    cell::RefCell,
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;
use tokio::net::{TcpSocket, UnixStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{chromium::GUARDIAN, prelude::*};

const API: &str = "the-token-of-the-api";
const ADA: &str = "the-token-of-ada-01";
/// Who ends TLS in front of nginx, in these tests.
const ENDS_TLS: &str = "127.0.0.9";
/// How often a start is tried: somebody may take its port.
const STARTS: usize = 5;
/// Requests after which the rate limit must have acted, however slow the machine.
const REQUESTS_MAX: usize = 20_000;
/// Clients that send at the same time.
const CLIENTS: usize = 32;
/// `limit_conn` of the configuration.
const UNDER_WAY_MAX: usize = 256;

/// nginx before a gateway. It ends when this is dropped, or the process is.
pub struct Front {
    address: SocketAddr,
    guardian: Mutex<Child>,
    folder: TempDir,
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

/// Writes the configuration, for this address and these gateways.
fn configure(folder: &Path, address: SocketAddr, gateways: &[&str]) {
    let place = |name: &str| folder.join(name).display().to_string();
    let text = read("nginx/nginx.conf");
    let hosts = gateways.iter().map(|one| one.trim_start_matches("http://"));
    // Debian's nginx asks no DNS for them.
    let rest = " max_fails=1 fail_timeout=3s;";
    let servers: Vec<String> = hosts.map(|host| format!("server {host}{rest}")).collect();
    let text = replaced(&text, &format!("server gateway:8081 resolve{rest}"), &servers.join("\n"));
    let listens = format!("listen {address} default_server");
    let text = replaced(&text, "listen 80 default_server", &listens);
    let text = replaced(&text, "listen 8080;", &format!("listen unix:{};", place("status")));
    // One address in front of it ends TLS.
    let text = replaced(
        &text,
        "geo $realip_remote_addr $ends_tls {",
        &format!("geo $realip_remote_addr $ends_tls {{ {ENDS_TLS} 1;"),
    );
    let writes = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};", place(kind)))
        .join("\n");
    let text = replaced(&text, "\nhttp {\n", &format!("\nhttp {{\n{writes}\n"));
    fs::write(place("nginx.conf"), text).unwrap();
}

impl Front {
    /// Serves these gateways from now on; requests under way are finished.
    async fn reload(&self, gateways: &[&str]) {
        configure(self.folder.path(), self.address, gateways);
        let pid = fs::read_to_string(self.folder.path().join("pid")).unwrap();
        let told = Command::new("kill").args(["-HUP", pid.trim()]).status().unwrap();
        assert!(told.success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub async fn before(gateway: &str) -> Self {
        Self::before_all(&[gateway]).await
    }

    async fn before_all(gateways: &[&str]) -> Self {
        for _ in 0..STARTS {
            let address = {
                let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                free.local_addr().unwrap()
            };
            if let Some(front) = Self::start(address, gateways).await {
                return front;
            }
        }
        panic!("nginx did not start {STARTS} times");
    }

    /// Nothing when it ends at once.
    async fn start(address: SocketAddr, gateways: &[&str]) -> Option<Self> {
        let program = ["nginx", "/usr/sbin/nginx"]
            .into_iter()
            .find(|program| Command::new(program).arg("-v").stderr(Stdio::null()).status().is_ok());
        let program = program.expect("nginx is missing: scripts/install.sh --front-door");
        let folder = tempfile::Builder::new().prefix("paystream-nginx-").tempdir().unwrap();
        configure(folder.path(), address, gateways);
        let place = |name: &str| folder.path().join(name).display().to_string();
        let log = File::create(place("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", GUARDIAN, "nginx-guardian", program, "-e", "stderr", "-p"]);
        command.arg(folder.path()).args(["-c", &place("nginx.conf"), "-g"]);
        command.arg(format!("daemon off; pid {};", place("pid")));
        command.process_group(0).stdin(Stdio::piped());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let guardian = Mutex::new(command.spawn().unwrap());
        let front = Self { address, guardian, folder };
        let there = eventually("nginx answers", async || {
            if front.guardian.lock().unwrap().try_wait().unwrap().is_some() {
                return Some(false);
            }
            let answer = front.try_get("/livez", "").await.ok()?;
            answer.starts_with("HTTP/1.1 ").then_some(true)
        });
        let there = there.await;
        let log = fs::read_to_string(front.folder.path().join("log")).unwrap();
        assert!(there || log.contains("Address already in use"), "nginx does not start:\n{log}");
        there.then_some(front)
    }

    /// The whole answer to these bytes, as they are.
    async fn raw(&self, request: &str) -> std::io::Result<String> {
        self.raw_from(Ipv4Addr::LOCALHOST, request).await
    }

    /// The same from this address of the machine.
    async fn raw_from(&self, from: Ipv4Addr, request: &str) -> std::io::Result<String> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let mut stream = socket.connect(self.address).await?;
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
        self.post_from(Ipv4Addr::LOCALHOST, path, headers, body).await
    }

    async fn post_from(&self, from: Ipv4Addr, path: &str, headers: &str, body: &str) -> String {
        let (host, length) = (self.address, body.len());
        let rest = format!("Host: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n");
        let request = format!("POST {path} HTTP/1.1\r\n{rest}{headers}\r\n{body}");
        self.raw_from(from, &request).await.unwrap()
    }

    /// What the log calls this path; the request is answered.
    pub async fn route(&self, path: &str) -> String {
        let id = Uuid::now_v7().to_string();
        self.get(path, &format!("X-Request-Id: {id}\r\n")).await;
        let route = eventually("it is logged", async || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(&id))?;
            Some(serde_json::from_str::<Value>(line).ok()?["route"].as_str()?.to_owned())
        });
        route.await
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

/// What the collector asks: nginx how many connections it has, and through nginx whether
/// payments are taken.
#[tokio::test]
async fn the_collector_is_told_of_nginx_and_of_gateways() {
    let h = gateway().await;
    let front = Front::before(&h.api.url).await;
    let own = async |path: &str| {
        let mut stream = UnixStream::connect(front.folder.path().join("status")).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let told = own("/status").await;
    assert!(status(&told) == 200 && told.contains("Active connections: "), "{told}");
    assert_eq!(status(&own("/readyz").await), 404, "it leads to no gateway");
    assert_eq!(status(&front.get("/status", "").await), 401, "the gateway is asked");
    // As the collector calls it.
    let probe = async || {
        let answer = front.raw("GET /readyz HTTP/1.1\r\nHost: nginx\r\nConnection: close\r\n\r\n");
        status(&answer.await.unwrap())
    };
    assert_eq!(probe().await, 200);
    h.stop().await;
    assert_eq!(probe().await, 503);
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
    let ends_tls: Ipv4Addr = ENDS_TLS.parse().unwrap();
    for (from, proto, secure) in [
        (ends_tls, "", false),
        (ends_tls, "X-Forwarded-Proto: http\r\n", false),
        (ends_tls, "X-Forwarded-Proto: https\r\n", true),
        (ends_tls, "X-Forwarded-Proto: gopher\r\n", false),
        // Whoever is not named is not believed.
        (Ipv4Addr::LOCALHOST, "X-Forwarded-Proto: https\r\n", false),
        (Ipv4Addr::LOCALHOST, "Forwarded: proto=https\r\n", false),
    ] {
        let headers = format!("{form}{origin}{proto}");
        let fields = format!("token={ADA}");
        let answer = front.post_from(from, "/console/sign-in", &headers, &fields).await;
        assert_eq!(status(&answer), 303, "{answer}");
        let cookie = header(&answer, "set-cookie");
        assert!(cookie.contains("paystream_console="), "{answer}");
        assert_eq!(cookie.contains("; Secure"), secure, "{from} {proto}{cookie}");
    }
}

#[tokio::test]
async fn what_is_logged_names_routes_and_nobody() {
    let h = gateway().await;
    let front = Front::before(&h.api.url).await;
    for (path, route) in [
        ("/livez", "/livez"),
        ("/api/v1/payments/SECRET-1", "/api/v1/payments/{reference}"),
        ("/api/v1/payments/SECRET-1?x=SECRET-2", "/api/v1/payments/{reference}"),
        ("/api/v1/customers/SECRET-3", "/api/v1/customers/{customer_id}"),
        ("/api/v1/customers/SECRET-3/balance", "/api/v1/customers/{customer_id}/balance"),
        ("/api/v1/customers/SECRET-3/payments", "/api/v1/customers/{customer_id}/payments"),
        ("/api/v1/webhooks/SECRET-4", "/api/v1/webhooks/{source}"),
        ("/SECRET-5", "other"),
    ] {
        assert_eq!(front.route(path).await, route, "{path}");
        assert!(!front.log().contains("SECRET"), "{path}");
    }
}

/// Clients that pay through nginx, one payment after another, until they are told to stop.
async fn pays(front: Arc<Front>, client: usize, stop: CancellationToken, taken: Arc<AtomicUsize>) {
    let headers = format!("Content-Type: application/json\r\nAuthorization: Bearer {API}\r\n");
    let mut number = 0;
    while !stop.is_cancelled() {
        let reference = format!("c{client}-{number}");
        let body = payment(&reference, "ADA", "1").to_string();
        let answer = front.post("/api/v1/payments", &headers, &body).await;
        match status(&answer) {
            // The second: nginx asked another gateway, and the first had taken it.
            202 | 200 => {
                number += 1;
                taken.fetch_add(1, Ordering::Relaxed);
            }
            429 | 503 => {}
            other => panic!("{reference}: {other}: {answer}"),
        }
    }
}

#[tokio::test]
async fn gateways_are_killed_drained_and_added_and_clients_see_it_by_503_at_most() {
    let stores = Stores::new().await;
    let settings =
        [("PAYSTREAM_API_TOKEN", API), ("PAYSTREAM_OPERATOR_TOKENS", &*format!("ada={ADA}"))];
    let serve = async || Process::serve("gateway", &stores, &settings).await;
    let (first, second, third) = tokio::join!(serve(), serve(), serve());
    let urls = [&first, &second, &third].map(|process| process.api.url.clone());
    let [first_url, second_url, third_url] = urls.each_ref().map(String::as_str);
    first.api.with_token(API).open_account("ADA", "1000000").await;
    let front = Arc::new(Front::before_all(&[first_url, second_url]).await);
    let (stop, taken) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        clients.spawn(pays(Arc::clone(&front), client, stop.clone(), Arc::clone(&taken)));
    }
    let more_are_taken = async |what: &str| {
        let before = taken.load(Ordering::Relaxed);
        until(what, async || taken.load(Ordering::Relaxed) >= before + 100).await;
    };
    more_are_taken("two gateways take payments").await;
    first.kill().await;
    more_are_taken("the other one takes them").await;
    front.reload(&[first_url, second_url, third_url]).await;
    more_are_taken("with one more").await;
    // It finishes what it has, and ends well.
    second.stop().await;
    more_are_taken("the one that was added is left").await;
    stop.cancel();
    while let Some(ended) = in_time("clients end", clients.join_next()).await {
        ended.unwrap();
    }
    let worker = Process::serve("worker", &stores, &[]).await;
    let wanted = i64::try_from(taken.load(Ordering::Relaxed)).unwrap();
    stores
        .until(wanted, "select count(*) from processed_transactions where outcome = 'applied'")
        .await;
    worker.stop().await;
    third.stop().await;
    stores.audit().await;
}
