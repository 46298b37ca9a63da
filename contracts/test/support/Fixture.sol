// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {GrantDistributor} from "../../src/GrantDistributor.sol";
import {GrantToken} from "../../src/GrantToken.sol";
import {Batch} from "./Batch.sol";
import {Leaf} from "./ClaimTree.sol";
import {Test, Vm} from "./Test.sol";
import {OpenZeppelinToken} from "./Tokens.sol";

/// @notice The token and the distributor, deployed as in production, and a reader of what a batch or a claim came to.
abstract contract Fixture is Test {
    /// @notice What became of one item.
    struct Outcome {
        bytes32 kind; // PAID, SKIPPED or REJECTED
        uint256 id;
        address to;
        uint256 amount;
        bytes reason;
    }

    bytes32 internal constant PAID = GrantDistributor.GrantPaid.selector;
    bytes32 internal constant PAID_TOGETHER = GrantDistributor.GrantsPaid.selector;
    bytes32 internal constant SKIPPED = GrantDistributor.GrantSkipped.selector;
    bytes32 internal constant REJECTED = GrantDistributor.GrantRejected.selector;

    uint256 private constant ITEM = 40;
    uint256 internal constant TOKEN_CAP = 1e30;
    bytes32 internal constant SUMMER = keccak256("summer");
    bytes32 internal constant WINTER = keccak256("winter");
    uint192 internal constant PREFIX = 0x9d3cf1a2b4e57786;

    address internal immutable admin = named("admin");
    address internal immutable submitter = named("submitter");
    address internal immutable relayer = named("relayer");
    address internal immutable alice = named("alice");
    address internal immutable bob = named("bob");

    GrantToken internal token;
    GrantDistributor internal distributor;

    function deploy() internal {
        address minter = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        token = new GrantToken("Grant", "GRANT", TOKEN_CAP, admin, minter);
        distributor = new GrantDistributor(address(token), admin, submitter);
        vm.assertEq(address(distributor), minter);
        vm.assertTrue(distributor.mintsBatches());
    }

    /// @dev The same with a token that mints one grant at a time.
    function deployWithoutBatches(uint256 cap) internal {
        address minter = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        token = GrantToken(address(new OpenZeppelinToken(cap, admin, minter)));
        distributor = new GrantDistributor(address(token), admin, submitter);
        vm.assertEq(address(distributor), minter);
        vm.assertFalse(distributor.mintsBatches());
    }

    /// @dev The id of a dense grant.
    function idOf(uint64 low) internal pure returns (uint256) {
        return uint256(PREFIX) << 64 | low;
    }

    function pay(bytes memory batch) internal {
        vm.prank(submitter);
        distributor.pay(batch);
    }

    function payAndRead(bytes memory batch) internal returns (Outcome[] memory) {
        vm.recordLogs();
        pay(batch);
        return inOrder(batch, read(vm.getRecordedLogs()));
    }

    function setClaimRoot(bytes32 campaign, bytes32 root) internal {
        vm.prank(submitter);
        distributor.setClaimRoot(campaign, root);
    }

    /// @dev Claims as somebody who has no part in it.
    function claim(bytes32 campaign, Leaf memory leaf, bytes32[] memory proof) internal {
        vm.prank(relayer);
        distributor.claim(campaign, leaf.id, leaf.to, leaf.amount, proof);
    }

    function claimAndRead(bytes32 campaign, Leaf memory leaf, bytes32[] memory proof)
        internal
        returns (Outcome[] memory)
    {
        vm.recordLogs();
        claim(campaign, leaf, proof);
        return read(vm.getRecordedLogs());
    }

    function read(Vm.Log[] memory logs) internal view returns (Outcome[] memory outcomes) {
        uint256 most;
        for (uint256 i; i < logs.length; ++i) {
            most += 1 + logs[i].data.length / ITEM;
        }
        outcomes = new Outcome[](most);
        uint256 count;
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter != address(distributor)) continue;
            if (logs[i].topics[0] == PAID_TOGETHER) {
                count = readTogether(logs[i], outcomes, count);
                continue;
            }
            Outcome memory outcome = outcomes[count++];
            outcome.kind = logs[i].topics[0];
            outcome.id = uint256(logs[i].topics[1]);
            if (outcome.kind == SKIPPED) continue;
            outcome.to = address(uint160(uint256(logs[i].topics[2])));
            if (outcome.kind == PAID) outcome.amount = abi.decode(logs[i].data, (uint256));
            else (outcome.amount, outcome.reason) = abi.decode(logs[i].data, (uint256, bytes));
        }
        assembly ("memory-safe") {
            mstore(outcomes, count)
        }
    }

    /// @dev Reads the grants of a GrantsPaid, of which there are at least two.
    function readTogether(Vm.Log memory log, Outcome[] memory outcomes, uint256 count) private pure returns (uint256) {
        uint256 prefix = uint256(log.topics[2]) << 64;
        bytes memory items = abi.decode(log.data, (bytes));
        // As Solidity's own encoder does it, down to the zeros behind the items.
        vm.assertEq(log.data, abi.encode(items));
        vm.assertTrue(items.length % ITEM == 0 && items.length > ITEM, "items");
        for (uint256 offset = 0x20; offset < items.length; offset += ITEM) {
            Outcome memory outcome = outcomes[count++];
            (outcome.kind, outcome.id, outcome.to, outcome.amount) = itemAt(items, offset, prefix);
        }
        return count;
    }

    function itemAt(bytes memory items, uint256 offset, uint256 prefix)
        private
        pure
        returns (bytes32 kind, uint256 id, address to, uint256 amount)
    {
        uint256 head;
        uint256 tail;
        assembly ("memory-safe") {
            head := mload(add(items, offset))
            tail := mload(add(add(items, offset), 8))
        }
        return (PAID, prefix | head >> 192, address(uint160(tail >> 96)), uint96(tail));
    }

    /// @dev The outcomes in the order of the batch, one for each of its items and no other.
    function inOrder(bytes memory batch, Outcome[] memory outcomes) internal pure returns (Outcome[] memory ordered) {
        ordered = new Outcome[](outcomes.length);
        bool[] memory used = new bool[](outcomes.length);
        uint256 count;
        for (uint256 offset; offset < batch.length;) {
            uint256 prefix = Batch.word(batch, offset + 32) >> 64 << 64;
            uint256 items = uint16(Batch.word(batch, offset + 26));
            offset += 58;
            for (uint256 i; i < items; ++i) {
                (, uint256 id, address to, uint256 amount) = itemAt(batch, 0x20 + offset, prefix);
                ordered[count++] = take(outcomes, used, id, to, amount);
                offset += ITEM;
            }
        }
        vm.assertEq(count, outcomes.length, "more outcomes than items");
    }

    /// @dev Of several outcomes of an id the first that was paid or rejected as the item says; or else that it was skipped.
    function take(Outcome[] memory outcomes, bool[] memory used, uint256 id, address to, uint256 amount)
        private
        pure
        returns (Outcome memory)
    {
        uint256 found = outcomes.length;
        for (uint256 i; i < outcomes.length; ++i) {
            if (used[i] || outcomes[i].id != id) continue;
            if (outcomes[i].kind == SKIPPED) {
                found = i;
            } else if (outcomes[i].to == to && outcomes[i].amount == amount) {
                found = i;
                break;
            }
        }
        vm.assertTrue(found < outcomes.length, "an item without an outcome");
        used[found] = true;
        return outcomes[found];
    }

    function assertPaid(Outcome memory outcome, uint256 id, address to, uint256 amount) internal view {
        vm.assertEq(outcome.kind, PAID, "not paid");
        vm.assertEq(outcome.id, id, "id");
        vm.assertEq(outcome.to, to, "recipient");
        vm.assertEq(outcome.amount, amount, "amount");
        vm.assertTrue(distributor.isPaid(id), "paid, and no bit");
    }

    function assertSkipped(Outcome memory outcome, uint256 id) internal view {
        vm.assertEq(outcome.kind, SKIPPED, "not skipped");
        vm.assertEq(outcome.id, id, "id");
        vm.assertTrue(distributor.isPaid(id), "skipped, and no bit");
    }

    function assertRejected(Outcome memory outcome, uint256 id, address to, uint256 amount, bytes memory reason)
        internal
        view
    {
        vm.assertEq(outcome.kind, REJECTED, "not rejected");
        vm.assertEq(outcome.id, id, "id");
        vm.assertEq(outcome.to, to, "recipient");
        vm.assertEq(outcome.amount, amount, "amount");
        vm.assertEq(outcome.reason, reason);
        vm.assertFalse(distributor.isPaid(id), "rejected, and a bit");
    }
}
