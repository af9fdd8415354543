//! Every way in which files change under a running daemon, on a real file system.

use std::{os::unix::fs::symlink, time::Duration};

use tokio::{fs, task::JoinHandle};

use super::*;

type Numbers = watch::Receiver<Option<Arc<u32>>>;

/// A watched number in `path`; the poll is so slow that only notification can pass the test.
async fn watch(files: FileSet) -> (Numbers, WatchMetrics, Running) {
    let metrics = WatchMetrics::default();
    let parse = |contents: &Contents| Ok(contents.text(0)?.trim().parse::<u32>()?);
    let (receiver, watched) = files.metrics(&metrics).optional(parse).await;
    let stop = CancellationToken::new();
    #[expect(clippy::disallowed_methods, reason = "the test is the supervisor")]
    let task = tokio::spawn(watched.run(stop.clone()));
    (receiver, metrics, Running { stop, task })
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn expect(receiver: &mut Numbers, number: u32) {
    let wanted = |value: &Option<Arc<u32>>| value.as_deref() == Some(&number);
    let found = timeout(Duration::from_secs(60), receiver.wait_for(wanted)).await;
    found.expect("the change is published").unwrap();
}

fn slow(path: &Path) -> FileSet {
    FileSet::file("number", path).poll_every(Duration::from_secs(3_600))
}

#[tokio::test]
async fn a_rewrite_a_rename_and_a_late_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("number");
    let (mut receiver, _, running) = watch(slow(&path)).await;
    assert_eq!(*receiver.borrow(), None);
    fs::write(&path, "1").await.unwrap();
    expect(&mut receiver, 1).await;
    fs::write(&path, "2\n").await.unwrap();
    expect(&mut receiver, 2).await;
    let other = folder.path().join(".number.tmp");
    fs::write(&other, "3").await.unwrap();
    fs::rename(&other, &path).await.unwrap();
    expect(&mut receiver, 3).await;
    running.stop().await;
}

#[tokio::test]
async fn kubernetes_volume_swaps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("number");
    let swap = async |version: u32| {
        let data = folder.path().join(format!("..v{version}"));
        fs::create_dir(&data).await.unwrap();
        fs::write(data.join("number"), version.to_string()).await.unwrap();
        symlink(format!("..v{version}"), folder.path().join("..data_tmp")).unwrap();
        fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data"))
            .await
            .unwrap();
        if version > 1 {
            fs::remove_dir_all(folder.path().join(format!("..v{}", version - 1)))
                .await
                .unwrap();
        }
    };
    swap(1).await;
    symlink("..data/number", &path).unwrap();
    let (mut receiver, _, running) = watch(slow(&path)).await;
    expect(&mut receiver, 1).await;
    swap(2).await;
    expect(&mut receiver, 2).await;
    swap(3).await;
    expect(&mut receiver, 3).await;
    running.stop().await;
}

#[tokio::test]
async fn bad_content_keeps_the_old_and_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("number");
    fs::write(&path, "1").await.unwrap();
    let (mut receiver, metrics, running) =
        watch(FileSet::file("number", &path).poll_every(Duration::from_millis(5))).await;
    expect(&mut receiver, 1).await;
    receiver.mark_unchanged();
    let failures = metrics.failures.get_or_create(&FileLabels { file: "number" }).clone();
    // In one step: a file that is read between its truncation and its text is bad content of its own.
    let replace = async |text: &str| {
        let next = folder.path().join("next");
        fs::write(&next, text).await.unwrap();
        fs::rename(&next, &path).await.unwrap();
    };
    replace("one").await;
    timeout(Duration::from_secs(60), async {
        while failures.get() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(metrics.good("number").get(), 0);
    assert!(!receiver.has_changed().unwrap());
    replace("2").await;
    expect(&mut receiver, 2).await;
    assert_eq!((failures.get(), metrics.good("number").get()), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_removed_and_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("etc");
    let path = folder.join("number");
    fs::create_dir(&folder).await.unwrap();
    fs::write(&path, "1").await.unwrap();
    let files = FileSet::file("number", &path).poll_every(Duration::from_millis(20));
    let (mut receiver, _, running) = watch(files).await;
    expect(&mut receiver, 1).await;
    fs::remove_dir_all(&folder).await.unwrap();
    fs::create_dir(&folder).await.unwrap();
    fs::write(&path, "2").await.unwrap();
    expect(&mut receiver, 2).await;
    fs::write(&path, "3").await.unwrap();
    expect(&mut receiver, 3).await;
    running.stop().await;
}

#[tokio::test]
async fn the_same_content_is_published_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("number");
    fs::write(&path, "1").await.unwrap();
    let parse = |contents: &Contents| Ok(contents.text(0)?.trim().parse::<u32>()?);
    let (mut receiver, mut watched) = slow(&path).optional(parse).await;
    receiver.mark_unchanged();
    fs::write(&path, "1").await.unwrap();
    watched.refresh().await;
    assert!(!receiver.has_changed().unwrap());
    fs::remove_file(&path).await.unwrap();
    watched.refresh().await;
    assert_eq!(receiver.borrow().as_deref(), Some(&1));
}

#[tokio::test]
async fn a_set_is_read_whole_and_required_fails_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key, chain) = (
        folder.path().join("cert"),
        folder.path().join("key"),
        folder.path().join("chain"),
    );
    let join = |contents: &Contents| {
        let chain = contents.optional(2).map(<[u8]>::len);
        Ok(format!("{}{}{chain:?}", contents.text(0)?, contents.text(1)?))
    };
    let set = || FileSet::file("pair", &cert).and(&key).and_optional(&chain);
    fs::write(&cert, "c").await.unwrap();
    let error = set().required(join).await.unwrap_err();
    assert!(crate::logging::chain(&error).contains("key"), "{error}");
    fs::write(&key, "k").await.unwrap();
    let (receiver, mut watched) = set().required(join).await.unwrap();
    assert_eq!(**receiver.borrow(), "ckNone");
    fs::write(&chain, "xx").await.unwrap();
    watched.refresh().await;
    assert_eq!(**receiver.borrow(), "ckSome(2)");
}

#[tokio::test]
async fn size_and_kind_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big");
    fs::write(&path, [b'x'; 33]).await.unwrap();
    let parse = |_: &Contents| Ok(());
    let error = FileSet::file("number", &path)
        .max_bytes(32)
        .required(parse)
        .await
        .unwrap_err();
    assert!(crate::logging::chain(&error).contains("larger than 32 bytes"));
    let error = FileSet::file("number", folder.path())
        .required(parse)
        .await
        .unwrap_err();
    assert!(crate::logging::chain(&error).contains("not a regular file"));
}
