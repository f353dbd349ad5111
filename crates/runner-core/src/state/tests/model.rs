//! Random requests of many bundles, some of which are given up, against maps and vectors.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

/// What a request may be about. Everything small, so that requests meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    window: u8,
    key: u8,
}

#[derive(Clone, Debug)]
enum Op {
    BagAppend(Vec<u8>),
    BagClear,
    MapAppend(u8, Vec<u8>),
    MapClearKey(u8),
    MapClear,
    ListAppend(Vec<(i64, Vec<u8>)>),
    ListClear(i64, i64),
}

#[derive(Clone, Debug)]
enum Step {
    /// By the bundle that has the key.
    Do(Place, Op),
    Commit(usize),
    GiveUp(usize),
    /// Takes out of memory what can be.
    MakeRoom,
    /// Only if the bundle that has the key has written nothing.
    Expire(Place),
}

/// Two bundles at a time: one of the even keys, one of the odd.
const BUNDLES: usize = 2;

#[derive(Clone, Debug, Default)]
struct Model {
    bag: Vec<u8>,
    map: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    list: Vec<(i64, Vec<u8>)>,
}

impl Model {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::BagAppend(data) => self.bag.extend(data),
            Op::BagClear => self.bag.clear(),
            Op::MapAppend(key, value) => self.map.entry(nested(&[*key])).or_default().push(nested(value)),
            Op::MapClearKey(key) => drop(self.map.remove(&nested(&[*key]))),
            Op::MapClear => self.map.clear(),
            Op::ListAppend(elements) => {
                self.list.extend(elements.clone());
                self.list.sort_by_key(|(key, _)| *key);
            }
            Op::ListClear(start, end) => self.list.retain(|(key, _)| !(start..end).contains(&key)),
        }
    }

    fn range(&self, start: i64, end: i64) -> Vec<u8> {
        let elements = self.list.iter().filter(|(key, _)| (start..end).contains(key));
        elements.flat_map(|(key, value)| element(*key, value)).collect()
    }

    fn entries(&self) -> Vec<u8> {
        let entry = |(key, values): (&Vec<u8>, &Vec<Vec<u8>>)| {
            [&key[..], &(values.len() as i32).to_be_bytes(), &values.concat()].concat()
        };
        self.map.iter().flat_map(entry).collect()
    }

    fn bytes(&self) -> usize {
        let map = self.map.iter().map(|(key, values)| key.len() + values.concat().len());
        self.bag.len() + map.sum::<usize>() + self.range(i64::MIN, i64::MAX).len()
    }
}

fn nested(bytes: &[u8]) -> Vec<u8> {
    let mut nested = Vec::new();
    varint::write_prefixed(&mut nested, bytes);
    nested
}

impl Place {
    fn bundle(self) -> usize {
        usize::from(self.key) % BUNDLES
    }

    /// The key of a request, put in this place.
    fn of(self, key: StateKey) -> StateKey {
        let (at, of) = (bytes(&[self.window]), bytes(&[self.key]));
        match key {
            StateKey::BagUserState { transform_id, state_id, .. } => {
                StateKey::BagUserState { transform_id, state_id, window: at, key: of }
            }
            StateKey::MultimapUserState { transform_id, state_id, map_key, .. } => {
                StateKey::MultimapUserState { transform_id, state_id, window: at, key: of, map_key }
            }
            StateKey::MultimapKeysUserState { transform_id, state_id, .. } => {
                StateKey::MultimapKeysUserState { transform_id, state_id, window: at, key: of }
            }
            StateKey::MultimapEntriesUserState { transform_id, state_id, .. } => {
                StateKey::MultimapEntriesUserState { transform_id, state_id, window: at, key: of }
            }
            StateKey::OrderedListUserState { transform_id, state_id, start, end, .. } => {
                StateKey::OrderedListUserState { transform_id, state_id, window: at, key: of, start, end }
            }
            other => panic!("{other:?} is no user state"),
        }
    }
}

fn request(bundle: &BundleState, place: Place, op: &Op) {
    let multimap = |key: u8| place.of(map_key("multimap", &nested(&[key])));
    let asked = match op {
        Op::BagAppend(data) => bundle.append(&place.of(bag(b"")), bytes(data)),
        Op::BagClear => bundle.clear(&place.of(bag(b""))),
        Op::MapAppend(key, value) => bundle.append(&multimap(*key), nested(value).into()),
        Op::MapClearKey(key) => bundle.clear(&multimap(*key)),
        Op::MapClear => bundle.clear(&place.of(map_keys("multimap"))),
        Op::ListAppend(elements) => {
            let data: Vec<u8> = elements.iter().flat_map(|(key, value)| element(*key, value)).collect();
            bundle.append(&place.of(list(0, 0)), data.into())
        }
        Op::ListClear(start, end) => bundle.clear(&place.of(list(*start, *end))),
    };
    asked.unwrap();
}

