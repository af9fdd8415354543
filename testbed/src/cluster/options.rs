//! What a private cluster may be told to be otherwise.

/// How to start a cluster. The default is the shared one's: everything as in production, cert-manager signing CSRs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of some program, and goes to it as it is"
)]
pub struct ClusterOptions {
    /// Whether cert-manager runs at all, its CRDs and webhook included.
    pub cert_manager: bool,
    /// cert-manager's feature gate `ExperimentalCertificateSigningRequestControllers`.
    pub csr_controllers: bool,
    /// Its `--controllers`, for example `["*", "-certificaterequests-approver"]`.
    pub cert_manager_controllers: Vec<String>,
    /// Its limit of API requests per second.
    pub cert_manager_qps: u32,
    /// Whether pods without a node are given one.
    pub scheduler: bool,
    /// The level that Pod Security enforces where a namespace says nothing: `privileged`, as Kubernetes has it, or stricter.
    pub pod_security: &'static str,
    /// Off, a watch reads etcd itself, and meets its compaction.
    pub watch_cache: bool,
    /// More flags for kube-apiserver, whole: `--max-requests-inflight=5`.
    pub api_server_flags: Vec<String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            cert_manager: true,
            csr_controllers: true,
            cert_manager_controllers: vec!["*".to_owned()],
            cert_manager_qps: 1_000,
            scheduler: false,
            pod_security: "privileged",
            watch_cache: true,
            api_server_flags: Vec::new(),
        }
    }
}
