//! How a service is asked over TLS: whom its certificate must come from, and which one it is
//! shown. Never trusts anybody that is not named.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

#[derive(Debug, Clone, Default, Args)]
pub struct ClientTls {
    /// PEM file with the authorities that the service's certificate may come from. TLS
    /// needs it
    #[arg(long, env = "PAYSTREAM_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// PEM file with the certificate that the service is shown, if it asks for one
    #[arg(long, env = "PAYSTREAM_CLIENT_CERTIFICATE_FILE", requires = "client_key_file")]
    pub client_certificate_file: Option<PathBuf>,

    /// PEM file with the private key of that certificate
    #[arg(long, env = "PAYSTREAM_CLIENT_KEY_FILE", requires = "client_certificate_file")]
    pub client_key_file: Option<PathBuf>,
}

impl ClientTls {
    /// Reads the files. Without authorities no service is trusted.
    pub fn config(&self) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for authority in self.ca_file.iter().map(|file| certificates(file)) {
            for one in authority? {
                roots.add(one).context("--ca-file holds no good authority")?;
            }
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let Some((shown, key)) =
            self.client_certificate_file.as_ref().zip(self.client_key_file.as_ref())
        else {
            return Ok(config.with_no_client_auth());
        };
        let key = PrivateKeyDer::from_pem_file(key)
            .ok()
            .with_context(|| format!("{} holds no private key in PEM", key.display()))?;
        config
            .with_client_auth_cert(certificates(shown)?, key)
            .context("could not use --client-certificate-file with --client-key-file")
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let all = read().with_context(|| format!("could not read {}", file.display()))?;
    ensure!(!all.is_empty(), "{} holds no certificate in PEM", file.display());
    Ok(all)
}
