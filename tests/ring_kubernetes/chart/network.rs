//! NetworkPolicies against the pods that are rendered beside them. Nothing here enforces a policy, so a policy that would cut somebody
//! off is found by its ports alone: a policy sees the port of a pod, never a Service's.

use anyhow::{Context as _, ensure};
use ensign_testbed::{cluster::Manifests, helm};
use kube::{ResourceExt as _, api::DynamicObject};
use serde_json::{Value, json};

use super::{OWN, Result, sets};

/// What a pod is made of.
struct Template<'a> {
    namespace: String,
    labels: &'a Value,
    ports: Vec<&'a Value>,
}

/// Whom a rule is for.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

#[tokio::test]
async fn each_policy_lets_in_and_out_what_its_pods_need() -> Result {
    let mut seen = 0;
    let openshift = ("openshift", json!({ "global": { "platform": "openshift" } }));
    for (set, mut values) in sets::all().into_iter().chain([openshift]) {
        values["networkPolicy"]["enabled"] = json!(true);
        let objects = helm::template(OWN, &values).await?;
        for policy in objects.objects().iter().filter(|object| is(object, "NetworkPolicy")) {
            fits(policy, &objects)
                .with_context(|| format!("{set}: NetworkPolicy {}: {}", policy.name_any(), policy.data))?;
            seen += 1;
        }
    }
    assert_eq!(seen, 10, "policies");
    Ok(())
}

/// The address is a Service's, the port that of the pods behind it.
#[tokio::test]
async fn the_agents_reach_their_authority_wherever_it_is() -> Result {
    let elsewhere = |address: &str, port: u16| {
        json!({
            "networkPolicy": { "enabled": true, "authorityPorts": [port] },
            "agent": { "config": { "CA_ADDR": address } },
        })
    };
    let istio_csr = "cert-manager-istio-csr.cert-manager.svc:443";
    for (mut values, ra, port) in [
        (elsewhere(istio_csr, 6443), false, 6443),
        (elsewhere(istio_csr, 6443), true, 6443),
        (elsewhere("istiod.istio-system.svc:15012", 15012), false, 15012),
    ] {
        values["ra"] = json!({ "enabled": ra });
        let objects = helm::template(OWN, &values).await?;
        let policy = objects.object("NetworkPolicy", "ensign-agent")?;
        ensure!(allows(policy, Way::Out, None, &json!(port)), "{}", policy.data);
    }
    Ok(())
}

#[tokio::test]
async fn names_are_asked_where_the_platforms_dns_listens() -> Result {
    for (platform, port, allowed) in [
        ("", 53, true),
        ("", 5353, false),
        ("openshift", 5353, true),
        ("openshift", 53, true),
    ] {
        let values = json!({ "networkPolicy": { "enabled": true }, "global": { "platform": platform } });
        let objects = helm::template(OWN, &values).await?;
        for name in ["ensign-ra", "ensign-agent"] {
            let policy = objects.object("NetworkPolicy", name)?;
            for protocol in ["UDP", "TCP"] {
                let rules = rules(policy, Way::Out).filter(|rule| rule["to"].is_null());
                let found = rules
                    .flat_map(ports)
                    .any(|open| open["port"] == port && open["protocol"] == protocol);
                ensure!(
                    found == allowed,
                    "{platform:?}, {name}, {port}/{protocol}: {}",
                    policy.data
                );
            }
        }
    }
    Ok(())
}

