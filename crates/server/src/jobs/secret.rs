//! Signatures of callbacks, by the Standard Webhooks convention (its specification, "Signature scheme").

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a secret begins with.
const PREFIX: &str = "whsec_";

/// Bytes of a key: the convention's bounds.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Secrets that are kept at most: more than one only while they are changed.
const SECRETS_MAX: usize = 4;

/// What callbacks are signed with; with each of several secrets, so that receivers can change theirs in time. Never shown.
#[derive(Clone, Default)]
pub struct WebhookSecrets {
    keys: Vec<Vec<u8>>,
}

/// What is wrong with secrets, which are not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is none.
    #[error(
        "there is no secret in it; one is `whsec_` and 24 to 64 random bytes in base64 (`openssl rand -base64 32`)"
    )]
    Empty,
    /// One is none.
    #[error(
        "secret {0} is none: `whsec_` and 24 to 64 random bytes in base64 (`openssl rand -base64 32`)"
    )]
    Malformed(usize),
    /// Too many.
    #[error(
        "there are more than {SECRETS_MAX} secrets; receivers need the new one and the one before"
    )]
    TooMany,
}

impl WebhookSecrets {
    /// Secrets as `whsec_…`, divided by white space.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let mut keys = Vec::new();
        for (number, secret) in (1..).zip(text.split_whitespace()) {
            let key = secret.strip_prefix(PREFIX).and_then(|key| STANDARD.decode(key).ok());
            match key.filter(|key| KEY_BYTES.contains(&key.len())) {
                Some(_) if keys.len() == SECRETS_MAX => return Err(SecretError::TooMany),
                Some(key) => keys.push(key),
                None => return Err(SecretError::Malformed(number)),
            }
        }
        if keys.is_empty() { Err(SecretError::Empty) } else { Ok(WebhookSecrets { keys }) }
    }

    /// Whether nothing can be signed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The header `webhook-signature`: `v1,` and the signature in base64, one for each secret.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signature = |key: &Vec<u8>| {
            // HMAC takes keys of any length.
            let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
        };
        self.keys.iter().filter_map(signature).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookSecrets({} redacted)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the convention's own examples.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_conventions_example_is_signed_as_it_says() {
        let secrets = WebhookSecrets::parse(SECRET).unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signature = secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn another_implementation_accepts_what_is_signed() {
        let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let secrets = WebhookSecrets::parse(&format!("{SECRET}\n {other} ")).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = now.as_secs() as i64;
        let signature = secrets.sign("msg_1", now, b"{\"a\":\"\xc3\xbc\"}");
        let headers = [
            ("webhook-id", "msg_1".to_owned()),
            ("webhook-timestamp", now.to_string()),
            ("webhook-signature", signature.clone()),
        ];
        let headers: axum::http::HeaderMap = headers
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        for secret in [SECRET, other] {
            let webhook = standardwebhooks::Webhook::new(secret).unwrap();
            webhook.verify(b"{\"a\":\"\xc3\xbc\"}", &headers).unwrap();
            assert!(webhook.verify(b"{\"a\":\"u\"}", &headers).is_err());
        }
        assert_eq!(signature.split(' ').count(), 2);
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_shown() {
        let check = |text: &str, expected: SecretError| {
            let error = WebhookSecrets::parse(text).unwrap_err();
            assert_eq!(error, expected);
            assert!(!error.to_string().contains("MfKQ"), "{error}");
        };
        check(" \n", SecretError::Empty);
        check("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::Malformed(1));
        check(&format!("{SECRET} whsec_MfKQ"), SecretError::Malformed(2));
        check(&format!("{SECRET} ").repeat(5), SecretError::TooMany);
        let secrets = WebhookSecrets::parse(SECRET).unwrap();
        assert_eq!(format!("{secrets:?}"), "WebhookSecrets(1 redacted)");
    }
}
