// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {GrantDistributor} from "../../src/GrantDistributor.sol";
import {GrantToken} from "../../src/GrantToken.sol";
import {Leaf} from "./ClaimTree.sol";
import {Test, Vm} from "./Test.sol";

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
    bytes32 internal constant SKIPPED = GrantDistributor.GrantSkipped.selector;
    bytes32 internal constant REJECTED = GrantDistributor.GrantRejected.selector;

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
        return read(vm.getRecordedLogs());
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
        outcomes = new Outcome[](logs.length);
        uint256 count;
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter != address(distributor)) continue;
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
