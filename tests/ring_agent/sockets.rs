//! Socket files that somebody removes, replaces or puts in the way.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use ensign_testkit::{FakeEnvoy, eventually, patience};
use tokio::fs;
use tokio::io::AsyncReadExt as _;

use crate::agent::{list, replace};
use crate::node::Node;

async fn served(node: &Node, name: &str) {
    let mut stream = node.envoy(name).await.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_file_that_is_removed_comes_back() {
    let node = Node::start(&["a"], &[]).await;
    let mut before = node.envoy("a").await.subscribe(&["default"]).await;
    before.next_secret(patience()).await;
    fs::remove_file(node.socket("a")).await.unwrap();
    served(&node, "a").await;
    assert_eq!(node.requests("a").len(), 1, "the certificate is the same");
    before.rename(&["default"], "").await;
    before.next_secret(patience()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_removed_comes_back_with_its_mode() {
    let node = Node::prepared(&[], &[]).await;
    let inner = node.folder.path().join("inner");
    fs::create_dir(&inner).await.unwrap();
    fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o710))
        .await
        .unwrap();
    let text = list(node.folder.path(), &["a"]).replace("/a.sock", "/inner/a.sock");
    replace(node.folder.path(), &text).await;
    let mut node = node;
    node.resume().await;
    fs::remove_dir_all(&inner).await.unwrap();
    let path = inner.join("a.sock");
    let envoy = eventually("the socket", async || FakeEnvoy::connect(&path).await).await;
    envoy.subscribe(&["default"]).await.next_secret(patience()).await;
    assert_eq!(fs::metadata(&inner).await.unwrap().mode() & 0o7777, 0o710);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_stops_the_start_and_is_left_as_it_is() {
    let node = Node::prepared(&["a"], &[]).await;
    let path = node.socket("a");
    let aim = node.folder.path().join("aim");

    fs::create_dir(&path).await.unwrap();
    refused(&node, &["fixed/a", "a.sock", "a directory", "remove it"]).await;
    fs::remove_dir(&path).await.unwrap();

    fs::write(&path, "precious").await.unwrap();
    refused(&node, &["a.sock", "a regular file"]).await;
    assert_eq!(fs::read_to_string(&path).await.unwrap(), "precious");
    fs::remove_file(&path).await.unwrap();

    symlink(&aim, &path).unwrap();
    refused(&node, &["a.sock", "a symbolic link"]).await;
    assert!(
        !fs::try_exists(&aim).await.unwrap(),
        "nothing was made through the link"
    );
    fs::remove_file(&path).await.unwrap();

    let text = list(node.folder.path(), &["a"]).replace("/a.sock", "/missing/a.sock");
    replace(node.folder.path(), &text).await;
    refused(&node, &["missing", "must exist"]).await;

    let twice = list(node.folder.path(), &["a", "b"]).replace("/b.sock", "/a.sock");
    replace(node.folder.path(), &twice).await;
    refused(&node, &["socket", "a.sock"]).await;
}

async fn refused(node: &Node, words: &[&str]) {
    let error = format!("{:#}", node.bind().await.unwrap_err());
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_later_hurts_only_its_workload() {
    let node = Node::start(&["good"], &[]).await;
    let folder = node.folder.path();
    fs::write(node.socket("file"), "precious").await.unwrap();
    symlink(folder.join("aim"), node.socket("link")).unwrap();
    let names = ["file", "good", "link", "new"];
    let text = list(folder, &names) + &missing(folder);
    replace(folder, &text).await;
    served(&node, "new").await;
    served(&node, "good").await;
    assert_eq!(fs::read_to_string(node.socket("file")).await.unwrap(), "precious");
    assert!(!fs::try_exists(folder.join("aim")).await.unwrap());

    // Out of the way, it is served by itself.
    fs::remove_file(node.socket("file")).await.unwrap();
    fs::create_dir(folder.join("missing")).await.unwrap();
    served(&node, "file").await;
    let late = folder.join("missing/late.sock");
    let envoy = eventually("the socket", async || FakeEnvoy::connect(&late).await).await;
    envoy.subscribe(&["default"]).await.next_secret(patience()).await;
}

fn missing(folder: &Path) -> String {
    list(folder, &["late"])
        .replace("/late.sock", "/missing/late.sock")
        .lines()
        .skip(2)
        .fold(String::new(), |text, line| text + line + "\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_longer_than_an_address_may_be_is_served() {
    let mut node = Node::prepared(&[], &[]).await;
    let deep = node.folder.path().join("d".repeat(120));
    fs::create_dir(&deep).await.unwrap();
    let text = list(node.folder.path(), &["a"]).replace("/a.sock", &format!("/{}/a.sock", "d".repeat(120)));
    replace(node.folder.path(), &text).await;
    node.resume().await;
    let socket = deep.join("a.sock");
    let envoy = FakeEnvoy::connect(&socket).await.unwrap();
    envoy.subscribe(&["default"]).await.next_secret(patience()).await;
    fs::remove_file(&socket).await.unwrap();
    let envoy = eventually("the socket", async || FakeEnvoy::connect(&socket).await).await;
    envoy.subscribe(&["default"]).await.next_secret(patience()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_somebody_else_is_not_removed_on_the_way_out() {
    let mut node = Node::start(&["a", "b"], &[]).await;
    let path = node.socket("a");
    let successor = node.folder.path().join("successor");
    let _listener = UnixListener::bind(&successor).unwrap();
    fs::rename(&successor, &path).await.unwrap();
    let inode = fs::symlink_metadata(&path).await.unwrap().ino();
    node.pause().await;
    assert_eq!(fs::symlink_metadata(&path).await.unwrap().ino(), inode);
    assert!(!fs::try_exists(node.socket("b")).await.unwrap(), "our own is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_of_a_crashed_agent_is_replaced() {
    let mut node = Node::prepared(&["a"], &[]).await;
    drop(UnixListener::bind(node.socket("a")).unwrap());
    node.resume().await;
    served(&node, "a").await;
}

/// The real program as a user without rights. Needs to be root to become that user, which build machines are.
#[tokio::test(flavor = "multi_thread")]
async fn an_unprivileged_agent_says_how_to_let_it_bind() {
    let node = Node::prepared(&["a"], &[]).await;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        // Then this very process has no rights either: a folder that nobody may write to does.
        fs::set_permissions(node.folder.path(), std::fs::Permissions::from_mode(0o555))
            .await
            .unwrap();
    } else {
        fs::set_permissions(node.folder.path(), std::fs::Permissions::from_mode(0o755))
            .await
            .unwrap();
    }
    let (status, said) = run_unprivileged(&node).await;
    assert_eq!(status, Some(1), "{said}");
    for word in [
        "fixed/a",
        "may not create a socket in",
        "make the folder writable",
        "chown",
    ] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    fs::set_permissions(node.folder.path(), std::fs::Permissions::from_mode(0o755))
        .await
        .unwrap();
}

/// Runs the agent until it ends by itself; exit code and standard error.
async fn run_unprivileged(node: &Node) -> (Option<i32>, String) {
    // A user without rights may not look into the build folder.
    let binary = node.folder.path().join("ensign-agent");
    fs::copy(env!("CARGO_BIN_EXE_ensign-agent"), &binary).await.unwrap();
    let mut command = std::process::Command::new(&binary);
    command
        .args(&node.flags()[1..])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        use std::os::unix::process::CommandExt as _;
        command.uid(65534).gid(65534);
    }
    let mut child = tokio::process::Command::from(command)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut errors = child.stderr.take().unwrap();
    let all = async {
        errors.read_to_string(&mut said).await.unwrap();
        child.wait().await.unwrap()
    };
    let status = tokio::time::timeout(patience(), all).await.expect("it ends by itself");
    (status.code(), said)
}
