//! `CreateCertificate`: one request, step by step, in an order that the code shows and the tests hold.
//!
//! limits → authn → metadata → CSR → authz → policy → gate → signer → check → answer. Each step ends in a [`Refusal`] or
//! leads to the next; a request sees one policy from beginning to end. What became of it goes to the one log line of the
//! [`Call`]; the caller gets a code and a fixed text. When the call is dropped, so is the signer's work on it.
//!
//! A request has one deadline, counted from its arrival: a wait in a queue leaves less for the signer. Were it otherwise,
//! a client that sets none could wait for the sum of all bounds.

use std::sync::Arc;
use std::time::Duration;

use ensign_pki::SharedClock;
use ensign_pki::csr::Csr;
use ensign_proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateService;
use ensign_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::authn::{Authenticator, Caller};
use crate::authz::{self, Authorizer};
use crate::call::Call;
use crate::desk::Desk;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::policy::Wish;
use crate::refusal::Refusal;
use crate::reply::{self, Asked, Reply};
use crate::request;
use crate::serving::Peer;
use crate::signer::{IdempotencyKey, Issuance, Issued, IssuedChain, Originator, Pod, Running};

/// What the service is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Who is calling.
    pub authn: Authenticator,
    /// For whom a caller may ask.
    pub authz: Authorizer,
    /// The policy and its signers.
    pub desk: watch::Receiver<Arc<Desk>>,
    /// What is let in at once.
    pub limits: Arc<Limits>,
    /// Counts.
    pub metrics: Metrics,
    /// Tells the time.
    pub clock: SharedClock,
    /// How long a request may take, from its arrival to its answer, to a signer without a deadline of its own.
    pub signer_timeout: Duration,
}

/// Istio's certificate service.
#[derive(Debug, Clone)]
pub struct Service(Parts);

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let in_flight = self.0.metrics.begin();
        let mut call = Call::of(&request);
        let (metadata, _, message) = request.into_parts();
        let outcome = self.serve(&mut call, &metadata, message).await;
        self.0.metrics.queued(self.0.limits.queued());
        match outcome {
            Ok(reply) => {
                call.log_issued(&reply);
                in_flight.issued();
                let mut response = Response::new(IstioCertificateResponse {
                    cert_chain: reply.elements,
                });
                call.stamp(response.metadata_mut());
                Ok(response)
            }
            Err(refusal) => {
                call.log_refused(&refusal);
                in_flight.refused(&refusal);
                let mut status = refusal.status();
                call.stamp(status.metadata_mut());
                Err(status)
            }
        }
    }
}

// === impl Service ===

