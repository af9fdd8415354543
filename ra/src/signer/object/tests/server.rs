//! An API server in a test's hand: it knows CSRs, and fails where a real one cannot be made to.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tower::BoxError;

use crate::kubernetes::Cluster;

/// Our user there.
const OURS: &str = "system:serviceaccount:istio-system:ensign-ra";

/// What it does with the next request of a kind instead of, before or after answering it rightly.
pub(super) enum Reaction {
    /// Answers so, and does nothing.
    Refuse(u16, &'static str),
    /// 429, come back in so many seconds.
    Throttle(u64),
    /// Does it, and the answer is lost.
    LoseAnswer,
    /// Never answers, and does nothing.
    Hang,
    /// Somebody does this just before.
    Before(Box<dyn FnOnce(&Server) + Send>),
    /// Somebody does this after it was done, before the answer comes.
    After(Box<dyn FnOnce(&Server) + Send>),
}

/// The server. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct Server(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    next_uid: u64,
    watchers: Vec<mpsc::UnboundedSender<Bytes>>,
    /// Events that the watch does not show yet.
    held_back: Option<Vec<Bytes>>,
    reactions: BTreeMap<&'static str, VecDeque<Reaction>>,
    requests: Vec<&'static str>,
}

/// A list's whole, or a watch's events as they come.
pub(super) enum Says {
    Once(Option<Bytes>),
    Events(mpsc::UnboundedReceiver<Bytes>),
}

impl http_body::Body for Says {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let bytes = match &mut *self {
            Self::Once(whole) => Poll::Ready(whole.take()),
            Self::Events(events) => events.poll_recv(context),
        };
        bytes.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

// === impl Server ===

impl Server {
    /// A way into it.
    pub(super) fn cluster(&self) -> Cluster {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        Cluster::answered_by(service, OURS)
    }

    /// What it does with the next request of a kind: `list`, `watch`, `create`, `approve` or `delete`.
    pub(super) fn next(&self, kind: &'static str, reaction: Reaction) {
        let mut state = self.0.state.lock();
        state.reactions.entry(kind).or_default().push_back(reaction);
    }

    /// How many requests of a kind came.
    pub(super) fn count(&self, kind: &str) -> usize {
        let state = self.0.state.lock();
        state.requests.iter().filter(|&&seen| seen == kind).count()
    }

    /// The names that are there.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.state.lock().objects.keys().cloned().collect()
    }

    /// The object of that name.
    pub(super) fn get(&self, name: &str) -> Value {
        self.0.state.lock().objects[name].clone()
    }

    /// Waits until this holds.
    pub(super) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }

    /// Puts an object there that another user made, or we ourselves long ago.
    pub(super) fn put(&self, object: Value) {
        self.0.state.lock().insert(object);
        self.0.changed.notify_waiters();
    }

    /// Somebody writes to an object.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.state.lock();
        let mut object = state.objects[name].clone();
        change(&mut object);
        state.write(object);
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Somebody adds a condition.
    pub(super) fn decide(&self, name: &str, kind: &str, reason: &str) {
        self.change(name, |object| {
            let condition = json!({ "type": kind, "status": "True", "reason": reason, "message": "said somebody" });
            match object["status"]["conditions"].as_array_mut() {
                Some(conditions) => conditions.push(condition),
                None => object["status"]["conditions"] = json!([condition]),
            }
        });
    }

    /// A signer answers.
    pub(super) fn sign(&self, name: &str, pem: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        self.change(name, |object| {
            object["status"]["certificate"] = json!(STANDARD.encode(pem));
        });
    }

    /// Somebody deletes an object.
    pub(super) fn delete(&self, name: &str) {
        self.0.state.lock().delete(name);
        self.0.changed.notify_waiters();
    }

    /// The watch shows nothing more, until it is let go.
    pub(super) fn hold_back(&self) {
        self.0.state.lock().held_back.get_or_insert_default();
    }

    /// The watch shows what it was kept from showing.
    pub(super) fn let_go(&self) {
        let mut state = self.0.state.lock();
        for event in state.held_back.take().unwrap_or_default() {
            state.show(event);
        }
    }

    /// The watch never shows what it was kept from showing.
    pub(super) fn forget_held_back(&self) {
        self.0.state.lock().held_back = None;
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Says>, BoxError> {
        let (head, body) = request.into_parts();
        let (method, path) = (head.method, head.uri.path().to_owned());
        let watches = head.uri.query().is_some_and(|query| query.contains("watch=true"));
        let kind = match (&method, watches) {
            (&Method::GET, true) => "watch",
            (&Method::GET, false) => "list",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) if path.ends_with("/approval") => "approve",
            (&Method::DELETE, _) => "delete",
            other => panic!("{other:?} {path}"),
        };
        let body = body.collect_bytes().await?;
        let reaction = {
            let mut state = self.0.state.lock();
            state.requests.push(kind);
            state.reactions.get_mut(kind).and_then(VecDeque::pop_front)
        };
        self.0.changed.notify_waiters();
        let after = match reaction {
            Some(Reaction::Hang) => std::future::pending().await,
            Some(Reaction::Refuse(code, reason)) => return Ok(failure(code, reason)),
            Some(Reaction::Throttle(seconds)) => {
                let mut answer = failure(429, "TooManyRequests");
                answer.headers_mut().insert("retry-after", seconds.into());
                return Ok(answer);
            }
            Some(Reaction::Before(act)) => {
                act(&self);
                None
            }
            Some(Reaction::LoseAnswer) => Some(None),
            Some(Reaction::After(act)) => Some(Some(act)),
            None => None,
        };
        let name = path.split('/').nth(5).unwrap_or_default();
        let since = head.uri.query().and_then(since).unwrap_or_default();
        let answer = self.0.state.lock().answer(kind, name, since, &body);
        self.0.changed.notify_waiters();
        match after {
            None => Ok(answer),
            Some(None) => Err("connection reset".into()),
            Some(Some(act)) => {
                act(&self);
                Ok(answer)
            }
        }
    }
}

