// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {GrantDistributor} from "../src/GrantDistributor.sol";
import {GrantToken} from "../src/GrantToken.sol";
import {WalletFactory} from "../src/WalletFactory.sol";
import {Batch} from "./support/Batch.sol";
import {ClaimTree, Leaf} from "./support/ClaimTree.sol";
import {Fixture} from "./support/Fixture.sol";
import {Airdrop, PlainToken} from "./support/Tokens.sol";

/// @notice What a grant costs, transaction and calldata included. The figures are kept in snapshots/ and compared.
/// @dev Isolated: every call is a transaction of its own, and starts with cold storage.
/// forge-config: default.isolate = true
contract GasTest is Fixture {
    /// @dev EIP-7825: no transaction may bring more.
    uint256 private constant MAX_TRANSACTION_GAS = 16_777_216;

    uint96 private constant AMOUNT = 100e18;
    uint160 private constant RECIPIENT = uint160(uint256(keccak256("recipient")));

    function setUp() public {
        deploy();
        // A deployment in use: supply, campaign and day are not zero.
        pay(Batch.single(SUMMER, idOf(0), alice, AMOUNT));
    }

    function test_a_fresh_grant_costs_at_most_25500() public {
        pay(Batch.dense(SUMMER, PREFIX, 512, RECIPIENT, 500, AMOUNT));
        vm.assertLe(record("batch of 500, dense ids, fresh recipients", 500), 25_500, "the promised most");
    }

    /// @dev The second of two words has few of the ids, and no batch begins where a word does.
    function test_a_fresh_grant_costs_as_much_wherever_its_batch_begins() public {
        pay(Batch.dense(SUMMER, PREFIX, 512 + 201, RECIPIENT, 500, AMOUNT));
        vm.assertLe(record("batch of 500, dense ids in three words, fresh recipients", 500), 25_500, "the promised most");
    }

    function test_a_fresh_grant_costs_at_most_27500_in_any_token() public {
        distributor = new GrantDistributor(address(new PlainToken()), admin, submitter);
        pay(Batch.single(SUMMER, idOf(0), alice, AMOUNT));
        pay(Batch.dense(SUMMER, PREFIX, 512, RECIPIENT, 500, AMOUNT));
        vm.assertLe(record("the same, plainest token", 500), 27_500, "the promised most");
    }

    function test_a_fresh_grant_costs_at_most_27500_in_a_token_of_OpenZeppelin() public {
        deployWithoutBatches(TOKEN_CAP);
        pay(Batch.single(SUMMER, idOf(0), alice, AMOUNT));
        pay(Batch.dense(SUMMER, PREFIX, 512, RECIPIENT, 500, AMOUNT));
        vm.assertLe(record("the same, OpenZeppelin token with roles, cap and pause", 500), 27_500, "the promised most");
        pay(Batch.dense(SUMMER, PREFIX, 1024, RECIPIENT, 500, AMOUNT));
        record("the same, OpenZeppelin token, holders", 500);
    }

    /// @dev What the least that could be done costs, to compare with: no paid ids, no caps, no isolation.
    function test_a_batch_that_is_not_exactly_once_costs_about_as_much() public {
        Airdrop airdrop = new Airdrop();
        airdrop.mintPacked(packed(1, RECIPIENT - 1));
        airdrop.mintPacked(packed(500, RECIPIENT));
        record("a loop of mints in an OpenZeppelin token, fresh recipients", 500);
        airdrop.mintPacked(packed(500, RECIPIENT));
        record("a loop of mints in an OpenZeppelin token, holders", 500);
    }

    function packed(uint256 count, uint160 to) private pure returns (bytes32[] memory items) {
        items = new bytes32[](count);
        for (uint160 i; i < count; ++i) {
            items[i] = bytes32(uint256(to + i) << 96 | AMOUNT);
        }
    }

    function test_a_batch_of_500_to_holders() public {
        pay(Batch.dense(SUMMER, PREFIX, 512, RECIPIENT, 500, AMOUNT));
        pay(Batch.dense(SUMMER, PREFIX, 1024, RECIPIENT, 500, AMOUNT));
        record("batch of 500, dense ids, holders", 500);
    }

    function test_a_batch_of_300_with_sparse_ids() public {
        pay(Batch.sparse(SUMMER, "seed", RECIPIENT, 300, AMOUNT));
        record("batch of 300, sparse ids, fresh recipients", 300);
    }

    function test_a_batch_of_500_repeats() public {
        bytes memory batch = Batch.dense(SUMMER, PREFIX, 512, RECIPIENT, 500, AMOUNT);
        pay(batch);
        pay(batch);
        record("batch of 500, dense ids, all paid before", 500);
    }

    function test_a_batch_of_one() public {
        pay(Batch.single(SUMMER, idOf(512), address(RECIPIENT), AMOUNT));
        record("batch of 1, fresh recipient, fresh word", 1);
        pay(Batch.single(SUMMER, idOf(513), address(RECIPIENT), AMOUNT));
        record("batch of 1, holder, shared word", 1);
    }

    /// @dev A tree of n leaves has at most ⌈log2 n⌉ siblings to a leaf: 10 for 1,000 and 20 for 1,000,000.
    function test_claims_from_trees_of_a_thousand_and_of_a_million() public {
        claimFromDepth("claim of 1,000, fresh recipient, fresh word", 10, 512, RECIPIENT);
        claimFromDepth("claim of 1,000, holder, shared word", 10, 513, RECIPIENT);
        claimFromDepth("claim of 1,000,000, fresh recipient, fresh word", 20, 1024, RECIPIENT + 1);
        claimFromDepth("claim of 1,000,000, holder, shared word", 20, 1025, RECIPIENT + 1);
    }

    function test_a_root_is_published() public {
        setClaimRoot(SUMMER, keccak256("root"));
        record("claim root, first", 1);
        setClaimRoot(SUMMER, keccak256("next root"));
        record("claim root, replaced", 1);
        setClaimRoot(SUMMER, keccak256("third root"));
        record("claim root, replaced again", 1);
    }

    function test_the_first_mint_of_a_token_stays_far_below_its_gas() public {
        address minter = named("minter");
        bytes32 role = token.MINTER_ROLE();
        vm.prank(admin);
        token.grantRole(role, minter);
        vm.prank(minter);
        token.mint(address(RECIPIENT), AMOUNT);
        // The transaction's own 21,000 included.
        vm.assertLe(vm.lastCallGas().gasTotalUsed, 65_000 + 21_000, "mint");
    }

    function test_minting_together_stays_below_its_gas() public {
        (address[] memory recipients, uint256[] memory amounts) = (new address[](64), new uint256[](64));
        for (uint160 i; i < 64; ++i) {
            (recipients[i], amounts[i]) = (address(RECIPIENT + i), AMOUNT);
        }
        address minter = named("minter");
        // The first mint of all.
        token = new GrantToken("Grant", "GRANT", TOKEN_CAP, admin, minter);
        vm.prank(minter);
        token.mintBatch(recipients, amounts);
        bytes memory call = abi.encodeCall(token.mintBatch, (recipients, amounts));
        uint256 most = 21_000 + 40_000 + 64 * 24_200;
        for (uint256 i; i < call.length; ++i) {
            most += call[i] == 0 ? 4 : 16;
        }
        vm.assertLe(vm.lastCallGas().gasTotalUsed, most, "mintBatch");
    }

    function test_a_wallet_is_deployed() public {
        WalletFactory factory = new WalletFactory(submitter);
        vm.prank(submitter);
        factory.deploy(keccak256("alice"), alice);
        record("wallet deployment", 1);
    }

    function claimFromDepth(string memory name, uint256 depth, uint64 low, uint160 to) private {
        Leaf memory leaf = Leaf(idOf(low), address(to), AMOUNT);
        (bytes32 root, bytes32[] memory proof) = ClaimTree.path(leaf, depth);
        setClaimRoot(SUMMER, root);
        claim(SUMMER, leaf, proof);
        record(name, 1);
    }

    function record(string memory name, uint256 count) private returns (uint256 perGrant) {
        uint256 used = vm.lastCallGas().gasTotalUsed;
        vm.assertLe(used, MAX_TRANSACTION_GAS, "over the transaction gas limit");
        // Rounded up.
        perGrant = (used + count - 1) / count;
        vm.snapshotValue("GasPerGrant", name, perGrant);
    }
}
