//! Publishing and unpublishing against a scripted owner of sockets, on a real file system.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use ensign_pki::SystemClock;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::super::request::tests as requests;
use super::super::state::State;
use super::super::target::tests::plant_socket;
use super::*;
use crate::source::Refused;

const UID: &str = "0d5a7e1c-6f0a-4f0c-9d52-3c1b8a1f7e11";

struct Node {
    kubelet: TempDir,
    volumes: Arc<Volumes>,
    notices: mpsc::Receiver<Notice>,
}

impl Node {
    fn new() -> Self {
        Self::new_in(tempfile::tempdir().unwrap())
    }

    /// Without a task that writes the state, every save runs into its patience: the clock is paused.
    fn new_in(kubelet: TempDir) -> Self {
        let config = Config {
            kubelet_dir: kubelet.path().to_owned(),
            state_dir: kubelet.path().join("state"),
            ..requests::config()
        };
        let (saver, _) = State::open(&config).unwrap().writer();
        let volumes = Volumes::new(config, SystemClock::shared(), saver, Metrics::default());
        let (sender, notices) = mpsc::channel(8);
        volumes.connect(sender);
        Self {
            kubelet,
            volumes: Arc::new(volumes),
            notices,
        }
    }

    fn folder(&self, uid: &str, volume: &str) -> PathBuf {
        let path = format!("pods/{uid}/volumes/kubernetes.io~csi/{volume}");
        self.kubelet.path().join(path)
    }

    /// As kubelet: the volume's folder is made, then the driver is called.
    fn request(&self, uid: &str, volume: &str, attributes: &[(&str, &str)]) -> NodePublishVolumeRequest {
        let folder = self.folder(uid, volume);
        std::fs::create_dir_all(&folder).unwrap();
        NodePublishVolumeRequest {
            target_path: folder.join("mount").to_str().unwrap().to_owned(),
            ..requests::request(uid, attributes)
        }
    }

    /// A call, while the owner answers what it is told with `answer`; gives what it was told, too.
    async fn publish(
        &mut self,
        request: NodePublishVolumeRequest,
        answer: Result<(), Refused>,
    ) -> (Result<(), Refusal>, Vec<Event>) {
        let volumes = Arc::clone(&self.volumes);
        let call = async move { volumes.publish(request).await };
        self.answering(call, answer).await
    }

    async fn unpublish(&mut self, uid: &str, volume: &str) -> (Result<(), Refusal>, Vec<Event>) {
        let path = self.folder(uid, volume).join("mount").to_str().unwrap().to_owned();
        let volumes = Arc::clone(&self.volumes);
        let call = async move { volumes.unpublish("csi-1".to_owned(), path).await };
        self.answering(call, Ok(())).await
    }

    async fn answering(
        &mut self,
        call: impl Future<Output = Result<(), Refusal>>,
        answer: Result<(), Refused>,
    ) -> (Result<(), Refusal>, Vec<Event>) {
        let mut told = Vec::new();
        tokio::pin!(call);
        loop {
            tokio::select! {
                biased;
                Some(notice) = self.notices.recv() => {
                    told.push(notice.event);
                    notice.done.send(answer.clone()).unwrap();
                }
                outcome = &mut call => return (outcome, told),
            }
        }
    }
}

fn refused() -> Result<(), Refused> {
    Err(Refused {
        reason: "the disk is full".to_owned(),
    })
}

fn expired(mut request: NodePublishVolumeRequest, at: &str) -> NodePublishVolumeRequest {
    let json = format!(r#"{{"istio-ca":{{"token":"another.tok.en","expirationTimestamp":"{at}"}}}}"#);
    request
        .volume_context
        .insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), json);
    request
}

