//! Keeps private keys out of core dumps and away from debuggers of the same user.
//!
//! Owns the two process settings that do this. They must be made before anything else in `main`,
//! so that there is no moment in which a key exists and the process is dumpable. Sandboxing by file
//! and system call is left to the deployment.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Why the process could not be made safe for keys; the program must not go on.
#[derive(Debug, thiserror::Error)]
pub enum HardeningError {
    /// `RLIMIT_CORE` could not be set to 0.
    #[error("cannot set the core file limit to 0")]
    CoreLimit(#[source] rustix::io::Errno),
    /// `PR_SET_DUMPABLE` could not be cleared.
    #[error("cannot make the process non-dumpable (PR_SET_DUMPABLE)")]
    Dumpable(#[source] rustix::io::Errno),
}

/// Forbids core files, `ptrace` and `/proc/<pid>/mem` by others than root for this process.
pub fn harden() -> Result<(), HardeningError> {
    // Soft and hard: what we start, or a later `setrlimit`, cannot raise it again.
    let no_core = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, no_core).map_err(HardeningError::CoreLimit)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(HardeningError::Dumpable)
}

#[cfg(test)]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    #[test]
    fn no_core_and_not_dumpable() {
        super::harden().unwrap();
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
