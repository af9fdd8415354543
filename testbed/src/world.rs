//! One small mesh in one folder: token issuer, policy, workloads, the RA and the agent as processes.
//!
//! Files are written before the programs start and may be rewritten while they run ([`World::write_policy`],
//! [`World::write_workloads`]). Envoys are started by the scenarios, with the sockets and ids from here.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    envoy::{Envoy, EnvoySpec},
    folder::Folder,
    http,
    process::{Program, Spec, own_binary},
    serial,
    tokens::TokenIssuer,
    wait::{self, PATIENCE},
};

/// What a world holds at its start.
#[derive(Debug, Clone, Default)]
pub struct WorldSpec {
    /// Signers of the RA, each a CA of its own.
    pub signers: Vec<String>,
    /// Who may use which signer.
    pub rules: Vec<Rule>,
    /// Workloads of the node.
    pub workloads: Vec<Workload>,
    /// Further environment of the agent; wins over what [`World`] sets.
    pub agent: BTreeMap<String, String>,
    /// Further arguments of the RA.
    pub ra: Vec<String>,
}

/// One rule of the policy, for all accounts of a namespace.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Namespace.
    pub namespace: String,
    /// Signers that its workloads may use.
    pub signers: Vec<String>,
    /// The signer of a request that names none.
    pub default: Option<String>,
}

/// One workload of the agent's file.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Name in the file; its service account has the same name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Signer fixed by the operator.
    pub signer: Option<String>,
}

/// The running mesh.
#[derive(Debug)]
pub struct World {
    folder: Arc<Folder>,
    spec: WorldSpec,
    tokens: TokenIssuer,
    ra: Program,
    ra_addresses: BTreeMap<String, SocketAddr>,
    agent: Program,
    agent_addresses: BTreeMap<String, SocketAddr>,
}

/// `iss` of the tokens of every world.
const TOKEN_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

// === impl WorldSpec ===

impl WorldSpec {
    /// Two namespaces `foo` and `bar`, each with a signer of its name and no other; a workload's wish decides, for there is
    /// no default.
    pub fn foo_and_bar(workloads: &[(&str, &str)]) -> Self {
        let names = ["foo", "bar"].map(str::to_owned);
        Self {
            rules: names
                .iter()
                .map(|name| Rule {
                    namespace: name.clone(),
                    signers: vec![name.clone()],
                    default: None,
                })
                .collect(),
            signers: names.to_vec(),
            workloads: workloads
                .iter()
                .map(|(namespace, name)| Workload {
                    name: (*name).to_owned(),
                    namespace: (*namespace).to_owned(),
                    signer: None,
                })
                .collect(),
            ..Self::default()
        }
    }

    /// With one more variable for the agent.
    #[must_use]
    pub fn agent_env(mut self, name: &str, value: &str) -> Self {
        self.agent.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Certificates of an hour that are due about `after` their issue, drawn with almost no jitter.
    #[must_use]
    pub fn renewing_after(self, after: Duration) -> Self {
        let ratio = 1.0 - after.as_secs_f64() / 3600.0;
        self.agent_env("SECRET_TTL", "1h")
            .agent_env("SECRET_GRACE_PERIOD_RATIO", &format!("{ratio:.6}"))
            .agent_env("SECRET_GRACE_PERIOD_RATIO_JITTER", "0.0001")
            .agent_env("ENSIGN_FETCH_FLOOR", "500ms")
    }

    /// Renewals as fast as the floor allows. The certificates themselves live for long enough that no stalled machine
    /// lets one expire: only the ratio makes each due at once.
    #[must_use]
    pub fn rotating_every(self, floor: &str) -> Self {
        self.agent_env("SECRET_TTL", "1h")
            .agent_env("SECRET_GRACE_PERIOD_RATIO", "0.999")
            .agent_env("SECRET_GRACE_PERIOD_RATIO_JITTER", "0.0001")
            .agent_env("ENSIGN_FETCH_FLOOR", floor)
    }
}

// === impl World ===

impl World {
    /// Writes all files, starts the RA, then the agent.
    pub async fn start(spec: WorldSpec) -> anyhow::Result<Self> {
        Self::start_in(Arc::new(Folder::new()?), spec).await
    }

