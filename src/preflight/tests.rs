//! Each check on folders that are made for it.

use ensign_daemon::Verdict;
use ensign_pki::KeyType;
use test_case::test_case;

use super::*;

struct Node {
    root: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for inner in [
            "kubelet/pods",
            "kubelet/plugins/csi.ensign.mesh",
            "kubelet/plugins_registry",
            "proc/self/attr",
            "sys/fs/selinux",
        ] {
            std::fs::create_dir_all(root.path().join(inner)).unwrap();
        }
        Self { root }
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.root.path().join(inner)
    }

    fn findings(&self) -> Vec<Finding> {
        let config = csi::Config {
            kubelet_dir: self.path("kubelet"),
            node_name: "node1".to_owned(),
            state_dir: self.path("state"),
            trust_domain: "cluster.local".parse().unwrap(),
            key_type: KeyType::P256,
            key_types: Vec::new(),
            audience: "istio-ca".to_owned(),
        };
        let mut findings = csi_source(&config, &host::Machine::at(self.root.path()));
        // Whether this machine's temporary folder is a tmpfs is its own affair.
        findings.retain(|finding| finding.code != "state_not_tmpfs");
        findings
    }

    fn says(&self, expected: &[(&str, Verdict)]) {
        let findings = self.findings();
        let seen: Vec<_> = findings.iter().map(|finding| (finding.code, finding.verdict)).collect();
        assert_eq!(seen, expected, "{findings:?}");
        assert!(findings.iter().all(|finding| !finding.fix.is_empty()), "{findings:?}");
    }
}

#[test]
fn a_node_that_has_all_is_not_spoken_of() {
    Node::new().says(&[]);
}

#[test_case("kubelet/pods")]
#[test_case("kubelet/plugins/csi.ensign.mesh")]
#[test_case("kubelet/plugins_registry")]
fn each_folder_of_kubelet_is_needed(folder: &str) {
    let node = Node::new();
    std::fs::remove_dir(node.path(folder)).unwrap();
    node.says(&[("kubelet_dir", Verdict::Wrong)]);
    let cause = &node.findings()[0].cause;
    assert!(cause.contains(folder) && cause.contains("is not there"), "{cause}");
    std::fs::write(node.path(folder), "").unwrap();
    assert!(node.findings()[0].cause.contains("is no folder"));
}

#[test]
fn without_kubelets_folder_one_finding_says_it_all() {
    let node = Node::new();
    std::fs::remove_dir_all(node.path("kubelet")).unwrap();
    node.says(&[("kubelet_dir", Verdict::Wrong)]);
}

#[test]
fn the_state_folder_is_made_below_a_folder_that_is_there() {
    let node = Node::new();
    std::fs::write(node.path("state"), "").unwrap();
    node.says(&[("state_dir", Verdict::Wrong)]);
    let missing = state(&node.path("no/state")).unwrap();
    assert_eq!((missing.code, missing.verdict), ("state_dir", Verdict::Wrong));
}

#[test]
fn a_tmpfs_is_told_from_what_outlives_a_reboot() {
    // Both are what every Linux has.
    assert_eq!(state(Path::new("/dev/shm")), None);
    let kept = state(Path::new("/sys")).map(|finding| finding.code);
    assert!(matches!(kept, Some("state_not_tmpfs" | "state_dir")), "{kept:?}");
}

#[test_case("master:1", None; "follows the host")]
#[test_case("shared:1", None; "both ways")]
#[test_case("", Some("mount_propagation"); "private")]
fn mounts_of_pods_must_follow_the_host(field: &str, expected: Option<&str>) {
    let node = Node::new();
    let pods = node.path("kubelet/pods");
    let field = if field.is_empty() {
        String::new()
    } else {
        format!("{field} ")
    };
    let line = format!(
        "36 35 98:0 /x {} rw,noatime {field}- ext4 /dev/root rw\n",
        pods.display()
    );
    std::fs::write(
        node.path("proc/self/mountinfo"),
        format!("1 0 8:1 / / rw - ext4 /dev/root rw\n{line}"),
    )
    .unwrap();
    let expected: Vec<_> = expected.map(|code| (code, Verdict::Note)).into_iter().collect();
    node.says(&expected);
}

const CONTAINER: &str = "system_u:system_r:container_t:s0:c1,c2";

#[test_case(Some("1"), CONTAINER, Some("selinux"); "enforced")]
#[test_case(None, CONTAINER, Some("selinux"); "an unprivileged container is not told whether")]
#[test_case(Some("1"), "system_u:system_r:spc_t:s0", None; "free")]
#[test_case(None, "system_u:system_r:spc_t:s0", None; "free, and not told whether")]
#[test_case(Some("0"), CONTAINER, None; "permissive")]
#[test_case(None, "containerd-default (enforce)", None; "AppArmor")]
#[test_case(None, "unconfined", None; "nothing")]
fn selinux_is_told_where_it_would_be_in_the_way(enforce: Option<&str>, context: &str, expected: Option<&str>) {
    let node = Node::new();
    if let Some(enforce) = enforce {
        std::fs::write(node.path("sys/fs/selinux/enforce"), enforce).unwrap();
    }
    std::fs::write(node.path("proc/self/attr/current"), format!("{context}\0")).unwrap();
    let expected: Vec<_> = expected.map(|code| (code, Verdict::Note)).into_iter().collect();
    node.says(&expected);
}

/// Root of this machine is denied nothing by modes, so the denial is SELinux' in name only.
#[test]
fn a_denial_where_selinux_may_be_in_the_way_names_its_fix_and_not_the_mount() {
    let node = Node::new();
    let machine = host::Machine::at(node.root.path());
    let of = |denied: Errno| {
        let looked = |_: &Path, _: Access| Some(Unusable::System(denied));
        let selinux = machine.selinux();
        let findings = kubelet_as(&node.path("kubelet"), selinux.as_ref(), looked);
        assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Wrong));
        (findings[0].cause.clone(), findings[0].fix.clone())
    };
    assert!(of(Errno::ACCESS).1.contains("same path"));
    std::fs::write(node.path("proc/self/attr/current"), format!("{CONTAINER}\0")).unwrap();
    let (cause, fix) = of(Errno::ACCESS);
    assert!(
        cause.contains("Permission denied") && cause.contains("container_t"),
        "{cause}"
    );
    for word in ["spc_t", "agent.seLinuxOptions", "global.platform=openshift"] {
        assert!(fix.contains(word), "{fix}");
    }
    assert!(of(Errno::IO).1.contains("same path"));
}

#[test]
fn roots_that_are_yet_to_come_stop_nothing() {
    let node = Node::new();
    let finding = roots(&node.path("root-cert.pem")).unwrap();
    assert_eq!((finding.code, finding.verdict), ("no_roots", Verdict::Note));
    std::fs::write(node.path("root-cert.pem"), "").unwrap();
    assert_eq!(roots(&node.path("root-cert.pem")), None);
}
