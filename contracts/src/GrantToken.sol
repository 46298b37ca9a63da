// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Capped} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Capped.sol";
import {ERC20Pausable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Pausable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20MintBatch} from "./ERC20MintBatch.sol";
import {IBatchMintable} from "./IMintable.sol";

/// @title The reward token
/// @notice An ERC-20 with permit (ERC-2612), a hard cap on its supply, and a pause.
/// @dev Three duties, three roles: DEFAULT_ADMIN_ROLE appoints, PAUSER_ROLE stops every transfer, MINTER_ROLE creates
/// tokens. The minter is meant to be the {GrantDistributor} and nothing else; no other account gets that role here.
contract GrantToken is ERC20MintBatch, ERC20Capped, ERC20Pausable, ERC20Permit, AccessControl, IBatchMintable {
    /// @notice May create tokens, up to the cap.
    bytes32 public constant MINTER_ROLE = keccak256("MINTER_ROLE");

    /// @notice May stop and resume all transfers, mints included.
    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");

    /// @param name_ Name, also of the EIP-712 domain that permits are signed for.
    /// @param symbol_ Ticker.
    /// @param cap_ The most tokens that may ever exist, in base units; not zero.
    /// @param admin Appoints and pauses; a multisig in production.
    /// @param minter The distributor. It may not be deployed yet: its address is known in advance.
    constructor(string memory name_, string memory symbol_, uint256 cap_, address admin, address minter)
        ERC20(name_, symbol_)
        ERC20Permit(name_)
        ERC20Capped(cap_)
    {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(PAUSER_ROLE, admin);
        _grantRole(MINTER_ROLE, minter);
    }

    /// @inheritdoc IBatchMintable
    /// @dev Role, pause and cap are those of {mint}, and checked once.
    function mintBatch(address[] calldata recipients, uint256[] calldata amounts)
        external
        onlyRole(MINTER_ROLE)
        whenNotPaused
    {
        _mintBatch(recipients, amounts, cap());
    }

    /// @notice Creates `amount` base units for `to`.
    function mint(address to, uint256 amount) external onlyRole(MINTER_ROLE) {
        _mint(to, amount);
    }

    /// @notice Stops every transfer, mint and burn.
    function pause() external onlyRole(PAUSER_ROLE) {
        _pause();
    }

    /// @notice Ends a pause.
    function unpause() external onlyRole(PAUSER_ROLE) {
        _unpause();
    }

    /// @notice ERC-165: {IBatchMintable} besides what roles are asked for with.
    function supportsInterface(bytes4 interfaceId) public view override returns (bool) {
        return interfaceId == type(IBatchMintable).interfaceId || super.supportsInterface(interfaceId);
    }

    /// @inheritdoc ERC20MintBatch
    function totalSupply() public view override(ERC20, ERC20MintBatch) returns (uint256) {
        return super.totalSupply();
    }

    /// @inheritdoc ERC20MintBatch
    function balanceOf(address account) public view override(ERC20, ERC20MintBatch) returns (uint256) {
        return super.balanceOf(account);
    }

    function _update(address from, address to, uint256 value)
        internal
        override(ERC20, ERC20MintBatch, ERC20Capped, ERC20Pausable)
    {
        super._update(from, to, value);
    }
}
