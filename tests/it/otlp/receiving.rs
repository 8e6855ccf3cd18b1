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
    Manner, Shared, exposition,
    kept::{self, Transport},
    received,
};

/// The largest request that is taken, in bytes.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// The content type of protobuf.
const PROTOBUF: &str = "application/x-protobuf";

/// Something that can be exported.
trait Export: Message + Default {
    /// Keeps it.
    fn keep(self, transport: Transport, shared: &Shared);
    /// Counts that it was refused.
    fn refuse(self, transport: Transport, shared: &Shared);
}

impl Export for ExportTraceServiceRequest {
    fn keep(self, transport: Transport, shared: &Shared) {
        shared.kept().add_spans(transport, received::spans(self.resource_spans));
    }

    fn refuse(self, transport: Transport, shared: &Shared) {
        let spans = received::spans(self.resource_spans).count() as u64;
        kept::count(&mut shared.kept().counts.spans_refused, transport, spans);
    }
}

impl Export for ExportMetricsServiceRequest {
    fn keep(self, transport: Transport, shared: &Shared) {
        shared.kept().add_series(transport, received::series(self.resource_metrics));
    }

    fn refuse(self, transport: Transport, shared: &Shared) {
        let points = received::series(self.resource_metrics).len() as u64;
        kept::count(&mut shared.kept().counts.points_refused, transport, points);
    }
}

/// Takes what was sent, or not, as the sink was told; says whether it did.
async fn take(sent: impl Export, transport: Transport, shared: &Shared) -> bool {
    kept::count(&mut shared.kept().counts.requests, transport, 1);
    let manner = *shared.manner();
    match manner {
        Manner::Prompt => {}
        Manner::Slow(pause) => {
            // As a busy service would.
            let _ = timeout(pause, pending::<()>()).await;
        }
        Manner::Refusing => {
            sent.refuse(transport, shared);
            return false;
        }
        Manner::Hanging => pending().await,
    }
    sent.keep(transport, shared);
    true
}

struct Grpc(Arc<Shared>);

impl Grpc {
    async fn take<T: Default>(
        &self,
        request: GrpcRequest<impl Export>,
    ) -> Result<GrpcResponse<T>, Status> {
        if take(request.into_inner(), Transport::Grpc, &self.0).await {
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

async fn post_export<T: Export>(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let Ok(sent) = T::decode(body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if take(sent, Transport::Http, &shared).await {
        // An empty message says that all was taken.
        ([(CONTENT_TYPE, PROTOBUF)], Bytes::new()).into_response()
    } else {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

async fn scrape(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.kept().text();
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()
}
