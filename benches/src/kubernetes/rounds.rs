//! Rounds that alternate: the direct client, the RA, the RA, the direct client, … each with so many requests at so many in
//! flight, so that whatever else the machine does hits both.

use std::time::Duration;

use anyhow::{Context, ensure};
use ensign_testbed::cluster::Mark;
use ensign_testbed::wait::{PATIENCE, until};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use tokio::time::timeout;

use super::apart::Halves;
use super::authority::Authority;
use super::bed::{self, Bed};
use super::direct::{Question, Way};
use crate::issue::Request;
use crate::issue::client::Outcome;
use crate::peer::Peer;
use crate::proc;
use crate::scale::Scale;
use crate::stats::{float_len, median};

/// All rounds of one side at one number of requests in flight.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// Certificates per second, round by round.
    pub(super) rates: Vec<f64>,
    /// Of each certificate.
    pub(super) micros: Vec<u64>,
    /// Requests to the API server, by its audit log.
    pub(super) api_requests: usize,
    /// Processor time of the RA.
    pub(super) cpu: Duration,
    /// Processor time of the control plane, cert-manager included.
    pub(super) control_plane: Duration,
}

/// Both sides.
#[derive(Debug)]
pub(super) struct Level {
    /// Requests in flight.
    pub(super) in_flight: usize,
    /// Without the RA.
    pub(super) direct: Side,
    /// Through the RA.
    pub(super) ra: Side,
}

/// Both ways to a certificate.
pub(super) struct Lanes<'a> {
    /// The cluster.
    pub(super) bed: &'a Bed,
    /// The client of the direct limit.
    pub(super) direct: Peer,
    /// The RA.
    pub(super) ra: Authority,
}

// === impl Side ===

impl Side {
    /// Processor time of the RA for one certificate, in µs.
    pub(super) fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / float_len(self.micros.len().max(1))
    }

    /// Processor time of the control plane for one certificate, in ms.
    pub(super) fn control_plane_millis(&self) -> f64 {
        self.control_plane.as_secs_f64() * 1e3 / float_len(self.micros.len().max(1))
    }

    /// Requests to the API server for one certificate.
    pub(super) fn api_requests(&self) -> f64 {
        float_len(self.api_requests) / float_len(self.micros.len().max(1))
    }

    /// One more round through an RA.
    pub(super) async fn through(
        &mut self,
        bed: &Bed,
        ra: &mut Authority,
        way: &Way,
        in_flight: usize,
        requests: Vec<Request>,
    ) -> anyhow::Result<()> {
        let pid = ra.pid()?;
        let mark = bed.cluster.audit().mark().await?;
        let (cpu, before) = (proc::cpu_time(pid)?, control_plane(bed)?);
        self.add(ra.serve(in_flight, requests).await?);
        settled(bed, way).await?;
        self.cpu += proc::cpu_time(pid)?.saturating_sub(cpu);
        self.control_plane += control_plane(bed)?.saturating_sub(before);
        self.api_requests += asked_by(bed, bed::OWN, mark).await?;
        Ok(())
    }

    fn add(&mut self, mut outcome: Outcome) {
        self.rates.push(outcome.rate());
        self.micros.append(&mut outcome.micros);
    }
}

// === impl Level ===

impl Level {
    /// The RA's rate to the direct one, round by round, the middle of it.
    pub(super) fn ratio(&self) -> f64 {
        let pairs = self.ra.rates.iter().zip(&self.direct.rates);
        median(pairs.map(|(ra, direct)| ra / direct).collect())
    }
}

// === impl Lanes ===

impl<'a> Lanes<'a> {
    /// Connects the direct client to the cluster, and gives each side its processors.
    pub(super) async fn open(bed: &'a Bed, ra: Authority, halves: Option<&Halves>) -> anyhow::Result<Self> {
        let mut direct = Peer::start("client-direct")?;
        let connect = Question::Connect {
            kubeconfig: bed.direct_kubeconfig.clone(),
            namespace: bed::DIRECT_ISTIO.to_owned(),
        };
        let _: Option<Outcome> = direct.ask(&connect).await?;
        if let Some(halves) = halves {
            for pid in bed.cluster.pids() {
                halves.control_plane(pid)?;
            }
            for pid in [direct.pid()?, ra.pid()?, ra.client_pid()?] {
                halves.ours(pid)?;
            }
        }
        Ok(Self { bed, direct, ra })
    }

