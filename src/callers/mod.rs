//! Who calls: bearer tokens of the kind of RFC 9068, the keys that they are checked with, and
//! the scopes that they carry; signed requests and webhooks; what is known of each source; and
//! signed checkpoints of the audit log. Never takes a token whose algorithm is not that of its
//! key, and knows neither HTTP nor what a scope opens.

mod algorithms;
mod checkpoint;
mod confirmation;
mod key_file;
mod key_set;
mod message_signature;
mod public_key;
mod refused;
mod scope;
mod session_id;
mod signing_key;
mod sources;
mod tokens;
mod webhook;

pub use confirmation::{Confirmation, Thumbprint};
pub use key_file::follow;
pub use key_set::{HeaderRefused, Kept, KeySet};
pub use message_signature::{GoodSignature, SignatureRefused, SignedParts};
pub use public_key::PublicKey;
pub use refused::{NAME, Refused, is_name};
pub use scope::{Scope, Scopes};
pub use session_id::SessionId;
pub use signing_key::{Grant, SigningKey};
pub use sources::{Mapping, SourceRules, Sources};
pub use tokens::{Caller, Credential, TokenRules, Tokens};
pub use webhook::{Webhook, WebhookRefused};
