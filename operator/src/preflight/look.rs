//! Reads what the agents need, from the DaemonSet outwards: its settings say which audience, roots and authority to look for.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PodSpec, ResourceQuota, Service as KubeService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};

use super::facts::{Agents, Authority, Facts, Ra, Roots, Service};
use super::signers;
use crate::RAS;
use crate::access::{Access, Looked, bounded};
use crate::driver;
use crate::settings::{Settings, config_map_of};

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The agents' namespace; none looks in all.
    pub agent_namespace: Option<String>,
    /// The RA's namespace; none looks in all.
    pub ra_namespace: Option<String>,
}

/// Reads everything but the signers.
pub async fn look(access: &Access, question: &Question) -> Facts {
    let object = daemon_set(access, question.agent_namespace.as_deref()).await;
    let (agents, roots) = match object {
        Looked::There((object, spec)) => {
            let namespace = object.metadata.namespace.clone().unwrap_or_default();
            let settings = Settings::read(access, &namespace, &spec).await;
            let roots = roots(access, &namespace, &spec, &settings).await;
            match agents(object, namespace, &spec, &settings) {
                Ok(agents) => (Looked::There(agents), roots),
                Err(why) => (Looked::Unreadable(why), roots),
            }
        }
        Looked::Missing => (Looked::Missing, Looked::Missing),
        Looked::Unreadable(why) => (Looked::Unreadable(why), Looked::Missing),
    };
    let (pod_security, quota, service) = match agents.there() {
        None => (Looked::Missing, Looked::Missing, Looked::Missing),
        Some(agents) => (
            pod_security(access, &agents.namespace).await,
            quota(access, agents).await,
            service(access, &agents.authority).await,
        ),
    };
    let gke = bounded(access.client().apiserver_version()).await;
    Facts {
        agents,
        pod_security,
        quota,
        gke: gke.is_ok_and(|version| version.git_version.contains("-gke.")),
        driver: driver::look(access).await,
        roots,
        service,
        ra: ra(access, question.ra_namespace.as_deref()).await,
    }
}

async fn daemon_set(access: &Access, namespace: Option<&str>) -> Looked<(DaemonSet, PodSpec)> {
    let api = match namespace {
        Some(namespace) => Api::<DaemonSet>::namespaced(access.client(), namespace),
        None => Api::all(access.client()),
    };
    let found = access.all(api, &ListParams::default().labels(AGENTS)).await;
    found.and_then(|found| match found.into_iter().next() {
        None => Looked::Missing,
        Some(object) => {
            let spec = object
                .spec
                .clone()
                .and_then(|spec| spec.template.spec)
                .unwrap_or_default();
            Looked::There((object, spec))
        }
    })
}

fn agents(object: DaemonSet, namespace: String, spec: &PodSpec, settings: &Settings) -> Result<Agents, String> {
    if let Some(why) = settings.unread() {
        return Err(why.to_owned());
    }
    let status = object.status.unwrap_or_default();
    let address = settings.value("ca-addr", "CA_ADDR", "ensign-ra.ensign-system.svc:443");
    let split = address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = split.ok_or_else(|| format!("its CA_ADDR is {address:?}, expected HOST:PORT"))?;
    let host = host.trim_matches(['[', ']']);
    Ok(Agents {
        namespace,
        name: object.metadata.name.unwrap_or_default(),
        desired: status.desired_number_scheduled,
        current: status.current_number_scheduled,
        ready: status.number_ready,
        priority_class: spec.priority_class_name.clone(),
        audience: settings
            .value("token-audience", "ENSIGN_TOKEN_AUDIENCE", "istio-ca")
            .to_owned(),
        trust_domain: settings
            .value("trust-domain", "TRUST_DOMAIN", "cluster.local")
            .to_owned(),
        cluster_id: settings
            .value("cluster-id", "ISTIO_META_CLUSTER_ID", "Kubernetes")
            .to_owned(),
        authority: Authority {
            host: host.to_owned(),
            port,
            server_name: settings.value("istiod-san", "ISTIOD_SAN", host).to_owned(),
        },
    })
}

async fn roots(access: &Access, namespace: &str, spec: &PodSpec, settings: &Settings) -> Looked<Roots> {
    let path = settings.value("ca-root-ca", "CA_ROOT_CA", "/var/run/secrets/istio/root-cert.pem");
    let Some(from) = config_map_of(spec, path) else {
        return Looked::Unreadable(format!("{path} of the agents comes from no ConfigMap"));
    };
    let place = format!("ConfigMap {namespace}/{}, key {}", from.name, from.key);
    let api = Api::<ConfigMap>::namespaced(access.client(), namespace);
    match access.one(api, &from.name).await {
        Looked::There(map) => {
            let pem = map.data.unwrap_or_default().remove(&from.key);
            Looked::There(Roots { place, pem })
        }
        Looked::Missing => Looked::There(Roots { place, pem: None }),
        Looked::Unreadable(why) => Looked::Unreadable(why),
    }
}

async fn pod_security(access: &Access, namespace: &str) -> Looked<String> {
    let object = access.one(Api::<Namespace>::all(access.client()), namespace).await;
    object.and_then(|object| {
        let label = object.metadata.labels.unwrap_or_default().remove(ENFORCE);
        label.map_or(Looked::Missing, Looked::There)
    })
}

async fn quota(access: &Access, agents: &Agents) -> Looked<bool> {
    let api = Api::<ResourceQuota>::namespaced(access.client(), &agents.namespace);
    let all = access.all(api, &ListParams::default()).await;
    all.map(|all| {
        all.into_iter()
            .any(|quota| covers(quota, agents.priority_class.as_deref()))
    })
}

