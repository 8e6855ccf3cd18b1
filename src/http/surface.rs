//! Which part of the service a path belongs to, and so who may use it and how it
//! is measured. Knows paths, and nobody who serves them.

use axum::http::Method;

use crate::callers::Scope;

const DOCS: [&str; 2] = ["/docs", "/openapi.json"];
/// Paths that need no token and are never refused for load.
const OPEN_PATHS: [&str; 3] = ["/livez", "/readyz", "/api/v1/health"];
pub(super) const PAYMENTS: &str = "/api/v1/payments";
const LOOK_UP: &str = "/api/v1/payments/lookup";
const CUSTOMERS: &str = "/api/v1/customers";
/// Where sources send signed webhooks to.
const WEBHOOKS: &str = "/api/v1/webhooks";
const ADMIN: &str = "/api/v1/admin";
/// The console's overview, above all of its pages.
pub(crate) const CONSOLE: &str = "/console";
pub(crate) const LIVE: &str = "/console/live";
/// Where an operator shows a token.
pub(crate) const SIGN_IN: &str = "/console/sign-in";
/// Where a browser forgets it, whether it is still good or not.
const SIGN_OUT: &str = "/console/sign-out";
/// Files that pages load.
pub(crate) const ASSETS: &str = "/console/assets/";

/// What an address serves. Health and a description of the rest are served at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    All,
    /// Payments and customers.
    Public,
    /// The operators' API and the console.
    Operations,
}

impl Door {
    /// Which surface a path is of. One that is served elsewhere is a path that does not
    /// exist, as far as anybody can see from here.
    pub(super) fn surface(self, path: &str) -> Surface {
        match (self, Surface::of(path)) {
            (
                Self::Public,
                Surface::Admin | Surface::Console | Surface::Doorstep | Surface::Live,
            )
            | (Self::Operations, Surface::Webhooks) => Surface::Api,
            (_, surface) => surface,
        }
    }

    pub fn has_payments(self) -> bool {
        self != Self::Operations
    }

    pub fn has_operations(self) -> bool {
        self != Self::Public
    }

    /// In the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Public => "public",
            Self::Operations => "operations",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    Open,
    Docs,
    Api,
    /// Signed by themselves.
    Webhooks,
    Admin,
    /// The console's pages behind the sign-in.
    Console,
    /// Signing in and out, and the files that pages load.
    Doorstep,
    /// The console's live figures, streamed for as long as a page is open.
    Live,
}

impl Surface {
    pub(crate) fn of(path: &str) -> Self {
        if OPEN_PATHS.contains(&path) {
            Self::Open
        } else if DOCS.iter().any(|docs| is_below(path, docs)) {
            Self::Docs
        } else if path == LIVE {
            Self::Live
        } else if [SIGN_IN, SIGN_OUT].contains(&path) || path.starts_with(ASSETS) {
            Self::Doorstep
        } else if is_below(path, CONSOLE) {
            Self::Console
        } else if is_below(path, WEBHOOKS) {
            Self::Webhooks
        } else if is_below(path, ADMIN) {
            Self::Admin
        } else {
            Self::Api
        }
    }

    /// What a caller must be allowed to, for whom a token says what that is.
    pub(super) fn scope(self, method: &Method, path: &str) -> Option<Scope> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let (read, write) = match self {
            Self::Open | Self::Docs | Self::Doorstep | Self::Webhooks => return None,
            Self::Admin | Self::Console | Self::Live => {
                (Scope::OperationsRead, Scope::OperationsWrite)
            }
            // Asks for many, in a body.
            Self::Api if path == LOOK_UP => return Some(Scope::PaymentsRead),
            Self::Api if is_below(path, PAYMENTS) => (Scope::PaymentsRead, Scope::PaymentsWrite),
            Self::Api if is_below(path, CUSTOMERS) => (Scope::CustomersRead, Scope::CustomersWrite),
            // There is nothing.
            Self::Api => return None,
        };
        Some(if reads { read } else { write })
    }

    pub(crate) fn is_console(self) -> bool {
        matches!(self, Self::Console | Self::Doorstep | Self::Live)
    }
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_of_one_surface() {
        let surfaces = [
            ("/livez", Surface::Open),
            ("/console", Surface::Console),
            ("/console/partitions", Surface::Console),
            ("/consoles", Surface::Api),
            ("/console/live", Surface::Live),
            ("/console/sign-in", Surface::Doorstep),
            ("/console/assets/x.css", Surface::Doorstep),
            ("/api/v1/admin/stats", Surface::Admin),
            ("/api/v1/administrators", Surface::Api),
            ("/api/v1/webhooks/bank-a", Surface::Webhooks),
            ("/api/v1/payments", Surface::Api),
            ("/docs/index.css", Surface::Docs),
            ("/openapi.json", Surface::Docs),
        ];
        for (path, surface) in surfaces {
            assert_eq!(Surface::of(path), surface, "{path}");
            assert_eq!(Door::All.surface(path), surface, "{path}");
            let operations = if surface == Surface::Webhooks { Surface::Api } else { surface };
            assert_eq!(Door::Operations.surface(path), operations, "{path}");
            let is_open = [Surface::Open, Surface::Docs, Surface::Webhooks].contains(&surface);
            let public = if is_open { surface } else { Surface::Api };
            assert_eq!(Door::Public.surface(path), public, "{path}");
        }
    }
}
