//! Secrets where they do not belong: what people paste into the wrong file.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ensign_testkit::TestCa;
use ensign_testkit::tokens::{Claims, TokenMint};
use serde_json::json;

use ensign_testkit::leak::{Secrets, scalar};

/// A token and a key that only files with mistakes hold.
pub(crate) struct Pasted {
    pub(crate) token: String,
    pub(crate) pem: String,
    /// The key without its armour, on one line.
    bare: String,
}

/// A name for messages, and the content of a file.
pub(crate) type Mistake = (&'static str, String);

impl Pasted {
    pub(crate) fn new() -> Self {
        // A key that signs no other token, so that this one is unlike those in use.
        let token = TokenMint::es256("another").mint(&Claims::service_account("pasted", "by-mistake"));
        let pem = TestCa::new("pasted").issuing_key_pem();
        let bare = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        Self { token, pem, bare }
    }

    pub(crate) fn secrets(&self) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.key("pasted key", &self.pem);
        secrets.token("pasted token", &self.token);
        secrets
    }

    /// The armour as a YAML block, below something.
    fn block(&self) -> String {
        self.pem.lines().map(|line| format!("\n      {line}")).collect()
    }

    /// Workloads files that the agent must refuse.
    pub(crate) fn workloads(&self, folder: &Path) -> Vec<Mistake> {
        let folder = folder.display();
        let (token, pem, bare, block) = (&self.token, &self.pem, &self.bare, self.block());
        let head = "apiVersion: ensign.mesh/v1\nworkloads:\n";
        let entry = format!(
            "- name: x\n  namespace: foo\n  serviceAccount: x\n  tokenFile: {folder}/a.token\n  socket: {folder}/x.sock\n"
        );
        let with = |field: &str, value: &str| {
            let kept = entry
                .lines()
                .filter(|line| !line.trim_start_matches("- ").trim().starts_with(field));
            let kept: String = kept.map(|line| format!("{}\n", line.replacen("- ", "  ", 1))).collect();
            format!("{head}- {field}: {value}\n{kept}")
        };
        vec![
            ("only a token", token.clone()),
            ("only a key", pem.clone()),
            ("only a bare key", bare.clone()),
            ("token as version", format!("apiVersion: {token}\n")),
            (
                "token for the list",
                format!("apiVersion: ensign.mesh/v1\nworkloads: {token}\n"),
            ),
            ("token as entry", format!("{head}- {token}\n")),
            ("token as field", format!("{head}{entry}  {token}: x\n")),
            ("token beside fields", format!("{head}{entry}  {token}\n")),
            ("unknown field with a token", format!("{head}{entry}  token: {token}\n")),
            ("key beside fields", format!("{head}{entry}{pem}")),
            ("unknown field with a key", format!("{head}{entry}  key: |{block}\n")),
            ("key as signer", with("signer", &format!("|{block}"))),
            ("bare key as signer", with("signer", bare)),
            ("token as signer", with("signer", token)),
            ("token as name", with("name", token)),
            ("bare key as name", with("name", bare)),
            ("token as namespace", with("namespace", token)),
            ("token as tokenFile", with("tokenFile", token)),
            ("token below tokenFile", with("tokenFile", &format!("/run/{token}"))),
            ("key as tokenFile", with("tokenFile", &format!("|{block}"))),
            ("token as socket", with("socket", &format!("/run/{token}"))),
            ("token as mode", with("mode", token)),
            ("bare key as owner", with("owner", bare)),
            ("token as keyType", with("keyType", token)),
            ("unclosed quote around a token", format!("{head}- name: \"{token}\n")),
        ]
    }

    /// JWKS files that the RA must refuse.
    pub(crate) fn jwks(&self) -> Vec<Mistake> {
        let (token, pem, bare) = (&self.token, &self.pem, &self.bare);
        let (d, text) = (
            URL_SAFE_NO_PAD.encode(scalar(&self.pem).0),
            |value: serde_json::Value| value.to_string(),
        );
        let public = json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": "AA", "y": "AA"});
        let mut private = public.clone();
        private["d"] = json!(d);
        let mut nameless = private.clone();
        nameless["kid"] = json!(null);
        vec![
            ("only a token", token.clone()),
            ("only a key", pem.clone()),
            ("a private key", text(json!({ "keys": [private] }))),
            ("a private key without kid", text(json!({ "keys": [nameless] }))),
            ("a private key, no set", text(private)),
            ("d for the keys", text(json!({ "keys": d }))),
            ("a key in the list", text(json!({ "keys": [pem] }))),
            ("a bare key in the list", text(json!({ "keys": [bare] }))),
            (
                "d as a number's place",
                text(json!({ "keys": [{"kty": "EC", "kid": "k", "key_ops": d}] })),
            ),
            ("a token for the keys", text(json!({ "keys": token }))),
            (
                "d as coordinate",
                text(json!({ "keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": d, "y": d, "d": d}] })),
            ),
        ]
    }

    /// Policies that the RA must refuse.
    pub(crate) fn policies(&self, folder: &Path) -> Vec<Mistake> {
        let (token, pem, bare, block) = (&self.token, &self.pem, &self.bare, self.block());
        let dir = folder.join("ca-foo").display().to_string();
        let policy = |signer: &str, dir: &str, rest: &str| {
            format!(
                "apiVersion: ensign.mesh/v1\ntrustDomain: cluster.local\nsigners:\n- name: {signer}\n  local:\n    dir: {dir}\n{rest}rules:\n- namespace: foo\n  serviceAccounts: [\"*\"]\n  signers: [foo]\n"
            )
        };
        vec![
            ("only a token", token.clone()),
            ("only a key", pem.clone()),
            (
                "token as version",
                policy("foo", &dir, "").replace("ensign.mesh/v1", token),
            ),
            (
                "token as trust domain",
                policy("foo", &dir, "").replace("cluster.local", token),
            ),
            (
                "bare key as trust domain",
                policy("foo", &dir, "").replace("cluster.local", bare),
            ),
            ("token as signer", policy(token, &dir, "")),
            ("bare key as signer", policy(bare, &dir, "")),
            ("token as folder", policy("foo", &format!("/run/{token}"), "")),
            ("key as folder", policy("foo", &format!("|{block}"), "")),
            ("bare key as folder", policy("foo", bare, "")),
            (
                "token as roots",
                policy("foo", &dir, &format!("  roots: /run/{token}\n")),
            ),
            (
                "unknown field with a key",
                policy("foo", &dir, &format!("  key: |{block}\n")),
            ),
            ("key beside fields", policy("foo", &dir, pem)),
            (
                "token as a duration",
                policy("foo", &dir, &format!("  ttl: {{max: {token}}}\n")),
            ),
            (
                "token as namespace",
                policy("foo", &dir, "").replace("namespace: foo", &format!("namespace: {token}")),
            ),
            (
                "bare key as account",
                policy("foo", &dir, "").replace("\"*\"", &format!("\"{bare}\"")),
            ),
            (
                "token as allowed signer",
                policy("foo", &dir, "").replace("[foo]", &format!("[{token}]")),
            ),
            (
                "token as key type",
                policy("foo", &dir, &format!("keyTypes: [{token}]\n")),
            ),
            (
                "a type in the wrong place",
                policy("foo", &dir, &format!("keyTypes: {token}\n")),
            ),
        ]
    }
}
