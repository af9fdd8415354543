//! What a watch makes of answers that a real API server gives seldom: broken lines, pauses, ends in the middle.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use parking_lot::Mutex;
use tower::BoxError;

use super::*;
use crate::kubernetes::{ObjectKey, Store};

/// A body that says this, and then ends or stays open.
struct Says(Option<Bytes>, bool);

impl http_body::Body for Says {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.0.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if self.1 => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

fn config_map(name: &str, version: &str) -> serde_json::Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "foo", "name": name, "resourceVersion": version}})
}

fn listed(version: &str, names: &[&str]) -> Says {
    let items: Vec<_> = names.iter().map(|name| config_map(name, version)).collect();
    let list = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMapList",
        "metadata": {"resourceVersion": version}, "items": items});
    Says(Some(list.to_string().into()), false)
}

fn said(kind: &str, object: &serde_json::Value) -> Bytes {
    format!("{}\n", serde_json::json!({"type": kind, "object": object})).into()
}

/// The requests so far.
type Asked = Arc<Mutex<Vec<String>>>;

/// Follows ConfigMaps of a server that answers its requests by this script; the last answer is for all that follow.
fn followed(script: Vec<(u16, Says)>) -> (Watched, Arc<Store<ConfigMap>>, Asked) {
    let script = Arc::new(Mutex::new(script.into_iter().map(Some).collect::<Vec<_>>()));
    let (asked, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        seen.lock().push(request.uri().to_string());
        let answer = script
            .lock()
            .get_mut(count.fetch_add(1, Ordering::Relaxed))
            .and_then(Option::take);
        async move {
            let (code, body) = answer.unwrap_or((200, Says(None, true)));
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            Ok::<_, BoxError>(response)
        }
    });
    let api = Api::<ConfigMap>::all(Client::new(service, "default"));
    let store = Arc::new(Store::whole());
    let (watched, work) = follow(
        "config maps",
        api,
        watcher::Config::default(),
        Arc::clone(&store),
        KubernetesMetrics::default(),
        CancellationToken::new(),
    );
    tokio::spawn(work);
    (watched, store, asked)
}

fn failure(code: u16) -> Says {
    let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": "no", "reason": "x", "code": code});
    Says(Some(status.to_string().into()), false)
}

#[test]
fn a_servers_word_to_come_back_is_kept_to_and_bounded() {
    let after = |retry_after| {
        let message = "later".to_owned();
        Backoff::default().next(Some(&ApiError::Throttled { retry_after, message }))
    };
    assert_eq!(after(Duration::from_secs(7)), Duration::from_secs(7));
    assert_eq!(after(Duration::from_secs(u64::MAX)), RETRY_AFTER_MAX);
    assert!(after(Duration::ZERO) >= BACKOFF_FIRST / 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_stands_again_is_fresh_though_nothing_happens() {
    let script = vec![
        (200, listed("5", &["a"])),
        (200, Says(Some(said("MODIFIED", &config_map("a", "6"))), false)),
        (500, failure(500)),
        (200, Says(None, true)),
    ];
    let (mut watched, _store, asked) = followed(script);
    assert!(watched.synced().await);
    while !matches!(watched.state(), WatchState::Broken { .. }) {
        assert!(watched.changed().await);
    }
    while watched.state() != WatchState::Synced {
        assert!(watched.changed().await);
    }
    let asked = asked.lock();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(
        asked[3].contains("resourceVersion=6"),
        "it goes on where it was: {}",
        asked[3]
    );
}

#[tokio::test(start_paused = true)]
async fn what_happened_beyond_a_410_is_learned_by_a_new_list() {
    let script = vec![
        (200, listed("5", &["a", "b"])),
        (
            200,
            Says(
                Some(said(
                    "ERROR",
                    &serde_json::json!({"code": 410, "reason": "Expired", "status": "Failure"}),
                )),
                true,
            ),
        ),
        (200, listed("9", &["b"])),
    ];
    let (mut watched, store, asked) = followed(script);
    let mut gone = store.subscribe(ObjectKey::new("foo", "a"));
    while gone.current().is_none() {
        gone.next().await;
    }
    assert!(gone.next().await.is_none());
    while watched.state() != WatchState::Synced {
        assert!(watched.changed().await);
    }
    assert_eq!(store.len(), 1);
    assert!(asked.lock().len() >= 3);
}
