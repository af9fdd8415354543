//! What the kernel thinks of both programs: no dump, no look inside by others of the same user.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ensign_testbed::process::own_binary;
use ensign_testkit::tokens::{TokenMint, jwks};
use ensign_testkit::{eventually, patience};
use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A user without rights, for whom the kernel's protection counts; root may look into everything.
const NOBODY: u32 = 65534;

struct Place {
    folder: TempDir,
    user: u32,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = if getuid().is_root() { NOBODY } else { getuid().as_raw() };
        let place = Self { folder, user };
        place.give(place.folder.path());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn give(&self, path: &Path) {
        chown(path, Some(self.user), Some(self.user)).unwrap();
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.give(&self.path(name));
        self.path(name).display().to_string()
    }

    fn folder(&self, name: &str) -> String {
        fs::create_dir(self.path(name)).unwrap();
        self.give(&self.path(name));
        self.path(name).display().to_string()
    }

    /// Starts a program as the user, with the core limit raised as far as it goes: what lowers it is the program itself.
    fn start(&self, name: &str, program: &str, args: &[String]) -> Child {
        let raised = "ulimit -c unlimited 2>/dev/null || ulimit -c $(ulimit -H -c); exec \"$0\" \"$@\"";
        let log = fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        Command::new("/bin/sh")
            .args(["-c", raised, program])
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir(self.folder(name))
            .uid(self.user)
            .gid(self.user)
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Whether another process of the user may read this.
    async fn readable(&self, path: &str) -> bool {
        let look = Command::new("/bin/sh")
            .args(["-c", "head -c 1 \"$0\" >/dev/null 2>&1", path])
            .uid(self.user)
            .gid(self.user)
            .status();
        look.await.unwrap().success()
    }

    /// SIGABRT; says whether there was a core, by the kernel's word and by the files.
    async fn aborted(&self, name: &str, mut child: Child) -> bool {
        let pid = i32::try_from(child.id().unwrap()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::ABORT).unwrap();
        let status = timeout(patience(), child.wait()).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{name}: {status}");
        let files = fs::read_dir(self.path(name)).unwrap();
        let core = |entry: fs::DirEntry| entry.file_name().to_string_lossy().contains("core");
        let files = files
            .filter(|entry| entry.as_ref().is_ok_and(|_| true))
            .any(|entry| core(entry.unwrap()));
        status.core_dumped() || files
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap()
    }
}

/// A copy that the user can reach: the build folder may be closed to others.
fn program(place: &Place, name: &str) -> String {
    let copy = place.path(name);
    fs::copy(own_binary(name).unwrap(), &copy).unwrap();
    place.give(&copy);
    copy.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_program_can_be_dumped_or_looked_into() {
    let place = Place::new();
    let workloads = place.write("workloads.yaml", "apiVersion: ensign.mesh/v1\nworkloads: []\n");
    let keys = place.write("jwks.json", &jwks(&[&TokenMint::rs256("k")]));
    let ca = place.folder("ca");
    let policy = format!(
        "apiVersion: ensign.mesh/v1\ntrustDomain: cluster.local\nsigners:\n- name: foo\n  local: {{dir: {ca}, selfSigned: true}}\nrules: []\n"
    );
    let policy = place.write("policy.yaml", &policy);
    let serving = place.folder("serving");
    let any = "127.0.0.1:0";
    let agent = format!(
        "--ca-addr localhost:1 --ca-root-ca /nonexistent --workloads-file {workloads} --admin-addr {any} --status-addr {any}"
    );
    let ra = format!(
        "--policy-file {policy} --jwks-file {keys} --token-issuer i --serving-ca-dir {serving} --grpc-addr {any} --readyz-addr {any} --metrics-addr {any}"
    );

    // An ordinary program of the same user, so that what is seen below is the hardening and not this machine.
    let control = place.start("control", "/bin/sleep", &["3600".to_owned()]);
    let pid = control.id().unwrap();
    eventually("the control to run", async || comm(pid, "sleep")).await;
    assert!(place.readable(&format!("/proc/{pid}/environ")).await);
    let can_dump = place.aborted("control", control).await;

    for (name, args) in [("ensign-agent", agent), ("ensign-ra", ra)] {
        let binary = program(&place, name);
        let mut args: Vec<_> = args.split(' ').map(str::to_owned).collect();
        let addresses = place.path(&format!("{name}.json"));
        args.extend(["--addresses-file".to_owned(), addresses.display().to_string()]);
        let run = format!("run-{name}");
        let mut child = place.start(&run, &binary, &args);
        eventually(name, async || {
            assert!(child.try_wait().unwrap().is_none(), "{}", place.log(&run));
            fs::read(&addresses).map_err(|_| place.log(&run))
        })
        .await;
        let pid = child.id().unwrap();

        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let words: Vec<_> = core.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{name}: soft and hard: {core}");

        // What is not dumpable belongs to root in /proc, and others of its user may not look.
        for file in ["environ", "mem", "maps", "fd"] {
            let owner = fs::symlink_metadata(format!("/proc/{pid}/{file}")).unwrap().uid();
            assert_eq!(owner, 0, "{name}: /proc/<pid>/{file}");
        }
        for file in ["environ", "auxv", "maps"] {
            assert!(!place.readable(&format!("/proc/{pid}/{file}")).await, "{name}: {file}");
        }
        assert!(
            !place.aborted(&run, child).await,
            "{name} left a core (the control: {can_dump})"
        );
    }
}

fn comm(pid: u32, wanted: &str) -> Result<(), String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim() == wanted { Ok(()) } else { Err(name) }
}

/// Nothing that could be secret is read before.
#[test]
fn hardening_is_the_first_thing_in_both_programs() {
    for source in [include_str!("../../src/main.rs"), include_str!("../../ra/src/main.rs")] {
        let body = source.split("fn main() -> ExitCode {").nth(1).unwrap();
        let first = body
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with("//"));
        assert_eq!(first, Some("if let Err(error) = hardening::harden() {"));
    }
}
