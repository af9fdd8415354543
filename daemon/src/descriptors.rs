//! Room for sockets: how many files the process may have open.
//!
//! systemd and container runtimes start a process with a soft limit of 1,024, for the sake of select(2), and a hard one far
//! above it; who serves many sockets raises the soft one himself (systemd.exec(5), `LimitNOFILE=`). We use no select(2).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one and says what counts from now on. Where that is refused, all stays as it was.
pub fn raise() -> Limit {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => Limit(limit.maximum),
        Err(_) => Limit(limit.current),
    }
}

/// How many files the process may have open; none: as many as the kernel can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<u64>);

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(files) => write!(f, "{files}"),
            None => f.write_str("unlimited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let low = Rlimit {
            current: Some(256),
            maximum: hard,
        };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(raise(), Limit(hard));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
