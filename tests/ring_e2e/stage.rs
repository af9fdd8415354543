//! A site of a test's own with one node, and a person in front of it who installs and uninstalls by the commands of a page.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use ensign_testbed::folder::Folder;
use ensign_testbed::page::Shell;
use ensign_testbed::site::Site;
use ensign_testbed::wait::{PATIENCE, until};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::storage::v1::CSINode;
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::install::{AGENTS, RA};
use crate::pod::{self, printed};
use crate::workload::Workload;

/// Where its pods are.
pub(crate) const PLACE: &str = "default";

pub(crate) struct Stage {
    pub(crate) site: Site,
    pub(crate) shell: Shell,
    folder: Arc<Folder>,
}

// === impl Stage ===

impl Stage {
    /// With cert-manager, and nothing of ours.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder = Arc::new(Folder::new()?);
        let site = Site::start_in(Arc::clone(&folder), &["node1"]).await?;
        Ok(Self {
            shell: Shell::new(&site)?,
            site,
            folder,
        })
    }

    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        self.shell.finish();
        self.site.end().await?;
        self.folder.discard();
        Ok(())
    }

    pub(crate) async fn run(&self, commands: &str) -> anyhow::Result<String> {
        self.shell.run(commands).await.with_context(|| self.tell())
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.site.admin(), PLACE)
    }

    pub(crate) async fn start_pod(&self, name: &str) -> anyhow::Result<Pod> {
        let pod = serde_json::from_value(Workload::new(PLACE, name).object())?;
        self.pods().create(&PostParams::default(), &pod).await?;
        pod::running(&self.pods(), name).await.with_context(|| self.tell())
    }

    pub(crate) fn mount(&self, pod: &Pod) -> anyhow::Result<PathBuf> {
        Ok(self.site.nodes()[0].path(&pod::volume(pod)?))
    }

    /// The UIDs of agents and replicas.
    pub(crate) async fn ours(&self) -> anyhow::Result<Vec<Option<String>>> {
        let mut found = Vec::new();
        for (namespace, name) in [(RA, "ensign-ra"), (AGENTS, "ensign-agent")] {
            let pods = Api::<Pod>::namespaced(self.site.admin(), namespace);
            let named = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
            found.extend(pods.list(&named).await?.items.into_iter().map(|pod| pod.metadata.uid));
        }
        ensure!(found.len() == 3, "an agent and two replicas, not {found:?}");
        Ok(found)
    }

    /// The agent has ended, and its namespace with it.
    pub(crate) async fn agents_gone(&self) -> anyhow::Result<()> {
        let namespaces = Api::<Namespace>::all(self.site.admin());
        until("the agents' namespace to be gone", PATIENCE, async || {
            ensure!(namespaces.get_opt(AGENTS).await?.is_none(), "it is there");
            Ok(())
        })
        .await?;
        let left = self.site.nodes()[0].processes("ensign-agent").await?;
        ensure!(left.is_empty(), "an agent runs");
        Ok(())
    }

    /// Of the pods no folder, of the agent no socket and no state, and kubelet knows no driver.
    pub(crate) async fn nothing_on_the_node(&self, pods: &[&Pod]) -> anyhow::Result<()> {
        let node = &self.site.nodes()[0];
        for pod in pods {
            let uid = pod.metadata.uid.as_deref().context("a pod has a uid")?;
            let folder = node.path("/var/lib/kubelet/pods").join(uid);
            until("kubelet's folder of the pod to go", PATIENCE * 2, async || {
                ensure!(!folder.is_dir(), "{} is there", folder.display());
                Ok(())
            })
            .await?;
        }
        let find =
            "find /var/lib/kubelet/plugins /var/lib/kubelet/plugins_registry /run/ensign -type s -o -type f -size +0";
        let left = node.run(&["/bin/sh", "-c", find]).await?;
        ensure!(left.is_empty(), "left on the node:\n{left}");
        let nodes = Api::<CSINode>::all(self.site.admin());
        until("kubelet to forget the driver", PATIENCE, async || {
            let drivers = nodes.get(node.name()).await?.spec.drivers;
            ensure!(drivers.is_empty(), "it knows {drivers:?}");
            Ok(())
        })
        .await
    }

    /// For error texts.
    pub(crate) fn tell(&self) -> String {
        let node = &self.site.nodes()[0];
        let logs = [(RA, "ensign-"), (AGENTS, "ensign-agent")]
            .map(|(namespace, pod)| printed(node.path("/var/log/pods"), namespace, pod));
        format!(
            "our pods printed:\n{}\nkubelet's last lines:\n{}",
            logs.concat(),
            node.tail("kubelet")
        )
    }
}
