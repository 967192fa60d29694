//! Requests to URLs that a stranger has given: only to the public network, whatever a name means today.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{ClientBuilder, Url};

use crate::tls;

/// Why a URL of a stranger's is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotPublic {
    /// It is none.
    #[error("`{url}` is no URL: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// It is not encrypted.
    #[error("`{url}` is not https")]
    Scheme {
        /// As it was given.
        url: String,
    },
    /// It leads into a private network, to this machine, or nowhere.
    #[error("`{host}` is no address of the public network")]
    Address {
        /// The host, or what its name stands for.
        host: String,
    },
    /// It holds a name and a password, which would end up in logs.
    #[error("a URL with a password in it is not asked")]
    Password,
}

/// The beginnings of a client for URLs that passed [`public_url`]. It speaks https alone, follows no redirect, and connects to
/// public addresses alone: names are looked up by the client itself, so that what was checked is what is connected to. No proxy of
/// the environment is used, for that would look names up anew.
pub fn public_builder() -> ClientBuilder {
    tls::builder().https_only(true).redirect(Policy::none()).no_proxy().dns_resolver(PublicNames)
}

/// Checks what can be known of a URL before its name is looked up.
///
/// # Errors
/// [`NotPublic`].
pub fn public_url(url: &str) -> Result<Url, NotPublic> {
    let wrong = |why: String| NotPublic::Url { url: url.to_owned(), why };
    let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
    if parsed.scheme() != "https" {
        return Err(NotPublic::Scheme { url: url.to_owned() });
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(NotPublic::Password);
    }
    let host = parsed.host_str().ok_or_else(|| wrong("it has no host".to_owned()))?;
    // An address is not looked up, so nothing else would check it.
    let plain = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match plain.parse::<IpAddr>() {
        Ok(address) if !is_public(address) => Err(NotPublic::Address { host: host.to_owned() }),
        _ => Ok(parsed),
    }
}

/// Whether an address is one of the public network: IANA's special-purpose registries (RFC 6890 and what came after it) say which are
/// not. Of IPv6, what embeds an IPv4 address is refused as a whole.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(_) => false,
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || a >= 224
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Global unicast, without protocol assignments and Teredo, documentation, and 6to4.
    (0x2000..0x4000).contains(&a)
        && !(a == 0x2001 && b < 0x0200)
        && !(a == 0x2001 && b == 0x0db8)
        && a != 0x2002
        && !(a == 0x3fff && b < 0x1000)
}

/// Looks names up, and forgets every address that is not public.
struct PublicNames;

impl Resolve for PublicNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|found| is_public(found.ip())).collect();
            if public.is_empty() {
                return Err(Box::new(NotPublic::Address { host }) as Box<dyn Error + Send + Sync>);
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let check = |addresses: &[&str], expected: bool| {
            for text in addresses {
                assert_eq!(is_public(text.parse().unwrap()), expected, "{text}");
            }
        };
        check(
            &[
                "1.1.1.1",
                "93.184.215.14",
                "100.63.0.1",
                "100.128.0.1",
                "198.20.0.1",
                "2606:4700::1111",
            ],
            true,
        );
        let not_v4 = [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
        ];
        check(&not_v4, false);
        let not_v6 = [
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ];
        check(&not_v6, false);
    }

    #[test]
    fn urls_are_checked_as_the_client_reads_them() {
        let check = |url: &str, part: &str| {
            let error = public_url(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        };
        check("invoice.pdf", "no URL");
        check("http://example.org/x", "not https");
        check("file:///etc/passwd", "not https");
        check("https://user:secret@example.org/", "password");
        // All of these are 127.0.0.1 to a browser, and to us.
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            check(&format!("https://{host}/"), "no address of the public network");
        }
        check("https://169.254.169.254/latest/meta-data", "no address of the public network");
        assert!(public_url("https://example.org:8443/a?b=c").is_ok());
        assert!(public_url("https://1.1.1.1/").is_ok());
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_not_connected_to() {
        let client = public_builder().build().unwrap();
        let url = public_url("https://localhost:1/").unwrap();
        let error = client.get(url).send().await.unwrap_err();
        assert_eq!(crate::root_cause(&error), "`localhost` is no address of the public network");
    }
}
