//! From facts to findings, in the order in which a certificate comes about; what follows from an earlier finding is not told twice.

use std::collections::BTreeSet;

use ensign_daemon::Finding;

use super::facts::{Agent, Facts, MountFailure, Pod, Proxy, Volume};
use super::failure;
use crate::access::Looked;
use crate::driver;
use crate::status::{Certificate, Status, Workload};

/// All that is to be said of the pod.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let pod = &facts.pod;
    if pod.finished {
        let cause = "the pod has ended: its volume and its certificate went with it";
        return vec![Finding::note("pod_ended", cause, "look at a pod that runs")];
    }
    if pod.volumes.is_empty() {
        return vec![no_volume(pod.proxy.as_ref())];
    }
    let Some(node) = &pod.node else {
        let cause = "the pod has no node yet, so no kubelet has looked at its volume";
        return vec![Finding::wrong(
            "not_scheduled",
            cause,
            "see the scheduler's events in `kubectl describe pod`",
        )];
    };
    let mut findings = volumes(pod);
    let audience = facts.agent.there().and_then(|agent| agent.audience.as_deref());
    findings.extend(driver::judge(&facts.driver, audience));
    let known = registration(facts, node, &mut findings);
    mounts(facts, known, &mut findings);
    let refused = findings.iter().any(|finding| finding.code == "mount_refused");
    match &facts.status {
        None => {}
        Some(Err(why)) => {
            let cause = format!("the agent on node {node} cannot be asked: {why}");
            let fix = "ask with an account that may `create` pods/portforward in the agent's namespace, or on the node: `kubectl exec AGENT-POD -- ensign-agent status`";
            findings.push(Finding::unknown("agent_silent", cause, fix));
        }
        Some(Ok(status)) => said(pod, status, known && !refused, &mut findings),
    }
    findings
}

fn no_volume(proxy: Option<&Proxy>) -> Finding {
    if proxy.is_some() {
        let cause =
            "Istio's proxy was injected without a volume of csi.ensign.mesh: the template `ensign` was not applied";
        let fix = "annotate the pod template with `inject.istio.io/templates: sidecar,ensign` (gateway,ensign for a gateway) and have the pod made again";
        return Finding::wrong("no_template", cause, fix);
    }
    let cause = "the pod has neither a volume of csi.ensign.mesh nor Istio's proxy";
    let fix = "let Istio inject it with the template `ensign`, or add an inline `csi:` volume of driver csi.ensign.mesh, readOnly: true, and have the pod made again";
    Finding::wrong("no_volume", cause, fix)
}

/// Whether the pod uses what it has.
fn volumes(pod: &Pod) -> Vec<Finding> {
    let unused = pod.volumes.iter().filter(|volume| !volume.mounted);
    let mut findings: Vec<Finding> = unused
        .map(|volume| {
            let cause = format!("no container mounts the volume {:?}", volume.name);
            Finding::wrong(
                "volume_not_mounted",
                cause,
                "list it in volumeMounts of the container with Envoy",
            )
        })
        .collect();
    findings.extend(pod.proxy.as_ref().and_then(|proxy| socket(proxy, &pod.volumes)));
    findings
}

/// Istio's pilot-agent looks for one path. If nothing answers there and the name is its own default, it falls back to Istio's own CA without
/// a word; with any other name it ends.
fn socket(proxy: &Proxy, volumes: &[Volume]) -> Option<Finding> {
    let file = proxy.socket_file.as_deref().unwrap_or(ISTIO_SOCKET);
    let then = if file == ISTIO_SOCKET {
        "uses Istio's own CA"
    } else {
        "does not start"
    };
    let Some((volume, path)) = &proxy.mount else {
        let cause = format!("container istio-proxy does not mount the volume of csi.ensign.mesh, so it {then}");
        let fix = format!("mount it there at {WORKLOAD_SOCKETS}, as the template `ensign` does");
        return Some(Finding::wrong("socket_not_used", cause, fix));
    };
    let attribute = volumes
        .iter()
        .find(|known| known.name == *volume)?
        .attributes
        .get("socketName");
    let name = attribute.map_or(DEFAULT_SOCKET, String::as_str);
    if path.trim_end_matches('/') == WORKLOAD_SOCKETS && file == name {
        return None;
    }
    let cause = format!(
        "the socket is {path}/{name}, but istio-proxy looks for {WORKLOAD_SOCKETS}/{file}, finds nothing and {then}"
    );
    let fix = format!(
        "mount the volume at {WORKLOAD_SOCKETS} and set WORKLOAD_IDENTITY_SOCKET_FILE={name}, as the template `ensign` does"
    );
    Some(Finding::wrong("socket_not_used", cause, fix))
}

