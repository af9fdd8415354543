//! Signer cert-manager on the real API server: with the real cert-manager, and with an external issuer that misbehaves.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ensign_ra::policy::{CertManagerSpec, ConfigMapRef, IssuerRef};
use ensign_ra::signer::{Running, SignerError};
use ensign_testbed::cluster::instant_signer::{Answer, Behaviour, CaField, InstantSigner, Order, Serves};
use ensign_testbed::cluster::{Access, Cluster, ClusterOptions, unique};
use ensign_testbed::wait::{self, PATIENCE};
use ensign_testkit::{Fault, Gate, TestCa};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::replica::{FOR_EVER, Installation, Replica, Wish, cert_manager_signer, cert_manager_signer_with};

type Result = anyhow::Result<()>;

/// The ConfigMap that deploy/optional/rbac.yaml lets the RA follow.
const RUNTIME_ISSUER: &str = "ensign-ra-issuer";

/// An external issuer of a test's own, and a replica that uses it.
struct Scene {
    namespace: String,
    issuer: IssuerRef,
    ca: TestCa,
    signer: InstantSigner,
    installation: Installation,
    replica: Replica,
}

impl Scene {
    async fn new(access: &Access) -> anyhow::Result<Self> {
        InstantSigner::install_kind(access).await?;
        let namespace = access.namespace("foo").await?;
        let name = unique("instant");
        let ca = TestCa::with_intermediates("foo", 2);
        let serves = Serves::external_issuer(&name);
        let reference = serves.reference();
        let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
        let issuer = IssuerRef {
            name: text("name"),
            kind: text("kind"),
            group: text("group"),
        };
        let signer = InstantSigner::start(access, serves, &ca).await?;
        let installation = Installation::new(access, &[], Some(&namespace)).await?;
        let replica = Replica::start(access, &installation).await?;
        Ok(Self {
            namespace,
            issuer,
            ca,
            signer,
            installation,
            replica,
        })
    }

    async fn open(&self, replica: &Replica) -> anyhow::Result<Arc<Running>> {
        self.open_with(replica, |_| {}).await
    }

    async fn open_with(
        &self,
        replica: &Replica,
        change: impl FnOnce(&mut CertManagerSpec),
    ) -> anyhow::Result<Arc<Running>> {
        let issuer = Some(self.issuer.clone());
        let spec = cert_manager_signer_with("foo", &self.namespace, issuer, &self.ca.root_pem(), change);
        replica.open(&spec).await
    }

