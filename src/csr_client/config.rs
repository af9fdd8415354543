//! How to reach the certificate authority, and the headers of every call.

use std::fmt;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataKey, MetadataValue};

use super::CaAddress;

/// How to reach the certificate authority.
#[derive(Clone)]
pub struct IstioCaConfig {
    /// `CA_ADDR`.
    pub address: CaAddress,
    /// `ISTIOD_SAN`: the name that the authority's certificate must bear, if it is not the host of the address.
    /// It always counts, while Istio's agent heeds it only without a `CA_ADDR`; and a `localhost` in the address is
    /// taken at its word, while Istio's agent then expects `istiod.istio-system.svc`.
    pub server_name: Option<String>,
    /// `ISTIO_META_CLUSTER_ID`, sent as `clusterid`.
    pub cluster_id: String,
    /// Further headers (`CA_HEADER_*`), names and values.
    pub headers: Vec<(String, String)>,
    /// The end of one call: connecting, handshake and answer together.
    pub deadline: Duration,
}

impl IstioCaConfig {
    /// Whether a header of this name and value can be sent. The error does not show the value.
    pub fn check_header(name: &str, value: &str) -> Result<(), IstioCaConfigError> {
        header(name, value).map(drop)
    }
}

impl fmt::Debug for IstioCaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("IstioCaConfig")
            .field("address", &self.address)
            .field("server_name", &self.server_name)
            .field("cluster_id", &self.cluster_id)
            .field("headers", &names)
            .field("deadline", &self.deadline)
            .finish()
    }
}

/// Why the settings cannot work.
#[derive(Debug, thiserror::Error)]
pub enum IstioCaConfigError {
    /// Not a name that a certificate could bear.
    #[error("{0:?} is no DNS name or IP address that a server certificate could bear: correct ISTIOD_SAN or CA_ADDR")]
    ServerName(String),
    /// Not a header.
    #[error(
        "CA_HEADER_{0} cannot be sent: a name needs lower-case letters, digits, '-' or '_', a value printable ASCII; `authorization`, `clusterid` and names that end in `-bin` are not free"
    )]
    Header(String),
    /// Not a header value.
    #[error("the cluster id {0:?} cannot be sent: expected printable ASCII, correct ISTIO_META_CLUSTER_ID")]
    ClusterId(String),
}

pub(super) type Header = (MetadataKey<Ascii>, MetadataValue<Ascii>);

/// `clusterid` and those of the operator.
pub(super) fn all_headers(cluster_id: &str, headers: &[(String, String)]) -> Result<Vec<Header>, IstioCaConfigError> {
    let mut all = Vec::new();
    if !cluster_id.is_empty() {
        let wrong = |_| IstioCaConfigError::ClusterId(cluster_id.to_owned());
        all.push((
            MetadataKey::from_static("clusterid"),
            cluster_id.parse().map_err(wrong)?,
        ));
    }
    for (name, value) in headers {
        all.push(header(name, value)?);
    }
    Ok(all)
}

fn header(name: &str, value: &str) -> Result<Header, IstioCaConfigError> {
    let wrong = || IstioCaConfigError::Header(name.to_owned());
    let key: MetadataKey<Ascii> = name.to_ascii_lowercase().parse().map_err(|_| wrong())?;
    // A second `clusterid` makes istiod refuse the request; a second token is nobody's wish.
    if matches!(key.as_str(), "clusterid" | "authorization") {
        return Err(wrong());
    }
    let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((key, value))
}
