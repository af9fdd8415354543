//! Replicas of the RA as processes, in a namespace of their own and with the rights of `deploy/optional/rbac.yaml`; behind them a signer
//! of the Kubernetes CSR API that is in the test's hand, before them pods with Istio's own agents.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use ensign_pki::{Bundle, Chain, KeyType, PrivateKey, SpiffeId, Svid, SystemClock, crypto, csr};
use ensign_testbed::cluster::instant_signer::{InstantSigner, Serves};
use ensign_testbed::cluster::{Access, Places, TokenOf, unique};
use ensign_testbed::folder::Folder;
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::TestCa;
use ensign_testkit::pilot_agent::{Ca, Endpoints, GaveUp, PilotAgent, Signed};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::ListParams;

use crate::program::{Ra, SERVER};

type Result<T = ()> = anyhow::Result<T>;

/// One installation: who its replicas are, and what is around them.
pub(crate) struct Fleet<'a> {
    bed: &'a Access,
    /// Its namespace.
    pub(crate) own: String,
    /// What the API server calls it.
    pub(crate) username: String,
    /// The one signer behind it, which everybody may use.
    pub(crate) signer: InstantSigner,
    roots: Bundle,
    kubeconfig: String,
    policy: String,
    folder: Folder,
}

/// A pod that may ask for a certificate.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) id: SpiffeId,
    pub(crate) token: String,
}

/// A pod's agent, which looks closely at what it gets.
pub(crate) struct Client {
    agent: PilotAgent,
    id: SpiffeId,
    roots: Bundle,
}

/// One key with its CSR: what a client asks for, and asks for again.
#[derive(Clone)]
pub(crate) struct Wish {
    key: Arc<PrivateKey>,
    csr_pem: String,
}

// === impl Fleet ===

impl<'a> Fleet<'a> {
    /// One whose signer has this deadline and this resume window.
    pub(crate) async fn new(bed: &'a Access, deadline: &str, resume_window: &str) -> Result<Self> {
        crypto::install_default();
        let own = bed.namespace("ensign").await?;
        let signer_name = format!("example.com/{}", unique("mesh"));
        let places = Places {
            signers: vec![signer_name.clone()],
            ..Places::in_one(&own)
        };
        let account = places.grant(bed, &MODES).await?;
        let ca = TestCa::with_intermediates("mesh", 1);
        let folder = Folder::new()?;
        let roots = folder.write("roots.pem", ca.root_pem())?;
        let policy = format!(
            "
apiVersion: ensign.mesh/v1
trustDomain: cluster.local
ttl: {{default: 1h, min: 10m, max: 24h}}
signers:
- name: {MESH}
  kubernetesCsr: {{signerName: {signer_name}}}
  roots: {}
  deadline: {deadline}
  resumeWindow: {resume_window}
rules:
- {{namespace: '*', serviceAccounts: ['*'], signers: [{MESH}], default: {MESH}}}
",
            roots.display()
        );
        Ok(Self {
            username: account.username,
            signer: InstantSigner::start(bed, Serves::SignerName(signer_name), &ca).await?,
            roots: Bundle::parse_pem(&ca.root_pem())?,
            kubeconfig: account.kubeconfig,
            policy,
            own,
            bed,
            folder,
        })
    }

    /// A replica that is ready.
    pub(crate) async fn start(&self) -> Result<Ra> {
        self.start_with(&[]).await
    }

    /// The same with more settings.
    pub(crate) async fn start_with(&self, settings: &[(&str, &str)]) -> Result<Ra> {
        let settings = [&SETTINGS, settings].concat();
        let ra = Ra::start_in(&self.own, &self.kubeconfig, Some(&self.policy), &settings).await?;
        ra.ready().await?;
        Ok(ra)
    }

    /// How clients find and recognise the replicas behind these endpoints.
    pub(crate) async fn ca(&self, endpoints: &Endpoints) -> Result<Ca> {
        let secrets = Api::<Secret>::namespaced(self.bed.admin(), &self.own);
        let secret = secrets.get(SERVING).await?;
        let root = secret.data.and_then(|mut data| data.remove("root-cert.pem"));
        Ca::new(endpoints, SERVER, &String::from_utf8(root.context("no root")?.0)?)
    }

    /// The same for some replicas that stay.
    pub(crate) async fn ca_of(&self, replicas: &[&Ra]) -> Result<Ca> {
        self.ca(&endpoints(replicas)?).await
    }

