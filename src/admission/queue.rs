//! Keeps those who wait in the order in which they came. Decides nothing and knows no clock.
//!
//! A first-in first-out list threaded through a slab: joining, leaving from the middle and taking the first are
//! O(1), and once the slab has grown to the longest queue seen, none of them allocates.

use slab::Slab;

/// A first-in first-out queue from whose middle anyone may leave.
///
/// An entry outlives its place in the line: [`unlink`](Self::unlink) takes it out of the line, and its key stays
/// good until [`remove`](Self::remove).
#[derive(Debug)]
pub(super) struct Queue<T> {
    entries: Slab<Entry<T>>,
    first: Option<usize>,
    last: Option<usize>,
    waiting: usize,
}

#[derive(Debug)]
struct Entry<T> {
    before: Option<usize>,
    after: Option<usize>,
    linked: bool,
    value: T,
}

impl<T> Queue<T> {
    pub(super) const fn new() -> Self {
        Self { entries: Slab::new(), first: None, last: None, waiting: 0 }
    }

    /// How many stand in line.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many entries there are, in line or not.
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn first(&self) -> Option<usize> {
        self.first
    }

    /// Joins the end of the line.
    pub(super) fn push(&mut self, value: T) -> usize {
        let key = self.entries.insert(Entry { before: self.last, after: None, linked: true, value });
        match self.last {
            Some(last) => self.entries[last].after = Some(key),
            None => self.first = Some(key),
        }
        self.last = Some(key);
        self.waiting += 1;
        key
    }

    /// Leaves the line, wherever in it; does nothing for one who has left it already.
    pub(super) fn unlink(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        if !entry.linked {
            return;
        }
        entry.linked = false;
        let (before, after) = (entry.before.take(), entry.after.take());
        match before {
            Some(before) => self.entries[before].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => self.entries[after].before = before,
            None => self.last = before,
        }
        self.waiting -= 1;
    }

    /// Forgets the entry, in line or not.
    pub(super) fn remove(&mut self, key: usize) -> T {
        self.unlink(key);
        self.entries.remove(key).value
    }

    pub(super) fn get(&self, key: usize) -> &T {
        &self.entries[key].value
    }

    pub(super) fn get_mut(&mut self, key: usize) -> &mut T {
        &mut self.entries[key].value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order(queue: &Queue<char>) -> String {
        let mut text = String::new();
        let mut at = queue.first();
        while let Some(key) = at {
            text.push(*queue.get(key));
            at = queue.entries[key].after;
        }
        assert_eq!(text.chars().count(), queue.waiting());
        text
    }

    #[test]
    fn anyone_may_leave_and_the_order_of_the_others_stays() {
        let mut queue = Queue::new();
        let keys: Vec<_> = "abcde".chars().map(|c| queue.push(c)).collect();
        queue.remove(keys[2]);
        assert_eq!(in_order(&queue), "abde");
        queue.unlink(keys[0]);
        assert_eq!(in_order(&queue), "bde");
        queue.unlink(keys[0]);
        queue.remove(keys[4]);
        assert_eq!(in_order(&queue), "bd");
        queue.push('f');
        assert_eq!(in_order(&queue), "bdf");
        assert_eq!(queue.remove(keys[0]), 'a');
        for key in [keys[1], keys[3]] {
            queue.remove(key);
        }
        assert_eq!(in_order(&queue), "f");
    }
}
