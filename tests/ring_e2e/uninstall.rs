//! The end of an installation, and what comes before it: refused while pods use the driver, forced, installed again, gone.
//!
//! A site of its own with one node, installed and uninstalled by the commands of docs/chart.md, with the chart's own values.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use ensign_testbed::folder::Folder;
use ensign_testbed::page::{Page, Shell};
use ensign_testbed::site::Site;
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::storage::v1::CSINode;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::agents::A_WHILE;
use crate::install::{AGENTS, PAGE, RA};
use crate::left::objects_of_ours;
use crate::pod::{self, condition, printed};
use crate::workload::Workload;

const DRIVER: &str = "csi.ensign.mesh";
/// Where its pods are.
const PLACE: &str = "default";

struct Stage {
    site: Site,
    shell: Shell,
    folder: Arc<Folder>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_in_use_stays_and_one_that_was_forced_out_heals_and_leaves_nothing() -> anyhow::Result<()> {
    let page = Page::parse(PAGE);
    let [install] = page.blocks("")?;
    let [uninstall, logs, keep, force, clean] = page.blocks("Uninstallation")?;
    let stage = Stage::start().await?;
    stage.run(install).await?;
    let (stays, goes) = (stage.start_pod("stays").await?, stage.start_pod("goes").await?);
    let mut stream = pod::envoy(&stage.mount(&stays)?).await?.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
    let held = stream.held_version().to_owned();

    // Refused: the Job ran on the node, and nothing was taken away.
    let before = stage.ours().await?;
    let refused = stage.shell.try_run(uninstall).await?;
    ensure!(!refused.success, "uninstalled under its pods: {refused:?}");
    let told = stage.run(logs).await?;
    for said in [&refused.err, &told] {
        ensure!(
            said.contains(&format!("2 pods use {DRIVER}: {PLACE}/goes, {PLACE}/stays; ")),
            "{refused:?}\n{told}"
        );
        ensure!(
            said.contains("helm uninstall --no-hooks") && said.contains("helm rollback"),
            "{said}"
        );
    }
    let history = stage.run(keep).await?;
    ensure!(history.contains("uninstalling"), "{history}");
    let status = stage.run("helm status ensign --namespace ensign-system\n").await?;
    ensure!(status.contains("STATUS: deployed"), "{status}");
    ensure!(stage.ours().await? == before, "pods of ours are others than before");
    stream.expect_silence(A_WHILE).await;

    // Forced: who runs runs on with nobody to ask, who is to end cannot.
    stage.run(force).await?;
    stage.agents_gone().await?;
    ensure!(
        pod::connect(&stage.mount(&stays)?).await.is_err(),
        "somebody serves without an agent"
    );
    let pods = stage.pods();
    pods.delete("goes", &DeleteParams::default()).await?;
    let uid = goes.metadata.uid.clone().context("a pod has a uid")?;
    until("kubelet to try in vain", PATIENCE, async || {
        let log = std::fs::read_to_string(stage.site.nodes()[0].path("/kubelet.log"))?;
        let failed = |line: &&str| line.contains(&uid) && line.contains("UnmountVolume.TearDown failed");
        log.lines().find(failed).map(drop).context("it has not")
    })
    .await?;
    ensure!(
        pods.get("goes").await?.metadata.deletion_timestamp.is_some(),
        "it is not to end"
    );
    ensure!(
        condition(&pods.get("stays").await?, "Ready"),
        "it does not run any more"
    );

    // Installed again: both heal.
    stage.run(install).await?;
    until("pod `goes` to be gone", PATIENCE * 2, async || {
        ensure!(pods.get_opt("goes").await?.is_none(), "it is there");
        Ok(())
    })
    .await
    .with_context(|| stage.tell())?;
    let envoy = pod::envoy(&stage.mount(&stays)?).await?;
    let mut holder = envoy.subscribe_holding(&["default"], &held).await;
    holder.expect_silence(A_WHILE).await;
    let mut fresh = pod::envoy(&stage.mount(&stays)?).await?.subscribe(&["default"]).await;
    fresh.next_secret(patience()).await;
    pod::delete(&pods, "stays").await?;

    stage.run(uninstall).await?;
    stage.agents_gone().await?;
    stage.nothing_on_the_node([&stays, &goes]).await?;
    stage.run(clean).await?;
    let left = objects_of_ours(&stage.site.admin()).await?;
    ensure!(left.is_empty(), "left in the API: {left:?}");
    stage.finish().await
}

// === impl Stage ===

impl Stage {
    /// With all that the chart's own values ask for: one Issuer.
    async fn start() -> anyhow::Result<Self> {
        let folder = Arc::new(Folder::new()?);
        let site = Site::start_in(Arc::clone(&folder), &["node1"]).await?;
        site.namespace_named("istio-system").await?;
        site.issuer("istio-system", "istio-ca").await?;
        Ok(Self {
            shell: Shell::new(&site)?,
            site,
            folder,
        })
    }

    async fn finish(self) -> anyhow::Result<()> {
        self.shell.finish();
        self.site.end().await?;
        self.folder.discard();
        Ok(())
    }

    async fn run(&self, commands: &str) -> anyhow::Result<String> {
        self.shell.run(commands).await.with_context(|| self.tell())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.site.admin(), PLACE)
    }

    async fn start_pod(&self, name: &str) -> anyhow::Result<Pod> {
        let pod = serde_json::from_value(Workload::new(PLACE, name).object())?;
        self.pods().create(&PostParams::default(), &pod).await?;
        pod::running(&self.pods(), name).await.with_context(|| self.tell())
    }

    fn mount(&self, pod: &Pod) -> anyhow::Result<PathBuf> {
        Ok(self.site.nodes()[0].path(&pod::volume(pod)?))
    }

    /// The UIDs of agents and replicas.
    async fn ours(&self) -> anyhow::Result<Vec<Option<String>>> {
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
    async fn agents_gone(&self) -> anyhow::Result<()> {
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
    async fn nothing_on_the_node(&self, pods: [&Pod; 2]) -> anyhow::Result<()> {
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
    fn tell(&self) -> String {
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
