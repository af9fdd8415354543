//! Flags of istio-csr that are accepted, so that a command line can be carried over, and change nothing here.

use clap::Args;
use ensign_daemon::settings::Checker;

use super::values::count;

#[derive(Debug, Clone, Args)]
pub(super) struct WithoutEffectArgs {
    /// From istio-csr, without effect: requests to the API server are never throttled here
    #[arg(
        long,
        env = "ENSIGN_RA_DISABLE_KUBERNETES_CLIENT_RATE_LIMITER",
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    disable_kubernetes_client_rate_limiter: String,
    /// From istio-csr, without effect: one leader writes to the namespaces, as many at once as it takes
    #[arg(
        long,
        env = "ENSIGN_RA_MAX_CONCURRENT_RECONCILES",
        default_value = "1",
        value_name = "N"
    )]
    max_concurrent_reconciles: String,
}

impl WithoutEffectArgs {
    /// What to say of those that somebody set.
    pub(super) fn check(&self, c: &mut Checker<'_>) -> Vec<String> {
        let mut said = Vec::new();
        let limiter = &self.disable_kubernetes_client_rate_limiter;
        if c.parse("disable_kubernetes_client_rate_limiter", limiter, "true or false") == Some(true) {
            let name = c.name("disable_kubernetes_client_rate_limiter");
            said.push(format!(
                "{name} has no effect: requests to the API server are never throttled here"
            ));
        }
        let workers = &self.max_concurrent_reconciles;
        if count(c, "max_concurrent_reconciles", workers, 1).is_some_and(|workers| workers > 1) {
            let name = c.name("max_concurrent_reconciles");
            said.push(format!(
                "{name} has no effect: one leader writes to the namespaces, as many at once as it takes"
            ));
        }
        said
    }
}
