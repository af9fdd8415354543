//! Which object to write now, which later, and which to leave to somebody else: the rules, without I/O.
//!
//! An object that was right and is not any more was changed by somebody. Once or twice that is put right at once: a
//! person's edit, an old controller's last write. Three times within a quarter of an hour is another writer, which is
//! named, and its objects are left to it for a while, each time longer: two controllers that overwrite each other
//! help nobody. A writer that is known from one namespace is recognised in the next by its first write.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::metrics::Tally;
use super::object::{Digest, Held, Target};

/// What is remembered of every object.
#[derive(Debug)]
pub(super) struct Plan {
    /// Our name in `managedFields`.
    manager: String,
    entries: HashMap<Target, Entry>,
}

/// What is wanted of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) digest: &'a Digest,
    pub(super) marked: Option<&'a str>,
}

/// A pass over all objects.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// To be written now.
    pub(super) due: Vec<Target>,
    /// When something else becomes due.
    pub(super) next: Option<Instant>,
    pub(super) tally: Tally,
    /// Writers that were recognised in this pass, each with one of its objects.
    pub(super) recognised: Vec<(String, Target)>,
}

#[derive(Debug, Default)]
struct Entry {
    /// What we know that it held by our doing.
    right: Option<Digest>,
    /// Our write may not show in the watch before this.
    unseen_until: Option<Instant>,
    /// The state that the write replaced: while the watch still shows it, the watch is behind.
    replaced: Option<String>,
    /// Nothing is tried before this.
    not_before: Option<Instant>,
    failures: u32,
    /// When others changed it.
    changed: Vec<Instant>,
    contest: Option<Contest>,
}

#[derive(Debug)]
struct Contest {
    writer: String,
    /// How long it is left alone.
    pause: Duration,
    /// When it was changed last.
    since: Instant,
}

// === impl Plan ===

impl Plan {
    pub(super) fn new(manager: String) -> Self {
        Self {
            manager,
            entries: HashMap::new(),
        }
    }

    /// Looks at every object that is wanted. Objects that are not wanted any more are forgotten.
    pub(super) fn pass<'a>(
        &mut self,
        targets: impl Iterator<Item = (Target, Option<&'a Held>, Wanted<'a>)>,
        now: Instant,
    ) -> Pass {
        let mut pass = Pass::default();
        let mut before = std::mem::take(&mut self.entries);
        let rivals: Vec<String> = before
            .values()
            .filter_map(|entry| Some(entry.contest.as_ref()?.writer.clone()))
            .collect();
        for (target, held, wanted) in targets {
            let mut entry = before.remove(&target).unwrap_or_default();
            pass.tally.wanted += 1;
            if entry.fits(held, wanted, now) {
                pass.tally.done += 1;
            } else {
                if let Some(writer) = entry.was_changed(held, wanted, &self.manager, now)
                    && entry.changed_by(&writer, rivals.contains(&writer), now)
                {
                    pass.recognised.push((writer, target.clone()));
                }
                match entry.waits_until(now) {
                    Some(until) => pass.next = Some(pass.next.map_or(until, |next| next.min(until))),
                    None => pass.due.push(target.clone()),
                }
            }
            self.entries.insert(target, entry);
        }
        pass
    }

    /// A write was accepted; the object was in state `replaced` when it was decided.
    pub(super) fn wrote(&mut self, target: &Target, digest: Digest, replaced: Option<String>, now: Instant) {
        let entry = self.entries.entry(target.clone()).or_default();
        entry.right = Some(digest);
        entry.replaced = Some(replaced.unwrap_or_default());
        entry.unseen_until = Some(now + UNSEEN);
        entry.failures = 0;
        entry.not_before = None;
    }

    /// A write failed; says how often in a row.
    pub(super) fn failed(&mut self, target: &Target, now: Instant) -> u32 {
        let entry = self.entries.entry(target.clone()).or_default();
        let pause = FIRST_PAUSE * 2_u32.saturating_pow(entry.failures.min(10));
        entry.failures = entry.failures.saturating_add(1);
        entry.not_before = Some(now + pause.min(LONGEST_PAUSE));
        entry.failures
    }

    /// Objects left to others, by writer.
    pub(super) fn contested(&self) -> BTreeMap<&str, usize> {
        let mut writers = BTreeMap::new();
        for contest in self.entries.values().filter_map(|entry| entry.contest.as_ref()) {
            *writers.entry(contest.writer.as_str()).or_default() += 1;
        }
        writers
    }
}

// === impl Entry ===

impl Entry {
    /// Whether it is as it should be. That it once was so is what tells a change from a beginning.
    fn fits(&mut self, held: Option<&Held>, wanted: Wanted<'_>, now: Instant) -> bool {
        let fits = held.is_some_and(|held| held.digest == *wanted.digest && held.marked.as_deref() == wanted.marked);
        if fits {
            self.right = Some(*wanted.digest);
            self.unseen_until = None;
            self.replaced = None;
            self.not_before = None;
            self.failures = 0;
            self.contest
                .take_if(|contest| now.saturating_duration_since(contest.since) > WINDOW.max(contest.pause));
        }
        fits
    }

    /// Who changed it since it was right; nobody if the roots are others now, or our write is still on its way to the watch.
    fn was_changed(&mut self, held: Option<&Held>, wanted: Wanted<'_>, manager: &str, now: Instant) -> Option<String> {
        if self.right.as_ref() != Some(wanted.digest) || self.unseen_until.is_some_and(|until| now < until) {
            return None;
        }
        let version = held.map(|held| held.version.clone()).unwrap_or_default();
        if self.replaced.as_ref() == Some(&version) {
            self.unseen_until = Some(now + UNSEEN);
            return None;
        }
        self.right = None;
        self.unseen_until = None;
        let Some(held) = held else {
            return Some(DELETED.to_owned());
        };
        let other = held.writers.iter().find(|writer| *writer != manager);
        // A mark that is gone has no writer.
        Some(other.map_or_else(|| UNKNOWN.to_owned(), String::clone))
    }

    /// Notes a change; says whether it makes the writer one that we leave it to for now.
    fn changed_by(&mut self, writer: &str, known: bool, now: Instant) -> bool {
        self.changed.retain(|at| now.saturating_duration_since(*at) <= WINDOW);
        self.changed.push(now);
        let enough = if known || self.contest.is_some() { 1 } else { CHANGES };
        if self.changed.len() < enough {
            return false;
        }
        let pause = self
            .contest
            .take()
            .map_or(FIRST_REST, |contest| (contest.pause * 2).min(LONGEST_REST));
        self.not_before = Some(now + pause);
        self.contest = Some(Contest {
            writer: writer.to_owned(),
            pause,
            since: now,
        });
        true
    }

    fn waits_until(&self, now: Instant) -> Option<Instant> {
        [self.not_before, self.unseen_until]
            .into_iter()
            .flatten()
            .max()
            .filter(|until| *until > now)
    }
}

/// Who is named when an object was deleted: it has no `managedFields` any more.
const DELETED: &str = "(deleted)";
/// Who is named when the label was taken off, whose manager is not looked for.
const UNKNOWN: &str = "(unknown)";
/// Changes by others within [`WINDOW`] that make a rival.
const CHANGES: usize = 3;
const WINDOW: Duration = Duration::from_mins(15);
/// How long a contested object is left alone, at first and at most.
const FIRST_REST: Duration = Duration::from_mins(5);
const LONGEST_REST: Duration = Duration::from_hours(1);
/// After a failed write.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// A watch is rarely so far behind.
const UNSEEN: Duration = Duration::from_secs(5);
