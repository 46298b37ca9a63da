// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {GrantDistributor} from "../src/GrantDistributor.sol";
import {GrantToken} from "../src/GrantToken.sol";
import {Batch} from "./support/Batch.sol";
import {ClaimTree, Leaf} from "./support/ClaimTree.sol";
import {Fixture} from "./support/Fixture.sol";

/// @notice Whatever is submitted and claimed, in whatever order, under whatever caps and pauses: the supply is the sum of the grants
/// that were announced as paid, and none was announced twice.
abstract contract ExactlyOnceInvariants is Fixture {
    Handler private handler;

    function watch() internal {
        handler = new Handler(token, distributor, admin, submitter);
    }

    /// @dev forge calls these contracts, and no others, between two looks at the invariants.
    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_the_supply_is_the_sum_of_first_time_grants() public view {
        vm.assertEq(token.totalSupply(), handler.sum(), "supply");
        uint256 held;
        for (uint160 i = 1; i <= handler.RECIPIENTS(); ++i) {
            vm.assertEq(token.balanceOf(address(i)), handler.received(address(i)), "balance");
            held += token.balanceOf(address(i));
        }
        vm.assertEq(held, handler.sum(), "held by others");
    }

    function invariant_a_bit_is_set_for_every_paid_grant_and_no_other() public view {
        for (uint256 i; i < handler.ids(); ++i) {
            uint256 id = handler.idAt(i);
            vm.assertEq(distributor.isPaid(id) ? 1 : 0, handler.timesPaid(id), "bit and payments");
            // Its neighbours share a word with it.
            vm.assertEq(distributor.isPaid(id ^ 1) ? 1 : 0, handler.timesPaid(id ^ 1), "neighbour");
        }
    }

    function invariant_campaigns_and_days_add_up() public view {
        uint256 campaigns;
        for (uint256 i; i < handler.CAMPAIGNS(); ++i) {
            bytes32 campaign = handler.campaignAt(i);
            vm.assertEq(distributor.campaignPaid(campaign), handler.paidOfCampaign(campaign), "campaign");
            campaigns += distributor.campaignPaid(campaign);
        }
        uint256 days_;
        uint256 today = block.timestamp / 1 days;
        for (uint256 day; day <= today; ++day) {
            days_ += distributor.paidOnDay(day);
        }
        vm.assertEq(campaigns, handler.sum(), "campaigns");
        vm.assertEq(days_, handler.sum(), "days");
    }
}

contract MintedTogetherTest is ExactlyOnceInvariants {
    function setUp() public {
        deploy();
        watch();
    }
}

contract MintedOneByOneTest is ExactlyOnceInvariants {
    function setUp() public {
        deployWithoutBatches(TOKEN_CAP);
        watch();
    }
}

