// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {GrantDistributor} from "../src/GrantDistributor.sol";
import {WalletFactory} from "../src/WalletFactory.sol";
import {Batch} from "./support/Batch.sol";
import {ClaimTree, Leaf} from "./support/ClaimTree.sol";
import {Fixture} from "./support/Fixture.sol";

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

    function test_a_batch_of_500_to_fresh_recipients() public {
        pay(Batch.dense(SUMMER, PREFIX, 512, RECIPIENT, 500, AMOUNT));
        record("batch of 500, dense ids, fresh recipients", 500);
    }

    function test_a_batch_of_500_to_fresh_recipients_in_a_plain_token() public {
        distributor = new GrantDistributor(address(new PlainToken()), admin, submitter);
        pay(Batch.single(SUMMER, idOf(0), alice, AMOUNT));
        pay(Batch.dense(SUMMER, PREFIX, 512, RECIPIENT, 500, AMOUNT));
        record("batch of 500, dense ids, fresh recipients, plain token", 500);
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

    function record(string memory name, uint256 count) private {
        uint256 used = vm.lastCallGas().gasTotalUsed;
        vm.assertLe(used, MAX_TRANSACTION_GAS, "over the transaction gas limit");
        vm.snapshotValue("GasPerGrant", name, used / count);
    }
}

/// @notice The least that a token can be: a balance, a supply, an owner's right and an event.
contract PlainToken {
    address private owner = msg.sender;
    uint256 public totalSupply;
    mapping(address account => uint256) public balanceOf;

    event Transfer(address indexed from, address indexed to, uint256 value);

    function mint(address to, uint256 amount) external {
        // Reads the owner as a real check would, and refuses nobody.
        if (msg.sender != owner && owner == address(0)) revert();
        totalSupply += amount;
        balanceOf[to] += amount;
        emit Transfer(address(0), to, amount);
    }
}
