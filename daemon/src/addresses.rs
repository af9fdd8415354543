//! Tells a parent process which addresses were bound (`--addresses-file`).
//!
//! Written once, after every socket is bound, and atomically: a reader that sees the file sees all of
//! it. The content is one JSON object, name to `host:port`.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

/// The file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the addresses file {path}; its folder must exist and be writable")]
pub struct AddressesError {
    path: String,
    #[source]
    source: std::io::Error,
}

/// Writes `addresses` to `path` under a temporary name and renames it.
pub async fn write(path: &Path, addresses: &BTreeMap<&'static str, SocketAddr>) -> Result<(), AddressesError> {
    let failed = |source| AddressesError {
        path: path.display().to_string(),
        source,
    };
    let json = serde_json::to_string(addresses).map_err(|error| failed(error.into()))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    tokio::fs::write(&temporary, json).await.map_err(failed)?;
    tokio::fs::rename(&temporary, path).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_one_json_object_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("addresses.json");
        let addresses = BTreeMap::from([("admin", "127.0.0.1:41234".parse().unwrap())]);
        write(&path, &addresses).await.unwrap();
        let text = tokio::fs::read_to_string(&path).await.unwrap();
        assert_eq!(text, r#"{"admin":"127.0.0.1:41234"}"#);
        let mut entries = tokio::fs::read_dir(folder.path()).await.unwrap();
        assert!(entries.next_entry().await.unwrap().is_some());
        assert!(entries.next_entry().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn names_the_path_on_failure() {
        let error = write(Path::new("/nonexistent/a.json"), &BTreeMap::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/a.json"));
    }
}
