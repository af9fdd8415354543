//! A hand on single requests to the API server: hold one until something else has happened, let it through or refuse it.
//!
//! A validating webhook of the test's own. Its requests are those of one user to one resource, so that it disturbs no other test
//! of a shared cluster. This is how an order of events that is a matter of luck elsewhere is made certain: a CSR is denied by
//! somebody between its creation and its maker's approval, a watch is ahead of an answer, a create takes long.
//!
//! The API server waits 30 s for a verdict and then goes on as if it were allowed.

pub(crate) mod server;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use self::server::{Judge, Verdict};
use super::{Access, tls, unique};
use crate::wait::{self, PATIENCE};

/// The requests that a hook sees.
#[derive(Debug, Clone)]
pub struct Hooked<'a> {
    /// API group; empty for core.
    pub group: &'a str,
    /// Plural, with a subresource if meant: `certificatesigningrequests/approval`.
    pub resource: &'a str,
    /// `CREATE`, `UPDATE` (patches are updates), `DELETE`.
    pub operations: &'a [&'a str],
    /// Whose requests.
    pub user: &'a str,
}

/// A running hook. Requests pass until [`AdmissionHook::hold`].
pub struct AdmissionHook {
    name: String,
    client: Client,
    state: Arc<State>,
    held: mpsc::Receiver<Held>,
    _server: JoinSet<()>,
}

/// A request that waits for a verdict. Dropping it lets it through.
#[derive(Debug)]
pub struct Held {
    /// The request as the API server describes it: `name`, `namespace`, `operation`, `userInfo`, `object`, `oldObject`.
    pub request: Value,
    verdict: oneshot::Sender<Verdict>,
}

struct State {
    holding: AtomicBool,
    /// The name of the probe, once the API server has asked about it.
    probe: String,
    probed: AtomicBool,
    // One place: whoever holds requests takes them one by one, and the API server keeps the others waiting.
    held: mpsc::Sender<Held>,
}

// === impl AdmissionHook ===

impl AdmissionHook {
    /// Starts one and waits until the API server asks it.
    pub async fn start(access: &Access, hooked: &Hooked<'_>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("no free port on loopback")?;
        let address = listener.local_addr().context("no address")?;
        let name = unique("admission-hook");
        let (sender, held) = mpsc::channel(1);
        let state = Arc::new(State {
            holding: AtomicBool::new(false),
            probe: name.clone(),
            probed: AtomicBool::new(false),
            held: sender,
        });
        let tls = tls::acceptor(&access.serving_certificate()?)?;
        let mut server = JoinSet::new();
        server.spawn(server::serve(listener, tls, Arc::clone(&state)));

        let entry = |word: &str, group: &str, operations: &[&str], resource: &str, condition: String| {
            json!({
                "name": format!("{word}.hook.ensign.mesh"),
                "clientConfig": { "url": format!("https://{address}/"), "caBundle": STANDARD.encode(access.ca_pem()) },
                "rules": [{ "apiGroups": [group], "apiVersions": ["*"], "operations": operations, "resources": [resource] }],
                "matchConditions": [{ "name": "ours", "expression": condition }],
                "admissionReviewVersions": ["v1"],
                "failurePolicy": "Ignore",
                "sideEffects": "None",
                "timeoutSeconds": 30,
            })
        };
        let of_user = format!("request.userInfo.username == {}", json!(hooked.user));
        let of_probe = format!("request.name == {}", json!(name));
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": name },
            "webhooks": [
                entry("requests", hooked.group, hooked.operations, hooked.resource, of_user),
                // The API server takes both up at once, and this one can be asked for at will.
                entry("probe", "", &["CREATE"], "configmaps", of_probe),
            ],
        });
        access.apply_yaml(&configuration.to_string()).await?;
        let hook = Self {
            name,
            client: access.admin(),
            state,
            held,
            _server: server,
        };
        hook.asked().await?;
        Ok(hook)
    }

    /// From now on requests wait for [`AdmissionHook::next`].
    pub fn hold(&self) {
        self.state.holding.store(true, Ordering::SeqCst);
    }

    /// From now on requests pass again; those that are held already still wait.
    pub fn release(&self) {
        self.state.holding.store(false, Ordering::SeqCst);
    }

    /// The next request that is held.
    pub async fn next(&mut self) -> anyhow::Result<Held> {
        let held = timeout(PATIENCE, self.held.recv()).await;
        held.context("no request came")?.context("the hook's server has ended")
    }

    /// Ends it, and waits until the API server knows of it no more.
    pub async fn finish(self) -> anyhow::Result<()> {
        let configurations = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let deleted = configurations.delete(&self.name, &DeleteParams::default()).await;
        deleted.context("cannot remove the hook")?;
        wait::until_true("the hook to be forgotten", PATIENCE, async || {
            self.state.probed.store(false, Ordering::SeqCst);
            self.probe().await?;
            Ok(!self.state.probed.load(Ordering::SeqCst))
        })
        .await
    }

    async fn asked(&self) -> anyhow::Result<()> {
        wait::until_true("the hook to be asked", PATIENCE, async || {
            self.probe().await?;
            Ok(self.state.probed.load(Ordering::SeqCst))
        })
        .await
    }

    /// A request that changes nothing.
    async fn probe(&self) -> anyhow::Result<()> {
        let map = serde_json::from_value(json!({ "metadata": { "name": self.name } })).context("not a ConfigMap")?;
        let parameters = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let made = Api::<ConfigMap>::namespaced(self.client.clone(), "default")
            .create(&parameters, &map)
            .await;
        made.map(drop).context("the probe is refused")
    }
}

// === impl Held ===

impl Held {
    /// Lets it through.
    pub fn allow(self) {
        self.end(Verdict::Allow);
    }

    /// Refuses it with this HTTP status, as an admission plugin would.
    pub fn deny(self, code: u16, message: &str) {
        self.end(Verdict::Deny {
            code,
            message: message.to_owned(),
        });
    }

    fn end(self, verdict: Verdict) {
        // The API server may have lost patience.
        drop(self.verdict.send(verdict));
    }
}

// === impl State ===

impl Judge for State {
    async fn judge(&self, request: Value) -> Verdict {
        if request["name"] == self.probe.as_str() {
            self.probed.store(true, Ordering::SeqCst);
            return Verdict::Allow;
        }
        if !self.holding.load(Ordering::SeqCst) {
            return Verdict::Allow;
        }
        let (verdict, ended) = oneshot::channel();
        if self.held.send(Held { request, verdict }).await.is_err() {
            return Verdict::Allow;
        }
        ended.await.unwrap_or(Verdict::Allow)
    }
}
