//! The trust anchors of Istio's mesh configuration: which roots belong to which signer.
//!
//! As Istio's API says of `caCertificates`: an entry counts for the signers in its `certSigners` and the trust domains
//! in its `trustDomains`, and for all of them where a list is empty; entries for one signer are merged. (istiod itself
//! passes entries without signers over, keeps what was removed and does not merge; this does not.)

use ensign_pki::{Bundle, BundleError, TrustDomain};

use super::KubernetesSigner;

/// The roots of one entry of `caCertificates`, and for whom they count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Anchor {
    /// Empty: for every signer.
    pub(super) signers: Vec<KubernetesSigner>,
    /// As written; empty: for every trust domain.
    pub(super) trust_domains: Vec<String>,
    /// The roots.
    pub(super) bundle: Bundle,
}

/// All roots, by the entries that they come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Anchors(Vec<Anchor>);

// === impl Anchor ===

impl Anchor {
    fn counts_for(&self, signer: &KubernetesSigner) -> bool {
        self.signers.is_empty() || self.signers.contains(signer)
    }

    /// Whether it is for one of our names.
    pub(super) fn is_of(&self, trust_domain: &TrustDomain, aliases: &[String]) -> bool {
        let ours = |name: &String| name == trust_domain.as_str() || aliases.contains(name);
        self.trust_domains.is_empty() || self.trust_domains.iter().any(ours)
    }
}

// === impl Anchors ===

impl Anchors {
    pub(super) fn push(&mut self, anchor: Anchor) {
        self.0.push(anchor);
    }

    /// The roots of a signer's certificates in this trust domain: all entries that count, merged. None: none counts.
    pub(super) fn of(
        &self,
        signer: &KubernetesSigner,
        trust_domain: &TrustDomain,
        aliases: &[String],
    ) -> Result<Option<Bundle>, BundleError> {
        let counts = |anchor: &&Anchor| anchor.counts_for(signer) && anchor.is_of(trust_domain, aliases);
        let mut merged: Option<Bundle> = None;
        for anchor in self.0.iter().filter(counts) {
            merged = Some(match merged {
                Some(bundle) => bundle.union(&anchor.bundle)?,
                None => anchor.bundle.clone(),
            });
        }
        Ok(merged)
    }

    /// Keeps from `before` what an entry that cannot be read now may have given: all that its signers had, or, if it names
    /// none, all that was for every signer. So a slip of the pen takes no root away from anybody.
    pub(super) fn keep(&mut self, before: &Self, scope: &[KubernetesSigner]) {
        for anchor in &before.0 {
            let kept = if scope.is_empty() {
                anchor.signers.is_empty().then(Vec::new)
            } else {
                let named: Vec<_> = scope
                    .iter()
                    .filter(|signer| anchor.counts_for(signer))
                    .cloned()
                    .collect();
                (!named.is_empty()).then_some(named)
            };
            let kept = kept.map(|signers| Anchor {
                signers,
                ..anchor.clone()
            });
            // Kept again and again while the entry stays broken, and once is enough.
            if let Some(anchor) = kept.filter(|anchor| !self.0.contains(anchor)) {
                self.push(anchor);
            }
        }
    }
}
