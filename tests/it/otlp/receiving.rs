//! The listeners: OTLP over gRPC, and as protobuf over HTTP. They answer in the
//! manner that the sink was told, and keep nothing themselves.

use std::{future::pending, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use prost::Message;
use tokio::{net::TcpListener, time::timeout};
use tonic::{
    Request as GrpcRequest, Response as GrpcResponse, Status,
    transport::{Server, server::TcpIncoming},
};

use super::{
    Kept, Manner, Shared,
    received::{self, Series, Span},
    shown,
};

/// The largest request that is taken, in bytes.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// What a request carries.
enum Sent {
    Spans(Vec<Span>),
    Points(Vec<Series>),
}

impl From<ExportTraceServiceRequest> for Sent {
    fn from(request: ExportTraceServiceRequest) -> Self {
        Self::Spans(received::spans(request.resource_spans).collect())
    }
}

impl From<ExportMetricsServiceRequest> for Sent {
    fn from(request: ExportMetricsServiceRequest) -> Self {
        Self::Points(received::series(request.resource_metrics))
    }
}

impl Sent {
    fn size(&self) -> (&'static str, usize) {
        match self {
            Self::Spans(spans) => ("spans", spans.len()),
            Self::Points(points) => ("metric_points", points.len()),
        }
    }

    fn keep(self, kept: &mut Kept) {
        match self {
            Self::Spans(spans) => kept.add_spans(spans.into_iter()),
            Self::Points(points) => kept.add_series(points),
        }
    }
}

/// Takes what was sent, or not, as the sink was told; says whether it did.
async fn take(sent: impl Into<Sent>, transport: &'static str, shared: &Shared) -> bool {
    shared.kept().count("requests", transport, 1);
    let manner = *shared.manner();
    match manner {
        Manner::Prompt | Manner::Refusing | Manner::Gone => {}
        Manner::Slow(pause) => {
            // As a busy service would.
            let _ = timeout(pause, pending::<()>()).await;
        }
        Manner::Hanging => pending().await,
    }
    let taken = !matches!(manner, Manner::Refusing | Manner::Gone);
    let (sent, mut kept) = (sent.into(), shared.kept());
    let (what, count) = sent.size();
    let fate = if taken { "accepted" } else { "refused" };
    kept.count(&format!("{fate}_{what}"), transport, count);
    if taken {
        sent.keep(&mut kept);
    }
    taken
}

struct Grpc(Arc<Shared>);

impl Grpc {
    async fn take<T: Default>(
        &self,
        request: GrpcRequest<impl Into<Sent>>,
    ) -> Result<GrpcResponse<T>, Status> {
        if take(request.into_inner(), "grpc", &self.0).await {
            Ok(GrpcResponse::new(T::default()))
        } else {
            Err(Status::unavailable("told to refuse"))
        }
    }
}

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: GrpcRequest<ExportTraceServiceRequest>,
    ) -> Result<GrpcResponse<ExportTraceServiceResponse>, Status> {
        self.take(request).await
    }
}

#[tonic::async_trait]
impl MetricsService for Grpc {
    async fn export(
        &self,
        request: GrpcRequest<ExportMetricsServiceRequest>,
    ) -> Result<GrpcResponse<ExportMetricsServiceResponse>, Status> {
        self.take(request).await
    }
}

/// Serves gRPC until it is dropped.
pub async fn grpc(listener: TcpListener, shared: Arc<Shared>) {
    let traces = TraceServiceServer::new(Grpc(Arc::clone(&shared)));
    let metrics = MetricsServiceServer::new(Grpc(shared));
    let served = Server::builder()
        .add_service(traces.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(metrics.max_decoding_message_size(REQUEST_BYTES_MAX))
        .serve_with_incoming(TcpIncoming::from(listener));
    if let Err(error) = served.await {
        tracing::error!(%error, "gRPC is not served any more");
    }
}

/// Serves HTTP until it is dropped.
pub async fn http(listener: TcpListener, shared: Arc<Shared>) {
    let routes = Router::new()
        .route("/v1/traces", post(post_export::<ExportTraceServiceRequest>))
        .route("/v1/metrics", post(post_export::<ExportMetricsServiceRequest>))
        .route("/metrics", get(scrape))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(shared);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "HTTP is not served any more");
    }
}

async fn post_export<T>(State(shared): State<Arc<Shared>>, body: Bytes) -> Response
where
    T: Message + Default + Into<Sent>,
{
    let Ok(sent) = T::decode(body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if take(sent, "http", &shared).await {
        // An empty message says that all was taken.
        ([(CONTENT_TYPE, "application/x-protobuf")], Bytes::new()).into_response()
    } else {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

async fn scrape(State(shared): State<Arc<Shared>>) -> Response {
    if matches!(*shared.manner(), Manner::Gone) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let text = shown::page(&mut shared.kept());
    ([(CONTENT_TYPE, shown::CONTENT_TYPE)], text).into_response()
}
