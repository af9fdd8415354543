//! From facts to findings: each part that is needed, as it is or as it must become.

use ensign_daemon::Finding;
use ensign_pki::Bundle;

use super::facts::{Agents, Asked, Authority, Facts, Ra, Roots, Service};
use crate::access::Looked;
use crate::driver;

/// All that is to be said; `asked` is none if no signer was asked.
pub fn judge(facts: &Facts, asked: Option<&[Asked]>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let audience = match &facts.agents {
        Looked::There(agents) => {
            findings.extend(the_agents(agents));
            findings.extend(pod_security(&facts.pod_security, agents));
            findings.extend(quota(facts, agents));
            Some(agents.audience.as_str())
        }
        Looked::Missing => {
            let cause = "there is no DaemonSet with the label app.kubernetes.io/name=ensign-agent";
            findings.push(Finding::wrong(
                "no_daemonset",
                cause,
                "install deploy/daemonset.yaml or the chart",
            ));
            None
        }
        Looked::Unreadable(why) => {
            findings.push(unreadable(
                "the agents' DaemonSet",
                why,
                "`list` daemonsets and `get` configmaps (in --agent-namespace)",
            ));
            None
        }
    };
    let wrong = driver::judge(&facts.driver, audience);
    if wrong.is_empty() {
        findings.push(Finding::ok(
            "csidriver",
            format!("the CSIDriver {} is as the agents need it", driver::DRIVER),
        ));
    }
    findings.extend(wrong);
    findings.extend(ra(&facts.ra, audience));
    if let Some(agents) = facts.agents.there() {
        findings.extend(service(&facts.service, &agents.authority));
        findings.extend(roots(&facts.roots));
        findings.extend(signers(asked));
        findings.extend(asked.and_then(|asked| unknown_signers(&facts.ra, asked)));
    }
    findings
}

fn the_agents(agents: &Agents) -> Vec<Finding> {
    let (place, desired) = (agents.place(), agents.desired);
    if desired == 0 {
        let cause = format!("{place} wants no node");
        return vec![Finding::wrong(
            "no_nodes",
            cause,
            "check its nodeSelector, affinity and tolerations",
        )];
    }
    if agents.current < desired {
        let cause = format!("{place} has {} pods on {desired} nodes", agents.current);
        let fix = format!(
            "see why the others are not admitted (Pod Security, quota): `kubectl describe daemonset -n {} {}`",
            agents.namespace, agents.name
        );
        return vec![Finding::wrong("agents_missing", cause, fix)];
    }
    if agents.ready < desired {
        let cause = format!("{place}: {} of {desired} agents are ready", agents.ready);
        let fix = format!(
            "see `kubectl get pods -n {} -o wide` and what `/readyz` of those says",
            agents.namespace
        );
        return vec![Finding::wrong("agents_not_ready", cause, fix)];
    }
    vec![Finding::ok(
        "agents",
        format!("{place}: all {desired} agents are ready"),
    )]
}

/// hostPath is allowed under `privileged` alone.
fn pod_security(label: &Looked<String>, agents: &Agents) -> Option<Finding> {
    let namespace = &agents.namespace;
    let fix = format!("`kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged`");
    match label {
        Looked::There(level) if level == "privileged" => None,
        Looked::There(level) => {
            let cause =
                format!("namespace {namespace} enforces Pod Security {level:?}, which forbids the agents' hostPath");
            Some(Finding::wrong("pod_security", cause, fix))
        }
        Looked::Missing => {
            let cause = format!(
                "namespace {namespace} has no Pod Security label, so the cluster's default decides whether hostPath is allowed"
            );
            Some(Finding::note("pod_security", cause, fix))
        }
        Looked::Unreadable(why) => Some(unreadable("the agents' namespace", why, "`get` namespaces")),
    }
}

/// GKE admits pods of the system classes outside kube-system only where a quota names the class.
fn quota(facts: &Facts, agents: &Agents) -> Option<Finding> {
    let class = agents
        .priority_class
        .as_deref()
        .filter(|class| class.starts_with("system-"))?;
    if !facts.gke {
        return None;
    }
    match &facts.quota {
        Looked::There(true) => None,
        Looked::There(false) | Looked::Missing => {
            let cause = format!(
                "this is GKE, and namespace {} has no ResourceQuota for priority class {class}: the agents' pods are not admitted",
                agents.namespace
            );
            Some(Finding::wrong(
                "quota",
                cause,
                "set agent.resourceQuota.enabled of the chart, or make a ResourceQuota whose scopeSelector names the class",
            ))
        }
        Looked::Unreadable(why) => Some(unreadable(
            "the namespace's ResourceQuotas",
            why,
            "`list` resourcequotas",
        )),
    }
}

fn ra(ra: &Looked<Ra>, audience: Option<&str>) -> Vec<Finding> {
    match ra {
        Looked::There(ra) => {
            let Some(audience) = audience.filter(|audience| !ra.audiences.iter().any(|known| known == audience)) else {
                return Vec::new();
            };
            let cause = format!(
                "the RA in namespace {} takes tokens of {:?}, the agents send those of {audience:?}: it will answer UNAUTHENTICATED",
                ra.namespace, ra.audiences
            );
            let fix =
                "make --token-audiences (TOKEN_AUDIENCES) of the RA name the audience of the CSIDriver's tokenRequests";
            vec![Finding::wrong("ra_audience", cause, fix)]
        }
        Looked::Missing => {
            let cause = format!("there is no Deployment with the labels {}", crate::RAS);
            let fix = "that is right if the authority is istiod or istio-csr; else install deploy/ra.yaml";
            vec![Finding::note("no_ra", cause, fix)]
        }
        Looked::Unreadable(why) => {
            vec![unreadable(
                "the RA's Deployment",
                why,
                "`list` deployments and `get` configmaps (in --ra-namespace)",
            )]
        }
    }
}

