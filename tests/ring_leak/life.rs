//! A mesh lives through rotations and every kind of failure, with everything logged; then all that it let out is searched.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ensign_testbed::folder::{Folder, write_atomically};
use ensign_testbed::process::own_binary;
use ensign_testbed::world::{World, WorldSpec};
use ensign_testkit::fake_envoy::{SotwStream, certificate};
use ensign_testkit::tokens::{Claims, TokenMint};
use ensign_testkit::{FakeEnvoy, eventually, patience};
use tokio::process::Command;

use crate::evidence::{Evidence, ca_keys};
use crate::mistakes::Pasted;
use ensign_testkit::leak::Secrets;

/// Namespace, which is the signer too, and name.
const WORKLOADS: [(&str, &str); 3] = [("foo", "a"), ("foo", "b"), ("bar", "c")];
const ROTATIONS: usize = 4;

/// A mesh, and what was seen of it so far.
struct Watched {
    world: World,
    secrets: Secrets,
    evidence: Evidence,
    /// Clients that stay: what nobody wants is not renewed.
    clients: Vec<SotwStream>,
}

/// Which of the two logs.
#[derive(Clone, Copy)]
enum Who {
    Agent,
    Ra,
}

impl Watched {
    async fn start() -> Self {
        let folder = Arc::new(Folder::new().unwrap());
        let mut spec = WorldSpec::foo_and_bar(&WORKLOADS).rotating_every("1s");
        for name in ["agent-tmp", "ra-tmp"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        let tmp = |name: &str| folder.join(name).display().to_string();
        spec = spec
            .agent_env("ENSIGN_LOG_LEVEL", "trace")
            .agent_env("RUST_LOG", "trace")
            .agent_env("RUST_BACKTRACE", "full")
            .agent_env("TMPDIR", &tmp("agent-tmp"));
        spec.ra.extend(["--log-level".to_owned(), "trace".to_owned()]);
        spec.ra_env.insert("RUST_BACKTRACE".to_owned(), "full".to_owned());
        spec.ra_env.insert("TMPDIR".to_owned(), tmp("ra-tmp"));
        let world = World::start_in(folder, spec).await.unwrap();
        Self {
            world,
            secrets: Secrets::default(),
            evidence: Evidence::default(),
            clients: Vec::new(),
        }
    }

    fn folder(&self) -> &Path {
        self.world.folder().path()
    }

    async fn envoy(&self, name: &str, signer: &str) -> FakeEnvoy {
        let socket = self.world.socket(name);
        let envoy = eventually("the socket", async || FakeEnvoy::connect(&socket).await).await;
        envoy.with_cert_signer(signer)
    }

    /// Takes several certificates of each workload, in each way that a client can ask.
    async fn rotations(&mut self) {
        for (signer, name) in WORKLOADS {
            let envoy = self.envoy(name, signer).await;
            let mut roots = envoy.subscribe(&["ROOTCA"]).await;
            roots.next_secret(patience()).await;
            let mut stream = envoy.subscribe(&["default"]).await;
            for number in 0..ROTATIONS {
                let secret = stream.next_secret(patience()).await;
                let (_, key) = certificate(&secret).unwrap();
                self.secrets.key(&format!("key {number} of {name}"), &key);
            }
            let mut delta = envoy.subscribe_delta(&["default", "ROOTCA"], &[]).await;
            self.clients.push(stream);
            let fetched = envoy.fetch(&["default", "ROOTCA"]).await.unwrap();
            let pushed = delta.next(patience()).await.unwrap();
            for secret in fetched.secrets.iter().chain(&pushed.secrets) {
                if let Some((_, key)) = certificate(secret) {
                    self.secrets.key(&format!("another key of {name}"), &key);
                }
            }
        }
    }

    /// A client that refuses what it gets and quotes it, asks for files, and wishes for a signer that it may not have.
    async fn hostile_client(&mut self) {
        let envoy = self.envoy("a", "foo").await;
        let mut stream = envoy
            .subscribe(&["default", "file-cert:/etc/passwd", "file-root:~"])
            .await;
        let received = stream.next(patience()).await.unwrap();
        let (_, key) = certificate(received.secret("default").unwrap()).unwrap();
        self.secrets.key("refused key", &key);
        let mark = self.log(Who::Agent).mark();
        stream.nack(&received, &format!("cannot load {key}")).await;
        self.logged(Who::Agent, mark, "secret refused by the client").await;
        let mark = self.log(Who::Ra).mark();
        let forbidden = self.envoy("a", "bar").await;
        let _waits = forbidden.subscribe(&["default"]).await;
        self.logged(Who::Ra, mark, "request refused").await;
    }

    /// Tokens that are forged, damaged or no tokens at all.
    async fn wrong_tokens(&mut self) {
        let path = self.folder().join("b.token");
        let right = fs::read(&path).unwrap();
        let claims = Claims::service_account("foo", "b");
        let forged = TokenMint::es256("test-key").mint(&claims);
        let unknown = TokenMint::es256("nobody's").mint(&claims);
        let expired = TokenMint::rs256("test-key").mint(&claims.with("/exp", 1));
        for (name, token) in [("forged", forged), ("unknown", unknown), ("expired", expired)] {
            let mark = self.log(Who::Ra).mark();
            self.secrets.token(&format!("{name} token"), &token);
            write_atomically(&path, token.as_bytes()).unwrap();
            self.logged(Who::Ra, mark, "request refused").await;
        }
        let pasted = Pasted::new();
        self.secrets.add(pasted.secrets());
        for (wrong, reason) in [
            (pasted.pem.clone(), "white space"),
            (format!("{}\n{}\n", pasted.token, pasted.token), "white space"),
        ] {
            let mark = self.log(Who::Agent).mark();
            write_atomically(&path, wrong.as_bytes()).unwrap();
            self.logged(Who::Agent, mark, reason).await;
        }
        write_atomically(&path, &right).unwrap();
    }

    /// Each file with each mistake, while both programs run.
    async fn wrong_files(&mut self) {
        let pasted = Pasted::new();
        self.secrets.add(pasted.secrets());
        let folder = self.folder().to_owned();
        let workloads = pasted.workloads(&folder).into_iter().take(3);
        let files = [
            (Who::Agent, "workloads-0.yaml", workloads.collect::<Vec<_>>()),
            (
                Who::Ra,
                "jwks.json",
                pasted.jwks().into_iter().skip(1).take(3).collect(),
            ),
            (
                Who::Ra,
                "policy.yaml",
                pasted.policies(&folder).into_iter().take(3).collect(),
            ),
            (
                Who::Ra,
                "ca-foo/ca-cert.pem",
                vec![("a key", pasted.pem.clone()), ("a token", pasted.token.clone())],
            ),
            (Who::Ra, "ca-foo/root-cert.pem", vec![("a key", pasted.pem.clone())]),
            (
                Who::Ra,
                "ca-foo/ca-key.pem",
                vec![("a stranger's key", pasted.pem.clone())],
            ),
        ];
        for (who, name, mistakes) in files {
            let path = folder.join(name);
            let right = fs::read(&path).unwrap();
            for (_, text) in mistakes {
                let mark = self.log(who).mark();
                replace(&path, text.as_bytes());
                self.logged(who, mark, "file not loaded").await;
                self.pages().await;
                // Back to the right one, since the same complaint is not logged twice in a row.
                let mark = self.log(who).mark();
                replace(&path, &right);
                self.logged(who, mark, "again what is in effect").await;
            }
        }
    }

    /// The authority is killed, and comes back.
    async fn outage(&mut self) {
        let mark = self.log(Who::Agent).mark();
        self.world.ra().kill().await.unwrap();
        self.logged(Who::Agent, mark, "certificate not issued").await;
        let status = self.world.agent_address("status").unwrap();
        self.evidence.page(status, "/status", Some("text/html")).await;
        self.world.restart_ra().await.unwrap();
        let mark = self.log(Who::Agent).mark();
        self.logged(Who::Agent, mark, "certificate issued").await;
    }

    /// Everything that both programs answer.
    async fn pages(&mut self) {
        let status = self.world.agent_address("status").unwrap();
        for accept in [None, Some("application/json"), Some("text/html")] {
            self.evidence.page(status, "/status", accept).await;
        }
        self.evidence.page(status, "/status?format=json", None).await;
        for (address, paths) in [
            (
                self.world.agent_address("admin").unwrap(),
                &["/metrics", "/healthz", "/readyz", "/status", "/"][..],
            ),
            (
                self.world.ra_address("readyz").unwrap(),
                &["/healthz", "/readyz", "/"][..],
            ),
            (self.world.ra_address("metrics").unwrap(), &["/metrics", "/"][..]),
        ] {
            for path in paths {
                self.evidence.page(address, path, None).await;
            }
        }
    }

    /// What both programs print when asked, with the settings that they run with.
    async fn printed(&mut self) {
        let ra = self.world.ra().spec_mut().clone();
        let agent = self.world.agent().spec_mut().clone();
        for spec in [ra, agent] {
            for flag in ["--print-config", "--help", "-h", "--version", "--no-such-flag"] {
                let run = Command::new(own_binary(spec.binary.file_name().unwrap().to_str().unwrap()).unwrap())
                    .args(&spec.args)
                    .arg(flag)
                    .env_clear()
                    .envs(&spec.env)
                    .output();
                let output = run.await.unwrap();
                assert_eq!(output.status.success(), flag != "--no-such-flag", "{output:?}");
                let text = [output.stdout, output.stderr].concat();
                assert!(!text.is_empty());
                self.evidence.add(&format!("{} {flag}", spec.name), text);
            }
        }
    }

    fn processes(&mut self) {
        let (agent, ra) = (self.world.agent().pid().unwrap(), self.world.ra().pid().unwrap());
        self.evidence.process("agent", agent);
        self.evidence.process("ra", ra);
    }

    fn log(&mut self, who: Who) -> ensign_testbed::process::Log {
        match who {
            Who::Agent => self.world.agent().log().clone(),
            Who::Ra => self.world.ra().log().clone(),
        }
    }

    async fn logged(&mut self, who: Who, mark: usize, text: &str) {
        self.log(who)
            .wait_after(mark, text, |line| line.contains(text))
            .await
            .unwrap();
    }

    /// Keys of the CAs, and the tokens in use.
    fn gather_secrets(&mut self) {
        let keys = ca_keys(self.folder());
        assert_eq!(keys.len(), 3, "two signers and the serving CA");
        for (path, pem) in keys {
            self.secrets.key(&format!("CA key {}", path.display()), &pem);
        }
        for (_, name) in WORKLOADS {
            let path = format!("{name}.token");
            let token = fs::read_to_string(self.folder().join(&path)).unwrap();
            self.secrets.token(&format!("token {path}"), token.trim());
        }
    }
}

/// Writes by rename and keeps who may read: a CA key that others may read stops the RA.
fn replace(path: &Path, text: &[u8]) {
    let staged = path.with_extension("staged");
    fs::write(&staged, text).unwrap();
    fs::set_permissions(&staged, fs::metadata(path).unwrap().permissions()).unwrap();
    fs::rename(staged, path).unwrap();
}

/// A CA's key is in its own file, a token in a file that the test wrote (all tokens begin alike: same header, same issuer).
fn at_home(place: &str, secret: &str) -> bool {
    let Some(file) = place.strip_prefix("file ") else {
        return false;
    };
    let own_key = |of: &str| file.ends_with("ca-key.pem") && of.starts_with(file);
    secret.strip_prefix("CA key ").is_some_and(own_key)
        || (file.strip_suffix(".token").is_some() && secret.contains("token"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_leaves_but_in_an_sds_answer() {
    let mut mesh = Watched::start().await;
    mesh.rotations().await;
    mesh.pages().await;
    mesh.hostile_client().await;
    mesh.wrong_files().await;
    mesh.outage().await;
    mesh.wrong_tokens().await;
    mesh.rotations().await;
    mesh.pages().await;
    mesh.printed().await;
    mesh.processes();
    mesh.gather_secrets();
    mesh.world.agent().terminate().await.unwrap();
    mesh.world.ra().terminate().await.unwrap();

    let folder = mesh.folder().to_owned();
    let files = mesh.evidence.files(&folder);
    assert!(files >= 15, "{files} files");
    // The logs are the files `agent.log` and `ra.log`. They must hold what the programs' dependencies say at trace.
    for (log, targets) in [
        ("agent.log", &["h2::", "tonic::", "tower::", "mio::"][..]),
        ("ra.log", &["h2::", "tonic::", "mio::"]),
    ] {
        let text = fs::read_to_string(folder.join(log)).unwrap();
        assert!(text.contains("\"level\":\"TRACE\""), "{log} has no trace");
        for target in targets {
            assert!(
                text.contains(&format!("\"target\":\"{target}")),
                "{log} says nothing of {target}"
            );
        }
    }
    println!(
        "searched {} kB of logs and files for {} secrets",
        mesh.evidence.bytes_of("file ") / 1024,
        mesh.secrets.iter().len()
    );
    mesh.evidence.assert_clean(&mesh.secrets, at_home);

    // The same search over the same places finds a key that one of the programs could have written.
    fs::write(folder.join("agent-tmp/planted"), mesh.secrets.iter().next().unwrap().1).unwrap();
    let mut planted = Evidence::default();
    planted.files(&folder);
    let finds = planted.finds(&mesh.secrets, at_home);
    assert_eq!(finds.len(), 1, "{finds:?}");
    assert!(
        finds[0].starts_with("file agent-tmp/planted: key 0 of a as raw"),
        "{finds:?}"
    );
    mesh.world.finish().await.unwrap();
}
