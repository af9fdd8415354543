//! The desk over changes of its two sources: what takes effect, what is refused, what stays.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ensign_daemon::Readiness;
use ensign_pki::SystemClock;
use ensign_testkit::TestCa;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use test_case::test_case;
use tokio::time::sleep;

use super::*;
use crate::mesh::{Mesh, MeshConfig, ProxyConfigs};
use crate::policy::Wish;
use crate::signer::{Issuance, Issued, Signer, SignerError};
use crate::trust::{Roots, Trust};

const DOMAIN: &str = "clusterissuers.cert-manager.io";

/// Starts every signer but those that it is told to fail.
#[derive(Debug, Default)]
struct Opener {
    failing: Mutex<BTreeSet<&'static str>>,
    /// The signers before each start.
    before: Mutex<Vec<Vec<String>>>,
    root: Mutex<String>,
}

#[derive(Debug)]
struct Silent;

impl Signer for Silent {
    fn sign(&self, _: Issuance) -> BoxFuture<'_, Result<Issued, SignerError>> {
        Box::pin(std::future::pending())
    }
}

impl OpenSigners for Opener {
    fn open<'a>(&'a self, policy: &'a Policy, before: &'a Signers) -> BoxFuture<'a, anyhow::Result<Signers>> {
        self.before
            .lock()
            .push(before.iter().map(|(name, _)| name.to_string()).collect());
        let started = policy.signers().map(|spec| {
            if self.failing.lock().contains(spec.name.as_str()) {
                anyhow::bail!("signer {} does not start", spec.name);
            }
            let trust = Trust::fixed(Roots::parse(&self.root.lock()).unwrap());
            Ok(Running::new(spec.clone(), Arc::new(Silent), trust))
        });
        let started = started.collect();
        Box::pin(async move { started })
    }
}

/// A desk between a folder and a mesh.
struct World {
    folder: TempDir,
    ca: TestCa,
    opener: Arc<Opener>,
    mesh: watch::Sender<Option<Arc<Mesh>>>,
    readiness: Readiness,
    registry: Registry,
    supervisor: Supervisor,
}

impl World {
    fn new() -> Self {
        let ca = TestCa::new("root");
        let opener = Opener::default();
        *opener.root.lock() = ca.root_pem();
        Self {
            folder: tempfile::tempdir().unwrap(),
            ca,
            opener: Arc::new(opener),
            mesh: watch::channel(None).0,
            readiness: Readiness::new(),
            registry: Registry::default(),
            supervisor: Supervisor::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("policy.yaml")
    }

    /// Renamed into place, as editors do, so that nobody sees a half.
    fn write(&self, text: &str) {
        let new: &Path = &self.folder.path().join("new");
        std::fs::write(new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    async fn start(&mut self, file: bool, mesh: bool) -> anyhow::Result<watch::Receiver<Arc<Desk>>> {
        self.start_with(file, mesh, None).await
    }

    async fn start_with(
        &mut self,
        file: bool,
        mesh: bool,
        text: Option<&str>,
    ) -> anyhow::Result<watch::Receiver<Arc<Desk>>> {
        let settings = IstioSettings {
            signer_domain: Some(DOMAIN.parse().unwrap()),
            ..IstioSettings::default()
        };
        let sources = PolicySources {
            file: file.then(|| self.path()),
            text: text.map(Arc::from),
            mesh: mesh.then(|| (self.mesh.subscribe(), settings)),
            trust_domain: None,
        };
        let parts = DeskParts {
            signers: Arc::clone(&self.opener) as Arc<dyn OpenSigners>,
            metrics: Metrics::register(&mut self.registry),
            mesh_metrics: MeshMetrics::register(&mut self.registry),
            files: WatchMetrics::register(&mut self.registry),
            clock: SystemClock::shared(),
            serving_ca: None,
        };
        let gate = self.readiness.gate("policy", "not started");
        start(sources, parts, gate, &mut self.supervisor).await
    }

    /// Istio's configuration becomes this: a trust domain, the mesh's default, and signers with roots.
    fn mesh_is(&self, trust_domain: &str, default: &str, signers: &[&str]) {
        let names: Vec<_> = signers.iter().map(|name| format!("{DOMAIN}/{name}")).collect();
        let pem = self.ca.root_pem().replace('\n', "\n    ");
        let text = format!(
            "trustDomain: {trust_domain}\ndefaultConfig: {{proxyMetadata: {{ISTIO_META_CERT_SIGNER: {default}}}}}\ncaCertificates:\n- certSigners: [{}]\n  pem: |\n    {pem}\n",
            names.join(", ")
        );
        let config = MeshConfig::parse(&text).unwrap();
        let mesh = Mesh::new(config, ProxyConfigs::default(), "istio-system");
        self.mesh.send_replace(Some(Arc::new(mesh)));
    }

    fn waits_for(&self) -> String {
        let pending = self.readiness.pending();
        pending
            .first()
            .map(|pending| pending.reason.clone())
            .unwrap_or_default()
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines().any(|shown| shown == line)
    }
}

/// What a request of foo without a name gets: a signer, or a word.
fn served(desk: &watch::Receiver<Arc<Desk>>, signer: &str) -> Result<String, &'static str> {
    let desk = Arc::clone(&desk.borrow());
    let Ok(open) = desk.open() else { return Err("closed") };
    let signer: Option<SignerName> = (!signer.is_empty()).then(|| signer.parse().unwrap());
    let wish = Wish {
        namespace: "foo",
        service_account: "sleep",
        signer: signer.as_ref(),
        key_type: ensign_pki::KeyType::P256,
        ttl_seconds: 0,
    };
    let grant = open.policy.grant(wish).map_err(|denial| denial.reason())?;
    assert!(open.signer(&grant.signer).is_some(), "what is granted runs");
    Ok(grant.signer.to_string())
}

/// On a clock that jumps when nothing else is to do.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not happen");
}

/// Long enough for each follower to have looked again.
async fn settle() {
    sleep(Duration::from_secs(30)).await;
}

fn file(rule: &str) -> String {
    format!(
        "apiVersion: ensign.mesh/v1\ntrustDomain: a.example\nsigners:\n- name: own\n  local: {{dir: /own}}\nrules:\n- namespace: foo\n  serviceAccounts: ['*']\n  {rule}\n"
    )
}

#[tokio::test(start_paused = true)]
async fn a_file_alone_must_be_good_at_the_start_and_may_be_wrong_later() {
    let mut world = World::new();
    world.write("apiVersion: nonsense\n");
    let error = world.start(true, false).await.unwrap_err();
    assert!(format!("{error:#}").contains("cannot be read"), "{error:#}");

    let mut world = World::new();
    world.write(&file("signers: [own]\n  default: own"));
    let desk = world.start(true, false).await.unwrap();
    assert_eq!(served(&desk, ""), Ok("own".to_owned()));
    assert_eq!(world.waits_for(), "");
    world.write("apiVersion: nonsense\n");
    until("the wrong file is noticed", || {
        world.metric("file_loaded{file=\"policy\"} 0")
    })
    .await;
    assert_eq!(served(&desk, ""), Ok("own".to_owned()));
    world.write(&file("signers: [own]"));
    until("the new file counts", || served(&desk, "") == Err("no_default_signer")).await;
    assert!(world.metric("mesh_config_in_effect 0"), "nothing is followed");
}

#[tokio::test(start_paused = true)]
async fn a_text_in_the_place_of_a_file_opens_the_desk_or_stops_the_start() {
    let mut world = World::new();
    let error = world
        .start_with(false, false, Some("apiVersion: nonsense\n"))
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("cannot be read"), "{error:#}");

