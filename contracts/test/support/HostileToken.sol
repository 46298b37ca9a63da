// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {GrantDistributor} from "../../src/GrantDistributor.sol";

/// @notice A token that treats each recipient as the test asks, well or badly.
contract HostileToken {
    enum Mode {
        Mint,
        MintAndReturnTrue,
        MintAndReturnMegabytes,
        MintAfterReentering,
        MintForMuchGas,
        ReturnFalse,
        Revert,
        RevertSilently,
        RevertWithMegabytes,
        BurnAllGas
    }

    error Refused(address to);

    GrantDistributor public distributor;
    mapping(address account => Mode) public modeOf;
    mapping(address account => uint256) public balanceOf;
    uint256 public totalSupply;

    /// @notice Whether the distributor let itself be called from within `mint`, and what it answered.
    bool public reentered;
    bytes public reentryAnswer;
    bytes private reentryCall;

    function setMode(address account, Mode mode) external {
        modeOf[account] = mode;
    }

    function setReentry(GrantDistributor distributor_, bytes calldata call) external {
        distributor = distributor_;
        reentryCall = call;
    }

    function mint(address to, uint256 amount) external {
        uint256 gasAtStart = gasleft();
        Mode mode = modeOf[to];
        if (mode == Mode.ReturnFalse) answer(32, true);
        if (mode == Mode.Revert) revert Refused(to);
        if (mode == Mode.RevertSilently) answer(0, false);
        if (mode == Mode.RevertWithMegabytes) answer(280_000, false);
        if (mode == Mode.BurnAllGas) burn(gasAtStart, type(uint256).max);

        balanceOf[to] += amount;
        totalSupply += amount;

        if (mode == Mode.MintAndReturnTrue) {
            assembly ("memory-safe") {
                mstore(0x00, 1)
                return(0x00, 0x20)
            }
        }
        if (mode == Mode.MintAndReturnMegabytes) answerAfter(280_000);
        if (mode == Mode.MintForMuchGas) burn(gasAtStart, 198_500);
        if (mode == Mode.MintAfterReentering) {
            (reentered, reentryAnswer) = address(distributor).call(reentryCall);
        }
    }

    /// @dev Ends the call with `size` zero bytes.
    function answer(uint256 size, bool well) private pure {
        assembly ("memory-safe") {
            let start := mload(0x40)
            switch well
            case 0 { revert(start, size) }
            default { return(start, size) }
        }
    }

    /// @dev Ends the call well with `size` bytes, the first of which are not zero.
    function answerAfter(uint256 size) private pure {
        assembly ("memory-safe") {
            let start := mload(0x40)
            mstore(start, not(0))
            return(start, size)
        }
    }

    function burn(uint256 gasAtStart, uint256 amount) private view {
        while (gasAtStart - gasleft() < amount) {}
    }
}
