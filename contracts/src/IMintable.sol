// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @notice All that the {GrantDistributor} asks of a token. A token that returns a value is fine, see there.
interface IMintable {
    /// @notice Creates `amount` base units for `to`, or reverts.
    function mint(address to, uint256 amount) external;
}

/// @notice What a token can have besides {IMintable}, to be cheaper. One that has it says so by ERC-165.
interface IBatchMintable {
    /// @notice Does what `mint` does for each recipient and the amount in the same place, or reverts and has done nothing.
    function mintBatch(address[] calldata recipients, uint256[] calldata amounts) external;
}
