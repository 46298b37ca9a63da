// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// @notice What a grant's claim says.
struct Leaf {
    uint256 id;
    address to;
    uint256 amount;
}

/// @notice Builds trees of claims, node for node as OpenZeppelin's StandardMerkleTree does.
library ClaimTree {
    function hash(Leaf memory leaf) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(leaf.id, leaf.to, leaf.amount))));
    }

    function root(Leaf[] memory leaves) internal pure returns (bytes32) {
        return nodes(leaves)[0];
    }

    function proof(Leaf[] memory leaves, uint256 position) internal pure returns (bytes32[] memory siblings) {
        bytes32[] memory all = nodes(leaves);
        siblings = new bytes32[](leaves.length);
        uint256 node = all.length - 1 - rank(leaves, position);
        uint256 depth;
        for (; node != 0; node = (node - 1) / 2) {
            siblings[depth++] = all[node % 2 == 0 ? node - 1 : node + 1];
        }
        assembly ("memory-safe") {
            mstore(siblings, depth)
        }
    }

    /// @notice One leaf of a tree of up to `2^depth`, whose other leaves nobody knows.
    function path(Leaf memory leaf, uint256 depth) internal pure returns (bytes32 top, bytes32[] memory siblings) {
        top = hash(leaf);
        siblings = new bytes32[](depth);
        for (uint256 i; i < depth; ++i) {
            siblings[i] = keccak256(abi.encode("sibling", i));
            top = Hashes.commutativeKeccak256(top, siblings[i]);
        }
    }

    /// @dev A complete binary tree in an array: the children of `i` are `2 i + 1` and `2 i + 2`, the leaves lie at the end,
    /// the smallest hash last.
    function nodes(Leaf[] memory leaves) private pure returns (bytes32[] memory all) {
        all = new bytes32[](2 * leaves.length - 1);
        for (uint256 i; i < leaves.length; ++i) {
            all[all.length - 1 - rank(leaves, i)] = hash(leaves[i]);
        }
        for (uint256 i = leaves.length - 1; i > 0; --i) {
            all[i - 1] = Hashes.commutativeKeccak256(all[2 * i - 1], all[2 * i]);
        }
    }

    function rank(Leaf[] memory leaves, uint256 position) private pure returns (uint256 smaller) {
        bytes32 own = hash(leaves[position]);
        for (uint256 i; i < leaves.length; ++i) {
            bytes32 other = hash(leaves[i]);
            if (other < own || (other == own && i < position)) ++smaller;
        }
    }
}
