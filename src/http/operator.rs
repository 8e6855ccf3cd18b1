//! Who acts, and why: what every change by hand must say. Never guesses.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    problem::{Code, FieldError, Problem},
    shapes,
};
use crate::{
    domain::{Invalid, is_plain},
    operations::Signature,
};

/// Longest name of an operator, in characters.
const ACTOR_MAX: usize = 64;
/// Longest reason, in characters.
const REASON_MAX: usize = 500;

/// Who a request is from: the name that its token stands for, if it stands for
/// one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Principal(pub(crate) Option<Arc<str>>);

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

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
        let actor = self.0.as_deref().or(given).unwrap_or_default().trim();
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
