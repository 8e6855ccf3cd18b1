//! What is known of each source beside its tokens: the keys that it signs requests with, the secrets
//! of its webhooks, how these name a payment's parts, and the networks that it sends from. From a
//! file that may change. Never reads a body.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Value, json};
use tracing::info;

use super::{
    GoodSignature, KeySet, Scope, Scopes, SignatureRefused, SignedParts, webhook::WebhookKey,
};
use crate::domain::{PaymentStatus, Source};

/// What a signed request may do unless the file says otherwise.
const SCOPES: [&str; 2] = ["payments:write", "payments:read"];
const SOURCES_MAX: usize = 1_000;
/// Beside the present one, the next one.
const SECRETS_MAX: usize = 2;

#[derive(Debug)]
pub struct SourceRules {
    pub source: Source,
    networks: Option<Vec<IpNet>>,
    keys: Option<KeySet>,
    /// What a signed request may do.
    pub scopes: Scopes,
    /// None where it sends no webhooks.
    pub webhooks: Option<WebhookRules>,
}

impl SourceRules {
    /// Whether it may send from there.
    pub fn admits(&self, address: std::net::IpAddr) -> bool {
        let networks = self.networks.as_ref();
        networks.is_none_or(|networks| networks.iter().any(|one| one.contains(&address)))
    }
}

#[derive(Debug)]
pub struct WebhookRules {
    pub keys: Vec<WebhookKey>,
    pub mapping: Mapping,
}

/// How a source writes payments.
#[derive(Debug)]
pub struct Mapping {
    /// Steps to the part of this name, as in a JSON Pointer.
    pub fields: Vec<(&'static str, Vec<String>)>,
    statuses: Option<HashMap<String, PaymentStatus>>,
    /// Whether an amount of 150 is 1.50.
    pub amounts_in_minor_units: bool,
}

impl Mapping {
    const FIELDS: [&str; 6] = [
        "transaction_reference",
        "customer_id",
        "payment_status",
        "transaction_amount",
        "transaction_date",
        "currency",
    ];

