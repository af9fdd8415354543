//! Authorities for this crate's tests: roots, intermediates and leaves with one thing wrong at a time.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};

use crate::{Certificate, KeyType, PrivateKey, SpiffeId};

pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// A fixed "now" for tests, on a whole second as certificates are.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

pub(crate) fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/foo/sa/httpbin".parse().unwrap()
}

pub(crate) fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::P256).unwrap()
}

/// An authority that can issue.
pub(crate) struct Ca {
    pub(crate) certificate: Certificate,
    params: CertificateParams,
    key: PrivateKey,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, now() - HOUR, now() + 10_000 * HOUR);
    params
}

pub(crate) fn valid(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    params.not_before = from.into();
    params.not_after = to.into();
}

/// What an honest signer puts into a workload's certificate.
pub(crate) fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id().as_str().try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    valid(&mut params, now() - HOUR / 60, now() + 24 * HOUR);
    params
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub(crate) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::root_with_key(name, key(), change)
    }

    pub(crate) fn root_with_key(name: &str, key: PrivateKey, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: Certificate::parse_der(certificate.der()).unwrap(),
            params,
            key,
        }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(name, |_| {})
    }

    pub(crate) fn intermediate_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        let key = key();
        let certificate = self.sign(&params, &key);
        Self {
            certificate,
            params,
            key,
        }
    }

    /// This authority's name and key, certified by another: a cross-certificate.
    pub(crate) fn certified_by(&self, other: &Self) -> Certificate {
        other.sign(&self.params, &self.key)
    }

    pub(crate) fn sign(&self, params: &CertificateParams, key: &PrivateKey) -> Certificate {
        let issuer = Issuer::from_params(&self.params, &self.key);
        Certificate::parse_der(params.signed_by(key, &issuer).unwrap().der()).unwrap()
    }

    pub(crate) fn leaf(&self, key: &PrivateKey) -> Certificate {
        self.sign(&leaf_params(), key)
    }

    pub(crate) fn leaf_with(&self, key: &PrivateKey, change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = leaf_params();
        change(&mut params);
        self.sign(&params, key)
    }
}
