//! What a failed request of the agent, or a failed mount of kubelet, is as a finding.

use ensign_daemon::Finding;

use super::facts::MountFailure;
use crate::driver::DRIVER;
use crate::status::{Certificate, Failure};

/// A failed request; what it leaves of the certificate is in its cause.
pub(super) fn request(certificate: &Certificate, failure: &Failure) -> Finding {
    let left = match (certificate.state.as_str(), &certificate.not_after) {
        ("expired", Some(end)) => format!("; the certificate before it ended at {end}"),
        (_, Some(end)) => format!("; the certificate before it serves until {end}"),
        (_, None) => String::new(),
    };
    let signer = certificate.signer.as_deref().unwrap_or("the authority's default");
    let code = code(&failure.reason);
    let (logged, look) = match &failure.request_id {
        Some(id) => (
            format!(", request {id}"),
            format!(
                " The exact reason is in the RA's log under {id}: `kubectl logs -A -l {} --prefix --tail=-1 | grep {id}`",
                crate::RAS
            ),
        ),
        None => (String::new(), String::new()),
    };
    let cause = format!(
        "{} for {} from signer {signer}: {} ({}{logged}, at {}){left}",
        what(code),
        certificate.id,
        failure.message,
        failure.reason,
        failure.at
    );
    Finding::wrong(code, cause, format!("{}{look}", failure.next))
}

fn code(reason: &str) -> &'static str {
    match reason {
        "token" => "token",
        "connect" | "deadline" | "unavailable" | "resource_exhausted" => "ra_away",
        "unauthenticated"
        | "permission_denied"
        | "invalid_argument"
        | "failed_precondition"
        | "internal"
        | "unimplemented"
        | "status" => "ra_refused",
        "key" | "csr" => "key",
        "refused_by_envoy" => "refused_by_envoy",
        // All others are reasons not to trust what was issued.
        _ => "bad_certificate",
    }
}

fn what(code: &str) -> &'static str {
    match code {
        "token" => "the agent has no token to ask with",
        "ra_away" => "the authority gives no answer",
        "ra_refused" => "the authority refused the request",
        "key" => "the agent cannot make the key or the request",
        "refused_by_envoy" => "Envoy refused the certificate",
        _ => "what the authority issued is not fit to be served",
    }
}

/// Kubelet's FailedMount: its own words, or ours out of them. Only of a volume of ours was it our agent that answered.
pub(super) fn mount(failure: &MountFailure, ours: bool) -> Finding {
    let (message, count) = (&failure.message, failure.count);
    let times = if count > 1 {
        format!(" ({count} times)")
    } else {
        String::new()
    };
    // `MountVolume.SetUp failed for volume "x" : rpc error: code = InvalidArgument desc = CAUSE; FIX`
    let said = message.split_once(" desc = ").filter(|_| ours);
    if let Some((cause, fix)) = said.and_then(|(_, said)| said.split_once("; ")) {
        let of = volume(message).unwrap_or_default();
        return Finding::wrong(
            "mount_refused",
            format!("the agent refused the volume {of:?}{times}: {cause}"),
            fix,
        );
    }
    let fix = if said.is_some() {
        "look at the agent on this node"
    } else {
        "see `kubectl describe pod` and kubelet's log on the node"
    };
    let whose = if ours { "the volume" } else { "another volume" };
    Finding::wrong(
        "mount_error",
        format!("kubelet cannot mount {whose}{times}: {message}"),
        fix,
    )
}

/// Which volume kubelet speaks of; none if of all that are missing.
pub(super) fn volume(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(" for volume \"")?;
    rest.split_once('"').map(|(name, _)| name)
}

/// Whether kubelet says that it does not know our driver.
pub(super) fn is_unregistered(message: &str) -> bool {
    message.contains(&format!(
        "driver name {DRIVER} not found in the list of registered CSI drivers"
    ))
}
