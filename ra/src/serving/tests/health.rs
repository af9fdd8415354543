//! The gate of the serving certificate.

use std::time::{Duration, SystemTime};

use ensign_daemon::Readiness;
use ensign_pki::Clock;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::time::sleep;

use super::*;
use crate::metrics::Metrics;
use crate::serving::follow_health;

#[derive(Debug)]
struct Hands(Mutex<SystemTime>);

impl Clock for Hands {
    fn now(&self) -> SystemTime {
        *self.0.lock()
    }
}

fn serving(shown: Shown) -> (watch::Sender<Arc<Shown>>, Serving) {
    let (sender, current) = watch::channel(Arc::new(shown));
    let speaks = TlsProfile::default();
    (sender, Serving { current, speaks })
}

fn absent(ready: bool) -> Shown {
    Shown {
        face: Err(Absent {
            why: "nothing yet".to_owned(),
            ready,
        }),
        roots: None,
    }
}

fn face(now: SystemTime) -> Shown {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKey::from_pem(&made.signing_key.serialize_pem()).unwrap();
    let face = Face::new(vec![made.cert.der().clone()], &key, now).unwrap();
    Shown {
        face: Ok(Arc::new(face)),
        roots: None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_gate_follows_the_certificate_and_shuts_when_it_expires() {
    let now = SystemClock::shared().now();
    let clock = Arc::new(Hands(Mutex::new(now)));
    let (sender, serving) = serving(absent(false));
    let readiness = Readiness::new();
    let gate = readiness.gate("serving-certificate", "start");
    let stop = CancellationToken::new();
    let metrics = Metrics::register(&mut Registry::default());
    let follow = follow_health(serving, gate, metrics, Arc::clone(&clock) as _, stop.clone());
    let task = TaskTracker::new();
    task.spawn(follow);
    let pending = async || {
        sleep(Duration::from_secs(6)).await;
        readiness.pending().first().map(|pending| pending.reason.clone())
    };
    assert_eq!(pending().await.as_deref(), Some("nothing yet"));
    sender.send_replace(Arc::new(absent(true)));
    assert_eq!(pending().await, None, "no issuer is configured: as ready as it can be");
    let first = face(now);
    let end = first.face.as_ref().ok().unwrap().not_after;
    sender.send_replace(Arc::new(first));
    assert_eq!(pending().await, None);
    *clock.0.lock() = end;
    assert!(pending().await.unwrap().contains("expired at"));
    *clock.0.lock() = now;
    assert_eq!(pending().await, None, "a clock that was wrong");
    drop(sender);
    *clock.0.lock() = end;
    assert!(pending().await.is_some(), "also when nobody renews any more");
    stop.cancel();
    task.close();
    task.wait().await;
}
