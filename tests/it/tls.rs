//! Proves that with a certificate both addresses speak TLS and nothing else, that files which
//! change are used by new connections and broken ones are not, that clients without a good
//! certificate are refused where one is asked for, and that a handshake that does not end
//! holds nobody up and ends.
//!
//! Keys, certificates and revocation lists are made by openssl.

use std::{io, net::SocketAddr, sync::Arc};

use tempfile::TempDir;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

use crate::{
    callers::{ISSUER, Keys},
    prelude::*,
};

const OWN: (&str, &str) = ("PAYSTREAM_OPERATIONS_BIND", "127.0.0.1:0");
const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
const SETTINGS: &str = "
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
subjectAltName = DNS:localhost,IP:127.0.0.1
extendedKeyUsage = serverAuth
[client]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = clientAuth
[ca]
default_ca = revoked
[revoked]
database = index
crlnumber = number
default_md = sha256
default_crl_days = 30
crl_extensions = list
[list]
authorityKeyIdentifier = keyid
";

/// A certificate authority, and a folder with what it has signed.
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    pub async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("paystream-tls-").tempdir().unwrap();
        let authority = Self { folder };
        for (name, text) in [("settings", SETTINGS), ("index", ""), ("number", "01\n")] {
            fs::write(authority.path(name), text).unwrap();
        }
        authority.make("ca", &["-extensions", "authority"]).await;
        authority
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    async fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        let ended = run(command).await;
        assert!(ended.status.success(), "{arguments:?}: {ended:?}");
    }

    /// A new key and its certificate: `name.key` and `name.pem`.
    async fn make(&self, name: &str, more: &[&str]) {
        let (key, pem, subject) =
            (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
        let fixed = [
            "req",
            "-x509",
            "-config",
            "settings",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-keyout",
            &key,
            "-out",
            &pem,
            "-subj",
            &subject,
        ];
        self.openssl(&[&fixed[..], more].concat()).await;
    }

    /// The same, signed by the authority. `kind` is server or client.
    pub async fn sign(&self, kind: &str, name: &str) {
        self.make(name, &["-extensions", kind, "-CA", "ca.pem", "-CAkey", "ca.key"]).await;
    }

    /// Puts the key of this certificate behind a password.
    pub async fn encrypt(&self, name: &str) {
        let key = format!("{name}.key");
        self.openssl(&[
            "pkey",
            "-aes256",
            "-passout",
            "pass:secret",
            "-in",
            &key,
            "-out",
            "locked",
        ])
        .await;
        fs::rename(self.path("locked"), self.path(&key)).unwrap();
    }

    /// Writes its list of revoked certificates anew, with this one.
    async fn revoke(&self, name: &str) {
        let ours = ["ca", "-config", "settings", "-keyfile", "ca.key", "-cert", "ca.pem"];
        let pem = format!("{name}.pem");
        self.openssl(&[&ours[..], &["-revoke", &pem]].concat()).await;
        self.openssl(&[&ours[..], &["-gencrl", "-out", "list.pem"]].concat()).await;
    }

    /// Puts these in place of the files that the gateway has.
    fn replace(&self, from: &str, to: &str) {
        for kind in ["key", "pem"] {
            fs::rename(self.path(&format!("{from}.{kind}")), self.path(&format!("{to}.{kind}")))
                .unwrap();
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        roots
    }

    /// A client that trusts the authority, with a certificate if it is named.
    fn client(&self, name: Option<&str>, versions: &[&'static SupportedProtocolVersion]) -> Client {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(self.roots());
        let config = match name {
            None => config.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::from_pem_file(self.path(&format!("{name}.pem")));
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key")));
                config.with_client_auth_cert(vec![chain.unwrap()], key.unwrap()).unwrap()
            }
        };
        Client(config)
    }

    /// A gateway with the certificate `server`, which listens.
    async fn gateway(&self, stores: &Stores, more: &[(&str, &str)]) -> Process {
        self.serve("gateway", stores, more).await
    }

    async fn serve(&self, role: &str, stores: &Stores, more: &[(&str, &str)]) -> Process {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        let ours = [
            ("PAYSTREAM_TLS_CERTIFICATE_FILE", certificate.as_str()),
            ("PAYSTREAM_TLS_KEY_FILE", key.as_str()),
        ];
        let gateway = Process::listening(serve(role, stores, &[&ours[..], more].concat()));
        let gateway = gateway.await;
        gateway.until_logged("using the TLS certificate").await;
        gateway
    }
}

/// Connects anew for each request.
struct Client(ClientConfig);

impl Client {
    fn offering(mut self, protocol: &str) -> Self {
        self.0.alpn_protocols = vec![protocol.into()];
        self
    }

    async fn connect(&self, api: &Api) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address(api)).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(self.0.clone())).connect(name, stream).await
    }

    /// The whole answer, unless the connection is refused.
    async fn ask(&self, api: &Api, request: &str) -> io::Result<String> {
        let mut stream = self.connect(api).await?;
        ask_on(&mut stream, &request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await?;
        let mut answer = String::new();
        in_time("it answers", stream.read_to_string(&mut answer)).await?;
        Ok(answer)
    }

    async fn is_served(&self, api: &Api) -> bool {
        let answer = self.ask(api, &get("/livez")).await;
        // One that is refused gets nothing at all.
        answer.is_ok_and(|answer| {
            assert!(answer.starts_with("HTTP/1.1 200 ") || answer.is_empty(), "{answer}");
            !answer.is_empty()
        })
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self, api: &Api) -> Vec<u8> {
        let stream = self.connect(api).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}

fn address(api: &Api) -> SocketAddr {
    api.url.trim_start_matches("http://").parse().unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

async fn ask_on(stream: &mut TlsStream<TcpStream>, request: &str) -> io::Result<()> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await
}

/// A request over a connection that is kept.
async fn is_answered(stream: &mut TlsStream<TcpStream>) {
    ask_on(stream, &get("/livez")).await.unwrap();
    let mut start = [0; 12];
    in_time("it answers", stream.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    // The rest of it.
    let mut rest = Vec::new();
    until("the answer ends", async || {
        rest.push(stream.read_u8().await.unwrap());
        rest.ends_with(b"}")
    })
    .await;
}

fn der(authority: &Authority, name: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(authority.path(&format!("{name}.pem"))).unwrap().to_vec()
}

#[tokio::test]
async fn both_addresses_speak_tls_and_nothing_else() {
    let (stores, authority) = (Stores::new().await, Authority::new().await);
    authority.sign("server", "server").await;
    let operators = ("PAYSTREAM_OPERATOR_TOKENS", "ada=the-token-of-ada-01");
    let gateway = authority.gateway(&stores, &[OWN, operators]).await;
    let (public, operations) = (&gateway.api, gateway.operations().await);
    for (versions, spoken) in
        [(&[&TLS12], ProtocolVersion::TLSv1_2), (&[&TLS13], ProtocolVersion::TLSv1_3)]
    {
        let client = authority.client(None, versions);
        let stream = client.connect(public).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
        assert!(client.is_served(public).await && client.is_served(&operations).await);
    }
    let client = authority.client(None, BOTH).offering("http/1.1");
    let stream = client.connect(public).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(authority.client(None, BOTH).offering("h2").connect(public).await.is_err());
    let stranger = Authority::new().await;
    assert!(stranger.client(None, BOTH).connect(public).await.is_err());

    let answer = client.ask(public, &get("/api/v1/customers")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // What came over TLS stays there, though no proxy says so.
    let form = "token=the-token-of-ada-01";
    let sign_in = format!(
        "POST /console/sign-in HTTP/1.1\r\nHost: localhost\r\nOrigin: https://localhost\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let answer = client.ask(&operations, &sign_in).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
    let cookie = answer.lines().find(|line| line.starts_with("set-cookie: ")).unwrap();
    assert!(cookie.ends_with("; Secure"), "{cookie}");

    for api in [public, &operations] {
        let mut plain = TcpStream::connect(address(api)).await.unwrap();
        plain.write_all(get("/livez").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _reset = in_time("it closes", plain.read_to_end(&mut answer)).await;
        // An alert of TLS at most.
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
        assert!(answer.len() <= 7, "{answer:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_shown_to_new_connections() {
    let (stores, authority) = (Stores::new().await, Authority::new().await);
    authority.sign("server", "server").await;
    let gateway = authority.gateway(&stores, &[]).await;
    let client = authority.client(None, BOTH);
    let first = der(&authority, "server");
    let mut kept = client.connect(&gateway.api).await.unwrap();
    is_answered(&mut kept).await;
    assert_eq!(client.shown(&gateway.api).await, first);

    authority.sign("server", "next").await;
    let next = der(&authority, "next");
    authority.replace("next", "server");
    // By itself, and without a signal.
    until("the next one is shown", async || client.shown(&gateway.api).await == next).await;
    is_answered(&mut kept).await;

    // A key of another certificate, a file that holds something else, and none at all.
    authority.sign("server", "other").await;
    let warned = "the TLS files cannot be used; going on with the last ones";
    let mut warnings = gateway.events(warned).len();
    let key = authority.path("server.key");
    let break_it: [&dyn Fn(); 3] = [
        &|| fs::write(&key, fs::read(authority.path("other.key")).unwrap()).unwrap(),
        &|| fs::write(&key, "-----BEGIN NOTHING-----").unwrap(),
        &|| fs::remove_file(&key).unwrap(),
    ];
    for broken in break_it {
        broken();
        gateway.signal("HUP").await;
        until("it is noticed", async || gateway.events(warned).len() > warnings).await;
        warnings = gateway.events(warned).len();
        assert_eq!(client.shown(&gateway.api).await, next);
        assert!(client.is_served(&gateway.api).await);
    }
    let log = gateway.log();
    assert!(log.contains("do not fit") && log.contains("PAYSTREAM_TLS_KEY_FILE"), "{log}");
    assert!(!log.contains("NOTHING"), "nothing of a key is logged");
    authority.replace("other", "server");
    let other = der(&authority, "server");
    until("it is whole again", async || client.shown(&gateway.api).await == other).await;
}

#[tokio::test]
async fn clients_without_a_good_certificate_are_refused() {
    let (stores, authority) = (Stores::new().await, Authority::new().await);
    let stranger = Authority::new().await;
    authority.sign("server", "server").await;
    for name in ["bank", "old", "lost"] {
        authority.sign("client", name).await;
    }
    stranger.sign("client", "bank").await;
    authority.revoke("old").await;
    let (ca, list) = (authority.path("ca.pem"), authority.path("list.pem"));
    let asks = [
        ("PAYSTREAM_TLS_CLIENT_CA_FILE", ca.as_str()),
        ("PAYSTREAM_TLS_CLIENT_CRL_FILE", list.as_str()),
    ];
    let gateway = authority.gateway(&stores, &[&asks[..], &[OWN]].concat()).await;
    // A certificate of another authority, which it shows to whoever asks for one of ours.
    for name in ["bank.pem", "bank.key"] {
        fs::copy(stranger.path(name), authority.path(&format!("strange-{name}"))).unwrap();
    }
    for kind in ["pem", "key"] {
        let from = authority.path(&format!("strange-bank.{kind}"));
        fs::rename(from, authority.path(&format!("strange.{kind}"))).unwrap();
    }
    let operations = gateway.operations().await;
    for versions in [&[&TLS12][..], &[&TLS13], BOTH] {
        for api in [&gateway.api, &operations] {
            assert!(authority.client(Some("bank"), versions).is_served(api).await);
            for wrong in [None, Some("strange"), Some("old"), Some("server")] {
                let client = authority.client(wrong, versions);
                assert!(!client.is_served(api).await, "{wrong:?} {versions:?}");
            }
        }
    }
    // What is revoked while it runs is refused, also to whoever was served before and would
    // rather go on from there.
    let lost = [&[&TLS12][..], &[&TLS13]].map(|versions| authority.client(Some("lost"), versions));
    for client in &lost {
        assert!(client.is_served(&gateway.api).await);
    }
    authority.revoke("lost").await;
    for client in &lost {
        until("it is refused", async || !client.is_served(&gateway.api).await).await;
    }
    assert!(authority.client(Some("bank"), BOTH).is_served(&gateway.api).await);
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_is_good_with_it_alone() {
    let (stores, authority) = (Stores::new().await, Authority::new().await);
    let keys = Keys::new("bound").await;
    authority.sign("server", "server").await;
    for name in ["bank", "thief"] {
        authority.sign("client", name).await;
    }
    let (ca, set) = (authority.path("ca.pem"), keys.path("keys.json"));
    let settings = [
        ("PAYSTREAM_TLS_CLIENT_CA_FILE", &*ca),
        ("PAYSTREAM_JWT_KEYS_FILE", &*set),
        ("PAYSTREAM_JWT_ISSUER", ISSUER),
    ];
    let gateway = authority.gateway(&stores, &settings).await;
    let certificate = authority.path("bank.pem");
    let more = ["--scope", "operations:read", "--certificate", &certificate];
    let token = keys.token_of("bank", "a", &more).await;
    let get = |path: &str, more: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}");
        format!("{head}Authorization: Bearer {token}\r\n\r\n")
    };
    let (path, proxied) = ("/api/v1/admin/stats", "X-Forwarded-For: 192.0.2.7\r\n");
    // The second time it is remembered.
    for _ in 0..2 {
        for (name, more, status, why) in [
            ("thief", "", 401, "another client certificate"),
            ("bank", "", 200, ""),
            ("bank", proxied, 401, "showed none"),
        ] {
            let client = authority.client(Some(name), BOTH);
            let answer = client.ask(&gateway.api, &get(path, more)).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
            assert!(answer.contains(why), "{name}: {answer}");
        }
    }
    for (name, sees) in [("bank", true), ("thief", false)] {
        let client = authority.client(Some(name), BOTH);
        let answer = client.ask(&gateway.api, &get("/api/v1/health", "")).await.unwrap();
        assert_eq!(answer.contains("dependencies"), sees, "{answer}");
    }
    let plain = keys.serve_as("gateway", &stores, &[]).await;
    let refused = send(plain.api.request(Method::GET, path).bearer_auth(&token)).await;
    let refused = refused.is_problem(401, "unauthorized");
    assert!(refused["detail"].as_str().unwrap().contains("showed none"), "{refused}");
}

#[tokio::test]
async fn the_probe_and_the_load_generator_speak_tls() {
    let (stores, authority) = (Stores::new().await, Authority::new().await);
    authority.sign("server", "server").await;
    authority.sign("client", "bank").await;
    let ca = authority.path("ca.pem");
    let asks = [OWN, ("PAYSTREAM_TLS_CLIENT_CA_FILE", ca.as_str())];
    let all = authority.serve("all", &stores, &asks).await;
    let public = address(&all.api).to_string();
    let operations = address(&all.operations().await).to_string();
    let (shown, key) = (authority.path("bank.pem"), authority.path("bank.key"));
    let bank = ["--client-certificate-file", &shown, "--client-key-file", &key];
    let probe = |more: &[&str]| {
        let mut command = paystream();
        command.args(["probe", &public]).args(more);
        run(command)
    };
    let trusted = [&["--ca-file", &ca][..], &bank].concat();
    until("it is ready", async || {
        probe(&[&trusted[..], &["--path", "/readyz"]].concat()).await.code() == Some(0)
    })
    .await;
    probe(&[&trusted[..], &["--server-name", "localhost"]].concat()).await.is(0, "200 OK");
    for wrong in [
        &[][..],
        &["--ca-file", &ca],
        &[&["--ca-file", &shown][..], &bank].concat(),
        &[&trusted[..], &["--server-name", "pay.example"]].concat(),
    ] {
        assert_eq!(probe(wrong).await.code(), Some(2), "{wrong:?}");
    }
    let load = |port: &str, more: &[&str]| {
        let mut command = paystream();
        let url = format!("https://localhost:{}", public.rsplit(':').next().unwrap());
        let operations = format!("https://localhost:{port}");
        command.args(["load", "--url", &url, "--operations-url", &operations]);
        command.args(["--rate", "50", "--duration", "1s", "--customers", "5", "--json"]);
        command.args(more);
        run(command)
    };
    let ended = load(operations.rsplit(':').next().unwrap(), &trusted).await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(ended.json()["sending"]["accepted"], 50, "{ended:?}");
    load("1", &bank).await.refused(&["needs --ca-file"]);
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_and_holds_nobody_up() {
    let (stores, authority) = (Stores::new().await, Authority::new().await);
    authority.sign("server", "server").await;
    let places = ("PAYSTREAM_CONNECTIONS_MAX", "3");
    let gateway = authority.gateway(&stores, &[places]).await;
    let client = authority.client(None, BOTH);
    // Silent, and in the middle of it.
    let mut silent = TcpStream::connect(address(&gateway.api)).await.unwrap();
    let mut half = TcpStream::connect(address(&gateway.api)).await.unwrap();
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    until("others are served", async || client.is_served(&gateway.api).await).await;
    // Each holds a place until it ends.
    let _third = TcpStream::connect(address(&gateway.api)).await.unwrap();
    until("no place is left", async || !client.is_served(&gateway.api).await).await;
    for stalled in [&mut silent, &mut half] {
        let mut answer = Vec::new();
        let _reset = in_time("it is closed", stalled.read_to_end(&mut answer)).await;
    }
    until("there is a place again", async || client.is_served(&gateway.api).await).await;
    // A stop waits for none of them either.
    let _stalled = TcpStream::connect(address(&gateway.api)).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_at_the_start() {
    let (stores, authority) = (Stores::new().await, Authority::new().await);
    authority.sign("server", "server").await;
    authority.sign("server", "other").await;
    fs::write(authority.path("empty"), "").unwrap();
    let path = |name: &str| authority.path(name);
    let [certificate, key, ca, list] = [
        "PAYSTREAM_TLS_CERTIFICATE_FILE",
        "PAYSTREAM_TLS_KEY_FILE",
        "PAYSTREAM_TLS_CLIENT_CA_FILE",
        "PAYSTREAM_TLS_CLIENT_CRL_FILE",
    ];
    let good = || vec![(certificate, path("server.pem")), (key, path("server.key"))];
    let with = |name, file: &str| [good(), vec![(name, path(file))]].concat();
    for (settings, sentences) in [
        (vec![good()[0].clone()], vec!["--tls-key-file"]),
        (vec![good()[1].clone()], vec!["--tls-certificate-file"]),
        (vec![(ca, path("ca.pem"))], vec!["--tls-certificate-file"]),
        (with(list, "empty"), vec!["--tls-client-ca-file"]),
        (with(certificate, "none"), vec![certificate, "it cannot be read"]),
        (with(certificate, "empty"), vec![certificate, "it holds no certificate in PEM"]),
        (with(key, "server.pem"), vec![key, "it holds no private key in PEM"]),
        (with(key, "other.key"), vec!["do not fit"]),
        (with(ca, "server.key"), vec![ca, "it holds no certificate in PEM"]),
        (
            [with(ca, "ca.pem"), vec![(list, path("ca.pem"))]].concat(),
            vec![list, "it holds no revocation list in PEM"],
        ),
    ] {
        let mut command = serve("gateway", &stores, &[]);
        command.envs(settings);
        run(command).await.refused(&sentences);
    }
}
