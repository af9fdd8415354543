//! `ensign-ra in-use`: refuses, with their names, while pods hold a volume of the agent's CSI driver.
//!
//! The chart runs it before it takes the agent away (`helm uninstall`): kubelet needs the driver to take a volume down, so
//! without it such pods stay Terminating. Pods that have ended hold no volume any more and do not count. It asks with one
//! right, to list pods, and changes nothing.

use std::fmt;

use clap::Parser;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, ObjectList};
use thiserror::Error;

use crate::kubernetes::{ApiError, ClusterSource, ConnectError, KubernetesMetrics, connect};

/// The word by which the command line asks for it.
pub const COMMAND: &str = "in-use";
/// Pods in one answer of the API server.
const PAGE: u32 = 500;
/// Pods that are told by name.
const NAMED: usize = 20;

/// Refuses while pods hold a volume of the agent's CSI driver; succeeds when none does.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "ensign-ra in-use")]
pub struct InUse {
    /// Name of the driver
    #[arg(long, default_value = "csi.ensign.mesh", value_name = "NAME")]
    driver: String,
    /// Kubeconfig file, outside of a cluster
    #[arg(long, env = "KUBECONFIG", value_name = "PATH")]
    kubeconfig: Option<String>,
    /// Context of the kubeconfig; unset: its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Why the driver may not go.
#[derive(Debug, Error)]
pub enum InUseError {
    /// Nobody answered.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The pods could not be listed.
    #[error(
        "whether pods use the driver is not known: their list failed: {0}; allow `list pods`, or uninstall without the check (helm uninstall --no-hooks)"
    )]
    List(#[source] ApiError),
    /// They use it.
    #[error(transparent)]
    Used(#[from] Users),
}

/// The pods that hold a volume of a driver.
#[derive(Debug, PartialEq, Eq, Error)]
pub struct Users {
    driver: String,
    pods: Vec<String>,
}

// === impl InUse ===

impl InUse {
    /// Asks the API server.
    pub async fn check(&self) -> Result<(), InUseError> {
        let source = match self.kubeconfig.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => ClusterSource::Kubeconfig {
                path: path.into(),
                context: self.context.clone(),
            },
            None => ClusterSource::InCluster,
        };
        let cluster = connect(&source, &KubernetesMetrics::default()).await?;
        self.ask(&Api::all(cluster.client())).await
    }

    async fn ask(&self, pods: &Api<Pod>) -> Result<(), InUseError> {
        let mut users = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let found: ObjectList<Pod> = pods
                .list(&page)
                .await
                .map_err(|error| InUseError::List(ApiError::from(error)))?;
            users.extend(found.items.iter().filter(|pod| self.is_used_by(pod)).map(name));
            match found.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        if users.is_empty() {
            return Ok(());
        }
        Err(InUseError::Used(Users {
            driver: self.driver.clone(),
            pods: users,
        }))
    }

    fn is_used_by(&self, pod: &Pod) -> bool {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        !matches!(phase, Some("Succeeded" | "Failed"))
            && volumes.any(|volume| volume.csi.as_ref().is_some_and(|csi| csi.driver == self.driver))
    }
}

fn name(pod: &Pod) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

// === impl Users ===

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.pods.len();
        let (pods, use_it) = if count == 1 { ("pod", "uses") } else { ("pods", "use") };
        let named = self.pods.get(..NAMED).unwrap_or(&self.pods).join(", ");
        write!(f, "{count} {pods} {use_it} {}: {named}", self.driver)?;
        if count > NAMED {
            write!(f, " and {} more", count - NAMED)?;
        }
        f.write_str(
            "; without the agent kubelet cannot take their volumes down, and they would stay Terminating. Take the volume \
             out of them (Istio: the template `ensign` out of their injection) and restart them, then uninstall again. \
             To uninstall all the same: helm uninstall --no-hooks; pods that are stuck then go once the agent is installed \
             again. To keep it: nothing was taken away, but Helm 3 calls the release `uninstalling` now and upgrades it only \
             after a helm rollback to its last revision",
        )
    }
}

#[cfg(test)]
mod tests {
    use kube::Client;
    use serde_json::{Value, json};
    use test_case::test_case;

    use super::*;
    use crate::kubernetes::testing::{Answer, Asked, client};

    fn pod(name: &str, driver: &str, phase: &str) -> Value {
        json!({
            "metadata": { "namespace": "foo", "name": name },
            "spec": { "containers": [], "volumes": [
                { "name": "other", "emptyDir": {} }, { "name": "socket", "csi": { "driver": driver } },
            ] },
            "status": { "phase": phase },
        })
    }

    fn page(pods: &[Value], more: &str) -> Value {
        json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "continue": more }, "items": pods })
    }

    fn server(pages: Vec<Answer>) -> (Client, Asked) {
        let pages: Vec<_> = pages.into_iter().map(|page| (page.code, page.body)).collect();
        client(move |_, number| {
            let answer = pages.get(number).cloned().map(|(code, body)| Answer {
                code,
                retry_after: None,
                body,
            });
            Box::pin(std::future::ready(answer))
        })
    }

    fn in_use() -> InUse {
        InUse::parse_from(["in-use"])
    }

    #[tokio::test]
    async fn pods_of_every_page_are_named_with_the_way_out() {
        let (client, asked) = server(vec![
            Answer::ok(page(&[pod("a", "csi.ensign.mesh", "Running")], "next")),
            Answer::ok(page(
                &[pod("b", "csi.other", "Running"), pod("c", "csi.ensign.mesh", "Pending")],
                "",
            )),
        ]);
        let error = in_use().ask(&Api::all(client)).await.unwrap_err().to_string();
        assert!(
            error.starts_with("2 pods use csi.ensign.mesh: foo/a, foo/c; "),
            "{error}"
        );
        assert!(error.contains("--no-hooks"), "{error}");
        let asked = asked.lock();
        assert!(asked[1].0.contains("continue=next"), "{asked:?}");
    }

    #[test_case(&[] ; "no pod")]
    #[test_case(&[pod("a", "csi.other", "Running")] ; "of another driver")]
    #[test_case(&[pod("a", "csi.ensign.mesh", "Succeeded"), pod("b", "csi.ensign.mesh", "Failed")] ; "that have ended")]
    #[tokio::test]
    async fn the_driver_may_go_with(pods: &[Value]) {
        let (client, _) = server(vec![Answer::ok(page(pods, ""))]);
        in_use().ask(&Api::all(client)).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_known_counts_as_used() {
        let (client, _) = server(vec![Answer::no(403, "Forbidden")]);
        let error = in_use().ask(&Api::all(client)).await.unwrap_err();
        assert!(matches!(error, InUseError::List(ApiError::Forbidden(_))), "{error}");
    }

    #[test]
    fn many_are_counted() {
        let pods = (0..25).map(|number| format!("foo/{number}")).collect();
        let text = Users {
            driver: "d".to_owned(),
            pods,
        }
        .to_string();
        assert!(
            text.contains("foo/19 and 5 more;") && !text.contains("foo/20"),
            "{text}"
        );
    }
}
