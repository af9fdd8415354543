//! Who waits, and whose turn is next: round robin over namespaces, first come, first served within one.
//!
//! A namespace that joins takes its turn after one turn of each that waits already, however many requests those have.
//! Joining, leaving and being called cost the same however many wait. Nothing of those who left stays behind.

use std::fmt;
use std::sync::Arc;

use hashlink::LinkedHashMap;

/// Whatever waits, by namespace.
pub(super) struct FairQueue<T> {
    /// The namespace whose turn is next is in front. No lane is empty.
    lanes: LinkedHashMap<Arc<str>, LinkedHashMap<u64, T>>,
    length: usize,
    next: u64,
}

/// A place in the queue, to leave it by.
#[derive(Debug)]
pub(super) struct Place {
    namespace: Arc<str>,
    number: u64,
}

// === impl FairQueue ===

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        Self {
            lanes: LinkedHashMap::new(),
            length: 0,
            next: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Joins at the end of the namespace's lane.
    pub(super) fn join(&mut self, namespace: &str, value: T) -> Place {
        let number = self.next;
        self.next += 1;
        self.length += 1;
        let namespace: Arc<str> = if let Some((known, _)) = self.lanes.get_key_value(namespace) {
            Arc::clone(known)
        } else {
            let new: Arc<str> = namespace.into();
            self.lanes.insert(Arc::clone(&new), LinkedHashMap::new());
            new
        };
        // Not by `entry`, which moves the lane to the back: a namespace would lose its turn with each that joins.
        if let Some(lane) = self.lanes.get_mut(&namespace) {
            lane.insert(number, value);
        }
        Place { namespace, number }
    }

    /// Leaves; `None` if it was called or turned out before.
    pub(super) fn leave(&mut self, place: &Place) -> Option<T> {
        let lane = self.lanes.get_mut(&place.namespace)?;
        let value = lane.remove(&place.number)?;
        if lane.is_empty() {
            self.lanes.remove(&place.namespace);
        }
        self.length -= 1;
        Some(value)
    }

    /// Calls whose turn it is, and gives the next turn to another namespace.
    pub(super) fn call(&mut self) -> Option<T> {
        let namespace = Arc::clone(self.lanes.front()?.0);
        let lane = self.lanes.to_back(&namespace)?;
        let (_, value) = lane.pop_front()?;
        if lane.is_empty() {
            self.lanes.remove(&namespace);
        }
        self.length -= 1;
        Some(value)
    }

    /// Turns out the newest of the namespace with the most waiting, for one of `namespace`; `None` if that namespace
    /// itself would have as many: then it is the newcomer that finds no room.
    ///
    /// Looks at each namespace once: this is for a queue that is full.
    pub(super) fn make_room_for(&mut self, namespace: &str) -> Option<T> {
        let (longest, lane) = self.lanes.iter_mut().max_by_key(|(_, lane)| lane.len())?;
        let (longest, length) = (Arc::clone(longest), lane.len());
        let own = self.lanes.get(namespace).map_or(0, LinkedHashMap::len);
        if own + 1 >= length {
            return None;
        }
        let (_, value) = self.lanes.get_mut(&longest)?.pop_back()?;
        self.length -= 1;
        Some(value)
    }
}

