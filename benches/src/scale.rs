//! How much is done: the full size that figures are quoted from, or the quick one that shows that the benches work.

use std::time::Duration;

/// Sizes of all figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Rounds of which the median is quoted.
    pub(crate) rounds: usize,
    /// Length of one measurement of a rate.
    pub(crate) slice: Duration,
    /// First secrets that are timed in one round.
    pub(crate) opens: usize,
    /// Simulated Envoys, ascending.
    pub(crate) envoys: &'static [usize],
    /// Workloads that they are spread over.
    pub(crate) workloads: usize,
    /// How long memory may settle before it is read.
    pub(crate) settle: Duration,
    /// Rounds on the cluster, for each signer and each number of requests in flight.
    pub(crate) rounds_on_kubernetes: usize,
    /// About how long such a round lasts, at one, a few and many requests in flight.
    pub(crate) slices: [Duration; 3],
    /// Requests in it, at least and at most.
    pub(crate) sizes: [(usize, usize); 3],
    /// Pods in the informer.
    pub(crate) pods: usize,
    /// Pods that come under each flood.
    pub(crate) victims: usize,
}

/// The full size.
pub(crate) const FULL: Scale = Scale {
    rounds: 5,
    slice: Duration::from_secs(2),
    opens: 2_000,
    envoys: &[250, 1_000, 5_000],
    workloads: 250,
    settle: Duration::from_secs(3),
    rounds_on_kubernetes: 3,
    slices: [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)],
    sizes: [(5, 500), (40, 2_000), (200, 4_000)],
    pods: 10_000,
    victims: 200,
};

/// Seconds instead of minutes; its figures mean nothing.
pub(crate) const QUICK: Scale = Scale {
    rounds: 1,
    slice: Duration::from_millis(200),
    opens: 50,
    envoys: &[8],
    workloads: 4,
    settle: Duration::from_millis(100),
    rounds_on_kubernetes: 1,
    slices: [Duration::from_millis(100); 3],
    sizes: [(2, 2), (20, 20), (200, 200)],
    pods: 100,
    victims: 5,
};
