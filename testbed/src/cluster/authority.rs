//! The cluster's certificate authority: serving certificates, and client certificates that the API server takes for a
//! user and a group.
//!
//! Kept in the cluster's folder, so that every process that can read the folder can make itself any user.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use crate::folder::write_atomically;

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";

/// A key and the certificate that belongs to it, in PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

/// Issues everything that the API server trusts.
#[derive(Debug, Clone)]
pub(super) struct Authority(Credential);

// === impl Credential ===

impl Credential {
    /// Writes `<name>.crt` and `<name>.key`.
    pub(super) fn write(&self, folder: &Path, name: &str) -> anyhow::Result<()> {
        write_atomically(&folder.join(format!("{name}.crt")), self.certificate_pem.as_bytes())?;
        write_atomically(&folder.join(format!("{name}.key")), self.key_pem.as_bytes())
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").finish_non_exhaustive()
    }
}

// === impl Authority ===

impl Authority {
    /// A new one, kept in `folder`.
    pub(super) fn create(folder: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = params("ensign-testbed");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("cannot sign the cluster's root")?;
        let credential = Credential {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        };
        credential.write(folder, "ca")?;
        Ok(Self(credential))
    }

    /// The one that [`Authority::create`] left in `folder`.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self(Credential {
            certificate_pem: read(CERTIFICATE)?,
            key_pem: read(KEY)?,
        }))
    }

    /// Its certificate.
    pub(super) fn certificate_pem(&self) -> &str {
        &self.0.certificate_pem
    }

    /// A client certificate: the common name is the user, the organisation a group.
    pub(super) fn user(&self, name: &str, group: Option<&str>) -> anyhow::Result<Credential> {
        let mut params = params(name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// A serving certificate for DNS names and addresses.
    pub(super) fn server(&self, names: &[&str]) -> anyhow::Result<Credential> {
        let mut params = params(names.first().copied().unwrap_or_default());
        for &name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.try_into().with_context(|| format!("{name:?} is no DNS name"))?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> anyhow::Result<Credential> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let ca_key = KeyPair::from_pem(&self.0.key_pem).context("the cluster's CA key is unreadable")?;
        let issuer =
            Issuer::from_ca_cert_pem(&self.0.certificate_pem, ca_key).context("the cluster's CA is unreadable")?;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params
            .signed_by(&key, &issuer)
            .context("cannot sign a certificate of the cluster")?;
        Ok(Credential {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (SystemTime::now() - Duration::from_hours(1)).into();
    params.not_after = (SystemTime::now() + Duration::from_hours(365 * 24)).into();
    params
}
