// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {GrantDistributor} from "../src/GrantDistributor.sol";
import {GrantToken} from "../src/GrantToken.sol";
import {Batch} from "./support/Batch.sol";
import {ClaimTree, Leaf} from "./support/ClaimTree.sol";
import {Fixture} from "./support/Fixture.sol";
import {HostileBatchToken, HostileToken} from "./support/HostileToken.sol";
import {Vm} from "./support/Test.sol";

/// @notice Minting together comes to what minting one by one comes to, in the same order and for the same reasons.
contract MintBatchTest is Fixture {
    uint256 private constant CAP = 1e21;

    function setUp() public {
        deploy();
    }

    function test_what_is_paid_of_a_group_is_told_in_one_event() public {
        vm.recordLogs();
        pay(bytes.concat(Batch.dense(SUMMER, PREFIX, 250, 100, 20, 3), Batch.dense(WINTER, PREFIX, 7, 100, 2, 3)));
        (uint256 ours, bytes memory items) = (0, Batch.dense(SUMMER, PREFIX, 250, 100, 20, 3));
        assembly ("memory-safe") {
            let length := sub(mload(items), 58)
            items := add(items, 58)
            mstore(items, length)
        }
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter != address(distributor)) continue;
            vm.assertEq(logs[i].topics[0], GrantDistributor.GrantsPaid.selector);
            vm.assertEq(logs[i].topics[1], ours == 0 ? SUMMER : WINTER);
            vm.assertEq(uint256(logs[i].topics[2]), PREFIX);
            if (ours++ == 0) vm.assertEq(logs[i].data, abi.encode(items));
        }
        vm.assertEq(ours, 2);
    }

    function test_the_only_one_paid_of_a_group_is_told_by_its_id() public {
        pay(Batch.single(SUMMER, idOf(2), alice, 1));
        vm.expectEmit();
        emit GrantDistributor.GrantPaid(idOf(1), address(uint160(100)), 3);
        pay(Batch.dense(SUMMER, PREFIX, 1, 100, 2, 3));
    }

    /// @dev Items of one word, of several, more than are minted together; campaign and token near their caps, recipients
    /// that no token takes, and repeats.
    /// forge-config: default.fuzz.runs = 64
    function testFuzz_together_and_one_by_one_come_to_the_same(uint256 seed, uint96 campaignCap, uint96 minted) public {
        bytes memory batch;
        for (uint256 g; g <= seed % 3; ++g) {
            uint256 draw = uint256(keccak256(abi.encode(seed, g)));
            uint16 count = uint16(1 + draw % 150);
            batch = bytes.concat(batch, Batch.group(draw & 256 == 0 ? SUMMER : WINTER, PREFIX + uint192(draw >> 9 & 1), count));
            for (uint256 i; i < count; ++i) {
                draw = uint256(keccak256(abi.encode(draw)));
                // Mostly one after the other, and now and then anywhere.
                uint64 low = uint64(draw % 8 == 0 ? draw >> 8 & 511 : 200 + i);
                address to = draw >> 32 & 31 == 0 ? address(0) : address(uint160(1000 + (draw >> 40 & 63)));
                batch = bytes.concat(batch, Batch.item(low, to, uint96((draw >> 64) % (CAP / 100))));
            }
        }
        uint256 state = vm.snapshotState();
        deploySmall(true);
        bytes32 together = come(batch, campaignCap, minted);
        vm.revertToState(state);
        deploySmall(false);
        vm.assertEq(come(batch, campaignCap, minted), together, "another outcome");
    }

    function deploySmall(bool together) private {
        if (together) {
            address minter = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
            token = new GrantToken("Grant", "GRANT", CAP, admin, minter);
            distributor = new GrantDistributor(address(token), admin, submitter);
        } else {
            deployWithoutBatches(CAP);
        }
    }

    /// @dev All that there is to see of a batch that is paid twice.
    function come(bytes memory batch, uint256 campaignCap, uint256 minted) private returns (bytes32 seen) {
        vm.prank(admin);
        distributor.setCampaignCap(SUMMER, campaignCap % 4 == 0 ? 0 : campaignCap % CAP);
        bytes32 role = token.MINTER_ROLE();
        vm.prank(admin);
        token.grantRole(role, admin);
        vm.prank(admin);
        token.mint(alice, minted % CAP);
        for (uint256 i; i < 2; ++i) {
            seen = keccak256(abi.encode(seen, payAndRead(batch), token.totalSupply()));
            seen = keccak256(abi.encode(seen, distributor.campaignPaid(SUMMER), distributor.campaignPaid(WINTER)));
            for (uint160 to = 1000; to < 1064; ++to) {
                seen = keccak256(abi.encode(seen, token.balanceOf(address(to))));
            }
        }
    }
}

