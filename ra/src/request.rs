//! What a request says beside its CSR: the metadata of Istio's message, and the client's own deadline.
//!
//! Two names mean something: `CertSigner` (the signer that the workload wishes for) and `ImpersonatedIdentity`
//! (a certificate for somebody else, which `authz` grants or refuses and nobody ignores). Istio's agent always sends the
//! first, often empty; ztunnel always the second. Other names are passed over and counted.

use std::time::Duration;

use ensign_pki::{SignerName, SignerNameError};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use thiserror::Error;
use tonic::metadata::MetadataMap;

/// The metadata, read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Extras {
    /// The signer wished for.
    pub signer: Option<SignerName>,
    /// The identity of somebody else, as it was sent.
    pub impersonated: Option<String>,
    /// How many names were passed over.
    pub unknown: usize,
}

/// Why the metadata is refused.
#[derive(Debug, Error)]
pub enum ExtrasError {
    /// Somebody else who is no text.
    #[error("ImpersonatedIdentity is no string")]
    ImpersonationType,
    /// A signer that is no text.
    #[error("CertSigner is no string")]
    SignerType,
    /// A signer that cannot be one.
    #[error("CertSigner is refused: {0}")]
    SignerName(SignerNameError),
}

/// Reads the metadata of a request.
pub fn extras(metadata: Option<&Struct>) -> Result<Extras, ExtrasError> {
    let Some(metadata) = metadata else {
        return Ok(Extras::default());
    };
    // Impersonation first: what cannot be read is refused whatever else is wrong with the request.
    let asked = metadata.fields.get(IMPERSONATED_IDENTITY);
    let mut extras = Extras {
        impersonated: asked.map_or(Ok(None), impersonated)?,
        ..Extras::default()
    };
    for (name, value) in &metadata.fields {
        match (name.as_str(), value.kind.as_ref()) {
            (CERT_SIGNER, Some(Kind::StringValue(text))) if text.is_empty() => {}
            (CERT_SIGNER, Some(Kind::StringValue(text))) => {
                extras.signer = Some(text.parse().map_err(ExtrasError::SignerName)?);
            }
            (CERT_SIGNER, None | Some(Kind::NullValue(_))) | (IMPERSONATED_IDENTITY, _) => {}
            (CERT_SIGNER, Some(_)) => return Err(ExtrasError::SignerType),
            _ => extras.unknown += 1,
        }
    }
    Ok(extras)
}

fn impersonated(value: &Value) -> Result<Option<String>, ExtrasError> {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Ok(None),
        Some(Kind::StringValue(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        // A list or a number there means something, if not to us.
        Some(_) => Err(ExtrasError::ImpersonationType),
    }
}

/// The time that the client gives us (`grpc-timeout`: up to eight digits and a unit), if it says so.
pub fn client_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// The client's own name for the call, if it is one that can be logged.
pub fn client_request_id(metadata: &MetadataMap) -> Option<&str> {
    let text = metadata.get("x-request-id")?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64)
        .contains(&text.len())
        .then_some(text)
        .filter(|text| text.bytes().all(plain))
}

// === impl ExtrasError ===

impl ExtrasError {
    /// The word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ImpersonationType => "impersonation_type",
            Self::SignerType => "cert_signer_type",
            Self::SignerName(_) => "cert_signer_name",
        }
    }
}

const CERT_SIGNER: &str = "CertSigner";
const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn text(text: &str) -> Kind {
        Kind::StringValue(text.to_owned())
    }

    fn read(fields: &[(&str, Kind)]) -> Result<Extras, &'static str> {
        let fields = fields
            .iter()
            .map(|(name, kind)| {
                (
                    (*name).to_owned(),
                    Value {
                        kind: Some(kind.clone()),
                    },
                )
            })
            .collect();
        extras(Some(&Struct { fields })).map_err(|error| error.reason())
    }

    #[test]
    fn no_metadata_is_no_wish() {
        assert_eq!(extras(None).unwrap(), Extras::default());
    }

    #[test_case(&[("CertSigner", text("foo"))], Ok(Some("foo")); "a signer")]
    #[test_case(&[("CertSigner", text(""))], Ok(None); "an empty signer means none")]
    #[test_case(&[("CertSigner", Kind::NullValue(0))], Ok(None); "null means none")]
    #[test_case(&[("CertSigner", text("foo.my-issuer"))], Ok(Some("foo.my-issuer")); "an issuer of a namespace")]
    #[test_case(&[("CertSigner", text("Foo"))], Err("cert_signer_name"); "a signer in upper case")]
    #[test_case(&[("CertSigner", text("a/b"))], Err("cert_signer_name"); "a signer with a slash")]
    #[test_case(&[("CertSigner", text(".."))], Err("cert_signer_name"); "a signer that is a way up")]
    #[test_case(&[("CertSigner", Kind::NumberValue(1.0))], Err("cert_signer_type"); "a number")]
    #[test_case(&[("ImpersonatedIdentity", Kind::BoolValue(true))], Err("impersonation_type"); "impersonation of another type")]
    #[test_case(&[("ImpersonatedIdentity", Kind::BoolValue(true)), ("CertSigner", text("Foo"))], Err("impersonation_type"); "impersonation before all")]
    #[test_case(&[("ImpersonatedIdentity", text(""))], Ok(None); "an empty impersonation is none")]
    fn what_metadata_means(fields: &[(&str, Kind)], expected: Result<Option<&str>, &str>) {
        let signer = read(fields).map(|extras| extras.signer.map(|name| name.to_string()));
        assert_eq!(
            signer.as_ref().map(Option::as_deref).map_err(|reason| *reason),
            expected
        );
    }

    #[test_case(text("spiffe://cluster.local/ns/a/sa/b"), Some("spiffe://cluster.local/ns/a/sa/b"); "an identity")]
    #[test_case(text("spiffe://invalid"), Some("spiffe://invalid"); "whatever it is")]
    #[test_case(text(""), None; "empty means nobody")]
    #[test_case(Kind::NullValue(0), None; "null means nobody")]
    fn somebody_else_is_read_and_not_judged(kind: Kind, expected: Option<&str>) {
        let extras = read(&[("ImpersonatedIdentity", kind)]).unwrap();
        assert_eq!(extras.impersonated.as_deref(), expected);
    }

    #[test]
    fn other_names_are_counted_and_passed_over() {
        let fields = [("CertSigner", text("foo")), ("ClusterID", text("x")), ("y", text("z"))];
        assert_eq!(read(&fields).unwrap().unknown, 2);
    }

    #[test_case("5S", Some(5_000); "seconds")]
    #[test_case("100m", Some(100); "milliseconds")]
    #[test_case("1H", Some(3_600_000); "hours")]
    #[test_case("99999999H", Some(359_999_996_400_000); "the longest")]
    #[test_case("123456789S", None; "nine digits")]
    #[test_case("S", None; "no digits")]
    #[test_case("5", None; "no unit")]
    #[test_case("-5S", None; "negative")]
    #[test_case("", None; "empty")]
    fn grpc_timeouts(text: &str, millis: Option<u64>) {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        assert_eq!(client_timeout(&metadata), millis.map(Duration::from_millis));
    }

    #[test_case("0af7651916cd43dd", true)]
    #[test_case("a b", false; "a blank")]
    #[test_case("", false; "empty")]
    #[test_case(&"a".repeat(65), false; "too long")]
    fn a_request_id_is_kept_if_it_can_be_logged(text: &str, kept: bool) {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-request-id", text.parse().unwrap());
        assert_eq!(client_request_id(&metadata).is_some(), kept);
    }
}