impl Service {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self(parts)
    }

    /// All steps, within the client's own deadline.
    async fn serve(
        &self,
        call: &mut Call,
        metadata: &MetadataMap,
        message: IstioCertificateRequest,
    ) -> Result<Reply, Refusal> {
        // The steps that wait know the deadline and have a better answer; this is for all others.
        match call.patience.belt() {
            Some(belt) => timeout_at(belt, self.steps(call, metadata, message))
                .await
                .unwrap_or(Err(Refusal::ClientDeadline)),
            None => self.steps(call, metadata, message).await,
        }
    }

    async fn steps(
        &self,
        call: &mut Call,
        metadata: &MetadataMap,
        message: IstioCertificateRequest,
    ) -> Result<Reply, Refusal> {
        let parts = &self.0;
        let deadline = call.patience.deadline(parts.signer_timeout);
        let place = parts.limits.place(deadline).await?;
        let presented = call.peer.as_ref().and_then(Peer::certificates);
        let caller = match parts.authn.authenticate(metadata, presented, Some(deadline)).await {
            Ok(caller) => caller,
            Err(error) => {
                drop(place);
                if error.is_crowded() {
                    // Istio's agents come back at once, all of them. Here they wait and are in nobody's way.
                    sleep_until(deadline.min(Instant::now() + CROWDED)).await;
                }
                return Err(error.into());
            }
        };
        let caller = &*call.caller.insert(caller);
        let _share = parts.limits.share(&caller.namespace, &caller.service_account)?;
        let extras = request::extras(message.metadata.as_ref())?;
        parts.metrics.unknown_metadata(extras.unknown);
        call.impersonated = extras.impersonated;
        let csr = Csr::parse_pem(&message.csr)?;
        let desk = Arc::clone(&parts.desk.borrow());
        let desk = desk.open()?;
        let impersonated = call.impersonated.as_deref();
        let trust_domain = desk.policy.trust_domain();
        let id = parts
            .authz
            .authorise(trust_domain, caller, impersonated, csr.spiffe_id())
            .await?;
        // The identity that is issued, which with impersonation is not the caller's.
        let wish = Wish {
            namespace: id.namespace(),
            service_account: id.service_account(),
            signer: extras.signer.as_ref(),
            key_type: csr.key_type(),
            ttl_seconds: message.validity_duration,
        };
        let grant = &*call.grant.insert(authz::grant(&desk.policy, caller, wish)?);
        parts.metrics.ttl_change(grant.ttl_change);
        let running = desk
            .signer(&grant.signer)
            .ok_or_else(|| Refusal::NoSigner(grant.signer.clone()))?;
        // Nothing is signed that could not be judged afterwards.
        let no_roots = |source| Refusal::no_roots(&grant.signer, source);
        running.trust().current().map_err(no_roots)?;
        let originator = originator(caller);
        let csr = Arc::new(csr);
        let own = running.spec().backend.request().map(|spec| spec.deadline);
        let deadline = call.patience.deadline(own.unwrap_or(parts.signer_timeout));
        let cluster = originator.cluster.as_deref();
        let issuance = Issuance {
            idempotency_key: IdempotencyKey::derive(cluster, &id, &grant.signer, csr.spki_der(), grant.ttl),
            csr: Arc::clone(&csr),
            id: id.clone(),
            ttl: grant.ttl,
            originator,
            request_id: call.id.as_str().into(),
            deadline,
        };
        let asked = Asked {
            csr: &csr,
            id: &id,
            ttl: grant.ttl,
            exact: running.spec().backend.request().is_some_and(|spec| spec.exact_lifetime),
        };
        // From here on the signer's own gate bounds how many there are.
        drop(place);
        let outcome = match running.sign(issuance).await {
            Ok(issued) => {
                call.object = issued.receipt.object().map(str::to_owned);
                self.answer(running, issued, asked).await
            }
            Err(error) => Err(Refusal::not_signed(&grant.signer, error)),
        };
        let word = outcome.as_ref().map_or_else(Refusal::reason, |_| "issued");
        parts.metrics.signer(&grant.signer, word);
        outcome
    }

    /// From what the signer gave to what the caller gets. Dropped on the way, it leaves the signer's object to a retry.
    async fn answer(&self, running: &Running, issued: Issued, asked: Asked<'_>) -> Result<Reply, Refusal> {
        let Issued { chain, receipt, ca: _ } = issued;
        let outcome = self.judge(running, &chain, asked).await;
        // Delivered, or of no use to anybody who comes back.
        receipt.settle();
        outcome
    }

    async fn judge(&self, running: &Running, issued: &IssuedChain, asked: Asked<'_>) -> Result<Reply, Refusal> {
        let signer = &running.spec().name;
        let wrong = |error| Refusal::answer(signer, error);
        let now = || self.0.clock.now();
        let chain = reply::read(issued).map_err(wrong)?;
        self.0.metrics.clock_ahead(signer, reply::dated_ahead(&chain, now()));
        // A second time only if the clock was set back meanwhile.
        for _ in 0..2 {
            if let Some(ahead) = reply::begins_in(&chain, now()) {
                tracing::debug!(?ahead, "waiting until the certificate is valid");
                tokio::time::sleep(ahead).await;
            }
        }
        // Roots are read after signing: a bundle that just gained the issuer's root counts.
        let roots = running.trust().current();
        let roots = roots.map_err(|source| Refusal::no_roots(signer, source))?;
        let reply = reply::compose(&chain, &roots, asked, now()).map_err(|error| {
            if UNKNOWN_ROOT.contains(&error.reason) {
                running.trust().doubted();
            }
            wrong(error)
        })?;
        if let Some(change) = reply.lifetime.change() {
            self.0.metrics.lifetime(change);
        }
        Ok(reply)
    }
}

fn originator(caller: &Caller) -> Originator {
    let pod = caller.pod.clone();
    Originator {
        namespace: caller.namespace.clone(),
        service_account: caller.service_account.clone(),
        pod: pod.map(|pod| Pod {
            name: pod.name,
            uid: pod.uid,
        }),
        node: caller.node.as_ref().map(|node| node.name.clone()),
        cluster: caller.cluster.clone(),
    }
}

/// How long a caller is kept whose cluster is silent and already waited for by many: long against the 0.1 s after which
/// Istio's agents come back.
const CROWDED: Duration = Duration::from_secs(3);
/// How a chain ends whose root the signer's bundle lacks.
const UNKNOWN_ROOT: [&str; 2] = ["foreign_root", "incomplete_chain"];
