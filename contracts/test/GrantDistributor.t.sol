// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ERC20Capped} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Capped.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {GrantDistributor} from "../src/GrantDistributor.sol";
import {Batch} from "./support/Batch.sol";
import {Fixture} from "./support/Fixture.sol";

contract GrantDistributorTest is Fixture {
    function setUp() public {
        deploy();
    }

    // Paying, and paying once

    function test_a_grant_is_minted_and_announced() public {
        Outcome[] memory outcomes = payAndRead(Batch.single(SUMMER, idOf(7), alice, 5e18));
        vm.assertEq(outcomes.length, 1);
        assertPaid(outcomes[0], idOf(7), alice, 5e18);
        vm.assertEq(token.balanceOf(alice), 5e18);
        vm.assertEq(token.totalSupply(), 5e18);
        vm.assertEq(distributor.campaignPaid(SUMMER), 5e18);
        vm.assertEq(distributor.paidOnDay(block.timestamp / 1 days), 5e18);
        vm.assertFalse(distributor.isPaid(idOf(6)));
        vm.assertFalse(distributor.isPaid(idOf(8)));
    }

    function testFuzz_any_id_recipient_and_amount(uint256 id, address to, uint96 amount, bytes32 campaign) public {
        vm.assume(to != address(0));
        Outcome[] memory outcomes = payAndRead(Batch.single(campaign, id, to, amount));
        assertPaid(outcomes[0], id, to, amount);
        vm.assertEq(token.balanceOf(to), amount);
        vm.assertEq(distributor.campaignPaid(campaign), amount);

        outcomes = payAndRead(Batch.single(campaign, id, to, amount));
        assertSkipped(outcomes[0], id);
        vm.assertEq(token.totalSupply(), amount);
    }

    function test_a_repeat_within_a_batch_is_skipped() public {
        bytes memory item = Batch.item(7, alice, 5);
        Outcome[] memory outcomes = payAndRead(bytes.concat(Batch.group(SUMMER, PREFIX, 3), item, item, item));
        assertPaid(outcomes[0], idOf(7), alice, 5);
        assertSkipped(outcomes[1], idOf(7));
        assertSkipped(outcomes[2], idOf(7));
        vm.assertEq(token.totalSupply(), 5);
    }

    function test_a_repeat_is_skipped_whatever_else_it_says() public {
        pay(Batch.single(SUMMER, idOf(7), alice, 5));
        Outcome[] memory outcomes = payAndRead(Batch.single(WINTER, idOf(7), bob, 6));
        assertSkipped(outcomes[0], idOf(7));
        vm.assertEq(token.balanceOf(bob), 0);
        vm.assertEq(distributor.campaignPaid(WINTER), 0);
    }

    function test_a_batch_may_come_back_to_a_word_and_to_a_campaign() public {
        // Words A, B, A and campaigns summer, winter, summer: each return finds what was left there.
        bytes memory batch = bytes.concat(
            bytes.concat(Batch.group(SUMMER, PREFIX, 3), Batch.item(1, alice, 1)),
            bytes.concat(Batch.item(300, alice, 2), Batch.item(1, alice, 4)),
            bytes.concat(Batch.group(WINTER, PREFIX, 2), Batch.item(2, alice, 8), Batch.item(300, alice, 16)),
            bytes.concat(Batch.group(SUMMER, PREFIX + 1, 1), Batch.item(2, alice, 32)),
            bytes.concat(Batch.group(SUMMER, PREFIX, 2), Batch.item(3, alice, 64), Batch.item(2, alice, 128))
        );
        Outcome[] memory outcomes = payAndRead(batch);
        assertPaid(outcomes[0], idOf(1), alice, 1);
        assertPaid(outcomes[1], idOf(300), alice, 2);
        assertSkipped(outcomes[2], idOf(1));
        assertPaid(outcomes[3], idOf(2), alice, 8);
        assertSkipped(outcomes[4], idOf(300));
        assertPaid(outcomes[5], uint256(PREFIX + 1) << 64 | 2, alice, 32);
        assertPaid(outcomes[6], idOf(3), alice, 64);
        assertSkipped(outcomes[7], idOf(2));
        vm.assertEq(outcomes.length, 8);
        vm.assertEq(distributor.campaignPaid(SUMMER), 1 + 2 + 32 + 64);
        vm.assertEq(distributor.campaignPaid(WINTER), 8);
    }

    function test_sparse_and_dense_ids_mix() public {
        bytes memory batch = bytes.concat(
            Batch.sparse(SUMMER, "a", 100, 20, 3),
            Batch.dense(SUMMER, PREFIX, 250, 200, 20, 3),
            Batch.sparse(SUMMER, "a", 100, 20, 3),
            Batch.sparse(WINTER, "b", 100, 20, 3)
        );
        Outcome[] memory outcomes = payAndRead(batch);
        vm.assertEq(outcomes.length, 80);
        for (uint256 i; i < 80; ++i) {
            vm.assertEq(outcomes[i].kind, i >= 40 && i < 60 ? SKIPPED : PAID);
        }
        vm.assertEq(token.totalSupply(), 60 * 3);
        vm.assertEq(token.balanceOf(address(uint160(100))), 6);
        vm.assertEq(distributor.campaignPaid(SUMMER), 40 * 3);
    }

    function test_the_lowest_and_the_highest_id_are_ids_like_others() public {
        pay(Batch.single(SUMMER, 0, alice, 1));
        pay(Batch.single(SUMMER, type(uint256).max, alice, 2));
        vm.assertTrue(distributor.isPaid(0));
        vm.assertTrue(distributor.isPaid(type(uint256).max));
        vm.assertFalse(distributor.isPaid(1));
        vm.assertFalse(distributor.isPaid(type(uint256).max - 1));
        pay(bytes.concat(Batch.single(SUMMER, type(uint256).max, alice, 1), Batch.single(0, 0, alice, 2)));
        vm.assertEq(token.totalSupply(), 3);
    }

    // Isolation

    function test_a_recipient_that_the_token_refuses_does_not_stop_the_others() public {
        bytes memory batch = bytes.concat(
            Batch.group(SUMMER, PREFIX, 3),
            Batch.item(1, alice, 5),
            Batch.item(2, address(0), 6),
            Batch.item(3, bob, 7)
        );
        Outcome[] memory outcomes = payAndRead(batch);
        assertPaid(outcomes[0], idOf(1), alice, 5);
        bytes memory reason = abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(0));
        assertRejected(outcomes[1], idOf(2), address(0), 6, reason);
        assertPaid(outcomes[2], idOf(3), bob, 7);
        vm.assertEq(distributor.campaignPaid(SUMMER), 12);
        vm.assertEq(distributor.paidOnDay(block.timestamp / 1 days), 12);

        // Rejected is not paid: the grant may come again, and is paid then.
        outcomes = payAndRead(Batch.single(SUMMER, idOf(2), alice, 6));
        assertPaid(outcomes[0], idOf(2), alice, 6);
    }

    function test_the_token_cap_rejects_what_no_longer_fits() public {
        bytes memory batch = bytes.concat(
            Batch.group(SUMMER, PREFIX, 3),
            Batch.item(1, alice, 5),
            Batch.item(2, alice, type(uint96).max),
            Batch.item(3, bob, 7)
        );
        uint256 most = TOKEN_CAP / type(uint96).max;
        for (uint64 i; i < most; ++i) {
            pay(Batch.single(SUMMER, idOf(1000 + i), alice, type(uint96).max));
        }
        Outcome[] memory outcomes = payAndRead(batch);
        bytes memory reason = abi.encodeWithSelector(
            ERC20Capped.ERC20ExceededCap.selector, (most + 1) * type(uint96).max + 5, TOKEN_CAP
        );
        assertPaid(outcomes[0], idOf(1), alice, 5);
        assertRejected(outcomes[1], idOf(2), alice, type(uint96).max, reason);
        assertPaid(outcomes[2], idOf(3), bob, 7);
    }

    function test_a_paused_token_rejects_and_loses_nothing() public {
        vm.prank(admin);
        token.pause();
        Outcome[] memory outcomes = payAndRead(Batch.single(SUMMER, idOf(1), alice, 5));
        assertRejected(outcomes[0], idOf(1), alice, 5, abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        vm.prank(admin);
        token.unpause();
        assertPaid(payAndRead(Batch.single(SUMMER, idOf(1), alice, 5))[0], idOf(1), alice, 5);
    }

    // Roles and pause

    function testFuzz_only_a_submitter_pays(address caller) public {
        vm.assume(caller != submitter);
        bytes32 role = distributor.SUBMITTER_ROLE();
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, caller, role)
        );
        vm.prank(caller);
        distributor.pay(Batch.single(SUMMER, idOf(1), alice, 5));
    }

    function test_only_the_admin_sets_caps_and_pauses() public {
        bytes32 none;
        bytes memory notAdmin =
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, submitter, none);
        bytes memory notPauser = abi.encodeWithSelector(
            IAccessControl.AccessControlUnauthorizedAccount.selector, submitter, distributor.PAUSER_ROLE()
        );
        vm.expectRevert(notAdmin);
        vm.prank(submitter);
        distributor.setCampaignCap(SUMMER, 1);
        vm.expectRevert(notAdmin);
        vm.prank(submitter);
        distributor.setDailyCap(1);
        vm.expectRevert(notPauser);
        vm.prank(submitter);
        distributor.pause();
        vm.expectRevert(notPauser);
        vm.prank(submitter);
        distributor.unpause();
    }

    function test_a_distributor_without_the_minter_role_rejects() public {
        bytes32 role = token.MINTER_ROLE();
        vm.prank(admin);
        token.revokeRole(role, address(distributor));
        Outcome[] memory outcomes = payAndRead(Batch.single(SUMMER, idOf(1), alice, 5));
        bytes memory reason = abi.encodeWithSelector(
            IAccessControl.AccessControlUnauthorizedAccount.selector, address(distributor), role
        );
        assertRejected(outcomes[0], idOf(1), alice, 5, reason);
    }

    function test_a_pause_stops_paying_until_it_ends() public {
        bytes memory batch = Batch.single(SUMMER, idOf(1), alice, 5);
        vm.prank(admin);
        distributor.pause();
        vm.expectRevert(Pausable.EnforcedPause.selector);
        pay(batch);
        vm.prank(admin);
        distributor.unpause();
        pay(batch);
        vm.assertEq(token.balanceOf(alice), 5);
    }

    function test_a_token_must_be_a_contract() public {
        vm.expectRevert(abi.encodeWithSelector(GrantDistributor.TokenHasNoCode.selector, alice));
        new GrantDistributor(alice, admin, submitter);
    }

    // Caps

    function test_a_campaign_cap_rejects_what_exceeds_it_and_nothing_else() public {
        vm.expectEmit();
        emit GrantDistributor.CampaignCapSet(SUMMER, 10);
        vm.prank(admin);
        distributor.setCampaignCap(SUMMER, 10);
        vm.assertEq(distributor.campaignCap(SUMMER), 10);

        bytes memory batch = bytes.concat(
            bytes.concat(Batch.group(SUMMER, PREFIX, 3), Batch.item(1, alice, 6)),
            bytes.concat(Batch.item(2, alice, 5), Batch.item(3, alice, 4)),
            bytes.concat(Batch.group(WINTER, PREFIX, 1), Batch.item(4, alice, 5)),
            bytes.concat(Batch.group(SUMMER, PREFIX, 2), Batch.item(5, alice, 1), Batch.item(1, alice, 6))
        );
        Outcome[] memory outcomes = payAndRead(batch);
        bytes memory reason = abi.encodeWithSelector(GrantDistributor.CampaignCapExceeded.selector, SUMMER, 10);
        assertPaid(outcomes[0], idOf(1), alice, 6);
        assertRejected(outcomes[1], idOf(2), alice, 5, reason);
        assertPaid(outcomes[2], idOf(3), alice, 4);
        assertPaid(outcomes[3], idOf(4), alice, 5);
        assertRejected(outcomes[4], idOf(5), alice, 1, reason);
        assertSkipped(outcomes[5], idOf(1));
        vm.assertEq(distributor.campaignPaid(SUMMER), 10);

        vm.prank(admin);
        distributor.setCampaignCap(SUMMER, 0);
        assertPaid(payAndRead(Batch.single(SUMMER, idOf(2), alice, 5))[0], idOf(2), alice, 5);
        vm.assertEq(distributor.campaignPaid(SUMMER), 15);
    }

    function test_a_campaign_cap_below_what_was_paid_stops_the_campaign() public {
        pay(Batch.single(SUMMER, idOf(1), alice, 6));
        vm.prank(admin);
        distributor.setCampaignCap(SUMMER, 5);
        vm.assertEq(payAndRead(Batch.single(SUMMER, idOf(2), alice, 1))[0].kind, REJECTED);
        vm.assertEq(distributor.campaignPaid(SUMMER), 6);
    }

    function test_a_campaign_cap_has_128_bits() public {
        vm.expectRevert(abi.encodeWithSelector(GrantDistributor.CapTooLarge.selector, 1 << 128));
        vm.prank(admin);
        distributor.setCampaignCap(SUMMER, 1 << 128);
    }

    function test_a_batch_over_the_daily_cap_waits_for_the_next_day() public {
        vm.warp(20_000 days + 1 hours);
        vm.expectEmit();
        emit GrantDistributor.DailyCapSet(10);
        vm.prank(admin);
        distributor.setDailyCap(10);

        pay(Batch.single(SUMMER, idOf(1), alice, 6));
        bytes memory batch =
            bytes.concat(Batch.group(WINTER, PREFIX, 2), Batch.item(2, alice, 4), Batch.item(3, alice, 1));
        vm.expectRevert(abi.encodeWithSelector(GrantDistributor.DailyCapExceeded.selector, 20_000, 10));
        pay(batch);
        vm.assertFalse(distributor.isPaid(idOf(2)));
        vm.assertEq(token.totalSupply(), 6);

        // The cap itself is within the cap, and repeats take nothing from it.
        pay(Batch.single(WINTER, idOf(2), alice, 4));
        pay(Batch.single(WINTER, idOf(2), alice, 4));
        vm.assertEq(distributor.paidOnDay(20_000), 10);

        vm.warp(20_001 days);
        pay(batch);
        vm.assertEq(distributor.paidOnDay(20_001), 1);
    }

    function test_a_repeat_is_answered_even_when_the_day_is_over_its_cap() public {
        pay(Batch.single(SUMMER, idOf(1), alice, 6));
        vm.prank(admin);
        distributor.setDailyCap(5);
        assertSkipped(payAndRead(Batch.single(SUMMER, idOf(1), alice, 6))[0], idOf(1));
    }

    // Format

    function test_an_empty_batch_is_malformed() public {
        vm.expectRevert(GrantDistributor.MalformedBatch.selector);
        pay("");
    }

    function test_an_empty_group_is_malformed() public {
        vm.expectRevert(GrantDistributor.MalformedBatch.selector);
        pay(Batch.group(SUMMER, PREFIX, 0));
        bytes memory batch =
            bytes.concat(Batch.single(SUMMER, idOf(1), alice, 5), Batch.group(SUMMER, PREFIX, 0));
        vm.expectRevert(GrantDistributor.MalformedBatch.selector);
        pay(batch);
        vm.assertEq(token.totalSupply(), 0);
    }

    function testFuzz_a_cut_batch_is_malformed_and_pays_nothing(uint256 length) public {
        bytes memory batch =
            bytes.concat(Batch.dense(SUMMER, PREFIX, 1, 100, 3, 5), Batch.sparse(WINTER, "a", 100, 3, 5));
        length = length % batch.length;
        // Cut between two groups it is a shorter batch.
        vm.assume(length != 58 + 3 * 40 && length != 58 + 3 * 40 + 98 && length != 58 + 3 * 40 + 2 * 98);
        bytes memory cut = batch;
        assembly ("memory-safe") {
            mstore(cut, length)
        }
        vm.expectRevert(GrantDistributor.MalformedBatch.selector);
        pay(cut);
        vm.assertEq(token.totalSupply(), 0);
    }

    function testFuzz_trailing_bytes_are_malformed(bytes memory tail) public {
        vm.assume(tail.length != 0 && tail.length < 98);
        vm.expectRevert(GrantDistributor.MalformedBatch.selector);
        pay(bytes.concat(Batch.single(SUMMER, idOf(1), alice, 5), tail));
    }

    function testFuzz_noise_is_paid_as_it_reads_or_refused_whole(bytes memory noise, bytes memory callData) public {
        vm.prank(submitter);
        (bool called, bytes memory answer) = address(distributor).call(abi.encodeCall(distributor.pay, (noise)));
        if (called) {
            vm.assertTrue(noise.length >= 98);
        } else {
            vm.assertEq(answer, abi.encodeWithSelector(GrantDistributor.MalformedBatch.selector));
            vm.assertEq(token.totalSupply(), 0);
        }

        // Noise where the ABI encoding should be.
        uint256 supply = token.totalSupply();
        vm.prank(submitter);
        (called,) = address(distributor).call(bytes.concat(distributor.pay.selector, callData));
        if (!called) vm.assertEq(token.totalSupply(), supply);
    }
}
