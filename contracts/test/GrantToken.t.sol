// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {ERC20Capped} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Capped.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {GrantToken} from "../src/GrantToken.sol";
import {Test} from "./support/Test.sol";

contract GrantTokenTest is Test {
    address private immutable admin = named("admin");
    address private immutable minter = named("minter");
    address private immutable alice = named("alice");
    GrantToken private token;

    function setUp() public {
        token = new GrantToken("Grant", "GRANT", 1000, admin, minter);
    }

    function test_duties_are_split_at_birth() public view {
        vm.assertTrue(token.hasRole(token.DEFAULT_ADMIN_ROLE(), admin));
        vm.assertTrue(token.hasRole(token.PAUSER_ROLE(), admin));
        vm.assertTrue(token.hasRole(token.MINTER_ROLE(), minter));
        vm.assertFalse(token.hasRole(token.MINTER_ROLE(), admin));
        vm.assertFalse(token.hasRole(token.DEFAULT_ADMIN_ROLE(), address(this)));
        vm.assertEq(token.cap(), 1000);
    }

    function testFuzz_only_the_minter_mints(address caller) public {
        vm.assume(caller != minter);
        bytes32 role = token.MINTER_ROLE();
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, caller, role)
        );
        vm.prank(caller);
        token.mint(alice, 1);
    }

    function test_the_supply_never_passes_the_cap() public {
        vm.prank(minter);
        token.mint(alice, 1000);
        vm.expectRevert(abi.encodeWithSelector(ERC20Capped.ERC20ExceededCap.selector, 1001, 1000));
        vm.prank(minter);
        token.mint(alice, 1);
    }

    function test_a_pause_stops_mints_and_transfers() public {
        vm.prank(minter);
        token.mint(alice, 10);
        vm.prank(admin);
        token.pause();

        vm.expectRevert(Pausable.EnforcedPause.selector);
        vm.prank(minter);
        token.mint(alice, 1);
        vm.prank(alice);
        token.approve(admin, 1);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        vm.prank(admin);
        vm.assertFalse(token.transferFrom(alice, admin, 1));

        vm.prank(admin);
        token.unpause();
        vm.prank(alice);
        vm.assertTrue(token.transfer(admin, 1));
        vm.assertEq(token.balanceOf(admin), 1);
    }

    function test_only_the_pauser_pauses() public {
        bytes memory unauthorized = abi.encodeWithSelector(
            IAccessControl.AccessControlUnauthorizedAccount.selector, minter, token.PAUSER_ROLE()
        );
        vm.expectRevert(unauthorized);
        vm.prank(minter);
        token.pause();
        vm.expectRevert(unauthorized);
        vm.prank(minter);
        token.unpause();
    }

    function test_a_permit_is_an_approval() public {
        uint256 key = 0xa11ce;
        address owner = vm.addr(key);
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                owner,
                alice,
                7,
                0,
                block.timestamp
            )
        );
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash)));
        token.permit(owner, alice, 7, block.timestamp, v, r, s);
        vm.assertEq(token.allowance(owner, alice), 7);
    }
}
