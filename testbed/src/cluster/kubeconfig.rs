//! Kubeconfig texts: where the API server is, whom to trust, and as whom to come.
//!
//! Everything is inline, so that a text can be handed to any program, by file or by value.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::authority::Credential;

/// As whom to come.
#[derive(Debug, Clone)]
pub(super) enum Login<'a> {
    /// A client certificate.
    Certificate(&'a Credential),
    /// A service account's token.
    Token(&'a str),
    /// A file that holds such a token and may be replaced.
    TokenFile(&'a str),
}

/// The text (JSON, which is YAML).
pub(super) fn text(server: SocketAddr, ca_pem: &str, login: &Login<'_>) -> String {
    let user = match login {
        Login::Certificate(credential) => json!({
            "client-certificate-data": STANDARD.encode(credential.certificate_pem.as_bytes()),
            "client-key-data": STANDARD.encode(credential.key_pem.as_bytes()),
        }),
        Login::Token(token) => json!({ "token": token }),
        Login::TokenFile(path) => json!({ "tokenFile": path }),
    };
    let config: Value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "testbed",
            "cluster": {
                "server": format!("https://{server}"),
                "certificate-authority-data": STANDARD.encode(ca_pem.as_bytes()),
            },
        }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "testbed", "context": { "cluster": "testbed", "user": "user" } }],
        "current-context": "testbed",
    });
    format!("{config:#}\n")
}
