//! What a caller may do. Never says which request needs which.

use std::{fmt, str::FromStr};

macro_rules! scopes {
    ($($name:ident $text:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Scope { $($name,)* }

        impl Scope {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

scopes! {
    PaymentsWrite "payments:write",
    PaymentsRead "payments:read",
    CustomersWrite "customers:write",
    CustomersRead "customers:read",
    OperationsWrite "operations:write",
    OperationsRead "operations:read",
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|scope| scope.as_str()).collect();
            format!("must be one of {}", all.join(", "))
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// From a claim: names between spaces. Others than ours are somebody else's.
    pub fn parse(text: &str) -> Self {
        text.split(' ').filter_map(|name| name.parse().ok()).collect()
    }

    /// As a claim has them.
    pub fn text(self) -> String {
        let names = Scope::ALL.iter().filter(|scope| self.has(**scope)).map(|scope| scope.as_str());
        names.collect::<Vec<_>>().join(" ")
    }

    pub fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |all, scope| all | 1 << scope as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_that_are_not_ours_open_nothing() {
        let scopes = Scopes::parse("openid payments:write  operations:read payments:writes");
        let has: Vec<Scope> = Scope::ALL.iter().copied().filter(|one| scopes.has(*one)).collect();
        assert_eq!(has, [Scope::PaymentsWrite, Scope::OperationsRead]);
        assert_eq!(Scopes::parse(""), Scopes::default());
        assert_eq!(scopes.text(), "payments:write operations:read");
    }
}
