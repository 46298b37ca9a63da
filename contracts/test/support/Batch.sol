// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @notice Packs batches in the distributor's format.
library Batch {
    function group(bytes32 campaign, uint192 prefix, uint16 count) internal pure returns (bytes memory) {
        return abi.encodePacked(campaign, prefix, count);
    }

    function item(uint64 low, address to, uint96 amount) internal pure returns (bytes memory) {
        return abi.encodePacked(low, to, amount);
    }

    /// @notice A batch of one.
    function single(bytes32 campaign, uint256 id, address to, uint96 amount) internal pure returns (bytes memory) {
        return bytes.concat(group(campaign, uint192(id >> 64), 1), item(uint64(id), to, amount));
    }

    /// @notice One group of `count` ids that follow one another, to `count` recipients that follow one another.
    function dense(bytes32 campaign, uint192 prefix, uint64 firstLow, uint160 firstRecipient, uint16 count, uint96 amount)
        internal
        pure
        returns (bytes memory batch)
    {
        batch = new bytes(58 + uint256(count) * 40);
        put(batch, 0, group(campaign, prefix, count));
        for (uint16 i; i < count; ++i) {
            put(batch, 58 + uint256(i) * 40, item(firstLow + i, address(firstRecipient + i), amount));
        }
    }

    /// @notice `count` groups of one, with ids that have nothing in common.
    function sparse(bytes32 campaign, bytes32 seed, uint160 firstRecipient, uint16 count, uint96 amount)
        internal
        pure
        returns (bytes memory batch)
    {
        batch = new bytes(uint256(count) * 98);
        for (uint16 i; i < count; ++i) {
            uint256 id = uint256(keccak256(abi.encode(seed, i))) | 1 << 255;
            put(batch, uint256(i) * 98, single(campaign, id, address(firstRecipient + i), amount));
        }
    }

    /// @notice The 32 bytes from an offset on.
    function word(bytes memory batch, uint256 offset) internal pure returns (uint256 word_) {
        assembly ("memory-safe") {
            word_ := mload(add(add(batch, 0x20), offset))
        }
    }

    function put(bytes memory batch, uint256 offset, bytes memory part) internal pure {
        assembly ("memory-safe") {
            mcopy(add(add(batch, 0x20), offset), add(part, 0x20), mload(part))
        }
    }
}