    pub fn status(&self, text: &str) -> Result<PaymentStatus, crate::domain::Invalid> {
        match &self.statuses {
            Some(statuses) => statuses.get(text).copied().ok_or(UNMAPPED),
            None => PaymentStatus::parse(text),
        }
    }
}

const UNMAPPED: crate::domain::Invalid = crate::domain::Invalid::new(
    "unknown_status",
    "must be one of the statuses that the settings of this source name",
);

/// Members of an object, in their order. None is named twice.
struct Members<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(reading: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<T>, A::Error> {
                let mut members: Vec<(String, T)> = Vec::new();
                while let Some((name, member)) = map.next_entry()? {
                    if members.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom("a name is given twice"));
                    }
                    members.push((name, member));
                }
                Ok(Members(members))
            }
        }
        reading.deserialize_map(Object(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceText {
    networks: Option<Vec<String>>,
    keys: Option<Vec<Value>>,
    scopes: Option<Vec<String>>,
    webhooks: Option<WebhooksText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhooksText {
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    public_keys: Vec<String>,
    fields: Option<Members<String>>,
    statuses: Option<Members<String>>,
    #[serde(default)]
    amounts_in_minor_units: bool,
}

/// The sources of the file that was read last.
#[derive(Debug, Default)]
pub struct Sources {
    known: Mutex<Arc<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<String, Arc<SourceRules>>,
    by_key: HashMap<String, Arc<SourceRules>>,
}

impl Sources {
    pub fn find(&self, name: &str) -> Option<Arc<SourceRules>> {
        self.known().by_name.get(name).cloned()
    }

    /// Whose signed request this is.
    pub fn check(
        &self,
        request: &SignedParts<'_>,
        now: DateTime<Utc>,
    ) -> Result<(Arc<SourceRules>, GoodSignature), SignatureRefused> {
        let known = Arc::clone(&self.known());
        let of = |key: &str| known.by_key.get(key);
        let good = request.check(|key| of(key)?.keys.as_ref()?.find(key), now)?;
        let rules = of(&good.key).ok_or(SignatureRefused::BadSignature)?;
        Ok((Arc::clone(rules), good))
    }

    /// From now on.
    ///
    /// # Errors
    ///
    /// A sentence that says which source is wrong, and never what its secret is. Nothing has
    /// changed.
    pub fn replace(&self, text: &str) -> Result<(), String> {
        let sources = parse(text)?;
        info!(sources = sources.by_name.len(), "using the sources");
        *self.known() = Arc::new(sources);
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Arc<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(text: &str) -> Result<Known, String> {
    // A message of serde's could quote a secret; its place cannot.
    let place = |error: &serde_json::Error| match error.is_data() {
        true => "has a field that is unknown, missing, given twice or of another type",
        false => "is not JSON",
    };
    let Members(sources): Members<SourceText> = serde_json::from_str(text).map_err(|error| {
        format!("it {} at line {}, column {}", place(&error), error.line(), error.column())
    })?;
    if sources.len() > SOURCES_MAX {
        return Err(format!("it has {} sources, more than {SOURCES_MAX}", sources.len()));
    }
    let mut known = Known::default();
    let mut secrets = HashSet::new();
    for (number, (name, text)) in (1..).zip(sources) {
        // What is no name may be a secret that stands in the wrong place.
        let source = Source::parse(&name)
            .map_err(|bad| format!("the name of source {number} {}", bad.reason))?;
        let wrong = |what: String| format!("source {name}: {what}");
        let networks = text.networks.map(|all| all.iter().map(|one| network(one)).collect());
        let networks = networks.transpose().map_err(wrong)?;
        let keys = text.keys.map(|keys| KeySet::parse(&json!({ "keys": keys }).to_string()));
        let keys = keys.transpose().map_err(|bad| wrong(format!("keys: {bad}")))?;
        let scopes = text.scopes.unwrap_or_else(|| SCOPES.map(str::to_owned).into());
        let scopes = scopes.iter().map(|name| name.parse::<Scope>()).collect::<Result<_, _>>();
        let scopes: Scopes = scopes.map_err(|bad| wrong(format!("a scope {bad}")))?;
        if scopes.has(Scope::OperationsRead) || scopes.has(Scope::OperationsWrite) {
            return Err(wrong("no signature opens the operators' API".to_owned()));
        }
        let webhooks = text.webhooks.map(webhook_rules).transpose().map_err(wrong)?;
        let rules = SourceRules { source, networks, keys, scopes, webhooks };
        let rules = Arc::new(rules);
        for key in rules.keys.iter().flat_map(KeySet::kids) {
            if known.by_key.insert(key.to_owned(), Arc::clone(&rules)).is_some() {
                return Err(wrong(format!("another source has the key {key}, too")));
            }
        }
        // What is signed names no source: it must be of one.
        for secret in rules.webhooks.iter().flat_map(|webhooks| &webhooks.keys) {
            if !secrets.insert(secret.likeness.as_ref().to_vec()) {
                return Err(wrong("a secret or public key is used twice".to_owned()));
            }
        }
        known.by_name.insert(name, rules);
    }
    Ok(known)
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| format!("{text} is no network, such as 192.0.2.0/24 or 192.0.2.7/32"))
}

fn webhook_rules(text: WebhooksText) -> Result<WebhookRules, String> {
    let WebhooksText { secrets, public_keys, fields, statuses, amounts_in_minor_units } = text;
    if !(1..=SECRETS_MAX).contains(&(secrets.len() + public_keys.len())) {
        let what = "one of `secrets` or `public_keys`, or two while it is being changed";
        return Err(format!("webhooks need {what}"));
    }
    let secrets: Option<Vec<_>> = secrets.iter().map(|one| WebhookKey::secret(one)).collect();
    let mut keys = secrets.ok_or("a secret must be whsec_ and 24 to 64 bytes in base64")?;
    let public: Option<Vec<_>> = public_keys.iter().map(|one| WebhookKey::public(one)).collect();
    keys.extend(public.ok_or(
        "a public key must be whpk_ and the 32 bytes of Ed25519 in base64, and not of small order: \
         anybody could sign for that",
    )?);
    let fields = fields.map_or_else(Vec::new, |Members(fields)| fields);
    if let Some((other, _)) = fields.iter().find(|(name, _)| !Mapping::FIELDS.contains(&&**name)) {
        let known = Mapping::FIELDS.join(", ");
        return Err(format!("there is no field {other}; fields are {known}"));
    }
    let steps = |name: &'static str| {
        let Some((_, pointer)) = fields.iter().find(|(named, _)| named == name) else {
            return Ok((name, vec![name.to_owned()]));
        };
        // After `~` stands what it is for (RFC 6901).
        let is_escaped =
            |steps: &&str| steps.split('~').skip(1).all(|step| step.starts_with(['0', '1']));
        let steps = pointer.strip_prefix('/').filter(is_escaped).ok_or_else(|| {
            format!("{name} must be a JSON Pointer, such as /data/reference, and not {pointer}")
        })?;
        let step = |step: &str| step.replace("~1", "/").replace("~0", "~");
        Ok((name, steps.split('/').map(step).collect()))
    };
    let fields = Mapping::FIELDS.into_iter().map(steps).collect::<Result<_, String>>()?;
    let status = |(theirs, ours): (String, String)| match PaymentStatus::parse(&ours) {
        Ok(ours) => Ok((theirs, ours)),
        Err(bad) => Err(format!("the status of {theirs} {}", bad.reason)),
    };
    let statuses =
        statuses.map(|Members(all)| all.into_iter().map(status).collect::<Result<_, String>>());
    let mapping = Mapping { fields, statuses: statuses.transpose()?, amounts_in_minor_units };
    Ok(WebhookRules { keys, mapping })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_file_of_sources_is_taken_as_a_whole_or_not_at_all() {
        let sources = Sources::default();
        let good = format!(
            r#"{{"bank-a": {{"networks": ["192.0.2.0/24"], "webhooks": {{"secrets": ["{SECRET}"],
                "fields": {{"customer_id": "/data/who~1is/0"}}, "statuses": {{"ok": "COMPLETE"}}}}}},
               "bank-b": {{}}}}"#
        );
        sources.replace(&good).unwrap();
        let a = sources.find("bank-a").unwrap();
        assert!(a.admits([192, 0, 2, 7].into()) && !a.admits([192, 0, 3, 7].into()));
        let mapping = &a.webhooks.as_ref().unwrap().mapping;
        assert_eq!(
            mapping.fields[1],
            ("customer_id", ["data", "who/is", "0"].map(Into::into).into())
        );
        assert_eq!(mapping.fields[0].1, ["transaction_reference"]);
        assert_eq!(mapping.status("ok"), Ok(PaymentStatus::Complete));
        assert_eq!(mapping.status("COMPLETE").map_err(|bad| bad.code), Err("unknown_status"));
        let b = sources.find("bank-b").unwrap();
        assert!(b.webhooks.is_none() && b.admits([6, 6, 6, 6].into()));
        let twice = format!(r#""bank-b": {{"webhooks": {{"secrets": ["{SECRET}"]}}}}"#);
        let short = "whsec_c2hvcnQ=";
        for (wrong, refusal) in [
            ("{", "it is not JSON at line 1"),
            (r#"{"a": {"webhook": {}}}"#, "it has a field that is unknown"),
            (r#"{"A": {}}"#, "the name of source 1 must have lower-case"),
            (r#"{"a": {}, "a": {}}"#, "it has a field that is unknown, missing, given twice"),
            (r#"{"a": {"networks": ["192.0.2.7"]}}"#, "source a: 192.0.2.7 is no network"),
            (r#"{"a": {"scopes": ["operations:read"]}}"#, "source a: no signature opens"),
            (&good.replace(r#""bank-b": {}"#, &twice), "source bank-b: a secret or public"),
            // HMAC fills the shorter one up with zeros.
            (
                &good.replace(
                    r#""bank-b": {}"#,
                    &twice.replace(SECRET, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAA"),
                ),
                "source bank-b: a secret or public",
            ),
            (r#"{"a": {"webhooks": {"secrets": []}}}"#, "source a: webhooks need one of"),
            (r#"{"a": {"webhooks": {"public_keys": ["whpk_AA"]}}}"#, "source a: a public key must"),
            (
                &good.replace("who~1is", "who~2is"),
                "source bank-a: customer_id must be a JSON Pointer",
            ),
            (&good.replace("is/0", "is~"), "source bank-a: customer_id must be a JSON Pointer"),
            (
                &format!(r#"{{"a": {{"webhooks": {{"secrets": ["{short}"]}}}}}}"#),
                "source a: a secret",
            ),
            (&good.replace("customer_id", "customer"), "source bank-a: there is no field customer"),
            (&good.replace("/data", "data"), "source bank-a: customer_id must be a JSON Pointer"),
            (&good.replace("COMPLETE", "DONE"), "source bank-a: the status of ok must be"),
        ] {
            let refused = sources.replace(wrong).unwrap_err();
            assert!(refused.starts_with(refusal), "{refused}");
            assert!(!refused.contains(short) && !refused.contains(SECRET), "{refused}");
        }
        assert!(sources.find("bank-a").is_some(), "nothing was changed");
    }
}
