//! When a certificate under a new root is shown, and what clients are told to trust meanwhile.

use std::time::{Duration, SystemTime};

use ensign_pki::{Clock, SharedClock, SystemClock};
use tokio::time::{Instant, advance};

use super::super::{handover::Handover, leaf::ServerNames};
use super::*;
use crate::signer::local::{
    folder::{Authority, Parts},
    root,
};

const OVERLAP: Duration = Duration::from_secs(300);

/// A CA as it lies in a folder or a Secret, with more roots beside its own.
fn authority(name: &str, more: &str) -> (Authority, String) {
    let (trust_domain, now) = ("cluster.local".parse().unwrap(), SystemClock::shared().now());
    let made = root::make(name, &trust_domain, now).unwrap();
    let roots = format!("{}{more}", made.certificate_pem);
    let parts = Parts {
        place: name.to_owned(),
        certificate: ("cert".to_owned(), &made.certificate_pem),
        key: ("key".to_owned(), &made.key_pem),
        roots: ("roots".to_owned(), &roots),
        chain: None,
    };
    (parts.judge(&trust_domain, now).unwrap(), made.certificate_pem)
}

fn names() -> ServerNames {
    ServerNames::parse(vec!["localhost".to_owned()]).unwrap()
}

struct Stage {
    handover: Handover,
    shown: watch::Receiver<Arc<Shown>>,
    clock: SharedClock,
}

impl Stage {
    fn new(overlap: Duration) -> Self {
        let clock = SystemClock::shared();
        let (handover, shown) = Handover::new("nothing yet".to_owned(), overlap, Arc::clone(&clock));
        Self { handover, shown, clock }
    }

    fn offer(&mut self, authority: &Authority) {
        let (face, _) = names().issue(authority, "test", self.clock.now()).unwrap();
        self.handover.offer(face, Arc::clone(&authority.roots));
    }

    /// The leaf in use.
    fn leaf(&self) -> Vec<u8> {
        let shown = self.shown.borrow();
        shown.face.as_ref().ok().unwrap().key.cert[0].to_vec()
    }

    fn roots(&self) -> usize {
        self.shown
            .borrow()
            .roots
            .as_ref()
            .map_or(0, |roots| roots.bundle().len())
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_root_is_out_before_a_certificate_under_it_is_shown() {
    let ((old, _), (new, _)) = (authority("old", ""), authority("new", ""));
    let mut stage = Stage::new(OVERLAP);
    assert_eq!(stage.shown.borrow().face.as_ref().err().unwrap().why, "nothing yet");
    stage.offer(&old);
    let before = stage.leaf();
    assert_eq!(stage.roots(), 1);
    stage.offer(&new);
    assert_eq!((stage.leaf(), stage.roots()), (before.clone(), 2));
    advance(OVERLAP / 2).await;
    // A renewal in between, under the same new root, does not put the change off.
    stage.offer(&new);
    assert!(stage.handover.due().unwrap() <= Instant::now() + OVERLAP / 2);
    stage.handover.turn();
    assert_eq!(stage.leaf(), before);
    advance(OVERLAP / 2).await;
    stage.handover.turn();
    assert_ne!(stage.leaf(), before);
    assert_eq!(stage.roots(), 1, "the old root is no longer needed to call us");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_under_known_roots_is_shown_at_once() {
    let (next, next_root) = authority("next", "");
    let (old, _) = authority("old", &next_root);
    let mut stage = Stage::new(OVERLAP);
    stage.offer(&old);
    let before = stage.leaf();
    stage.offer(&old);
    assert_ne!(stage.leaf(), before, "a renewal");
    assert_eq!(stage.roots(), 2);
    stage.offer(&next);
    assert_eq!(stage.handover.due(), None);
    assert_eq!(stage.roots(), 1);
}

#[tokio::test(start_paused = true)]
async fn going_back_to_the_old_ca_takes_the_next_one_off() {
    let ((old, _), (new, _)) = (authority("old", ""), authority("new", ""));
    let mut stage = Stage::new(OVERLAP);
    stage.offer(&old);
    stage.offer(&new);
    stage.offer(&old);
    assert_eq!((stage.handover.due(), stage.roots()), (None, 1));
}

/// Stands still near the end of the first certificate.
#[derive(Debug)]
struct Late(SystemTime);

impl Clock for Late {
    fn now(&self) -> SystemTime {
        self.0
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_about_to_expire_cuts_the_overlap_short() {
    let ((old, _), (new, _)) = (authority("old", ""), authority("new", ""));
    let mut stage = Stage::new(OVERLAP);
    stage.offer(&old);
    let end = stage.shown.borrow().face.as_ref().ok().unwrap().not_after;
    let clock: SharedClock = Arc::new(Late(end - Duration::from_secs(100)));
    let (mut handover, shown) = Handover::new(String::new(), OVERLAP, Arc::clone(&clock));
    let (face, _) = names().issue(&old, "test", SystemClock::shared().now()).unwrap();
    handover.offer(face, Arc::clone(&old.roots));
    let (face, _) = names().issue(&new, "test", SystemClock::shared().now()).unwrap();
    handover.offer(face, Arc::clone(&new.roots));
    let left = handover.due().unwrap() - Instant::now();
    assert!(left <= Duration::from_secs(41), "{left:?}");
    assert!(shown.borrow().face.is_ok());
}

#[tokio::test(start_paused = true)]
async fn why_there_is_nothing_is_told_until_there_is_something() {
    let mut stage = Stage::new(OVERLAP);
    stage.handover.absent("forbidden".to_owned(), false);
    assert_eq!(stage.shown.borrow().face.as_ref().err().unwrap().why, "forbidden");
    stage.offer(&authority("a", "").0);
    stage.handover.absent("again".to_owned(), false);
    assert!(stage.shown.borrow().face.is_ok(), "a certificate in use stays");
}