/// @notice Whatever a token's batch entry does: nobody is paid twice, and one that cannot be paid does not keep the others
/// from it.
contract HostileMintBatchTest is Fixture {
    HostileBatchToken private hostile;
    address private immutable victim = named("victim");
    uint16 private constant COUNT = 100;

    function setUp() public {
        hostile = new HostileBatchToken();
        distributor = new GrantDistributor(address(hostile), admin, submitter);
        vm.assertTrue(distributor.mintsBatches());
    }

    /// @dev A hundred items in one word, the victim among them.
    function batchOf100() private view returns (bytes memory) {
        return bytes.concat(
            Batch.group(SUMMER, PREFIX, COUNT),
            part(0, 30),
            Batch.item(30, victim, 7),
            part(31, COUNT)
        );
    }

    function part(uint64 from, uint64 to) private pure returns (bytes memory items) {
        for (uint64 i = from; i < to; ++i) {
            items = bytes.concat(items, Batch.item(i, address(1000 + uint160(i)), 7));
        }
    }

    function assertAllPaid(Outcome[] memory outcomes) private view {
        vm.assertEq(outcomes.length, COUNT);
        for (uint64 i; i < COUNT; ++i) {
            address to = i == 30 ? victim : address(1000 + uint160(i));
            assertPaid(outcomes[i], idOf(i), to, 7);
            vm.assertEq(hostile.balanceOf(to), 7, "balance");
        }
        vm.assertEq(hostile.totalSupply(), 700);
        vm.assertEq(distributor.campaignPaid(SUMMER), 700);
    }

    /// @dev Pays a batch, and again.
    function payAll(HostileBatchToken.Batch mode, uint256 batches) private {
        hostile.setBatchMode(mode);
        assertAllPaid(payAndRead(batchOf100()));
        vm.assertEq(hostile.batches(), batches, "batches that were minted");
        Outcome[] memory outcomes = payAndRead(batchOf100());
        for (uint64 i; i < COUNT; ++i) {
            assertSkipped(outcomes[i], idOf(i));
        }
        vm.assertEq(hostile.totalSupply(), 700);
    }

    function test_a_batch_entry_may_return_nothing_true_or_much() public {
        uint256 state = vm.snapshotState();
        payAll(HostileBatchToken.Batch.Mint, 2);
        vm.revertToState(state);
        payAll(HostileBatchToken.Batch.MintAndReturnTrue, 2);
        vm.revertToState(state);
        payAll(HostileBatchToken.Batch.MintAndReturnMuch, 2);
    }

    function test_a_batch_entry_that_needs_all_of_its_gas_gets_it() public {
        payAll(HostileBatchToken.Batch.MintForAllGas, 2);
    }

    function test_a_batch_entry_that_reverts_is_done_without() public {
        uint256 state = vm.snapshotState();
        payAll(HostileBatchToken.Batch.Revert, 0);
        vm.revertToState(state);
        payAll(HostileBatchToken.Batch.RevertSilently, 0);
        vm.revertToState(state);
        payAll(HostileBatchToken.Batch.RevertWithMegabytes, 0);
        vm.revertToState(state);
        payAll(HostileBatchToken.Batch.MintThenRevert, 0);
    }

    function test_a_batch_entry_that_burns_all_gas_burns_its_own() public {
        payAll(HostileBatchToken.Batch.BurnAllGas, 0);
    }

    function test_one_that_cannot_be_minted_is_rejected_alone() public {
        hostile.setMode(victim, HostileToken.Mode.Revert);
        Outcome[] memory outcomes = payAndRead(batchOf100());
        for (uint64 i; i < COUNT; ++i) {
            if (i != 30) assertPaid(outcomes[i], idOf(i), address(1000 + uint160(i)), 7);
        }
        assertRejected(outcomes[30], idOf(30), victim, 7, abi.encodeWithSelector(HostileToken.Refused.selector, victim));
        vm.assertEq(hostile.totalSupply(), 693);
        vm.assertEq(hostile.batches(), 1, "those that it was not minted with");
        hostile.setMode(victim, HostileToken.Mode.Mint);
        assertPaid(payAndRead(batchOf100())[30], idOf(30), victim, 7);
        vm.assertEq(hostile.totalSupply(), 700);
    }

    /// @dev What it has minted cannot be known, so it is undone.
    function test_after_false_nothing_has_happened_and_each_can_be_paid_alone() public {
        hostile.setBatchMode(HostileBatchToken.Batch.MintAndReturnFalse);
        vm.expectRevert(GrantDistributor.MintReturnedFalse.selector);
        pay(batchOf100());
        assertNothingPaid();
        assertPaid(payAndRead(Batch.single(SUMMER, idOf(30), victim, 7))[0], idOf(30), victim, 7);
        vm.assertEq(hostile.totalSupply(), 7);
    }

    /// @dev A token is believed what it says it has minted, as with one mint. That it lied is for an audit of the token to
    /// find; it is not asked again.
    function test_a_batch_entry_that_lies_is_believed_once() public {
        hostile.setBatchMode(HostileBatchToken.Batch.MintNothing);
        Outcome[] memory outcomes = payAndRead(batchOf100());
        assertPaid(outcomes[99], idOf(99), address(1099), 7);
        vm.assertEq(hostile.totalSupply(), 0);
        hostile.setBatchMode(HostileBatchToken.Batch.MintHalf);
        assertSkipped(payAndRead(batchOf100())[0], idOf(0));
        vm.assertEq(hostile.totalSupply(), 0);
    }

    function test_a_token_cannot_pay_or_claim_from_within_a_batch() public {
        hostile.setBatchMode(HostileBatchToken.Batch.MintAfterReentering);
        bytes32 role = distributor.SUBMITTER_ROLE();
        vm.prank(admin);
        distributor.grantRole(role, address(hostile));
        Leaf memory leaf = Leaf(idOf(5), address(1005), 7);
        (bytes32 root, bytes32[] memory proof) = ClaimTree.path(leaf, 3);
        setClaimRoot(SUMMER, root);

        bytes[2] memory calls = [
            abi.encodeCall(distributor.pay, (batchOf100())),
            abi.encodeCall(distributor.claim, (SUMMER, leaf.id, leaf.to, leaf.amount, proof))
        ];
        for (uint256 i; i < 2; ++i) {
            uint256 state = vm.snapshotState();
            hostile.setReentry(distributor, calls[i]);
            assertAllPaid(payAndRead(batchOf100()));
            vm.assertFalse(hostile.reentered());
            vm.assertEq(
                hostile.reentryAnswer(),
                abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
            );
            vm.revertToState(state);
        }
    }

    /// @dev The promise of the gas rule, with a batch entry that takes part of the batches only.
    function testFuzz_with_any_gas_a_batch_ends_as_with_plenty_or_not_at_all(uint256 gas, uint8 mode, uint8 refused) public {
        // Without those that answer `false`, see above.
        hostile.setBatchMode(HostileBatchToken.Batch(mode % 13 == 2 ? 0 : mode % 13));
        hostile.setReentry(distributor, abi.encodeCall(distributor.pay, (batchOf100())));
        hostile.setMode(victim, HostileToken.Mode(refused % 10 == 5 ? 0 : refused % 10));
        bytes memory batch = batchOf100();
        uint256 state = vm.snapshotState();
        vm.recordLogs();
        uint256 before = gasleft();
        pay(batch);
        uint256 plenty = before - gasleft();
        bytes32 expected = keccak256(abi.encode(read(vm.getRecordedLogs())));
        uint256 supply = hostile.totalSupply();
        vm.revertToState(state);

        // Half of the runs look at the last of it, where gas is just about enough.
        gas = gas % 2 == 0 ? gas % (plenty + 3_000_000) : plenty * 9 / 10 + gas % 2_500_000;
        vm.recordLogs();
        vm.prank(submitter);
        (bool called,) = address(distributor).call{gas: gas}(abi.encodeCall(distributor.pay, (batch)));
        Vm.Log[] memory logs = vm.getRecordedLogs();
        if (called) {
            vm.assertEq(keccak256(abi.encode(read(logs))), expected, "another outcome");
            vm.assertEq(hostile.totalSupply(), supply);
        } else {
            assertNothingPaid();
        }
    }

    /// @dev The same, step by step around the least that a batch entry needs which uses all of its gas.
    function test_with_every_gas_around_the_minimum_a_batch_is_whole_or_not() public {
        hostile.setBatchMode(HostileBatchToken.Batch.MintForAllGas);
        bytes memory batch = bytes.concat(Batch.group(SUMMER, PREFIX, 2), part(0, 2));
        bytes memory call = abi.encodeCall(distributor.pay, (batch));
        uint256 state = vm.snapshotState();
        bool everPaid;
        bool everRefused;
        for (uint256 gas = 145_000; gas < 300_000; gas += 101) {
            vm.prank(submitter);
            (bool called, bytes memory answer) = address(distributor).call{gas: gas}(call);
            if (called) {
                everPaid = true;
                vm.assertEq(hostile.batches(), 1);
                vm.assertEq(hostile.totalSupply(), 14);
            } else {
                everRefused = everRefused || bytes4(answer) == GrantDistributor.NotEnoughGas.selector;
                assertNothingPaid();
            }
            vm.revertToState(state);
        }
        vm.assertTrue(everPaid && everRefused);
    }

    function assertNothingPaid() private view {
        vm.assertEq(hostile.totalSupply(), 0);
        vm.assertEq(distributor.campaignPaid(SUMMER), 0);
        for (uint64 low; low < COUNT; ++low) {
            vm.assertFalse(distributor.isPaid(idOf(low)));
        }
    }
}
