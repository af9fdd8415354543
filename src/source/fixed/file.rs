//! The workloads file: its form, and all mistakes of one version at once.
//!
//! Pure: bytes in, entries or reasons out. Strict, because a typo that is passed over would show as a workload without
//! certificate an hour later: unknown fields, duplicate names and duplicate sockets are refused.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ensign_daemon::redact;
use ensign_pki::{KeyType, SpiffeId, TrustDomain};
use serde::Deserialize;

use crate::csr_client::{FileToken, SignerName};
use crate::source::{Socket, Workload};

/// A good workloads file.
#[derive(Debug, PartialEq, Eq)]
pub struct WorkloadsFile {
    pub(super) entries: BTreeMap<String, Entry>,
}

/// One good entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    name: String,
    id: SpiffeId,
    token_file: PathBuf,
    signer: Option<SignerName>,
    key_type: KeyType,
    socket: Socket,
}

/// Why a workloads file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Entries are wrong.
    #[error("{0}")]
    Entries(Mistakes),
    /// Neither the first version nor a later one that we know.
    #[error("apiVersion is `{0}`, expected `{VERSION}`")]
    Version(String),
    /// Not YAML, or not of the expected form.
    #[error("not a workloads file: {0}")]
    Syntax(String),
    /// Not text.
    #[error("not UTF-8 text")]
    Text(#[source] std::str::Utf8Error),
    /// More than one node has.
    #[error("{0} workloads, expected at most {MAX_WORKLOADS}")]
    TooMany(usize),
}

/// Every mistake of one file.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<String>);

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    api_version: String,
    #[serde(default)]
    workloads: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawEntry {
    name: String,
    namespace: String,
    service_account: String,
    token_file: PathBuf,
    socket: PathBuf,
    mode: Option<String>,
    owner: Option<String>,
    signer: Option<String>,
    key_type: Option<String>,
}

// === impl WorkloadsFile ===

impl WorkloadsFile {
    /// Reads a file; every mistake of every entry is in the error.
    pub(super) fn parse(bytes: &[u8], trust_domain: &TrustDomain, key_type: KeyType) -> Result<Self, FileError> {
        let text = std::str::from_utf8(bytes).map_err(FileError::Text)?;
        let raw: Raw = serde_saphyr::from_str(text).map_err(|error| syntax(&error))?;
        if raw.api_version != VERSION {
            return Err(FileError::Version(quoted(&raw.api_version, 80)));
        }
        if raw.workloads.len() > MAX_WORKLOADS {
            return Err(FileError::TooMany(raw.workloads.len()));
        }
        let mut mistakes = Mistakes::default();
        let mut entries = BTreeMap::new();
        let mut sockets: BTreeMap<PathBuf, String> = BTreeMap::new();
        for raw in raw.workloads {
            let Some(entry) = entry(raw, trust_domain, key_type, &mut mistakes) else {
                continue;
            };
            if let Some(other) = sockets.insert(entry.socket.path.clone(), entry.name.clone()) {
                let path = entry.socket.path.display();
                mistakes.add(
                    &entry.name,
                    &format!("socket {path} is also that of `{other}`, expected one for each"),
                );
            }
            if let Some(twin) = entries.insert(entry.name.clone(), entry) {
                mistakes.add(&twin.name, "this name is there twice, expected a name once");
            }
        }
        if mistakes.0.is_empty() {
            Ok(Self { entries })
        } else {
            Err(FileError::Entries(mistakes))
        }
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn uid(&self) -> Arc<str> {
        format!("fixed/{}", self.name).into()
    }

    pub(super) fn workload(&self) -> Workload {
        Workload {
            uid: self.uid(),
            shares: self.uid(),
            pod: self.uid(),
            id: self.id.clone(),
            token: Arc::new(FileToken::new(&self.token_file)),
            signer: self.signer.clone(),
            key_type: self.key_type,
            // Those that are there at our start count as such anyway.
            returning: false,
            socket: self.socket.clone(),
        }
    }
}

// === impl Mistakes ===

impl Mistakes {
    fn add(&mut self, name: &str, mistake: &str) {
        let name: String = name.chars().take(80).collect();
        let text = format!("workload `{name}`: {mistake}");
        self.0.push(redact::random_words(&text).into_owned());
    }

    /// The value, or a noted mistake.
    fn take<T, E: std::error::Error + 'static>(&mut self, name: &str, field: &str, value: Result<T, E>) -> Option<T> {
        value
            .map_err(|error| self.add(name, &format!("{field}: {}", ensign_daemon::logging::chain(&error))))
            .ok()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self
            .0
            .iter()
            .take(MAX_SHOWN)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("; ");
        match self.0.len().checked_sub(MAX_SHOWN) {
            Some(more) if more > 0 => write!(f, "{shown}; and {more} more"),
            _ => f.write_str(&shown),
        }
    }
}

