//! The RA with informers: no request to the API server, so what it is held against is the arithmetic that no authority
//! avoids; and its memory, with every pod of the cluster known.

use anyhow::Context;
use ensign_testbed::wait::{PATIENCE, until};
use tokio::time::sleep;

use super::authority::Authority;
use super::bed::{self, Bed};
use super::direct::Way;
use super::rounds::{IN_FLIGHT, Side, whole};
use crate::issue::raw::Raw;
use crate::machine;
use crate::proc::{self, Memory};
use crate::scale::Scale;
use crate::stats::median;

/// What was measured.
#[derive(Debug)]
pub(super) struct Found {
    /// By number of requests in flight.
    pub(super) levels: [Side; IN_FLIGHT.len()],
    /// Certificates per second of the bare arithmetic, on all processors.
    pub(super) limit: f64,
    /// Processor time of one, in µs.
    pub(super) limit_micros: f64,
    /// Pods that the RA knows.
    pub(super) pods: u64,
    /// Memory once it knows them.
    pub(super) at_rest: Memory,
    /// Memory after all rounds.
    pub(super) after_work: Memory,
}

/// Runs it. The pods must be there.
pub(super) async fn run(bed: &Bed, scale: &Scale) -> anyhow::Result<Found> {
    let mut ra = Authority::start(bed, "informer").await?;
    let wanted = u64::try_from(scale.pods + bed::WORKLOAD_COUNT)?;
    let pods = until("the RA to know the pods", PATIENCE, async || {
        let pods = ra.metric(PODS).await?.unwrap_or_default();
        anyhow::ensure!(pods == wanted, "it knows {pods} of {wanted}");
        Ok(pods)
    })
    .await?;
    sleep(scale.settle).await;
    let at_rest = proc::memory(ra.pid()?)?;

    let keys = http::Request::get("/openid/v1/jwks").body(Vec::new())?;
    let keys = bed
        .cluster
        .admin()
        .request_text(keys)
        .await
        .context("the keys of tokens")?;
    let raw = Raw::new(&keys)?;
    let sample = bed.mint.requests(SAMPLE, bed::LOCAL)?;
    let warm = ra.serve(20, bed.mint.requests(SAMPLE, bed::LOCAL)?).await?;
    let (mut limits, mut limits_micros) = (Vec::new(), Vec::new());
    let mut levels: [Side; IN_FLIGHT.len()] = Default::default();
    for _ in 0..scale.rounds_on_kubernetes {
        for (number, (level, in_flight)) in levels.iter_mut().zip(IN_FLIGHT).enumerate() {
            let slice = scale.slices.get(number).copied().unwrap_or_default().min(scale.slice);
            let used = proc::cpu_time(std::process::id())?;
            let rate = tokio::task::block_in_place(|| raw.rate(&sample, machine::cores(), slice))?;
            let used = proc::cpu_time(std::process::id())?.saturating_sub(used);
            limits.push(rate);
            limits_micros.push(used.as_secs_f64() * 1e6 / (rate * slice.as_secs_f64()));
            let size = whole(warm.rate() * slice.as_secs_f64()).clamp(in_flight, MOST);
            let requests = tokio::task::block_in_place(|| bed.mint.requests(size, bed::LOCAL))?;
            level.through(bed, &mut ra, &Way::Review, in_flight, requests).await?;
        }
    }
    sleep(scale.settle).await;
    let after_work = proc::memory(ra.pid()?)?;
    ra.finish().await?;
    Ok(Found {
        levels,
        limit: median(limits),
        limit_micros: median(limits_micros),
        pods,
        at_rest,
        after_work,
    })
}

/// How many requests the limit goes round with, and the RA is warmed up with.
const SAMPLE: usize = 500;
/// Requests of a round, at most: making them takes time, too.
const MOST: usize = 4_000;
/// What the RA says of the pods that it knows.
const PODS: &str = "ensign_ra_authn_pods{cluster=\"Kubernetes\"}";
