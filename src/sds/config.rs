//! The limits and times of the SDS server.
//!
//! Owns the defaults and why they are what they are. Leaves flags and environment to `crate::config`.

use std::time::Duration;

/// What the sockets of one pod allow, and how long they wait.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections at once of one pod. Envoy opens one; a hot restart doubles it.
    pub max_connections: usize,
    /// Streams at once on one connection. Envoy opens one for each name.
    pub max_streams_per_connection: u32,
    /// Streams at once of one pod.
    pub max_streams: usize,
    /// Names in one request. Only two mean anything; the rest costs time to read and nothing to keep.
    pub max_names: usize,
    /// Bytes of one request. Envoy's first has about 61 kB.
    pub max_message: usize,
    /// What each pod has for itself, however many sockets it has, whatever the others do.
    pub own: Amounts,
    /// What all pods may have together beyond their own.
    pub shared: Amounts,
    /// A connection without a stream that asked for something is closed after this.
    pub idle_timeout: Duration,
    /// A peer that takes no byte for this long is dropped.
    pub write_timeout: Duration,
    /// How often a peer is asked whether it is alive, over HTTP/2.
    pub keep_alive_interval: Duration,
    /// How long it may take to answer that.
    pub keep_alive_timeout: Duration,
    /// How long `default` waits for the connection's `ROOTCA` streams to accept the root that it needs.
    pub root_wait: Duration,
    /// How long a response may stay unanswered before a newer secret is sent regardless.
    pub answer_wait: Duration,
    /// How often the socket file is looked for.
    pub socket_check: Duration,
    /// How long streams may take to end when the socket closes.
    pub drain_timeout: Duration,
    /// Where a successor serves already, so much time for each socket over which the ends of all are spread; half of the
    /// drain timeout at most.
    pub handover_pace: Duration,
}

/// Amounts of what costs memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// Connections, of some 35 kB each (docs/performance.md).
    pub connections: usize,
    /// Streams, of some 8 kB each.
    pub streams: usize,
    /// Bytes of requests that are received in part.
    pub partial: usize,
}

impl Amounts {
    /// For so many connections that are Envoys': two streams each, and twice that while one takes over from another; and half of the
    /// connections' first requests at once.
    pub fn of_envoys(connections: usize) -> Self {
        Self {
            connections,
            streams: connections.saturating_mul(4),
            partial: connections.saturating_mul(32 * 1024),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 64,
            max_streams_per_connection: 256,
            max_streams: 1024,
            max_names: 16_384,
            max_message: 1024 * 1024,
            // An Envoy and its successor in a hot restart, and the first messages of one of them at once: 265 kB for each pod of a node
            // at worst (docs/security.md has the sum).
            own: Amounts {
                connections: 2,
                streams: 8,
                partial: 128 * 1024,
            },
            // 52 MB at worst, beside what each of 500 pods has of its own.
            shared: Amounts::of_envoys(512),
            // pilot-agent's probe and Envoy speak at once.
            idle_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            keep_alive_interval: Duration::from_mins(1),
            keep_alive_timeout: Duration::from_secs(30),
            root_wait: Duration::from_secs(10),
            answer_wait: Duration::from_secs(10),
            socket_check: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(5),
            // An Envoy that comes sends 61 kB for each stream, which takes a millisecond to read.
            handover_pace: Duration::from_millis(10),
        }
    }
}