/// @notice Submits random batches, publishes and claims random trees, and keeps its own books, from the events alone.
contract Handler is Fixture {
    uint256 public constant CAMPAIGNS = 3;
    uint160 public constant RECIPIENTS = 8;

    /// @notice What was announced as paid.
    uint256 public sum;
    uint256[] public idAt;
    mapping(uint256 id => uint256) public timesPaid;
    mapping(address account => uint256) public received;
    mapping(bytes32 campaign => uint256) public paidOfCampaign;

    mapping(uint256 id => bool) private known;

    /// @dev An item of the batch under construction.
    struct Item {
        bytes32 campaign;
        uint256 id;
        address to;
        uint96 amount;
    }

    Item[] private items;
    bytes private batch;

    /// @dev The tree that was published last, for which campaign, and what was claimed from it last.
    Leaf[] private leaves;
    bytes32 private treeOf;
    uint256 private claimed;

    /// @dev Each campaign's root, as published, and the one before it.
    mapping(bytes32 campaign => bytes32) private rootOf;
    mapping(bytes32 campaign => bytes32) private rootBefore;

    constructor(GrantToken token_, GrantDistributor distributor_, address admin_, address submitter_) {
        assert(admin == admin_ && submitter == submitter_);
        token = token_;
        distributor = distributor_;
    }

    function ids() external view returns (uint256) {
        return idAt.length;
    }

    function campaignAt(uint256 index) public pure returns (bytes32) {
        return keccak256(abi.encode("campaign", index));
    }

    /// @dev Up to four groups of up to eight items. Dense ids come from three words, sparse ids from a pool of 24, so
    /// that repeats are as common as fresh grants. Recipient zero is one that the token refuses.
    function submit(uint256 seed) external {
        delete items;
        delete batch;
        uint256 groups = 1 + draw(seed, 0) % 4;
        for (uint256 g; g < groups; ++g) {
            uint256 groupSeed = draw(seed, 1 + g);
            bool sparse = groupSeed & 1 == 1;
            bytes32 campaign = campaignAt((groupSeed >> 8) % CAMPAIGNS);
            uint256 first = sparse ? sparseId(groupSeed >> 16) : idOf(0);
            uint16 count = sparse ? 1 : uint16(1 + (groupSeed >> 24) % 8);
            batch = bytes.concat(batch, Batch.group(campaign, uint192(first >> 64), count));
            for (uint256 i; i < count; ++i) {
                addItem(campaign, first, sparse, draw(groupSeed, i));
            }
        }
        payAndBook();
    }

    /// @dev The same batch again, as after a lost answer.
    function submitAgain() external {
        if (items.length != 0) payAndBook();
    }

    /// @dev A tree of up to eight grants from the same pools, whose root takes the place of the campaign's last one.
    function publish(uint256 seed) external {
        delete leaves;
        uint256 count = 1 + draw(seed, 0) % 8;
        for (uint256 i; i < count; ++i) {
            uint256 leafSeed = draw(seed, 1 + i);
            uint256 id = leafSeed & 1 == 1 ? sparseId(leafSeed >> 16) : idOf(0) + leafSeed % 768;
            Item memory item = itemOf(0, id, leafSeed);
            leaves.push(Leaf(item.id, item.to, item.amount));
        }
        treeOf = campaignAt((seed >> 8) % CAMPAIGNS);
        bytes32 root = ClaimTree.root(leaves);
        if (root != rootOf[treeOf]) (rootBefore[treeOf], rootOf[treeOf]) = (rootOf[treeOf], root);
        setClaimRoot(treeOf, root);
    }

    function closeClaims(uint256 index, uint8 dice) external {
        if (dice % 4 != 0) return;
        bytes32 campaign = campaignAt(index % CAMPAIGNS);
        delete rootOf[campaign];
        delete rootBefore[campaign];
        setClaimRoot(campaign, 0);
    }

    function claimOne(uint256 seed) external {
        if (leaves.length == 0) return;
        claimed = seed % leaves.length;
        claimAndBook(treeOf);
    }

    /// @dev The same claim again, in its own or in another campaign.
    function claimAgain(uint256 index) external {
        if (claimed < leaves.length) claimAndBook(campaignAt(index % CAMPAIGNS));
    }

    function setCampaignCap(uint256 index, uint128 cap) external {
        vm.prank(admin);
        distributor.setCampaignCap(campaignAt(index % CAMPAIGNS), cap % 3 == 0 ? 0 : cap % 20_000);
    }

    function setDailyCap(uint128 cap) external {
        vm.prank(admin);
        distributor.setDailyCap(cap % 3 == 0 ? 0 : cap % 40_000);
    }

    /// @dev Paused for a quarter of the time.
    function pauseToken(uint8 dice) external {
        bool pause = dice % 4 == 0;
        if (pause == token.paused()) return;
        vm.prank(admin);
        if (pause) token.pause();
        else token.unpause();
    }

    function wait(uint24 time) external {
        vm.warp(block.timestamp + time % 1 days);
    }

    function addItem(bytes32 campaign, uint256 first, bool sparse, uint256 seed) private {
        Item memory item = itemOf(campaign, sparse ? first : first + seed % 768, seed);
        items.push(item);
        batch = bytes.concat(batch, Batch.item(uint64(item.id), item.to, item.amount));
    }

    function itemOf(bytes32 campaign, uint256 id, uint256 seed) private returns (Item memory item) {
        item = Item(campaign, id, address(uint160((seed >> 32) % (RECIPIENTS + 1))), uint96((seed >> 64) % 1000));
        if (!known[id]) {
            known[id] = true;
            idAt.push(id);
        }
    }

    function payAndBook() private {
        uint256 supply = token.totalSupply();
        vm.recordLogs();
        vm.prank(submitter);
        try distributor.pay(batch) {
            book(inOrder(batch, read(vm.getRecordedLogs())));
        } catch (bytes memory reason) {
            // Only the daily cap stops a batch, and only one that does exceed it.
            uint256 day = block.timestamp / 1 days;
            uint256 cap = distributor.dailyCap();
            vm.assertEq(reason, abi.encodeWithSelector(GrantDistributor.DailyCapExceeded.selector, day, cap));
            vm.assertEq(token.totalSupply(), supply);
            vm.prank(admin);
            distributor.setDailyCap(0);
            book(payAndRead(batch));
            vm.assertTrue(distributor.paidOnDay(day) > cap);
        }
    }

    /// @dev Each outcome in its place, and the one that the rules ask for.
    function book(Outcome[] memory outcomes) private {
        vm.assertEq(outcomes.length, items.length, "an outcome for every item");
        for (uint256 i; i < outcomes.length; ++i) {
            Item memory item = items[i];
            uint256 cap = distributor.campaignCap(item.campaign);
            bool overCap = cap != 0 && paidOfCampaign[item.campaign] + item.amount > cap;
            vm.assertEq(outcomes[i].id, item.id, "order");
            if (timesPaid[item.id] != 0) {
                vm.assertEq(outcomes[i].kind, SKIPPED, "paid before");
            } else if (overCap || item.to == address(0) || token.paused()) {
                vm.assertEq(outcomes[i].kind, REJECTED, "not payable");
                vm.assertEq(bytes4(outcomes[i].reason) == GrantDistributor.CampaignCapExceeded.selector, overCap);
            } else {
                vm.assertEq(outcomes[i].kind, PAID, "payable");
                vm.assertEq(outcomes[i].to, item.to, "recipient");
                vm.assertEq(outcomes[i].amount, item.amount, "amount");
                bookPayment(item);
            }
        }
    }

    /// @dev Paid, or refused for the reason that the rules ask for.
    function claimAndBook(bytes32 campaign) private {
        Leaf memory leaf = leaves[claimed];
        bytes32[] memory proof = ClaimTree.proof(leaves, claimed);
        bytes memory refusal = refusalOf(campaign, leaf);
        if (refusal.length != 0) {
            vm.expectRevert(refusal);
            claim(campaign, leaf, proof);
            return;
        }
        Outcome[] memory outcomes = claimAndRead(campaign, leaf, proof);
        vm.assertEq(outcomes.length, 1, "one outcome");
        assertPaid(outcomes[0], leaf.id, leaf.to, leaf.amount);
        bookPayment(Item(campaign, leaf.id, leaf.to, uint96(leaf.amount)));
    }

    function refusalOf(bytes32 campaign, Leaf memory leaf) private view returns (bytes memory) {
        if (timesPaid[leaf.id] != 0) return abi.encodeWithSelector(GrantDistributor.GrantAlreadyPaid.selector, leaf.id);
        if (rootOf[campaign] == 0) return abi.encodeWithSelector(GrantDistributor.ClaimsClosed.selector, campaign);
        bytes32 root = ClaimTree.root(leaves);
        if (root != rootOf[campaign] && root != rootBefore[campaign]) {
            return abi.encodeWithSelector(GrantDistributor.InvalidClaimProof.selector);
        }
        uint256 cap = distributor.campaignCap(campaign);
        if (cap != 0 && paidOfCampaign[campaign] + leaf.amount > cap) {
            return abi.encodeWithSelector(GrantDistributor.CampaignCapExceeded.selector, campaign, cap);
        }
        uint256 day = block.timestamp / 1 days;
        cap = distributor.dailyCap();
        if (cap != 0 && leaf.amount != 0 && distributor.paidOnDay(day) + leaf.amount > cap) {
            return abi.encodeWithSelector(GrantDistributor.DailyCapExceeded.selector, day, cap);
        }
        if (leaf.to == address(0)) return abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, leaf.to);
        if (token.paused()) return abi.encodeWithSelector(Pausable.EnforcedPause.selector);
        return "";
    }

    function bookPayment(Item memory item) private {
        ++timesPaid[item.id];
        sum += item.amount;
        received[item.to] += item.amount;
        paidOfCampaign[item.campaign] += item.amount;
    }

    function sparseId(uint256 seed) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed % 24))) | 1 << 255;
    }

    function draw(uint256 seed, uint256 index) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, index)));
    }
}
