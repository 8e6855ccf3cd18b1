//! Slots for those who hold something open: so many in all, and so many of one
//! client, so that no client keeps the others out. A slot is free again when it
//! is dropped. Never waits.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    All,
    /// This client has as many as one may have.
    Client,
}

pub(crate) struct Slots<K> {
    max: usize,
    of_one_max: usize,
    taken: Arc<Mutex<Occupied<K>>>,
}

struct Occupied<K> {
    all: usize,
    by: HashMap<K, usize>,
}

pub(crate) struct Slot<K: Eq + Hash> {
    client: K,
    taken: Arc<Mutex<Occupied<K>>>,
}

impl<K: Clone + Eq + Hash> Slots<K> {
    pub(crate) fn new(max: usize, of_one_max: usize) -> Self {
        let taken = Occupied { all: 0, by: HashMap::new() };
        Self { max, of_one_max, taken: Arc::new(Mutex::new(taken)) }
    }

    pub(crate) fn take(&self, client: K) -> Result<Slot<K>, Full> {
        let mut taken = lock(&self.taken);
        if taken.all >= self.max {
            return Err(Full::All);
        }
        let of_one = taken.by.get(&client).copied().unwrap_or(0);
        if of_one >= self.of_one_max {
            return Err(Full::Client);
        }
        taken.all += 1;
        taken.by.insert(client.clone(), of_one + 1);
        Ok(Slot { client, taken: Arc::clone(&self.taken) })
    }

    pub(crate) fn taken(&self) -> usize {
        lock(&self.taken).all
    }
}

impl<K: Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all = taken.all.saturating_sub(1);
        if let Some(of_one) = taken.by.get_mut(&self.client) {
            *of_one -= 1;
            if *of_one == 0 {
                taken.by.remove(&self.client);
            }
        }
    }
}

fn lock<K>(taken: &Mutex<Occupied<K>>) -> MutexGuard<'_, Occupied<K>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_never_takes_all_and_a_dropped_slot_is_free() {
        let slots = Slots::new(3, 2);
        let first = slots.take("a").ok().unwrap();
        let _second = slots.take("a").ok().unwrap();
        assert_eq!(slots.take("a").err(), Some(Full::Client));
        let _third = slots.take("b").ok().unwrap();
        assert_eq!(slots.take("c").err(), Some(Full::All));
        drop(first);
        assert_eq!(slots.taken(), 2);
        assert!(slots.take("a").is_ok());
    }
}
