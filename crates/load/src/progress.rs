//! The line that tells how far the run is, on standard error: live on a terminal, every five
//! seconds elsewhere, and not at all beside JSON. Never writes to standard output.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where progress is told.
#[derive(Debug)]
pub(super) enum Progress {
    Live(ProgressBar),
    Lines { told: Instant },
    Silent,
}

impl Progress {
    pub(super) fn new(json: bool) -> Self {
        if json {
            return Self::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { told: Instant::now() };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self::Live(bar)
    }

    /// Tells how far things are, if it is time to.
    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        match self {
            Self::Live(bar) => {
                bar.set_message(text());
                bar.tick();
            }
            Self::Lines { told } if told.elapsed() >= LINE_EVERY => {
                *told = Instant::now();
                eprintln!("{}", text());
            }
            Self::Lines { .. } | Self::Silent => {}
        }
    }

    /// Says a thing once, on a line of its own.
    pub(super) fn say(&self, text: &str) {
        match self {
            Self::Live(bar) => bar.suspend(|| eprintln!("{text}")),
            Self::Lines { .. } => eprintln!("{text}"),
            Self::Silent => {}
        }
    }

    /// Takes the live line away.
    pub(super) fn finish(&self) {
        match self {
            Self::Live(bar) => bar.finish_and_clear(),
            Self::Lines { .. } | Self::Silent => {}
        }
    }
}
