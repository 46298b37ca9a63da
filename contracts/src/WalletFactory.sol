// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {Create2} from "@openzeppelin/contracts/utils/Create2.sol";
import {IWalletFactory, PlayerWallet} from "./PlayerWallet.sol";

/// @title An address for every player, before there is a wallet
/// @notice A user key names one address on this factory: grants can be paid to it from the first day on, and no key
/// exists that could spend from it. Later the issuer deploys the wallet there, for the owner that the player names.
/// @dev A user key is `keccak256(bytes(user_id))` and serves as the CREATE2 salt. Off chain the address is
/// `keccak256(0xff ++ factory ++ userKey ++ WALLET_CODE_HASH)[12:]`. The factory is trusted to name the right owner: its
/// issuer decides who gets a wallet that has not been deployed, and has no power over one that has.
contract WalletFactory is AccessControl, IWalletFactory {
    /// @notice May deploy wallets.
    bytes32 public constant ISSUER_ROLE = keccak256("ISSUER_ROLE");

    /// @notice The hash of the wallets' creation code, the same for every user and owner.
    bytes32 public immutable WALLET_CODE_HASH = keccak256(type(PlayerWallet).creationCode);

    /// @inheritdoc IWalletFactory
    /// @dev Set within {deploy} only, and zero at any other time.
    address public transient override ownerOfNext;

    /// @notice The wallet of `userKey` exists from now on and belongs to `owner`.
    event WalletDeployed(bytes32 indexed userKey, address indexed wallet, address indexed owner);

    /// @notice The user's wallet exists; only its owner can hand it over.
    error WalletExists(address wallet);

    /// @param issuer Deploys wallets, and appoints: it may grant the admin role to a multisig and give its own up.
    constructor(address issuer) {
        _grantRole(DEFAULT_ADMIN_ROLE, issuer);
        _grantRole(ISSUER_ROLE, issuer);
    }

    /// @notice Creates the user's wallet for `owner`, who is not the zero address.
    function deploy(bytes32 userKey, address owner) external onlyRole(ISSUER_ROLE) returns (address wallet) {
        wallet = walletOf(userKey);
        if (wallet.code.length != 0) revert WalletExists(wallet);
        ownerOfNext = owner;
        new PlayerWallet{salt: userKey}();
        ownerOfNext = address(0);
        emit WalletDeployed(userKey, wallet, owner);
    }

    /// @notice The address of the user's wallet, deployed or not.
    function walletOf(bytes32 userKey) public view returns (address) {
        return Create2.computeAddress(userKey, WALLET_CODE_HASH);
    }
}