fn service(service: &Looked<Service>, authority: &Authority) -> Vec<Finding> {
    let Authority { host, port, .. } = authority;
    match service {
        Looked::Missing => {
            let cause = format!("the agents ask {host}:{port}, but there is no such Service");
            vec![Finding::wrong(
                "no_service",
                cause,
                "correct CA_ADDR of the agents, or install the RA there",
            )]
        }
        Looked::Unreadable(why) => {
            let cause = format!("what is behind {host}:{port} cannot be seen: {why}");
            let fix = "`get` services and `list` endpointslices there; an authority outside the cluster has to be tried from a node";
            vec![Finding::unknown("unreadable", cause, fix)]
        }
        Looked::There(found) if !found.ports.contains(port) => {
            let cause = format!(
                "Service {}/{} has no port {port}, it has {:?}",
                found.namespace, found.name, found.ports
            );
            vec![Finding::wrong(
                "no_service",
                cause,
                "correct the port in CA_ADDR of the agents",
            )]
        }
        Looked::There(found) if found.pods.is_empty() => {
            let cause = format!(
                "Service {}/{} has no ready pod behind port {port}",
                found.namespace, found.name
            );
            let fix = format!(
                "see `kubectl get pods -n {}` and what `/readyz` of the authority says",
                found.namespace
            );
            vec![Finding::wrong("no_endpoints", cause, fix)]
        }
        Looked::There(found) => {
            let cause = format!("{host}:{port} leads to {} ready pods", found.pods.len());
            vec![Finding::ok("service", cause)]
        }
    }
}

fn roots(roots: &Looked<Roots>) -> Vec<Finding> {
    let missing =
        "the RA writes it once it runs (--root-configmaps, --configmap-namespace-selector); see who else should";
    match roots {
        Looked::Unreadable(why) => {
            let cause = format!("the roots of the authority's certificate cannot be seen: {why}");
            vec![Finding::unknown(
                "unreadable",
                cause,
                "`get` configmaps in the agents' namespace",
            )]
        }
        Looked::Missing => Vec::new(),
        Looked::There(Roots { place, pem: None }) => {
            let cause = format!("{place} is not there, so the agents trust no authority yet");
            vec![Finding::wrong("no_roots", cause, missing)]
        }
        Looked::There(Roots { place, pem: Some(pem) }) => match Bundle::parse_pem(pem) {
            Ok(bundle) => vec![Finding::ok(
                "roots",
                format!("{place} holds {} certificates", bundle.len()),
            )],
            Err(error) => {
                let cause = format!("{place} cannot be used: {}", ensign_daemon::logging::chain(&error));
                vec![Finding::wrong(
                    "bad_roots",
                    cause,
                    "it must hold PEM certificates and nothing else; see who writes it",
                )]
            }
        },
    }
}

fn signers(asked: Option<&[Asked]>) -> Vec<Finding> {
    let Some(asked) = asked else {
        let cause = "no signer was asked for a certificate";
        let fix = "name an account for which one may be issued: --service-account NAMESPACE/NAME";
        return vec![Finding::note("signers_not_asked", cause, fix)];
    };
    asked.iter().map(signer).collect()
}

/// Whether the RA may have signers that were not asked. Who names them knows what he asks.
fn unknown_signers(ra: &Looked<Ra>, asked: &[Asked]) -> Option<Finding> {
    let unread = &ra.there()?.signers.unread;
    let named = asked.iter().all(|asked| asked.signer.is_some());
    if unread.is_empty() || named {
        return None;
    }
    let cause = format!("the RA may have signers that were not asked: {}", unread.join("; "));
    let fix = "let it be read, or name the signers: --signer NAME";
    Some(Finding::unknown("signers_unknown", cause, fix))
}

fn signer(asked: &Asked) -> Finding {
    let Asked {
        account,
        signer,
        answer,
    } = asked;
    let name = signer
        .as_deref()
        .map_or_else(|| "the default signer".to_owned(), |name| format!("signer {name}"));
    let refused = match answer {
        Ok(issued) => {
            let cause = format!(
                "{name} issued a certificate for {} until {}; it was thrown away",
                issued.id, issued.until
            );
            return Finding::ok("signer", cause);
        }
        Err(refused) => refused,
    };
    let (logged, id) = match &refused.request_id {
        Some(id) => (format!(" (request {id})"), id.as_str()),
        None => (String::new(), "the request"),
    };
    let cause = format!("{name} issued nothing for {account}{logged}: {}", refused.message);
    match refused.reason.as_str() {
        "permission_denied" => {
            let fix = format!(
                "if {account} shall not use it, ask with one that may; else see the policy, and the RA's log for {id}"
            );
            Finding::note("signer_not_allowed", cause, fix)
        }
        "token_request" => {
            let fix = "name an account that exists, and ask as one that may `create` serviceaccounts/token there";
            Finding::unknown("no_token", cause, fix)
        }
        "forward" => Finding::unknown(
            "ra_unseen",
            cause,
            "ask as one that may `create` pods/portforward in the RA's namespace",
        ),
        "connect" | "deadline" => {
            let fix = "check that the roots are those of the RA's certificate, and that it bears the host of CA_ADDR (or ISTIOD_SAN)";
            Finding::wrong("ra_away", cause, fix)
        }
        _ => Finding::wrong(
            "signer",
            cause,
            format!("look in the RA's log for {id}, and at the signer"),
        ),
    }
}

fn unreadable(what: &str, why: &str, right: &str) -> Finding {
    let fix = format!("ask with an account that may {right}");
    Finding::unknown("unreadable", format!("{what} cannot be read: {why}"), fix)
}
