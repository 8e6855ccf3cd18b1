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
pub(super) struct Progress {
    /// Shown on a terminal only.
    bar: ProgressBar,
    /// When the last line was written; nothing where none is.
    told: Option<Instant>,
    is_silent: bool,
}

impl Progress {
    pub(super) fn new(is_silent: bool) -> Self {
        let is_live = !is_silent && std::io::stderr().is_terminal();
        let bar = if is_live { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, told: (!is_silent && !is_live).then(Instant::now), is_silent }
    }

    /// Tells how far things are, if it is time to.
    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        match &mut self.told {
            Some(told) if told.elapsed() >= LINE_EVERY => {
                *told = Instant::now();
                eprintln!("{}", text());
            }
            None if !self.is_silent => {
                self.bar.set_message(text());
                self.bar.tick();
            }
            Some(_) | None => {}
        }
    }

    /// Says a thing once, on a line of its own.
    pub(super) fn say(&self, text: &str) {
        if !self.is_silent {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }

    /// Takes the live line away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
