//! What the console's pages load: one style sheet, one script of our own, and
//! htmx with its extension for server-sent events (both 4.0.1, 0BSD, from the
//! npm package `htmx.org`). Compiled in; nothing is fetched from elsewhere.
//!
//! A name carries a digest of the content, so that a browser may keep it for
//! ever and never has an old one.

use std::sync::LazyLock;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::http::{ASSETS as FOLDER, Code, Problem, Segment};

const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// A file that pages load.
struct Asset {
    name: &'static str,
    /// Its name with its digest.
    file: String,
    kind: HeaderValue,
    content: &'static [u8],
}

static ASSETS: LazyLock<[Asset; 5]> = LazyLock::new(|| {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let asset = |name: &'static str, kind, content: &'static [u8]| {
        let digest = Sha256::digest(content);
        let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
        let file = format!("{stem}-{digest}.{extension}");
        Asset { name, file, kind: HeaderValue::from_static(kind), content }
    };
    [
        asset("console.css", "text/css; charset=utf-8", include_bytes!("console.css")),
        asset("console.js", SCRIPT, include_bytes!("console.js")),
        asset("htmx.js", SCRIPT, include_bytes!("vendor/htmx-4.0.1.min.js")),
        asset("hx-sse.js", SCRIPT, include_bytes!("vendor/hx-sse-4.0.1.min.js")),
        asset("icon.svg", "image/svg+xml", include_bytes!("icon.svg")),
    ]
});

/// Where pages find a file.
pub(super) fn path(name: &str) -> String {
    let asset = ASSETS.iter().find(|asset| asset.name == name);
    asset.map_or_else(String::new, |asset| [FOLDER, &asset.file].concat())
}

pub(super) async fn asset(Segment(name): Segment) -> Result<Response, Problem> {
    let Some(asset) = ASSETS.iter().find(|asset| asset.file == name) else {
        return Err(Problem::new(Code::RouteNotFound, "reload the page; it is of another version"));
    };
    let headers: [(HeaderName, HeaderValue); 2] =
        [(header::CONTENT_TYPE, asset.kind.clone()), (header::CACHE_CONTROL, FOR_EVER)];
    Ok((headers, asset.content).into_response())
}
