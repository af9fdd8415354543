//! Everything that the programs let out: what they print and answer, what the kernel shows of them, what they write.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ensign_testkit::metrics::get;

use ensign_testkit::leak::{Search, Secrets};

/// Texts by their place.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    items: Vec<(String, Vec<u8>)>,
}

impl Evidence {
    pub(crate) fn add(&mut self, place: &str, text: impl Into<Vec<u8>>) {
        self.items.push((place.to_owned(), text.into()));
    }

    /// Headers and body of one page.
    pub(crate) async fn page(&mut self, address: SocketAddr, path: &str, accept: Option<&str>) {
        let answer = get(address, path, accept).await.unwrap();
        self.add(
            &format!("{path} {accept:?}"),
            format!("{}\n{}", answer.headers, answer.body),
        );
    }

    /// What the kernel shows of a process: its environment and command line, and everything else that is text.
    pub(crate) fn process(&mut self, name: &str, pid: u32) {
        for file in [
            "environ",
            "cmdline",
            "comm",
            "status",
            "maps",
            "stat",
            "limits",
            "mountinfo",
        ] {
            let place = format!("/proc/<{name}>/{file}");
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            self.add(&place, text);
        }
    }

    /// Every file below a folder; gives the number of files.
    pub(crate) fn files(&mut self, folder: &Path) -> usize {
        let mut count = 0;
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    let below = path.strip_prefix(folder).unwrap().display().to_string();
                    // The name is written too.
                    let text = [below.as_bytes(), b"\n", &fs::read(&path).unwrap()].concat();
                    self.add(&format!("file {below}"), text);
                    count += 1;
                }
            }
        }
        count
    }

    /// The places that a secret was found in, each with what was found. `own` tells where a secret belongs.
    pub(crate) fn finds(&self, secrets: &Secrets, own: impl Fn(&str, &str) -> bool) -> Vec<String> {
        let search = Search::new(secrets);
        let mut all = Vec::new();
        for (place, text) in &self.items {
            for find in search.find(text).into_iter().filter(|find| !own(place, &find.secret)) {
                all.push(format!("{place}: {} as {}: …{}…", find.secret, find.form, find.context));
            }
        }
        all
    }

    /// Panics if a secret is anywhere but where it belongs.
    #[track_caller]
    pub(crate) fn assert_clean(&self, secrets: &Secrets, own: impl Fn(&str, &str) -> bool) {
        let finds = self.finds(secrets, own);
        let mut text = String::new();
        for find in finds.iter().take(20) {
            let _ = writeln!(text, "- {find}");
        }
        assert!(finds.is_empty(), "{} leaks:\n{text}", finds.len());
    }

    /// All of one kind of place.
    pub(crate) fn bytes_of(&self, place: &str) -> usize {
        let of = self.items.iter().filter(|(name, _)| name.starts_with(place));
        of.map(|(_, text)| text.len()).sum()
    }
}

/// The private keys of self-made CAs in a world's folder: path below the folder, and PEM.
pub(crate) fn ca_keys(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("ca-key.pem"));
    let keys = entries.filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)));
    keys.map(|(path, pem)| (path.strip_prefix(folder).unwrap().to_owned(), pem))
        .collect()
}
