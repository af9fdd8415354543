//! How much is let in at once.

use clap::Args;
use ensign_daemon::settings::Checker;

use super::values::{count, positive};
use crate::limits::LimitsConfig;

#[derive(Debug, Clone, Args)]
pub(super) struct LimitsArgs {
    /// Requests authenticated and judged at once; those that wait for their signer or are with it do not count
    #[arg(long, env = "ENSIGN_RA_MAX_IN_FLIGHT", default_value = "256", value_name = "N")]
    max_in_flight: String,
    /// Requests that may wait for that, until their deadline; one more is turned away
    #[arg(long, env = "ENSIGN_RA_MAX_QUEUED", default_value = "10000", value_name = "N")]
    max_queued: String,
    /// Requests of one service account at once, those that wait included
    #[arg(
        long,
        env = "ENSIGN_RA_MAX_IN_FLIGHT_PER_CALLER",
        default_value = "10000",
        value_name = "N"
    )]
    max_in_flight_per_caller: String,
    /// Size of the largest request
    #[arg(long, env = "ENSIGN_RA_MAX_MESSAGE_BYTES", default_value = "16384", value_name = "N")]
    max_message_bytes: String,
    /// Connections at once; later ones wait to be accepted
    #[arg(long, env = "ENSIGN_RA_MAX_CONNECTIONS", default_value = "10000", value_name = "N")]
    max_connections: String,
    /// A connection is asked to go after this time, idle or not; clients open another, perhaps to another replica
    #[arg(
        long,
        env = "ENSIGN_RA_MAX_CONNECTION_AGE",
        default_value = "30m",
        value_name = "DURATION"
    )]
    max_connection_age: String,
}

impl LimitsArgs {
    pub(super) fn check(&self, c: &mut Checker<'_>) -> Option<LimitsConfig> {
        let in_flight = count(c, "max_in_flight", &self.max_in_flight, 1);
        let queued = count(c, "max_queued", &self.max_queued, 0);
        let per_caller = count(c, "max_in_flight_per_caller", &self.max_in_flight_per_caller, 1);
        let message_bytes = count(c, "max_message_bytes", &self.max_message_bytes, 1024);
        let connections = count(c, "max_connections", &self.max_connections, 1);
        let connection_age = positive(c, "max_connection_age", &self.max_connection_age);
        Some(LimitsConfig {
            in_flight: in_flight?,
            queued: queued?,
            per_caller: per_caller?,
            message_bytes: message_bytes?,
            connections: connections?,
            connection_age: connection_age?,
        })
    }
}
