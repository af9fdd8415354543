//! The API server's audit log as a list of requests: who asked what, and what was answered.
//!
//! This is how tests count requests per certificate and prove that a role is minimal.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

use anyhow::{Context, ensure};
use kube::Client;
use serde::Deserialize;

use crate::wait::{self, PATIENCE};

/// The audit log of one cluster.
#[derive(Clone)]
pub struct Audit {
    path: PathBuf,
    client: Client,
}

/// A point in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

/// One request. A watch is one, however long it lasted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asked, before any impersonation.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, …
    pub verb: String,
    /// Plural, lower case; empty for paths that are no resource.
    pub resource: String,
    /// For example `approval`; empty for the object itself.
    pub subresource: String,
    /// Namespace, if it has one.
    pub namespace: String,
    /// The object's name; empty for lists and for creations under a generated name.
    pub name: String,
    /// HTTP status.
    pub code: u16,
    /// Path and query.
    pub uri: String,
    /// `ResponseStarted` (a watch that still runs), `ResponseComplete` or `Panic`.
    pub stage: String,
    /// When it arrived, RFC 3339.
    pub received: String,
    /// What the client calls itself.
    pub user_agent: String,
}

/// Requests in the order in which they ended (watches: began).
#[derive(Clone, Default)]
pub struct Requests(pub Vec<Request>);

/// Requests of one user, not read yet.
pub struct RequestsBy {
    audit: Audit,
    user: String,
}

// === impl Mark ===

impl Mark {
    /// Before the first request.
    pub const BEGIN: Self = Self(0);
}

// === impl Audit ===

impl Audit {
    pub(super) fn new(path: PathBuf, client: Client) -> Self {
        Self { path, client }
    }

    /// Now. What was answered before is before it, as far as [`Audit::settle`] can know.
    pub async fn mark(&self) -> anyhow::Result<Mark> {
        self.settle().await?;
        let length = std::fs::metadata(&self.path)
            .with_context(|| format!("no {}", self.path.display()))?
            .len();
        Ok(Mark(length))
    }

    /// The requests of one user: `system:serviceaccount:<namespace>:<name>` for a service account.
    pub fn requests_by(&self, user: &str) -> RequestsBy {
        RequestsBy {
            audit: self.clone(),
            user: user.to_owned(),
        }
    }

    /// The requests of all users.
    pub async fn since(&self, mark: Mark) -> anyhow::Result<Requests> {
        self.settle().await?;
        let mut file = File::open(&self.path).with_context(|| format!("no {}", self.path.display()))?;
        file.seek(SeekFrom::Start(mark.0))
            .context("cannot seek in the audit log")?;
        let mut text = String::new();
        file.read_to_string(&mut text).context("cannot read the audit log")?;
        requests(&text)
    }

    /// Waits until the log holds what has been answered. A line is written just after its answer, so a request of our
    /// own that comes later and is in the log says that earlier ones are.
    async fn settle(&self) -> anyhow::Result<()> {
        let length = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        let fence = format!("/version?fence={:016x}", fastrand::u64(..));
        let request = http::Request::get(&fence).body(Vec::new()).context("not a request")?;
        self.client
            .request_text(request)
            .await
            .context("the API server does not answer")?;
        wait::until_true("the audit log", PATIENCE, async || {
            let mut file = File::open(&self.path).with_context(|| format!("no {}", self.path.display()))?;
            file.seek(SeekFrom::Start(length))
                .context("cannot seek in the audit log")?;
            let mut text = String::new();
            file.read_to_string(&mut text).context("cannot read the audit log")?;
            Ok(text.contains(&fence))
        })
        .await
    }
}

// === impl RequestsBy ===

impl RequestsBy {
    /// Those after a mark.
    pub async fn since(&self, mark: Mark) -> anyhow::Result<Requests> {
        let mut requests = self.audit.since(mark).await?;
        requests.0.retain(|request| request.user == self.user);
        Ok(requests)
    }
}

// === impl Requests ===

