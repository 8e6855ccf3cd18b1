//! Proves that clients that send nothing, send slowly, or do not read keep nobody
//! else out: connections are bounded in all and for each address, what is sent has
//! time limits and a size, and descriptors are left for the stores.
//!
//! Several clients are told apart by their addresses on loopback, which other
//! systems than Linux would have to be given first.
#![cfg(target_os = "linux")]

use std::{cell::RefCell, net::Ipv4Addr};

use tokio::{
    net::TcpSocket,
    time::{interval, timeout},
};

use crate::prelude::*;

/// Between two bytes of a client that sends slowly.
const SLOWLY: Duration = Duration::from_millis(200);
/// A connection that is refused is closed within this.
const MOMENT: Duration = Duration::from_millis(500);

/// A connection from 127.0.0.`from` that reads little at a time.
async fn connect(url: &str, from: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, from), 0).into()).unwrap();
    let address = url.trim_start_matches("http://").parse().unwrap();
    socket.connect(address).await.unwrap()
}

/// A connection on which this was sent.
async fn sent(url: &str, from: u8, bytes: &str) -> TcpStream {
    let mut stream = connect(url, from).await;
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// Everything that comes until the server closes, while these bytes are sent again
/// and again.
async fn heard(mut stream: TcpStream, slowly: &str) -> String {
    let (mut reading, mut writing) = stream.split();
    let mut pause = interval(SLOWLY);
    let sending = async {
        while !slowly.is_empty() && writing.write_all(slowly.as_bytes()).await.is_ok() {
            pause.tick().await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let hearing = async {
        // Closed with a reset, where something of ours was not read.
        let _closed = reading.read_to_end(&mut answer).await;
    };
    tokio::select! {
        () = sending => {}
        () = in_time("the server closes", hearing) => {}
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A client that is served at once; nothing when there is no place for it.
async fn served(url: &str, from: u8) -> Option<TcpStream> {
    let mut stream = connect(url, from).await;
    stream.write_all(get("/livez").as_bytes()).await.ok()?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.ok()?;
    (&start == b"HTTP/1.1 200").then_some(stream)
}

#[tokio::test]
async fn silent_slow_and_deaf_clients_lose_their_places() {
    const ONE: u8 = 3;
    const OF_ONE: usize = 6;
    let h = Harness::gateway(&["--connections-per-address-max", &OF_ONE.to_string()]).await;
    let url = &h.api.url;
    let post = "POST /api/v1/payments HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 9999\r\n\r\n";
    let mut clients = JoinSet::new();
    let silent = connect(url, ONE).await;
    clients.spawn(async move { ("silent", heard(silent, "").await) });
    let half = sent(url, ONE, "GET /livez HTTP/1.1\r\nHo").await;
    clients.spawn(async move { ("half a header", heard(half, "").await) });
    let dribbles = sent(url, ONE, "GET /livez HTTP/1.1\r\nX: ").await;
    clients.spawn(async move { ("header by header", heard(dribbles, "x\r\nX: ").await) });
    let body = sent(url, ONE, post).await;
    clients.spawn(async move { ("a slow body", heard(body, " ").await) });
    let idle = served(url, ONE).await.expect("a place");
    clients.spawn(async move { ("idle", heard(idle, "").await) });
    // More than the kernel keeps for a reader that does not come.
    let deaf = sent(url, ONE, &get("/docs/swagger-ui-bundle.js").repeat(20)).await;

    // This address has all it may have; the others are served.
    until("one more is refused", async || served(url, ONE).await.is_none()).await;
    assert!(served(url, ONE + 1).await.is_some());

    while let Some(ended) = clients.join_next().await {
        let (client, answer) = ended.unwrap();
        if client == "a slow body" {
            assert!(answer.starts_with("HTTP/1.1 408"), "{client}: {answer}");
            assert!(answer.contains("body_timeout"), "{client}: {answer}");
        } else {
            assert!(!answer.contains("HTTP/1.1 200"), "{client}: {answer}");
        }
    }
    // The deaf one, too: as many as an address may have are served at once.
    eventually("every place is free again", async || {
        let mut all = Vec::new();
        for _ in 0..OF_ONE {
            all.push(served(url, ONE).await?);
        }
        Some(())
    })
    .await;
    drop(deaf);
}

#[tokio::test]
async fn headers_have_a_size() {
    let h = Harness::gateway(&[]).await;
    let ask = async |size: usize| {
        let request = h.api.request(Method::GET, "/livez").header("x-long", "x".repeat(size));
        request.send().await.map(|answer| answer.status().as_u16()).ok()
    };
    assert_eq!(ask(30 * 1024).await, Some(200));
    // It may be closed while we still send.
    let refused = ask(40 * 1024).await;
    assert!(matches!(refused, Some(431) | None), "{refused:?}");
    for request in [
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(400_000)),
        format!("GET /{}", "x".repeat(400_000)),
        format!("GET /livez HTTP/1.1\r\n{}", "X: x\r\n".repeat(60_000)),
    ] {
        let mut stream = connect(&h.api.url, 1).await;
        let (mut reading, mut writing) = stream.split();
        let mut answer = Vec::new();
        // Both at once: it is closed before all of it is sent.
        let hearing = in_time("it is closed", reading.read_to_end(&mut answer));
        let _ended = tokio::join!(writing.write_all(request.as_bytes()), hearing);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let refused = answer.is_empty()
            || ["HTTP/1.1 431", "HTTP/1.1 414"].iter().any(|status| answer.starts_with(status));
        assert!(refused, "{answer}");
    }
}

#[tokio::test]
async fn slow_bodies_take_no_places_of_requests() {
    let h = Harness::gateway(&["--requests-max", "2"]).await;
    let sent_half = "POST /api/v1/payments HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=30\r\n\
                     Content-Type: application/json\r\nContent-Length: 400\r\n\r\n{";
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(sent(&h.api.url, 1, sent_half).await);
    }
    // The gateway has begun to read them when it asks for more of one.
    for n in 0..20 {
        h.api.post_payment(&payment(&format!("quick{n}"), "ADA", "1")).await.is(202);
    }
    drop(slow);
}

#[tokio::test]
async fn large_bodies_are_bounded_together_and_leave_room_for_single_payments() {
    let h = Harness::gateway(&[]).await;
    let start = "POST /api/v1/payments/batch HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Type: application/json\r\n";
    let half = format!("{start}Content-Length: 4194304\r\n\r\n[");
    let withheld = RefCell::new(Vec::new());
    for _ in 0..40 {
        let stream = sent(&h.api.url, 1, &half).await;
        withheld.borrow_mut().push(stream);
    }
    let batch = async |name: &str| {
        h.api.post("/api/v1/payments/batch", &json!([payment(name, "ADA", "1")])).await
    };
    let refused = eventually("there is no room", async || {
        let reply = batch("first").await;
        if reply.status == 503 {
            return Some(reply);
        }
        // The room that this one took for a moment may have been missing to one of them.
        let stream = sent(&h.api.url, 1, &half).await;
        withheld.borrow_mut().push(stream);
        None
    })
    .await;
    refused.is_problem(503, "gateway_busy");
    let chunked = format!("{start}Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n");
    let answer = heard(sent(&h.api.url, 1, &chunked).await, "").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    for n in 0..20 {
        h.api.post_payment(&payment(&format!("single{n}"), "ADA", "1")).await.is(202);
    }
    // Whoever waits to be told to go on is told at once that it is too much.
    let much = format!(
        "POST /api/v1/payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        16 * 1024 + 1
    );
    let answer = heard(sent(&h.api.url, 1, &much).await, "").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    drop(withheld);
    until("there is room again", async || {
        let reply = batch("second").await;
        reply.status < 300
    })
    .await;
}

#[tokio::test]
async fn whoever_still_sends_a_refused_body_sees_why() {
    let h = Harness::gateway(&["--api-token", "a-secret-of-this-length"]).await;
    let (typed, token) =
        ("Content-Type: application/json\r\n", "Authorization: Bearer a-secret-of-this-length\r\n");
    for (headers, path, size, wanted) in [
        (token, "/api/v1/payments", 17 * 1024, "413"),
        (token, "/api/v1/payments", 3 << 20, "413"),
        (token, "/api/v1/payments/batch", (4 << 20) + 1, "413"),
        ("", "/api/v1/payments/batch", 3 << 20, "401"),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\n{typed}{headers}Content-Length: {size}\r\n\r\n"
        );
        let mut stream = sent(&h.api.url, 1, &head).await;
        let body = vec![b' '; size];
        let mut pause = interval(SLOWLY);
        for piece in body.chunks(size.div_ceil(4)) {
            pause.tick().await;
            stream.write_all(piece).await.unwrap();
        }
        let answer = heard(stream, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted}")), "{path} {size}: {answer}");
    }
}

/// The same command, with so few descriptors.
fn with_descriptors(command: &Command, descriptors: u32) -> Command {
    let ours = command.as_std();
    let mut limited = like(command, "prlimit", &[&format!("--nofile={descriptors}")]);
    limited.arg(ours.get_program()).args(ours.get_args());
    limited
}

/// Connections of one address that say nothing.
async fn idle(url: &str, from: u8, count: usize) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(connect(url, from).await);
    }
    idle
}