fn fits(policy: &DynamicObject, objects: &Manifests) -> Result {
    let templates: Vec<_> = objects.objects().iter().filter_map(template).collect();
    let mut selected = templates.iter().filter(|template| {
        Some(&template.namespace) == policy.metadata.namespace.as_ref()
            && selects(&policy.data["spec"]["podSelector"], template.labels)
    });
    let pod = selected.next().context("it is for no pod")?;
    ensure!(selected.next().is_none(), "it is for pods of two kinds");
    // By the name of a port of the pod, as the Services do; probes need no rule.
    for rule in rules(policy, Way::In) {
        for open in ports(rule) {
            let known = pod.ports.iter().any(|port| port["name"] == open["port"]);
            ensure!(known, "the pod has no port {}, only {:?}", open["port"], pod.ports);
        }
    }
    let services = objects.objects().iter().filter(|object| is(object, "Service"));
    for service in services.filter(|service| leads_to(service, pod)) {
        for port in service.data["spec"]["ports"].as_array().into_iter().flatten() {
            let target = &port["targetPort"];
            ensure!(
                allows(policy, Way::In, None, target),
                "Service {} leads to {target}, which is closed",
                service.name_any()
            );
        }
    }
    // The agent's authority, where it is of the same release.
    let own = objects.object("Service", "ensign-ra");
    if let (Ok(service), true) = (own, policy.name_any() == "ensign-agent") {
        let settings = &objects.object("ConfigMap", "ensign-agent")?.data["data"];
        let port = &service.data["spec"]["ports"][0];
        let address = format!("ensign-ra.{OWN}.svc:{}", port["port"]);
        ensure!(
            settings["CA_ADDR"] == address,
            "{} is not {address}",
            settings["CA_ADDR"]
        );
        let behind = templates.iter().find(|one| leads_to(service, one));
        let behind = behind.context("no pod is behind the Service")?;
        let mut named = behind.ports.iter().filter(|one| one["name"] == port["targetPort"]);
        let number = &named.next().context("the Service leads nowhere")?["containerPort"];
        ensure!(
            allows(policy, Way::Out, Some(behind), number),
            "{number} of the RA's pods is closed"
        );
    }
    Ok(())
}

/// Whether a rule opens this port, a number or a name, to or from everybody, or to or from these pods.
fn allows(policy: &DynamicObject, way: Way, peer: Option<&Template<'_>>, port: &Value) -> bool {
    rules(policy, way).any(|rule| {
        let peers = &rule[match way {
            Way::In => "from",
            Way::Out => "to",
        }];
        let met = peers.as_array().is_none_or(|peers| {
            peers.iter().any(|one| {
                peer.is_some_and(|peer| {
                    let place = json!({ "kubernetes.io/metadata.name": peer.namespace });
                    selects(&one["namespaceSelector"], &place) && selects(&one["podSelector"], peer.labels)
                })
            })
        });
        let mut open = ports(rule).filter(|open| open["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"));
        // Who scrapes may be bound; that they reach the port is what matters.
        let met = met || matches!(way, Way::In);
        met && open.any(|open| open["port"] == *port)
    })
}

fn rules(policy: &DynamicObject, way: Way) -> impl Iterator<Item = &Value> {
    let field = match way {
        Way::In => "ingress",
        Way::Out => "egress",
    };
    policy.data["spec"][field].as_array().into_iter().flatten()
}

fn ports(rule: &Value) -> impl Iterator<Item = &Value> {
    rule["ports"].as_array().into_iter().flatten()
}

fn template(object: &DynamicObject) -> Option<Template<'_>> {
    if !(is(object, "Deployment") || is(object, "DaemonSet")) {
        return None;
    }
    let template = &object.data["spec"]["template"];
    let containers = template["spec"]["containers"].as_array().into_iter().flatten();
    Some(Template {
        namespace: object.namespace()?,
        labels: &template["metadata"]["labels"],
        ports: containers
            .flat_map(|container| container["ports"].as_array().into_iter().flatten())
            .collect(),
    })
}

fn leads_to(service: &DynamicObject, pod: &Template<'_>) -> bool {
    let selector = json!({ "matchLabels": service.data["spec"]["selector"] });
    service.namespace().as_ref() == Some(&pod.namespace) && selects(&selector, pod.labels)
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object();
    wanted.is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(name, value)| labels[name] == *value))
}

fn is(object: &DynamicObject, wanted: &str) -> bool {
    object.types.as_ref().is_some_and(|types| types.kind == wanted)
}