/// A mistake in one field. Values are quoted, but never those of files that the entry names, and no secret.
#[derive(Debug, thiserror::Error)]
enum FieldError {
    #[error("is `{0}`, expected an absolute path without `..`")]
    Path(String),
    #[error("is no path but a secret, expected the path of a file that holds it")]
    Secret,
    #[error("is `{0}`, expected 1 to 63 lower-case letters, digits, `-` or `.`")]
    Name(String),
    #[error("is `{0}`, expected three or four octal digits in quotes such as \"0660\"")]
    Mode(String),
    #[error("is `{0}`, expected user id and maybe group id, such as 1337 or 1337:1337")]
    Owner(String),
}

fn entry(
    raw: RawEntry,
    trust_domain: &TrustDomain,
    default_key_type: KeyType,
    mistakes: &mut Mistakes,
) -> Option<Entry> {
    let RawEntry {
        name,
        namespace,
        service_account,
        token_file,
        socket,
        mode,
        owner,
        signer,
        key_type,
    } = raw;
    let m = mistakes;
    // All fields are looked at before the first `?`.
    let good_name = m.take(&name, "name", checked_name(&name));
    let id = m.take(
        &name,
        "identity",
        SpiffeId::new(trust_domain, &namespace, &service_account),
    );
    let token_file = m.take(&name, "tokenFile", absolute(token_file));
    let path = m.take(&name, "socket", absolute(socket));
    let mode = m.take(&name, "mode", mode.as_deref().map_or(Ok(DEFAULT_MODE), parse_mode));
    let owner = m.take(&name, "owner", owner.as_deref().map(parse_owner).transpose());
    let signer = m.take(&name, "signer", signer.map(|text| text.parse()).transpose());
    let key_type = m.take(
        &name,
        "keyType",
        key_type.map_or(Ok(default_key_type), |text| text.parse::<KeyType>()),
    );
    let key_type = key_type.and_then(|kind| m.take(&name, "keyType", kind.ensure_generatable().map(|()| kind)));
    Some(Entry {
        name: good_name?,
        id: id?,
        token_file: token_file?,
        signer: signer?,
        key_type: key_type?,
        socket: Socket {
            path: path?,
            mode: mode?,
            owner: owner?,
            within: None,
        },
    })
}

fn checked_name(name: &str) -> Result<String, FieldError> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if (1..=63).contains(&name.len()) && name.bytes().all(letter) {
        return Ok(name.to_owned());
    }
    Err(FieldError::Name(quoted(name, 80)))
}

fn absolute(path: PathBuf) -> Result<PathBuf, FieldError> {
    if redact::is_suspect(&path.to_string_lossy()) {
        return Err(FieldError::Secret);
    }
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    let names_a_file = path.file_name().is_some();
    if path.is_absolute() && names_a_file && !climbs {
        return Ok(path);
    }
    Err(FieldError::Path(quoted(&path.to_string_lossy(), 200)))
}

/// What was written, cut short; what looks like a secret is taken out first.
fn quoted(text: &str, most: usize) -> String {
    redact::random_words(text).chars().take(most).collect()
}

/// Without the lines that the parser would quote around the place: they may hold what was pasted there by mistake.
fn syntax(error: &serde_saphyr::Error) -> FileError {
    let text = error.without_snippet().to_string();
    let words: Vec<_> = text.split_whitespace().collect();
    FileError::Syntax(quoted(&words.join(" "), 500))
}

fn parse_mode(text: &str) -> Result<u32, FieldError> {
    let wrong = || FieldError::Mode(quoted(text, 80));
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = if octal {
        u32::from_str_radix(text, 8).map_err(|_| wrong())?
    } else {
        return Err(wrong());
    };
    // Set-id and sticky bits mean nothing on a socket.
    if mode > 0o777 { Err(wrong()) } else { Ok(mode) }
}

fn parse_owner(text: &str) -> Result<(u32, Option<u32>), FieldError> {
    let wrong = || FieldError::Owner(quoted(text, 80));
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    match text.split_once(':') {
        None => Ok((number(text)?, None)),
        Some((user, group)) => Ok((number(user)?, Some(number(group)?))),
    }
}

const VERSION: &str = "ensign.mesh/v1";
/// Twenty times what a node's pods may be.
const MAX_WORKLOADS: usize = 5_000;
const DEFAULT_MODE: u32 = 0o600;
const MAX_SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    const GOOD: &str = "
apiVersion: ensign.mesh/v1
workloads:
- name: httpbin
  namespace: foo
  serviceAccount: default
  tokenFile: /run/x/token
  socket: /run/x/httpbin.sock