    async fn nothing_is_left(&self, access: &Access) -> Result {
        self.replica.settled().await;
        let left = self.installation.certificate_requests(access, &self.namespace).await?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

fn issuer(kind: &str, name: &str) -> IssuerRef {
    IssuerRef {
        name: name.to_owned(),
        kind: kind.to_owned(),
        group: "cert-manager.io".to_owned(),
    }
}

#[tokio::test]
async fn cert_manager_signs_for_two_requests_and_no_read() -> Result {
    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("foo").await?;
    let of_namespace = bed.issuer(&namespace, "ca").await?;
    let cluster_issuer = unique("foo");
    let of_cluster = bed.cluster_issuer(&cluster_issuer).await?;
    let installation = Installation::new(&bed, &[], Some(&namespace)).await?;
    let replica = Replica::start(&bed, &installation).await?;
    for (issuer, ca) in [
        (issuer("Issuer", "ca"), of_namespace),
        (issuer("ClusterIssuer", &cluster_issuer), of_cluster),
    ] {
        let spec = cert_manager_signer("foo", &namespace, Some(issuer), &ca.root_pem());
        let foo = replica.open(&spec).await?;
        // The watches stand before we begin to count.
        Wish::new("foo", "warm-up").certificate(&foo).await?;
        replica.settled().await;
        let mark = bed.audit().mark().await?;
        for number in 0..5 {
            let reply = Wish::new("foo", &format!("app-{number}")).certificate(&foo).await?;
            assert_eq!(reply.elements.len(), 2);
            assert_eq!(reply.lifetime.change(), None);
        }
        replica.settled().await;
        let requests = bed
            .audit()
            .requests_by(&installation.account.username)
            .since(mark)
            .await?;
        assert_eq!(requests.count("create", "certificaterequests"), 5, "{requests:?}");
        assert_eq!(requests.count("delete", "certificaterequests"), 5);
        assert_eq!(requests.0.len(), 10, "{requests:?}");
    }
    assert!(installation.certificate_requests(&bed, &namespace).await?.is_empty());
    bed.finish().await
}

#[tokio::test]
async fn the_object_is_the_one_that_istio_csr_makes_and_says_more() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    scene.signer.script().push(Behaviour::Silent);
    let foo = scene
        .open_with(&scene.replica, |spec| {
            spec.annotations = [("example.com/team".to_owned(), "mesh".to_owned())].into();
        })
        .await?;
    let mut wish = Wish::new("foo", "httpbin");
    // Below the ten minutes of the other API.
    wish.ttl = Duration::from_mins(5);
    let issuance = wish.issuance(&foo, FOR_EVER);
    let name = Installation::object(&issuance);
    let asking = tokio::spawn({
        let foo = Arc::clone(&foo);
        async move { foo.signer().sign(issuance).await }
    });
    scene.signer.saw(1).await?;
    asking.abort();
    let there = scene.installation.certificate_requests(&bed, &scene.namespace).await?;
    let [object] = there.as_slice() else {
        anyhow::bail!("{} objects, expected one", there.len());
    };
    assert_eq!(object.name_any(), name);
    let spec = &object.data["spec"];
    assert_eq!(spec["issuerRef"]["name"], scene.issuer.name.as_str());
    assert_eq!(spec["issuerRef"]["kind"], scene.issuer.kind.as_str());
    assert_eq!(spec["issuerRef"]["group"], scene.issuer.group.as_str());
    assert_eq!(spec["duration"], "5m0s");
    assert_eq!(spec["usages"], json!(["client auth", "server auth"]));
    assert_eq!(spec["username"], scene.installation.account.username.as_str());
    assert!(spec.get("isCA").is_none());
    let annotations = object.annotations();
    let said = |key: &str| annotations.get(key).map(String::as_str);
    let id = "spiffe://cluster.local/ns/foo/sa/httpbin";
    assert_eq!(said("istio.cert-manager.io/identities"), Some(id));
    assert_eq!(said("ensign.mesh/identity"), Some(id));
    assert_eq!(said("ensign.mesh/service-account"), Some("httpbin"));
    assert_eq!(said("example.com/team"), Some("mesh"));
    ensure!(said("ensign.mesh/expires-at").is_some());
    bed.finish().await
}

#[tokio::test]
async fn each_way_to_fail_has_its_reason_and_leaves_nothing() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open(&scene.replica).await?;
    for (behaviour, reason, code, named) in [
        (
            Behaviour::Deny("policy".to_owned()),
            "approval_denied",
            tonic::Code::PermissionDenied,
            "policy",
        ),
        (
            Behaviour::Invalid("no URI names".to_owned()),
            "denied",
            tonic::Code::FailedPrecondition,
            "no URI names",
        ),
        (
            Behaviour::Fail("quota".to_owned()),
            "failed",
            tonic::Code::FailedPrecondition,
            "quota",
        ),
        (Behaviour::Delete, "gone", tonic::Code::Unavailable, "somebody deleted"),
        (
            Answer::default().wrong(Fault::Garbage).into(),
            "unreadable_answer",
            tonic::Code::Internal,
            "status.certificate",
        ),
    ] {
        scene.signer.script().push(behaviour.clone());
        let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
        assert_eq!((error.reason(), error.code()), (reason, code), "{behaviour:?}: {error}");
        ensure!(error.to_string().contains(named), "{behaviour:?}: {error}");
        scene.nothing_is_left(&bed).await?;
    }
    // What the service refuses is deleted as well.
    scene
        .signer
        .script()
        .push(Answer::default().wrong(Fault::OtherKey).into());
    ensure!(Wish::new("foo", "app").certificate(&foo).await.is_err());
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

#[tokio::test]
async fn chains_in_any_order_are_served_whatever_the_ca_field_says() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open(&scene.replica).await?;
    for answer in [
        Answer::default(),
        Answer::default().order(Order::WithRoot),
        Answer::default().order(Order::Reversed),
        Answer::default().order(Order::RootSecond),
        Answer::default().ca_field(CaField::Absent),
        Answer::default().ca_field(CaField::Other("no certificate".to_owned())),
        Answer::default().ca_field(CaField::Other(TestCa::root_only("other").root_pem())),
    ] {
        scene.signer.script().push(answer.clone().into());
        let reply = Wish::new("foo", "app").certificate(&foo).await;
        let reply = reply.with_context(|| format!("{answer:?}"))?;
        // The leaf, two intermediates each in an element of its own, the root.
        assert_eq!(reply.elements.len(), 4, "{answer:?}");
        assert_eq!(reply.elements[3].trim(), scene.ca.root_pem().trim(), "{answer:?}");
    }
    bed.finish().await
}

