//! What is wrong with a coder of a pipeline's table, its components included.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use beam_model::pipeline::Coder;

/// How deep coders may nest; deeper ones are hostile, not useful.
const MAX_CODER_DEPTH: usize = 64;
/// How many faults of one coder are told.
const MAX_FAULTS: usize = 20;

/// A coder that cannot be used, and what of it, as the end of a sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CoderFault {
    pub(super) coder: String,
    pub(super) reason: &'static str,
}

/// The faults of coders. Each coder is looked at once: a short table in which coders share components
/// can stand for an exponentially large tree.
pub(super) struct CoderFaults<'a> {
    coders: &'a BTreeMap<String, Coder>,
    known: HashMap<String, Known>,
}

enum Known {
    /// Its components are being looked at.
    Open,
    /// How many coders deep it nests, and its faults.
    Seen(usize, BTreeSet<CoderFault>),
}

impl<'a> CoderFaults<'a> {
    pub(super) fn new(coders: &'a BTreeMap<String, Coder>) -> Self {
        Self { coders, known: HashMap::new() }
    }

    /// The faults of a coder and of all that it consists of.
    pub(super) fn of(&mut self, id: &str) -> BTreeSet<CoderFault> {
        let mut faults = BTreeSet::new();
        self.look(id, 0, &mut faults);
        faults
    }

    /// Adds the faults of a coder that stands `depth` coders deep, and returns how deep it nests.
    fn look(&mut self, id: &str, depth: usize, faults: &mut BTreeSet<CoderFault>) -> usize {
        let fault = |reason| CoderFault { coder: id.to_owned(), reason };
        match self.known.get(id) {
            Some(Known::Open) => {
                faults.insert(fault("is a part of itself"));
                return 0;
            }
            Some(Known::Seen(height, seen)) => {
                faults.extend(seen.iter().take(MAX_FAULTS.saturating_sub(faults.len())).cloned());
                if depth + height > MAX_CODER_DEPTH {
                    faults.insert(fault("nests too deep"));
                }
                return *height;
            }
            None if depth > MAX_CODER_DEPTH => {
                faults.insert(fault("nests too deep"));
                return 0;
            }
            None => {}
        }
        self.known.insert(id.to_owned(), Known::Open);
        let mut own = BTreeSet::new();
        let mut height = 0;
        match self.coders.get(id) {
            None => drop(own.insert(fault("is not in the pipeline"))),
            Some(coder) => {
                if coder.spec.as_ref().is_none_or(|spec| spec.urn.is_empty()) {
                    own.insert(fault("has no URN"));
                }
                for component in &coder.component_coder_ids {
                    height = height.max(1 + self.look(component, depth + 1, &mut own));
                }
            }
        }
        faults.extend(own.iter().take(MAX_FAULTS.saturating_sub(faults.len())).cloned());
        self.known.insert(id.to_owned(), Known::Seen(height, own));
        height
    }
}

/// Whether two coders encode alike: same URN, payload and components, whatever their ids.
pub(super) fn same_coder(coders: &BTreeMap<String, Coder>, a: &str, b: &str) -> bool {
    let mut open = vec![(a, b)];
    let mut compared = HashSet::new();
    while let Some((a, b)) = open.pop() {
        if a == b || !compared.insert((a, b)) {
            continue;
        }
        let (Some(left), Some(right)) = (coders.get(a), coders.get(b)) else { return false };
        if left.spec != right.spec || left.component_coder_ids.len() != right.component_coder_ids.len() {
            return false;
        }
        let components = left.component_coder_ids.iter().zip(&right.component_coder_ids);
        open.extend(components.map(|(x, y)| (x.as_str(), y.as_str())));
    }
    true
}
