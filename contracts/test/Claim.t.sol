// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {GrantDistributor} from "../src/GrantDistributor.sol";
import {Batch} from "./support/Batch.sol";
import {ClaimTree, Leaf} from "./support/ClaimTree.sol";
import {Fixture} from "./support/Fixture.sol";
import {HostileToken} from "./support/HostileToken.sol";

/// @notice What every test of claims does.
abstract contract ClaimFixture is Fixture {
    /// @dev A tree of `count` grants of 10 each, to accounts that follow one another.
    function tree(uint64 firstLow, uint256 count) internal pure returns (Leaf[] memory leaves) {
        leaves = new Leaf[](count);
        for (uint64 i; i < count; ++i) {
            leaves[i] = Leaf(idOf(firstLow + i), address(1000 + uint160(i)), 10);
        }
    }

    function publish(bytes32 campaign, Leaf[] memory leaves) internal {
        setClaimRoot(campaign, ClaimTree.root(leaves));
    }

    /// @dev Publishes a tree of twenty levels that holds the leaf.
    function publish(bytes32 campaign, Leaf memory leaf) internal returns (bytes32[] memory proof) {
        bytes32 root;
        (root, proof) = ClaimTree.path(leaf, 20);
        setClaimRoot(campaign, root);
    }

    function assertRefused(bytes memory reason, bytes32 campaign, Leaf memory leaf, bytes32[] memory proof) internal {
        uint256 campaignPaid = distributor.campaignPaid(campaign);
        uint256 paidToday = distributor.paidOnDay(block.timestamp / 1 days);
        bool paid = distributor.isPaid(leaf.id);
        vm.expectRevert(reason);
        claim(campaign, leaf, proof);
        vm.assertEq(distributor.isPaid(leaf.id), paid);
        vm.assertEq(distributor.campaignPaid(campaign), campaignPaid);
        vm.assertEq(distributor.paidOnDay(block.timestamp / 1 days), paidToday);
    }

    function assertNotInTree(bytes32 campaign, Leaf memory leaf, bytes32[] memory proof) internal {
        assertRefused(abi.encodeWithSelector(GrantDistributor.InvalidClaimProof.selector), campaign, leaf, proof);
    }

    function alreadyPaid(uint256 id) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(GrantDistributor.GrantAlreadyPaid.selector, id);
    }
}