    /// All rounds of one signer.
    pub(super) async fn run(&mut self, scale: &Scale, way: &Way, signer: &str) -> anyhow::Result<Vec<Level>> {
        let sizes = self.sizes(scale, way, signer).await?;
        let mut levels: Vec<_> = IN_FLIGHT
            .into_iter()
            .map(|in_flight| Level {
                in_flight,
                direct: Side::default(),
                ra: Side::default(),
            })
            .collect();
        for round in 0..scale.rounds_on_kubernetes {
            for (level, size) in levels.iter_mut().zip(sizes) {
                let requests = || self.bed.mint.requests(size, signer);
                let (first, second) = tokio::task::block_in_place(|| anyhow::Ok((requests()?, requests()?)))?;
                if round % 2 == 0 {
                    self.direct_round(way, level, first).await?;
                    level
                        .ra
                        .through(self.bed, &mut self.ra, way, level.in_flight, second)
                        .await?;
                } else {
                    level
                        .ra
                        .through(self.bed, &mut self.ra, way, level.in_flight, first)
                        .await?;
                    self.direct_round(way, level, second).await?;
                }
            }
        }
        Ok(levels)
    }

    /// How many requests fill a round, by a first few that are not counted. They warm both sides up, too.
    async fn sizes(&mut self, scale: &Scale, way: &Way, signer: &str) -> anyhow::Result<[usize; IN_FLIGHT.len()]> {
        let mint = &self.bed.mint;
        let alone = self.direct(way, 1, mint.requests(WARM_UP_ALONE, signer)?).await?.rate();
        let together = self.direct(way, 20, mint.requests(WARM_UP, signer)?).await?.rate();
        self.ra.serve(20, mint.requests(WARM_UP, signer)?).await?;
        settled(self.bed, way).await?;
        let rates = [alone, together, together];
        let mut sizes = [0; IN_FLIGHT.len()];
        for (((size, rate), slice), bounds) in sizes.iter_mut().zip(rates).zip(scale.slices).zip(scale.sizes) {
            *size = whole(rate * slice.as_secs_f64()).clamp(bounds.0, bounds.1);
        }
        Ok(sizes)
    }

    async fn direct_round(&mut self, way: &Way, level: &mut Level, requests: Vec<Request>) -> anyhow::Result<()> {
        let mark = self.bed.cluster.audit().mark().await?;
        let before = control_plane(self.bed)?;
        level.direct.add(self.direct(way, level.in_flight, requests).await?);
        level.direct.control_plane += control_plane(self.bed)?.saturating_sub(before);
        level.direct.api_requests += asked_by(self.bed, bed::DIRECT_OWN, mark).await?;
        Ok(())
    }

    async fn direct(&mut self, way: &Way, in_flight: usize, requests: Vec<Request>) -> anyhow::Result<Outcome> {
        let question = Question::Once {
            way: way.clone(),
            in_flight,
            requests,
        };
        let asked = timeout(ROUND, self.direct.ask(&question)).await;
        let outcome: Option<Outcome> = asked.context("the direct client does not come to an end")??;
        outcome.context("the direct client measured nothing")
    }
}

/// Waits until the RA has deleted every object, so that no round pays for the one before.
async fn settled(bed: &Bed, way: &Way) -> anyhow::Result<()> {
    let client = bed.cluster.admin();
    let objects: Api<DynamicObject> = match way {
        Way::Review => return Ok(()),
        Way::Csr(_) => {
            let kind = GroupVersionKind::gvk("certificates.k8s.io", "v1", "CertificateSigningRequest");
            Api::all_with(client, &ApiResource::from_gvk(&kind))
        }
        Way::CertificateRequest(_) => {
            let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
            Api::namespaced_with(client, bed::ISTIO, &ApiResource::from_gvk(&kind))
        }
    };
    let wanted = ListParams::default().labels(LABEL).limit(1);
    until("the RA to delete its objects", PATIENCE, async || {
        let left = objects.list_metadata(&wanted).await?.items.len();
        ensure!(left == 0, "some are left");
        Ok(())
    })
    .await
}

/// Processor time that the control plane has used so far.
fn control_plane(bed: &Bed) -> anyhow::Result<Duration> {
    bed.cluster.pids().into_iter().map(proc::cpu_time).sum()
}

/// How many requests an installation made since then, without what it costs at rest.
async fn asked_by(bed: &Bed, namespace: &str, mark: Mark) -> anyhow::Result<usize> {
    let user = format!("system:serviceaccount:{namespace}:ensign-ra");
    let requests = bed.cluster.audit().requests_by(&user).since(mark).await?;
    let requests = requests.without_election().filter(|request| request.verb != "watch");
    Ok(requests.0.len())
}

// === impl Outcome ===

impl Outcome {
    /// Certificates per second.
    pub(super) fn rate(&self) -> f64 {
        float_len(self.micros.len()) / self.seconds
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of requests, far below 2^52"
)]
/// The nearest whole number.
pub(super) fn whole(count: f64) -> usize {
    count.round().max(0.0) as usize
}

/// Requests in flight.
pub(super) const IN_FLIGHT: [usize; 3] = [1, 20, 200];
/// The RA's objects.
const LABEL: &str = "ensign.mesh/installation=ensign";
/// Requests that are not counted.
const WARM_UP_ALONE: usize = 5;
const WARM_UP: usize = 60;
/// A round that takes so long has stopped.
const ROUND: Duration = Duration::from_mins(2);
