//! The client of the direct limit, in a process of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ensign_ra::kubernetes::{ClusterSource, KubernetesMetrics, connect};
use ensign_testbed::cluster::USAGES;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::watched::Watched;
use super::{Question, Way};
use crate::issue::Request;
use crate::issue::client::Outcome;
use crate::peer;

/// On every object that is made here.
pub(super) const LABEL: &str = "ensign.mesh/bench=direct";

/// Connected, and watching.
struct Direct {
    reviews: Api<TokenReview>,
    csrs: Api<CertificateSigningRequest>,
    signed: Watched,
    certificate_requests: Api<DynamicObject>,
    issued: Watched,
}

/// Deletes that were begun.
type Removals = JoinSet<anyhow::Result<()>>;

/// Serves the questions of the parent.
pub(crate) async fn run() -> anyhow::Result<()> {
    ensign_pki::crypto::install_default();
    let mut direct = None;
    peer::answer(async |question: Question| match question {
        Question::Connect { kubeconfig, namespace } => {
            let source = ClusterSource::Kubeconfig {
                path: kubeconfig,
                context: None,
            };
            let cluster = connect(&source, &KubernetesMetrics::default()).await?;
            direct = Some(Arc::new(Direct::begin(&cluster.client(), &namespace).await?));
            Ok(None)
        }
        Question::Once {
            way,
            in_flight,
            requests,
        } => {
            let direct = direct.as_ref().context("not connected")?;
            measure(direct, way, in_flight, requests).await.map(Some)
        }
    })
    .await
}

async fn measure(direct: &Arc<Direct>, way: Way, in_flight: usize, requests: Vec<Request>) -> anyhow::Result<Outcome> {
    let (requests, way) = (Arc::new(requests), Arc::new(way));
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..in_flight {
        let (direct, way) = (Arc::clone(direct), Arc::clone(&way));
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        running.spawn(async move {
            let (mut micros, mut removals) = (Vec::new(), Removals::new());
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let began = Instant::now();
                direct.certificate(&way, request, &mut removals).await?;
                micros.push(u64::try_from(began.elapsed().as_micros())?);
            }
            anyhow::Ok((micros, removals, Instant::now()))
        });
    }
    let (mut micros, mut ended) = (Vec::new(), began);
    let mut all_removals = Vec::new();
    while let Some(done) = running.join_next().await {
        let (more, removals, end) = done??;
        micros.extend(more);
        all_removals.push(removals);
        ended = ended.max(end);
    }
    // As with the RA, what is deleted after the last answer is not waited for; it must be gone all the same.
    for mut removals in all_removals {
        while let Some(removed) = removals.join_next().await {
            removed??;
        }
    }
    Ok(Outcome {
        seconds: (ended - began).as_secs_f64(),
        micros,
    })
}

// === impl Direct ===

impl Direct {
    async fn begin(client: &Client, namespace: &str) -> anyhow::Result<Self> {
        let csr = ApiResource::erase::<CertificateSigningRequest>(&());
        let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
        let certificate_request = ApiResource::from_gvk(&kind);
        let watched = Api::namespaced_with(client.clone(), namespace, &certificate_request);
        Ok(Self {
            reviews: Api::all(client.clone()),
            csrs: Api::all(client.clone()),
            signed: Watched::begin(Api::all_with(client.clone(), &csr)).await?,
            certificate_requests: Api::namespaced_with(client.clone(), namespace, &certificate_request),
            issued: Watched::begin(watched).await?,
        })
    }

    /// One certificate.
    async fn certificate(&self, way: &Way, request: &Request, removals: &mut Removals) -> anyhow::Result<()> {
        self.review(request).await?;
        match way {
            Way::Review => Ok(()),
            Way::Csr(signer) => self.csr(signer, request, removals).await,
            Way::CertificateRequest(issuer) => self.certificate_request(issuer, request, removals).await,
        }
    }

    async fn review(&self, request: &Request) -> anyhow::Result<()> {
        let question = TokenReview {
            spec: TokenReviewSpec {
                token: Some(request.token.clone()),
                audiences: Some(vec!["istio-ca".to_owned()]),
            },
            ..TokenReview::default()
        };
        let answer = self.reviews.create(&PostParams::default(), &question).await;
        let status = answer.context("no TokenReview")?.status.unwrap_or_default();
        let user = status.user.unwrap_or_default().username.unwrap_or_default();
        ensure!(
            status.authenticated == Some(true) && user == request.subject,
            "the token of {} is not taken: {:?}",
            request.subject,
            status.error
        );
        Ok(())
    }

    async fn csr(&self, signer: &str, request: &Request, removals: &mut Removals) -> anyhow::Result<()> {
        let name = unique();
        let signed = self.signed.certificate_in(&name);
        let csr = CertificateSigningRequest {
            metadata: metadata(name),
            spec: CertificateSigningRequestSpec {
                request: ByteString(request.csr_pem.clone().into_bytes()),
                signer_name: signer.to_owned(),
                usages: Some(USAGES.map(str::to_owned).to_vec()),
                expiration_seconds: Some(3600),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let params = PostParams::default();
        let mut csr = self.csrs.create(&params, &csr).await.context("cannot make a CSR")?;
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("Bench".to_owned()),
            ..CertificateSigningRequestCondition::default()
        };
        let status = csr.status.get_or_insert_default();
        status.conditions.get_or_insert_default().push(condition);
        let name = csr.name_any();
        let approved = self.csrs.replace_subresource("approval", &name, &params, &csr);
        approved.await.context("cannot approve a CSR")?;
        signed.await.context("the watch ended")?;
        remove(&self.csrs, &csr, removals);
        Ok(())
    }

    async fn certificate_request(
        &self,
        issuer: &Value,
        request: &Request,
        removals: &mut Removals,
    ) -> anyhow::Result<()> {
        let name = unique();
        let issued = self.issued.certificate_in(&name);
        let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
        let mut object = DynamicObject::new(&name, &ApiResource::from_gvk(&kind)).data(json!({
            "spec": {
                "request": STANDARD.encode(&request.csr_pem),
                "issuerRef": issuer,
                "usages": USAGES,
                "duration": "1h0m0s",
            },
        }));
        object.metadata = metadata(name);
        let object = self.certificate_requests.create(&PostParams::default(), &object).await;
        let object = object.context("cannot make a CertificateRequest")?;
        issued.await.context("the watch ended")?;
        remove(&self.certificate_requests, &object, removals);
        Ok(())
    }
}

/// Begins to delete an object, and no other of its name.
fn remove<K: Resource + Clone>(api: &Api<K>, object: &K, removals: &mut Removals) {
    let name = object.name_any();
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: object.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    // Not through `Api`, which reads the answer twice.
    let (client, request) = (api.clone().into_client(), kube::core::Request::new(api.resource_url()));
    removals.spawn(async move {
        let deleted = client.request_text(request.delete(&name, &params)?).await;
        deleted.with_context(|| format!("cannot delete {name}")).map(drop)
    });
}

fn metadata(name: String) -> ObjectMeta {
    let label = LABEL.split_once('=');
    ObjectMeta {
        name: Some(name),
        labels: label.map(|(key, value)| [(key.to_owned(), value.to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn unique() -> String {
    format!("direct-{:016x}", fastrand::u64(..))
}
