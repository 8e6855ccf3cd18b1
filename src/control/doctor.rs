//! Looks at everything that can be wrong and says what to do about it. Never
//! changes anything, and goes on when a store is away: that is a finding.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Control, Finding, Severity};

/// Everything that was looked at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Checkup {
    /// The worst there is.
    pub severity: Severity,
    /// What was found, the worst first; what is as it should be comes last.
    pub findings: Vec<Finding>,
    /// When it was looked.
    pub as_of: DateTime<Utc>,
}

impl Control {
    /// Looks at everything.
    pub async fn checkup(&self) -> Checkup {
        let _ = (&self.losses, &self.groups, &self.parking, &self.reader);
        todo!()
    }
}
