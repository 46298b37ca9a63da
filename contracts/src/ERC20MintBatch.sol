// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Capped} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Capped.sol";

/// @title An ERC-20 that can mint to many accounts at once
/// @notice OpenZeppelin's ERC-20, with one more way to mint: {_mintBatch} reads and writes the total supply once, whatever
/// the number of accounts.
/// @dev OpenZeppelin keeps balances and supply in private storage, which only `_update` changes, one account at a time. So
/// the three functions that reach that storage are overridden here, with storage that this contract can reach too; all
/// else is inherited. Name this contract before the extensions that override `_update`: theirs then run before this one, as
/// they run before OpenZeppelin's. They do not run for {_mintBatch}, whose caller has to check what they check.
abstract contract ERC20MintBatch is ERC20 {
    mapping(address account => uint256) private _held;
    uint256 private _supply;

    /// @notice A batch has a recipient for every amount, and the reverse.
    error LengthsDiffer(uint256 recipients, uint256 amounts);

    /// @inheritdoc ERC20
    function totalSupply() public view virtual override returns (uint256) {
        return _supply;
    }

    /// @inheritdoc ERC20
    function balanceOf(address account) public view virtual override returns (uint256) {
        return _held[account];
    }

    /// @dev As OpenZeppelin's, on this contract's storage.
    function _update(address from, address to, uint256 value) internal virtual override {
        if (from == address(0)) {
            // Checked: no balance, and no sum of balances, exceeds the supply.
            _supply += value;
        } else {
            uint256 held = _held[from];
            if (held < value) revert ERC20InsufficientBalance(from, held, value);
            unchecked {
                _held[from] = held - value;
            }
        }
        unchecked {
            if (to == address(0)) _supply -= value;
            else _held[to] += value;
        }
        emit Transfer(from, to, value);
    }

    /// @dev Mints to each recipient what stands in its place in `amounts`, or reverts; as many `_mint`s would, with the
    /// same events and errors, but without the extensions of `_update`.
    /// @param maxSupply What the supply may not exceed, and has not exceeded.
    function _mintBatch(address[] calldata recipients, uint256[] calldata amounts, uint256 maxSupply) internal {
        if (recipients.length != amounts.length) revert LengthsDiffer(recipients.length, amounts.length);
        uint256 supply = _supply;
        unchecked {
            for (uint256 i; i < recipients.length; ++i) {
                uint256 recipient;
                uint256 amount;
                // Without the checks of each access, which cost more than all else that is done here in memory.
                assembly ("memory-safe") {
                    recipient := calldataload(add(recipients.offset, shl(5, i)))
                    amount := calldataload(add(amounts.offset, shl(5, i)))
                }
                address to = address(uint160(recipient));
                // Zero, or what is no address at all.
                if ((recipient - 1) >> 160 != 0) revert ERC20InvalidReceiver(to);
                if (amount > maxSupply - supply) _refuse(supply, amount, maxSupply);
                // At most maxSupply; and no balance is more than the supply.
                supply += amount;
                _held[to] += amount;
                emit Transfer(address(0), to, amount);
            }
        }
        _supply = supply;
    }

    function _refuse(uint256 supply, uint256 amount, uint256 maxSupply) private pure {
        revert ERC20Capped.ERC20ExceededCap(supply + amount, maxSupply);
    }
}
