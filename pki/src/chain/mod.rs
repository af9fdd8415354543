//! The certificates of a reply, put in order.
//!
//! Signers and authorities send the same certificates in many arrangements: one block per element or all in one, the
//! root at the end, in the middle or twice, several roots in the last element, intermediates from the top down. A
//! [`Chain`] is one arrangement: the leaf, each intermediate after one that it issued, and the roots apart. The leaf
//! comes first in every protocol that we speak, so another first certificate is an error and no puzzle; so is a
//! certificate that issued nothing in the chain. Signatures, times and names are checked by [`crate::verify_issued`].

use rustls_pki_types::CertificateDer;

use crate::{
    bundle::{Bundle, BundleError},
    certificate::{Certificate, CertificateError, MAX_TEXT},
};

/// Elements of a reply; each holds at least one certificate.
const MAX_ELEMENTS: usize = 300;
/// `webpki` builds no deeper paths than this.
const MAX_INTERMEDIATES: usize = 6;

/// Why a reply is no chain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChainError {
    /// No element, or elements without any certificate.
    #[error("the reply holds no certificate, expected a leaf, its intermediates and the roots")]
    Empty,
    /// Too many elements or certificates, or too much text.
    #[error("the reply holds {seen} {unit}, at most {limit} are accepted")]
    TooLarge {
        /// Of what.
        unit: &'static str,
        /// How many.
        seen: usize,
        /// The bound.
        limit: usize,
    },
    /// An element without a certificate.
    #[error("element {0} of the reply holds no certificate")]
    EmptyElement(usize),
    /// An element that cannot be read.
    #[error("element {element} of the reply cannot be read")]
    Certificate {
        /// Counted from 0.
        element: usize,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// Only self-signed certificates.
    #[error("the reply holds roots only, expected a leaf first")]
    NoLeaf,
    /// The first certificate is a CA's and a later one is not.
    #[error("the reply begins with CA certificate {0:?}, expected the leaf first")]
    LeafNotFirst(String),
    /// A certificate that issued none of the others.
    #[error("certificate {0:?} of the reply issued none of the others and is no root")]
    Unplaced(String),
    /// The roots are no bundle.
    #[error("the roots of the reply are no bundle")]
    Roots(#[source] BundleError),
}

impl ChainError {
    /// A fixed word for metrics and log fields.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty | Self::EmptyElement(_) => "empty_chain",
            Self::TooLarge { .. } => "too_large",
            Self::Certificate { .. } => "damaged_certificate",
            Self::NoLeaf => "no_leaf",
            Self::LeafNotFirst(_) => "misordered_chain",
            Self::Unplaced(_) => "unplaced_certificate",
            Self::Roots(_) => "damaged_roots",
        }
    }
}

/// A leaf, its intermediates in order, and the roots that came with them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chain {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
    roots: Option<Bundle>,
}

impl Chain {
    /// From the elements of a `CreateCertificate` reply, each with one or more PEM certificates.
    pub fn from_reply_elements(elements: &[String]) -> Result<Self, ChainError> {
        bound("elements", elements.len(), MAX_ELEMENTS)?;
        bound("bytes", elements.iter().map(String::len).sum(), MAX_TEXT)?;
        let mut all = Vec::new();
        for (element, text) in elements.iter().enumerate() {
            let certificates =
                Certificate::parse_all(text).map_err(|source| ChainError::Certificate { element, source })?;
            if certificates.is_empty() {
                return Err(ChainError::EmptyElement(element));
            }
            all.extend(certificates);
        }
        Self::from_certificates(all)
    }

    /// From DER, leaf first: what a signer returns.
    pub fn from_ders(ders: &[CertificateDer<'_>]) -> Result<Self, ChainError> {
        bound("elements", ders.len(), MAX_ELEMENTS)?;
        let parse = |(element, der): (usize, &CertificateDer<'_>)| {
            Certificate::parse_der(der).map_err(|source| ChainError::Certificate { element, source })
        };
        Self::from_certificates(ders.iter().enumerate().map(parse).collect::<Result<_, _>>()?)
    }

    /// From certificates, leaf first, the rest in any order with duplicates.
    pub fn from_certificates(all: Vec<Certificate>) -> Result<Self, ChainError> {
        if all.is_empty() {
            return Err(ChainError::Empty);
        }
        let (roots, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(Certificate::is_self_signed);
        let mut rest = rest.into_iter();
        let leaf = rest.next().ok_or(ChainError::NoLeaf)?;
        let mut loose = Vec::<Certificate>::new();
        for certificate in rest {
            if certificate != leaf && !loose.contains(&certificate) {
                loose.push(certificate);
            }
        }
        if leaf.is_ca() && loose.iter().any(|certificate| !certificate.is_ca()) {
            return Err(ChainError::LeafNotFirst(leaf.subject().to_owned()));
        }
        bound("intermediates", loose.len(), MAX_INTERMEDIATES)?;
        let intermediates = place(&leaf, loose)?;
        let roots = match roots.as_slice() {
            [] => None,
            _ => Some(Bundle::from_certificates(roots).map_err(ChainError::Roots)?),
        };
        Ok(Self {
            leaf,
            intermediates,
            roots,
        })
    }

    /// The workload's certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// What stands between the leaf and a root, from below upwards.
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// The self-signed certificates of the reply. Whether they are believed is the caller's policy.
    pub fn roots(&self) -> Option<&Bundle> {
        self.roots.as_ref()
    }

    /// Leaf first, then the intermediates, without roots: what TLS sends.
    pub fn to_pem(&self) -> String {
        self.iter().map(Certificate::to_pem).collect()
    }

    /// The leaf, then the intermediates.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.intermediates)
    }
}

/// Each certificate behind one that names it as issuer, nearest to the last placed one first.
fn place(leaf: &Certificate, mut loose: Vec<Certificate>) -> Result<Vec<Certificate>, ChainError> {
    let mut placed = Vec::<Certificate>::new();
    while !loose.is_empty() {
        let mut below = placed.iter().rev().chain(std::iter::once(leaf));
        let next = below.find_map(|below| loose.iter().position(|c| c.is_ca() && below.names_as_issuer(c)));
        let Some(at) = next else {
            let subject = loose.pop().map(|c| c.subject().to_owned()).unwrap_or_default();
            return Err(ChainError::Unplaced(subject));
        };
        placed.push(loose.remove(at));
    }
    Ok(placed)
}

fn bound(unit: &'static str, seen: usize, limit: usize) -> Result<(), ChainError> {
    if seen > limit {
        Err(ChainError::TooLarge { unit, seen, limit })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
