//! Who calls, for whom, and what it may see; and who acts, and why: what every change by hand
//! must say. Never guesses.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    problem::{Code, FieldError, Problem},
    shapes,
    surface::Surface,
};
use crate::{
    callers::{Caller, GoodSignature, Scope, Scopes, SourceRules},
    domain::{Evidence, Invalid, Source, is_plain},
    ledger::PaymentRow,
    operations::Signature,
};

/// Longest name of an operator, in characters.
const ACTOR_MAX: usize = 64;
/// Longest reason, in characters.
const REASON_MAX: usize = 500;

/// Who a request is from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Principal {
    /// The name that its token stands for, if it stands for one.
    pub(crate) name: Option<Arc<str>>,
    /// Whose payments it sends and sees.
    pub(super) source: Source,
    /// What it may do; everything that its token opens, where that has no scopes.
    scopes: Option<Scopes>,
    /// Its signature, where it signs requests.
    signature: Option<Arc<GoodSignature>>,
}

impl From<Caller> for Principal {
    fn from(Caller { name, source, scopes }: Caller) -> Self {
        Self { name: Some(name), source, scopes: Some(scopes), signature: None }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// The scheme of signed requests.
const RFC_9421: &str = "rfc9421";
/// Who signs where neither token nor request names anybody.
const API: &str = "api";

/// Who changes something, and why.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignatureBody {
    #[schema(value_type = Option<shapes::Actor>)]
    pub(super) actor: Option<String>,
    #[schema(value_type = shapes::Reason)]
    pub(super) reason: String,
}

impl Principal {
    pub(super) fn named(name: &str) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }

    pub(super) fn may(&self, scope: Scope) -> bool {
        self.scopes.is_none_or(|scopes| scopes.has(scope))
    }

    /// Whether it may change what operators change, and not only look.
    pub(crate) fn may_act(&self) -> bool {
        self.may(Scope::OperationsWrite)
    }

    /// As a session keeps them.
    pub(super) fn scopes(&self) -> Option<String> {
        self.scopes.map(Scopes::text)
    }

    /// Whoever has a secret of this source.
    pub(super) fn of_source(source: &Source) -> Self {
        let name = format!("webhooks of {}", source.as_str());
        Self { name: Some(name.into()), source: source.clone(), ..Self::default() }
    }

    /// Whoever has the key that has signed the request.
    pub(super) fn of_signature(rules: &SourceRules, signature: GoodSignature) -> Self {
        let name = format!("key {} of {}", signature.key, rules.source.as_str());
        Self {
            name: Some(name.into()),
            source: rules.source.clone(),
            scopes: Some(rules.scopes),
            signature: Some(Arc::new(signature)),
        }
    }

    /// As the subject of a sentence.
    pub(super) fn describes(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        if self.is_signed() { name.to_owned() } else { format!("the token of {name}") }
    }

    /// Whose share of the gateway a request takes, if that is bounded: a source has one, however
    /// many names it calls under; an operator has one of its own.
    pub(super) fn share(&self, surface: Surface) -> Option<Arc<str>> {
        let name = self.name.as_ref()?;
        Some(match surface {
            Surface::Api | Surface::Webhooks => self.source.shared(),
            Surface::Open
            | Surface::Docs
            | Surface::Admin
            | Surface::Console
            | Surface::Doorstep
            | Surface::Live => Arc::clone(name),
        })
    }

    pub(super) fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Whether nothing was signed but this body.
    pub(super) fn sends(&self, body: &[u8]) -> bool {
        self.signature.as_ref().is_none_or(|signature| signature.covers(body))
    }

    /// The proof that it sent this body, where it signs.
    pub(super) fn evidence(&self, body: &[u8]) -> Option<Arc<Evidence>> {
        let GoodSignature { key, base, signature, .. } = &**self.signature.as_ref()?;
        Some(Arc::new(Evidence {
            scheme: RFC_9421.to_owned(),
            key: key.clone(),
            signature: signature.clone(),
            base: base.clone(),
            body: String::from_utf8_lossy(body).into_owned(),
        }))
    }

    /// A payment, with the customer's balance only for whoever may read balances.
    pub(super) fn sees(&self, payment: PaymentRow) -> PaymentRow {
        if self.may(Scope::CustomersRead) { payment } else { payment.without_balance() }
    }

    /// The signature of a change that may be made without saying who and why:
    /// then it is the API's, for this reason.
    pub(super) fn sign_or(
        &self,
        actor: Option<&str>,
        reason: Option<&str>,
        otherwise: &str,
    ) -> Result<Signature, Problem> {
        self.sign(actor.or(Some(API)), reason.unwrap_or(otherwise))
    }

    pub(crate) fn sign(&self, given: Option<&str>, reason: &str) -> Result<Signature, Problem> {
        let actor = self.name.as_deref().or(given).unwrap_or_default().trim();
        let reason = reason.trim();
        let mut errors = Vec::new();
        // A name is checked even where the token has one.
        let named = given.map_or(actor, str::trim);
        for (field, text, most) in [("actor", named, ACTOR_MAX), ("reason", reason, REASON_MAX)] {
            if text.is_empty() {
                errors.push(FieldError::new(field, Invalid::new("empty", "must not be empty")));
            } else if text.chars().count() > most {
                errors.push(FieldError::new(field, Invalid::new("too_long", "is too long")));
            } else if !is_plain(text) {
                let invalid = Invalid::new(
                    "bad_character",
                    "must not have control or invisible characters, nor ones that change the \
                     direction of writing",
                );
                errors.push(FieldError::new(field, invalid));
            }
        }
        if !errors.is_empty() {
            return Err(Problem::invalid(Code::InvalidRequest, errors));
        }
        Ok(Signature { actor: actor.to_owned(), reason: reason.to_owned() })
    }
}
