//! A bounded trie: the set of paths a job has touched, cut to prefixes when there are too many.

use std::collections::BTreeMap;

use beam_model::pipeline::{BoundedTrie, BoundedTrieNode};
use bytes::Bytes;
use prost::Message;

/// Segments of a path that are kept. A message nests twice for each, and readers of protobuf give up
/// at a nesting of 100.
const DEEPEST: usize = 40;
/// The bound of a trie that names none; the SDKs' default.
const DEFAULT_BOUND: usize = 100;

/// The value of a `beam:metrics:bounded_trie:v1`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trie {
    /// How many paths are kept at most.
    bound: usize,
    /// `None`: no path at all, which is not the same as the one empty path.
    root: Option<Node>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    /// Some paths with this prefix had more segments, but which ones is no longer known.
    truncated: bool,
    children: BTreeMap<String, Node>,
}

impl Trie {
    pub(super) fn decode(payload: &Bytes) -> Option<Self> {
        let proto = BoundedTrie::decode(payload.clone()).ok()?;
        let bound = usize::try_from(proto.bound).ok()?;
        let root = match proto.root {
            Some(root) => Some(Node::from_proto(root, 0)),
            None if proto.singleton.is_empty() => None,
            None => Some(Node::path(proto.singleton)),
        };
        let mut trie = Self { bound: if bound == 0 { DEFAULT_BOUND } else { bound }, root };
        trie.trim();
        Some(trie)
    }

    pub(super) fn encode(&self) -> Bytes {
        let (root, singleton) = match self.root.as_ref().map(|root| (root, root.only_path())) {
            None => (None, Vec::new()),
            Some((_, Some(path))) if !path.is_empty() => (None, path),
            Some((root, _)) => (Some(root.to_proto()), Vec::new()),
        };
        let bound = i32::try_from(self.bound).unwrap_or(i32::MAX);
        BoundedTrie { bound, root, singleton }.encode_to_vec().into()
    }

    pub(super) fn merge(&mut self, other: Trie) {
        self.bound = self.bound.min(other.bound);
        match (&mut self.root, other.root) {
            (_, None) => {}
            (None, root) => self.root = root,
            (Some(a), Some(b)) => a.merge(b),
        }
        self.trim();
    }

    fn trim(&mut self) {
        if let Some(root) = &mut self.root {
            let mut size = root.size();
            while size > self.bound && !root.children.is_empty() {
                root.trim();
                size = root.size();
            }
        }
    }
}

impl Node {
    fn path(segments: Vec<String>) -> Self {
        let mut node = Node { truncated: segments.len() > DEEPEST, children: BTreeMap::new() };
        for segment in segments.into_iter().take(DEEPEST).rev() {
            node = Node { truncated: false, children: BTreeMap::from([(segment, node)]) };
        }
        node
    }

    /// Goes no deeper than the protobuf reader did.
    fn from_proto(proto: BoundedTrieNode, depth: usize) -> Self {
        if proto.truncated || (depth >= DEEPEST && !proto.children.is_empty()) {
            return Node { truncated: true, children: BTreeMap::new() };
        }
        let children = proto.children.into_iter();
        let children = children.map(|(name, child)| (name, Node::from_proto(child, depth + 1)));
        Node { truncated: false, children: children.collect() }
    }

    fn to_proto(&self) -> BoundedTrieNode {
        let children = self.children.iter().map(|(name, child)| (name.clone(), child.to_proto()));
        BoundedTrieNode { truncated: self.truncated, children: children.collect() }
    }

    /// The path's segments, if this holds exactly one and that one whole.
    fn only_path(&self) -> Option<Vec<String>> {
        let mut path = Vec::new();
        let mut node = self;
        loop {
            if node.truncated || node.children.len() > 1 {
                return None;
            }
            match node.children.first_key_value() {
                None => return Some(path),
                Some((name, child)) => {
                    path.push(name.clone());
                    node = child;
                }
            }
        }
    }

    /// How many paths this holds; one for itself if it has no children.
    fn size(&self) -> usize {
        self.children.values().map(Node::size).sum::<usize>().max(1)
    }

    fn merge(&mut self, other: Node) {
        if self.truncated || other.truncated {
            *self = Node { truncated: true, children: BTreeMap::new() };
            return;
        }
        for (name, child) in other.children {
            match self.children.get_mut(&name) {
                Some(known) => known.merge(child),
                None => {
                    self.children.insert(name, child);
                }
            }
        }
    }

    /// Cuts below the deepest crowded prefix: always into the child that holds most.
    fn trim(&mut self) {
        let largest = self.children.values_mut().max_by_key(|child| child.size());
        match largest {
            None => {}
            Some(child) if child.size() > 1 => child.trim(),
            Some(_) => *self = Node { truncated: true, children: BTreeMap::new() },
        }
    }
}
