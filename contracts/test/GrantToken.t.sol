// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ERC20Capped} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Capped.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ERC20MintBatch} from "../src/ERC20MintBatch.sol";
import {GrantToken} from "../src/GrantToken.sol";
import {IBatchMintable} from "../src/IMintable.sol";
import {Test, Vm} from "./support/Test.sol";

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

    // Minting many at once

    /// @dev In pairs: what is the same with one call as with many.
    function testFuzz_a_batch_is_as_many_mints(uint256[8] memory amounts, uint256 seed) public {
        GrantToken other = new GrantToken("Grant", "GRANT", 1000, admin, minter);
        (address[] memory recipients, uint256[] memory each) = (new address[](8), new uint256[](8));
        for (uint256 i; i < 8; ++i) {
            uint256 draw = uint256(keccak256(abi.encode(seed, i)));
            recipients[i] = draw % 64 == 0 ? address(0) : address(uint160(1 + draw % 3));
            each[i] = seed % 8 == 0 ? amounts[i] : amounts[i] % 150;
        }
        vm.recordLogs();
        bytes memory refusal;
        for (uint256 i; i < 8 && refusal.length == 0; ++i) {
            vm.prank(minter);
            try other.mint(recipients[i], each[i]) {}
            catch (bytes memory reason) {
                refusal = reason;
            }
        }
        Vm.Log[] memory expected = vm.getRecordedLogs();
        if (refusal.length != 0) vm.expectRevert(refusal);
        vm.prank(minter);
        token.mintBatch(recipients, each);
        if (refusal.length != 0) {
            vm.assertEq(token.totalSupply(), 0);
            return;
        }
        Vm.Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 8);
        for (uint256 i; i < 8; ++i) {
            vm.assertEq(abi.encode(logs[i].topics, logs[i].data), abi.encode(expected[i].topics, expected[i].data));
        }
        vm.assertEq(token.totalSupply(), other.totalSupply());
        for (uint160 i = 1; i < 4; ++i) {
            vm.assertEq(token.balanceOf(address(i)), other.balanceOf(address(i)));
        }
    }

    function testFuzz_only_the_minter_mints_batches(address caller) public {
        vm.assume(caller != minter);
        bytes32 role = token.MINTER_ROLE();
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, caller, role)
        );
        vm.prank(caller);
        token.mintBatch(new address[](1), new uint256[](1));
    }

    function test_a_pause_stops_batches() public {
        vm.prank(admin);
        token.pause();
        vm.expectRevert(Pausable.EnforcedPause.selector);
        vm.prank(minter);
        token.mintBatch(new address[](0), new uint256[](0));
    }

    function test_a_batch_has_as_many_amounts_as_recipients() public {
        vm.expectRevert(abi.encodeWithSelector(ERC20MintBatch.LengthsDiffer.selector, 1, 2));
        vm.prank(minter);
        token.mintBatch(new address[](1), new uint256[](2));
    }

    function test_what_is_no_address_is_refused() public {
        uint256[] memory word = new uint256[](1);
        word[0] = uint256(uint160(alice)) | 1 << 160;
        bytes memory call = abi.encodeWithSelector(token.mintBatch.selector, word, new uint256[](1));
        vm.prank(minter);
        (bool called, bytes memory answer) = address(token).call(call);
        vm.assertFalse(called);
        vm.assertEq(answer, abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, alice));
    }

    function test_it_says_that_it_mints_batches() public view {
        vm.assertTrue(token.supportsInterface(type(IBatchMintable).interfaceId));
        vm.assertTrue(token.supportsInterface(type(IAccessControl).interfaceId));
        vm.assertTrue(token.supportsInterface(0x01ffc9a7));
        vm.assertFalse(token.supportsInterface(0xffffffff));
    }

    // What OpenZeppelin does, on storage of its own

    function testFuzz_balances_add_up_to_the_supply(uint8 minted, uint8 sent, uint8 approved, uint8 taken) public {
        vm.prank(minter);
        token.mint(alice, minted);
        vm.prank(alice);
        token.approve(admin, approved);
        if (sent > minted) {
            vm.expectRevert(
                abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, alice, minted, sent)
            );
            vm.prank(alice);
            vm.assertFalse(token.transfer(minter, sent));
            return;
        }
        vm.prank(alice);
        vm.assertTrue(token.transfer(minter, sent));
        uint256 left = uint256(minted) - sent;
        if (taken <= approved && taken <= left) {
            vm.prank(admin);
            vm.assertTrue(token.transferFrom(alice, admin, taken));
            vm.assertEq(token.balanceOf(admin), taken);
            left -= taken;
        } else {
            vm.expectRevert();
            vm.prank(admin);
            vm.assertFalse(token.transferFrom(alice, admin, taken));
        }
        vm.assertEq(token.balanceOf(alice), left);
        vm.assertEq(token.balanceOf(minter), sent);
        vm.assertEq(token.totalSupply(), minted);
        // To itself: nothing changes.
        vm.prank(alice);
        vm.assertTrue(token.transfer(alice, left));
        vm.assertEq(token.balanceOf(alice), left);
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
