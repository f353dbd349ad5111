//! Iterables that stay with the runner: workers get a token, and ask for the values when they need them
//! (`beam:coder:state_backed_iterable:v1`, `StateKey.Runner`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use beam_model::coders::varint;
use bytes::Bytes;

use crate::fault::Fault;
use crate::ports::{StatePage, StoredBlock};

/// The iterables of a job that any element refers to.
#[derive(Debug, Default)]
pub struct Iterables {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The token of the next one.
    next: u64,
    by_token: HashMap<Bytes, Weak<StoredIterable>>,
}

/// The values of one iterable. Whoever has an element that refers to it holds this; the last one who drops it frees the values.
#[derive(Debug)]
pub struct StoredIterable {
    token: Bytes,
    pages: Vec<StoredBlock>,
    iterables: Arc<Iterables>,
}

impl Iterables {
    /// Keeps an iterable. `pages`: encoded values one after another, whole ones in each.
    pub fn keep(self: &Arc<Self>, pages: Vec<StoredBlock>) -> Arc<StoredIterable> {
        let mut known = self.known();
        let token = Bytes::from(format!("iterable-{}", known.next));
        known.next += 1;
        let iterable = Arc::new(StoredIterable { token: token.clone(), pages, iterables: self.clone() });
        known.by_token.insert(token, Arc::downgrade(&iterable));
        iterable
    }

    /// A page of the iterable of a token, as [`crate::ports::StateHandler::get`] wants it.
    ///
    /// Errors: there is no such iterable, or it cannot be read back from disk.
    pub fn get(&self, token: &Bytes, continuation: &Bytes) -> Result<StatePage, Fault> {
        let iterable = self.known().by_token.get(token).and_then(Weak::upgrade);
        let unknown =
            || Fault::environment(format!("a worker asked for an iterable that is not there: {token:?}"));
        iterable.ok_or_else(unknown)?.page(continuation)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoredIterable {
    /// Appends the iterable as `beam:coder:state_backed_iterable:v1` has it: no values, of unknown number, but a token.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        varint::write_signed(out, -1);
        varint::write_prefixed(out, &self.token);
    }

    fn page(&self, continuation: &Bytes) -> Result<StatePage, Fault> {
        let number =
            if continuation.is_empty() { Some(0) } else { varint::read(continuation).ok().map(|(n, _)| n) };
        let number = number.and_then(|number| usize::try_from(number).ok());
        let Some((number, page)) = number.and_then(|number| Some((number, self.pages.get(number)?))) else {
            if continuation.is_empty() {
                return Ok(StatePage::default());
            }
            let token = &self.token;
            return Err(Fault::environment(format!(
                "a worker asked for a page that {token:?} does not have"
            )));
        };
        let mut next = Vec::new();
        if number + 1 < self.pages.len() {
            varint::write(&mut next, number as u64 + 1);
        }
        Ok(StatePage { data: page.read()?, continuation: next.into() })
    }
}

impl Drop for StoredIterable {
    fn drop(&mut self) {
        self.iterables.known().by_token.remove(&self.token);
    }
}
