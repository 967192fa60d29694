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

/// The beginnings of an HTTP client, for those with needs of their own: `reqwest::Client::builder` itself panics, for it is
/// built without a default for TLS.
pub fn builder() -> reqwest::ClientBuilder {
    let provider = Arc::new(ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = reqwest::Client::builder();
    match versions {
        Ok(config) => {
            let config = config.with_root_certificates(Arc::clone(roots())).with_no_client_auth();
            builder.tls_backend_preconfigured(config)
        }
        // ring has both versions; should that change, `build` says what is missing.
        Err(_) => builder,
    }
}
