//! Every command of docs/install.md that needs no kubelet, as a person types it, and what must have come of it.
//!
//! The control plane, the scheduler and cert-manager are real, and so is kubectl. The pods of the Deployment are processes
//! (`PodRunner`): the arguments, the environment, the ConfigMaps, the account and the probe are the pod's, the containers are not. What
//! Istio would bring is its CRD; the test asks the RA as Istio's agents do.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, ensure};
use ensign_pki::{Bundle, Chain};
use ensign_testbed::{
    cluster::{Cluster, ClusterOptions, Manifests, PodRunner},
    page::{Page, Shell},
    process::own_binary,
    wait::{PATIENCE, until},
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::program::{OWN, certificate, workload};

type Result<T = ()> = anyhow::Result<T>;

const PAGE: &str = include_str!("../../docs/install.md");
const POLICY_PAGE: &str = include_str!("../../docs/policy.md");
const CSR: &str = "With the Kubernetes CSR API";
const CERT_MANAGER: &str = "With cert-manager, as istio-csr";
const POLICY: &str = "With a policy file";
/// Typed where there is a kubelet: `ring_e2e::plain`.
const ON_NODES: [&str; 2] = ["Everything at once", "The agents"];
const SETTINGS: &str = "Settings";
const UPGRADE: &str = "Upgrade";
const NOT_READY: &str = "When it is not ready";
const UNINSTALL: &str = "Uninstall";

/// A cluster as the page wants one, and a person in front of it.
struct Stage {
    bed: Cluster,
    pods: PodRunner,
    shell: Shell,
    page: Page,
}

impl Stage {
    async fn begin() -> Result<Self> {
        let bed = Cluster::start(ClusterOptions {
            scheduler: true,
            ..ClusterOptions::default()
        })
        .await?;
        bed.install_proxy_config().await?;
        Ok(Self {
            pods: PodRunner::start(&bed, "node-1").await?,
            shell: Shell::new(&bed)?,
            page: Page::parse(PAGE),
            bed,
        })
    }

    async fn run(&self, block: &str) -> Result<String> {
        let told = self.shell.run(block).await;
        told.with_context(|| {
            let lines = self.pods.printed(OWN);
            let last = lines.len().saturating_sub(15);
            format!("the replicas' last lines:\n{}", lines[last..].join("\n"))
        })
    }

    /// The text of a Secret's or a ConfigMap's key, once it is there.
    async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<String> {
        let secret = Api::<Secret>::namespaced(self.bed.admin(), namespace).get(name).await?;
        let value = secret
            .data
            .and_then(|mut data| data.remove(key))
            .context("no such key")?;
        Ok(String::from_utf8(value.0)?)
    }

    /// What a client in this namespace trusts when it calls the RA.
    async fn roots(&self, namespace: &str) -> Result<String> {
        until("the roots of the RA in the namespace", PATIENCE, async || {
            let map = Api::<ConfigMap>::namespaced(self.bed.admin(), namespace)
                .get("istio-ca-root-cert")
                .await?;
            map.data
                .and_then(|mut data| data.remove("root-cert.pem"))
                .context("no root-cert.pem")
        })
        .await
    }

    /// A workload of this namespace gets a certificate under this root alone.
    async fn certified(&self, namespace: &str, name: &str, root: &str) -> Result {
        let (token, id) = workload(&self.bed, namespace, name).await?;
        let roots = self.roots(namespace).await?;
        let reply = until("a certificate", PATIENCE, async || {
            certificate(self.pods.service(), &roots, &token, &id).await
        })
        .await?;
        let bundle = Bundle::parse_pem(reply.last().context("an empty reply")?)?;
        ensure!(
            bundle == Bundle::parse_pem(root)?,
            "{namespace}/{name} is told to trust other roots than its signer's"
        );
        Chain::from_reply_elements(&reply).map(drop).context("not a chain")
    }

    /// The images of the RA's pods that are not about to end.
    async fn images(&self) -> Result<BTreeSet<String>> {
        let pods = Api::<Pod>::namespaced(self.bed.admin(), OWN)
            .list(&ListParams::default())
            .await?;
        let living = pods
            .items
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(living
            .filter_map(|pod| pod.spec?.containers.into_iter().next()?.image)
            .collect())
    }

    async fn finish(self) -> Result {
        self.pods.finish().await?;
        self.shell.finish();
        self.bed.finish().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubernetes_csr_api_from_nothing_to_certificates_and_to_nothing() -> Result {
    let stage = Stage::begin().await?;
    let [signers, ra, roots, mesh, namespaces, ready, issued, left] = stage.page.blocks(CSR)?;
    let [look, rights, who] = stage.page.blocks(NOT_READY)?;
    stage.run(signers).await?;
    stage.run(ra).await?;

    // Istio's configuration is not there: the pods run, are not ready, and their log says why.
    until("the replicas to say what is missing", PATIENCE, async || {
        let seen = stage.run(look).await?;
        ensure!(
            seen.matches("0/1").count() == 2 && seen.contains("mesh configuration not read"),
            "{seen}"
        );
        Ok(())
    })
    .await?;
    let granted = stage.run(rights).await?;
    for right in [
        "tokenreviews.authentication.k8s.io",
        "clusterissuers.cert-manager.io/foo",
        "istiod-tls",
        "leases",
    ] {
        ensure!(granted.contains(right), "{right}: {granted}");
    }

    stage.run(roots).await?;
    stage.run(mesh).await?;
    stage.run(namespaces).await?;
    stage.run(ready).await?;
    let [foo, bar, istio] = [
        stage.secret("cert-manager", "foo-ca", "ca.crt").await?,
        stage.secret("cert-manager", "bar-ca", "ca.crt").await?,
        stage.secret("cert-manager", "istio-system-ca", "ca.crt").await?,
    ];
    stage.certified("foo", "sleep", &foo).await?;
    stage.certified("bar", "sleep", &bar).await?;
    stage.certified("default", "sleep", &istio).await?;
    let lines = stage.run(issued).await?;
    for (namespace, signer) in [("foo", "foo"), ("bar", "bar"), ("default", "istio-system")] {
        let wanted = |event: &Value| event["namespace"] == namespace && event["signer"] == signer;
        let events = lines.lines().filter_map(|line| serde_json::from_str(line).ok());
        ensure!(events.into_iter().any(|event| wanted(&event)), "{namespace}: {lines}");
    }
    until("no request to be left", PATIENCE, async || {
        let left = stage.run(left).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await?;
    let seen = stage.run(who).await?;
    ensure!(
        seen.contains("istio-system") && seen.contains("ensign-ra-"),
        "nobody leads: {seen}"
    );
    // istiod's certificate is of the signer that its provider names.
    let istiod = stage.secret("istio-system", "istiod-tls", "ca.crt").await?;
    assert_eq!(Bundle::parse_pem(&istiod)?, Bundle::parse_pem(&istio)?);

    the_policy_pages_commands(&stage).await?;
    restarted_upgraded_and_back(&stage).await?;
    stage.certified("foo", "httpbin", &foo).await?;
    uninstalled(&stage).await?;
    stage.finish().await
}

/// docs/policy.md, on the same cluster.
async fn the_policy_pages_commands(stage: &Stage) -> Result {
    let page = Page::parse(POLICY_PAGE);
    assert_eq!(page.sections(), ["Who may write what"]);
    let [may_choose] = page.blocks("Who may write what")?;
    let answer = stage.shell.try_run(may_choose).await?;
    assert_eq!((answer.success, answer.out.as_str()), (false, "no\n"), "{}", answer.err);
    let objects = json!([
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "deployer", "namespace": "foo" },
          "rules": [{ "apiGroups": ["networking.istio.io"], "resources": ["proxyconfigs"], "verbs": ["create"] }] },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "deployer", "namespace": "foo" },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer" },
          "subjects": [{ "kind": "ServiceAccount", "name": "deployer", "namespace": "foo" }] },
    ]);
    for object in objects.as_array().into_iter().flatten() {
        stage.bed.apply_yaml(&object.to_string()).await?;
    }
    until("the API server to know the role", PATIENCE, async || {
        assert_eq!(stage.run(may_choose).await?, "yes\n");
        Ok(())
    })
    .await
}

async fn restarted_upgraded_and_back(stage: &Stage) -> Result {
    let [restart] = stage.page.blocks(SETTINGS)?;
    let pods = Api::<Pod>::namespaced(stage.bed.admin(), OWN);
    let names = async || -> Result<BTreeSet<String>> {
        let living = pods.list(&ListParams::default()).await?.items.into_iter();
        let living = living.filter(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(living.map(|pod| pod.name_any()).collect())
    };
    let before = names().await?;
    stage.run(restart).await?;
    let after = names().await?;
    ensure!(
        before.is_disjoint(&after) && after.len() == 2,
        "{before:?} and then {after:?}"
    );

    let [upgrade, back] = stage.page.blocks(UPGRADE)?;
    let image = |name: &str| BTreeSet::from([name.to_owned()]);
    stage.run(upgrade).await?;
    assert_eq!(stage.images().await?, image("registry.example/ensign-ra:0.1.1"));
    stage.run(back).await?;
    assert_eq!(stage.images().await?, image("ensign-ra:0.1.0"));
    Ok(())
}

async fn uninstalled(stage: &Stage) -> Result {
    let [in_use, ours, rest] = stage.page.blocks(UNINSTALL)?;
    assert_eq!(stage.run(in_use).await?, "");
    stage.run(ours).await?;
    let namespaces = Api::<Namespace>::all(stage.bed.admin());
    assert!(namespaces.get_opt(OWN).await?.is_none());
    let labelled = "clusterroles,clusterrolebindings,roles,rolebindings,validatingadmissionpolicies";
    let left = format!("kubectl get {labelled} --all-namespaces -l ensign.mesh/mode -o name");
    assert_eq!(stage.run(&left).await?, "");
    stage
        .roots("foo")
        .await
        .context("it stays until it is taken away, too")?;
    stage.run(rest).await?;
    let maps = Api::<ConfigMap>::all(stage.bed.admin());
    let named = ListParams::default().fields("metadata.name=istio-ca-root-cert");
    assert_eq!(maps.list(&named).await?.items.len(), 0, "nobody writes them any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cert_manager_as_with_istio_csr_and_then_a_policy_file() -> Result {
    let stage = Stage::begin().await?;
    let [issuer, roots, ra, istiod, issued] = stage.page.blocks(CERT_MANAGER)?;
    for block in [issuer, roots, ra, istiod] {
        stage.run(block).await?;
    }
    for namespace in ["foo", "bar"] {
        stage.bed.namespace_named(namespace).await?;
    }
    let istio_ca = stage.secret("istio-system", "istio-ca", "ca.crt").await?;
    stage.certified("foo", "sleep", &istio_ca).await?;
    let lines = stage.run(issued).await?;
    ensure!(lines.contains("\"signer\":\"istio-ca\""), "{lines}");

    let [policy] = stage.page.blocks(POLICY)?;
    stage.run(policy).await?;
    let foo = stage.secret("cert-manager", "foo-ca", "ca.crt").await?;
    stage.certified("foo", "httpbin", &foo).await?;
    stage.certified("bar", "httpbin", &istio_ca).await?;
    stage.finish().await
}

#[test]
fn every_section_with_commands_is_run() {
    let [at_once, agents] = ON_NODES;
    let all = [
        at_once,
        CSR,
        CERT_MANAGER,
        POLICY,
        agents,
        SETTINGS,
        UPGRADE,
        NOT_READY,
        UNINSTALL,
    ];
    assert_eq!(Page::parse(PAGE).sections(), all);
}

/// The ConfigMap `ensign-ra` of an example, and the modes of optional/rbac.yaml that it names.
fn example(name: &str) -> Result<(Value, String)> {
    let file = format!("examples/{name}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(&file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    let modes = text
        .lines()
        .find_map(|line| line.strip_prefix("# Rights: ")?.strip_suffix(" (optional/rbac.yaml)."));
    let data = Manifests::read(&file)?.object("ConfigMap", "ensign-ra")?.data["data"].clone();
    Ok((data, modes.context("it names no modes")?.to_owned()))
}

#[test]
fn the_page_grants_the_modes_that_each_example_names() -> Result {
    let known = Manifests::read("optional/rbac.yaml")?.modes();
    let page = Page::parse(PAGE);
    for (name, section) in [
        ("kubernetes-csr.yaml", CSR),
        ("cert-manager.yaml", CERT_MANAGER),
        ("policy.yaml", POLICY),
    ] {
        let (_, modes) = example(name)?;
        let granted = format!("-l 'ensign.mesh/mode in ({modes})'");
        ensure!(
            page.text(section).contains(&granted),
            "{section} does not say {granted}"
        );
        for mode in modes.split(", ") {
            ensure!(known.contains(mode), "{name}: there is no mode {mode}");
        }
    }
    Ok(())
}

/// A variable that nobody reads would be a setting that does nothing.
#[tokio::test]
async fn each_variable_of_an_example_is_a_setting_and_all_go_together() -> Result {
    for name in ["kubernetes-csr.yaml", "cert-manager.yaml", "policy.yaml"] {
        let (data, _) = example(name)?;
        let variables = data.as_object().context("no variables")?;
        let output = Command::new(own_binary("ensign-ra")?)
            .arg("--print-config")
            .env_clear()
            .envs(
                variables
                    .iter()
                    .map(|(name, value)| (name, value.as_str().unwrap_or_default())),
            )
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let settings: Value = serde_json::from_slice(&output.stdout)?;
        for (variable, value) in variables {
            let taken = settings
                .as_object()
                .into_iter()
                .flatten()
                .any(|(_, setting)| setting["variable"] == variable.as_str() && setting["from"] == "environment");
            ensure!(taken, "{name}: no setting is {variable} ({value})");
        }
    }
    Ok(())
}
