// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {GrantDistributor} from "../src/GrantDistributor.sol";
import {Batch} from "./support/Batch.sol";
import {Fixture} from "./support/Fixture.sol";
import {HostileToken} from "./support/HostileToken.sol";
import {Vm} from "./support/Test.sol";

/// @notice Whatever the token does to one item, the batch's other items do not notice.
contract HostileTokenTest is Fixture {
    HostileToken private hostile;
    address private immutable victim = named("victim");

    function setUp() public {
        hostile = new HostileToken();
        distributor = new GrantDistributor(address(hostile), admin, submitter);
    }

    /// @dev Three items, of which the token treats the middle one as `mode` says.
    function payAround(HostileToken.Mode mode) private returns (Outcome[] memory outcomes) {
        hostile.setMode(victim, mode);
        outcomes = payAndRead(
            bytes.concat(
                Batch.group(SUMMER, PREFIX, 3),
                Batch.item(1, alice, 5),
                Batch.item(2, victim, 6),
                Batch.item(3, bob, 7)
            )
        );
        vm.assertEq(outcomes.length, 3);
        assertPaid(outcomes[0], idOf(1), alice, 5);
        assertPaid(outcomes[2], idOf(3), bob, 7);
        vm.assertEq(hostile.balanceOf(alice), 5);
        vm.assertEq(hostile.balanceOf(bob), 7);
        vm.assertEq(hostile.totalSupply(), distributor.campaignPaid(SUMMER));
        vm.assertEq(hostile.totalSupply(), distributor.paidOnDay(block.timestamp / 1 days));
    }

    function payAroundRejected(HostileToken.Mode mode, bytes memory reason) private {
        assertRejected(payAround(mode)[1], idOf(2), victim, 6, reason);
        vm.assertEq(hostile.balanceOf(victim), 0);
    }

    function payAroundPaid(HostileToken.Mode mode) private {
        assertPaid(payAround(mode)[1], idOf(2), victim, 6);
        vm.assertEq(hostile.balanceOf(victim), 6);
    }

    function test_a_revert_is_reported_with_its_reason() public {
        payAroundRejected(HostileToken.Mode.Revert, abi.encodeWithSelector(HostileToken.Refused.selector, victim));
    }

    function test_a_revert_without_a_reason_is_reported_without_one() public {
        payAroundRejected(HostileToken.Mode.RevertSilently, "");
    }

    function test_a_token_that_burns_all_gas_burns_its_own() public {
        payAroundRejected(HostileToken.Mode.BurnAllGas, "");
    }

    function test_a_reason_of_megabytes_is_cut() public {
        payAroundRejected(HostileToken.Mode.RevertWithMegabytes, new bytes(256));
    }

    function test_a_return_of_megabytes_is_not_read() public {
        payAroundPaid(HostileToken.Mode.MintAndReturnMegabytes);
    }

    function test_a_token_may_return_true() public {
        payAroundPaid(HostileToken.Mode.MintAndReturnTrue);
    }

    function test_false_is_a_rejection() public {
        bytes memory reason = abi.encodeWithSelector(GrantDistributor.MintReturnedFalse.selector);
        payAroundRejected(HostileToken.Mode.ReturnFalse, reason);
    }

    function test_a_mint_that_needs_most_of_its_gas_gets_it() public {
        payAroundPaid(HostileToken.Mode.MintForMuchGas);
    }

    function test_a_token_cannot_pay_from_within_a_mint() public {
        bytes32 role = distributor.SUBMITTER_ROLE();
        vm.prank(admin);
        distributor.grantRole(role, address(hostile));
        // The very grant that is being paid, one later in the batch, and one from elsewhere.
        for (uint64 low = 2; low < 5; ++low) {
            uint256 state = vm.snapshotState();
            bytes memory again = Batch.single(SUMMER, idOf(low), alice, 1);
            hostile.setReentry(distributor, abi.encodeCall(distributor.pay, (again)));
            payAroundPaid(HostileToken.Mode.MintAfterReentering);
            vm.assertEq(
                hostile.reentryAnswer(),
                abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
            );
            vm.assertEq(hostile.totalSupply(), 18);
            vm.revertToState(state);
        }
    }

    /// @dev Mixed items, of every mode, with repeats. Costs a few million gas.
    function mixed() private returns (bytes memory batch) {
        batch = Batch.group(SUMMER, PREFIX, 22);
        for (uint64 i; i < 22; ++i) {
            address to = address(uint160(1000 + i));
            hostile.setMode(to, HostileToken.Mode(i % 10));
            batch = bytes.concat(batch, Batch.item(240 + i % 19, to, 5 + i));
        }
        hostile.setReentry(distributor, abi.encodeCall(distributor.pay, (batch)));
    }

    /// @dev The promise of the gas rule: with any amount of gas a batch comes to what it comes to with plenty, or to
    /// nothing at all. No item is ever rejected because the transaction brought too little.
    function testFuzz_with_any_gas_a_batch_ends_as_with_plenty_or_not_at_all(uint256 gas) public {
        bytes memory batch = mixed();
        uint256 state = vm.snapshotState();
        vm.recordLogs();
        uint256 before = gasleft();
        pay(batch);
        uint256 plenty = before - gasleft();
        bytes32 expected = keccak256(abi.encode(read(vm.getRecordedLogs())));
        uint256 supply = hostile.totalSupply();
        vm.assertTrue(supply != 0);
        vm.revertToState(state);

        // Half of the runs look at the last items, where gas is just about enough.
        gas = gas % 2 == 0 ? gas % (plenty + 300_000) : plenty - 200_000 + gas % 500_000;
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

    /// @dev The same, step by step around the one mint that needs most of its gas.
    function test_with_every_gas_around_the_minimum_a_mint_is_whole_or_not() public {
        hostile.setMode(victim, HostileToken.Mode.MintForMuchGas);
        bytes memory call = abi.encodeCall(distributor.pay, (Batch.single(SUMMER, idOf(1), victim, 6)));
        uint256 state = vm.snapshotState();
        bool everPaid;
        bool everRefused;
        for (uint256 gas = 195_000; gas < 300_000; gas += 101) {
            vm.recordLogs();
            vm.prank(submitter);
            (bool called, bytes memory answer) = address(distributor).call{gas: gas}(call);
            Outcome[] memory outcomes = read(vm.getRecordedLogs());
            if (called) {
                everPaid = true;
                assertPaid(outcomes[0], idOf(1), victim, 6);
            } else {
                everRefused = everRefused || bytes4(answer) == GrantDistributor.NotEnoughGas.selector;
                vm.assertFalse(distributor.isPaid(idOf(1)));
                vm.assertEq(hostile.totalSupply(), 0);
            }
            vm.revertToState(state);
        }
        vm.assertTrue(everPaid && everRefused);
    }

    function test_a_batch_that_runs_out_of_gas_pays_nothing() public {
        bytes memory batch = mixed();
        vm.expectRevert(GrantDistributor.NotEnoughGas.selector);
        vm.prank(submitter);
        distributor.pay{gas: 400_000}(batch);
        assertNothingPaid();
    }

    function assertNothingPaid() private view {
        vm.assertEq(hostile.totalSupply(), 0);
        vm.assertEq(distributor.campaignPaid(SUMMER), 0);
        for (uint64 low = 240; low < 262; ++low) {
            vm.assertFalse(distributor.isPaid(idOf(low)));
        }
    }
}
