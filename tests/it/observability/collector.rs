//! Proves that what the collector is told fits together, and fits what it asks: its pipelines, and
//! the addresses, disks and passwords that compose.yaml and nginx have for it. Reads files; whether
//! the collector takes its configuration, only the collector knows.

use std::collections::BTreeSet;

use serde_json::Value;

use super::sources::{RULES, read, yaml};

fn names(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_part_is_defined_and_used_and_services_have_pipelines_of_their_own() {
    let collector = yaml("otel-collector.yaml");
    let pipelines = collector["service"]["pipelines"].as_object().unwrap();
    for kind in ["receivers", "processors", "exporters"] {
        let defined: BTreeSet<String> =
            collector[kind].as_object().unwrap().keys().cloned().collect();
        let used = pipelines.values().flat_map(|pipeline| names(&pipeline[kind])).collect();
        assert_eq!(defined, used, "{kind}");
    }
    for (name, pipeline) in pipelines {
        let receivers = names(&pipeline["receivers"]);
        assert_eq!(
            receivers.contains("otlp"),
            receivers.len() == 1 && !name.contains('/'),
            "{name}"
        );
        assert_eq!(pipeline["processors"][0], "memory_limiter", "{name}");
    }
}

#[test]
fn the_collector_asks_what_is_there() {
    let collector = yaml("otel-collector.yaml");
    let receivers = &collector["receivers"];
    let compose = yaml("compose.yaml");
    let service = &compose["services"]["otel-collector"];
    let networks = names(&service["networks"]);
    assert!(["front", "back"].iter().all(|one| networks.contains(*one)), "{networks:?}");

    let probe = receivers["httpcheck"]["targets"][0]["endpoints"][0].as_str().unwrap();
    assert!(read(RULES).contains(&format!("http_url=\"{probe}\"")), "no rule looks at {probe}");
    let status = receivers["nginx"]["endpoint"].as_str().unwrap();
    let (port, path) = status.strip_prefix("http://nginx:").unwrap().split_once('/').unwrap();
    let nginx = read("nginx/nginx.conf");
    assert!(nginx.contains(&format!("listen {port};")));
    assert!(nginx.contains(&format!("location = /{path} {{ stub_status; }}")));
    let published = compose["services"]["nginx"]["ports"].to_string();
    assert!(!published.contains(port), "{published}");

    // Disks of both stores, and no way to write to them.
    let filter = &receivers["hostmetrics"]["scrapers"]["filesystem"]["include_mount_points"];
    let below = filter["mount_points"][0].as_str().unwrap().trim_start_matches('^');
    let mounts = names(&service["volumes"]);
    for store in ["redis", "postgres"] {
        let of_store = mounts.iter().find(|mount| mount.starts_with(&format!("{store}-data:")));
        let (_, inside) = of_store.unwrap().split_once(':').unwrap();
        assert!(inside.starts_with(below) && inside.ends_with(":ro"), "{inside}");
    }

    // No password stands in it; each is the one that the stores are given.
    let text = read("otel-collector.yaml");
    let passwords = text.matches("password").count();
    assert_eq!(
        text.matches("${env:MONITOR_PASSWORD}").count(),
        passwords,
        "a password in the open"
    );
    assert!(service["environment"]["MONITOR_PASSWORD"].is_string());
}
