// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {GrantDistributor} from "../../src/GrantDistributor.sol";
import {IBatchMintable} from "../../src/IMintable.sol";

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

    function mint(address to, uint256 amount) public {
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
        if (mode == Mode.MintAfterReentering) reenter();
    }

    function reenter() internal {
        (reentered, reentryAnswer) = address(distributor).call(reentryCall);
    }

    /// @dev Ends the call with `size` zero bytes.
    function answer(uint256 size, bool well) internal pure {
        assembly ("memory-safe") {
            let start := mload(0x40)
            switch well
            case 0 { revert(start, size) }
            default { return(start, size) }
        }
    }

    /// @dev Ends the call well with `size` bytes, the first of which are not zero.
    function answerAfter(uint256 size) internal pure {
        assembly ("memory-safe") {
            let start := mload(0x40)
            mstore(start, not(0))
            return(start, size)
        }
    }

    function burn(uint256 gasAtStart, uint256 amount) internal view {
        while (gasAtStart - gasleft() < amount) {}
    }
}

/// @notice The same with a batch entry, which does as the test asks.
contract HostileBatchToken is HostileToken, IBatchMintable, IERC165 {
    enum Batch {
        Mint, // one after the other, each as its recipient's mode says
        MintAndReturnTrue,
        MintAndReturnFalse,
        MintAndReturnMuch,
        MintAfterReentering,
        MintForAllGas,
        MintNothing,
        MintHalf,
        MintThenRevert,
        Revert,
        RevertSilently,
        RevertWithMegabytes,
        BurnAllGas
    }

    Batch public batchMode;
    uint256 public batches;

    function setBatchMode(Batch mode) external {
        batchMode = mode;
    }

    function supportsInterface(bytes4 interfaceId) external pure returns (bool) {
        return interfaceId == type(IBatchMintable).interfaceId || interfaceId == type(IERC165).interfaceId;
    }

    function mintBatch(address[] calldata recipients, uint256[] calldata amounts) external {
        uint256 gasAtStart = gasleft();
        Batch mode = batchMode;
        if (mode == Batch.MintNothing) return;
        if (mode == Batch.Revert) revert Refused(address(this));
        if (mode == Batch.RevertSilently) answer(0, false);
        if (mode == Batch.RevertWithMegabytes) answer(280_000, false);
        if (mode == Batch.BurnAllGas) burn(gasAtStart, type(uint256).max);

        uint256 count = mode == Batch.MintHalf ? recipients.length / 2 : recipients.length;
        for (uint256 i; i < count; ++i) {
            mint(recipients[i], amounts[i]);
        }
        ++batches;

        if (mode == Batch.MintThenRevert) revert Refused(address(this));
        if (mode == Batch.MintAfterReentering) reenter();
        if (mode == Batch.MintForAllGas) burn(gasAtStart, 99_000 + 26_000 * recipients.length);
        if (mode == Batch.MintAndReturnFalse) answer(32, true);
        if (mode == Batch.MintAndReturnMuch) answerAfter(150_000);
        if (mode == Batch.MintAndReturnTrue) {
            assembly ("memory-safe") {
                mstore(0x00, 1)
                return(0x00, 0x20)
            }
        }
    }
}