// === impl State ===

impl State {
    fn answer(&mut self, kind: &str, name: &str, since: u64, body: &[u8]) -> Response<Says> {
        let object = || serde_json::from_slice::<Value>(body).unwrap();
        match kind {
            "list" => {
                let items: Vec<_> = self.objects.values().collect();
                let version = self.version.to_string();
                whole(
                    200,
                    &json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items }),
                )
            }
            "watch" => {
                let (events, watcher) = mpsc::unbounded_channel();
                let later = |object: &&Value| version(object) > since;
                for object in self.objects.values().filter(later) {
                    _ = events.send(event("ADDED", object));
                }
                self.watchers.push(events);
                Response::new(Says::Events(watcher))
            }
            "create" => {
                let mut object = object();
                if self.objects.contains_key(object["metadata"]["name"].as_str().unwrap()) {
                    return failure(409, "AlreadyExists");
                }
                object["spec"]["username"] = json!(OURS);
                whole(201, &self.insert(object))
            }
            "approve" => {
                let object = object();
                let Some(known) = self.objects.get(name) else {
                    return failure(404, "NotFound");
                };
                if object["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                let conditions = object["status"]["conditions"].as_array().unwrap();
                if conditions.iter().any(|one| one["type"] == "Denied") {
                    return failure(422, "Invalid");
                }
                whole(200, &self.write(object))
            }
            "delete" => {
                let Some(known) = self.objects.get(name) else {
                    return failure(404, "NotFound");
                };
                if object()["preconditions"]["uid"] != known["metadata"]["uid"] {
                    return failure(409, "Conflict");
                }
                whole(200, &self.delete(name))
            }
            other => panic!("{other}"),
        }
    }

    fn insert(&mut self, mut object: Value) -> Value {
        self.next_uid += 1;
        object["metadata"]["uid"] = json!(format!("uid-{}", self.next_uid));
        self.write_as("ADDED", object)
    }

    fn write(&mut self, object: Value) -> Value {
        self.write_as("MODIFIED", object)
    }

    fn write_as(&mut self, event: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.objects.insert(name, object.clone());
        self.tell(event, &object);
        object
    }

    fn delete(&mut self, name: &str) -> Value {
        self.version += 1;
        let mut object = self.objects.remove(name).unwrap();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell("DELETED", &object);
        object
    }

    fn tell(&mut self, kind: &str, object: &Value) {
        let event = event(kind, object);
        match &mut self.held_back {
            Some(held_back) => held_back.push(event),
            None => self.show(event),
        }
    }

    fn show(&mut self, event: Bytes) {
        self.watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({ "type": kind, "object": object })).into()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// From where a watch goes on.
fn since(query: &str) -> Option<u64> {
    let mut pairs = query.split('&');
    pairs.find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse().ok())
}

fn whole(code: u16, object: &Value) -> Response<Says> {
    let mut answer = Response::new(Says::Once(Some(object.to_string().into())));
    *answer.status_mut() = code.try_into().unwrap();
    answer
}

fn failure(code: u16, reason: &str) -> Response<Says> {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{reason}, says the server"), "reason": reason, "code": code });
    whole(code, &status)
}
