//! The person's way into the cluster: a kubeconfig as kubectl finds it, and reads that say what they could not see.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// Which cluster, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// `--kubeconfig`; without it the files of `KUBECONFIG`, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`; without it the current one.
    pub context: Option<String>,
}

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No such file, or it is not a kubeconfig, or names no such context.
    // The library's text holds its causes already.
    #[error(
        "no usable kubeconfig: {0}; name one with --kubeconfig or KUBECONFIG, and one of its contexts with --context"
    )]
    Kubeconfig(KubeconfigError),
    /// Its certificates or its login cannot be used.
    #[error("the kubeconfig's cluster or user cannot be used; check that `kubectl get --raw /version` works with it")]
    Client(#[source] kube::Error),
}

/// One thing that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked<T> {
    /// This is it.
    There(T),
    /// It is not there.
    Missing,
    /// Nobody knows: no right to read it, or no answer.
    Unreadable(String),
}

/// A cluster as one person sees it.
#[derive(Clone)]
pub struct Access {
    client: Client,
}

// === impl Access ===

impl Access {
    /// Reads the kubeconfig. The cluster is asked nothing yet.
    pub async fn open(login: &Login) -> Result<Self, ConnectError> {
        ensign_pki::crypto::install_default();
        let options = KubeConfigOptions {
            context: login.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &login.kubeconfig {
            None => Config::from_kubeconfig(&options).await,
            Some(path) => match Kubeconfig::read_from(path) {
                Ok(file) => Config::from_custom_kubeconfig(file, &options).await,
                Err(error) => Err(error),
            },
        };
        let mut config = config.map_err(ConnectError::Kubeconfig)?;
        config.connect_timeout = Some(CONNECT_PATIENCE);
        let client = Client::try_from(config).map_err(ConnectError::Client)?;
        Ok(Self { client })
    }

    /// For an `Api`.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The context's namespace.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// One object.
    pub async fn one<K>(&self, api: Api<K>, name: &str) -> Looked<K>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        bounded(api.get_opt(name)).await.into()
    }

    /// All objects that these parameters select.
    pub async fn all<K>(&self, api: Api<K>, selected: &ListParams) -> Looked<Vec<K>>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        bounded(async { api.list(selected).await.map(|list| Some(list.items)) })
            .await
            .into()
    }
}

impl Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}

// === impl Looked ===

impl<T> Looked<T> {
    /// What is there.
    pub fn there(&self) -> Option<&T> {
        match self {
            Self::There(value) => Some(value),
            Self::Missing | Self::Unreadable(_) => None,
        }
    }

    /// The same look at a part of it.
    pub fn map<U>(self, part: impl FnOnce(T) -> U) -> Looked<U> {
        match self {
            Self::There(value) => Looked::There(part(value)),
            Self::Missing => Looked::Missing,
            Self::Unreadable(why) => Looked::Unreadable(why),
        }
    }

    /// A look that goes on where this one arrived.
    pub fn and_then<U>(self, next: impl FnOnce(T) -> Looked<U>) -> Looked<U> {
        match self {
            Self::There(value) => next(value),
            Self::Missing => Looked::Missing,
            Self::Unreadable(why) => Looked::Unreadable(why),
        }
    }
}

impl<T> From<Result<Option<T>, String>> for Looked<T> {
    fn from(outcome: Result<Option<T>, String>) -> Self {
        match outcome {
            Ok(Some(value)) => Self::There(value),
            Ok(None) => Self::Missing,
            Err(why) => Self::Unreadable(why),
        }
    }
}

/// With an end, and the error in words. Seldom more than one of these hangs, so each has its own time.
pub(crate) async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(ensign_daemon::logging::chain(&error)),
        Err(_) => Err(format!("the API server did not answer within {} s", PATIENCE.as_secs())),
    }
}

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// A person waits; a kubeconfig's login program may ask for a password first.
const PATIENCE: Duration = Duration::from_mins(1);
