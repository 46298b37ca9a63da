// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @notice What a wallet asks of the contract that creates it.
interface IWalletFactory {
    /// @notice The owner of the wallet that is being created right now.
    function ownerOfNext() external view returns (address);
}

/// @title Holds a player's tokens until the player takes them
/// @notice The owner withdraws, and may hand the wallet over in two steps. Nobody else can do anything.
/// @dev The wallet asks its creator for its owner instead of being told by an argument: so its creation code, and with
/// it its CREATE2 address, is the same whoever will own it, and there is no initialiser that anyone could call.
contract PlayerWallet is Ownable2Step {
    using SafeERC20 for IERC20;

    /// @notice Tokens left for `to`.
    event Withdrawn(IERC20 indexed token, address indexed to, uint256 amount);

    /// @notice A wallet without an owner would keep its tokens for ever.
    error OwnerRequired();

    constructor() Ownable(IWalletFactory(msg.sender).ownerOfNext()) {}

    /// @notice Sends `amount` base units of `token` to `to`.
    function withdraw(IERC20 token, address to, uint256 amount) external onlyOwner {
        emit Withdrawn(token, to, amount);
        token.safeTransfer(to, amount);
    }

    /// @notice Always reverts.
    function renounceOwnership() public pure override {
        revert OwnerRequired();
    }
}
