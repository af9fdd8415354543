//! A serving certificate issued by a CA that is ours: its names, its key, its life.
//!
//! A leaf of a day with a new key each time, to be replaced at half of its life.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ensign_pki::{KeyType, PrivateKey};
use rustls_pki_types::DnsName;

use super::{Face, ServingError};
use crate::signer::{
    ServerIdentity,
    local::{
        folder::Authority,
        issuer::{Leaf, Name, Purpose},
    },
};

/// The names of the serving certificate: at least one.
#[derive(Clone, Debug)]
pub(super) struct ServerNames(Vec<ServerName>);

/// One of them.
#[derive(Clone, Debug)]
enum ServerName {
    Dns(String),
    Ip(IpAddr),
}

// === impl ServerNames ===

impl ServerNames {
    pub(super) fn parse(names: Vec<String>) -> Result<Self, ServingError> {
        let parse = |name: String| {
            if let Ok(address) = name.parse() {
                return Ok(ServerName::Ip(address));
            }
            match DnsName::try_from(name.as_str()) {
                Ok(_) => Ok(ServerName::Dns(name)),
                Err(_) => Err(ServingError::Name { name }),
            }
        };
        if names.is_empty() {
            return Err(ServingError::Name { name: String::new() });
        }
        Ok(Self(names.into_iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// A fresh key and its certificate, and when to replace both. `place` is where the CA is, for errors.
    pub(super) fn issue(
        &self,
        authority: &Authority,
        place: &str,
        now: SystemTime,
    ) -> Result<(Face, SystemTime), ServingError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ServingError::Issue {
            place: place.to_owned(),
            source,
        };
        let key = PrivateKey::generate(KeyType::P256).map_err(|error| failed(error.into()))?;
        let names: Vec<Name<'_>> = self
            .0
            .iter()
            .map(|name| match name {
                ServerName::Dns(name) => Name::Dns(name),
                ServerName::Ip(address) => Name::Ip(*address),
            })
            .collect();
        let leaf = Leaf {
            spki_der: &key.spki_der(),
            rsa: false,
            names: &names,
            purpose: Purpose::Server,
            ttl: LIFETIME,
            backdate: BACKDATE,
        };
        let leaf = authority
            .issuer
            .issue(&leaf, now)
            .map_err(|error| failed(error.into()))?;
        let chain = std::iter::once(leaf)
            .chain(authority.issuer.intermediates().iter().cloned())
            .collect();
        let face = Face::new(chain, &key, now).map_err(|error| failed(error.into()))?;
        let life = face.not_after.duration_since(now).unwrap_or_default();
        Ok((face, now + life / 2))
    }
}

impl From<ServerNames> for ServerIdentity {
    fn from(names: ServerNames) -> Self {
        let mut identity = Self::default();
        for name in names.0 {
            match name {
                ServerName::Dns(name) => identity.dns.push(name),
                ServerName::Ip(address) => identity.addresses.push(address),
            }
        }
        identity
    }
}

/// Short, because it costs nothing to renew and a stolen key should not last.
const LIFETIME: Duration = Duration::from_hours(24);
/// For agents whose clock is behind.
const BACKDATE: Duration = Duration::from_mins(2);
