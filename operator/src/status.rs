//! The agent's `/status`, read and shown: the same whether it comes from this machine or through the API server.
//!
//! Only what is used is read; the agent adds fields and renames none. `-o json` hands on what the agent said, whole.

use std::error::Error;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::time::timeout;

use crate::forward::{Stream, ended};

/// The whole node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The agent's time, RFC 3339.
    pub now: String,
    /// The authority's address.
    pub authority: String,
    /// Whether nothing is missing.
    pub ready: bool,
    /// What is missing.
    pub pending: Vec<Pending>,
    /// Seconds until the first certificate ends, if nothing can be renewed.
    pub outage_budget_seconds: Option<u64>,
    /// Who is served.
    pub workloads: Vec<Workload>,
}

/// One thing that keeps the agent from being ready.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pending {
    /// Its name, such as `ca-roots`.
    pub name: String,
    /// In words.
    pub reason: String,
}

/// One workload with its socket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Its name: for a pod `csi/NAMESPACE/POD/UID/KIND-OF-KEY`.
    pub workload: String,
    /// Open connections.
    pub connections: usize,
    /// Open streams.
    pub streams: usize,
    /// Per signer.
    pub certificates: Vec<Certificate>,
}

/// One certificate, or the wait for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// The SPIFFE id.
    pub id: String,
    /// The signer; none means the authority's default.
    pub signer: Option<String>,
    /// `active`, `expired`, ….
    pub state: String,
    /// Whether an Envoy holds it from before the agent's start.
    pub adopted: bool,
    /// Hexadecimal.
    pub serial: Option<String>,
    /// RFC 3339.
    pub not_before: Option<String>,
    /// RFC 3339.
    pub not_after: Option<String>,
    /// RFC 3339.
    pub renew_at: Option<String>,
    /// Until the next try.
    pub retry_in_seconds: Option<u64>,
    /// The last failure, if nothing succeeded since.
    pub last_error: Option<Failure>,
}

