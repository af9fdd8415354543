//! What a world means in files and flags: policy, workloads, tokens, and how both programs are started.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use ensign_testkit::TestCa;
use ensign_testkit::tokens::{Claims, ISSUER, TokenMint};
use serde_json::{Value, json};

use super::{Workload, WorldSpec};
use crate::{
    folder::{Folder, write_atomically},
    process::{Spec, own_binary},
};

/// How the RA is started.
pub(super) fn ra(folder: &Folder, spec: &WorldSpec) -> anyhow::Result<Spec> {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut flags = match &spec.cluster {
        Some(_) => vec![("--kubeconfig", path(KUBECONFIG))],
        None => vec![
            ("--jwks-file", path("jwks.json")),
            ("--token-issuer", ISSUER.to_owned()),
        ],
    };
    if has_policy(spec) {
        flags.push(("--policy-file", path("policy.yaml")));
    }
    let serving = spec.cluster.as_ref().map_or(&[][..], |place| &place.serving);
    if serving.is_empty() {
        flags.extend([
            ("--serving-ca-dir", path("serving-ca")),
            ("--serving-root-file", path(ROOT)),
        ]);
    }
    flags.extend([
        ("--grpc-addr", "127.0.0.1:0".to_owned()),
        ("--readyz-addr", "127.0.0.1:0".to_owned()),
        ("--metrics-addr", "127.0.0.1:0".to_owned()),
        ("--addresses-file", path("ra.addresses")),
        ("--log-format", "json".to_owned()),
    ]);
    let args = flags
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .chain(serving.iter().chain(&spec.ra).cloned());
    Ok(Spec {
        name: "ra".to_owned(),
        binary: own_binary("ensign-ra")?,
        args: args.collect(),
        env: spec.ra_env.clone(),
    })
}

/// How the agent of a node is started.
pub(super) fn agent(folder: &Folder, spec: &WorldSpec, node: usize, ra: SocketAddr) -> anyhow::Result<Spec> {
    let path = |name: &str| folder.join(name).display().to_string();
    let flags = [
        ("--source", "fixed".to_owned()),
        ("--workloads-file", path(&workloads_file(node))),
        ("--admin-addr", "127.0.0.1:0".to_owned()),
        ("--status-addr", "127.0.0.1:0".to_owned()),
        ("--addresses-file", path(&agent_addresses(node))),
        ("--log-format", "json".to_owned()),
    ];
    let mut env = BTreeMap::from([
        ("CA_ADDR".to_owned(), ra.to_string()),
        ("CA_ROOT_CA".to_owned(), path(ROOT)),
        ("ISTIOD_SAN".to_owned(), "localhost".to_owned()),
    ]);
    env.extend(spec.agent.clone());
    Ok(Spec {
        name: agent_name(node),
        binary: own_binary("ensign-agent")?,
        args: flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect(),
        env,
    })
}

/// The CAs that an operator would bring along.
pub(super) fn plug_in_cas(folder: &Folder, spec: &WorldSpec) -> anyhow::Result<()> {
    for signer in &spec.signers {
        if let Some(root) = &signer.plugged_in {
            let dir = folder.join(&signer.ca);
            TestCa::new(root)
                .write_to(&dir)
                .with_context(|| format!("cannot write the CA {}", dir.display()))?;
        }
    }
    Ok(())
}

/// JSON is YAML too, and needs no quoting rules of our own.
fn policy(folder: &Folder, spec: &WorldSpec) -> String {
    let signers = spec.signers.iter().map(|signer| {
        let dir = folder.join(&signer.ca);
        let mut entry =
            json!({ "name": signer.name, "local": { "dir": dir, "selfSigned": signer.plugged_in.is_none() } });
        if let Some(roots) = &signer.roots {
            entry["roots"] = json!(folder.join(roots));
        }
        entry
    });
    let rules = spec.rules.iter().map(|rule| {
        let mut entry = json!({ "namespace": rule.namespace, "serviceAccounts": ["*"], "signers": rule.signers });
        if let Some(default) = &rule.default {
            entry["default"] = json!(default);
        }
        entry
    });
    pretty(&json!({
        "apiVersion": "ensign.mesh/v1",
        "trustDomain": "cluster.local",
        "ttl": { "default": "1h", "min": "10m", "max": "24h" },
        "backdate": "2m",
        "signers": signers.collect::<Vec<_>>(),
        "rules": rules.collect::<Vec<_>>(),
    }))
}

fn workloads(folder: &Folder, spec: &WorldSpec, node: usize) -> String {
    let entries = spec
        .workloads
        .iter()
        .filter(|workload| workload.node == node)
        .map(|workload| {
            let mut entry = json!({
                "name": workload.name,
                "namespace": workload.namespace,
                "serviceAccount": workload.name,
                "tokenFile": token_file(folder.path(), workload),
                "socket": socket(folder, &workload.name),
            });
            if let Some(signer) = &workload.signer {
                entry["signer"] = json!(signer);
            }
            if let Some(key_type) = &workload.key_type {
                entry["keyType"] = json!(key_type);
            }
            entry
        });
    pretty(&json!({ "apiVersion": "ensign.mesh/v1", "workloads": entries.collect::<Vec<_>>() }))
}

/// Writes the policy file, if there is to be one.
pub(super) fn write_policy(folder: &Folder, spec: &WorldSpec) -> anyhow::Result<()> {
    if has_policy(spec) {
        folder.write("policy.yaml", policy(folder, spec))?;
    }
    Ok(())
}

/// Without a cluster there is nothing else to say who may have what.
fn has_policy(spec: &WorldSpec) -> bool {
    spec.cluster.is_none() || !spec.rules.is_empty()
}

/// Writes how the RA reaches its cluster.
pub(super) fn write_cluster(folder: &Folder, spec: &WorldSpec) -> anyhow::Result<()> {
    if let Some(place) = &spec.cluster {
        folder.write(KUBECONFIG, &place.kubeconfig)?;
    }
    Ok(())
}

/// Writes one file for each node, and one token for each workload.
pub(super) fn write_workloads(folder: &Folder, tokens: &TokenMint, spec: &WorldSpec) -> anyhow::Result<()> {
    for workload in &spec.workloads {
        let token = match &spec.cluster {
            Some(place) => place.tokens.get(&workload.name).cloned().unwrap_or_default(),
            None => tokens.mint(&Claims::service_account(&workload.namespace, &workload.name)),
        };
        write_atomically(&token_file(folder.path(), workload), token.as_bytes())?;
    }
    for node in 0..spec.nodes() {
        folder.write(&workloads_file(node), workloads(folder, spec, node))?;
    }
    Ok(())
}

/// The name of a node's addresses file.
pub(super) fn agent_addresses(node: usize) -> String {
    format!("{}.addresses", agent_name(node))
}

fn workloads_file(node: usize) -> String {
    format!("workloads-{node}.yaml")
}

fn agent_name(node: usize) -> String {
    if node == 0 {
        "agent".to_owned()
    } else {
        format!("agent-{node}")
    }
}

fn token_file(folder: &Path, workload: &Workload) -> PathBuf {
    folder.join(format!("{}.token", workload.name))
}

/// The socket of a workload.
pub(super) fn socket(folder: &Folder, workload: &str) -> PathBuf {
    folder.join(&format!("{workload}.sock"))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// The root of the RA's serving certificate, for the agents, within the world's folder.
pub(super) const ROOT: &str = "ra-root.pem";
/// The RA's, within the world's folder.
const KUBECONFIG: &str = "kubeconfig";
