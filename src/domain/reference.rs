//! What a payment is called: by its source, and by the reference that the source gave it. Never
//! knows who a source is.

use std::sync::Arc;

use super::{Invalid, text::name};

/// Who reports payments under references of its own, such as a bank: 1 to 32 of `[a-z0-9-]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(Option<Arc<str>>);

impl Source {
    /// Whose payments are all those without another source.
    pub const DEFAULT: &str = "default";
    const LENGTH_MAX: usize = 32;

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let long = Invalid::new("too_long", "must have at most 32 characters");
        let bad = "must have lower-case letters, digits and hyphens only";
        let is_of_a_source =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        name(text, is_of_a_source, bad, Self::LENGTH_MAX, long)?;
        Ok(Self((text != Self::DEFAULT).then(|| text.into())))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(Self::DEFAULT)
    }

    pub fn shared(&self) -> Arc<str> {
        self.0.clone().unwrap_or_else(|| Self::DEFAULT.into())
    }
}

const NO_NAME: Invalid = Invalid::new(
    "bad_name",
    "must be a reference, or a source (lower-case letters, digits and hyphens), one space and a \
     reference",
);

/// The name of a payment, in one text: `bank-a TX-1` is the reference `TX-1` of the source
/// `bank-a`; a reference alone is of the source `default`. Neither part can have a space, so no
/// two payments are meant by one name, and none can be named without its source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference(String);

impl Reference {
    pub const LENGTH_MAX: usize = 128;

    /// A reference as its source gives it: 1 to 128 visible ASCII characters.
    pub fn of(source: &Source, text: impl Into<String>) -> Result<Self, Invalid> {
        let text = text.into();
        let long = Invalid::new("too_long", "must have at most 128 characters");
        let bad = "must have visible ASCII characters only, and no spaces";
        name(&text, |byte| byte.is_ascii_graphic(), bad, Self::LENGTH_MAX, long)?;
        Ok(Self(match &source.0 {
            None => text,
            Some(source) => [source, " ", &text].concat(),
        }))
    }

    /// The whole name.
    pub fn parse(text: impl Into<String>) -> Result<Self, Invalid> {
        let text = text.into();
        match text.split_once(' ') {
            None => Self::of(&Source::default(), text),
            Some((source, given)) => {
                let source = Source::parse(source).map_err(|_| NO_NAME)?;
                Self::of(&source, given).map_err(|_| NO_NAME)
            }
        }
    }

    /// The source and the reference that it gave, of a name.
    pub fn parts(name: &str) -> (&str, &str) {
        name.split_once(' ').unwrap_or((Source::DEFAULT, name))
    }

    pub fn source(&self) -> &str {
        Self::parts(&self.0).0
    }

    /// As the source gave it.
    pub fn given(&self) -> &str {
        Self::parts(&self.0).1
    }

    /// Whether it can be the last part of a path. Clients and proxies take `.`
    /// and `..` out of a path before they send it.
    pub fn is_addressable(&self) -> bool {
        !matches!(self.given(), "." | "..")
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