/// Whether the quota's scope names the class.
fn covers(quota: ResourceQuota, class: Option<&str>) -> bool {
    let selector = quota.spec.and_then(|spec| spec.scope_selector);
    let expressions = selector
        .and_then(|selector| selector.match_expressions)
        .unwrap_or_default();
    expressions.iter().any(|expression| {
        let values = expression.values.as_deref().unwrap_or_default();
        expression.scope_name == "PriorityClass" && values.iter().any(|value| Some(value.as_str()) == class)
    })
}

/// `NAME.NAMESPACE.svc…`, or any other host, which no Service is.
async fn service(access: &Access, authority: &Authority) -> Looked<Service> {
    let mut labels = authority.host.split('.');
    let (Some(name), Some(namespace), Some("svc")) = (labels.next(), labels.next(), labels.next()) else {
        let why = format!("{} is not the name of a Service (NAME.NAMESPACE.svc)", authority.host);
        return Looked::Unreadable(why);
    };
    let api = Api::<KubeService>::namespaced(access.client(), namespace);
    let object = match access.one(api, name).await {
        Looked::There(object) => object,
        Looked::Missing => return Looked::Missing,
        Looked::Unreadable(why) => return Looked::Unreadable(why),
    };
    let ports = object.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let number = |port: i32| u16::try_from(port).unwrap_or_default();
    let port = ports.iter().find(|port| number(port.port) == authority.port);
    let port_name = port.map(|port| port.name.clone().unwrap_or_default());
    let slices = Api::<EndpointSlice>::namespaced(access.client(), namespace);
    let selected = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    access.all(slices, &selected).await.map(|slices| Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ports: ports.iter().map(|port| number(port.port)).collect(),
        pods: slices
            .iter()
            .flat_map(|slice| ready(slice, port_name.as_deref()))
            .collect(),
    })
}

/// The ready pods of a slice, with the number of the port of this name.
fn ready(slice: &EndpointSlice, port_name: Option<&str>) -> Vec<(String, u16)> {
    let mut ports = slice.ports.iter().flatten();
    let port = ports.find(|port| Some(port.name.as_deref().unwrap_or_default()) == port_name);
    let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else {
        return Vec::new();
    };
    let ready = slice.endpoints.iter().filter(|end| {
        // Unknown counts as ready (Kubernetes, EndpointConditions).
        end.conditions.as_ref().and_then(|now| now.ready) != Some(false)
    });
    let pod = |end: &k8s_openapi::api::discovery::v1::Endpoint| {
        let target = end
            .target_ref
            .as_ref()
            .filter(|target| target.kind.as_deref() == Some("Pod"))?;
        Some((target.name.clone()?, port))
    };
    ready.filter_map(pod).collect()
}

async fn ra(access: &Access, namespace: Option<&str>) -> Looked<Ra> {
    let api = match namespace {
        Some(namespace) => Api::<Deployment>::namespaced(access.client(), namespace),
        None => Api::all(access.client()),
    };
    let found = match access.all(api, &ListParams::default().labels(RAS)).await {
        Looked::There(found) => found,
        Looked::Missing => Vec::new(),
        Looked::Unreadable(why) => return Looked::Unreadable(why),
    };
    let Some(object) = found.into_iter().next() else {
        return Looked::Missing;
    };
    let namespace = object.metadata.namespace.unwrap_or_default();
    let spec = object.spec.and_then(|spec| spec.template.spec).unwrap_or_default();
    let settings = Settings::read(access, &namespace, &spec).await;
    if let Some(why) = settings.unread() {
        return Looked::Unreadable(why.to_owned());
    }
    let audiences = settings
        .value("token-audiences", "TOKEN_AUDIENCES", "istio-ca")
        .split(',');
    Looked::There(Ra {
        audiences: audiences.map(|audience| audience.trim().to_owned()).collect(),
        signers: signers::look(access, &namespace, &spec, &settings).await,
        namespace,
    })
}

/// As deploy/ labels them.
const AGENTS: &str = "app.kubernetes.io/name=ensign-agent";
/// Pod Security's label (Kubernetes, pod-security-admission).
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quota_counts_if_its_scope_names_the_class() {
        let quota = |scope: &str, class: &str| -> ResourceQuota {
            let expression = json!({ "operator": "In", "scopeName": scope, "values": [class] });
            let quota = json!({ "spec": { "scopeSelector": { "matchExpressions": [expression] } } });
            serde_json::from_value(quota).unwrap()
        };
        let class = Some("system-node-critical");
        assert!(covers(quota("PriorityClass", "system-node-critical"), class));
        assert!(!covers(quota("PriorityClass", "other"), class));
        assert!(!covers(quota("Terminating", "system-node-critical"), class));
        assert!(!covers(ResourceQuota::default(), class));
    }

    #[test]
    fn ready_pods_are_those_behind_the_services_port() {
        let slice = json!({
            "addressType": "IPv4",
            "ports": [{ "name": "tls-grpc", "port": 6443 }],
            "endpoints": [
                { "addresses": ["10.0.0.1"], "conditions": { "ready": true }, "targetRef": { "kind": "Pod", "name": "a" } },
                { "addresses": ["10.0.0.2"], "conditions": { "ready": false }, "targetRef": { "kind": "Pod", "name": "b" } },
                { "addresses": ["10.0.0.3"], "conditions": {} },
            ],
        });
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        assert_eq!(ready(&slice, Some("tls-grpc")), [("a".to_owned(), 6443)]);
        assert_eq!(ready(&slice, Some("other")), []);
        assert_eq!(ready(&slice, None), []);
    }
}
