//! Load through a client Envoy's plain port: some workers, each sending one request after the other, each request a TLS
//! connection of its own with a full handshake (the bootstrap sees to that).
//!
//! The report says what every request met: success or the first failure's text, and which certificates both sides
//! showed on the wire. A failed request is never repeated.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    envoy::{PEER_SERIAL, PEER_URI, SERVER_CERTIFICATE},
    http::Connection,
    serial,
};

/// Load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    workers: JoinSet<()>,
    report: Arc<Mutex<Report>>,
}

/// What the requests met.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Answers with status 200.
    pub ok: u64,
    /// All others, and broken connections.
    pub failed: u64,
    /// What the first failed request met.
    pub first_failure: Option<String>,
    /// Serials of the client's certificate, as the server saw them, with their number of requests.
    pub client_serials: BTreeMap<String, u64>,
    /// Serials of the server's certificate, as the client saw them, with their number of requests.
    pub server_serials: BTreeMap<String, u64>,
    /// Ids of the client, as the server saw them.
    pub client_ids: BTreeMap<String, u64>,
    /// The last server certificate in Envoy's spelling, so that each is parsed once.
    last_server_certificate: (String, String),
}

impl Load {
    /// Starts `workers` workers towards a plain port, as fast as they can.
    pub fn start(target: SocketAddr, workers: usize) -> Self {
        Self::paced(target, workers, Duration::ZERO)
    }

    /// The same with a pause of each worker after each request, for load that goes on for minutes beside other work.
    pub fn paced(target: SocketAddr, workers: usize, pause: Duration) -> Self {
        let stop = CancellationToken::new();
        let report = Arc::<Mutex<Report>>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            tasks.spawn(work(target, pause, stop.clone(), Arc::clone(&report)));
        }
        Self {
            stop,
            workers: tasks,
            report,
        }
    }

    /// The report so far.
    pub fn report(&self) -> Report {
        self.report.lock().clone()
    }

    /// Lets every worker finish its request, and reports.
    pub async fn stop(mut self) -> Report {
        self.stop.cancel();
        while self.workers.join_next().await.is_some() {}
        self.report()
    }
}

async fn work(target: SocketAddr, pause: Duration, stop: CancellationToken, report: Arc<Mutex<Report>>) {
    let mut connection = None;
    while !stop.is_cancelled() {
        let headers = request(target, &mut connection).await;
        report.lock().met(&headers);
        if headers.is_err() {
            connection = None;
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

async fn request(target: SocketAddr, connection: &mut Option<Connection>) -> anyhow::Result<HeaderMap> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(target).await?),
    };
    let answer = open.send(Method::GET, "/", &[]).await?;
    anyhow::ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.body.trim());
    Ok(answer.headers)
}

// === impl Report ===

impl Report {
    fn met(&mut self, outcome: &anyhow::Result<HeaderMap>) {
        match outcome {
            Ok(headers) => self.succeeded(headers),
            Err(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    fn succeeded(&mut self, headers: &HeaderMap) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-");
        self.ok += 1;
        *self
            .client_serials
            .entry(serial::normal(text(PEER_SERIAL)))
            .or_default() += 1;
        *self.client_ids.entry(text(PEER_URI).to_owned()).or_default() += 1;
        let certificate = text(SERVER_CERTIFICATE);
        if self.last_server_certificate.0 != certificate {
            let serial = serial::of_pem(certificate).unwrap_or_else(|error| format!("unreadable: {error:#}"));
            self.last_server_certificate = (certificate.to_owned(), serial);
        }
        *self
            .server_serials
            .entry(self.last_server_certificate.1.clone())
            .or_default() += 1;
    }

    /// Fails unless there was load and none of it failed.
    pub fn check_flawless(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.ok > 0,
            "there was no successful request; first failure: {:?}",
            self.first_failure
        );
        anyhow::ensure!(
            self.failed == 0,
            "{} of {} requests failed; the first: {}",
            self.failed,
            self.ok + self.failed,
            self.first_failure.as_deref().context("no text")?
        );
        Ok(())
    }
}
