//! What the console works with: the gateway, and the poll for live figures.

use super::live::Live;
use crate::http::App;

pub(super) struct Console {
    pub(super) app: App,
    pub(super) live: Live,
}

impl Console {
    pub(super) fn new(app: App) -> Self {
        Self { app, live: Live::default() }
    }

    /// Keeps figures live until the process stops.
    pub(super) async fn keep_looking(&self) {
        let looking = self.live.run(&self.app.gateway.operations);
        self.app.stop.run_until_cancelled(looking).await;
    }
}