";

    fn parse(text: &str) -> Result<WorkloadsFile, FileError> {
        WorkloadsFile::parse(text.as_bytes(), &"cluster.local".parse().unwrap(), KeyType::P256)
    }

    #[test]
    fn a_short_entry_gets_the_defaults() {
        let file = parse(GOOD).unwrap();
        let workload = file.entries["httpbin"].workload();
        assert_eq!(&*workload.uid, "fixed/httpbin");
        assert_eq!(workload.id.to_string(), "spiffe://cluster.local/ns/foo/sa/default");
        assert_eq!((workload.socket.mode, workload.socket.owner), (0o600, None));
        assert_eq!((workload.signer, workload.key_type), (None, KeyType::P256));
    }

    #[test]
    fn every_option_is_read() {
        let text = format!("{GOOD}  mode: \"0660\"\n  owner: \"1337:1338\"\n  signer: foo\n  keyType: P-384\n");
        let workload = parse(&text).unwrap().entries["httpbin"].workload();
        assert_eq!(
            (workload.socket.mode, workload.socket.owner),
            (0o660, Some((1337, Some(1338))))
        );
        assert_eq!(
            (workload.signer.unwrap().as_str(), workload.key_type),
            ("foo", KeyType::P384)
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let bad = GOOD
            .replace("/run/x/token", "token")
            .replace("namespace: foo", "namespace: Foo_");
        let error = parse(&format!("{bad}  mode: rw\n  owner: root\n  signer: A.B\n"))
            .unwrap_err()
            .to_string();
        for field in ["identity", "tokenFile", "mode", "owner", "signer"] {
            assert!(
                error.contains(&format!("workload `httpbin`: {field}")),
                "{field}: {error}"
            );
        }
    }

    #[test_case("apiVersion: ensign.mesh/v1\nworkload: []\n", "not a workloads file"; "unknown field")]
    #[test_case("apiVersion: ensign.mesh/v2\n", "ensign.mesh/v2"; "other version")]
    #[test_case("workloads: []\n", "not a workloads file"; "no version")]
    #[test_case("{", "not a workloads file"; "no YAML")]
    #[test_case("", "not a workloads file"; "empty")]
    fn refused_whole(text: &str, reason: &str) {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }

    #[test_case("TOKEN\n"; "nothing else")]
    #[test_case("apiVersion: TOKEN\n"; "as version")]
    #[test_case("apiVersion: ensign.mesh/v1\nworkloads: TOKEN\n"; "as list")]
    #[test_case("apiVersion: ensign.mesh/v1\nTOKEN: x\n"; "as field")]
    #[test_case("apiVersion: ensign.mesh/v1\nworkloads:\n- TOKEN\n"; "as entry")]
    #[test_case("apiVersion: ensign.mesh/v1\nworkloads:\n- name: a\n  namespace: TOKEN\n  serviceAccount: TOKEN\n  tokenFile: TOKEN\n  socket: /TOKEN\n  mode: TOKEN\n  owner: TOKEN\n  signer: TOKEN\n  keyType: TOKEN\n"; "in every field")]
    #[test_case("apiVersion: ensign.mesh/v1\nworkloads:\n- name: TOKEN\n  namespace: b\n  serviceAccount: c\n  tokenFile: /TOKEN\n  socket: s\n"; "as name and path")]
    fn a_secret_in_the_wrong_place_is_not_repeated(text: &str) {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.QmFzZTY0c2lnbmF0dXJlMTIz";
        let bare = "KJHa79fZq2mXw8Rb3Lk5TnVc1Yp0Ds6QmFzZTY0c2lnbmF0";
        for secret in [token, bare] {
            let error = parse(&text.replace("TOKEN", secret)).unwrap_err();
            let shown = format!("{error} {error:?}");
            // Not even a part of it: an error may be cut.
            for part in secret.as_bytes().windows(8) {
                let part = std::str::from_utf8(part).unwrap();
                assert!(!shown.contains(part), "{shown}");
            }
        }
    }

    #[test]
    fn a_name_or_a_socket_twice_is_refused() {
        let entry = GOOD.split("workloads:\n").nth(1).unwrap();
        let error = parse(&format!("{GOOD}{entry}")).unwrap_err().to_string();
        assert!(error.contains("twice") && error.contains("socket"), "{error}");
        let same_path = entry
            .replace("name: httpbin", "name: other")
            .replace("/run/x/http", "/run//x/./http");
        let error = parse(&format!("{GOOD}{same_path}")).unwrap_err().to_string();
        assert!(error.contains("socket"), "{error}");
    }

    #[test]
    fn five_thousand_are_a_file_and_one_more_is_not() {
        let entry = |n| format!("- {{name: w{n}, namespace: a, serviceAccount: b, tokenFile: /t, socket: /s/{n}}}\n");
        let file = |count: usize| -> String {
            let entries: String = (0..count).map(entry).collect();
            format!("apiVersion: ensign.mesh/v1\nworkloads:\n{entries}")
        };
        assert_eq!(parse(&file(MAX_WORKLOADS)).unwrap().entries.len(), MAX_WORKLOADS);
        assert!(matches!(
            parse(&file(MAX_WORKLOADS + 1)),
            Err(FileError::TooMany(5_001))
        ));
    }
}