#[tokio::test(start_paused = true)]
async fn a_publish_makes_the_folder_and_tells_who_it_is() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[("signer", "foo")]);
    let (outcome, told) = node.publish(request, Ok(())).await;
    outcome.unwrap();
    let [Event::Appeared(workload)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(workload.id.to_string(), "spiffe://cluster.local/ns/foo/sa/default");
    assert_eq!(&*workload.shares, format!("csi/foo/httpbin/{UID}/P-256"));
    let mount = node.folder(UID, "identity").join("mount");
    assert_eq!(workload.socket.path, mount.join("ensign.sock"));
    assert_eq!(workload.socket.mode, 0o666);
    assert_eq!(workload.token.read().await.unwrap().expose(), "planted.tok.en");
    assert!(std::fs::metadata(mount).unwrap().is_dir());
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_leaves_nothing() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[("colour", "red")]);
    let (outcome, told) = node.publish(request, Ok(())).await;
    assert_eq!((outcome.unwrap_err().reason(), told.len()), ("unknown_attribute", 0));
    let request = node.request(UID, "identity", &[]);
    let (outcome, _) = node.publish(request, refused()).await;
    let refusal = outcome.unwrap_err();
    assert!(refusal.to_string().contains("the disk is full"), "{refusal}");
    assert_eq!(tonic::Status::from(refusal).code(), tonic::Code::Unavailable);
    assert!(std::fs::symlink_metadata(node.folder(UID, "identity").join("mount")).is_err());
    assert_eq!(node.volumes.table.counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn after_its_first_success_a_publish_never_fails_and_the_folder_stays() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[]);
    node.publish(request.clone(), Ok(())).await.0.unwrap();
    let mount = node.folder(UID, "identity").join("mount");
    let inode = std::fs::metadata(&mount).unwrap().ino();

    let without = |key: &str| {
        let mut request = request.clone();
        request.volume_context.remove(key).unwrap();
        request
    };
    let mut writable = request.clone();
    writable.readonly = false;
    let wrong = [
        without("csi.storage.k8s.io/serviceAccount.tokens"),
        without("csi.storage.k8s.io/pod.uid"),
        expired(request.clone(), "2001-01-01T00:00:00Z"),
        expired(request.clone(), "soon"),
        node.request(UID, "identity", &[("colour", "red")]),
        writable,
    ];
    for request in wrong {
        for answer in [Ok(()), refused()] {
            node.publish(request.clone(), answer).await.0.unwrap();
            assert_eq!(std::fs::metadata(&mount).unwrap().ino(), inode);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_token_is_taken_up_and_the_same_one_costs_nothing() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[]);
    let (_, told) = node.publish(request.clone(), Ok(())).await;
    let Event::Appeared(workload) = &told[0] else {
        panic!("{told:?}")
    };
    assert!(node.publish(request.clone(), Ok(())).await.1.is_empty());
    let (_, told) = node.publish(expired(request, "2100-01-01T00:00:00Z"), Ok(())).await;
    assert!(matches!(&told[..], [Event::Changed(_)]), "{told:?}");
    assert_eq!(workload.token.read().await.unwrap().expose(), "another.tok.en");
}

