//! What the kernel says of a process and of the machine.

use std::time::Duration;

use anyhow::Context;

/// Memory of a process, in kB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident, the program's own pages in the page cache included.
    pub(crate) rss: u64,
    /// Resident and private to it: heap and stacks.
    pub(crate) anon: u64,
}

/// `VmRSS` and `RssAnon`.
pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("{path} has no {name}"))
    };
    Ok(Memory {
        rss: field("VmRSS:")?,
        anon: field("RssAnon:")?,
    })
}

/// Processor time that a process has used, of all its threads.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // Fields 14 and 15; the second field is the name, which may hold anything, in parentheses.
    let (_, after) = text.rsplit_once(") ").context("no name in it")?;
    let ticks: u64 = after
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Ticks of the machine's processors so far: all, and those that the host took away.
pub(crate) fn steal() -> anyhow::Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let first = text.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    Ok((fields.iter().sum(), fields.get(7).copied().unwrap_or_default()))
}

/// `USER_HZ`, which Linux fixes at 100 for every architecture that we run on.
const TICKS_PER_SECOND: u64 = 100;
