//! Every path of the gateway, and what a request passes on its way there.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    middleware,
    routing::get,
};
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use super::{
    admin, batch, customers, description as shared, guard, health, intake::Segment, lookup,
    observe, operator::Principal, payments, problem, state::App, webhooks,
};
use crate::domain::Currency;

pub(crate) struct Pages {
    pub(crate) routes: Router<App>,
    /// Completes their answers, and writes their problems.
    pub(crate) finish: problem::Finish,
}

fn routes() -> (Router<App>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(shared::outline())
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
        .routes(routes!(customers::statement))
        // Operators.
        .merge(admin::routes())
        // Health.
        .routes(routes!(health::health))
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
    shared::complete(routes().1, Currency::DEFAULT)
}

pub(super) fn router(shared: App, pages: Pages) -> Router {
    let (routes, outline) = routes();
    let description = shared::complete(outline, shared.gateway.registrar.currency());
    // A payment may be named like a path beside it.
    let find = |name: &'static str| {
        get(move |app: State<App>, caller: Principal| {
            lookup::find(app, caller, Segment(name.to_owned()))
        })
    };
    routes
        .route("/api/v1/payments/batch", find("batch"))
        .route("/api/v1/payments/lookup", find("lookup"))
        .merge(pages.routes)
        .merge(SwaggerUi::new("/docs").url("/openapi.json", description))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        // One stack: each layer of a router of its own would cost a request a
        // box and a clone of everything below it.
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
                .layer(PropagateRequestIdLayer::x_request_id())
                .layer(middleware::from_fn_with_state(Arc::clone(&shared), observe::observe))
                .layer(middleware::from_fn_with_state(pages.finish, problem::render))
                .layer(CatchPanicLayer::custom(problem::panicked))
                .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::guard)),
        )
        .with_state(shared)
}
