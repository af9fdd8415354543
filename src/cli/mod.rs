//! The commands of people: what each prints, and its exit code.
//!
//! The only place of the agent's own sources that knows `ensign-operator`, and with it a Kubernetes client: the running
//! agent uses neither (tests/tidy.rs).

use std::io::Write as _;
use std::process::ExitCode;

use ensign_daemon::logging::chain;
use ensign_daemon::{Finding, Report};
use ensign_operator::preflight::Account;
use ensign_operator::{Access, Login, explain, preflight};

use crate::config::{self, Command, Config};
use crate::source::{self, csi::Fence};

mod authority;
mod status;

/// Carries a command out.
pub fn run(command: Command) -> ExitCode {
    let work = async {
        match command {
            Command::Status { address, json } => status::print(address, json).await,
            Command::Explain {
                login,
                namespace,
                pod,
                agent_namespace,
                json,
            } => {
                let access = open(login).await?;
                let namespace = namespace.unwrap_or_else(|| access.namespace().to_owned());
                let question = explain::Question {
                    namespace,
                    pod,
                    agent_namespace,
                };
                Ok(report(&explained(&access, &question).await, json))
            }
            Command::PreflightLocal { config, json } => Ok(report(&local(&config), json)),
            Command::PreflightCluster {
                login,
                agent_namespace,
                ra_namespace,
                service_account,
                signers,
                json,
            } => {
                let account = service_account.map(|text| text.parse::<Account>()).transpose();
                let account = account.map_err(|error| format!("--service-account: {error}"))?;
                let access = open(login).await?;
                let question = preflight::Question {
                    agent_namespace,
                    ra_namespace,
                };
                Ok(report(
                    &Box::pin(cluster(&access, &question, account, &signers)).await,
                    json,
                ))
            }
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start the async runtime: {error}")),
    };
    match runtime.block_on(work) {
        Ok((text, code)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::from(code),
            Err(error) => failed(&format!("cannot print: {error}")),
        },
        Err(reason) => failed(&reason),
    }
}

/// What is printed, and the exit code; or why nothing could be looked at.
type Outcome = Result<(String, u8), String>;

async fn open(login: config::Login) -> Result<Access, String> {
    let login = Login {
        kubeconfig: login.kubeconfig,
        context: login.context,
    };
    Access::open(&login).await.map_err(|error| chain(&error))
}

async fn explained(access: &Access, question: &explain::Question) -> Report {
    let explain::Question { namespace, pod, .. } = question;
    let findings = match explain::look(access, question).await {
        ensign_operator::access::Looked::There(facts) => explain::judge(&facts),
        ensign_operator::access::Looked::Missing => {
            let cause = format!("there is no pod {pod} in namespace {namespace}");
            vec![Finding::unknown(
                "no_pod",
                cause,
                "name its namespace with -n, and the cluster with --context",
            )]
        }
        ensign_operator::access::Looked::Unreadable(why) => {
            let cause = format!("the pod cannot be read: {why}");
            vec![Finding::unknown(
                "unreadable",
                cause,
                "ask with an account that may `get` pods there",
            )]
        }
    };
    Report::new(format!("pod {namespace}/{pod}"), findings)
}

async fn cluster(
    access: &Access,
    question: &preflight::Question,
    account: Option<Account>,
    named: &[String],
) -> Report {
    let facts = Box::pin(preflight::look(access, question)).await;
    let asked = match account {
        None => None,
        Some(account) => {
            let signers = preflight::signers(&facts, named);
            preflight::ask(access, &facts, &account, &signers, &authority::ask).await
        }
    };
    Report::new("cluster", preflight::judge(&facts, asked.as_deref()))
}

/// What the agent itself looks at when it starts, and whether it could be fenced in.
fn local(config: &Config) -> Report {
    let mut findings = crate::preflight::check(config);
    if let source::Config::Csi(csi) = &config.source {
        // Why it cannot be raised is found above already: a folder that is not there.
        findings.extend(Fence::raise(csi).ok().and_then(|fence| unfenced(&fence)));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("local", "an agent with these settings can start here"));
    }
    Report::new("this machine", findings)
}

/// What a fence leaves open.
fn unfenced(fence: &Fence) -> Option<Finding> {
    let (code, cause, fix) = match fence {
        Fence::Whole => return None,
        Fence::Partial => (
            "fenced_in_part",
            "Landlock of this kernel does not know truncation: the agent can neither read nor write files of pods, but it could cut them",
            "Linux 6.2 or newer",
        ),
        Fence::None => (
            "not_fenced",
            "kernel or seccomp profile have no Landlock: the agent could read the files of pods",
            "Linux 6.2 or newer (5.13 for most of it) with `landlock` in its lsm= list, and a seccomp profile that allows it (RuntimeDefault does)",
        ),
    };
    Some(Finding::note(code, cause, fix))
}

fn report(report: &Report, json: bool) -> (String, u8) {
    let text = if json {
        report.to_json() + "\n"
    } else {
        report.to_text()
    };
    (text, report.exit_code())
}

/// Nothing could be looked at.
fn failed(reason: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "ensign-agent: {reason}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fence_leaves_open_is_said_and_no_more() {
        assert_eq!(unfenced(&Fence::Whole), None);
        let partial = unfenced(&Fence::Partial).unwrap();
        assert_eq!(partial.code, "fenced_in_part");
        assert!(
            partial.cause.contains("neither read nor write") && partial.fix.contains("6.2"),
            "{partial:?}"
        );
        let none = unfenced(&Fence::None).unwrap();
        assert_eq!(none.code, "not_fenced");
        assert!(
            none.cause.contains("could read") && none.fix.contains("5.13"),
            "{none:?}"
        );
    }
}
