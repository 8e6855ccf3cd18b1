//! What is seen from time to time: how deep the streams are, who owns what, how
//! the process fares. Whoever looks puts down what it saw; it is exported for
//! as long as it is fresh. Never looks by itself.

use opentelemetry::metrics::Meter;

/// What was seen last.
pub(super) struct Gauges {}

impl Gauges {
    pub(super) fn register(_meter: &Meter) -> Self {
        Self {}
    }
}
