//! What an object holds once it is issued, put in the order that the RA works with. Whether it is right is asked later.

use ensign_daemon::logging;
use ensign_pki::Certificate;
use rustls_pki_types::CertificateDer;

use crate::signer::IssuedChain;

/// The certificates of an answer, that of `spki_der` first: signers put them in any order.
pub(super) fn read_chain(pem: &[u8], spki_der: &[u8]) -> Result<IssuedChain, String> {
    let text = std::str::from_utf8(pem).map_err(|_| "it is no text".to_owned())?;
    let mut certificates = Certificate::parse_all(text).map_err(|error| logging::chain(&error))?;
    if certificates.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    if let Some(leaf) = certificates.iter().position(|one| one.spki_der() == spki_der) {
        certificates[..=leaf].rotate_right(1);
    }
    let der = |one: &Certificate| CertificateDer::clone(one.der());
    Ok(certificates.iter().map(der).collect())
}

#[cfg(test)]
mod tests {
    use ensign_pki::{KeyType, PrivateKey};
    use proptest::prelude::*;
    use rcgen::{CertificateParams, Issuer};

    use super::*;

    /// A leaf, an intermediate and a root, in PEM.
    fn chain(key: &PrivateKey) -> [String; 3] {
        let keys = [(); 2].map(|()| PrivateKey::generate(KeyType::P256).unwrap());
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&keys[0]).unwrap();
        let issuer = Issuer::new(params.clone(), &keys[0]);
        let intermediate = params.signed_by(&keys[1], &issuer).unwrap();
        let issuer = Issuer::new(params, &keys[1]);
        let leaf = CertificateParams::default().signed_by(key, &issuer).unwrap();
        [leaf.pem(), intermediate.pem(), root.pem()]
    }

    proptest! {
        #[test]
        fn whatever_the_order_the_certificate_of_the_key_comes_first(
            order in Just(vec![0, 1, 2]).prop_shuffle(),
            comment in "[a-z ]{0,20}",
        ) {
            let key = PrivateKey::generate(KeyType::P256).unwrap();
            let pems = chain(&key);
            let text: String = order.iter().map(|&at| format!("{comment}\n{}", pems[at])).collect();
            let read = read_chain(text.as_bytes(), &key.spki_der()).unwrap();
            prop_assert_eq!(read.len(), 3);
            let first = Certificate::parse_der(&read[0]).unwrap();
            prop_assert_eq!(first.spki_der(), key.spki_der());
        }

        #[test]
        fn no_bytes_break_the_reading(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            _ = read_chain(&bytes, b"key");
        }
    }

    #[test]
    fn a_chain_without_the_key_stays_as_it_is() {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let pems = chain(&key);
        let read = read_chain(pems.concat().as_bytes(), b"another").unwrap();
        let whole: Vec<_> = pems
            .iter()
            .map(|pem| Certificate::parse_pem(pem).unwrap().der().clone())
            .collect();
        assert_eq!(read, whole);
    }
}
