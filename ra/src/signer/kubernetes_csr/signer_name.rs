//! What cert-manager takes a `spec.signerName` for.
//!
//! `issuers.cert-manager.io/NAMESPACE.NAME` and `clusterissuers.cert-manager.io/NAME`; a name may hold dots, a namespace
//! may not. Every other name is somebody else's.

use crate::signer::object::issuers::{GROUP, Issuer, IssuerKind};

/// The issuer that cert-manager would ask, if the name is one of its own.
pub(super) fn cert_manager_issuer(signer_name: &str) -> Option<Issuer> {
    let (domain, path) = signer_name.split_once('/')?;
    if path.is_empty() || path.contains('/') {
        return None;
    }
    let (kind, group) = domain.split_once('.')?;
    if group != GROUP {
        return None;
    }
    match kind {
        "clusterissuers" => Some(Issuer {
            kind: IssuerKind::ClusterIssuer,
            namespace: String::new(),
            name: path.to_owned(),
        }),
        "issuers" => {
            let (namespace, name) = path.split_once('.')?;
            (!namespace.is_empty() && !name.is_empty()).then(|| Issuer {
                kind: IssuerKind::Issuer,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    // cert-manager's own table of its parser, and what its controllers act on.
    #[test_case("", None; "empty")]
    #[test_case("foo.bar", None; "no slash")]
    #[test_case("foo.bar/", None; "nothing after the slash")]
    #[test_case("/foo.bar", None; "nothing before the slash")]
    #[test_case("abc/hello-world", None; "no group")]
    #[test_case("foo.bar/hello-world", None; "another group")]
    #[test_case("clusterissuers.bar.abc.dbc/hello.world.123.456", None; "another group of that type")]
    #[test_case("clusterissuers.cert-manager.io/foo", Some("ClusterIssuer foo"))]
    #[test_case("clusterissuers.cert-manager.io/hello.world.123", Some("ClusterIssuer hello.world.123"); "dots in the name")]
    #[test_case("issuers.cert-manager.io/foo.bar", Some("Issuer foo/bar"))]
    #[test_case("issuers.cert-manager.io/foo.world.123", Some("Issuer foo/world.123"); "dots after the namespace")]
    #[test_case("issuers.cert-manager.io/foo", None; "no namespace")]
    #[test_case("clusterissuers.cert-manager.io/foo/bar", None; "two slashes")]
    #[test_case("awspcaissuers.cert-manager.io/foo.bar", None; "another type")]
    #[test_case("kubernetes.io/kube-apiserver-client", None; "built in")]
    fn names(signer_name: &str, issuer: Option<&str>) {
        let seen = cert_manager_issuer(signer_name).map(|issuer| issuer.to_string());
        assert_eq!(seen.as_deref(), issuer);
    }
}
