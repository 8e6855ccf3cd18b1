//! Settings of TLS at the gateway's addresses. Names files, and never reads them.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct TlsConfig {
    /// PEM file with the certificate that the gateway shows, and those between it and a
    /// root. With it every address of the gateway speaks TLS 1.2 and 1.3 only. All files
    /// of TLS are used anew when they change.
    #[arg(long, env = "PAYSTREAM_TLS_CERTIFICATE_FILE", requires = "tls_key_file")]
    pub tls_certificate_file: Option<PathBuf>,
    /// PEM file with its private key.
    #[arg(long, env = "PAYSTREAM_TLS_KEY_FILE", requires = "tls_certificate_file")]
    pub tls_key_file: Option<PathBuf>,
    /// PEM file with the authorities of client certificates. With it, every client must
    /// show a certificate of theirs.
    #[arg(long, env = "PAYSTREAM_TLS_CLIENT_CA_FILE", requires = "tls_certificate_file")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// PEM file with the revocation lists of all these authorities; a certificate on one
    /// of them is refused, and so is one whose authority has none here.
    #[arg(long, env = "PAYSTREAM_TLS_CLIENT_CRL_FILE", requires = "tls_client_ca_file")]
    pub tls_client_crl_file: Option<PathBuf>,
}

impl TlsConfig {
    /// Each file with its setting, in this order; none without TLS.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let files = [
            ("PAYSTREAM_TLS_CERTIFICATE_FILE", &self.tls_certificate_file),
            ("PAYSTREAM_TLS_KEY_FILE", &self.tls_key_file),
            ("PAYSTREAM_TLS_CLIENT_CA_FILE", &self.tls_client_ca_file),
            ("PAYSTREAM_TLS_CLIENT_CRL_FILE", &self.tls_client_crl_file),
        ];
        files.into_iter().filter_map(|(name, file)| Some((name, file.clone()?))).collect()
    }
}
