//! `paystream sessions`: shows who is signed in to the console, and ends sessions. Never knows the
//! id that a browser has.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Output, Running, SignatureArgs, stores,
    table::{Column, cell, instant, known, listing},
};
use crate::{
    clock,
    config::LedgerConfig,
    domain::shown,
    ledger::{EndedSessions, Ledger, ListedSession},
    operations::counted,
};

#[derive(Clone, Debug, Subcommand)]
pub enum SessionsCommand {
    /// Show who is signed in to the console, since when and from where
    List {
        #[command(flatten)]
        ledger: LedgerConfig,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// End sessions of the console; exits 1 when there is none
    End {
        #[command(flatten)]
        ledger: LedgerConfig,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        signature: SignatureArgs,
        /// Print one JSON document instead of a sentence.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// Id of the session as the list shows it, or its first characters: 4 or more.
    #[arg(value_parser = id)]
    id: Option<String>,
    /// All sessions of this operator.
    #[arg(long)]
    operator: Option<String>,
    /// All sessions of everybody.
    #[arg(long)]
    all: bool,
}

fn id(text: &str) -> Result<String, String> {
    let is_id = text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = is_id.then(|| text.to_ascii_lowercase());
    id.ok_or_else(|| "must have 4 or more hexadecimal digits, as `sessions list` shows".to_owned())
}

impl SessionsCommand {
    pub(super) async fn run(self, running: Running) -> anyhow::Result<Output> {
        match self {
            Self::List { ledger, json } => {
                let ledger = open(ledger, running).await?;
                let sessions = ledger.sessions().list(clock::system()).await;
                let sessions = sessions.context("could not read the sessions")?;
                Ok((list(&sessions, json), ExitCode::SUCCESS))
            }
            Self::End { ledger, which: Which { id, operator, .. }, signature, json } => {
                let signature = signature.signed()?;
                let which = id.map(EndedSessions::Of).or(operator.map(EndedSessions::Operator));
                let which = which.unwrap_or(EndedSessions::All);
                let ledger = open(ledger, running).await?;
                let ended = ledger.sessions().end_by_hand(&which, &signature).await;
                let (ended, sentence) = match ended.context("could not end the sessions")? {
                    Ok(ended) => {
                        let what = counted(ended, "session ended", "sessions ended");
                        (ended, format!("{what}; gateways know within 3 seconds"))
                    }
                    Err(refusal) => (0, refusal.sentence().to_owned()),
                };
                let text = match json {
                    true => format!("{:#}\n", json!({ "ended": ended, "sentence": sentence })),
                    false => format!("{}\n", shown(&sentence)),
                };
                Ok((text, ExitCode::from(u8::from(ended == 0))))
            }
        }
    }
}

async fn open(config: LedgerConfig, running: Running) -> anyhow::Result<Ledger> {
    let ledger = stores::ledger_or(config, running)?;
    ledger.schema().check().await.context("could not read the database")?;
    Ok(ledger)
}

fn list(sessions: &[ListedSession], json: bool) -> String {
    let operator = |session: &ListedSession| {
        known(Some(&session.operator).filter(|operator| !operator.is_empty()))
    };
    let columns: &[Column<'_, ListedSession>] = &[
        ("id", &|session| cell(&session.id)),
        ("operator", &operator),
        ("from", &|session| cell(&session.address)),
        ("signed in", &|session| cell(instant(session.signed_in_at))),
        ("last used", &|session| cell(instant(session.last_used_at))),
        ("ends unless used", &|session| cell(instant(session.ends_at))),
        ("expires", &|session| cell(instant(session.expires_at))),
        ("access token", &|session| known(session.jti.as_deref())),
    ];
    listing(sessions, json, "nobody is signed in", columns)
}
