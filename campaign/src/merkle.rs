//! The Merkle tree that the grants of a campaign are claimed from, node for node as `OpenZeppelin`'s `StandardMerkleTree`
//! of `["uint256", "address", "uint256"]` builds it (<https://github.com/OpenZeppelin/merkle-tree>).
//!
//! Pure: no I/O. The same leaves give the same root in whatever order they come. A tree keeps hashes and no leaves: 64
//! bytes a leaf, and half as much again while it is built.
//!
//! That no id is in two leaves is the caller's to see to; the distributor pays an id once, whatever a tree says.

use alloy::primitives::{Address, B256, U256, keccak256};

/// A grant that can be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// The grant's id on chain.
    pub id: U256,
    /// Who is paid, whoever claims.
    pub to: Address,
    /// Base units. The distributor pays at most 96 bits.
    pub amount: U256,
}

impl Leaf {
    /// The leaf's hash, `keccak256(keccak256(abi.encode(id, to, amount)))`. It is hashed twice so that it hashes 32 bytes,
    /// and can never be what an inner node, which hashes 64, stands for.
    #[must_use]
    pub fn hash(&self) -> B256 {
        let mut encoded = [0; 96];
        encoded[..32].copy_from_slice(&self.id.to_be_bytes::<32>());
        encoded[32..64].copy_from_slice(self.to.into_word().as_slice());
        encoded[64..].copy_from_slice(&self.amount.to_be_bytes::<32>());
        keccak256(keccak256(encoded))
    }
}

/// A tree of at least one leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// A complete binary tree of `2 n - 1` nodes: the root is the first, the children of `i` are `2 i + 1` and `2 i + 2`,
    /// the leaves are the last `n`, the smallest hash at the very end.
    nodes: Box<[B256]>,
}

impl Tree {
    /// The tree of the leaves with these hashes; none without leaves.
    #[must_use]
    pub fn of(mut leaves: Vec<B256>) -> Option<Self> {
        leaves.sort_unstable();
        let inner = leaves.len().checked_sub(1)?;

        let mut nodes = Vec::with_capacity(inner + leaves.len());
        nodes.resize(inner, B256::ZERO);
        nodes.extend(leaves.iter().rev());
        drop(leaves);
        for parent in (0..inner).rev() {
            nodes[parent] = parent_of(nodes[2 * parent + 1], nodes[2 * parent + 2]);
        }
        Some(Self { nodes: nodes.into_boxed_slice() })
    }

    /// What is published on chain.
    #[must_use]
    pub fn root(&self) -> B256 {
        self.nodes[0]
    }

    /// How many leaves it has.
    #[must_use]
    pub fn leaves(&self) -> usize {
        self.nodes.len().div_ceil(2)
    }

    /// The proof of the leaf with this hash: its siblings up to the root, at most ⌈log₂ n⌉. None where there is no such
    /// leaf.
    #[must_use]
    pub fn proof(&self, leaf: B256) -> Option<Vec<B256>> {
        let inner = self.nodes.len() - self.leaves();
        let mut node = inner + self.nodes[inner..].binary_search_by(|hash| leaf.cmp(hash)).ok()?;
        let mut siblings = Vec::with_capacity(self.leaves().next_power_of_two().ilog2() as usize);
        while node != 0 {
            siblings.push(self.nodes[sibling(node)]);
            node = (node - 1) / 2;
        }
        Some(siblings)
    }
}

/// Whether the proof leads from the leaf to the root, as the distributor decides it.
#[must_use]
pub fn verify(root: B256, leaf: &Leaf, proof: &[B256]) -> bool {
    proof.iter().fold(leaf.hash(), |node, sibling| parent_of(node, *sibling)) == root
}

/// The smaller child comes first, so that a proof need not say on which side each sibling is.
fn parent_of(one: B256, other: B256) -> B256 {
    let mut children = [0; 64];
    children[..32].copy_from_slice(one.min(other).as_slice());
    children[32..].copy_from_slice(one.max(other).as_slice());
    keccak256(children)
}