#[tokio::test]
async fn a_request_that_nobody_decides_on_stays_for_a_retry_at_any_replica() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let gate = Gate::new();
    scene.signer.script().push(Answer::default().after(&gate).into());
    let second = Replica::start(&bed, &scene.installation).await?;
    let impatient = scene
        .open_with(&scene.replica, |spec| spec.request.deadline = Duration::from_secs(2))
        .await?;
    let there = scene.open(&second).await?;
    let wish = Wish::new("foo", "app");
    let error = wish.certificate(&impatient).await.err().context("a certificate")?;
    let error = error.downcast::<SignerError>()?;
    // cert-manager's approver knows nothing of this issuer.
    assert_eq!(error.reason(), "not_approved", "{error}");
    ensure!(error.to_string().contains("approveSignerNames"), "{error}");
    gate.open();
    wish.signed_again().certificate(&there).await?;
    second.settled().await;
    assert_eq!(scene.signer.seen().len(), 1, "one object");
    scene.signer.answered_just(1).await?;
    scene.nothing_is_left(&bed).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_config_map_names_the_issuer_while_the_ra_runs() -> Result {
    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("foo").await?;
    let first = bed.issuer(&namespace, "first").await?;
    let second = bed.issuer(&namespace, "second").await?;
    let roots = first.root_pem() + &second.root_pem();
    let installation = Installation::new(&bed, &[], Some(&namespace)).await?;
    let replica = Replica::start(&bed, &installation).await?;
    let config_map = ConfigMapRef {
        namespace: installation.name.clone(),
        name: RUNTIME_ISSUER.to_owned(),
    };
    let spec = cert_manager_signer_with("foo", &namespace, None, &roots, |spec| {
        spec.runtime_issuer = Some(config_map.clone());
    });
    let foo = replica.open(&spec).await?;

    let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
    assert_eq!(error.code(), tonic::Code::Unavailable);
    ensure!(error.to_string().contains("no issuer is configured yet"), "{error}");

    let maps = Api::<ConfigMap>::namespaced(bed.admin(), &config_map.namespace);
    let name = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": RUNTIME_ISSUER },
            "data": { "issuer-name": name, "issuer-kind": "Issuer", "issuer-group": "cert-manager.io" } })
    };
    let put = async |object: &serde_json::Value| {
        let params = PatchParams::apply("test").force();
        maps.patch(RUNTIME_ISSUER, &params, &Patch::Apply(object)).await
    };
    let signed_by = async |ca: &TestCa| {
        wait::until("the issuer to be in effect", PATIENCE, async || {
            let reply = Wish::new("foo", "app").certificate(&foo).await?;
            let leaf = ensign_pki::Certificate::parse_pem(&reply.elements[0])?;
            let root = ensign_pki::Certificate::parse_pem(&ca.root_pem())?;
            ensure!(leaf.is_signed_by(&root), "another signed it");
            Ok(())
        })
        .await
    };
    put(&name("first")).await?;
    signed_by(&first).await?;
    put(&name("second")).await?;
    signed_by(&second).await?;
    // What names none keeps the one before.
    let mut wrong = name("first");
    wrong["data"]["issuer-kind"] = json!("");
    put(&wrong).await?;
    signed_by(&second).await?;
    maps.delete(RUNTIME_ISSUER, &DeleteParams::default()).await?;
    wait::until("the issuer to be gone", PATIENCE, async || {
        let asked = Wish::new("foo", "app").certificate(&foo).await;
        let error = asked.err().context("a certificate")?.downcast::<SignerError>()?;
        ensure!(error.to_string().contains("no issuer is configured yet"), "{error}");
        Ok(())
    })
    .await?;
    bed.finish().await
}

#[tokio::test]
async fn a_request_under_way_keeps_its_issuer() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let gate = Gate::new();
    scene.signer.script().push(Answer::default().after(&gate).into());
    let config_map = ConfigMapRef {
        namespace: scene.installation.name.clone(),
        name: RUNTIME_ISSUER.to_owned(),
    };
    let maps = Api::<ConfigMap>::namespaced(bed.admin(), &config_map.namespace);
    let IssuerRef { name, kind, group } = &scene.issuer;
    let put = async |name: &str| {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": RUNTIME_ISSUER },
            "data": { "issuer-name": name, "issuer-kind": kind, "issuer-group": group } });
        let params = PatchParams::apply("test").force();
        maps.patch(RUNTIME_ISSUER, &params, &Patch::Apply(&object)).await
    };
    put(name).await?;
    let foo = scene
        .open_with(&scene.replica, |spec| {
            spec.issuer = None;
            spec.runtime_issuer = Some(config_map);
        })
        .await?;
    let asking = tokio::spawn({
        let foo = Arc::clone(&foo);
        async move { Wish::new("foo", "app").certificate(&foo).await }
    });
    scene.signer.saw(1).await?;
    put("nobody").await?;
    wait::until("the change to be seen", PATIENCE, async || {
        // One for nobody: it is made, and nobody answers it.
        let impatient = Wish::new("foo", "other").issuance(&foo, Duration::from_secs(1));
        ensure!(foo.signer().sign(impatient).await.is_err());
        let there = scene.installation.certificate_requests(&bed, &scene.namespace).await?;
        ensure!(
            there
                .iter()
                .any(|one| one.data["spec"]["issuerRef"]["name"] == "nobody")
        );
        Ok(())
    })
    .await?;
    gate.open();
    asking.await??;
    bed.finish().await
}

