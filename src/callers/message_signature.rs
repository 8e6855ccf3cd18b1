//! Checks signed requests after HTTP Message Signatures (RFC 9421): which parts of the request a
//! signature covers, when it was made, and by whose key. Never reads a body: its digest (RFC 9530)
//! is one of the parts.

use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use sfv::{BareItem, Dictionary, InnerList, ListEntry, ListSerializer, Parser};
use sha2::{Digest, Sha256};

use super::{algorithms, key_set::VerificationKey};

/// How old, or how far ahead of our clock, a signature may be.
const AGE_MAX: TimeDelta = TimeDelta::minutes(5);
const COMPONENTS_MAX: usize = 20;
/// It is kept with each payment.
const BASE_BYTES_MAX: usize = 4 * 1024;
const CONTENT_DIGEST: &str = "content-digest";

/// The parts of a request that a signature may cover.
pub struct SignedParts<'a> {
    pub method: &'a str,
    pub authority: &'a str,
    /// Names of this deployment, to which a request must be sent; none where any name is good.
    pub hosts: &'a [String],
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// The lines of a header, joined by `, `.
    pub header: &'a dyn Fn(&str) -> Option<String>,
    /// Whether it has a body, which must be covered then.
    pub has_body: bool,
}

/// A signature that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoodSignature {
    pub key: String,
    /// What was signed.
    pub base: String,
    /// As the request has it.
    pub signature: String,
    /// The SHA-256 that the body must have.
    pub body_digest: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefused {
    #[error("{0} cannot be read as a structured field")]
    Malformed(&'static str),
    #[error("one signature must be sent, with the same label in Signature-Input and Signature")]
    Label,
    #[error("the signature must cover {0}")]
    Uncovered(&'static str),
    #[error(
        "the signature covers a part that is not there or not supported: take header fields, \
         @method, @authority, @path and @query, without parameters"
    )]
    Component,
    #[error("what the signature covers is longer than 4 KiB")]
    Long,
    #[error(
        "the request was sent and signed to a host that is not one of PAYSTREAM_PUBLIC_HOSTS here"
    )]
    Host,
    #[error("the signature must name its key (keyid)")]
    NoKey,
    #[error("the signature's `created` must be within 5 minutes of now, and `expires` not past")]
    Stale,
    #[error("the signature's `alg` is not that of its key")]
    Algorithm,
    #[error("content-digest must have sha-256")]
    Digest,
    #[error("the signature is not that of a key of ours over what it covers")]
    BadSignature,
}

