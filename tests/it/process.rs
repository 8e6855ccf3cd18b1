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

use crate::harness::{Api, Stores, eventually, in_time};

/// A running `paystream serve`. Dropped, it is killed.
pub struct Process {
    child: Child,
    pub api: Api,
    log: Arc<Mutex<String>>,
    reader: JoinSet<()>,
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
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
        .envs(settings.iter().copied());
    command
}

/// An operator's command on these stores, with its settings in the environment.
pub fn operate(stores: &Stores, arguments: &[&str]) -> Command {
    let mut command = paystream();
    command
        .args(arguments)
        .env("PAYSTREAM_REDIS_URL", &stores.redis_url)
        .env("PAYSTREAM_DATABASE_URL", &stores.database_url)
        .env("PAYSTREAM_KEY_PREFIX", &stores.key_prefix);
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
    pub async fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let (tell, mut address) = watch::channel(None);
        let mut reader = JoinSet::new();
        let kept = Arc::clone(&log);
        reader.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "listening" {
                    tell.send_replace(event["address"].as_str().map(str::to_owned));
                }
            }
        });
        let heard = in_time("it listens", address.wait_for(Option::is_some)).await;
        let heard = heard.map(|address| address.clone());
        let Ok(Some(address)) = heard else {
            panic!("it ended before it listened:\n{}", log.lock().unwrap());
        };
        let process = Self { child, api: Api::new(format!("http://{address}")), log, reader };
        process.api.until_ready().await;
        process
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it ran until now")
    }

    /// `kill -9`; returns when it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it ran until now");
    }

    /// SIGTERM; returns when it has ended, with exit status 0.
    pub async fn stop(mut self) {
        self.signal("TERM").await;
        let status = self.ended().await;
        assert_eq!(status, Some(0), "{}", self.log());
    }

    /// Sends it a signal, such as `STOP`.
    pub async fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().await;
        assert!(sent.unwrap().success(), "kill -{name}");
    }

    /// Waits until it ends by itself; says with which status.
    pub async fn ended(&mut self) -> Option<i32> {
        let status = in_time("it ends by itself", self.child.wait()).await.unwrap();
        while self.reader.join_next().await.is_some() {}
        status.code()
    }

    /// Fails if it has ended.
    pub fn must_live(&mut self) {
        let ended = self.child.try_wait().unwrap();
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
        let logged = async || self.log().contains(text).then_some(());
        eventually(&format!("it logs: {text}"), logged).await;
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}
