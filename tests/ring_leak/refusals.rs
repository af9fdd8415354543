//! Programs that refuse to start because a secret is where it does not belong say so without repeating it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ensign_testbed::process::own_binary;
use ensign_testkit::{TestCa, patience};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::evidence::Evidence;
use crate::mistakes::Pasted;

/// Runs a program that must end by itself with a failure; gives what it printed.
async fn refused(case: &str, program: &str, folder: &Path, args: &[String], env: &[(&str, &str)]) -> Vec<u8> {
    let run = Command::new(own_binary(program).unwrap())
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .current_dir(folder)
        .kill_on_drop(true)
        .output();
    let output = timeout(patience(), run)
        .await
        .unwrap_or_else(|_| panic!("{case}: {program} starts"))
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let shown = String::from_utf8_lossy(&text).into_owned();
    assert!(
        !output.status.success() && output.status.code().is_some(),
        "{case}: {program}: {shown}"
    );
    assert!(!shown.contains("panicked"), "{case}: {program}: {shown}");
    // It says something, and trace was on.
    assert!(text.len() > 20, "{case}: {program}: {shown}");
    text
}

fn flags(folder: &Path, wanted: &[(&str, &str)], over: &[(&str, &str)]) -> Vec<String> {
    let mut flags: BTreeMap<&str, String> = wanted
        .iter()
        .map(|&(flag, value)| (flag, value.replace("FOLDER", &folder.display().to_string())))
        .collect();
    flags.extend(over.iter().map(|&(flag, value)| (flag, value.to_owned())));
    flags
        .into_iter()
        .flat_map(|(flag, value)| [format!("--{flag}"), value])
        .collect()
}

fn agent(folder: &Path, over: &[(&str, &str)]) -> Vec<String> {
    let wanted = [
        ("ca-addr", "localhost:1"),
        ("ca-root-ca", "FOLDER/root.pem"),
        ("workloads-file", "FOLDER/workloads.yaml"),
        ("admin-addr", "127.0.0.1:0"),
        ("status-addr", "127.0.0.1:0"),
        ("log-level", "trace"),
    ];
    flags(folder, &wanted, over)
}

fn ra(folder: &Path, over: &[(&str, &str)]) -> Vec<String> {
    let wanted = [
        ("policy-file", "FOLDER/policy.yaml"),
        ("jwks-file", "FOLDER/jwks.json"),
        ("token-issuer", "https://issuer"),
        ("serving-ca-dir", "FOLDER/serving"),
        ("grpc-addr", "127.0.0.1:0"),
        ("readyz-addr", "127.0.0.1:0"),
        ("metrics-addr", "127.0.0.1:0"),
        ("log-level", "trace"),
    ];
    flags(folder, &wanted, over)
}

