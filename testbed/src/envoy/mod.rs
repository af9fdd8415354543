//! A real Envoy as a process, configured as Istio configures a sidecar's TLS: certificates and roots come over SDS.
//!
//! [`Envoy::start`] returns once the admin port and the listeners are bound (kernel-picked ports), not once they are
//! ready: an Envoy without certificates is a state worth testing. The bootstrap is `bootstrap`'s, questions to the admin
//! port are `admin`'s.

mod admin;
mod bootstrap;

pub(crate) use self::bootstrap::{PEER_SERIAL, SERVER_CERTIFICATE};
pub use self::{
    admin::{Admin, Certificates, Stats},
    bootstrap::{Address, Api, EnvoySpec, Home, PEER_URI, Upstream},
};

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    folder::write_atomically,
    process::{Program, Spec},
    wait::{self, PATIENCE},
};

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    spec: EnvoySpec,
    program: Program,
    admin: Admin,
    listeners: BTreeMap<String, SocketAddr>,
}

/// The Envoy binary: `ENSIGN_ENVOY`, or what `make setup` linked into `.tools/`.
pub fn binary() -> anyhow::Result<PathBuf> {
    let path = match env::var_os("ENSIGN_ENVOY") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name(".tools")
            .join("envoy"),
    };
    if !path.is_file() {
        bail!(
            "there is no Envoy at {}: run `make setup`, or set ENSIGN_ENVOY to an Envoy 1.40",
            path.display()
        );
    }
    Ok(path)
}

impl Envoy {
    /// Starts one whose files and log go into `folder`.
    pub async fn start(spec: EnvoySpec, folder: &Path) -> anyhow::Result<Self> {
        let config = folder.join(format!("{}.json", spec.name));
        let address_file = folder.join(format!("{}.admin", spec.name));
        drop(std::fs::remove_file(&address_file));
        write_atomically(&config, &serde_json::to_vec_pretty(&bootstrap::bootstrap(&spec)?)?)?;
        let program = Program::start(
            Spec {
                name: spec.name.clone(),
                binary: binary()?,
                args: vec![
                    "-c".to_owned(),
                    config.display().to_string(),
                    "--admin-address-path".to_owned(),
                    address_file.display().to_string(),
                    // One worker is enough for any load of ours, and many Envoys share the machine.
                    "--concurrency".to_owned(),
                    "1".to_owned(),
                    // Two Envoys on one machine would otherwise claim the same shared memory.
                    "--disable-hot-restart".to_owned(),
                    "-l".to_owned(),
                    "info".to_owned(),
                ],
                env: BTreeMap::new(),
            },
            folder,
        )?;
        let admin = wait::until(&format!("the admin port of {}", spec.name), PATIENCE, async || {
            let text = std::fs::read_to_string(&address_file).context("no address yet")?;
            Ok(Admin::new(
                text.trim().parse().with_context(|| format!("{text:?} is no address"))?,
            ))
        })
        .await
        .with_context(|| format!("its last lines:\n{}", program.log().tail()))?;
        let listeners = wait::until(&format!("the listeners of {}", spec.name), PATIENCE, async || {
            let found = admin.listeners().await?;
            if found.len() == spec.listener_count() {
                Ok(found)
            } else {
                bail!("bound so far: {found:?}")
            }
        })
        .await
        .with_context(|| format!("its last lines:\n{}", program.log().tail()))?;
        Ok(Self {
            spec,
            program,
            admin,
            listeners,
        })
    }

    /// Its name in logs.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its mTLS port.
    pub fn inbound(&self) -> anyhow::Result<SocketAddr> {
        self.listener(bootstrap::INBOUND)
    }

    /// The plain port that forwards over mTLS to the upstream of this name.
    pub fn outbound(&self, upstream: &str) -> anyhow::Result<SocketAddr> {
        self.listener(upstream)
    }

    /// Its admin port.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The process.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Waits until it has all its secrets and listens.
    pub async fn ready(&self) -> anyhow::Result<()> {
        wait::until(&format!("{} to be ready", self.spec.name), PATIENCE, async || {
            self.admin.ready().await
        })
        .await
        .with_context(|| format!("its last lines:\n{}", self.program.log().tail()))
    }

    fn listener(&self, name: &str) -> anyhow::Result<SocketAddr> {
        self.listeners
            .get(name)
            .copied()
            .with_context(|| format!("{} has no listener {name}", self.spec.name))
    }
}
