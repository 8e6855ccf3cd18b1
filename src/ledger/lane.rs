//! The connections of a worker's lanes to the ledger. Never hold their fence rows longer
//! than a batch may take, and never wait for an answer that does not come.

use std::time::Duration;

use super::{
    ACQUIRE_TIMEOUT, Error, address::Address, in_time, lock_wait, read_by_key, session::Session,
};

/// A lane waits for this many of its batches' deadlines: PostgreSQL ends a statement after one,
/// and its answer should come first.
const ANSWER_WAIT: u32 = 2;

/// The half of the ledger that a worker is handed; connects lanes.
#[derive(Clone)]
pub struct Writer {
    address: Address,
    worker: String,
    patience: Duration,
}

impl Writer {
    pub(super) fn new(address: &Address, worker: &str, batch_deadline: Duration) -> Self {
        let deadline = batch_deadline.as_millis();
        let address = address
            .with(|options| options.application_name(&format!("paystream {worker}")))
            .set([
                // A frozen worker must not hold its fence rows,
                ("statement_timeout", deadline.to_string()),
                lock_wait(batch_deadline),
                ("idle_in_transaction_session_timeout", deadline.to_string()),
            ])
            .set_of_session([
                // nor one that vanished: its session ends in 10 s.
                ("tcp_keepalives_idle", "4".to_owned()),
                ("tcp_keepalives_interval", "2".to_owned()),
                ("tcp_keepalives_count", "3".to_owned()),
                ("tcp_user_timeout", "10000".to_owned()),
            ])
            .set(read_by_key());
        let patience = batch_deadline * ANSWER_WAIT;
        Self { address, worker: worker.to_owned(), patience }
    }

    pub async fn lane(&self) -> Result<LaneWriter, Error> {
        let connection = in_time(ACQUIRE_TIMEOUT, self.address.connect()).await?;
        let Self { worker, patience, .. } = self;
        Ok(LaneWriter { connection, worker: worker.clone(), patience: *patience })
    }
}

pub struct LaneWriter {
    pub(super) connection: Session,
    pub(super) worker: String,
    /// How long a question outside a batch, or a transaction of a few, may take.
    pub(super) patience: Duration,
}
