//! The real binary as a process: started, stopped and killed as an operator or
//! a machine would. Proves nothing by itself.

use std::{
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
};

use paystream::domain::{CustomerId, partition_of};

use crate::harness::{
    Api, EVERYTHING, FRONT, OWNER, Stores, as_user, end, eventually, in_background, in_time, until,
};

/// A running `paystream serve`. Dropped, it is stopped as by [`Process::stop`].
pub struct Process {
    running: Option<Running>,
    pub api: Api,
    log: Arc<Mutex<String>>,
}

/// The process itself, and who reads what it logs.
struct Running(Child, JoinSet<()>);

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it printed, as data.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Fails unless it ended with this status and printed this.
    #[track_caller]
    pub fn is(&self, code: i32, printed: &str) {
        assert_eq!(self.code(), Some(code), "{self:?}");
        assert!(self.stdout.contains(printed), "{printed}: {self:?}");
    }

    /// Fails unless it was refused with each of these sentences.
    #[track_caller]
    pub fn refused(&self, sentences: &[&str]) {
        assert!(self.code().is_some_and(|code| code != 0), "{self:?}");
        for sentence in sentences {
            assert!(self.stderr.contains(sentence), "{sentence}\n{self:?}");
        }
    }
}

impl Stores {
    /// Runs an operator's command of ada's.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = operate(self, arguments);
        command.env("PAYSTREAM_ACTOR", "ada");
        run(command).await
    }

    /// Runs a command that must succeed; what it said.
    pub async fn succeed(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments).await;
        assert!(ended.status.success(), "{arguments:?}: {ended:?}");
        ended.stdout
    }

    /// What `paystream show` says of a payment that is known.
    pub async fn show(&self, reference: &str) -> Value {
        let said = self.succeed(&["show", reference, "--json"]).await;
        serde_json::from_str(&said).unwrap()
    }

    /// The open losses: the reason of each with its first and last sequence, and its
    /// partition if that is not ADA's.
    pub async fn losses(&self) -> Vec<String> {
        let ended = self.run(&["losses", "list", "--json"]).await;
        let rows = ended.json();
        let rows = rows.as_array().unwrap();
        assert_eq!(ended.code(), Some(i32::from(!rows.is_empty())), "{ended:?}");
        let partitions = self.count("select partitions::bigint from topology").await;
        let ada = CustomerId::parse("ADA").unwrap();
        let ada = partition_of(&ada, partitions.try_into().unwrap());
        let row = |row: &Value| {
            let lost = match (&row["lost_first"], &row["lost_last"]) {
                (Value::Null, Value::Null) => String::new(),
                (first, last) => format!(" {first}-{last}"),
            };
            let elsewhere = row["partition"] != ada;
            let place = if elsewhere { format!(" in {}", row["partition"]) } else { String::new() };
            format!("{}{lost}{place}", row["reason"].as_str().unwrap())
        };
        let mut rows: Vec<String> = rows.iter().map(row).collect();
        rows.sort();
        rows
    }

    /// Deals with all losses.
    pub async fn accept_losses(&self) {
        let accept = ["losses", "accept", "--reason", "sent again", "--actor", "tester"];
        self.succeed(&accept).await;
    }

    /// What a command says as data, however it ends.
    pub async fn said(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat()).await.json()
    }
}

/// The binary, without any setting of whoever runs the tests.
pub fn paystream() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paystream"));
    for (name, _) in std::env::vars()
        .filter(|(name, _)| name.starts_with("PAYSTREAM_") || name.starts_with("OTEL_"))
    {
        command.env_remove(name);
    }
    command.env("PAYSTREAM_LOG_FORMAT", "json").kill_on_drop(true);
    command.current_dir(env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
    command
}

/// `paystream serve` with its settings in the environment.
pub fn serve(role: &str, stores: &Stores, settings: &[(&str, &str)]) -> Command {
    let mut command = operate(stores, &["serve", role]);
    command
        .env("PAYSTREAM_WORKER_ID", "tester")
        .env("PAYSTREAM_BIND", "127.0.0.1:0")
        .env("PAYSTREAM_HEALTH_BIND", "127.0.0.1:0")
        .envs(settings.iter().copied());
    command
}

/// An operator's command on these stores, with its settings in the environment, as the
/// user of both who needs it.
pub fn operate(stores: &Stores, arguments: &[&str]) -> Command {
    let user = match arguments {
        ["serve", "all", ..] => EVERYTHING,
        ["serve", "worker", ..] => "paystream_worker",
        ["serve", "operations", ..] => "paystream_operations",
        ["serve" | "seed", ..] => FRONT,
        ["migrate" | "archive", ..] | ["audit-log", "prune", ..] => OWNER,
        ["audit", ..] => "paystream_auditor",
        _ => "paystream_operations",
    };
    let mut command = paystream();
    command
        .args(arguments)
        .env("PAYSTREAM_REDIS_URL", as_user(&stores.redis_url, user))
        .env("PAYSTREAM_DATABASE_URL", as_user(&stores.database_url, user))
        .env("PAYSTREAM_KEY_PREFIX", &stores.key_prefix);
    command
}