#[tokio::test(start_paused = true)]
async fn whichever_volume_brings_a_new_token_all_of_the_pod_learn_of_it() {
    let mut node = Node::new();
    let [one, two] = ["one", "two"].map(|volume| node.request(UID, volume, &[]));
    for request in [&one, &two] {
        node.publish(request.clone(), Ok(())).await.0.unwrap();
    }
    for request in [one, two] {
        let request = expired(request, "2100-01-01T00:00:00Z");
        let (_, told) = node.publish(request.clone(), Ok(())).await;
        assert!(matches!(&told[..], [Event::Changed(_)]), "{told:?}");
        assert!(node.publish(request, Ok(())).await.1.is_empty(), "once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_nobody_knows_any_more_keeps_its_folder_whatever_is_wrong() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[]);
    node.publish(request, Ok(())).await.0.unwrap();
    // The state is lost with the agent, and what its pod asks for is no longer allowed.
    let mut successor = Node::new_in(node.kubelet);
    let wrong = successor.request(UID, "identity", &[("keyType", "RSA-2048")]);
    let refusal = successor.publish(wrong, Ok(())).await.0.unwrap_err();
    assert_eq!(refusal.reason(), "attribute");
    assert!(refusal.to_string().contains("RSA-2048"), "{refusal}");
    assert_eq!(tonic::Status::from(refusal).code(), tonic::Code::Unavailable);
    assert!(std::fs::metadata(successor.folder(UID, "identity").join("mount")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn while_a_volume_is_looked_at_again_it_is_neither_taken_away_nor_forgotten() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[]);
    node.publish(request.clone(), Ok(())).await.0.unwrap();
    let again = expired(request.clone(), "2100-01-01T00:00:00Z");
    let volumes = Arc::clone(&node.volumes);
    let again = tokio::spawn(async move { volumes.publish(again).await });
    let notice = node.notices.recv().await.unwrap();
    let refusal = node.unpublish(UID, "identity").await.0.unwrap_err();
    assert_eq!(refusal.reason(), "pending");
    node.publish(request, Ok(())).await.0.unwrap();
    assert_eq!(node.volumes.table.revision().volumes.len(), 1);
    notice.done.send(Ok(())).unwrap();
    again.await.unwrap().unwrap();
    node.unpublish(UID, "identity").await.0.unwrap();
    assert!(node.volumes.table.revision().volumes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_something_else_removed_is_made_again_and_said() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[]);
    node.publish(request.clone(), Ok(())).await.0.unwrap();
    let mount = node.folder(UID, "identity").join("mount");
    // As a container's mount does, so that the new folder cannot get the number of the old one.
    let _held = std::fs::File::open(&mount).unwrap();
    std::fs::remove_dir(&mount).unwrap();
    let (outcome, told) = node.publish(request.clone(), Ok(())).await;
    outcome.unwrap();
    assert!(matches!(&told[..], [Event::Changed(_)]), "{told:?}");
    assert!(std::fs::metadata(&mount).unwrap().is_dir());
    assert!(node.publish(request, Ok(())).await.1.is_empty(), "said once");
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_something_else_removed_while_no_agent_ran_is_made_again_and_said() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[]);
    node.publish(request.clone(), Ok(())).await.0.unwrap();
    let saved = node.volumes.table.revision().volumes;
    let mount = node.folder(UID, "identity").join("mount");
    let _held = std::fs::File::open(&mount).unwrap();
    std::fs::remove_dir(&mount).unwrap();

    let mut successor = Node::new_in(node.kubelet);
    assert!(
        successor.volumes.restore(saved).is_empty(),
        "there is no folder for a socket"
    );
    successor.volumes.restored(&HashSet::new());
    assert_eq!(
        successor.volumes.bind_the_rest().await,
        0,
        "nor does it hold anything up"
    );
    assert!(std::fs::symlink_metadata(&mount).is_err());
    let (outcome, told) = successor.publish(request.clone(), Ok(())).await;
    outcome.unwrap();
    assert!(matches!(&told[..], [Event::Changed(_)]), "{told:?}");
    let mut registry = prometheus_client::registry::Registry::default();
    successor.volumes.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("csi_targets_remade_total 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_unpublish_goes_by_the_path_and_knows_no_stranger() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[]);
    node.publish(request, Ok(())).await.0.unwrap();
    let mount = node.folder(UID, "identity").join("mount");
    plant_socket(&mount.join("ensign.sock"));
    let (outcome, told) = node.unpublish(UID, "identity").await;
    outcome.unwrap();
    assert!(
        matches!(&told[..], [Event::Gone(uid)] if **uid == *format!("csi/{UID}/identity")),
        "{told:?}"
    );
    assert!(std::fs::symlink_metadata(&mount).is_err());
    assert_eq!(node.volumes.table.counts(), (0, 0));
    // Again, and for what this process never saw.
    node.unpublish(UID, "identity").await.0.unwrap();
    node.unpublish("gone", "volume").await.0.unwrap();
    let stranger = node.folder("stranger", "v").join("mount");
    std::fs::create_dir_all(&stranger).unwrap();
    plant_socket(&stranger.join("ensign.sock"));
    node.unpublish("stranger", "v").await.0.unwrap();
    assert!(std::fs::symlink_metadata(&stranger).is_err());
}

#[tokio::test(start_paused = true)]
async fn volumes_of_a_pod_share_token_and_name_and_are_four_at_most() {
    let mut node = Node::new();
    let mut told = Vec::new();
    for volume in ["a", "b", "c", "d"] {
        let request = node.request(UID, volume, &[]);
        let (outcome, events) = node.publish(request, Ok(())).await;
        outcome.unwrap();
        told.extend(events);
    }
    let names: HashSet<_> = told
        .iter()
        .map(|event| match event {
            Event::Appeared(workload) => (Arc::clone(&workload.shares), Arc::as_ptr(&workload.token).addr()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let request = node.request(UID, "e", &[]);
    let refusal = node.publish(request, Ok(())).await.0.unwrap_err();
    assert_eq!(refusal.reason(), "too_many_volumes");
    let request = node.request("another", "e", &[]);
    node.publish(request, Ok(())).await.0.unwrap();
    node.unpublish(UID, "a").await.0.unwrap();
    let request = node.request(UID, "e", &[]);
    node.publish(request, Ok(())).await.0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_kubelet_gave_up_is_carried_to_its_end() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[]);
    let volumes = Arc::clone(&node.volumes);
    let given_up = tokio::time::timeout(std::time::Duration::from_secs(1), volumes.publish(request.clone()));
    given_up.await.unwrap_err();
    let refusal = volumes.publish(request.clone()).await.unwrap_err();
    assert_eq!(tonic::Status::from(refusal).code(), tonic::Code::Aborted);
    let path = request.target_path.clone();
    assert_eq!(
        volumes.unpublish("csi-1".to_owned(), path).await.unwrap_err().reason(),
        "pending"
    );
    let notice = node.notices.recv().await.unwrap();
    notice.done.send(Ok(())).unwrap();
    node.volumes.calls_ended().await;
    assert!(node.publish(request, Ok(())).await.1.is_empty(), "it is published");
}

#[tokio::test(start_paused = true)]
async fn what_was_saved_is_bound_again_without_a_token_until_kubelet_brings_one() {
    let mut node = Node::new();
    let request = node.request(UID, "identity", &[("signer", "foo")]);
    node.publish(request.clone(), Ok(())).await.0.unwrap();
    let saved = node.volumes.table.revision().volumes;
    let gone = (Target::new("gone", "v").unwrap(), saved[0].1.clone());

    let mut successor = Node::new_in(node.kubelet);
    let workloads = successor.volumes.restore([saved, vec![gone]].concat());
    assert_eq!(workloads.len(), 1, "a folder that is gone is no volume");
    assert_eq!(successor.volumes.table.counts(), (1, 1));
    assert_eq!(workloads[0].signer.as_ref().unwrap().as_str(), "foo");
    assert!(workloads[0].token.read().await.is_err());
    // The token comes, and with it a second chance for a socket that could not be bound.
    let (outcome, told) = successor.publish(request.clone(), refused()).await;
    outcome.unwrap();
    assert!(matches!(&told[..], [Event::Changed(_)]), "{told:?}");
    let (_, told) = successor.publish(request.clone(), Ok(())).await;
    assert!(matches!(&told[..], [Event::Changed(_)]), "{told:?}");
    assert!(successor.publish(request, Ok(())).await.1.is_empty());
    assert!(workloads[0].token.read().await.is_ok());
}
