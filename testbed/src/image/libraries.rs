//! Which shared libraries a program needs: those that the loader of this machine would bring it, the loader included.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use super::run;

/// In the order in which the loader names them; none for a static program.
pub(super) fn of(binary: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut magic = [0; 4];
    File::open(binary)
        .and_then(|mut file| file.read_exact(&mut magic))
        .with_context(|| format!("cannot read {}", binary.display()))?;
    if magic != *b"\x7fELF" {
        bail!("{} is no ELF program", binary.display());
    }
    // A static program makes ldd fail, and say so.
    let text = match run(Command::new("ldd").arg(binary).env("LC_ALL", "C")) {
        Ok(text) => text,
        Err(error) if format!("{error:#}").contains("not a dynamic executable") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!(
            "{} lacks a library on this machine: {}",
            binary.display(),
            missing.trim()
        );
    }
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_with_its_loader_and_libc() {
        let found = of(&std::env::current_exe().unwrap()).unwrap();
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert!(names.iter().any(|name| name.starts_with("ld-linux")), "{names:?}");
        assert!(names.contains(&"libc.so.6"), "{names:?}");
    }

    #[test]
    fn a_script_is_no_program() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(of(&script).unwrap_err().to_string().contains("no ELF program"));
    }
}
