//! What no attack may change of the agent: it is the same container, below its limit of memory.

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;

use crate::alone::Alone;

/// The agent before the first attack.
#[derive(Debug)]
pub(super) struct Guard {
    container: String,
    limit: u64,
}

/// What the kernel says of the agent's control group.
#[derive(Debug)]
struct Memory {
    limit: u64,
    /// The most that it ever held, page cache included.
    peak: u64,
}

impl Guard {
    /// The limit that the manifest sets must be in force, or nothing would be shown.
    pub(super) async fn of(alone: &Alone) -> anyhow::Result<Self> {
        let agent = alone.agent_ready().await?;
        let asked = agent.spec.as_ref().and_then(|spec| spec.containers.first());
        let asked = asked.and_then(|container| container.resources.as_ref()?.limits.as_ref()?.get("memory"));
        let asked = asked.context("the agent has no limit of memory")?.0.clone();
        let mebibytes: u64 = asked.strip_suffix("Mi").context("not in Mi")?.parse()?;
        let limit = mebibytes << 20;
        let memory = memory(alone).await?;
        ensure!(
            memory.limit == limit,
            "the manifest says {asked}, the kernel {memory:?}"
        );
        Ok(Self {
            container: container(&agent)?,
            limit,
        })
    }

    /// Whether all is as before; gives the most memory that it held.
    pub(super) async fn unharmed(&self, alone: &Alone) -> anyhow::Result<u64> {
        let agent = alone.agent_ready().await?;
        let now = container(&agent)?;
        ensure!(now == self.container, "the agent is another one: {:?}", agent.status);
        let memory = memory(alone).await?;
        ensure!(memory.peak < self.limit, "the agent came to its limit: {memory:?}");
        Ok(memory.peak)
    }
}

/// The running container and how often it was started again.
fn container(agent: &Pod) -> anyhow::Result<String> {
    let statuses = agent
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let status = statuses.and_then(|all| all.first()).context("no status")?;
    let id = status.container_id.as_deref().context("it does not run")?;
    Ok(format!("{id}, started again {} times", status.restart_count))
}

async fn memory(alone: &Alone) -> anyhow::Result<Memory> {
    let text = alone.node.run(&["/bin/sh", "-c", OF_THE_AGENT]).await?;
    let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [limit, peak] = numbers[..] else {
        anyhow::bail!("not two numbers: {text}");
    };
    Ok(Memory { limit, peak })
}

const OF_THE_AGENT: &str = "for process in /proc/[0-9]*; do
    if [ \"$(cat \"$process/comm\" 2>/dev/null)\" = ensign-agent ]; then
        cd /sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' \"$process/cgroup\")
        exec cat memory.limit_in_bytes memory.max_usage_in_bytes
    fi
done
exit 1";