#[tokio::test]
async fn idle_clients_take_neither_descriptors_nor_partitions() {
    let (_redis, mut stores) = Stores::on_own_redis("redis-limits").await;
    let settings = [("PAYSTREAM_LEASE", "2s"), ("PAYSTREAM_BATCH_DEADLINE", "1s")];
    let process = Process::start(with_descriptors(&serve("all", &stores, &settings), 256)).await;
    process.until_logged("too few descriptors for PAYSTREAM_CONNECTIONS_MAX").await;
    process.api.open_account("ADA", "1000").await;
    process.api.pay("before", "ADA", "1").await;
    process.api.until_settled().await;
    let moves = "select count(*) from partition_moves";
    let moved = stores.count(moves).await;
    let url = process.api.url.clone();

    // One address that takes all it can leaves others theirs.
    let crowd = idle(&url, 9, 400).await;
    for n in 0..8 {
        // Over a connection of its own.
        let api = Api::new(url.clone());
        api.pay(&format!("beside-one-{n}"), "ADA", "1").await;
    }
    process.api.until_settled().await;

    // Many addresses take all places. The worker works on, and finds descriptors to
    // reach the stores again.
    let mut crowds = vec![crowd];
    for from in 10..20 {
        crowds.push(idle(&url, from, 100).await);
    }
    let mut connection = connect(&url, 30).await;
    let refused = timeout(MOMENT, connection.read(&mut [0])).await;
    assert!(refused.is_ok(), "a connection beyond all places is closed at once");
    stores.tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    stores.connect_again().await;
    let beat = "select extract(epoch from beat_at)::bigint from workers";
    let mut last = stores.count(beat).await;
    for _ in 0..4 {
        last = eventually("the worker beats", async || {
            let now = stores.count(beat).await;
            (now > last).then_some(now)
        })
        .await;
    }
    assert_eq!(stores.count(moves).await, moved, "a partition was given up");

    drop(crowds);
    eventually("others are served again", async || {
        let api = Api::new(url.clone());
        let request = api.request(Method::POST, "/api/v1/payments");
        let request = request.json(&payment("after", "ADA", "1"));
        let answer = request.send().await.ok()?;
        (answer.status().as_u16() < 300).then_some(())
    })
    .await;
    process.settled(&stores).await;
    assert_eq!(process.api.balance("ADA").await["total_paid"], json!("10.00"));
    assert_eq!(stores.count(moves).await, moved, "a partition was given up");
    send(process.api.request(Method::GET, "/livez")).await.is(200);
}
