//! TLS of the listeners: the certificate that they show, and the client certificates that they
//! ask for. Used anew when a file changes. Never goes on without them: files that cannot be
//! used change nothing. Never knows what is said over a connection.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig, crypto,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    callers::Thumbprint,
    followed_files::{self, Text},
};

/// A setting, and the file that it names.
type File = (&'static str, PathBuf);

pub(crate) struct Tls {
    /// Certificate and key; then, where client certificates are asked for, those of their
    /// authorities, and revocation lists.
    files: Vec<File>,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// # Errors
    ///
    /// A sentence that says which file cannot be used, and why.
    pub(crate) fn open(files: Vec<File>) -> Result<Self, String> {
        let texts: Vec<Text> = files.iter().map(|(_, path)| followed_files::text(path)).collect();
        let (config, _) = configured(&files, &texts)?;
        Ok(Self { files, current: RwLock::new(Arc::new(config)) })
    }

    /// What a new connection is served with.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses the files whenever they change, until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let paths = self.files.iter().map(|(_, path)| path.clone()).collect();
        followed_files::follow(paths, stop, |texts| match configured(&self.files, texts) {
            Ok((config, sha256)) => {
                info!(sha256, "using the TLS certificate");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
            }
            Err(error) => {
                warn!(error, "the TLS files cannot be used; going on with the last ones")
            }
        })
        .await
    }
}

/// Names the certificate of a client that has shown this chain.
pub(super) fn thumbprint(chain: Option<&[CertificateDer<'_>]>) -> Option<Thumbprint> {
    chain?.first().map(|certificate| Sha256::digest(certificate).into())
}

/// How connections are served with these files, and the fingerprint of the certificate.
fn configured(files: &[File], texts: &[Text]) -> Result<(ServerConfig, String), String> {
    let mut read = files.iter().zip(texts);
    let chain: Vec<CertificateDer<'static>> = items(read.next(), "certificate")?;
    let keys: Vec<PrivateKeyDer<'static>> = items(read.next(), "private key")?;
    let authorities: Vec<CertificateDer<'static>> = items(read.next(), "certificate")?;
    let lists: Vec<CertificateRevocationListDer<'static>> = items(read.next(), "revocation list")?;
    let (Some(shown), Some(key)) = (chain.first(), keys.into_iter().next()) else {
        return Err("TLS needs a certificate and its key".to_owned());
    };
    let digest = Sha256::digest(shown);
    let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?;
    let asks = !authorities.is_empty();
    let builder = if asks {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            let added = roots.add(authority);
            added.map_err(|error| format!("PAYSTREAM_TLS_CLIENT_CA_FILE: {error}"))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier.with_crls(lists).build();
        builder.with_client_cert_verifier(
            verifier.map_err(|error| format!("PAYSTREAM_TLS_CLIENT_CRL_FILE: {error}"))?,
        )
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        format!("PAYSTREAM_TLS_CERTIFICATE_FILE and PAYSTREAM_TLS_KEY_FILE do not fit: {error}")
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if asks {
        // A resumed session would not show its certificate again, be it revoked by now.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok((config, sha256))
}

/// What a file holds of this kind, at least one; nothing where there is no such file.
fn items<T: PemObject>(file: Option<(&File, &Text)>, what: &str) -> Result<Vec<T>, String> {
    let Some(((setting, path), text)) = file else { return Ok(Vec::new()) };
    let wrong = |why: String| format!("{setting} {}: {why}", path.display());
    let text = text.as_deref().map_err(|error| wrong(error.clone()))?;
    let items: Result<Vec<T>, _> = T::pem_slice_iter(text.as_bytes()).collect();
    match items {
        Ok(items) if !items.is_empty() => Ok(items),
        Ok(_) => Err(wrong(format!("it holds no {what} in PEM"))),
        // The error may have a line of a key.
        Err(_) => Err(wrong("it is not PEM".to_owned())),
    }
}