contract ClaimTest is ClaimFixture {
    function setUp() public {
        deploy();
    }

    // Claiming, and being paid once

    function test_a_grant_is_minted_to_its_recipient_whoever_claims_it() public {
        Leaf memory leaf = Leaf(idOf(7), alice, 5e18);
        bytes32[] memory proof = publish(SUMMER, leaf);
        Outcome[] memory outcomes = claimAndRead(SUMMER, leaf, proof);
        vm.assertEq(outcomes.length, 1);
        assertPaid(outcomes[0], idOf(7), alice, 5e18);
        vm.assertEq(token.balanceOf(alice), 5e18);
        vm.assertEq(token.totalSupply(), 5e18);
        vm.assertEq(distributor.campaignPaid(SUMMER), 5e18);
        vm.assertEq(distributor.paidOnDay(block.timestamp / 1 days), 5e18);
        vm.assertFalse(distributor.isPaid(idOf(6)));
        vm.assertFalse(distributor.isPaid(idOf(8)));
    }

    function testFuzz_any_grant_in_a_tree_of_any_depth(
        uint256 id,
        address to,
        uint96 amount,
        bytes32 campaign,
        uint8 depth,
        address caller
    ) public {
        vm.assume(to != address(0));
        Leaf memory leaf = Leaf(id, to, amount);
        (bytes32 root, bytes32[] memory proof) = ClaimTree.path(leaf, depth % 33);
        setClaimRoot(campaign, root);
        vm.prank(caller);
        distributor.claim(campaign, id, to, amount, proof);
        vm.assertTrue(distributor.isPaid(id));
        vm.assertEq(token.balanceOf(to), amount);
        vm.assertEq(distributor.campaignPaid(campaign), amount);

        assertRefused(alreadyPaid(id), campaign, leaf, proof);
        assertSkipped(payAndRead(Batch.single(campaign, id, to, amount))[0], id);
        vm.assertEq(token.totalSupply(), amount);
    }

    function test_every_grant_of_a_tree_is_claimed_once() public {
        Leaf[] memory leaves = tree(250, 13);
        publish(SUMMER, leaves);
        for (uint256 i; i < leaves.length; ++i) {
            claim(SUMMER, leaves[i], ClaimTree.proof(leaves, i));
            vm.assertEq(token.balanceOf(leaves[i].to), 10);
        }
        for (uint256 i; i < leaves.length; ++i) {
            assertRefused(alreadyPaid(leaves[i].id), SUMMER, leaves[i], ClaimTree.proof(leaves, i));
        }
        vm.assertEq(token.totalSupply(), 130);
        vm.assertEq(distributor.campaignPaid(SUMMER), 130);
    }

    function test_a_claimed_grant_is_skipped_in_a_batch_and_its_neighbours_are_paid() public {
        Leaf memory leaf = Leaf(idOf(2), alice, 5);
        claim(SUMMER, leaf, publish(SUMMER, leaf));
        Outcome[] memory outcomes = payAndRead(Batch.dense(SUMMER, PREFIX, 1, 100, 3, 5));
        assertPaid(outcomes[0], idOf(1), address(uint160(100)), 5);
        assertSkipped(outcomes[1], idOf(2));
        assertPaid(outcomes[2], idOf(3), address(uint160(102)), 5);
        vm.assertEq(token.totalSupply(), 15);
        vm.assertEq(distributor.campaignPaid(SUMMER), 15);
    }

    function test_a_grant_paid_in_a_batch_cannot_be_claimed_and_its_neighbour_can() public {
        pay(Batch.single(WINTER, idOf(1), bob, 6));
        Leaf[] memory leaves = tree(1, 2);
        publish(SUMMER, leaves);
        assertRefused(alreadyPaid(idOf(1)), SUMMER, leaves[0], ClaimTree.proof(leaves, 0));
        claim(SUMMER, leaves[1], ClaimTree.proof(leaves, 1));
        vm.assertTrue(distributor.isPaid(idOf(1)));
        vm.assertTrue(distributor.isPaid(idOf(2)));
        vm.assertEq(token.totalSupply(), 16);
    }

    // Proofs

    /// @dev The trees of OpenZeppelin's library, see tools/merkle_vectors.mjs.
    function test_the_library_and_the_contract_agree() public {
        string memory json = vm.readFile("test/support/merkle_vectors.json");
        uint256 trees;
        for (string memory one = ".trees[0]"; vm.keyExistsJson(json, one); one = element(".trees", ++trees)) {
            Leaf[] memory leaves = leavesOf(json, one);
            bytes32 root = vm.parseJsonBytes32(json, string.concat(one, ".root"));
            vm.assertEq(ClaimTree.root(leaves), root, "root");
            setClaimRoot(SUMMER, root);
            uint256 state = vm.snapshotState();
            string memory proofs = string.concat(one, ".proofs");
            uint256 proven;
            for (string memory of_ = element(proofs, 0); vm.keyExistsJson(json, of_); of_ = element(proofs, ++proven)) {
                uint256 position = vm.parseJsonUint(json, string.concat(of_, ".position"));
                bytes32[] memory proof = vm.parseJsonBytes32Array(json, string.concat(of_, ".proof"));
                vm.assertEq(abi.encode(ClaimTree.proof(leaves, position)), abi.encode(proof));
                claim(SUMMER, leaves[position], proof);
                assertRefused(alreadyPaid(leaves[position].id), SUMMER, leaves[position], proof);
            }
            vm.assertTrue(proven == leaves.length || proven == 10, "proofs");
            vm.revertToState(state);
        }
        vm.assertEq(trees, 6);
    }

    function testFuzz_a_changed_field_is_not_in_the_tree(Leaf memory leaf, Leaf memory other) public {
        bytes32[] memory proof = publish(SUMMER, leaf);
        if (other.id != leaf.id) assertNotInTree(SUMMER, Leaf(other.id, leaf.to, leaf.amount), proof);
        if (other.to != leaf.to) assertNotInTree(SUMMER, Leaf(leaf.id, other.to, leaf.amount), proof);
        if (other.amount != leaf.amount) assertNotInTree(SUMMER, Leaf(leaf.id, leaf.to, other.amount), proof);
    }

    function testFuzz_a_changed_proof_leads_elsewhere(Leaf memory leaf, uint256 level, uint256 bit) public {
        bytes32[] memory proof = publish(SUMMER, leaf);
        level %= proof.length;
        proof[level] ^= bytes32(1 << bit % 256);
        assertNotInTree(SUMMER, leaf, proof);
    }

    function test_a_proof_of_another_length_leads_elsewhere() public {
        Leaf memory leaf = Leaf(idOf(7), alice, 5);
        bytes32[] memory proof = publish(SUMMER, leaf);
        bytes32[] memory longer = new bytes32[](proof.length + 1);
        bytes32[] memory shorter = new bytes32[](proof.length - 1);
        for (uint256 i; i < proof.length; ++i) {
            longer[i] = proof[i];
            if (i < shorter.length) shorter[i] = proof[i];
        }
        longer[proof.length] = distributor.claimRoot(SUMMER);
        assertNotInTree(SUMMER, leaf, longer);
        assertNotInTree(SUMMER, leaf, shorter);
        assertNotInTree(SUMMER, leaf, new bytes32[](0));
    }

    /// @dev Second preimages: what an inner node was hashed from, and what a leaf would be if it were hashed once.
    function test_an_inner_node_is_no_leaf() public {
        Leaf memory left = Leaf(idOf(1), alice, 5);
        Leaf memory right = Leaf(idOf(2), bob, 5);
        Leaf[] memory leaves = new Leaf[](2);
        (leaves[0], leaves[1]) = (left, right);
        publish(SUMMER, leaves);
        (bytes32 one, bytes32 two) = (ClaimTree.hash(left), ClaimTree.hash(right));
        if (two < one) (one, two) = (two, one);
        Leaf memory forged = Leaf(uint256(one), address(uint160(uint256(two))), 0);
        assertNotInTree(SUMMER, forged, new bytes32[](0));
        assertNotInTree(SUMMER, Leaf(uint256(one), alice, uint256(two)), new bytes32[](0));

        setClaimRoot(WINTER, keccak256(abi.encode(left.id, left.to, left.amount)));
        assertNotInTree(WINTER, left, new bytes32[](0));
    }

    function test_a_proof_holds_in_its_campaign_alone() public {
        Leaf memory leaf = Leaf(idOf(7), alice, 5);
        bytes32[] memory proof = publish(SUMMER, leaf);
        bytes memory closed = abi.encodeWithSelector(GrantDistributor.ClaimsClosed.selector, WINTER);
        assertRefused(closed, WINTER, leaf, proof);
        publish(WINTER, tree(7, 3));
        assertNotInTree(WINTER, leaf, proof);

        // The very same tree in two campaigns, which the services never publish, still pays once.
        setClaimRoot(WINTER, distributor.claimRoot(SUMMER));
        claim(WINTER, leaf, proof);
        assertRefused(alreadyPaid(leaf.id), SUMMER, leaf, proof);
        vm.assertEq(token.totalSupply(), 5);
        vm.assertEq(distributor.campaignPaid(WINTER), 5);
        vm.assertEq(distributor.campaignPaid(SUMMER), 0);
    }

    // Roots

    function test_a_root_is_replaced_as_the_tree_grows() public {
        Leaf[] memory few = tree(1, 3);
        Leaf[] memory more = tree(1, 5);
        Leaf[] memory most = tree(1, 6);
        vm.expectEmit();
        emit GrantDistributor.ClaimRootSet(SUMMER, ClaimTree.root(few));
        publish(SUMMER, few);
        vm.assertEq(distributor.claimRoot(SUMMER), ClaimTree.root(few));
        claim(SUMMER, few[0], ClaimTree.proof(few, 0));

        publish(SUMMER, more);
        vm.assertEq(distributor.claimRoot(SUMMER), ClaimTree.root(more));
        vm.assertEq(distributor.previousClaimRoot(SUMMER), ClaimTree.root(few));
        // A proof that a player asked for just before still holds.
        claim(SUMMER, few[1], ClaimTree.proof(few, 1));
        claim(SUMMER, more[4], ClaimTree.proof(more, 4));
        // What was claimed from the tree before is paid, whichever proof comes with it.
        assertRefused(alreadyPaid(more[0].id), SUMMER, more[0], ClaimTree.proof(more, 0));
        assertRefused(alreadyPaid(few[0].id), SUMMER, few[0], ClaimTree.proof(few, 0));
        vm.assertEq(token.totalSupply(), 30);

        publish(SUMMER, most);
        assertNotInTree(SUMMER, few[2], ClaimTree.proof(few, 2));
        claim(SUMMER, more[2], ClaimTree.proof(more, 2));
        claim(SUMMER, most[5], ClaimTree.proof(most, 5));
        vm.assertEq(token.totalSupply(), 50);
    }

    function test_the_same_root_again_changes_nothing() public {
        Leaf[] memory few = tree(1, 3);
        Leaf[] memory more = tree(1, 5);
        publish(SUMMER, few);
        publish(SUMMER, more);
        publish(SUMMER, more);
        vm.assertEq(distributor.previousClaimRoot(SUMMER), ClaimTree.root(few));
        claim(SUMMER, few[0], ClaimTree.proof(few, 0));
    }

    function test_a_zero_root_closes_the_claims() public {
        Leaf memory leaf = Leaf(idOf(7), alice, 5);
        bytes memory closed = abi.encodeWithSelector(GrantDistributor.ClaimsClosed.selector, SUMMER);
        assertRefused(closed, SUMMER, leaf, new bytes32[](0));
        bytes32[] memory proof = publish(SUMMER, leaf);
        bytes32 root = distributor.claimRoot(SUMMER);
        vm.expectEmit();
        emit GrantDistributor.ClaimRootSet(SUMMER, 0);
        setClaimRoot(SUMMER, 0);
        assertRefused(closed, SUMMER, leaf, proof);
        vm.assertEq(distributor.previousClaimRoot(SUMMER), 0);
        // Neither the root that was closed nor the one before it comes back with the next.
        publish(SUMMER, tree(100, 3));
        assertNotInTree(SUMMER, leaf, proof);
        setClaimRoot(SUMMER, root);
        claim(SUMMER, leaf, proof);
    }

    function testFuzz_only_a_submitter_sets_a_root(address caller) public {
        vm.assume(caller != submitter);
        bytes32 role = distributor.SUBMITTER_ROLE();
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, caller, role)
        );
        vm.prank(caller);
        distributor.setClaimRoot(SUMMER, keccak256("root"));
    }

    // Pause, caps and what the token refuses

    function test_a_pause_stops_claims_until_it_ends() public {
        Leaf memory leaf = Leaf(idOf(7), alice, 5);
        vm.prank(admin);
        distributor.pause();
        // A root can be set right before the pause ends.
        bytes32[] memory proof = publish(SUMMER, leaf);
        assertRefused(abi.encodeWithSelector(Pausable.EnforcedPause.selector), SUMMER, leaf, proof);
        vm.prank(admin);
        distributor.unpause();
        claim(SUMMER, leaf, proof);
        vm.assertEq(token.balanceOf(alice), 5);
    }

    function test_a_campaign_cap_holds_for_claims_and_batches_together() public {
        vm.prank(admin);
        distributor.setCampaignCap(SUMMER, 25);
        Leaf[] memory leaves = tree(1, 3);
        publish(SUMMER, leaves);
        publish(WINTER, leaves);
        pay(Batch.single(SUMMER, idOf(9), alice, 5));
        claim(SUMMER, leaves[0], ClaimTree.proof(leaves, 0));
        claim(SUMMER, leaves[1], ClaimTree.proof(leaves, 1));
        vm.assertEq(distributor.campaignPaid(SUMMER), 25);

        bytes memory exceeded = abi.encodeWithSelector(GrantDistributor.CampaignCapExceeded.selector, SUMMER, 25);
        assertRefused(exceeded, SUMMER, leaves[2], ClaimTree.proof(leaves, 2));
        assertRejected(payAndRead(Batch.single(SUMMER, idOf(9) + 1, alice, 1))[0], idOf(10), alice, 1, exceeded);
        claim(WINTER, leaves[2], ClaimTree.proof(leaves, 2));
    }

    function test_a_daily_cap_holds_for_claims_and_batches_together() public {
        vm.warp(20_000 days + 1 hours);
        vm.prank(admin);
        distributor.setDailyCap(25);
        Leaf[] memory leaves = tree(1, 3);
        publish(SUMMER, leaves);
        pay(Batch.single(WINTER, idOf(9), alice, 5));
        claim(SUMMER, leaves[0], ClaimTree.proof(leaves, 0));
        claim(SUMMER, leaves[1], ClaimTree.proof(leaves, 1));
        vm.assertEq(distributor.paidOnDay(20_000), 25);

        bytes memory exceeded = abi.encodeWithSelector(GrantDistributor.DailyCapExceeded.selector, 20_000, 25);
        assertRefused(exceeded, SUMMER, leaves[2], ClaimTree.proof(leaves, 2));
        vm.expectRevert(exceeded);
        pay(Batch.single(WINTER, idOf(10), alice, 1));

        vm.warp(20_001 days);
        claim(SUMMER, leaves[2], ClaimTree.proof(leaves, 2));
        vm.assertEq(distributor.paidOnDay(20_001), 10);
    }

    function testFuzz_an_amount_has_96_bits(uint256 amount) public {
        amount |= 1 << 96 + amount % 160;
        Leaf memory leaf = Leaf(idOf(7), alice, amount);
        bytes memory tooLarge = abi.encodeWithSelector(GrantDistributor.AmountTooLarge.selector, amount);
        bytes32[] memory proof = publish(SUMMER, leaf);
        assertRefused(tooLarge, SUMMER, leaf, proof);
    }

    function test_a_recipient_that_the_token_refuses_is_told_so() public {
        Leaf memory leaf = Leaf(idOf(7), address(0), 5);
        bytes memory reason = abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(0));
        assertRefused(reason, SUMMER, leaf, publish(SUMMER, leaf));
        // Not paid: the grant may come again, in another tree or in a batch.
        leaf.to = alice;
        claim(SUMMER, leaf, publish(SUMMER, leaf));
    }

    function test_a_paused_token_refuses_and_loses_nothing() public {
        Leaf memory leaf = Leaf(idOf(7), alice, 5);
        bytes32[] memory proof = publish(SUMMER, leaf);
        vm.prank(admin);
        token.pause();
        assertRefused(abi.encodeWithSelector(Pausable.EnforcedPause.selector), SUMMER, leaf, proof);
        vm.prank(admin);
        token.unpause();
        claim(SUMMER, leaf, proof);
    }

    function leavesOf(string memory json, string memory tree_) private view returns (Leaf[] memory leaves) {
        string memory all = string.concat(tree_, ".leaves");
        uint256 count;
        while (vm.keyExistsJson(json, element(all, count))) ++count;
        leaves = new Leaf[](count);
        for (uint256 i; i < count; ++i) {
            string memory one = element(all, i);
            leaves[i] = Leaf(
                vm.parseJsonUint(json, string.concat(one, ".id")),
                vm.parseJsonAddress(json, string.concat(one, ".to")),
                vm.parseJsonUint(json, string.concat(one, ".amount"))
            );
        }
    }

    function element(string memory array, uint256 index) private pure returns (string memory) {
        return string.concat(array, "[", vm.toString(index), "]");
    }
}