    /// So many pods with a token each, of so many accounts in one new namespace.
    pub(crate) async fn pods(&self, count: usize, accounts: usize) -> Result<Vec<Pod>> {
        let namespace = self.bed.namespace("foo").await?;
        for number in 0..accounts {
            self.bed.service_account(&namespace, &format!("app-{number}")).await?;
        }
        let namespace = &namespace;
        let pods = (0..count).map(async |number| {
            let (name, account) = (format!("pod-{number}"), format!("app-{}", number % accounts));
            let pod = self.bed.pod(namespace, &name, &account, "node-1").await?;
            let token = self.bed.token(&TokenOf::new(namespace, &account).pod(&pod)).await?;
            let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse()?;
            anyhow::Ok(Pod { id, token })
        });
        // As many requests as a cluster of this size bears.
        futures::stream::iter(pods).buffer_unordered(32).try_collect().await
    }

    /// A pod's agent.
    pub(crate) fn client(&self, ca: &Ca, pod: &Pod) -> Client {
        Client {
            agent: PilotAgent::new(ca, &pod.token),
            id: pod.id.clone(),
            roots: self.roots.clone(),
        }
    }

    /// The requests of this installation that are there now, by name.
    pub(crate) async fn requests(&self) -> Result<BTreeSet<String>> {
        let all = Api::<CertificateSigningRequest>::all(self.bed.admin());
        let all = all.list(&ListParams::default()).await?.items;
        let ours = all
            .into_iter()
            .filter(|one| one.spec.username.as_deref() == Some(&self.username));
        Ok(ours.filter_map(|one| one.metadata.name).collect())
    }

    /// I8: waits until every request is gone.
    pub(crate) async fn nothing_is_left(&self) -> Result {
        wait::until("every request to be gone", PATIENCE, async || {
            let left = self.requests().await?;
            ensure!(left.is_empty(), "left: {left:?}");
            Ok(())
        })
        .await
    }

    /// Removes its files.
    pub(crate) fn finish(self) {
        self.folder.discard();
    }
}

// === impl Client ===

impl Client {
    /// Asks for a certificate for a new key. A wrong answer is an error of the test; none is the caller's to judge.
    pub(crate) async fn ask(&mut self) -> Result<std::result::Result<Signed, GaveUp>> {
        let wish = Wish::new(&self.id)?;
        self.ask_for(&wish).await
    }

    /// The same for a known key.
    pub(crate) async fn ask_for(&mut self, wish: &Wish) -> Result<std::result::Result<Signed, GaveUp>> {
        let signed = match self.agent.sign(&wish.csr_pem).await {
            Ok(signed) => signed,
            Err(gave_up) => return Ok(Err(gave_up)),
        };
        let told = signed.chain.last().context("no roots")?;
        ensure!(Bundle::parse_pem(told)? == self.roots, "other roots: {told}");
        let chain = Chain::from_reply_elements(&signed.chain)?;
        let now = SystemClock::shared().now();
        let svid = Svid::assemble(Arc::clone(&wish.key), chain, &self.roots, &self.id, now);
        svid.with_context(|| format!("a wrong answer for {}", self.id))?;
        Ok(Ok(signed))
    }

    /// Asks, and must get one.
    pub(crate) async fn certificate(&mut self) -> Result<Signed> {
        let answer = self.ask().await?;
        answer.with_context(|| format!("{} got no certificate", self.id))
    }
}

// === impl Wish ===

impl Wish {
    /// A new key for an identity.
    pub(crate) fn new(id: &SpiffeId) -> Result<Self> {
        let key = PrivateKey::generate(KeyType::P256)?;
        let csr_pem = csr::build(&key, id)?.to_pem();
        Ok(Self {
            key: Arc::new(key),
            csr_pem,
        })
    }
}

/// Where these replicas listen.
pub(crate) fn endpoints(replicas: &[&Ra]) -> Result<Endpoints> {
    let addresses: Result<Vec<_>> = replicas.iter().map(|ra| ra.address("grpc")).collect();
    Ok(Endpoints::new(&addresses?))
}

/// The name of the one signer.
pub(crate) const MESH: &str = "mesh";
/// Of deploy/optional/rbac.yaml.
const MODES: [&str; 5] = ["base", "pods", "service-accounts", "kubernetes-csr", "serving-secret"];
const SERVING: &str = "ensign-ra-serving";
/// The namespaces of a shared cluster are not ours to write to.
const SETTINGS: [(&str, &str); 3] = [
    ("--serving-ca-secret", SERVING),
    ("--root-configmaps", "off"),
    ("--log-format", "json"),
];
