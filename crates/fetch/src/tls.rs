//! TLS by rustls and ring, with the authorities that this system trusts.

use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

/// The authorities, read once: `SSL_CERT_FILE` and `SSL_CERT_DIR`, else where systems keep them. Where there are none, plain
/// HTTP still works.
fn roots() -> &'static Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(store)
    })
}

/// Whether this system trusts anybody.
pub(crate) fn has_roots() -> bool {
    !roots().is_empty()
}

/// How to speak TLS, to those whom this system trusts; for what is no HTTP, as databases.
pub fn client_config() -> Option<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // ring has both versions; should that change, there is none.
    let config = versions.ok()?;
    Some(config.with_root_certificates(Arc::clone(roots())).with_no_client_auth())
}

/// The beginnings of an HTTP client, for those with needs of their own: `reqwest::Client::builder` itself panics, for it is
/// built without a default for TLS.
pub fn builder() -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder();
    match client_config() {
        Some(config) => builder.tls_backend_preconfigured(config),
        // `build` says what is missing.
        None => builder,
    }
}
