//! From a leaf to a root of the bundle, by webpki, which is stricter than an Envoy here and more lenient there.
//!
//! Owns what is asked beside it, and the names of what it reports as one error. Whose the leaf is, its usages and the times
//! of the chain are looked at before.

use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage, RequiredEkuNotFoundContext,
};

use super::SvidError;
use crate::{bundle::Bundle, certificate::Certificate, chain::Chain};

/// Whether the chain leads to one of `anchors` that is valid now, every certificate on the way allowing `usage`; the times of
/// the chain were looked at before.
pub(super) fn check_path(
    chain: &Chain,
    anchors: &Bundle,
    now: SystemTime,
    usage: impl ExtendedKeyUsageValidator,
) -> Result<(), SvidError> {
    // webpki does not ask whether an issuer's key usage allows signing; BoringSSL does.
    if let Some(wrong) = chain.intermediates().iter().find(|c| !c.is_issuer()) {
        return Err(SvidError::Path(format!(
            "{:?} may not issue certificates",
            wrong.subject()
        )));
    }
    let leaf = EndEntityCert::try_from(chain.leaf().der()).map_err(|e| SvidError::Path(e.to_string()))?;
    let intermediates: Vec<CertificateDer<'_>> =
        chain.intermediates().iter().map(|c| c.der().as_ref().into()).collect();
    let roots = anchors.anchors_at(now);
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let path = leaf
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &roots,
            &intermediates,
            UnixTime::since_unix_epoch(since_epoch),
            usage,
            None,
            None,
        )
        .map_err(|error| explain(error, chain, anchors, now))?;
    // A certificate beside the path was not looked at by webpki, yet every Envoy would send it.
    let on_path: Vec<_> = path.intermediate_certificates().map(webpki::Cert::der).collect();
    for beside in chain.intermediates().iter().filter(|c| !on_path.contains(c.der())) {
        if !chain
            .iter()
            .any(|c| c.names_as_issuer(beside) && c.is_signed_by(beside))
        {
            return Err(SvidError::BadSignature(beside.subject().to_owned()));
        }
    }
    Ok(())
}

/// Names what `webpki` reports as one error, "unknown issuer or wrong signature", by where the chain breaks.
fn explain(error: webpki::Error, chain: &Chain, anchors: &Bundle, now: SystemTime) -> SvidError {
    use webpki::Error;
    match error {
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => {}
        Error::RequiredEkuNotFoundContext(_) => {
            return SvidError::Path(
                "a certificate restricts extended key usages, expected none or those of its use".to_owned(),
            );
        }
        other => return SvidError::Path(other.to_string()),
    }
    // The last certificate on the way up from the leaf.
    let mut top = chain.leaf();
    for issuer in chain.intermediates() {
        if top.names_as_issuer(issuer) {
            if !top.is_signed_by(issuer) {
                return SvidError::BadSignature(top.subject().to_owned());
            }
            top = issuer;
        }
    }
    let issued = |root: &&Certificate| top.names_as_issuer(root);
    if let Some(root) = anchors.iter().filter(issued).find(|root| top.is_signed_by(root)) {
        if !root.is_valid_at(now) {
            return SvidError::RootNotValid(root.subject().to_owned());
        }
        return SvidError::Path(error.to_string());
    }
    let known_elsewhere = chain
        .roots()
        .is_some_and(|roots| roots.iter().any(|root| issued(&root)));
    if known_elsewhere || anchors.iter().any(|root| issued(&root)) {
        SvidError::ForeignRoot
    } else {
        SvidError::IncompleteChain(top.subject().to_owned())
    }
}

/// Each certificate below the root that restricts its usage must allow both: an Envoy is client and server at once.
pub(super) struct BothUsages;

impl ExtendedKeyUsageValidator for BothUsages {
    fn validate(&self, present: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // id-kp-serverAuth and id-kp-clientAuth, as the contents of OIDs.
        const SERVER: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
        const CLIENT: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
        let (mut any, mut server, mut client) = (false, false, false);
        for purpose in present {
            let purpose = purpose?;
            any = true;
            server |= purpose == KeyPurposeId::new(SERVER);
            client |= purpose == KeyPurposeId::new(CLIENT);
        }
        if !any || (server && client) {
            return Ok(());
        }
        let required = KeyUsage::required(if server { CLIENT } else { SERVER });
        let context = RequiredEkuNotFoundContext {
            required,
            present: Vec::new(),
        };
        Err(webpki::Error::RequiredEkuNotFoundContext(context))
    }
}
