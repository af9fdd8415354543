//! What was measured, as tables with their goals.

use super::bed::Signer;
use super::informer::Found;
use super::rounds::{IN_FLIGHT, Level};
use crate::machine;
use crate::proc::Memory;
use crate::report::{Table, verdict};
use crate::scale::Scale;
use crate::stats::{Spread, float, median};

/// Signers behind the API server.
pub(super) fn signers(scale: &Scale, apart: bool, rows: &[(&Signer, Vec<Level>)]) -> Table {
    let text = format!(
        "Signers behind the API server: cert-manager's CA issuer, and a controller of the test bed that answers at once. \
         Direct: a client without the RA, connected as the RA is, makes for each certificate a TokenReview, the object, its \
         approval (CSR API only) and its deletion, and hears of the certificate by one shared watch. RA: the same certificates \
         asked of the RA's own process over TLS 1.3, with the rights of `deploy/optional/rbac.yaml`, each logged and checked. {} rounds \
         of each in turns; rates are medians of rounds, the ratio is the median of pairs, percentiles are of all. API requests: \
         by the audit log, deletions included. CPU of the control plane: of etcd, API server, controller manager, cert-manager and its \
         webhook; the instant signer is not in it. {}",
        scale.rounds_on_kubernetes,
        processors(apart)
    );
    let head = ["API", "signer", "in flight", "direct, /s", "RA, /s", "of direct"];
    let head = &[&head[..], &COSTS].concat();
    let mut table = Table::new("Certificates through the API server", text, head);
    for (signer, levels) in rows {
        for level in levels {
            let (direct, ra) = (spread(&level.direct.micros), spread(&level.ra.micros));
            let added = ra.p50.as_secs_f64() - direct.p50.as_secs_f64();
            let goal = match level.in_flight {
                1 => verdict("≤ 10 ms added to p50", added <= 0.010),
                200 => verdict("≥ 95 %", level.ratio() >= 0.95),
                _ => blank(),
            };
            let mut row = vec![signer.api.to_owned(), signer.by.to_owned()];
            row.extend(cells(level));
            row.push(goal);
            table.row(row);
        }
    }
    table
}

/// The RA's own signer, beside bare TokenReviews.
pub(super) fn reviews(scale: &Scale, apart: bool, levels: &[Level]) -> Table {
    let text = format!(
        "The RA's own signer, with tokens judged by TokenReview. Direct: bare TokenReviews of as many other tokens, by the same \
         client. {} rounds of each in turns. {}",
        scale.rounds_on_kubernetes,
        processors(apart)
    );
    let head = [
        "in flight",
        "TokenReviews, /s",
        "RA, certificates/s",
        "of bare TokenReviews",
    ];
    let head = &[&head[..], &COSTS].concat();
    let mut table = Table::new("Local signer with TokenReview", text, head);
    for level in levels {
        let goal = match level.in_flight {
            200 => verdict("≥ 90 %", level.ratio() >= 0.9),
            _ => blank(),
        };
        table.row(cells(level).into_iter().chain([goal]));
    }
    table
}

fn processors(apart: bool) -> &'static str {
    if apart {
        "The control plane has one half of the processors, RA and clients the other."
    } else {
        "Control plane, RA and clients share all processors."
    }
}

/// The last columns of a comparison: what [`cells`] gives after the rates, and whether the goal is met.
const COSTS: [&str; 10] = [
    "p50 direct",
    "p50 RA",
    "p99 direct",
    "p99 RA",
    "API requests, direct",
    "API requests, RA",
    "control plane, CPU ms each, direct",
    "with RA",
    "RA, CPU ms each",
    "goal",
];

/// What both tables say of a level.
fn cells(level: &Level) -> Vec<String> {
    let (direct, ra) = (spread(&level.direct.micros), spread(&level.ra.micros));
    vec![
        level.in_flight.to_string(),
        format!("{:.1}", median(level.direct.rates.clone())),
        format!("{:.1}", median(level.ra.rates.clone())),
        format!("{:.0} %", 100.0 * level.ratio()),
        millis(direct.p50),
        millis(ra.p50),
        millis(direct.p99),
        millis(ra.p99),
        format!("{:.2}", level.direct.api_requests()),
        format!("{:.2}", level.ra.api_requests()),
        format!("{:.2}", level.direct.control_plane_millis()),
        format!("{:.2}", level.ra.control_plane_millis()),
        format!("{:.2}", level.ra.cpu_micros() / 1e3),
    ]
}

/// The RA's own signer, beside bare arithmetic.
pub(super) fn informer(scale: &Scale, found: &Found) -> Table {
    let text = format!(
        "The RA's own signer, with tokens judged by informers that know {} pods. The raw limit is that of `make bench`: token and \
         CSR parsed and verified, certificate signed, checked and written as PEM, in a plain loop; {:.0} µs of a processor, \
         {:.0}/s on {} threads while the machine did other things too. The ratio is of processor time, as there. {} rounds in turns.",
        found.pods,
        found.limit_micros,
        found.limit,
        machine::cores(),
        scale.rounds_on_kubernetes
    );
    let head = &[
        "in flight",
        "RA, CPU µs each",
        "of the raw limit",
        "RA, certificates/s",
        "p50",
        "p99",
        "API requests",
        "goal",
    ];
    let mut table = Table::new("Local signer with informers", text, head);
    for (side, in_flight) in found.levels.iter().zip(IN_FLIGHT) {
        let ratio = found.limit_micros / side.cpu_micros();
        let spread = spread(&side.micros);
        table.row([
            in_flight.to_string(),
            format!("{:.0}", side.cpu_micros()),
            format!("{:.0} %", 100.0 * ratio),
            format!("{:.0}", median(side.rates.clone())),
            millis(spread.p50),
            millis(spread.p99),
            format!("{:.2}", side.api_requests()),
            verdict("≥ 50 %", ratio >= 0.5),
        ]);
    }
    table
}

/// Memory of that RA.
pub(super) fn memory(scale: &Scale, found: &Found) -> Table {
    let text = format!(
        "The RA with informers in a cluster of {} pods of some 8 kB and a tenth as many accounts, as in `/proc/<pid>/status`, \
         {} s after it knew them and {} s after the rounds above.",
        found.pods,
        scale.settle.as_secs_f64(),
        scale.settle.as_secs_f64()
    );
    let mut table = Table::new("Memory with informers", text, &["when", "RSS", "of it private", "goal"]);
    for (when, memory) in [("pods known", found.at_rest), ("after the rounds", found.after_work)] {
        let Memory { rss, anon } = memory;
        table.row([
            when.to_owned(),
            megabytes(rss),
            megabytes(anon),
            verdict("≤ 40 MB", rss <= 40_000),
        ]);
    }
    table
}

fn spread(micros: &[u64]) -> Spread {
    Spread::of_micros(micros.to_vec())
}

fn millis(time: std::time::Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn megabytes(kilobytes: u64) -> String {
    format!("{:.1} MB", float(kilobytes) / 1000.0)
}

fn blank() -> String {
    "–".to_owned()
}
