//! Where workloads come from, and the kinds of their keys.

use std::path::{Component, PathBuf};

use ensign_daemon::settings::Checker;
use ensign_pki::{KeyType, TrustDomain};

use super::{Args, set};
use crate::source;

/// Where workloads come from.
pub(super) fn of(
    c: &mut Checker<'_>,
    args: &Args,
    trust_domain: Option<TrustDomain>,
    key_type: Option<KeyType>,
) -> Option<source::Config> {
    match args.source.as_str() {
        "fixed" => fixed(c, args, trust_domain, key_type).map(source::Config::Fixed),
        "csi" => csi(c, args, trust_domain, key_type).map(source::Config::Csi),
        other => {
            c.refuse("source", other, "`fixed` or `csi`", "there is no other source");
            None
        }
    }
}

fn fixed(
    c: &mut Checker<'_>,
    args: &Args,
    trust_domain: Option<TrustDomain>,
    key_type: Option<KeyType>,
) -> Option<source::fixed::Config> {
    let file = set(args.workloads_file.as_deref());
    if file.is_none() {
        c.missing("workloads_file", "the path of the file that lists the workloads");
    }
    Some(source::fixed::Config {
        workloads_file: file?.into(),
        trust_domain: trust_domain?,
        key_type: key_type?,
    })
}

fn csi(
    c: &mut Checker<'_>,
    args: &Args,
    trust_domain: Option<TrustDomain>,
    key_type: Option<KeyType>,
) -> Option<source::csi::Config> {
    let node_name = set(args.node_name.as_deref());
    if node_name.is_none() {
        c.missing(
            "node_name",
            "the node's name, in a DaemonSet from the field spec.nodeName",
        );
    }
    let kubelet_dir = absolute(c, "kubelet_dir", &args.kubelet_dir);
    let state_dir = absolute(c, "state_dir", &args.state_dir);
    let key_types = key_types(c, &args.csi_key_types);
    if args.token_audience.is_empty() {
        c.missing("token_audience", "the audience that the CSIDriver's tokenRequests name");
    }
    Some(source::csi::Config {
        kubelet_dir: kubelet_dir?,
        node_name: node_name?.to_owned(),
        state_dir: state_dir?,
        trust_domain: trust_domain?,
        key_type: key_type?,
        key_types: key_types?,
        audience: Some(args.token_audience.clone()).filter(|audience| !audience.is_empty())?,
    })
}

fn absolute(c: &mut Checker<'_>, id: &str, text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if path.is_absolute() && path.components().all(plain) {
        // Without doubled or trailing slashes, so that it compares with what kubelet sends.
        return Some(path.components().collect());
    }
    c.refuse(id, text, "an absolute path without `..`", "kubelet's paths are");
    None
}

fn key_types(c: &mut Checker<'_>, texts: &[String]) -> Option<Vec<KeyType>> {
    const EXPECTED: &str = "kinds of keys that this build can make, such as P-256,P-384";
    let kinds = texts.iter().filter(|text| !text.is_empty()).map(|text| {
        let kind: KeyType = c.parse("csi_key_types", text, EXPECTED)?;
        c.check("csi_key_types", text, EXPECTED, kind.ensure_generatable())?;
        Some(kind)
    });
    // All of them are looked at.
    kinds.collect::<Vec<_>>().into_iter().collect()
}

/// Istio's three variables for the kind of key, in Istio's meaning: no ECC algorithm means RSA.
pub(super) fn key_type(c: &mut Checker<'_>, args: &Args) -> Option<KeyType> {
    let curve = match args.ecc_curve.as_str() {
        "P256" | "" => Some(KeyType::P256),
        "P384" => Some(KeyType::P384),
        other => {
            // Istio takes any other text for P-256: a weaker key than was asked for.
            c.refuse("ecc_curve", other, "P256 or P384", "no other curve is supported");
            None
        }
    };
    let rsa = match args.workload_rsa_key_size.as_str() {
        "2048" => Some(KeyType::Rsa2048),
        "3072" => Some(KeyType::Rsa3072),
        "4096" => Some(KeyType::Rsa4096),
        other => {
            c.refuse(
                "workload_rsa_key_size",
                other,
                "2048, 3072 or 4096",
                "no other size is supported",
            );
            None
        }
    };
    let kind = match args.ecc_signature_algorithm.as_str() {
        "ECDSA" => curve,
        "RSA" | "" => rsa,
        other => {
            c.refuse(
                "ecc_signature_algorithm",
                other,
                "ECDSA, or RSA (or empty, as in Istio)",
                "unknown algorithm",
            );
            None
        }
    }?;
    let seen = args.ecc_signature_algorithm.as_str();
    c.check(
        "ecc_signature_algorithm",
        seen,
        "a kind of key that this build can make",
        kind.ensure_generatable(),
    )?;
    Some(kind)
}