impl<T> fmt::Debug for FairQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairQueue")
            .field("namespaces", &self.lanes.len())
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn calls(queue: &mut FairQueue<String>) -> Vec<String> {
        std::iter::from_fn(|| queue.call()).collect()
    }

    fn queue_of(namespaces: &str) -> (FairQueue<String>, Vec<Place>) {
        let mut queue = FairQueue::new();
        let join = |(number, namespace): (usize, char)| {
            let namespace = namespace.to_string();
            queue.join(&namespace, format!("{namespace}{number}"))
        };
        let places = namespaces.chars().enumerate().map(join).collect();
        (queue, places)
    }

    #[test]
    fn namespaces_take_turns_and_each_is_first_come_first_served() {
        let (mut queue, _) = queue_of("aaabba");
        assert_eq!(calls(&mut queue), ["a0", "b3", "a1", "b4", "a2", "a5"]);
    }

    #[test]
    fn a_namespace_with_5000_waiting_delays_anothers_first_by_one_turn() {
        let (mut queue, _) = queue_of(&"a".repeat(5000));
        queue.call();
        queue.join("b", "b".to_owned());
        let next = [queue.call().unwrap(), queue.call().unwrap()];
        assert_eq!(next[1], "b", "{next:?}");
    }

    #[test]
    fn who_left_is_not_called_and_takes_no_room() {
        let (mut queue, places) = queue_of("abab");
        assert_eq!(queue.leave(&places[0]).unwrap(), "a0");
        assert!(queue.leave(&places[0]).is_none());
        queue.leave(&places[1]).unwrap();
        assert_eq!(queue.len(), 2);
        assert_eq!(calls(&mut queue), ["a2", "b3"]);
        assert!(queue.leave(&places[2]).is_none());
        assert!(queue.is_empty() && queue.lanes.is_empty());
    }

    #[test]
    fn room_is_made_by_the_newest_of_the_longest() {
        let (mut queue, _) = queue_of("aaaab");
        assert_eq!(queue.make_room_for("b").unwrap(), "a3");
        queue.join("b", "b5".to_owned());
        // Three and two: after another there would be no longest but its own.
        assert!(queue.make_room_for("b").is_none());
        assert!(queue.make_room_for("a").is_none());
        assert_eq!(queue.make_room_for("c").unwrap(), "a2");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(u8),
        Leave(usize),
        Call,
        MakeRoom(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u8..5).prop_map(Step::Join),
            2 => any::<usize>().prop_map(Step::Leave),
            3 => Just(Step::Call),
            1 => (0u8..5).prop_map(Step::MakeRoom),
        ];
        proptest::collection::vec(step, 0..200)
    }

    /// The same rules with nothing but lists.
    #[derive(Default)]
    struct Model {
        turns: VecDeque<u8>,
        lanes: BTreeMap<u8, VecDeque<u32>>,
    }

    impl Model {
        fn take(&mut self, namespace: u8, at: usize) -> u32 {
            let lane = self.lanes.get_mut(&namespace).unwrap();
            let value = lane.remove(at).unwrap();
            if lane.is_empty() {
                self.lanes.remove(&namespace);
                self.turns.retain(|turn| *turn != namespace);
            }
            value
        }
    }

    proptest! {
        #[test]
        fn it_does_what_plain_lists_do(steps in steps()) {
            let (mut queue, mut model) = (FairQueue::new(), Model::default());
            let mut places: Vec<(u8, u32, Place)> = Vec::new();
            for (value, step) in (0u32..).zip(steps) {
                match step {
                    Step::Join(namespace) => {
                        places.push((namespace, value, queue.join(&namespace.to_string(), value)));
                        if !model.turns.contains(&namespace) {
                            model.turns.push_back(namespace);
                        }
                        model.lanes.entry(namespace).or_default().push_back(value);
                    }
                    Step::Leave(pick) if !places.is_empty() => {
                        let (namespace, value, place) = &places[pick % places.len()];
                        let lane = model.lanes.get(namespace);
                        let at = lane.and_then(|lane| lane.iter().position(|other| other == value));
                        let expected = at.map(|at| model.take(*namespace, at));
                        prop_assert_eq!(queue.leave(place), expected);
                    }
                    Step::Leave(_) => {}
                    Step::Call => {
                        let expected = model.turns.pop_front().map(|namespace| {
                            model.turns.push_back(namespace);
                            model.take(namespace, 0)
                        });
                        prop_assert_eq!(queue.call(), expected);
                    }
                    Step::MakeRoom(namespace) => {
                        let own = model.lanes.get(&namespace).map_or(0, VecDeque::len);
                        let longest = model.lanes.values().map(VecDeque::len).max().unwrap_or(0);
                        let out = queue.make_room_for(&namespace.to_string());
                        prop_assert_eq!(out.is_some(), own + 1 < longest);
                        if let Some(out) = out {
                            let (&from, lane) = model.lanes.iter().find(|(_, lane)| lane.back() == Some(&out)).unwrap();
                            let last = lane.len() - 1;
                            prop_assert_eq!(last + 1, longest);
                            model.take(from, last);
                        }
                    }
                }
                prop_assert_eq!(queue.len(), model.lanes.values().map(VecDeque::len).sum::<usize>());
                prop_assert_eq!(queue.lanes.len(), model.lanes.len());
            }
        }
    }
}
