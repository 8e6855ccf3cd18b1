//! A real browser: Debian's chromium, driven headless. One chromedriver for all
//! tests of this process, which ends with it, and a session with an empty
//! profile for each test. Proves nothing by itself.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
};

use fantoccini::{
    Client, ClientBuilder, Locator, elements::Element, wd::WebDriverCompatibleCommand,
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::harness::eventually;

/// Starts what follows in its own process group, and kills the group when that ends
/// or the other end of standard input is gone.
pub const GUARDIAN: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
program=$!
( read -r never <&3; kill -s KILL 0 ) &
wait "$program"
kill -s KILL 0
"#;

/// Browsers at once; each wants a core.
static PLACES: Semaphore = Semaphore::const_new(2);

/// Where the driver listens. It ends when this process does.
fn driver() -> &'static str {
    // The guardian's standard input is open for as long as this is kept.
    static DRIVER: OnceLock<(String, Mutex<Child>)> = OnceLock::new();
    let start = || {
        let mut command = Command::new("sh");
        command.args(["-c", GUARDIAN, "browser-guardian", "chromedriver", "--port=0"]);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().expect("chromedriver starts");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // ChromeDriver was started successfully on port 41271.
        let mut ports = lines.map_while(Result::ok).filter_map(|line| {
            line.split_once(" successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        let port: u16 = ports.next().expect("chromedriver is there: scripts/install.sh --browser");
        (format!("http://127.0.0.1:{port}"), Mutex::new(child))
    };
    &DRIVER.get_or_init(start).0
}

/// A browser with one page.
pub struct Browser {
    pub client: Client,
    site: String,
    _profile: TempDir,
    _place: SemaphorePermit<'static>,
}

/// A command of chromedriver's own.
#[derive(Debug)]
struct Own(&'static str, Value);

impl WebDriverCompatibleCommand for Own {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}

impl Browser {
    /// A fresh one, for the console of this gateway.
    pub async fn open(site: &str) -> Self {
        let place = PLACES.acquire().await.unwrap();
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1280,900",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(driver())
            .await
            .expect("a browser");
        Self { client, site: site.to_owned(), _profile: profile, _place: place }
    }

    pub async fn go(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.site)).await.unwrap();
    }

    /// What can be read on the page.
    pub async fn text(&self) -> String {
        self.script("return document.body.innerText").await.as_str().unwrap().to_owned()
    }

    pub async fn script(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until the page says this.
    pub async fn reads(&self, text: &str) {
        eventually(&format!("the page says: {text}"), async || {
            // The document may be on its way out.
            let script = "return document.body ? document.body.innerText : ''";
            let page = self.client.execute(script, Vec::new()).await.ok()?;
            page.as_str()?.to_lowercase().contains(&text.to_lowercase()).then_some(())
        })
        .await;
    }

    /// Goes there, and waits until the page says this.
    pub async fn shows(&self, path: &str, text: &str) {
        self.go(path).await;
        self.reads(text).await;
    }

    pub async fn find(&self, css: &str) -> Element {
        self.client.wait().for_element(Locator::Css(css)).await.unwrap()
    }

    /// Follows a link, by what it says.
    pub async fn follow(&self, link: &str) {
        let found = self.client.wait().for_element(Locator::LinkText(link)).await;
        found.unwrap_or_else(|error| panic!("{link}: {error}")).click().await.unwrap();
    }

    /// Presses a button, by what it says.
    pub async fn press(&self, button: &str) {
        let path = format!("//button[normalize-space()='{button}']");
        let found = self.client.wait().for_element(Locator::XPath(&path)).await;
        found.unwrap_or_else(|error| panic!("{button}: {error}")).click().await.unwrap();
    }

    pub async fn fill(&self, field: &str, text: &str) {
        let field = self.find(field).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Presses keys wherever the focus is.
    pub async fn keys(&self, keys: &str) {
        self.client.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    async fn chrome(&self, command: &str, parameters: Value) {
        let body = json!({ "cmd": command, "params": parameters });
        self.client.issue_cmd(Own("goog/cdp/execute", body)).await.unwrap();
    }

    /// As somebody sees it who prefers `dark` or `light`.
    pub async fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.chrome("Emulation.setEmulatedMedia", json!({ "features": [feature] })).await;
    }

    /// As wide as this, in pixels of CSS.
    pub async fn width(&self, width: u32, height: u32, scale: u32) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": false
        });
        self.chrome("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Keeps a picture of the whole page, as an artefact of the run.
    pub async fn picture(&self, name: &str, width: u32) {
        self.width(width, 700, 2).await;
        let height = self.script("return document.documentElement.scrollHeight").await;
        let height = u32::try_from(height.as_u64().unwrap()).unwrap();
        self.width(width, height.clamp(700, 4_000), 2).await;
        let picture = self.client.screenshot().await.unwrap();
        self.chrome("Emulation.clearDeviceMetricsOverride", json!({})).await;
        let folder = pictures();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }

    /// What the browser complained about since it was last asked: errors of
    /// scripts, and what the page's policy forbids.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.client.issue_cmd(Own("se/log", json!({ "type": "browser" }))).await;
        let log = log.unwrap();
        let lines = log.as_array().unwrap().iter().map(ToString::to_string);
        lines.filter(|line| !line.contains("favicon.ico")).collect()
    }

    /// Ends it; nothing may have been complained about.
    pub async fn close(self) {
        let complaints = self.complaints().await;
        assert!(complaints.is_empty(), "{complaints:#?}");
        self.client.close().await.unwrap();
    }
}

/// Where pictures are kept.
fn pictures() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("console")
}