impl SignedParts<'_> {
    /// Whose signature this is. `key` finds a key by its id.
    pub(super) fn check<'k>(
        &self,
        key: impl FnOnce(&str) -> Option<&'k VerificationKey>,
        now: DateTime<Utc>,
    ) -> Result<GoodSignature, SignatureRefused> {
        let dictionary = |name: &'static str| {
            let text = (self.header)(name).unwrap_or_default();
            let parsed = Parser::new(&text).parse::<Dictionary>();
            parsed.map_err(|_| SignatureRefused::Malformed(name))
        };
        let (inputs, signatures) = (dictionary("signature-input")?, dictionary("signature")?);
        let (Some((label, ListEntry::InnerList(input))), 1, 1) =
            (inputs.first(), inputs.len(), signatures.len())
        else {
            return Err(SignatureRefused::Label);
        };
        let Some(ListEntry::Item(signature)) = signatures.get(label) else {
            return Err(SignatureRefused::Label);
        };
        let signature = signature.bare_item.as_byte_sequence().ok_or(SignatureRefused::Label)?;
        let base = self.base(input)?;
        if !self.is_meant_for_us() {
            return Err(SignatureRefused::Host);
        }
        let named = |name: &str| {
            let mut parameters = input.params.iter();
            parameters.find(|(key, _)| key.as_str() == name).map(|(_, value)| value)
        };
        let text = |value: &BareItem| value.as_string().map(|text| text.as_str().to_owned());
        let key_id = named("keyid").and_then(text).ok_or(SignatureRefused::NoKey)?;
        let moment =
            |value: &BareItem| DateTime::from_timestamp(value.as_integer().map(i64::from)?, 0);
        let created = named("created").and_then(moment).ok_or(SignatureRefused::Stale)?;
        let is_past = named("expires").is_some_and(|end| moment(end).is_none_or(|end| end < now));
        if now.signed_duration_since(created).abs() > AGE_MAX || is_past {
            return Err(SignatureRefused::Stale);
        }
        let key = key(&key_id).ok_or(SignatureRefused::BadSignature)?;
        if let Some(named) = named("alg")
            && text(named).as_deref() != Some(algorithms::name_in_messages(key.algorithm))
        {
            return Err(SignatureRefused::Algorithm);
        }
        if !algorithms::verify_message((key.algorithm, &key.key), base.as_bytes(), signature) {
            return Err(SignatureRefused::BadSignature);
        }
        let body_digest = match self.has_body {
            true => Some(self.body_digest()?),
            false => None,
        };
        let signature = STANDARD.encode(signature);
        Ok(GoodSignature { key: key_id, base, signature, body_digest })
    }

    /// What was signed: a line for each part, and one for the signature's own parameters.
    fn base(&self, input: &InnerList) -> Result<String, SignatureRefused> {
        let mut base = String::new();
        let mut covered = Vec::new();
        for item in input.items.iter().take(COMPONENTS_MAX + 1) {
            let name = item.bare_item.as_string().filter(|_| item.params.is_empty());
            let name = name.ok_or(SignatureRefused::Component)?.as_str();
            let value = match name {
                "@method" => Some(self.method.to_owned()),
                "@authority" => self.host(),
                "@path" => Some(self.path.to_owned()),
                "@query" => Some(format!("?{}", self.query.unwrap_or_default())),
                _ if name.bytes().any(|byte| byte.is_ascii_uppercase()) => None,
                _ => (self.header)(name),
            };
            let value = value.ok_or(SignatureRefused::Component)?;
            if covered.len() == COMPONENTS_MAX || covered.contains(&name) {
                return Err(SignatureRefused::Component);
            }
            covered.push(name);
            // A `String` takes whatever is written.
            let _ = writeln!(base, "\"{name}\": {value}");
            if base.len() > BASE_BYTES_MAX {
                return Err(SignatureRefused::Long);
            }
        }
        let needed = [
            ("@method", true),
            ("@authority", true),
            ("@path", true),
            ("@query", self.query.is_some()),
            (CONTENT_DIGEST, self.has_body),
        ];
        for (name, is_needed) in needed {
            if is_needed && !covered.contains(&name) {
                return Err(SignatureRefused::Uncovered(name));
            }
        }
        let mut parameters = ListSerializer::new();
        let mut list = parameters.inner_list();
        list.items(&input.items);
        list.finish().parameters(&input.params);
        let parameters = parameters.finish().ok_or(SignatureRefused::Label)?;
        let _ = write!(base, "\"@signature-params\": {parameters}");
        Ok(base)
    }

    /// The name that it was sent to, as RFC 9421 writes it: without a port that goes without
    /// saying.
    fn host(&self) -> Option<String> {
        let host = without_usual_port(self.authority);
        (!host.is_empty() && !host.contains('@')).then(|| host.to_ascii_lowercase())
    }

    /// Whether it was sent to a name of this deployment, and not to one of another that has the
    /// same keys.
    fn is_meant_for_us(&self) -> bool {
        let host = without_usual_port(self.authority);
        let is_it = |ours: &String| without_usual_port(ours).eq_ignore_ascii_case(host);
        self.hosts.is_empty() || self.hosts.iter().any(is_it)
    }

    fn body_digest(&self) -> Result<[u8; 32], SignatureRefused> {
        let text = (self.header)(CONTENT_DIGEST).unwrap_or_default();
        let digests = Parser::new(&text).parse::<Dictionary>();
        let digests = digests.map_err(|_| SignatureRefused::Malformed(CONTENT_DIGEST))?;
        let found = digests.iter().find(|(name, _)| name.as_str() == "sha-256");
        let Some((_, ListEntry::Item(digest))) = found else {
            return Err(SignatureRefused::Digest);
        };
        let digest = digest.bare_item.as_byte_sequence().unwrap_or_default();
        digest.try_into().map_err(|_| SignatureRefused::Digest)
    }
}

fn without_usual_port(host: &str) -> &str {
    host.strip_suffix(":443").or_else(|| host.strip_suffix(":80")).unwrap_or(host)
}