/// This command with these arguments, where and with what is set for another one.
pub fn like(other: &Command, program: &str, arguments: &[&str]) -> Command {
    let other = other.as_std();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(other.get_current_dir().unwrap());
    for (name, value) in other.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub async fn run(mut command: Command) -> Ended {
    let output = in_time("the command ends", command.output()).await.expect("starts");
    Ended {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Process {
    /// Starts serving and waits until it is ready.
    pub async fn serve(role: &str, stores: &Stores, settings: &[(&str, &str)]) -> Self {
        Self::start(serve(role, stores, settings)).await
    }

    /// Starts a command that serves, and waits until it is ready.
    pub async fn start(command: Command) -> Self {
        let process = Self::listening(command).await;
        process.api.until_ready().await;
        process
    }

    /// Starts a command that serves, and waits until it listens.
    pub async fn listening(mut command: Command) -> Self {
        let log = Arc::new(Mutex::new(String::new()));
        let (tell, mut address) = watch::channel(None);
        let mut arguments = command.as_std().get_args();
        let is_for_operators = arguments.any(|argument| argument == "operations");
        let kept = Arc::clone(&log);
        let running = in_background(async move {
            let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let mut reader = JoinSet::new();
            reader.spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    kept.lock().unwrap().push_str(&format!("{line}\n"));
                    let event: Value = serde_json::from_str(&line).unwrap_or_default();
                    let is_ours = is_for_operators || event["serves"] != "operations";
                    if event["message"] == "listening" && is_ours {
                        tell.send_replace(event["address"].as_str().map(str::to_owned));
                    }
                }
            });
            Some(Running(child, reader))
        });
        let running = running.await;
        let heard = in_time("it listens", address.wait_for(Option::is_some)).await;
        let heard = heard.map(|address| address.clone());
        let Ok(Some(address)) = heard else {
            panic!("it ended before it listened:\n{}", log.lock().unwrap());
        };
        Self { running, api: Api::new(format!("http://{address}")), log }
    }

    /// What serves operators, where they have an address of their own.
    pub async fn operations(&self) -> Api {
        let address = eventually("it listens for operators", async || {
            let event =
                self.events("listening").into_iter().find(|it| it["serves"] == "operations");
            event.map(|event| event["address"].as_str().unwrap().to_owned())
        });
        Api::new(format!("http://{}", address.await))
    }

    /// And an account is open.
    pub async fn account(self, customer: &str, asset_value: &str) -> Self {
        self.api.open_account(customer, asset_value).await;
        self
    }

    /// Waits until everything accepted is settled, and audits.
    pub async fn settled(&self, stores: &Stores) {
        self.api.until_settled().await;
        stores.audit().await;
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        let Running(child, _) = self.running.as_ref().unwrap();
        child.id().expect("it ran until now")
    }

    /// `kill -9`; returns when it is gone.
    pub async fn kill(mut self) {
        let Running(mut child, _) = self.running.take().unwrap();
        child.kill().await.expect("it ran until now");
    }

    /// SIGTERM; returns when it has ended, with exit status 0.
    pub async fn stop(mut self) {
        self.running.take().unwrap().stop(Arc::clone(&self.log)).await;
    }

    /// Sends it a signal, such as `STOP`.
    pub async fn signal(&self, name: &str) {
        signal(self.pid(), name).await;
    }

    /// Waits until it ends by itself; says with which status.
    pub async fn ended(&mut self) -> Option<i32> {
        self.running.take().unwrap().ended().await
    }

    /// Fails if it has ended.
    pub fn must_live(&mut self) {
        let Running(child, _) = self.running.as_mut().unwrap();
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended by itself:\n{}", self.log());
    }

    /// The events it logged with this message.
    pub fn events(&self, message: &str) -> Vec<Value> {
        let events = self.log();
        let events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["message"] == message).collect()
    }

    /// Waits until it has logged something that holds this text.
    pub async fn until_logged(&self, text: &str) {
        until(&format!("it logs: {text}"), async || self.log().contains(text)).await;
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("a process of the failed test logged:\n{}", self.log());
        }
        if let Some(running) = self.running.take() {
            end(running.stop(Arc::clone(&self.log)));
        }
    }
}

impl Running {
    async fn stop(self, log: Arc<Mutex<String>>) {
        signal(self.0.id().expect("it ran until now"), "TERM").await;
        let status = self.ended().await;
        assert_eq!(status, Some(0), "{}", log.lock().unwrap());
    }

    async fn ended(mut self) -> Option<i32> {
        let status = in_time("it ends by itself", self.0.wait()).await.unwrap();
        while self.1.join_next().await.is_some() {}
        status.code()
    }
}

pub async fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await;
    assert!(sent.unwrap().success(), "kill -{name}");
}
