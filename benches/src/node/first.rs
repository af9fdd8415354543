//! How long a new pod waits: from kubelet's call to the first secret, beside the RA's answers to as many requests.

use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join_all;

use super::bed::{ACCOUNTS, Bed};
use crate::issue;
use crate::issue::client::{Outcome, Question};
use crate::peer::Peer;
use crate::report::Table;
use crate::scale::Scale;
use crate::stats::{Spread, median};

/// Measurements of so many volumes at once.
#[derive(Debug, Default)]
struct Level {
    pods: Vec<Spread>,
    ra: Vec<Spread>,
}

/// Runs it.
pub(super) async fn run(scale: &Scale, bed: &mut Bed) -> anyhow::Result<Table> {
    let requests = issue::requests(&bed.world, ACCOUNTS)?;
    let mut clients = Vec::new();
    for at_once in AT_ONCE {
        let mut client = Peer::start("client-requests")?;
        let prepare = Question::Prepare {
            address: bed.world.ra_address("grpc")?,
            root: bed.world.folder().join("ra-root.pem"),
            requests: requests.iter().take(at_once).cloned().collect(),
        };
        let _: Option<Outcome> = client.ask(&prepare).await?;
        clients.push(client);
    }
    let mut levels: [Level; AT_ONCE.len()] = Default::default();
    for _ in 0..scale.rounds {
        for ((level, at_once), client) in levels.iter_mut().zip(AT_ONCE).zip(&mut clients) {
            let outcome: Option<Outcome> = client.ask(&Question::Once { in_flight: at_once }).await?;
            let micros = outcome.map(|outcome| outcome.micros).unwrap_or_default();
            ensure!(micros.len() == at_once, "{} of {at_once} certificates", micros.len());
            level.ra.push(Spread::of_micros(micros));
            let pods = (0..at_once).map(|_| bed.pod()).collect::<anyhow::Result<Vec<_>>>()?;
            let micros = try_join_all(pods.iter().map(|pod| bed.first_secret(pod))).await?;
            level.pods.push(Spread::of_micros(micros));
            bed.unpublish(&pods).await?;
        }
    }
    Ok(table(scale, &levels))
}

fn table(scale: &Scale, levels: &[Level; AT_ONCE.len()]) -> Table {
    let text = format!(
        "From kubelet's `NodePublishVolume` until the pod's Envoy has its certificate: the publish, a key, the RA's answer (local signer), \
         a new connection with a node of 61 kB. Each pod is new and the volume fixes the signer. Beside it the RA's own limit: as many \
         requests at once, keys made beforehand, straight to the RA over connections that are there. {} rounds in turns, medians \
         of the rounds' percentiles.",
        scale.rounds
    );
    let head = &[
        "volumes at once",
        "p50",
        "last",
        "RA alone, p50",
        "RA alone, last",
        "of the RA's rate",
    ];
    let mut table = Table::new("First secret of a new pod", text, head);
    for (level, at_once) in levels.iter().zip(AT_ONCE) {
        let middle = |spreads: &[Spread], pick: fn(&Spread) -> Duration| {
            median(spreads.iter().map(|spread| pick(spread).as_secs_f64() * 1e3).collect())
        };
        let (last, alone) = (
            middle(&level.pods, |spread| spread.max),
            middle(&level.ra, |spread| spread.max),
        );
        table.row([
            at_once.to_string(),
            format!("{:.1} ms", middle(&level.pods, |spread| spread.p50)),
            format!("{last:.1} ms"),
            format!("{:.1} ms", middle(&level.ra, |spread| spread.p50)),
            format!("{alone:.1} ms"),
            format!("{:.0} %", 100.0 * alone / last),
        ]);
    }
    table
}

const AT_ONCE: [usize; 3] = [1, 30, 100];
