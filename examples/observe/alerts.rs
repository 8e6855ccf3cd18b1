//! What Alertmanager says of the alerts that it has. Judges nothing.

use std::collections::BTreeSet;

use super::monitoring::Monitoring;

/// Names of alerts, by whether somebody is told.
#[derive(Debug, Default, PartialEq)]
pub struct Alerts {
    pub told: BTreeSet<String>,
    /// Suppressed by another one.
    pub inhibited: BTreeSet<String>,
}

impl Alerts {
    pub async fn now(monitoring: &Monitoring) -> anyhow::Result<Self> {
        let mut all = Self::default();
        let said = monitoring.alertmanager.get("/api/v2/alerts").await?;
        for alert in said.as_array().into_iter().flatten() {
            let name = alert["labels"]["alertname"].as_str().unwrap_or_default().to_owned();
            let by = alert["status"]["inhibitedBy"].as_array();
            if by.is_some_and(|by| !by.is_empty()) {
                all.inhibited.insert(name);
            } else {
                all.told.insert(name);
            }
        }
        // Of several with one name, one that is told counts.
        all.inhibited.retain(|name| !all.told.contains(name));
        Ok(all)
    }
}
