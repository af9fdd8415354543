//! Reads what is to be known of one pod, with as few rights as each part needs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Container, Event, Pod as KubePod, PodSpec, PodStatus};
use k8s_openapi::api::storage::v1::CSINode;
use kube::api::{Api, ListParams};

use super::facts::{Agent, Facts, MountFailure, Pod, Proxy, Volume};
use crate::access::{Access, Looked};
use crate::driver::{self, DRIVER};
use crate::forward::Door;
use crate::settings::Settings;
use crate::status::{self, Status};

/// Which pod.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Where the agents are; none looks in all namespaces.
    pub agent_namespace: Option<String>,
}

/// Reads everything; the pod itself must be there.
pub async fn look(access: &Access, question: &Question) -> Looked<Facts> {
    let pods = Api::<KubePod>::namespaced(access.client(), &question.namespace);
    let pod = match access.one(pods, &question.pod).await {
        Looked::There(object) => pod(object),
        Looked::Missing => return Looked::Missing,
        Looked::Unreadable(why) => return Looked::Unreadable(why),
    };
    let driver = driver::look(access).await;
    let mounts = mounts(access, &pod).await;
    let (registered, agent) = match &pod.node {
        None => (Looked::Missing, Looked::Missing),
        Some(node) => (
            registered(access, node).await,
            agent(access, node, question.agent_namespace.as_deref()).await,
        ),
    };
    let status = match agent.there() {
        Some(agent) if !pod.volumes.is_empty() && agent.trouble.is_none() => Some(ask(access, agent).await),
        Some(_) | None => None,
    };
    Looked::There(Facts {
        pod,
        driver,
        registered,
        agent,
        mounts,
        status,
    })
}

fn pod(object: KubePod) -> Pod {
    let (spec, status) = (object.spec.unwrap_or_default(), object.status.unwrap_or_default());
    let phase = status.phase.as_deref().unwrap_or_default();
    let of_ours = spec.volumes.iter().flatten().filter_map(|volume| {
        let csi = volume.csi.as_ref().filter(|csi| csi.driver == DRIVER)?;
        Some((volume.name.clone(), csi.volume_attributes.clone().unwrap_or_default()))
    });
    let attributes: BTreeMap<String, BTreeMap<String, String>> = of_ours.collect();
    let mounts = |container: &Container, volume: &str| {
        let mut all = container.volume_mounts.iter().flatten();
        all.find(|mount| mount.name == volume)
            .map(|mount| mount.mount_path.clone())
    };
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let volumes: Vec<Volume> = attributes
        .into_iter()
        .map(|(name, attributes)| Volume {
            mounted: containers().any(|container| mounts(container, &name).is_some()),
            name,
            attributes,
        })
        .collect();
    let proxy = containers()
        .find(|container| container.name == ISTIO_PROXY)
        .map(|container| Proxy {
            mount: volumes
                .iter()
                .find_map(|volume| Some((volume.name.clone(), mounts(container, &volume.name)?))),
            socket_file: variable(container, SOCKET_FILE),
        });
    Pod {
        namespace: object.metadata.namespace.unwrap_or_default(),
        name: object.metadata.name.unwrap_or_default(),
        uid: object.metadata.uid.unwrap_or_default(),
        node: spec.node_name.clone().filter(|node| !node.is_empty()),
        finished: matches!(phase, "Succeeded" | "Failed"),
        waiting: phase == "Pending" && !any_started(&status),
        volumes,
        proxy,
    }
}

fn variable(container: &Container, name: &str) -> Option<String> {
    let variable = container.env.iter().flatten().find(|variable| variable.name == name)?;
    variable.value.clone()
}

fn any_started(status: &PodStatus) -> bool {
    let containers = status.init_container_statuses.iter().flatten();
    let mut containers = containers.chain(status.container_statuses.iter().flatten());
    containers.any(|container| {
        let state = container.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    })
}

