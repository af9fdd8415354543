//! The way into a running cluster, its own or another process's: where it is, and how to come as anybody.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::{
    audit::Audit,
    authority::{Authority, Credential},
    kubeconfig::{self, Login},
};

/// The group whose members may do everything.
pub(super) const ADMINS: &str = "system:masters";
const SERVER: &str = "server";

/// How to reach a cluster, and whom to be there.
#[derive(Clone)]
pub struct Access {
    folder: PathBuf,
    server: SocketAddr,
    authority: Authority,
    admin: Client,
}

impl Access {
    /// Into the cluster whose files are in `folder`.
    pub async fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(SERVER);
        let server = std::fs::read_to_string(&path).with_context(|| format!("no cluster in {}", folder.display()))?;
        let server = server.parse().with_context(|| format!("{server:?} is no address"))?;
        let authority = Authority::open(&folder.join("pki"))?;
        let text = user_kubeconfig(server, &authority, "admin", Some(ADMINS))?;
        Self::with(folder, server, authority, &text).await
    }

    /// Into a cluster that begins now: whoever opens it later finds it by what is written here, and writes nothing.
    pub(super) async fn new(folder: &Path, server: SocketAddr, authority: Authority) -> anyhow::Result<Self> {
        std::fs::write(folder.join(SERVER), server.to_string()).context("cannot write the server's address")?;
        let text = user_kubeconfig(server, &authority, "admin", Some(ADMINS))?;
        std::fs::write(folder.join("admin.kubeconfig"), &text).context("cannot write the kubeconfig")?;
        Self::with(folder, server, authority, &text).await
    }

    async fn with(folder: &Path, server: SocketAddr, authority: Authority, admin: &str) -> anyhow::Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            server,
            authority,
            admin: client(admin).await?,
        })
    }

    /// The cluster's files: logs, certificates, kubeconfigs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The API server's address.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The API server's CA, in PEM.
    pub fn ca_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// A client that may do everything. It belongs to the runtime that this was made in.
    pub fn admin(&self) -> Client {
        self.admin.clone()
    }

    /// The kubeconfig file of the same user.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// A kubeconfig for any user, by client certificate.
    pub fn kubeconfig_of_user(&self, user: &str, group: Option<&str>) -> anyhow::Result<String> {
        user_kubeconfig(self.server, &self.authority, user, group)
    }

    /// A serving certificate for 127.0.0.1 that the API server trusts, for webhooks.
    pub fn serving_certificate(&self) -> anyhow::Result<Credential> {
        self.authority.server(&["127.0.0.1"])
    }

    /// A kubeconfig with a bearer token.
    pub fn kubeconfig_with_token(&self, token: &str) -> String {
        kubeconfig::text(self.server, self.ca_pem(), &Login::Token(token))
    }

    /// A kubeconfig with a bearer token that is read from a file, as often as the client likes.
    pub fn kubeconfig_with_token_file(&self, path: &Path) -> String {
        kubeconfig::text(
            self.server,
            self.ca_pem(),
            &Login::TokenFile(&path.display().to_string()),
        )
    }

    /// A client for any kubeconfig text.
    pub async fn client(&self, kubeconfig: &str) -> anyhow::Result<Client> {
        client(kubeconfig).await
    }

    /// What was asked of the API server.
    pub fn audit(&self) -> Audit {
        Audit::new(self.folder.join("audit.log"), self.admin())
    }
}

pub(super) fn user_kubeconfig(
    server: SocketAddr,
    authority: &Authority,
    user: &str,
    group: Option<&str>,
) -> anyhow::Result<String> {
    let credential = authority.user(user, group)?;
    Ok(kubeconfig::text(
        server,
        authority.certificate_pem(),
        &Login::Certificate(&credential),
    ))
}

async fn client(kubeconfig: &str) -> anyhow::Result<Client> {
    let parsed = Kubeconfig::from_yaml(kubeconfig).context("not a kubeconfig")?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .context("not a usable kubeconfig")?;
    Client::try_from(config).context("no client for this kubeconfig")
}