fn check(bundle: &BundleState, place: Place, model: &Model) {
    let get = |key: StateKey| read(bundle, &place.of(key));
    assert_eq!(get(bag(b"")), model.bag, "bag");
    assert_eq!(get(map_keys("multimap")), model.map.keys().flatten().copied().collect::<Vec<_>>(), "keys");
    for key in 0..4 {
        let values = model.map.get(&nested(&[key])).map(|values| values.concat()).unwrap_or_default();
        assert_eq!(get(map_key("multimap", &nested(&[key]))), values, "values of {key}");
    }
    assert_eq!(get(map_entries("multimap")), model.entries(), "entries");
    for (start, end) in [(i64::MIN, i64::MAX), (-2, 3), (0, 1), (5, i64::MAX), (2, 2)] {
        assert_eq!(get(list(start, end)), model.range(start, end), "from {start} to {end}");
    }
    for page in pages(bundle, &place.of(list(i64::MIN, i64::MAX))) {
        let mut rest = &page[..];
        while !rest.is_empty() {
            let (_, key) = varint::read_signed(rest).unwrap();
            let (_, value) = varint::read_prefixed(&rest[key..]).expect("a page of whole elements");
            rest = &rest[key + value..];
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let data = || prop::collection::vec(any::<u8>(), 0..20);
    let sort_key = -4_i64..8;
    prop_oneof![
        4 => data().prop_map(Op::BagAppend),
        1 => Just(Op::BagClear),
        4 => (0..4_u8, data()).prop_map(|(key, value)| Op::MapAppend(key, value)),
        1 => (0..4_u8).prop_map(Op::MapClearKey),
        1 => Just(Op::MapClear),
        4 => prop::collection::vec((sort_key.clone(), data()), 0..4).prop_map(Op::ListAppend),
        2 => (sort_key.clone(), sort_key).prop_map(|(start, end)| Op::ListClear(start, end)),
        1 => Just(Op::ListClear(i64::MIN, i64::MAX)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..2_u8, 0..4_u8).prop_map(|(window, key)| Place { window, key });
    prop_oneof![
        12 => (place(), op()).prop_map(|(place, op)| Step::Do(place, op)),
        2 => (0..BUNDLES).prop_map(Step::Commit),
        1 => (0..BUNDLES).prop_map(Step::GiveUp),
        1 => Just(Step::MakeRoom),
        1 => place().prop_map(Step::Expire),
    ]
}

#[derive(Default)]
struct Written(HashMap<Place, Model>);

/// Does all of it, and compares what is there with the model.
fn run(steps: &[Step], storage: Arc<dyn Storage>) {
    let store = store_in(storage);
    let mut committed: HashMap<Place, Model> = HashMap::new();
    let mut bundles: Vec<_> = (0..BUNDLES).map(|_| (store.begin(), Written::default())).collect();
    for step in steps {
        match step {
            Step::Do(place, op) => {
                let (bundle, written) = &mut bundles[place.bundle()];
                let before = committed.get(place).cloned().unwrap_or_default();
                let model = written.0.entry(*place).or_insert(before);
                request(bundle, *place, op);
                model.apply(op);
                check(bundle, *place, model);
            }
            Step::Commit(index) => {
                let (bundle, written) = &mut bundles[*index];
                bundle.commit();
                committed.extend(std::mem::take(&mut written.0));
            }
            Step::GiveUp(index) => bundles[*index] = (store.begin(), Written::default()),
            Step::MakeRoom => store.make_room().unwrap(),
            Step::Expire(place) => {
                let in_use = |written: &Written| written.0.keys().any(|used| used.window == place.window);
                if !bundles.iter().any(|(_, written)| in_use(written)) {
                    store.expire(|window| window == [place.window]);
                    committed.retain(|other, _| other.window != place.window);
                }
            }
        }
    }
    let bytes = committed.values().map(Model::bytes).filter(|bytes| *bytes > 0).map(|bytes| bytes + 2);
    assert_eq!(store.bytes(), bytes.sum::<usize>() as u64);
    store.make_room().unwrap();
    let reader = store.begin();
    for (window, key) in (0..2).flat_map(|window| (0..4).map(move |key| (window, key))) {
        let place = Place { window, key };
        check(&reader, place, &committed.get(&place).cloned().unwrap_or_default());
    }
    store.expire(|_| true);
    assert_eq!((store.bytes(), store.cells()), (0, 0));
}

proptest! {
    #[test]
    fn state_is_what_a_naive_model_says(steps in prop::collection::vec(step(), 1..80)) {
        run(&steps, MemoryStorage::unlimited());
    }

    #[test]
    fn state_that_is_never_in_memory_is_what_a_naive_model_says(steps in prop::collection::vec(step(), 1..80)) {
        let storage = SpillingStorage::new();
        run(&steps, storage.clone());
        prop_assert_eq!((storage.budget().used(), storage.budget().on_disk()), (0, 0));
    }
}