impl GoodSignature {
    /// Whether this is the body that was signed.
    pub fn covers(&self, body: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(body).into();
        self.body_digest.is_none_or(|signed| signed == digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::{KeySet, SigningKey};

    const BODY: &[u8] = br#"{"hello": "world"}"#;
    const DIGEST: &str = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    const NOW: i64 = 1_790_000_000;

    struct Request {
        input: String,
        signature: String,
        query: Option<&'static str>,
        digest: Option<&'static str>,
    }

    fn sign(key: &SigningKey, covers: &str, parameters: &str) -> Request {
        let params = format!("({covers}){parameters}");
        let mut base = String::new();
        for name in covers.split_whitespace() {
            let value = match name.trim_matches('"') {
                "@method" => "POST",
                "@authority" => "pay.example",
                "@path" => "/api/v1/payments",
                "@query" => "?a=1",
                "content-digest" => DIGEST,
                _ => "?",
            };
            base += &format!("{name}: {value}\n");
        }
        base += &format!("\"@signature-params\": {params}");
        let signature = STANDARD.encode(key.sign(base.as_bytes()));
        let (input, signature) = (format!("a={params}"), format!("a=:{signature}:"));
        Request { input, signature, query: None, digest: Some(DIGEST) }
    }

    fn check(request: &Request, keys: &KeySet, at: i64) -> Result<GoodSignature, SignatureRefused> {
        check_at(&[], request, keys, at)
    }

    fn check_at(
        hosts: &[&str],
        request: &Request,
        keys: &KeySet,
        at: i64,
    ) -> Result<GoodSignature, SignatureRefused> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let header = |name: &str| match name {
            "signature-input" => Some(request.input.clone()),
            "signature" => Some(request.signature.clone()),
            "content-digest" => request.digest.map(str::to_owned),
            _ => None,
        };
        let parts = SignedParts {
            method: "POST",
            authority: "PAY.example",
            hosts: &hosts,
            path: "/api/v1/payments",
            query: request.query,
            header: &header,
            has_body: true,
        };
        parts.check(|id| keys.find(id), DateTime::from_timestamp(at, 0).unwrap())
    }

    #[test]
    fn a_signature_covers_what_it_must_and_nothing_is_taken_without_it() {
        let key = SigningKey::generate().unwrap();
        let keys = serde_json::json!({"keys": [key.public().to_jwk()]}).to_string();
        let keys = KeySet::parse(&keys).unwrap();
        let all = r#""@method" "@authority" "@path" "content-digest""#;
        let with = |covers: &str, parameters: &str| sign(&key, covers, parameters);
        let named = format!(";created={NOW};keyid=\"{}\"", key.kid());
        let good = check(&with(all, &named), &keys, NOW).unwrap();
        assert!(good.covers(BODY) && !good.covers(b"{}"));
        assert_eq!(good.key, key.kid());
        for parameters in [format!("{named};alg=\"ed25519\""), format!("{named};expires={NOW}")] {
            assert!(check(&with(all, &parameters), &keys, NOW).is_ok(), "{parameters}");
        }
        use SignatureRefused::{Algorithm, BadSignature, Component, NoKey, Stale, Uncovered};
        let expired = format!("{named};expires={}", NOW - 1);
        let other = named.replace(&key.kid(), "other");
        for (covers, parameters, refused) in [
            (all, &*expired, Stale),
            (all, &*named.replace("created", "made"), Stale),
            (all, &*named.replace("keyid", "key"), NoKey),
            (all, &*other, BadSignature),
            (all, &*format!("{named};alg=\"hmac-sha256\""), Algorithm),
            (&all.replace("\"@method\"", ""), &*named, Uncovered("@method")),
            (&all.replace("\"@path\"", ""), &*named, Uncovered("@path")),
            (&all.replace("\"content-digest\"", ""), &*named, Uncovered("content-digest")),
            (&format!("{all} \"@method\""), &*named, Component),
            (&format!("{all} \"x-none\""), &*named, Component),
            (&all.replace("\"@method\"", "\"@method\";req"), &*named, Component),
        ] {
            let refusal = check(&with(covers, parameters), &keys, NOW).err();
            assert_eq!(refusal, Some(refused), "{covers} {parameters}");
        }
        for at in [NOW - 301, NOW + 301] {
            assert_eq!(check(&with(all, &named), &keys, at), Err(Stale));
        }
        for (hosts, refused) in [
            (&["pay.example"][..], None),
            (&["other.example", "Pay.Example:443"], None),
            (&["pay.example:8443", "pay.example.org"], Some(SignatureRefused::Host)),
        ] {
            let checked = check_at(hosts, &with(all, &named), &keys, NOW);
            assert_eq!(checked.err(), refused, "{hosts:?}");
        }
        // What is not as it was signed.
        let queried = Request { query: Some("a=1"), ..with(all, &named) };
        assert_eq!(check(&queried, &keys, NOW), Err(Uncovered("@query")));
        let queried = Request { query: Some("a=2"), ..with(&format!("{all} \"@query\""), &named) };
        assert_eq!(check(&queried, &keys, NOW), Err(BadSignature));
        let digest = Some("sha-256=:AAAA:");
        assert_eq!(check(&Request { digest, ..with(all, &named) }, &keys, NOW), Err(BadSignature));
        let stripped = Request { input: String::new(), ..with(all, &named) };
        assert_eq!(check(&stripped, &keys, NOW), Err(SignatureRefused::Label));
        let twice = with(all, &named);
        let twice = Request { input: format!("b=();created=1, {}", twice.input), ..twice };
        assert_eq!(check(&twice, &keys, NOW), Err(SignatureRefused::Label));
    }
}