/// @notice Whatever the token does, a claim is whole or nothing.
contract HostileClaimTest is ClaimFixture {
    HostileToken private hostile;
    Leaf private leaf;

    function setUp() public {
        hostile = new HostileToken();
        distributor = new GrantDistributor(address(hostile), admin, submitter);
        leaf = Leaf(idOf(2), alice, 6);
    }

    function refused(HostileToken.Mode mode, bytes memory reason) private {
        hostile.setMode(alice, mode);
        bytes32[] memory proof = publish(SUMMER, leaf);
        assertRefused(reason, SUMMER, leaf, proof);
        vm.assertEq(hostile.totalSupply(), 0);
        hostile.setMode(alice, HostileToken.Mode.Mint);
        claim(SUMMER, leaf, proof);
        vm.assertEq(hostile.balanceOf(alice), 6);
    }

    function paid(HostileToken.Mode mode) private {
        hostile.setMode(alice, mode);
        uint256 supply = hostile.totalSupply();
        Outcome[] memory outcomes = claimAndRead(SUMMER, leaf, publish(SUMMER, leaf));
        vm.assertEq(outcomes.length, 1);
        assertPaid(outcomes[0], leaf.id, alice, 6);
        vm.assertEq(hostile.totalSupply(), supply + 6);
        vm.assertEq(distributor.campaignPaid(SUMMER), 6);
        vm.assertEq(distributor.paidOnDay(block.timestamp / 1 days), 6);
    }

    function test_a_revert_is_passed_on_with_its_reason() public {
        refused(HostileToken.Mode.Revert, abi.encodeWithSelector(HostileToken.Refused.selector, alice));
    }

    function test_a_revert_without_a_reason_gets_one() public {
        refused(HostileToken.Mode.RevertSilently, abi.encodeWithSelector(GrantDistributor.MintReverted.selector));
    }

    function test_a_token_that_burns_all_gas_burns_its_own() public {
        refused(HostileToken.Mode.BurnAllGas, abi.encodeWithSelector(GrantDistributor.MintReverted.selector));
    }

    function test_a_reason_of_megabytes_is_cut() public {
        refused(HostileToken.Mode.RevertWithMegabytes, new bytes(256));
    }

    function test_false_is_a_refusal() public {
        refused(HostileToken.Mode.ReturnFalse, abi.encodeWithSelector(GrantDistributor.MintReturnedFalse.selector));
    }

    function test_a_token_may_return_true_or_megabytes_and_need_much_gas() public {
        // Its first mint leaves too little of its gas for megabytes.
        hostile.mint(alice, 1);
        uint256 state = vm.snapshotState();
        paid(HostileToken.Mode.MintAndReturnTrue);
        vm.revertToState(state);
        paid(HostileToken.Mode.MintAndReturnMegabytes);
        vm.revertToState(state);
        paid(HostileToken.Mode.MintForMuchGas);
    }

    /// @dev From within a claim's mint: the same claim, another one, and a batch.
    function test_a_token_can_neither_claim_nor_pay_from_within_a_claim() public {
        bytes32 role = distributor.SUBMITTER_ROLE();
        vm.prank(admin);
        distributor.grantRole(role, address(hostile));
        Leaf memory other = Leaf(idOf(3), bob, 7);
        bytes32[] memory proof = publish(WINTER, other);
        (, bytes32[] memory own) = ClaimTree.path(leaf, 20);
        bytes[3] memory calls = [
            abi.encodeCall(distributor.claim, (SUMMER, leaf.id, leaf.to, leaf.amount, own)),
            abi.encodeCall(distributor.claim, (WINTER, other.id, other.to, other.amount, proof)),
            abi.encodeCall(distributor.pay, (Batch.single(SUMMER, leaf.id, alice, 1)))
        ];
        for (uint256 i; i < calls.length; ++i) {
            uint256 state = vm.snapshotState();
            hostile.setReentry(distributor, calls[i]);
            paid(HostileToken.Mode.MintAfterReentering);
            assertReentryRefused();
            vm.revertToState(state);
        }
    }

    /// @dev A batch keeps the word that it works on to itself until its end: a claim in between would be lost.
    function test_a_token_cannot_claim_from_within_a_batch() public {
        Leaf memory other = Leaf(idOf(3), bob, 7);
        bytes32[] memory proof = publish(WINTER, other);
        hostile.setReentry(
            distributor, abi.encodeCall(distributor.claim, (WINTER, other.id, other.to, other.amount, proof))
        );
        hostile.setMode(alice, HostileToken.Mode.MintAfterReentering);
        pay(Batch.single(SUMMER, leaf.id, alice, 6));
        assertReentryRefused();
        vm.assertEq(hostile.totalSupply(), 6);
        claim(WINTER, other, proof);
        vm.assertEq(hostile.totalSupply(), 13);
    }

    function test_a_running_claim_is_on_the_books_already() public {
        uint256 state = vm.snapshotState();
        hostile.setReentry(distributor, abi.encodeCall(distributor.isPaid, (leaf.id)));
        paid(HostileToken.Mode.MintAfterReentering);
        vm.assertEq(hostile.reentryAnswer(), abi.encode(true));
        vm.revertToState(state);
        hostile.setReentry(distributor, abi.encodeCall(distributor.campaignPaid, (SUMMER)));
        paid(HostileToken.Mode.MintAfterReentering);
        vm.assertEq(hostile.reentryAnswer(), abi.encode(6));
        vm.revertToState(state);
        hostile.setReentry(distributor, abi.encodeCall(distributor.paidOnDay, (block.timestamp / 1 days)));
        paid(HostileToken.Mode.MintAfterReentering);
        vm.assertEq(hostile.reentryAnswer(), abi.encode(6));
    }

    /// @dev Somebody else's claim with just too little gas must not cost the player the grant.
    function test_with_every_gas_around_the_minimum_a_claim_is_whole_or_not() public {
        hostile.setMode(alice, HostileToken.Mode.MintForMuchGas);
        bytes32[] memory proof = publish(SUMMER, leaf);
        bytes memory call = abi.encodeCall(distributor.claim, (SUMMER, leaf.id, leaf.to, leaf.amount, proof));
        uint256 state = vm.snapshotState();
        bool everPaid;
        bool everRefused;
        for (uint256 gas = 195_000; gas < 330_000; gas += 101) {
            vm.prank(relayer);
            (bool called, bytes memory answer) = address(distributor).call{gas: gas}(call);
            vm.assertEq(distributor.isPaid(leaf.id), called);
            vm.assertEq(hostile.totalSupply(), called ? 6 : 0);
            vm.assertEq(distributor.campaignPaid(SUMMER), called ? 6 : 0);
            everPaid = everPaid || called;
            if (!called && answer.length != 0) {
                everRefused = true;
                vm.assertEq(answer, abi.encodeWithSelector(GrantDistributor.NotEnoughGas.selector));
            }
            vm.revertToState(state);
        }
        vm.assertTrue(everPaid && everRefused);
    }

    function assertReentryRefused() private view {
        bytes memory guarded = abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
        vm.assertEq(hostile.reentryAnswer(), guarded);
        vm.assertFalse(hostile.reentered());
    }
}
