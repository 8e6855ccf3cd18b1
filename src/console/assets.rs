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
pub(super) struct Asset {
    /// Its name with its digest.
    name: String,
    kind: HeaderValue,
    content: &'static [u8],
}

impl Asset {
    fn new(stem: &str, extension: &str, kind: &'static str, content: &'static [u8]) -> Self {
        let digest = Sha256::digest(content);
        let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{stem}-{short}.{extension}");
        Self { name, kind: HeaderValue::from_static(kind), content }
    }

    /// Where pages find it.
    pub(super) fn path(&self) -> String {
        [FOLDER, &self.name].concat()
    }
}

/// Every asset.
pub(super) struct Assets {
    pub(super) style: Asset,
    pub(super) script: Asset,
    pub(super) htmx: Asset,
    pub(super) sse: Asset,
    pub(super) icon: Asset,
}

pub(super) static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let style = include_bytes!("console.css");
    Assets {
        style: Asset::new("console", "css", "text/css; charset=utf-8", style),
        script: Asset::new("console", "js", SCRIPT, include_bytes!("console.js")),
        htmx: Asset::new("htmx", "js", SCRIPT, include_bytes!("vendor/htmx-4.0.1.min.js")),
        sse: Asset::new("hx-sse", "js", SCRIPT, include_bytes!("vendor/hx-sse-4.0.1.min.js")),
        icon: Asset::new("icon", "svg", "image/svg+xml", include_bytes!("icon.svg")),
    }
});

/// One asset.
pub(super) async fn asset(Segment(name): Segment) -> Result<Response, Problem> {
    let Assets { style, script, htmx, sse, icon } = &*ASSETS;
    let found = [style, script, htmx, sse, icon].into_iter().find(|asset| asset.name == name);
    let Some(asset) = found else {
        return Err(Problem::new(Code::RouteNotFound, "reload the page; it is of another version"));
    };
    let headers: [(HeaderName, HeaderValue); 2] =
        [(header::CONTENT_TYPE, asset.kind.clone()), (header::CACHE_CONTROL, FOR_EVER)];
    Ok((headers, asset.content).into_response())
}
