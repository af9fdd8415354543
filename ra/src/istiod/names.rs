//! The names in istiod's certificate, as istio-csr writes them.

use ensign_pki::{SpiffeId, SpiffeIdError, TrustDomain};

use crate::signer::ServerIdentity;

/// Where istiod runs, and as which revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IstiodNames {
    /// Its namespace.
    pub namespace: String,
    /// Its revisions; none is the default one.
    pub revisions: Vec<String>,
    /// Names beside those of its Services.
    pub more: Vec<String>,
}

// === impl IstiodNames ===

impl IstiodNames {
    /// The name of the default revision's Service, also where that revision is not among them.
    pub fn common_name(&self) -> String {
        format!("istiod.{}.svc", self.namespace)
    }

    /// One name per revision, in their order, then the others. The default revision's Service has no revision in its name.
    pub fn dns(&self) -> Vec<String> {
        if self.revisions.is_empty() {
            return std::iter::once(self.common_name())
                .chain(self.more.iter().cloned())
                .collect();
        }
        let service = |revision: &String| match revision.as_str() {
            DEFAULT => self.common_name(),
            other => format!("istiod-{other}.{}.svc", self.namespace),
        };
        self.revisions
            .iter()
            .map(service)
            .chain(self.more.iter().cloned())
            .collect()
    }

    /// Its id in the mesh.
    pub fn id(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::new(trust_domain, &self.namespace, ACCOUNT)
    }

    /// All of them, for a request of our own.
    pub fn identity(&self, trust_domain: &TrustDomain) -> Result<ServerIdentity, SpiffeIdError> {
        Ok(ServerIdentity {
            dns: self.dns(),
            addresses: Vec::new(),
            id: Some(self.id(trust_domain)?),
        })
    }
}

const DEFAULT: &str = "default";
const ACCOUNT: &str = "istiod-service-account";

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(&[], &["istiod.ns.svc"]; "none")]
    #[test_case(&["default"], &["istiod.ns.svc"]; "the default alone")]
    #[test_case(&["default", "a"], &["istiod.ns.svc", "istiod-a.ns.svc"]; "the default first")]
    #[test_case(&["a", "default", "b"], &["istiod-a.ns.svc", "istiod.ns.svc", "istiod-b.ns.svc"]; "the default in the middle")]
    #[test_case(&["a", "b"], &["istiod-a.ns.svc", "istiod-b.ns.svc"]; "no default")]
    #[test_case(&["a", "a"], &["istiod-a.ns.svc", "istiod-a.ns.svc"]; "one twice")]
    fn each_revision_has_its_service(revisions: &[&str], expected: &[&str]) {
        let mut names = IstiodNames {
            namespace: "ns".to_owned(),
            revisions: revisions.iter().map(ToString::to_string).collect(),
            more: Vec::new(),
        };
        assert_eq!(names.dns(), expected);
        assert_eq!(names.common_name(), "istiod.ns.svc");
        names.more = vec!["istiod.example.com".to_owned()];
        assert_eq!(names.dns().last().unwrap(), "istiod.example.com");
    }

    #[test]
    fn its_id_is_that_of_its_service_account() {
        let names = IstiodNames {
            namespace: "istio-system".to_owned(),
            revisions: Vec::new(),
            more: Vec::new(),
        };
        let id = names.id(&"foo.bar".parse().unwrap()).unwrap();
        assert_eq!(
            id.as_str(),
            "spiffe://foo.bar/ns/istio-system/sa/istiod-service-account"
        );
    }
}
