//! The source against a scripted owner of sockets.

use tokio::sync::mpsc;

use super::*;
use crate::source::Refused;

fn file(names: &[&str]) -> Arc<WorkloadsFile> {
    let entry = |name: &&str| {
        let socket = name.trim_end_matches(|c: char| c.is_ascii_digit());
        format!("- {{name: {socket}, namespace: a, serviceAccount: b, tokenFile: /t, socket: /s/{name}}}\n")
    };
    let entries: String = names.iter().map(entry).collect();
    let text = if names.is_empty() {
        "apiVersion: ensign.mesh/v1\nworkloads: []\n".to_owned()
    } else {
        format!("apiVersion: ensign.mesh/v1\nworkloads:\n{entries}")
    };
    Arc::new(WorkloadsFile::parse(text.as_bytes(), &"td".parse().unwrap(), KeyType::P256).unwrap())
}

struct Owner {
    publish: watch::Sender<Arc<WorkloadsFile>>,
    notices: mpsc::Receiver<Notice>,
    stop: CancellationToken,
}

impl Owner {
    fn new(names: &[&str]) -> Self {
        let (publish, mut files) = watch::channel(file(names));
        let served = files.borrow_and_update().entries.clone();
        let (sender, notices) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let source = Source { files, served };
        #[expect(clippy::disallowed_methods, reason = "the test is the supervisor")]
        tokio::spawn(source.run(sender, stop.clone()));
        Self { publish, notices, stop }
    }

    async fn next(&mut self, answer: Result<(), Refused>) -> String {
        let notice = self.notices.recv().await.unwrap();
        let text = match &notice.event {
            Event::Appeared(workload) => format!("+{}", workload.uid),
            Event::Changed(workload) => format!("~{}", workload.uid),
            Event::Gone(uid) => format!("-{uid}"),
        };
        notice.done.send(answer).unwrap();
        text
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn refused() -> Refused {
    Refused {
        reason: "a test says so".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_goes_before_what_comes() {
    let mut owner = Owner::new(&["a", "b"]);
    owner.publish.send_replace(file(&["b2", "c"]));
    assert_eq!(owner.next(Ok(())).await, "-fixed/a");
    assert_eq!(owner.next(Ok(())).await, "~fixed/b");
    assert_eq!(owner.next(Ok(())).await, "+fixed/c");
    owner.publish.send_replace(file(&["b2", "c"]));
    owner.publish.send_replace(file(&["b2"]));
    assert_eq!(owner.next(Ok(())).await, "-fixed/c");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_bound_is_offered_again() {
    let mut owner = Owner::new(&[]);
    owner.publish.send_replace(file(&["a", "b"]));
    assert_eq!(owner.next(Err(refused())).await, "+fixed/a");
    assert_eq!(owner.next(Ok(())).await, "+fixed/b");
    assert_eq!(owner.next(Ok(())).await, "+fixed/a");
    owner.publish.send_replace(file(&["b"]));
    assert_eq!(owner.next(Ok(())).await, "-fixed/a");
}
