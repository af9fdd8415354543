//! `ensign-agent status`: what the agent of this machine says of itself.

use std::net::SocketAddr;
use std::time::Duration;

use ensign_daemon::logging::chain;
use ensign_operator::status::{self, Status};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Outcome;

/// Asks and prints.
pub(super) async fn print(address: SocketAddr, json: bool) -> Outcome {
    let nobody = |why: String| {
        format!(
            "no agent answers at {address} (--status-addr, ENSIGN_STATUS_ADDR): {why}; it listens on the loopback of its own \
             network only, so ask inside its pod (`kubectl exec -n ensign-node POD -- ensign-agent status`) or see why it does \
             not run"
        )
    };
    let stream = match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(nobody(error.to_string())),
        Err(_) => return Err(nobody("no connection in time".to_owned())),
    };
    let text = status::ask(Box::new(stream))
        .await
        .map_err(|error| nobody(chain(&error)))?;
    let status = status::read(&text).map_err(|error| nobody(chain(&error)))?;
    let code = u8::from(!is_well(&status));
    Ok((if json { text + "\n" } else { status.to_text() }, code))
}

/// Ready, and nothing fails.
fn is_well(status: &Status) -> bool {
    let mut certificates = status.workloads.iter().flat_map(|workload| &workload.certificates);
    status.ready && certificates.all(|certificate| certificate.last_error.is_none() && certificate.state != "expired")
}

/// It is the same machine.
const PATIENCE: Duration = Duration::from_secs(5);
