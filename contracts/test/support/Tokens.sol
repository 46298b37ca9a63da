// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Capped} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Capped.sol";
import {ERC20Pausable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Pausable.sol";

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

/// @notice A token as OpenZeppelin's wizard makes it: cap, pause and roles, and one mint at a time.
contract OpenZeppelinToken is ERC20Capped, ERC20Pausable, AccessControl {
    bytes32 public constant MINTER_ROLE = keccak256("MINTER_ROLE");
    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");

    constructor(uint256 cap_, address admin, address minter) ERC20("Another", "OTHER") ERC20Capped(cap_) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(PAUSER_ROLE, admin);
        _grantRole(MINTER_ROLE, minter);
    }

    function mint(address to, uint256 amount) external onlyRole(MINTER_ROLE) {
        _mint(to, amount);
    }

    function pause() external onlyRole(PAUSER_ROLE) {
        _pause();
    }

    function unpause() external onlyRole(PAUSER_ROLE) {
        _unpause();
    }

    function _update(address from, address to, uint256 value) internal override(ERC20Capped, ERC20Pausable) {
        super._update(from, to, value);
    }
}

/// @notice What paying many costs without a distributor: OpenZeppelin's ERC-20 and a loop. It pays a repeated batch again.
contract Airdrop is ERC20 {
    address private immutable owner = msg.sender;

    constructor() ERC20("Airdrop", "DROP") {}

    /// @param items Recipient (20 bytes) and amount (12 bytes), as tightly packed as the distributor's.
    function mintPacked(bytes32[] calldata items) external {
        if (msg.sender != owner) revert();
        for (uint256 i; i < items.length; ++i) {
            _mint(address(bytes20(items[i])), uint96(uint256(items[i])));
        }
    }
}
