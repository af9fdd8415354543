//! The same checks for a server of the control plane: istiod, or the RA itself.
//!
//! A server has DNS names, perhaps addresses and an id of its own, and need not be a TLS client. Every name that was
//! asked for must be there. A DNS name more is the signer's business (some add the common name); an id that nobody
//! asked for never is, since it would let the holder pose as another workload.

use std::{net::IpAddr, time::SystemTime};

use super::{SvidError, Validity, check_times, path::check_path, validity};
use crate::{
    bundle::Bundle,
    certificate::{Certificate, Usages},
    chain::Chain,
    der::{self, Reader},
    san::SanError,
    spiffe_id::SpiffeId,
};

/// What a server's certificate must say.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerNames<'a> {
    /// DNS names.
    pub dns: &'a [String],
    /// Addresses.
    pub addresses: &'a [IpAddr],
    /// The only id it may carry.
    pub id: Option<&'a SpiffeId>,
}

/// Checks that `chain` is a certificate for a server of these names and for the key `spki_der`, good now, under one of
/// `anchors`.
pub fn verify_server(
    chain: &Chain,
    anchors: &Bundle,
    names: ServerNames<'_>,
    spki_der: &[u8],
    now: SystemTime,
) -> Result<Validity, SvidError> {
    let leaf = chain.leaf();
    if leaf.is_ca() {
        return Err(SvidError::CaLeaf);
    }
    if leaf.spki_der() != spki_der {
        return Err(SvidError::WrongKey);
    }
    check_names(leaf, names)?;
    check_usages(leaf.usages())?;
    for certificate in chain.iter() {
        check_times(certificate, now)?;
    }
    check_path(chain, anchors, now, webpki::KeyUsage::server_auth())?;
    Ok(validity(chain))
}

fn check_names(leaf: &Certificate, wanted: ServerNames<'_>) -> Result<(), SvidError> {
    let [value] = leaf.sans() else {
        return Err(SvidError::SanExtensions(leaf.sans().len()));
    };
    let encoding = |fault| SvidError::Names(SanError::Encoding(fault));
    let mut names = Reader::whole(value, der::SEQUENCE).map_err(encoding)?;
    let mut seen = Vec::new();
    while !names.is_empty() {
        let name = names.next().map_err(encoding)?;
        seen.push((name.tag, name.value));
    }
    let has = |tag: u8, value: &[u8]| seen.iter().any(|(t, v)| *t == tag && v.eq_ignore_ascii_case(value));
    for name in wanted.dns {
        if !has(DNS, name.as_bytes()) {
            return Err(SvidError::MissingName(name.clone()));
        }
    }
    for address in wanted.addresses {
        let there = match address {
            IpAddr::V4(v4) => has(IP, &v4.octets()),
            IpAddr::V6(v6) => has(IP, &v6.octets()),
        };
        if !there {
            return Err(SvidError::MissingName(address.to_string()));
        }
    }
    let uris: Vec<&[u8]> = seen.iter().filter(|(tag, _)| *tag == URI).map(|(_, v)| *v).collect();
    let id = wanted.id.map(|id| id.as_str().as_bytes());
    if let Some(foreign) = uris.iter().find(|uri| Some(**uri) != id) {
        return Err(SvidError::ForeignName(String::from_utf8_lossy(foreign).into_owned()));
    }
    match wanted.id {
        Some(id) if uris.is_empty() => Err(SvidError::MissingName(id.to_string())),
        _ => Ok(()),
    }
}

/// Without the extension every usage is meant; with it TLS stacks want server authentication and signatures.
fn check_usages(usages: Usages) -> Result<(), SvidError> {
    if usages.server_auth == Some(false) {
        return Err(SvidError::MissingServerEku);
    }
    if usages.digital_signature == Some(false) {
        return Err(SvidError::MissingKeyUsage);
    }
    Ok(())
}

/// `[2]`, primitive: `dNSName`.
const DNS: u8 = 0x82;
/// `[6]`, primitive: `uniformResourceIdentifier`.
const URI: u8 = 0x86;
/// `[7]`, primitive: `iPAddress`.
const IP: u8 = 0x87;

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
    use test_case::test_case;

    use super::*;
    use crate::test_ca::{Ca, HOUR, id, key, now, valid};

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    /// The verdict on a server's leaf with one thing changed.
    fn verdict(change: impl FnOnce(&mut CertificateParams)) -> &'static str {
        let (root, key) = (Ca::root("root"), key());
        let intermediate = root.intermediate("intermediate");
        let leaf = intermediate.leaf_with(&key, |params| {
            params.subject_alt_names = vec![
                dns("istiod.istio-system.svc"),
                dns("istiod-canary.istio-system.svc"),
                SanType::IpAddress([10, 0, 0, 1].into()),
                uri(id().as_str()),
            ];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            change(params);
        });
        let chain = Chain::from_certificates(vec![leaf, intermediate.certificate]).unwrap();
        let anchors = Bundle::from_certificates(vec![root.certificate]).unwrap();
        let id = id();
        let names = ServerNames {
            dns: &[
                "istiod.istio-system.svc".to_owned(),
                "ISTIOD-canary.istio-system.svc".to_owned(),
            ],
            addresses: &[[10, 0, 0, 1].into()],
            id: Some(&id),
        };
        match verify_server(&chain, &anchors, names, &key.spki_der(), now()) {
            Ok(_) => "ok",
            Err(error) => error.reason(),
        }
    }

    #[test_case(|_| {}, "ok"; "nothing changed")]
    #[test_case(|p| p.subject_alt_names.push(dns("more.example")), "ok"; "a dns name more")]
    #[test_case(|p| p.extended_key_usages = vec![], "ok"; "no extended key usage, as cert-manager's default")]
    #[test_case(|p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth), "ok"; "client too")]
    #[test_case(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "missing_server_eku"; "client only")]
    #[test_case(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment], "missing_key_usage"; "encipherment only")]
    #[test_case(|p| drop(p.subject_alt_names.remove(0)), "missing_name"; "a dns name less")]
    #[test_case(|p| drop(p.subject_alt_names.remove(2)), "missing_name"; "an address less")]
    #[test_case(|p| drop(p.subject_alt_names.remove(3)), "missing_name"; "no id")]
    #[test_case(|p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/foo/sa/other")), "foreign_name"; "an id more")]
    #[test_case(|p| p.subject_alt_names.clear(), "wrong_san"; "no names")]
    #[test_case(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "ca_leaf"; "ca")]
    #[test_case(|p| valid(p, now() - 2 * HOUR, now() - HOUR), "expired"; "expired")]
    fn each_fault_has_its_reason(change: fn(&mut CertificateParams), expected: &str) {
        assert_eq!(verdict(change), expected);
    }

    #[test]
    fn another_key_and_a_foreign_root_are_refused() {
        let (root, other, key) = (Ca::root("root"), Ca::root("other"), key());
        let leaf = root.leaf_with(&key, |p| p.subject_alt_names = vec![dns("istiod")]);
        let chain = Chain::from_certificates(vec![leaf]).unwrap();
        let names = ServerNames {
            dns: &["istiod".to_owned()],
            ..ServerNames::default()
        };
        let reason = |anchors: &Ca, spki: &[u8]| {
            let anchors = Bundle::from_certificates(vec![anchors.certificate.clone()]).unwrap();
            verify_server(&chain, &anchors, names, spki, now())
                .unwrap_err()
                .reason()
        };
        assert_eq!(reason(&root, &crate::test_ca::key().spki_der()), "wrong_key");
        assert_eq!(reason(&other, &key.spki_der()), "incomplete_chain");
    }
}