/// Whether the node has an agent that kubelet knows. True unless it is clear that it has not.
fn registration(facts: &Facts, node: &str, findings: &mut Vec<Finding>) -> bool {
    match &facts.agent {
        Looked::Missing => {
            let cause = format!("no agent runs on node {node}");
            let fix = "see the DaemonSet ensign-agent and its events: nodeSelector, tolerations, quota, Pod Security of its namespace; `ensign-agent preflight --cluster` checks them";
            findings.push(Finding::wrong("no_agent", cause, fix));
            return false;
        }
        Looked::Unreadable(why) => findings.push(unreadable(
            "pods of the agents",
            why,
            "`list` pods in the agents' namespace (--agent-namespace)",
        )),
        Looked::There(Agent {
            namespace,
            name,
            trouble: Some(trouble),
            ..
        }) => {
            let cause = format!("the agent {namespace}/{name} on node {node} does not run: {trouble}");
            let fix = format!("read what it said last: `kubectl logs -n {namespace} {name} --previous`");
            findings.push(Finding::wrong("agent_down", cause, fix));
            return false;
        }
        Looked::There(_) => {}
    }
    match &facts.registered {
        Looked::There(true) => true,
        Looked::There(false) | Looked::Missing => {
            let cause =
                format!("the CSINode {node} does not list csi.ensign.mesh: kubelet has not registered the driver");
            let fix = "check that the agent's hostPath for plugins_registry is the one of this kubelet's --root-dir (agent.kubeletDir, --kubelet-dir), and see kubelet's log";
            findings.push(Finding::wrong("not_registered", cause, fix));
            false
        }
        Looked::Unreadable(why) => {
            findings.push(unreadable("CSINode of its node", why, "`get` CSINodes"));
            true
        }
    }
}

fn mounts(facts: &Facts, known: bool, findings: &mut Vec<Finding>) {
    match &facts.mounts {
        Looked::Missing => {}
        Looked::Unreadable(why) => {
            findings.push(unreadable("events of the pod", why, "`list` events in its namespace"));
        }
        // Events stay for an hour: those of a pod that has started are history.
        Looked::There(_) if !facts.pod.waiting => {}
        Looked::There(failures) => {
            let failures = failures
                .iter()
                .filter(|failure| known || !failure::is_unregistered(&failure.message));
            let status = facts.status.as_ref().and_then(|status| status.as_ref().ok());
            let held = status.is_some_and(|status| workloads(&facts.pod, status).next().is_some());
            // Of several volumes the agent does not say which it has.
            let published = held && facts.pod.volumes.len() == 1;
            findings.extend(newest(failures, &facts.pod, published));
        }
    }
}

/// The newest failure of each volume, ours first: the older ones are mostly the same. What kubelet says of all volumes that are
/// missing follows from one of these, if there is one. Of our volume it is history once the agent has it.
fn newest<'a>(failures: impl Iterator<Item = &'a MountFailure>, pod: &Pod, published: bool) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let (mut ours, mut others, mut all) = (Vec::new(), Vec::new(), None);
    for failure in failures {
        let Some(name) = failure::volume(&failure.message) else {
            all.get_or_insert(failure);
            continue;
        };
        if !seen.insert(name) {
            continue;
        }
        if pod.volumes.iter().any(|volume| volume.name == name) {
            ours.extend((!published).then(|| failure::mount(failure, true)));
        } else {
            others.push(failure::mount(failure, false));
        }
    }
    ours.extend(others);
    if ours.is_empty() {
        ours.extend(all.map(|failure| failure::mount(failure, false)));
    }
    ours
}

/// What the agent holds for this pod.
fn workloads<'a>(pod: &Pod, status: &'a Status) -> impl Iterator<Item = &'a Workload> {
    let prefix = format!("csi/{}/{}/{}", pod.namespace, pod.name, pod.uid);
    status.workloads.iter().filter(move |workload| {
        let rest = workload.workload.strip_prefix(&prefix);
        rest.is_some_and(|rest| rest.starts_with('/'))
    })
}