async fn mounts(access: &Access, pod: &Pod) -> Looked<Vec<MountFailure>> {
    let selected = format!("involvedObject.uid={},reason=FailedMount", pod.uid);
    let events = Api::<Event>::namespaced(access.client(), &pod.namespace);
    let mut events = match access.all(events, &ListParams::default().fields(&selected)).await {
        Looked::There(events) => events,
        Looked::Missing => Vec::new(),
        Looked::Unreadable(why) => return Looked::Unreadable(why),
    };
    events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    let failure = |event: Event| {
        Some(MountFailure {
            message: event.message?,
            count: event.count.unwrap_or(1),
        })
    };
    // The newest first.
    Looked::There(events.into_iter().rev().filter_map(failure).collect())
}

async fn registered(access: &Access, node: &str) -> Looked<bool> {
    let object = access.one(Api::<CSINode>::all(access.client()), node).await;
    object.map(|object| object.spec.drivers.iter().any(|driver| driver.name == DRIVER))
}

async fn agent(access: &Access, node: &str, namespace: Option<&str>) -> Looked<Agent> {
    let pods = match namespace {
        Some(namespace) => Api::<KubePod>::namespaced(access.client(), namespace),
        None => Api::all(access.client()),
    };
    let selected = ListParams::default()
        .labels(AGENTS)
        .fields(&format!("spec.nodeName={node}"));
    let mut found = match access.all(pods, &selected).await {
        Looked::There(found) => found,
        Looked::Missing => Vec::new(),
        Looked::Unreadable(why) => return Looked::Unreadable(why),
    };
    // In an upgrade there may be two: the newest that is ready, else the newest.
    found.sort_by_key(|pod| {
        let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (pod.status.as_ref().is_some_and(is_ready), made)
    });
    let Some(pod) = found.pop() else {
        return Looked::Missing;
    };
    let namespace = pod.metadata.namespace.unwrap_or_default();
    let settings = match &pod.spec {
        Some(spec) => Settings::read(access, &namespace, spec).await,
        None => Settings::default(),
    };
    let status = pod.status.unwrap_or_default();
    Looked::There(Agent {
        namespace,
        name: pod.metadata.name.unwrap_or_default(),
        ready: is_ready(&status),
        trouble: trouble(&status, pod.spec.as_ref()),
        status_port: status_port(&settings),
        audience: settings.unread().is_none().then(|| {
            settings
                .value("token-audience", "ENSIGN_TOKEN_AUDIENCE", "istio-ca")
                .to_owned()
        }),
    })
}

fn is_ready(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn status_port(settings: &Settings) -> u16 {
    let address = settings.value("status-addr", "ENSIGN_STATUS_ADDR", "127.0.0.1:9403");
    address.parse::<SocketAddr>().map_or(9403, |address| address.port())
}

/// Why the agent's container does not run, if it does not.
fn trouble(status: &PodStatus, spec: Option<&PodSpec>) -> Option<String> {
    let first = spec
        .and_then(|spec| spec.containers.first())
        .map(|container| container.name.as_str());
    let mut all = status.container_statuses.iter().flatten();
    let container = all.find(|container| Some(container.name.as_str()) == first)?;
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let words = [waiting.reason.clone(), waiting.message.clone(), last_words(container)];
        return Some(words.into_iter().flatten().collect::<Vec<_>>().join(": "));
    }
    let ended = state.terminated.as_ref()?;
    Some(format!("it ended with exit code {}", ended.exit_code))
}

fn last_words(container: &k8s_openapi::api::core::v1::ContainerStatus) -> Option<String> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    let message = ended.message.as_deref().unwrap_or("see its log").trim();
    Some(format!("its last exit code is {}, {message}", ended.exit_code))
}

async fn ask(access: &Access, agent: &Agent) -> Result<Status, String> {
    let door = Door::new(access, &agent.namespace, &agent.name, agent.status_port);
    let text = door.with(status::ask).await.map_err(|error| error.to_string())?;
    status::read(&text).map_err(|error| ensign_daemon::logging::chain(&error))
}

/// As deploy/daemonset.yaml labels them.
const AGENTS: &str = "app.kubernetes.io/name=ensign-agent";
const ISTIO_PROXY: &str = "istio-proxy";
const SOCKET_FILE: &str = "WORKLOAD_IDENTITY_SOCKET_FILE";
