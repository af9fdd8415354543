//! Which kubeconfigs of remote secrets are used at all.
//!
//! A kubeconfig may run programs, read files, go through a proxy, trust anybody or act as somebody else. Whoever may
//! write a Secret in the control plane's namespace must not be able to do that in this pod: a server by https, its CA,
//! and a token or client certificate in the text itself are accepted, everything else is refused by the name of its
//! field. No reason repeats content. (Istio: `sanitizeKubeConfig` in its multicluster package.)

use std::sync::Arc;

use kube::Config;
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig};
use thiserror::Error;

/// Why a kubeconfig is not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum KubeconfigRefusal {
    /// The value cannot be read at all.
    #[error("its value is no kubeconfig: {0}")]
    Form(&'static str),
    /// A field that is not accepted.
    #[error(
        "its kubeconfig has {0}, which is not accepted here; expected a server by https, a CA, and a token or a client certificate, all in the text itself"
    )]
    Field(Arc<str>),
    /// A server that cannot be used.
    #[error("its kubeconfig names a server that is no https URL, or one with a user name in it")]
    Server,
}

/// Reads a kubeconfig and refuses what it must not have.
pub(super) async fn accept(text: &[u8]) -> Result<Config, KubeconfigRefusal> {
    let text = std::str::from_utf8(text).map_err(|_| KubeconfigRefusal::Form("it is not UTF-8"))?;
    // The parser's own words quote what they stumble over.
    let file = Kubeconfig::from_yaml(text).map_err(|_| KubeconfigRefusal::Form("it is not of that form"))?;
    for named in &file.clusters {
        if let Some(cluster) = &named.cluster {
            check_cluster(cluster)?;
        }
    }
    for named in &file.auth_infos {
        if let Some(user) = &named.auth_info {
            check_user(user)?;
        }
    }
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|_| KubeconfigRefusal::Form("its current context, the cluster of it or a certificate cannot be used"))
}

fn check_cluster(cluster: &Cluster) -> Result<(), KubeconfigRefusal> {
    // Each field by name: one that kube learns later does not compile until somebody has thought about it.
    let Cluster {
        server,
        insecure_skip_tls_verify,
        certificate_authority,
        certificate_authority_data: _,
        proxy_url,
        disable_compression: _,
        tls_server_name: _,
        extensions: _,
        other,
    } = cluster;
    refuse(*insecure_skip_tls_verify == Some(true), "insecure-skip-tls-verify")?;
    refuse(
        is_set(certificate_authority.as_deref()),
        "certificate-authority (a path)",
    )?;
    refuse(is_set(proxy_url.as_deref()), "proxy-url")?;
    refuse_unknown(other.keys())?;
    let server = server.as_deref().unwrap_or_default();
    let url: http::Uri = server.parse().map_err(|_| KubeconfigRefusal::Server)?;
    let plain = url
        .authority()
        .is_some_and(|authority| !authority.as_str().contains('@'));
    if url.scheme_str() == Some("https") && plain {
        Ok(())
    } else {
        Err(KubeconfigRefusal::Server)
    }
}

fn check_user(user: &AuthInfo) -> Result<(), KubeconfigRefusal> {
    let AuthInfo {
        username,
        password,
        token: _,
        token_file,
        client_certificate,
        client_certificate_data: _,
        client_key,
        client_key_data: _,
        impersonate,
        impersonate_uid,
        impersonate_groups,
        impersonate_user_extra,
        extensions: _,
        auth_provider,
        exec,
        other,
    } = user;
    refuse(exec.is_some(), "exec")?;
    refuse(auth_provider.is_some(), "auth-provider")?;
    refuse(is_set(token_file.as_deref()), "tokenFile")?;
    refuse(is_set(client_certificate.as_deref()), "client-certificate (a path)")?;
    refuse(is_set(client_key.as_deref()), "client-key (a path)")?;
    refuse(
        is_set(username.as_deref()) || password.is_some(),
        "username or password",
    )?;
    let acts_as = is_set(impersonate.as_deref())
        || is_set(impersonate_uid.as_deref())
        || impersonate_groups.is_some()
        || impersonate_user_extra.is_some();
    refuse(acts_as, "as, as-uid, as-groups or as-user-extra")?;
    refuse_unknown(other.keys())
}

fn is_set(field: Option<&str>) -> bool {
    field.is_some_and(|text| !text.is_empty())
}