#[tokio::test]
async fn an_issuer_that_is_missing_is_named_and_nothing_is_created() -> Result {
    let bed = Cluster::shared().await?;
    let namespace = bed.namespace("foo").await?;
    let installation = Installation::new(&bed, &[], Some(&namespace)).await?;
    let replica = Replica::start(&bed, &installation).await?;
    let ca = TestCa::root_only("late");
    let spec = cert_manager_signer("foo", &namespace, Some(issuer("Issuer", "late")), &ca.root_pem());
    let foo = replica.open(&spec).await?;
    let error = Wish::new("foo", "app").ask(&foo).await.err().context("a certificate")?;
    assert_eq!(error.code(), tonic::Code::Unavailable);
    let expected = format!("Issuer {namespace}/late does not exist");
    ensure!(error.to_string().contains(&expected), "{error}");
    assert!(installation.certificate_requests(&bed, &namespace).await?.is_empty());
    bed.finish().await
}

#[tokio::test]
async fn what_is_preserved_stays_and_serves_only_its_own_retries() -> Result {
    let bed = Cluster::shared().await?;
    let scene = Scene::new(&bed).await?;
    let foo = scene.open_with(&scene.replica, |spec| spec.preserve = true).await?;
    let wish = Wish::new("foo", "app");
    let first = wish.certificate(&foo).await?;
    // The answer was lost on its way, and the client asks again.
    let again = wish.certificate(&foo).await?;
    assert_eq!(first.validity.serial, again.validity.serial);
    scene.signer.script().push(Behaviour::Fail("no".to_owned()));
    ensure!(Wish::new("foo", "app").ask(&foo).await.is_err());
    scene.replica.settled().await;
    let there = scene.installation.certificate_requests(&bed, &scene.namespace).await?;
    assert_eq!(there.len(), 2);
    let never = |one: &kube::api::DynamicObject| one.annotations()["ensign.mesh/expires-at"] == "never";
    assert!(there.iter().all(never));
    bed.finish().await
}

/// Nothing then says that an object is ours, so none is adopted; what we made ourselves is still deleted.
#[tokio::test]
async fn without_cert_managers_webhook_a_retry_makes_its_own_object() -> Result {
    let bed = Cluster::start(ClusterOptions::default()).await?;
    // The one stamps the name, the other refuses what does not bear it.
    let everything = (DeleteParams::default(), ListParams::default());
    Api::<MutatingWebhookConfiguration>::all(bed.admin())
        .delete_collection(&everything.0, &everything.1)
        .await?;
    Api::<ValidatingWebhookConfiguration>::all(bed.admin())
        .delete_collection(&everything.0, &everything.1)
        .await?;
    let scene = Scene::new(&bed).await?;
    let gate = Gate::new();
    scene.signer.script().push(Answer::default().after(&gate).into());
    let foo = scene.open(&scene.replica).await?;
    let wish = Wish::new("foo", "app");
    let name = Installation::object(&wish.issuance(&foo, FOR_EVER));
    wait::until("the API server to forget the webhook", PATIENCE, async || {
        let impatient = Wish::new("foo", "other").issuance(&foo, Duration::from_millis(500));
        _ = foo.signer().sign(impatient).await;
        let there = scene.installation.certificate_requests(&bed, &scene.namespace).await?;
        ensure!(there.iter().any(|one| one.data["spec"].get("username").is_none()));
        Ok(())
    })
    .await?;
    let seen = scene.signer.seen().len();
    scene.signer.script().push(Behaviour::Silent);
    let asking = tokio::spawn({
        let (wish, foo) = (wish.clone(), Arc::clone(&foo));
        async move { wish.certificate(&foo).await }
    });
    scene.signer.saw(seen + 1).await?;
    asking.abort();
    let issued = wish.ask(&foo).await?;
    assert_eq!(issued.receipt.object(), Some(&*format!("{name}-2")));
    issued.receipt.settle();
    scene.replica.settled().await;
    let left = scene.installation.certificate_requests(&bed, &scene.namespace).await?;
    assert!(left.iter().all(|one| one.name_any() != format!("{name}-2")));
    bed.finish().await
}