/// One failure.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// A short name.
    pub reason: String,
    /// The whole story.
    pub message: String,
    /// What the authority calls the request in its log.
    #[serde(default)]
    pub request_id: Option<String>,
    /// RFC 3339.
    pub at: String,
    /// What to do about it.
    pub next: String,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The connection broke, or it is no HTTP.
    #[error("no answer of an agent")]
    Http(#[source] Box<dyn Error + Send + Sync>),
    /// Too slow.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    /// Another answer than 200.
    #[error("the answer is {0}: it is no agent of Ensign that listens there")]
    Code(http::StatusCode),
    /// Not the status.
    #[error("the answer is no status: it is no agent of Ensign that listens there, or one of another version")]
    Form(#[source] serde_json::Error),
}

/// Asks for the status; gives the text, which is JSON.
pub async fn ask(stream: Box<dyn Stream>) -> Result<String, StatusError> {
    timeout(PATIENCE, asked(stream)).await.unwrap_or(Err(StatusError::Late))
}

/// Reads that text.
pub fn read(text: &str) -> Result<Status, StatusError> {
    serde_json::from_str(text).map_err(StatusError::Form)
}

async fn asked(stream: Box<dyn Stream>) -> Result<String, StatusError> {
    let failed = |error: hyper::Error| StatusError::Http(error.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = async move {
        // The agent answers loopback's names only.
        let request = http::Request::get("/status?format=json")
            .header(http::header::HOST, "localhost")
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| StatusError::Http(error.into()))?;
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status() != http::StatusCode::OK {
            return Err(StatusError::Code(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(StatusError::Http)?.to_bytes();
        String::from_utf8(body.to_vec()).map_err(|error| StatusError::Http(error.into()))
    };
    // The connection works while the answer is awaited, and ends with its sender.
    let (answer, connected) = tokio::join!(answer, connection);
    match (answer, connected) {
        (Err(StatusError::Http(error)), Ok(())) if is_closed(&*error) => Err(StatusError::Http(ended().into())),
        (answer, _) => answer,
    }
}

fn is_closed(error: &(dyn Error + 'static)) -> bool {
    let hyper = error.downcast_ref::<hyper::Error>();
    hyper.is_some_and(|error| error.is_closed() || error.is_canceled() || error.is_incomplete_message())
        || error.downcast_ref::<io::Error>().is_some()
}

// === impl Status ===

impl Status {
    /// The certificates of the node as a table: the columns of `istioctl ztunnel-config certificates`, then ours. Below it
    /// what is missing and what failed.
    pub fn to_text(&self) -> String {
        let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
        let mut below = Vec::new();
        for workload in &self.workloads {
            if workload.certificates.is_empty() {
                rows.push(row(workload, None));
            }
            for certificate in &workload.certificates {
                rows.push(row(workload, Some(certificate)));
                below.extend(
                    certificate
                        .last_error
                        .as_ref()
                        .map(|failure| told(workload, certificate, failure)),
                );
            }
        }
        let missing = self.pending.iter();
        let missing = missing.map(|pending| format!("not ready: {}: {}", pending.name, pending.reason));
        let budget = match self.outage_budget_seconds {
            None => String::new(),
            Some(seconds) => format!(
                ", {} until the first certificate ends if nothing is renewed",
                span(seconds)
            ),
        };
        let head = format!(
            "agent {} at {}, authority {}, {} workloads{budget}",
            self.version,
            self.now,
            self.authority,
            self.workloads.len()
        );
        let lines = [head].into_iter().chain(missing).chain([String::new()]);
        let lines: Vec<String> = lines.chain(table(&rows)).chain(below).collect();
        printable(&lines.join("\n")) + "\n"
    }
}

fn row(workload: &Workload, certificate: Option<&Certificate>) -> Vec<String> {
    let text = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".to_owned());
    let Some(certificate) = certificate else {
        let state = "no Envoy has asked yet".to_owned();
        let mut row = vec!["-".to_owned(), "Leaf".to_owned(), state];
        row.resize(HEAD.len() - 1, "-".to_owned());
        row.push(workload.workload.clone());
        return row;
    };
    let valid = certificate.not_after.is_some() && certificate.state != "expired";
    let adopted = if certificate.adopted { " (adopted)" } else { "" };
    vec![
        certificate.id.clone(),
        "Leaf".to_owned(),
        // `adopted` is a state, too.
        format!(
            "{}{}",
            certificate.state,
            if certificate.state == "adopted" { "" } else { adopted }
        ),
        valid.to_string(),
        text(certificate.serial.as_ref()),
        text(certificate.not_after.as_ref()),
        text(certificate.not_before.as_ref()),
        text(certificate.renew_at.as_ref()),
        certificate.signer.clone().unwrap_or_else(|| "(default)".to_owned()),
        format!("{} / {}", workload.streams, workload.connections),
        workload.workload.clone(),
    ]
}

fn told(workload: &Workload, certificate: &Certificate, failure: &Failure) -> String {
    let again = match certificate.retry_in_seconds {
        None => "soon".to_owned(),
        Some(seconds) => format!("in {}", span(seconds)),
    };
    format!(
        "\n{}: {} ({} at {}, next try {again})\n  {}",
        workload.workload, failure.message, failure.reason, failure.at, failure.next
    )
}

/// Left-aligned columns, two blanks apart.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A span of time in the two units that count.
pub(crate) fn span(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {seconds} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

/// Names and messages come from files and peers; a terminal must not act on them.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    text.chars().map(plain).collect()
}

const HEAD: [&str; 11] = [
    "CERTIFICATE NAME",
    "TYPE",
    "STATUS",
    "VALID CERT",
    "SERIAL NUMBER",
    "NOT AFTER",
    "NOT BEFORE",
    "RENEWED AT",
    "SIGNER",
    "STREAMS / CONNECTIONS",
    "WORKLOAD",
];
/// 500 volumes are some 500 kB.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The agent answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A node with one workload of each kind.
    pub(crate) fn node() -> Status {
        let status = json!({
            "version": "0.1.0", "now": "2026-11-27T12:00:00Z", "authority": "ra:443", "ready": false, "news": 1,
            "pending": [{ "name": "ca-roots", "reason": "no roots yet" }], "outageBudgetSeconds": 7_260,
            "workloads": [
                { "workload": "csi/a/x/1/P-256", "socket": "/s", "connections": 0, "streams": 0, "certificates": [] },
                { "workload": "csi/a/y/2/P-256", "socket": "/s", "connections": 1, "streams": 2, "certificates": [{
                    "id": "spiffe://t/ns/a/sa/y", "signer": "foo", "keyType": "P-256", "state": "backing off",
                    "adopted": false, "serial": "0a", "notBefore": "2026-11-27T00:00:00Z",
                    "notAfter": "2026-11-28T00:00:00Z", "renewAt": null, "retryInSeconds": 61, "attempts": 3,
                    "consumers": 2, "lastError": {
                        "reason": "permission_denied", "message": "no\u{1b}[2J", "requestId": "0af7651916cd43dd",
                        "at": "2026-11-27T11:59:00Z", "next": "look there",
                    },
                }] },
            ],
        });
        read(&status.to_string()).unwrap()
    }

    #[test]
    fn the_table_has_istioctls_columns_first_and_tells_failures_below() {
        let text = node().to_text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "agent 0.1.0 at 2026-11-27T12:00:00Z, authority ra:443, 2 workloads, 2 h 1 min until the first certificate ends if nothing is renewed"
        );
        assert_eq!(lines[1], "not ready: ca-roots: no roots yet");
        assert!(lines[3].starts_with("CERTIFICATE NAME      TYPE  STATUS"), "{text}");
        assert!(
            lines[4].contains("no Envoy has asked yet") && lines[4].ends_with("csi/a/x/1/P-256"),
            "{text}"
        );
        assert!(
            lines[5].starts_with("spiffe://t/ns/a/sa/y  Leaf  backing off"),
            "{text}"
        );
        assert!(
            lines[5].contains("true") && lines[5].contains("2026-11-28T00:00:00Z"),
            "{text}"
        );
        assert!(
            text.contains("permission_denied at 2026-11-27T11:59:00Z, next try in 1 min 1 s"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
        let at = |line: &str, word: &str| line.find(word).unwrap();
        assert_eq!(at(lines[3], "WORKLOAD"), at(lines[5], "csi/a/y"), "columns are aligned");
    }

    #[tokio::test]
    async fn who_does_not_speak_http_or_hangs_up_is_no_agent() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for said in [
            "",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        ] {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            let peer = async move {
                let mut request = [0; 1024];
                let _ = theirs.read(&mut request).await;
                theirs.write_all(said.as_bytes()).await.unwrap();
            };
            let (answer, ()) = tokio::join!(ask(Box::new(ours)), peer);
            let error = ensign_daemon::logging::chain(&answer.unwrap_err());
            assert!(
                error.contains("no answer of an agent") || error.contains("404"),
                "{error}"
            );
        }
    }
}