fn refuse(present: bool, field: &str) -> Result<(), KubeconfigRefusal> {
    if present {
        return Err(KubeconfigRefusal::Field(field.into()));
    }
    Ok(())
}

fn refuse_unknown<'a>(mut fields: impl Iterator<Item = &'a String>) -> Result<(), KubeconfigRefusal> {
    // Even a name could be a secret that was put in the wrong place.
    refuse(
        fields.next().is_some(),
        "a field of a cluster or user that is not known here",
    )
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    /// As `istioctl create-remote-secret` makes it.
    fn kubeconfig(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\npreferences: {{}}\ncurrent-context: remote\n\
             clusters:\n- name: remote\n  cluster: {{{cluster}}}\n\
             contexts:\n- name: remote\n  context: {{cluster: remote, user: remote}}\n\
             users:\n- name: remote\n  user: {{{user}}}\n"
        )
    }

    const SERVER: &str = "server: 'https://10.0.0.1:6443'";
    const SECRET: &str = "token: s3cr3t-value";

    #[tokio::test]
    async fn a_server_with_a_token_is_accepted() {
        let config = accept(kubeconfig(SERVER, SECRET).as_bytes()).await.unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://10.0.0.1:6443/");
    }

    #[test_case(SERVER, "exec: {command: s3cr3t-value, apiVersion: client.authentication.k8s.io/v1}", "exec"; "exec")]
    #[test_case(SERVER, "auth-provider: {name: s3cr3t-value}", "auth-provider"; "auth provider")]
    #[test_case(SERVER, "tokenFile: /s3cr3t-value", "tokenFile"; "a token file")]
    #[test_case(SERVER, "token: a, tokenFile: /s3cr3t-value", "tokenFile"; "a token file beside a token")]
    #[test_case(SERVER, "client-certificate: /s3cr3t-value", "client-certificate"; "a certificate file")]
    #[test_case(SERVER, "client-key: /s3cr3t-value", "client-key"; "a key file")]
    #[test_case(SERVER, "username: a, password: s3cr3t-value", "username"; "a password")]
    #[test_case(SERVER, "token: a, as: s3cr3t-value", "as,"; "acting as somebody")]
    #[test_case(SERVER, "token: a, as-groups: [s3cr3t-value]", "as,"; "acting as a group")]
    #[test_case(SERVER, "token: a, s3cr3t-value: x", "not known here"; "an unknown field")]
    #[test_case("server: 'https://h', certificate-authority: /s3cr3t-value", SECRET, "certificate-authority"; "a CA file")]
    #[test_case("server: 'https://h', insecure-skip-tls-verify: true", SECRET, "insecure-skip-tls-verify"; "no verification")]
    #[test_case("server: 'https://h', proxy-url: 'http://s3cr3t-value'", SECRET, "proxy-url"; "a proxy")]
    #[test_case("server: 'http://h'", SECRET, "https"; "no TLS")]
    #[test_case("server: 'https://a:s3cr3t-value@h'", SECRET, "user name"; "a password in the URL")]
    #[test_case("server: ''", SECRET, "https"; "no server")]
    #[test_case("server: [s3cr3t-value]", SECRET, "not of that form"; "a server that is a list")]
    #[test_case("server: 'https://h', certificate-authority-data: s3cr3t-value", SECRET, "cannot be used"; "a CA that is none")]
    #[tokio::test]
    async fn everything_else_is_refused_by_name_and_never_repeated(cluster: &str, user: &str, why: &str) {
        let refusal = accept(kubeconfig(cluster, user).as_bytes()).await.unwrap_err();
        let said = format!("{refusal} {refusal:?}");
        assert!(said.contains(why), "{said}");
        assert!(!said.contains("s3cr3t"), "{said}");
    }

    #[test_case(b"\xff\xfe".as_slice(); "no text")]
    #[test_case(b"s3cr3t".as_slice(); "a word")]
    #[test_case(b"".as_slice(); "nothing")]
    #[tokio::test]
    async fn what_is_no_kubeconfig_is_refused(text: &[u8]) {
        let refusal = accept(text).await.unwrap_err();
        assert!(matches!(refusal, KubeconfigRefusal::Form(_)), "{refusal}");
        assert!(!refusal.to_string().contains("s3cr3t"));
    }
}
