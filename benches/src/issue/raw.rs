//! The raw limit of an authority: what has to be computed for one certificate, in a plain loop, without a network.
//!
//! Per certificate: the token's signature and claims, the CSR's PEM, DER and signature, the certificate's signature, and
//! the check of what was issued against its root. Libraries only, none of our code: a slow function of ours must show.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::Request;
use crate::{authority, provider};

/// A CA and the key that tokens are checked with.
pub(crate) struct Raw {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    /// Modulus and exponent.
    token_key: (Vec<u8>, Vec<u8>),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Vec<String>,
    nbf: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    n: String,
    e: String,
}

impl Raw {
    /// Checks tokens with the first key of `jwks` (RSA).
    pub(crate) fn new(jwks: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let params = authority::params("raw");
        let root = params.self_signed(&key)?.der().clone();
        let jwks: Jwks = serde_json::from_str(jwks)?;
        let jwk = jwks.keys.first().context("no key in the JWKS")?;
        let token_key = (URL_SAFE_NO_PAD.decode(&jwk.n)?, URL_SAFE_NO_PAD.decode(&jwk.e)?);
        Ok(Self {
            issuer: Issuer::new(params, key),
            root,
            token_key,
        })
    }

    /// Certificates per second on this many threads.
    pub(crate) fn rate(&self, requests: &[Request], threads: usize, slice: Duration) -> anyhow::Result<f64> {
        let began = Instant::now();
        let work = || {
            let mut count: u64 = 0;
            for request in requests.iter().cycle() {
                if began.elapsed() >= slice {
                    break;
                }
                std::hint::black_box(self.one(request)?);
                count += 1;
            }
            anyhow::Ok(count)
        };
        let total = std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut total = 0;
            for thread in running {
                total += thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            }
            anyhow::Ok(total)
        })?;
        Ok(crate::stats::float(total) / began.elapsed().as_secs_f64())
    }

    /// One certificate, from token and CSR to two PEM texts; returns their length.
    fn one(&self, request: &Request) -> anyhow::Result<usize> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let claims = self.token(&request.token)?;
        ensure!(
            claims.aud.iter().any(|audience| audience == "istio-ca"),
            "another audience"
        );
        ensure!(
            (claims.nbf..claims.exp).contains(&now.as_secs()),
            "a token of another time"
        );
        ensure!(
            claims.sub == request.subject,
            "another caller: {} is not {}",
            claims.sub,
            request.subject
        );

        let (_, pem) = x509_parser::pem::parse_x509_pem(request.csr_pem.as_bytes())?;
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents)?;
        let info = &csr.certification_request_info;
        provider::verify_asn1(
            &info.subject_pki.subject_public_key.data,
            info.raw,
            &csr.signature_value.data,
        )?;
        let uri = uri_of(&csr).context("no URI in the CSR")?;
        ensure!(uri == request.id, "another id");

        let subject_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)?;
        let leaf = leaf(uri)?.signed_by(&subject_key, &self.issuer)?;

        let anchor = anchor_from_trusted_cert(&self.root)?;
        EndEntityCert::try_from(leaf.der())?.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            UnixTime::since_unix_epoch(now),
            KeyUsage::server_auth(),
            None,
            None,
        )?;
        Ok(leaf.pem().len())
    }

    fn token(&self, token: &str) -> anyhow::Result<Claims> {
        let (signed, signature) = token.rsplit_once('.').context("no signature")?;
        let (_, claims) = signed.split_once('.').context("no claims")?;
        let (n, e) = &self.token_key;
        provider::verify_rs256(n, e, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature)?)?;
        Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?)
    }
}

fn uri_of<'a>(csr: &'a X509CertificationRequest<'a>) -> Option<&'a str> {
    let names = csr.requested_extensions()?.find_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(names) => Some(names),
        _ => None,
    })?;
    names.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

/// The profile of our leaves.
fn leaf(uri: &str) -> anyhow::Result<CertificateParams> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - Duration::from_mins(2)).into();
    params.not_after = (now + Duration::from_hours(1)).into();
    let mut serial = ensign_pki::crypto::random_bytes::<16>()?;
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}
