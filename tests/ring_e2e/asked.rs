//! What agents ask the API server: nothing, whatever becomes of them.
//!
//! The audit log tells who asked, not from which pod: they all come through one relay. But an agent has no token and no certificate, so
//! whatever it asked would be there under its account's name, as anonymous, or as refused for want of a name (401). That such a request
//! would be seen is shown by one that comes from the network of an agent's pod.

use anyhow::ensure;
use ensign_testbed::cluster::{Access, Mark, Request, kubectl};
use ensign_testbed::node::NodeAccess;

use crate::install::AGENTS;

/// What a request on purpose begins with.
const ON_PURPOSE: &str = "/version?on-purpose=";

/// Fails if any agent asked anything since there is a cluster.
pub(crate) async fn nothing(access: &Access) -> anyhow::Result<()> {
    let all = access.audit().since(Mark::BEGIN).await?;
    let asked = all.filter(|request| could_be_an_agent(request) && !request.uri.starts_with(ON_PURPOSE));
    ensure!(
        asked.0.is_empty(),
        "agents have asked, or somebody without a name:\n{asked:?}"
    );
    Ok(())
}

/// Fails unless a request out of an agent's pod would be found.
pub(crate) async fn would_be_seen(access: &Access, node: &NodeAccess) -> anyhow::Result<()> {
    let [agent] = node.processes("ensign-agent").await?[..] else {
        anyhow::bail!("there is not one agent on {}", node.name());
    };
    let (agent, kubectl) = (agent.to_string(), kubectl()?.display().to_string());
    let uri = format!("{ON_PURPOSE}{:016x}", fastrand::u64(..));
    let in_its_network = ["nsenter", "--target", &agent, "--net", "--"];
    let ask = [
        &kubectl,
        "--kubeconfig=/dev/null",
        "--server=https://10.96.0.1",
        "--insecure-skip-tls-verify",
        "--token=nobody",
        "get",
        "--raw",
        &uri,
    ];
    let said = node.try_run(&[&in_its_network[..], &ask[..]].concat()).await?;
    let all = access.audit().since(Mark::BEGIN).await?;
    let seen = all.filter(|request| could_be_an_agent(request) && request.uri == uri);
    ensure!(!seen.0.is_empty(), "a request without a name was not seen: {said:?}");
    Ok(())
}

fn could_be_an_agent(request: &Request) -> bool {
    let account = format!("system:serviceaccount:{AGENTS}:ensign-agent");
    let nameless = request.user.is_empty() || request.user == "system:anonymous";
    request.user == account || nameless || request.code == 401
}