impl Requests {
    /// How many there are of each verb and resource; a subresource is written `resource/subresource`.
    pub fn counts(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for request in &self.0 {
            *counts.entry((request.verb.clone(), request.target())).or_insert(0) += 1;
        }
        counts
    }

    /// How many there are of one verb and resource (or `resource/subresource`).
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.0
            .iter()
            .filter(|request| request.verb == verb && request.target() == resource)
            .count()
    }

    /// Those for certificates: a replica's part in the election costs the same however many it issues.
    pub fn without_election(&self) -> Self {
        self.filter(|request| request.resource != "leases")
    }

    /// Those that `wanted` accepts.
    pub fn filter(&self, wanted: impl Fn(&Request) -> bool) -> Self {
        Self(self.0.iter().filter(|request| wanted(request)).cloned().collect())
    }
}

impl fmt::Debug for Requests {
    /// One line each, for failed assertions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for request in &self.0 {
            writeln!(
                f,
                "{} {} {} {}/{} -> {} ({})",
                request.received,
                request.user,
                request.verb,
                request.target(),
                request.name,
                request.code,
                request.uri
            )?;
        }
        Ok(())
    }
}

impl Request {
    fn target(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// A line of the log, as `audit.k8s.io/v1` defines it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "auditID")]
    id: String,
    stage: String,
    #[serde(rename = "requestURI")]
    uri: String,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: Status,
    request_received_timestamp: String,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

/// Reads whole lines; the last one may still be under way.
fn requests(text: &str) -> anyhow::Result<Requests> {
    let mut requests: Vec<Request> = Vec::new();
    let mut places = BTreeMap::new();
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    for line in whole.lines() {
        let event: Event = serde_json::from_str(line).with_context(|| format!("not an audit event: {line}"))?;
        let request = Request {
            user: event.user.username,
            verb: event.verb,
            resource: event.object_ref.resource,
            subresource: event.object_ref.subresource,
            namespace: event.object_ref.namespace,
            name: event.object_ref.name,
            code: event.response_status.code,
            uri: event.uri,
            stage: event.stage,
            received: event.request_received_timestamp,
            user_agent: event.user_agent,
        };
        ensure!(!event.id.is_empty(), "an audit event without an id: {line}");
        // A watch has a line when it begins and one when it ends.
        if let Some(&place) = places.get(&event.id) {
            requests[place] = request;
        } else {
            places.insert(event.id, requests.len());
            requests.push(request);
        }
    }
    Ok(Requests(requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCH: [&str; 2] = [
        r#"{"auditID":"a","stage":"ResponseStarted","requestURI":"/w","verb":"watch","user":{"username":"ra"},"objectRef":{"resource":"pods"},"responseStatus":{"code":200},"requestReceivedTimestamp":"t"}"#,
        r#"{"auditID":"a","stage":"ResponseComplete","requestURI":"/w","verb":"watch","user":{"username":"ra"},"objectRef":{"resource":"pods"},"responseStatus":{"code":200},"requestReceivedTimestamp":"t"}"#,
    ];
    const APPROVAL: &str = r#"{"auditID":"b","stage":"ResponseComplete","requestURI":"/c","verb":"update","user":{"username":"ra"},"objectRef":{"resource":"certificatesigningrequests","name":"x","subresource":"approval"},"responseStatus":{"code":409},"requestReceivedTimestamp":"t"}"#;

    #[test]
    fn a_watch_that_ended_is_one_request() {
        let requests = requests(&format!("{}\n{APPROVAL}\n{}\n", WATCH[0], WATCH[1])).unwrap();
        assert_eq!(requests.count("watch", "pods"), 1);
        assert_eq!(requests.0[0].stage, "ResponseComplete");
        assert_eq!(requests.count("update", "certificatesigningrequests/approval"), 1);
        assert_eq!(requests.0[1].code, 409);
        assert_eq!(requests.counts().len(), 2);
    }

    #[test]
    fn a_line_under_way_is_left_for_later() {
        assert_eq!(requests(&format!("{APPROVAL}\n{{\"auditID\":\"c")).unwrap().0.len(), 1);
    }
}
