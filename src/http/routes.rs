//! Every path of the gateway, and what a request passes on its way there.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    middleware,
    routing::get,
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use super::{
    admin, batch, customers, description as shared,
    entrance::{self, Entrance},
    health,
    intake::Segment,
    lookup,
    operator::Principal,
    payments, problem,
    state::App,
    surface::Door,
    webhooks,
};
use crate::domain::Currency;

#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) routes: Router<App>,
    /// Completes their answers, and writes their problems.
    pub(crate) finish: problem::Finish,
}

fn routes(door: Door) -> (Router<App>, utoipa::openapi::OpenApi) {
    let mut all = OpenApiRouter::with_openapi(shared::outline());
    if door.has_payments() {
        all = all
            // Payments.
            .routes(routes!(payments::accept))
            .routes(routes!(lookup::find))
            .routes(routes!(batch::accept_batch))
            .routes(routes!(lookup::look_up))
            .routes(routes!(webhooks::take))
            // Customers.
            .routes(routes!(customers::list, customers::open))
            .routes(routes!(customers::show))
            .routes(routes!(customers::balance))
            .routes(routes!(customers::statement));
    }
    if door.has_operations() {
        all = all.merge(admin::routes());
    }
    // Health.
    all.routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        // The guard has bounded every body before.
        .layer(DefaultBodyLimit::disable())
        .split_for_parts()
}

/// The description of the API, as `/openapi.json` serves it where accounts are
/// in the default currency.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    shared::complete(routes(Door::All).1, Currency::DEFAULT)
}

pub(super) fn router(shared: App, pages: Pages, door: Door) -> Router {
    let (mut routes, outline) = routes(door);
    let description = shared::complete(outline, shared.gateway.registrar.currency());
    // A payment may be named like a path beside it.
    let find = |name: &'static str| {
        get(move |app: State<App>, caller: Principal| {
            lookup::find(app, caller, Segment(name.to_owned()))
        })
    };
    if door.has_payments() {
        routes = routes
            .route("/api/v1/payments/batch", find("batch"))
            .route("/api/v1/payments/lookup", find("lookup"));
    }
    if door.has_operations() {
        routes = routes.merge(pages.routes);
    }
    let entrance = Arc::new(Entrance { app: Arc::clone(&shared), door, finish: pages.finish });
    routes
        .merge(SwaggerUi::new("/docs").url("/openapi.json", description))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(middleware::from_fn_with_state(entrance, entrance::pass))
        .with_state(shared)
}
