// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {GrantToken} from "../src/GrantToken.sol";
import {IWalletFactory, PlayerWallet} from "../src/PlayerWallet.sol";
import {WalletFactory} from "../src/WalletFactory.sol";
import {Test} from "./support/Test.sol";

contract WalletFactoryTest is Test {
    bytes32 private constant ALICE_KEY = keccak256("alice");

    address private immutable issuer = named("issuer");
    address private immutable alice = named("alice");
    address private immutable bob = named("bob");
    WalletFactory private factory;
    GrantToken private token;

    function setUp() public {
        factory = new WalletFactory(issuer);
        token = new GrantToken("Grant", "GRANT", 1e30, address(this), address(this));
    }

    function deploy(bytes32 userKey, address owner) private returns (PlayerWallet) {
        vm.prank(issuer);
        return PlayerWallet(factory.deploy(userKey, owner));
    }

    function testFuzz_the_address_is_the_one_a_client_computes(string memory userId, address owner) public {
        vm.assume(owner != address(0));
        bytes32 userKey = keccak256(bytes(userId));
        bytes32 hash = keccak256(abi.encodePacked(bytes1(0xff), factory, userKey, factory.WALLET_CODE_HASH()));
        address computed = address(uint160(uint256(hash)));
        vm.assertEq(factory.WALLET_CODE_HASH(), keccak256(type(PlayerWallet).creationCode));
        vm.assertEq(factory.walletOf(userKey), computed);

        PlayerWallet wallet = deploy(userKey, owner);
        vm.assertEq(address(wallet), computed);
        vm.assertEq(wallet.owner(), owner, "the address belongs to the user, whoever the owner");
        vm.assertEq(factory.walletOf(userKey), computed);
        vm.assertEq(factory.ownerOfNext(), address(0));
    }

    function test_deploying_is_announced() public {
        vm.expectEmit();
        emit WalletFactory.WalletDeployed(ALICE_KEY, factory.walletOf(ALICE_KEY), alice);
        deploy(ALICE_KEY, alice);
    }

    function testFuzz_only_the_issuer_deploys(address caller) public {
        vm.assume(caller != issuer);
        bytes32 role = factory.ISSUER_ROLE();
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, caller, role)
        );
        vm.prank(caller);
        factory.deploy(ALICE_KEY, caller);
    }

    function test_a_wallet_is_deployed_once() public {
        PlayerWallet wallet = deploy(ALICE_KEY, alice);
        vm.expectRevert(abi.encodeWithSelector(WalletFactory.WalletExists.selector, wallet));
        vm.prank(issuer);
        factory.deploy(ALICE_KEY, bob);
        vm.assertEq(wallet.owner(), alice);
    }

    function test_a_wallet_has_an_owner_from_the_start_and_keeps_one() public {
        vm.expectRevert();
        vm.prank(issuer);
        factory.deploy(ALICE_KEY, address(0));

        PlayerWallet wallet = deploy(ALICE_KEY, alice);
        vm.expectRevert(PlayerWallet.OwnerRequired.selector);
        vm.prank(alice);
        wallet.renounceOwnership();
    }

    function test_tokens_paid_before_the_wallet_existed_are_withdrawn() public {
        token.mint(factory.walletOf(ALICE_KEY), 100);
        PlayerWallet wallet = deploy(ALICE_KEY, alice);
        vm.expectEmit();
        emit PlayerWallet.Withdrawn(IERC20(address(token)), bob, 60);
        vm.prank(alice);
        wallet.withdraw(IERC20(address(token)), bob, 60);
        vm.assertEq(token.balanceOf(bob), 60);
        vm.assertEq(token.balanceOf(address(wallet)), 40);
    }

    function testFuzz_only_the_owner_withdraws(address caller) public {
        vm.assume(caller != alice);
        PlayerWallet wallet = deploy(ALICE_KEY, alice);
        token.mint(address(wallet), 100);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, caller));
        vm.prank(caller);
        wallet.withdraw(IERC20(address(token)), caller, 1);
    }

    function test_a_wallet_is_handed_over_in_two_steps() public {
        PlayerWallet wallet = deploy(ALICE_KEY, alice);
        vm.prank(alice);
        wallet.transferOwnership(bob);
        vm.assertEq(wallet.owner(), alice);
        vm.prank(bob);
        wallet.acceptOwnership();
        vm.assertEq(wallet.owner(), bob);
    }

    function test_another_creator_gets_another_address() public {
        Impostor impostor = new Impostor(bob);
        address wallet = impostor.deploy(ALICE_KEY);
        vm.assertTrue(wallet != factory.walletOf(ALICE_KEY));
        vm.assertEq(factory.walletOf(ALICE_KEY).code.length, 0);
    }
}

/// @notice Creates wallets from the same code, for itself.
contract Impostor is IWalletFactory {
    address public override ownerOfNext;

    constructor(address owner) {
        ownerOfNext = owner;
    }

    function deploy(bytes32 salt) external returns (address) {
        return address(new PlayerWallet{salt: salt}());
    }
}