/// `publishable`: nothing told so far keeps kubelet from handing the volume over.
fn said(pod: &Pod, status: &Status, publishable: bool, findings: &mut Vec<Finding>) {
    for pending in &status.pending {
        findings.push(match pending.name.as_str() {
            "ca-roots" => {
                let fix = "give the agent the roots of the RA's certificate: the ConfigMap istio-ca-root-cert of its namespace, which the RA writes once it runs";
                Finding::wrong("no_roots", pending.reason.clone(), fix)
            }
            name => {
                let fix = "wait a minute; if it stays so, see the agent's log";
                Finding::wrong("agent_not_ready", format!("{name}: {}", pending.reason), fix)
            }
        });
    }
    let mut workloads = workloads(pod, status).peekable();
    if workloads.peek().is_none() && publishable {
        let cause = "kubelet has not handed the pod's volume to the agent yet, or has taken it back";
        let fix = "wait for kubelet's next look at the pod, a minute or two; if it stays so, see the pod's events and kubelet's log";
        findings.push(Finding::wrong("not_published", cause, fix));
    }
    let roots = status.pending.iter().all(|pending| pending.name != "ca-roots");
    for workload in workloads {
        if workload.certificates.is_empty() {
            findings.push(nobody_asked(workload));
        }
        for certificate in &workload.certificates {
            findings.extend(certificates(workload, certificate, roots));
        }
    }
}

fn nobody_asked(workload: &Workload) -> Finding {
    let cause = format!(
        "the socket is there, but no Envoy has asked for a certificate ({} connections): nobody named a signer, so none is fetched beforehand",
        workload.connections
    );
    let fix = "see that Envoy runs and that its SDS cluster points at the socket; pilot-agent says in its log which socket it found";
    Finding::wrong("nobody_asked", cause, fix)
}

fn certificates(workload: &Workload, certificate: &Certificate, roots: bool) -> Vec<Finding> {
    let signer = certificate.signer.as_deref().unwrap_or("the authority's default");
    if let Some(failure) = &certificate.last_error {
        // Without roots nothing can be asked, which is told already.
        let follows = !roots && failure.reason == "connect";
        return if follows {
            Vec::new()
        } else {
            vec![failure::request(certificate, failure)]
        };
    }
    let until = certificate.not_after.as_deref();
    match (certificate.state.as_str(), until) {
        ("expired", _) => {
            let cause = format!("the certificate of {} from signer {signer} has expired", certificate.id);
            vec![Finding::wrong(
                "expired",
                cause,
                "the agent asks for another; see its log for what keeps it",
            )]
        }
        (_, None) => {
            let cause = format!(
                "the certificate of {} from signer {signer} is being asked for",
                certificate.id
            );
            vec![Finding::wrong(
                "waiting",
                cause,
                "ask again in a moment; a slow signer may take its whole deadline",
            )]
        }
        (state, Some(until)) => {
            let held = if certificate.adopted {
                ", held by Envoy from before the agent's start"
            } else {
                ""
            };
            let renewed = certificate.renew_at.as_deref().unwrap_or("now");
            let cause = format!(
                "{} from signer {signer} until {until}, renewed at {renewed} ({state}{held})",
                certificate.id
            );
            let mut findings = vec![Finding::ok("certificate", cause)];
            if workload.connections == 0 {
                let cause = "no Envoy is connected to the socket at the moment";
                findings.push(Finding::note(
                    "no_envoy",
                    cause,
                    "if the pod has an Envoy that runs, see its log",
                ));
            }
            findings
        }
    }
}

fn unreadable(what: &str, why: &str, right: &str) -> Finding {
    let fix = format!("ask with an account that may {right}");
    Finding::unknown("unreadable", format!("{what} cannot be read: {why}"), fix)
}

/// Where pilot-agent looks, whatever the file is called (Istio, pkg/security/security.go).
const WORKLOAD_SOCKETS: &str = "/var/run/secrets/workload-spiffe-uds";

/// The name that pilot-agent looks for where it is told none.
const ISTIO_SOCKET: &str = "socket";
/// Of a volume that names none.
const DEFAULT_SOCKET: &str = "ensign.sock";