    let mut world = World::new();
    let text = file("signers: [own]\n  default: own\n  ignoreCertSigner: true");
    let desk = world.start_with(false, false, Some(&text)).await.unwrap();
    assert_eq!(served(&desk, ""), Ok("own".to_owned()));
    assert_eq!(served(&desk, "foo"), Ok("own".to_owned()));
    assert_eq!(world.waits_for(), "");
    settle().await;
    assert_eq!(served(&desk, ""), Ok("own".to_owned()), "it stays");
}

#[tokio::test(start_paused = true)]
async fn without_a_file_the_desk_opens_with_istios_configuration_and_follows_it() {
    let mut world = World::new();
    let desk = world.start(false, true).await.unwrap();
    settle().await;
    assert_eq!(served(&desk, ""), Err("closed"));
    assert!(
        world.waits_for().contains("mesh configuration has not been read"),
        "{}",
        world.waits_for()
    );
    let closed = desk.borrow().open().unwrap_err();
    assert!(
        closed.to_string().contains("mesh configuration has not been read"),
        "{closed}"
    );

    world.mesh_is("a.example", "foo", &["foo", "bar"]);
    until("it opens", || served(&desk, "") == Ok("foo".to_owned())).await;
    assert_eq!(world.waits_for(), "");
    assert!(world.metric("mesh_config_in_effect 1") && world.metric("refused_signers 0"));
    world.mesh_is("a.example", "bar", &["bar"]);
    until("it follows", || served(&desk, "") == Ok("bar".to_owned())).await;
    assert_eq!(served(&desk, "foo"), Err("signer_not_allowed"));
    // A default that lost its roots is refused, and the policy is still that of the mesh.
    world.mesh_is("a.example", "foo", &["bar"]);
    until("the roots are gone", || {
        served(&desk, "") == Err("signer_without_roots")
    })
    .await;
    assert!(world.metric("mesh_config_in_effect 1") && world.metric("refused_signers 1"));
    let before = world.opener.before.lock().clone();
    assert_eq!(
        before,
        [vec![], vec!["bar".to_owned(), "foo".to_owned()], vec!["bar".to_owned()]]
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_feed_held_before_anybody_looked_counts() {
    let mut world = World::new();
    world.mesh_is("a.example", "foo", &["foo"]);
    let desk = world.start(false, true).await.unwrap();
    until("it opens", || served(&desk, "") == Ok("foo".to_owned())).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_waits_for_a_signer_of_the_mesh_takes_effect_when_it_appears() {
    let mut world = World::new();
    world.write(&file("signers: [foo]\n  default: foo"));
    let desk = world.start(true, true).await.unwrap();
    settle().await;
    assert_eq!(served(&desk, ""), Err("closed"));
    world.mesh_is("a.example", "bar", &["bar"]);
    until("the reason is told", || {
        world.waits_for().contains("\"foo\", which is not defined")
    })
    .await;
    assert_eq!(served(&desk, ""), Err("closed"));
    world.mesh_is("a.example", "bar", &["bar", "foo"]);
    until("it opens", || served(&desk, "") == Ok("foo".to_owned())).await;
    assert_eq!(world.waits_for(), "");
    assert!(world.metric("mesh_config_in_effect 1"));
}

async fn both(rule: &str) -> (World, watch::Receiver<Arc<Desk>>) {
    let mut world = World::new();
    world.write(&file(rule));
    world.mesh_is("a.example", "foo", &["foo"]);
    let desk = world.start(true, true).await.unwrap();
    until("it opens", || served(&desk, "").is_ok()).await;
    (world, desk)
}

/// Wrong only together with the file: another trust domain, or a signer gone that a rule names.
#[test_case("b.example", &["foo", "bar"]; "another trust domain")]
#[test_case("a.example", &["bar"]; "a signer of a rule is gone")]
#[tokio::test(start_paused = true)]
async fn a_mesh_that_contradicts_the_file_waits_and_the_file_can_still_take_rights_away(
    trust_domain: &str,
    signers: &[&str],
) {
    let (world, desk) = both("signers: [foo, own]").await;
    world.mesh_is(trust_domain, "bar", signers);
    until("it is refused", || world.metric("mesh_config_in_effect 0")).await;
    assert_eq!(served(&desk, ""), Ok("foo".to_owned()));
    assert_eq!(world.waits_for(), "", "what was in effect still serves");
    // The operator takes own away: that counts, with the mesh configuration of before.
    world.write(&file("signers: [foo]"));
    until("own is taken away", || {
        served(&desk, "own") == Err("signer_not_allowed")
    })
    .await;
    assert_eq!(served(&desk, ""), Ok("foo".to_owned()));
    assert!(world.metric("mesh_config_in_effect 0"));
    // And when the contradiction ends, the newest of both counts.
    world.mesh_is("a.example", "foo", &["foo", "bar"]);
    until("it is taken", || world.metric("mesh_config_in_effect 1")).await;
    assert_eq!(served(&desk, "own"), Err("signer_not_allowed"));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_file_does_not_hold_up_the_mesh_and_never_comes_back() {
    let (world, desk) = both("signers: [foo, own]").await;
    world.write(&file("signers: [baz]"));
    until("the wrong file is noticed", || {
        world.metric("file_loaded{file=\"policy\"} 0")
    })
    .await;
    // The mesh's default changes to own, which the old file allows.
    world.mesh_is("a.example", "own", &["foo"]);
    until("the mesh counts", || served(&desk, "") == Ok("own".to_owned())).await;
    assert!(world.metric("mesh_config_in_effect 1") && world.metric("file_loaded{file=\"policy\"} 0"));
    // The file is put back as it was; baz appears; nobody was ever meant to have it now.
    world.write(&file("signers: [foo, own]"));
    until("the old file is back", || {
        world.metric("file_loaded{file=\"policy\"} 1")
    })
    .await;
    world.mesh_is("a.example", "own", &["foo", "baz"]);
    settle().await;
    assert_eq!(served(&desk, "baz"), Err("signer_not_allowed"));
    assert_eq!(served(&desk, ""), Ok("own".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_does_not_start_keeps_the_desk_as_it_was() {
    let (world, desk) = both("signers: [foo]").await;
    world.opener.failing.lock().insert("bar");
    world.mesh_is("a.example", "foo", &["foo", "bar"]);
    until("it is refused", || world.metric("mesh_config_in_effect 0")).await;
    assert_eq!(served(&desk, ""), Ok("foo".to_owned()));
    world.opener.failing.lock().clear();
    world.mesh_is("a.example", "foo", &["foo", "bar", "baz"]);
    until("it is taken", || world.metric("mesh_config_in_effect 1")).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_configuration_again_starts_nothing_anew() {
    let (world, desk) = both("signers: [foo]").await;
    settle().await;
    let starts = world.opener.before.lock().len();
    world.mesh_is("a.example", "foo", &["foo"]);
    settle().await;
    assert_eq!(world.opener.before.lock().len(), starts);
    assert_eq!(served(&desk, ""), Ok("foo".to_owned()));
}
