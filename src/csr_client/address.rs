//! The certificate authority's address: `host:port`, checked once.
//!
//! A plaintext port is refused here, before a token could be sent over it.

use std::fmt;
use std::str::FromStr;

/// Istio's plaintext port: no TLS, and the bearer token would travel readable.
const PLAINTEXT_PORT: u16 = 15010;

/// Where the certificate authority is: a DNS name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaAddress {
    host: String,
    port: u16,
}

/// Why a text is no address of a certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is not `host:port`.
    #[error("CA address {0:?} is not host:port, for example ensign-ra.ensign-system.svc:443")]
    NotHostPort(String),
    /// A URL.
    #[error("CA address {0:?} is a URL, expected host:port without a scheme: TLS is always used")]
    Url(String),
    /// Istio's plaintext port.
    #[error(
        "CA address {0:?} uses port 15010, which is plaintext: the workload's token would be readable on the way; use the TLS port (istiod: 15012)"
    )]
    Plaintext(String),
}

impl CaAddress {
    /// The host, without brackets around an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for CaAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || AddressError::NotHostPort(text.to_owned());
        if text.contains("://") {
            return Err(AddressError::Url(text.to_owned()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(wrong)?;
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                inner
            }
            None => host,
        };
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok() && text.starts_with('[');
        if host.is_empty() || !(is_v6 || host.bytes().all(letter)) {
            return Err(wrong());
        }
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        if port == PLAINTEXT_PORT {
            return Err(AddressError::Plaintext(text.to_owned()));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for CaAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("istiod.istio-system.svc:15012", "istiod.istio-system.svc")]
    #[test_case("127.0.0.1:6443", "127.0.0.1")]
    #[test_case("[::1]:6443", "::1")]
    fn good_addresses(text: &str, host: &str) {
        let address: CaAddress = text.parse().unwrap();
        assert_eq!((address.host(), address.to_string().as_str()), (host, text));
    }

    #[test_case(""; "empty")]
    #[test_case("istiod"; "no port")]
    #[test_case(":15012"; "no host")]
    #[test_case("istiod:0"; "port zero")]
    #[test_case("istiod:70000"; "port too large")]
    #[test_case("::1:6443"; "bare ipv6")]
    #[test_case("[nonsense]:1"; "brackets around no address")]
    #[test_case("a b:1"; "white space")]
    fn no_addresses(text: &str) {
        assert!(matches!(text.parse::<CaAddress>(), Err(AddressError::NotHostPort(_))));
    }

    #[test]
    fn the_plaintext_port_is_refused_with_the_reason() {
        let error = "istiod.istio-system.svc:15010".parse::<CaAddress>().unwrap_err();
        assert!(error.to_string().contains("plaintext"));
        assert!(matches!(
            "https://ra:443".parse::<CaAddress>(),
            Err(AddressError::Url(_))
        ));
    }
}