/// A folder in which both programs would start.
fn prepared() -> TempDir {
    use ensign_testkit::tokens::{TokenMint, jwks};
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("jwks.json", &jwks(&[&TokenMint::rs256("k")]));
    write("workloads.yaml", "apiVersion: ensign.mesh/v1\nworkloads: []\n");
    let dir = folder.path().join("ca-foo");
    let policy = format!(
        "apiVersion: ensign.mesh/v1\ntrustDomain: cluster.local\nsigners:\n- name: foo\n  local: {{dir: {}}}\nrules: []\n",
        dir.display()
    );
    write("policy.yaml", &policy);
    std::fs::create_dir(&dir).unwrap();
    TestCa::new("foo").write_to(&dir).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_with_a_secret_in_the_wrong_place() {
    let pasted = Pasted::new();
    let folder = prepared();
    let mut evidence = Evidence::default();
    let wrong = folder.path().join("wrong");
    let file = wrong.display().to_string();
    for (case, text) in pasted.workloads(folder.path()) {
        std::fs::write(&wrong, text).unwrap();
        let args = agent(folder.path(), &[("workloads-file", &file)]);
        evidence.add(
            &format!("workloads: {case}"),
            refused(case, "ensign-agent", folder.path(), &args, &[]).await,
        );
    }
    for (case, text) in pasted.jwks() {
        std::fs::write(&wrong, text).unwrap();
        let args = ra(folder.path(), &[("jwks-file", &file)]);
        evidence.add(
            &format!("JWKS: {case}"),
            refused(case, "ensign-ra", folder.path(), &args, &[]).await,
        );
    }
    for (case, text) in pasted.policies(folder.path()) {
        std::fs::write(&wrong, text).unwrap();
        let args = ra(folder.path(), &[("policy-file", &file)]);
        evidence.add(
            &format!("policy: {case}"),
            refused(case, "ensign-ra", folder.path(), &args, &[]).await,
        );
    }
    evidence.assert_clean(&pasted.secrets(), |_, _| false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_folder_with_the_wrong_contents() {
    let pasted = Pasted::new();
    let folder = prepared();
    let mut evidence = Evidence::default();
    let dir = folder.path().join("ca-foo");
    let half: String = pasted.pem.lines().take(2).map(|line| format!("{line}\n")).collect();
    let damaged = pasted.pem.replace("-----END", "!!!!\n-----END");
    let stranger = pasted.pem.clone();
    for name in ["ca-key.pem", "ca-cert.pem", "root-cert.pem"] {
        let path = dir.join(name);
        let right = std::fs::read(&path).ok();
        for (case, text) in [
            ("a key that belongs to another", &stranger),
            ("half a key", &half),
            ("a damaged key", &damaged),
            ("a token", &pasted.token),
        ] {
            std::fs::write(&path, text).unwrap();
            let args = ra(folder.path(), &[]);
            let case = format!("{name}: {case}");
            evidence.add(&case, refused(&case, "ensign-ra", folder.path(), &args, &[]).await);
        }
        match right {
            Some(right) => std::fs::write(&path, right).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    }
    for (name, text) in [("a.pem", &pasted.pem), ("b.pem", &pasted.token)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (case, certificate, key) in [
        ("swapped", "a.pem", "ca-foo/root-cert.pem"),
        ("a token", "ca-foo/root-cert.pem", "b.pem"),
    ] {
        let mut args = ra(
            folder.path(),
            &[
                ("serving-cert-file", &path(certificate)),
                ("serving-key-file", &path(key)),
            ],
        );
        let at = args.iter().position(|arg| arg == "--serving-ca-dir").unwrap();
        args.drain(at..at + 2);
        let case = format!("serving: {case}");
        evidence.add(&case, refused(&case, "ensign-ra", folder.path(), &args, &[]).await);
    }
    evidence.assert_clean(&pasted.secrets(), |_, _| false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_lines_and_environments_with_a_secret() {
    let pasted = Pasted::new();
    let folder = prepared();
    let mut evidence = Evidence::default();
    for (kind, secret) in [("token", &pasted.token), ("key", &pasted.pem)] {
        for (program, args, variables) in [
            (
                "ensign-agent",
                agent(folder.path(), &[]),
                [
                    "CA_ROOT_CA",
                    "CA_ADDR",
                    "SECRET_TTL",
                    "ISTIOD_SAN",
                    "ENSIGN_LOG_LEVEL",
                    "ENSIGN_WORKLOADS_FILE",
                    "ENSIGN_PINNED_BUNDLES",
                ],
            ),
            (
                "ensign-ra",
                ra(folder.path(), &[]),
                [
                    "ENSIGN_RA_POLICY_FILE",
                    "ENSIGN_RA_JWKS_FILE",
                    "TOKEN_AUDIENCES",
                    "ENSIGN_RA_SERVING_KEY_FILE",
                    "ENSIGN_RA_CLOCK_SKEW",
                    "ENSIGN_RA_SERVING_ROOT_FILE",
                    "ENSIGN_RA_TOKEN_ISSUER",
                ],
            ),
        ] {
            let run = |case: &str, args: Vec<String>, env: Vec<(String, String)>| {
                let case = format!("{program}, {kind}, {case}");
                let folder = folder.path().to_owned();
                async move {
                    let env: Vec<_> = env
                        .iter()
                        .map(|(name, value)| (name.as_str(), value.as_str()))
                        .collect();
                    let text = refused(&case, program, &folder, &args, &env).await;
                    (case, text)
                }
            };
            let mut cases = Vec::new();
            cases.push(run("argument", vec![secret.clone()], vec![]).await);
            cases.push(run("flag", vec![format!("--{secret}")], vec![]).await);
            for variable in variables {
                let env = vec![(variable.to_owned(), secret.clone())];
                // Without the flag that would win over the variable.
                cases.push(run(variable, vec!["--print-config".to_owned()], env).await);
            }
            for at in (1..args.len()).step_by(2) {
                let mut args = args.clone();
                secret.clone_into(&mut args[at]);
                cases.push(run(&args[at - 1].clone(), args, vec![]).await);
            }
            for (case, text) in cases {
                evidence.add(&case, text);
            }
            // Help ends well; it must not show the environment.
            for variable in variables {
                let help = Command::new(own_binary(program).unwrap())
                    .arg("--help")
                    .env_clear()
                    .env(variable, secret)
                    .output();
                let help = timeout(patience() + Duration::ZERO, help).await.unwrap().unwrap();
                assert!(help.status.success());
                evidence.add(&format!("{program} --help, {kind} in {variable}"), help.stdout);
            }
        }
    }
    evidence.assert_clean(&pasted.secrets(), |_, _| false);
}