    /// The same in a folder that the caller removes.
    pub async fn start_in(folder: Arc<Folder>, spec: WorldSpec) -> anyhow::Result<Self> {
        let tokens = TokenIssuer::new(TOKEN_ISSUER)?;
        folder.write("jwks.json", tokens.jwks()?)?;
        folder.write("policy.yaml", policy(&folder, &spec))?;
        for workload in &spec.workloads {
            write_token(&folder, &tokens, workload)?;
        }
        folder.write("workloads.yaml", workloads(&folder, &spec))?;

        let mut ra = Program::start(ra_spec(&folder, &spec)?, folder.path())?;
        let ra_addresses = ra.addresses(&folder.join("ra.addresses")).await?;
        let grpc = ra_addresses
            .get("grpc")
            .copied()
            .context("the RA's addresses file names no `grpc`")?;
        let mut agent = Program::start(agent_spec(&folder, &spec, grpc)?, folder.path())?;
        let agent_addresses = agent.addresses(&folder.join("agent.addresses")).await?;
        Ok(Self {
            folder,
            spec,
            tokens,
            ra,
            ra_addresses,
            agent,
            agent_addresses,
        })
    }

    /// Ends both programs as an operator would, checks that they ended well, and removes the folder.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        for program in [&mut self.agent, &mut self.ra] {
            if program.pid().is_ok() {
                let status = program.terminate().await?;
                ensure!(
                    status.success(),
                    "ended with {status} after SIGTERM; its last lines:\n{}",
                    program.log().tail()
                );
            }
        }
        self.folder.discard();
        Ok(())
    }

    /// The world's files.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The RA.
    pub fn ra(&mut self) -> &mut Program {
        &mut self.ra
    }

    /// The agent.
    pub fn agent(&mut self) -> &mut Program {
        &mut self.agent
    }

    /// An address of the RA: `grpc`, `readyz`, `metrics`.
    pub fn ra_address(&self, name: &str) -> anyhow::Result<SocketAddr> {
        self.ra_addresses
            .get(name)
            .copied()
            .with_context(|| format!("the RA has no address {name}"))
    }

    /// An address of the agent: `admin`, `status`.
    pub fn agent_address(&self, name: &str) -> anyhow::Result<SocketAddr> {
        self.agent_addresses
            .get(name)
            .copied()
            .with_context(|| format!("the agent has no address {name}"))
    }

    /// Starts the agent again after its end and reads its new addresses.
    pub async fn restart_agent(&mut self) -> anyhow::Result<()> {
        let file = self.folder.join("agent.addresses");
        drop(std::fs::remove_file(&file));
        self.agent.restart()?;
        self.agent_addresses = self.agent.addresses(&file).await?;
        Ok(())
    }

    /// Starts the RA again after its end, on the port that the agent knows.
    pub async fn restart_ra(&mut self) -> anyhow::Result<()> {
        let file = self.folder.join("ra.addresses");
        drop(std::fs::remove_file(&file));
        let grpc = self.ra_address("grpc")?.to_string();
        let args = &mut self.ra.spec_mut().args;
        if let Some(value) = args
            .iter()
            .position(|arg| arg == "--grpc-addr")
            .and_then(|flag| args.get_mut(flag + 1))
        {
            *value = grpc;
        }
        self.ra.restart()?;
        self.ra_addresses = self.ra.addresses(&file).await?;
        Ok(())
    }

    /// What the world holds; change it, then write the file that it belongs to.
    pub fn spec_mut(&mut self) -> &mut WorldSpec {
        &mut self.spec
    }

    /// Rewrites the policy file from [`World::spec_mut`].
    pub fn write_policy(&self) -> anyhow::Result<()> {
        self.folder
            .write("policy.yaml", policy(&self.folder, &self.spec))
            .map(drop)
    }

    /// Rewrites the workloads file from [`World::spec_mut`], with a token for each.
    pub fn write_workloads(&self) -> anyhow::Result<()> {
        for workload in &self.spec.workloads {
            write_token(&self.folder, &self.tokens, workload)?;
        }
        self.folder
            .write("workloads.yaml", workloads(&self.folder, &self.spec))
            .map(drop)
    }

    /// The socket of a workload.
    pub fn socket(&self, workload: &str) -> PathBuf {
        socket(&self.folder, workload)
    }

    /// The id of a workload.
    pub fn id(&self, workload: &str) -> anyhow::Result<String> {
        let found = self.workload(workload)?;
        Ok(format!(
            "spiffe://cluster.local/ns/{}/sa/{}",
            found.namespace, found.name
        ))
    }

    /// An Envoy of a workload, whose wish is the signer named as its namespace.
    pub fn envoy(&self, workload: &str) -> anyhow::Result<EnvoySpec> {
        let found = self.workload(workload)?;
        Ok(EnvoySpec::new(&found.name, &found.namespace, &found.name, self.socket(workload)).signer(&found.namespace))
    }

    /// Starts an Envoy in the world's folder.
    pub async fn start_envoy(&self, spec: EnvoySpec) -> anyhow::Result<Envoy> {
        Envoy::start(spec, self.folder.path()).await
    }

    /// Serials of all certificates that the agent has got for a workload, oldest first, by its log.
    pub fn issued(&self, workload: &str) -> Vec<String> {
        let uid = format!("fixed/{workload}");
        let lines = self.agent.log().lines();
        let events = lines.iter().filter(|line| line.contains("certificate issued"));
        let events = events.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["message"] == "certificate issued" && event["workload"] == uid.as_str())
            .filter_map(|event| event["serial"].as_str().map(serial::normal))
            .collect()
    }

    /// Waits until the agent has got at least this many certificates for a workload.
    pub async fn issued_at_least(&self, workload: &str, count: usize) -> anyhow::Result<Vec<String>> {
        wait::until(
            &format!("certificate {count} of {workload}"),
            PATIENCE * 2,
            async || {
                let issued = self.issued(workload);
                ensure!(issued.len() >= count, "{} so far", issued.len());
                Ok(issued)
            },
        )
        .await
        .with_context(|| format!("the agent's last lines:\n{}", self.agent.log().tail()))
    }

    /// The agent's status as JSON.
    pub async fn status(&self) -> anyhow::Result<Value> {
        let body = http::get(self.agent_address("status")?, "/status?format=json").await?;
        serde_json::from_str(&body).context("the agent's status is no JSON")
    }

    fn workload(&self, name: &str) -> anyhow::Result<&Workload> {
        self.spec
            .workloads
            .iter()
            .find(|workload| workload.name == name)
            .with_context(|| format!("no workload {name}"))
    }
}

