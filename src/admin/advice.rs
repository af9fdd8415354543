//! What to do next about a failure, by the short reason that metrics and status carry.
//!
//! One sentence each, for the person on call. A reason that is new here gets a general one, never none.

/// The next step for a failure of this reason.
pub(super) fn for_reason(reason: &str) -> &'static str {
    match reason {
        "token" => {
            "A pod's token comes with kubelet's next look at the pod, within some two minutes: see whether kubelet runs and reaches the API server. For a workloads file: check that the token file exists, is readable for the agent and holds one token."
        }
        "connect" => {
            "Check CA_ADDR, the network to it, and that CA_ROOT_CA holds the root of the authority's certificate."
        }
        "deadline" => "The authority is slow or hangs: look at its logs and load; the agent keeps asking.",
        "unauthenticated" => {
            "The authority refused the token: check its issuer, audience and expiry, and the authority's key set."
        }
        "permission_denied" => {
            "The authority's policy does not allow this identity or signer: look there for the request id."
        }
        "invalid_argument" => "The authority refused the request's form or kind of key: look there for the request id.",
        "failed_precondition" => "The signer denied or failed the request: look at the signer.",
        "resource_exhausted" | "unavailable" => "The authority is overloaded or not ready; the agent keeps asking.",
        "foreign_root" | "outside_pin" | "no_roots" => {
            "The certificate ends in a root outside the signer's bundle: check the signer's roots and pins."
        }
        "wrong_san" | "wrong_key" | "ca_leaf" | "missing_eku" | "missing_key_usage" => {
            "The signer issued something else than was asked for: check its profile; nothing of it was used."
        }
        "expired" | "not_yet_valid" | "root_not_valid" => {
            "A certificate of the reply is not valid now: compare the clocks of node and signer, and the CA's own expiry."
        }
        "refused_by_envoy" => {
            "Envoy refused what was issued and keeps the one before: see its own log, and the signer's profile."
        }
        "key" | "csr" => "The agent could not make a key or request of this kind: see its log.",
        _ => "See the message and the agent's log; the agent keeps asking.",
    }
}
