//! Looks again and again until Ctrl-C, and shows each look over the one before.
//! Never ends because a store is away: it comes back, and whoever watches wants
//! to see when.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Args;
use console::{Term, measure_text_width};
use humantime::parse_duration;
use serde::Serialize;
use serde_json::json;
use tokio::time::sleep;

/// Goes to the top of a terminal, and clears what is left below the answer.
const TOP: &str = "\x1b[H";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_LINE: &str = "\x1b[K\n";
/// Looks cost the stores something.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Look again and again until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Pause between two looks.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub interval: Duration,
    /// Print a JSON document instead of a table; with --watch, one a line.
    #[arg(long)]
    pub json: bool,
}

impl WatchArgs {
    /// A look as JSON: in one line where others follow.
    pub(super) fn document(&self, look: &impl Serialize) -> serde_json::Result<String> {
        if self.watch { serde_json::to_string(look) } else { serde_json::to_string_pretty(look) }
    }
}

/// A look, as it is shown.
pub(super) struct Shown {
    pub(super) document: String,
    pub(super) page: String,
    /// What the command ends with when it looks once.
    pub(super) status: u8,
}

/// Shows a look: once, or with `--watch` until Ctrl-C, each over the one before on a
/// terminal and below it elsewhere.
pub(super) async fn show(
    args: &WatchArgs,
    mut look: impl AsyncFnMut() -> anyhow::Result<Shown>,
) -> anyhow::Result<ExitCode> {
    ensure!(args.interval >= INTERVAL_MIN, "--interval must be at least 100ms");
    if args.watch {
        return tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("could not wait for Ctrl-C")?;
                Ok(ExitCode::SUCCESS)
            }
            failed = watch(args, look) => failed,
        };
    }
    let Shown { document, page, status } = look().await?;
    let text = if args.json { document } else { page };
    write(&format!("{}\n", text.trim_end()))?;
    Ok(ExitCode::from(status))
}

/// What a look fails with is shown in its place.
async fn watch(
    args: &WatchArgs,
    mut look: impl AsyncFnMut() -> anyhow::Result<Shown>,
) -> anyhow::Result<ExitCode> {
    let redraws = !args.json && std::io::stdout().is_terminal();
    loop {
        let text = match look().await {
            Ok(Shown { document, .. }) if args.json => document,
            Ok(Shown { page, .. }) => page,
            Err(error) if args.json => json!({ "error": format!("{error:#}") }).to_string(),
            Err(error) => format!("{}; looking again", super::failure(&error)),
        };
        write(&match redraws {
            true => redrawn(&fitted(&text, screen())),
            false => format!("{}\n", text.trim_end()),
        })?;
        sleep(args.interval).await;
    }
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    written.context("could not write the answer")
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The size of the terminal that standard output is, if it is one and says so.
pub(super) fn screen() -> Option<Screen> {
    let (rows, columns) = Term::stdout().size_checked()?;
    let screen = Screen { rows: rows.into(), columns: columns.into() };
    (screen.rows > 0 && screen.columns > 0).then_some(screen)
}

/// As much of the text as the screen has room for, and how much more there is: a
/// longer one would scroll, and each look would be written below the one before.
fn fitted(text: &str, screen: Option<Screen>) -> String {
    let Some(Screen { rows, columns }) = screen else { return text.to_owned() };
    // The cursor waits on a row of its own.
    let room = rows.saturating_sub(1);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let heights: Vec<usize> =
        lines.iter().map(|line| measure_text_width(line).div_ceil(columns).max(1)).collect();
    if heights.iter().sum::<usize>() <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let fits = |height: &&usize| {
        let fits = **height <= left;
        left = left.saturating_sub(**height);
        fits
    };
    let kept = heights.iter().take_while(fits).count();
    let more = format!("… and {} more lines", lines.len() - kept);
    [&lines[..kept], &[more.as_str()]].concat().join("\n")
}

/// Over what is on the terminal, line by line, so that nothing flickers.
fn redrawn(text: &str) -> String {
    let lines: String = text.lines().flat_map(|line| [line, CLEAR_LINE]).collect();
    [TOP, &lines, CLEAR_BELOW].concat()
}

#[cfg(test)]
mod tests {
    use super::{Screen, fitted, redrawn};

    #[test]
    fn a_redrawn_page_leaves_nothing_of_the_one_before() {
        assert_eq!(redrawn("a\nb"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }

    #[test]
    fn a_page_is_never_longer_than_the_screen() {
        let screen = |rows, columns| Some(Screen { rows, columns });
        assert_eq!(fitted("a\nb\nc", None), "a\nb\nc");
        assert_eq!(fitted("a\nb\nc", screen(4, 80)), "a\nb\nc");
        assert_eq!(fitted("a\nb\nc", screen(3, 80)), "a\n… and 2 more lines");
        // A line that is wider takes more than one row.
        assert_eq!(fitted("aaaaaaaaaaaa\nb\nc", screen(4, 10)), "aaaaaaaaaaaa\n… and 2 more lines");
        assert_eq!(fitted("a\nb", screen(1, 80)), "… and 2 more lines");
        // Colours take no room.
        assert_eq!(fitted("\x1b[1;31mred\x1b[0m\nb", screen(3, 3)), "\x1b[1;31mred\x1b[0m\nb");
    }
}
