//! Files that the figures need before the programs start: a CA in the RA's layout, and bundles of roots.

use std::os::unix::fs::PermissionsExt as _;

use ensign_testbed::folder::Folder;
use ensign_testbed::world::{Rule, Signer, Workload, WorldSpec};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// The one signer of every world here, and the one namespace.
pub(crate) const SIGNER: &str = "foo";

/// A world with this many workloads `w0`, `w1`, … `warm`: the operator fixed the signer, so certificates are fetched at once.
pub(crate) fn world(workloads: usize, warm: bool) -> WorldSpec {
    let workload = |number: usize| Workload {
        name: name(number),
        namespace: SIGNER.to_owned(),
        signer: warm.then(|| SIGNER.to_owned()),
        key_type: None,
        node: 0,
    };
    WorldSpec {
        signers: vec![Signer::new(SIGNER, CA)],
        rules: vec![Rule {
            namespace: SIGNER.to_owned(),
            signers: vec![SIGNER.to_owned()],
            default: None,
        }],
        workloads: (0..workloads).map(workload).collect(),
        logs: Some("logs".to_owned()),
        ..WorldSpec::default()
    }
}

/// The name of a workload of [`world`].
pub(crate) fn name(number: usize) -> String {
    format!("w{number}")
}

/// Self-signed P-256 roots in PEM, with their keys.
pub(crate) fn root(common_name: &str) -> anyhow::Result<(String, KeyPair)> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = params(common_name).self_signed(&key)?;
    Ok((certificate.pem(), key))
}

/// What a root of ours looks like.
pub(crate) fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Puts a CA where the RA of [`world`] looks for it; its root in PEM.
pub(crate) fn plug_in(folder: &Folder) -> anyhow::Result<String> {
    let (certificate, key) = root("figures")?;
    for file in ["ca-cert.pem", "root-cert.pem"] {
        folder.write(&format!("{CA}/{file}"), &certificate)?;
    }
    let key = folder.write(&format!("{CA}/ca-key.pem"), key.serialize_pem())?;
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600))?;
    Ok(certificate)
}

const CA: &str = "ca-foo";