/// The other child of this node's parent. A left child has an odd place.
fn sibling(node: usize) -> usize {
    if node.is_multiple_of(2) { node - 1 } else { node + 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        encoding: Vec<String>,
        trees: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        root: B256,
        leaves: Vec<VectorLeaf>,
        proofs: Vec<VectorProof>,
    }

    #[derive(Deserialize)]
    struct VectorLeaf {
        id: U256,
        to: Address,
        amount: U256,
    }

    #[derive(Deserialize)]
    struct VectorProof {
        position: usize,
        proof: Vec<B256>,
    }

    fn tree(leaves: &[Leaf]) -> Tree {
        Tree::of(leaves.iter().map(Leaf::hash).collect()).unwrap()
    }

    #[test]
    fn trees_and_proofs_are_the_librarys() {
        let vectors = include_str!("../../contracts/test/support/merkle_vectors.json");
        let vectors: Vectors = serde_json::from_str(vectors).unwrap();
        assert_eq!(vectors.encoding, ["uint256", "address", "uint256"]);
        for vector in &vectors.trees {
            let leaves: Vec<_> =
                vector.leaves.iter().map(|&VectorLeaf { id, to, amount }| Leaf { id, to, amount }).collect();
            let tree = tree(&leaves);
            assert_eq!((tree.root(), tree.leaves()), (vector.root, leaves.len()));
            for VectorProof { position, proof } in &vector.proofs {
                let hash = leaves[*position].hash();
                assert_eq!(tree.proof(hash).as_ref(), Some(proof), "leaf {position} of {}", leaves.len());
                assert!(verify(vector.root, &leaves[*position], proof));
            }
        }
        let sizes: Vec<_> = vectors.trees.iter().map(|vector| vector.leaves.len()).collect();
        assert_eq!(sizes, [1, 2, 3, 5, 8, 100]);
    }

    #[test]
    fn a_single_leaf_is_the_root_and_needs_no_proof() {
        let leaf = Leaf { id: U256::from(7), to: Address::repeat_byte(7), amount: U256::from(5) };
        let tree = tree(&[leaf]);
        assert_eq!(tree.root(), leaf.hash());
        assert_eq!(tree.proof(leaf.hash()), Some(vec![]));
        assert_eq!(tree.proof(B256::ZERO), None);
    }

    #[test]
    fn there_is_no_tree_without_leaves() {
        assert_eq!(Tree::of(vec![]), None);
    }

    #[test]
    fn equal_leaves_have_a_proof() {
        let leaf = Leaf { id: U256::from(7), to: Address::repeat_byte(7), amount: U256::from(5) };
        let tree = tree(&[leaf; 5]);
        assert!(verify(tree.root(), &leaf, &tree.proof(leaf.hash()).unwrap()));
    }

    fn leaf() -> impl Strategy<Value = Leaf> {
        (any::<[u8; 32]>(), any::<[u8; 20]>(), any::<u128>()).prop_map(|(id, to, amount)| Leaf {
            id: U256::from_be_bytes(id),
            to: Address::from(to),
            amount: U256::from(amount),
        })
    }

    proptest! {
        #[test]
        fn every_proof_verifies_and_none_verifies_another_leaf(leaves in prop::collection::vec(leaf(), 1..70)) {
            let tree = tree(&leaves);
            for (position, leaf) in leaves.iter().enumerate() {
                let proof = tree.proof(leaf.hash()).unwrap();
                prop_assert!(verify(tree.root(), leaf, &proof));
                prop_assert!(proof.len() <= leaves.len().next_power_of_two().ilog2() as usize);
                let next = (position + 1) % leaves.len();
                prop_assert_eq!(verify(tree.root(), &leaves[next], &proof), next == position);
            }
            prop_assert_eq!(tree.proof(B256::ZERO), None);
        }

        #[test]
        fn a_changed_leaf_is_not_in_the_tree(
            leaves in prop::collection::vec(leaf(), 1..70),
            position in any::<prop::sample::Index>(),
            bit in 0..256_usize,
        ) {
            let tree = tree(&leaves);
            let leaf = leaves[position.index(leaves.len())];
            let proof = tree.proof(leaf.hash()).unwrap();
            let mask = U256::ONE << bit;
            let mut to = leaf.to;
            to[bit / 8 % 20] ^= 1 << (bit % 8);
            let changed =
                [Leaf { id: leaf.id ^ mask, ..leaf }, Leaf { to, ..leaf }, Leaf { amount: leaf.amount ^ mask, ..leaf }];
            for leaf in changed {
                prop_assert!(!verify(tree.root(), &leaf, &proof), "{leaf:?}");
                prop_assert_eq!(tree.proof(leaf.hash()), None);
            }
        }

        #[test]
        fn a_changed_proof_leads_elsewhere(
            leaves in prop::collection::vec(leaf(), 2..70),
            position in any::<prop::sample::Index>(),
            level in any::<prop::sample::Index>(),
            bit in 0..256_usize,
        ) {
            let tree = tree(&leaves);
            let position = position.index(leaves.len());
            let mut proof = tree.proof(leaves[position].hash()).unwrap();
            let level = level.index(proof.len());
            proof[level][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verify(tree.root(), &leaves[position], &proof));
            proof.remove(level);
            prop_assert!(!verify(tree.root(), &leaves[position], &proof));
        }

        #[test]
        fn the_order_of_the_leaves_does_not_matter(leaves in prop::collection::vec(leaf(), 1..70), by in 0..70_usize) {
            let mut turned = leaves.clone();
            turned.rotate_left(by % leaves.len());
            prop_assert_eq!(tree(&leaves), tree(&turned));
        }
    }
}