fn ra_spec(folder: &Folder, spec: &WorldSpec) -> anyhow::Result<Spec> {
    let path = |name: &str| folder.join(name).display().to_string();
    let flags = [
        ("--policy-file", path("policy.yaml")),
        ("--jwks-file", path("jwks.json")),
        ("--token-issuer", TOKEN_ISSUER.to_owned()),
        ("--serving-ca-dir", path("serving-ca")),
        ("--serving-root-file", path("ra-root.pem")),
        ("--grpc-addr", "127.0.0.1:0".to_owned()),
        ("--readyz-addr", "127.0.0.1:0".to_owned()),
        ("--metrics-addr", "127.0.0.1:0".to_owned()),
        ("--addresses-file", path("ra.addresses")),
        ("--log-format", "json".to_owned()),
    ];
    let args = flags
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .chain(spec.ra.iter().cloned());
    Ok(Spec {
        name: "ra".to_owned(),
        binary: own_binary("ensign-ra")?,
        args: args.collect(),
        env: BTreeMap::new(),
    })
}

fn agent_spec(folder: &Folder, spec: &WorldSpec, ra: SocketAddr) -> anyhow::Result<Spec> {
    let path = |name: &str| folder.join(name).display().to_string();
    let flags = [
        ("--source", "fixed".to_owned()),
        ("--workloads-file", path("workloads.yaml")),
        ("--admin-addr", "127.0.0.1:0".to_owned()),
        ("--status-addr", "127.0.0.1:0".to_owned()),
        ("--addresses-file", path("agent.addresses")),
        ("--log-format", "json".to_owned()),
    ];
    let mut env = BTreeMap::from([
        ("CA_ADDR".to_owned(), ra.to_string()),
        ("CA_ROOT_CA".to_owned(), path("ra-root.pem")),
        ("ISTIOD_SAN".to_owned(), "localhost".to_owned()),
    ]);
    env.extend(spec.agent.clone());
    Ok(Spec {
        name: "agent".to_owned(),
        binary: own_binary("ensign-agent")?,
        args: flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect(),
        env,
    })
}

/// JSON is YAML too, and needs no quoting rules of our own.
fn policy(folder: &Folder, spec: &WorldSpec) -> String {
    let signers = spec.signers.iter().map(
        |name| json!({ "name": name, "local": { "dir": folder.join(&format!("ca-{name}")), "selfSigned": true } }),
    );
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

fn workloads(folder: &Folder, spec: &WorldSpec) -> String {
    let entries = spec.workloads.iter().map(|workload| {
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
        entry
    });
    pretty(&json!({ "apiVersion": "ensign.mesh/v1", "workloads": entries.collect::<Vec<_>>() }))
}

fn write_token(folder: &Folder, tokens: &TokenIssuer, workload: &Workload) -> anyhow::Result<()> {
    let token = tokens.mint(&workload.namespace, &workload.name)?;
    crate::folder::write_atomically(&token_file(folder.path(), workload), token.as_bytes())
}

fn token_file(folder: &Path, workload: &Workload) -> PathBuf {
    folder.join(format!("{}.token", workload.name))
}

fn socket(folder: &Folder, workload: &str) -> PathBuf {
    folder.join(&format!("{workload}.sock"))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
