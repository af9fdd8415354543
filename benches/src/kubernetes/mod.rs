//! `make bench-kubernetes`: the RA on a real Kubernetes, held against what the cluster could do without it.
//!
//! One cluster and one run: each signer behind the API server, asked directly and through the RA in turns ([`rounds`]);
//! the RA's own signer beside bare TokenReviews, and with informers beside bare arithmetic ([`informer`]); its memory with
//! ten thousand pods. Requests are made beforehand ([`tokens`]), each with a token of its own.

mod apart;
mod authority;
mod bed;
mod crowd;
pub(crate) mod direct;
mod informer;
mod rounds;
mod tables;
mod tokens;

use clap::{Args, ValueEnum};

use self::apart::Halves;
use self::authority::Authority;
use self::bed::Bed;
use self::direct::Way;
use self::rounds::Lanes;
use crate::report::Table;
use crate::scale::Scale;

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Certificates through the API server
    Signers,
    /// The RA's own signer with TokenReview
    Reviews,
    /// The same with informers, and its memory
    Informer,
}

/// What to measure, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct Wishes {
    /// Only these parts; docs/performance.md is left alone
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Control plane, RA and clients all on the same processors; docs/performance.md is left alone
    #[arg(long)]
    shared: bool,
}

// === impl Wishes ===

impl Wishes {
    /// All of it, as the document wants it.
    pub(crate) fn are_whole(&self) -> bool {
        self.only.is_empty() && !self.shared
    }
}

/// Measures; each table is told as soon as it is there.
pub(crate) async fn run(scale: &Scale, wishes: &Wishes, mut tell: impl FnMut(Table)) -> anyhow::Result<()> {
    let wanted = |part| wishes.only.is_empty() || wishes.only.contains(&part);
    let halves = if wishes.shared {
        None
    } else {
        Halves::of_this_machine()?
    };
    let bed = Bed::start().await?;
    if wanted(Part::Signers) || wanted(Part::Reviews) {
        let ra = Authority::start(&bed, "token-review").await?;
        let mut lanes = Lanes::open(&bed, ra, halves.as_ref()).await?;
        if wanted(Part::Signers) {
            let mut rows = Vec::new();
            for signer in &bed.signers {
                rows.push((signer, lanes.run(scale, &signer.way, signer.name).await?));
            }
            tell(tables::signers(scale, halves.is_some(), &rows));
        }
        if wanted(Part::Reviews) {
            let levels = lanes.run(scale, &Way::Review, bed::LOCAL).await?;
            tell(tables::reviews(scale, halves.is_some(), &levels));
        }
        lanes.ra.finish().await?;
    }
    if wanted(Part::Informer) {
        crowd::gather(&bed.cluster, scale.pods).await?;
        let found = informer::run(&bed, scale).await?;
        tell(tables::informer(scale, &found));
        tell(tables::memory(scale, &found));
    }
    bed.cluster.finish().await
}
