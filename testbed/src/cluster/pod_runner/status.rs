//! What a kubelet would say of a pod.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::cluster::Access;

/// How a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Its container cannot be started yet, for this reason.
    Waiting(String),
    /// It runs.
    Running {
        /// By its probe.
        ready: bool,
        /// How often it was started again.
        restarts: u32,
    },
}

/// Writes it into the pod. An API server that is away gets it with the next look.
pub(super) async fn write(access: &Access, pod: &Pod, state: &State, address: &str) -> bool {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let (name, image) = container.map_or(("", ""), |one| (&*one.name, one.image.as_deref().unwrap_or_default()));
    let (phase, ready, restarts, current) = match state {
        State::Waiting(why) => (
            "Pending",
            false,
            0,
            json!({ "waiting": { "reason": "CreateContainerConfigError", "message": why } }),
        ),
        State::Running { ready, restarts } => ("Running", *ready, *restarts, json!({ "running": {} })),
    };
    let condition = |kind: &str, holds: bool| json!({ "type": kind, "status": if holds { "True" } else { "False" } });
    let status: Value = json!({ "status": {
        "phase": phase,
        "podIP": address, "podIPs": [{ "ip": address }],
        "conditions": [
            condition("PodScheduled", true), condition("Initialized", true),
            condition("ContainersReady", ready), condition("Ready", ready),
        ],
        "containerStatuses": [{
            "name": name, "image": image, "imageID": "", "ready": ready, "started": phase == "Running",
            "restartCount": restarts, "state": current,
        }],
    } });
    let pods = Api::<Pod>::namespaced(access.admin(), &pod.namespace().unwrap_or_default());
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&status))
        .await
        .is_ok()
}

/// Nothing of it runs any more. One that is gone already is gone.
pub(super) async fn confirm_end(access: &Access, pod: &Pod) {
    let pods = Api::<Pod>::namespaced(access.admin(), &pod.namespace().unwrap_or_default());
    drop(
        pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
            .await,
    );
}
