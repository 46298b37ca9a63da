// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ERC165Checker} from "@openzeppelin/contracts/utils/introspection/ERC165Checker.sol";
import {IBatchMintable, IMintable} from "./IMintable.sol";

/// @title Pays grants, each at most once
/// @notice Takes batches of grants and mints each one to its recipient. A grant id that was paid is never paid again,
/// whoever submits it, in whichever batch, however often. One grant that cannot be minted is reported and leaves the
/// others of its batch alone. The grants of a campaign too large to be paid in batches are published as the root of a
/// Merkle tree instead, and claimed one by one. Both ways share the paid ids and the caps.
///
/// @dev What happens to a grant never depends on how much gas the transaction brought: every mint gets exactly
/// {MINT_GAS}, as many mints together exactly {MINT_BATCH_BASE_GAS} and {MINT_BATCH_GAS} for each; and where that much is
/// not left the whole batch, or the claim, reverts with {NotEnoughGas} and has paid nothing.
///
/// Grants of a batch that follow one another are minted together where the token can do that ({IBatchMintable}). Where it
/// does not take them, they are minted one by one: so a grant that cannot be minted is rejected alone, and it is never
/// decided by others what becomes of a grant.
///
/// A batch is packed; integers are big endian:
///
///     batch := group+
///     group := campaign (32 bytes, keccak256 of the campaign id)
///              prefix   (24 bytes, the high 192 bits of the grant ids)
///              count    (2 bytes, not zero)
///              item * count
///     item  := low (8 bytes, the low 64 bits of the grant id) · recipient (20 bytes) · amount (12 bytes, base units)
///
/// A grant id is `prefix << 64 | low`. Paid ids are bits in a map of 256-bit words, so ids that follow one another share
/// a storage slot; ids without any order cost a slot each and are just as safe.
///
/// A tree of claims is OpenZeppelin's StandardMerkleTree of `["uint256", "address", "uint256"]`:
///
///     leaf  := keccak256(keccak256(abi.encode(id, recipient, amount)))
///     inner := keccak256(the smaller child · the larger child)
///
/// A leaf hashes 32 bytes and an inner node 64, so no inner node can be passed off as a leaf. A leaf names no campaign
/// and needs none: a proof holds against the root of the campaign it is claimed from, and an id that several trees hold
/// is paid once over all of them.
///
/// The token is somebody else's code. It must either mint and return, or revert; returning `false` counts as a revert.
/// Whatever it says that it has minted is paid, and never minted again. While it runs, neither {pay} nor {claim} can be entered, and the views do not yet show what the running batch has
/// paid; what a running claim pays they show already.
contract GrantDistributor is AccessControl, Pausable, ReentrancyGuardTransient {
    struct Campaign {
        uint128 cap; // 0: none
        uint128 paid;
    }

    /// @dev What a batch has read and not yet written: the campaign and the word that it is working on.
    struct Run {
        bytes32 campaign;
        uint256 prefix; // of the group, in place: the ids' low 64 bits are zero
        uint256 paid; // of the campaign, this batch included
        uint256 cap; // of the campaign; the largest uint128 for none, so that `paid` fits its slot
        uint256 word; // index into _paid
        uint256 bits; // _paid[word], this batch included
        uint256 total; // paid by this batch
        uint256 items; // where in memory those items of the group are that were paid, packed as in the batch,
        uint256 end; // and where they end
        uint256 mintCall; // where in memory there is room for a call that mints many
    }

    /// @notice May submit batches and publish the roots of claims: the services' signers.
    bytes32 public constant SUBMITTER_ROLE = keccak256("SUBMITTER_ROLE");

    /// @notice May stop and resume {pay} and {claim}.
    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");

    /// @notice The gas that every mint gets, no more and no less. {GrantToken} needs at most 65,000.
    uint256 public constant MINT_GAS = 200_000;

    /// @dev A call passes on at most 63/64 of what is left (EIP-150); 5,000 pay for reaching it with a cold account, and
    /// for its arguments.
    uint256 private constant GAS_TO_REACH = 5_000;
    uint256 private constant GAS_BEFORE_MINT = MINT_GAS * 64 / 63 + GAS_TO_REACH;

    /// @notice The gas that minting together gets for each grant, no more and no less. {GrantToken} needs at most 24,200.
    uint256 public constant MINT_BATCH_GAS = 26_000;

    /// @notice The gas that it gets besides. {GrantToken} needs at most 40,000.
    uint256 public constant MINT_BATCH_BASE_GAS = 100_000;

    /// @notice The most grants that are minted together. One that cannot be minted costs its transaction what those before
    /// it have used, at most.
    uint256 public constant MINT_BATCH_GRANTS = 64;

    /// @dev The most of a token's revert reason that is repeated in {GrantRejected}.
    uint256 private constant MAX_REASON = 256;

    uint256 private constant GROUP_HEADER = 58;
    uint256 private constant ITEM = 40;

    /// @dev What the data of {GrantsPaid} has before its items: where they begin, and their length.
    uint256 private constant EVENT_HEADER = 0x40;

    /// @dev Where a call of {IBatchMintable-mintBatch} for {MINT_BATCH_GRANTS} grants has its recipients, where from there it
    /// has its amounts, and its size in whole words.
    uint256 private constant MINT_CALL_RECIPIENTS = 0x64;
    uint256 private constant MINT_CALL_AMOUNTS = 0x20 + 0x20 * 64;
    uint256 private constant MINT_CALL_SIZE = 0xa0 + 0x40 * 64;

    /// @dev No id lies in this word: indexes are ids shifted right by 8 bits.
    uint256 private constant NO_WORD = type(uint256).max;

    /// @notice The token that grants are paid in.
    address public immutable token;

    /// @notice Whether the token can mint many grants together: whether it said so (ERC-165) when this was deployed.
    bool public immutable mintsBatches;

    /// @notice The most that one day (UTC) may pay over all campaigns, in base units; 0 for no limit.
    uint256 public dailyCap;

    /// @notice What a day has paid, in base units. A day is `block.timestamp / 1 days`.
    mapping(uint256 day => uint256 amount) public paidOnDay;

    /// @notice The root of the tree that the campaign's grants are claimed from; zero while none can be claimed.
    mapping(bytes32 campaign => bytes32 root) public claimRoot;

    /// @notice The root before it: proofs for it still hold, so that a claim under way does not fail because the tree has
    /// grown. Zero where there is none.
    mapping(bytes32 campaign => bytes32 root) public previousClaimRoot;

    mapping(bytes32 campaign => Campaign) private _campaigns;
    mapping(uint256 word => uint256 bits) private _paid;

    /// @notice The grant was minted, now and only now: by a claim, or as the only one of its group in a batch.
    event GrantPaid(uint256 indexed id, address indexed to, uint256 amount);

    /// @notice These grants of a group in a batch were minted, now and only now. With {GrantPaid}, this tells of every
    /// payment that was ever made.
    /// @param prefix The high 192 bits of the grants' ids.
    /// @param items For each grant, without any gap, what the batch says of it: the low 64 bits of its id (8 bytes),
    /// recipient (20), amount (12).
    event GrantsPaid(bytes32 indexed campaign, uint192 indexed prefix, bytes items);

    /// @notice The grant had been paid before; nothing was minted.
    event GrantSkipped(uint256 indexed id);

    /// @notice The grant was not minted, and may be submitted again.
    /// @param reason An ABI-encoded error, of this contract or of the token, cut after 256 bytes. Empty where the token
    /// gave none, as when it used up its gas.
    event GrantRejected(uint256 indexed id, address indexed to, uint256 amount, bytes reason);

    /// @notice The campaign's claims are proved against this root from now on, or against the one before; zero closes them.
    event ClaimRootSet(bytes32 indexed campaign, bytes32 root);

    event CampaignCapSet(bytes32 indexed campaign, uint256 cap);
    event DailyCapSet(uint256 cap);

    /// @notice The batch does not follow the format; nothing was paid.
    error MalformedBatch();

    /// @notice The transaction brought too little gas for its batch or its claim; nothing was paid.
    error NotEnoughGas();

    /// @notice The batch or the claim would exceed the day's cap; nothing was paid, and it can wait for another day.
    error DailyCapExceeded(uint256 day, uint256 cap);

    /// @notice The grant would exceed its campaign's cap: a reason in {GrantRejected}, or why a claim is refused.
    error CampaignCapExceeded(bytes32 campaign, uint256 cap);

    /// @notice The token returned `false`: a reason in {GrantRejected}, or why a claim is refused. A batch reverts with it
    /// where it was many grants that the token was to mint: nothing was paid, and each can be, in a batch of its own.
    error MintReturnedFalse();

    /// @notice The claimed grant was paid before, by a batch or by a claim. It cannot be paid again.
    error GrantAlreadyPaid(uint256 id);

    /// @notice The campaign has no root, so nothing of it can be claimed.
    error ClaimsClosed(bytes32 campaign);

    /// @notice The proof does not lead from this id, recipient and amount to the campaign's root, nor to the one before. It
    /// may be one for a root that has been replaced twice since.
    error InvalidClaimProof();

    /// @notice A claimed amount has at most 96 bits, as in a batch.
    error AmountTooLarge(uint256 amount);

    /// @notice The token refused to mint for a claim and gave no reason, as when it used up its gas.
    error MintReverted();

    /// @notice There is no contract at the token's address.
    error TokenHasNoCode(address token);

    /// @notice Campaign caps are kept in 128 bits.
    error CapTooLarge(uint256 cap);

    /// @param token_ The token; this contract must hold its minter role before it can pay.
    /// @param admin Appoints, pauses and sets caps; a multisig in production.
    /// @param submitter The first account that may submit batches.
    constructor(address token_, address admin, address submitter) {
        // A call to an address with no code succeeds and mints nothing.
        if (token_.code.length == 0) revert TokenHasNoCode(token_);
        token = token_;
        mintsBatches = ERC165Checker.supportsInterface(token_, type(IBatchMintable).interfaceId);
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(PAUSER_ROLE, admin);
        _grantRole(SUBMITTER_ROLE, submitter);
    }

    /// @notice Pays a batch. Each item ends in exactly one of {GrantsPaid} or {GrantPaid}, {GrantSkipped} and
    /// {GrantRejected}, as if items were paid one after the other, in the order of the batch; or the call reverts and
    /// nothing has happened. What was paid of a group is told after what was not.
    /// @param batch Packed as the contract's documentation says.
    function pay(bytes calldata batch) external onlyRole(SUBMITTER_ROLE) whenNotPaused nonReentrant {
        uint256 cursor;
        uint256 end;
        assembly ("memory-safe") {
            cursor := batch.offset
            end := add(cursor, batch.length)
        }
        if (cursor == end) revert MalformedBatch();

        Run memory run = _start(batch.length);
        while (cursor < end) {
            unchecked {
                if (end - cursor < GROUP_HEADER) revert MalformedBatch();
                bytes32 campaign = bytes32(_load(cursor));
                run.prefix = _load(cursor + 32) >> 64 << 64;
                uint256 count = uint16(_load(cursor + 26));
                cursor += GROUP_HEADER;
                uint256 groupEnd = cursor + count * ITEM;
                if (count == 0 || groupEnd > end) revert MalformedBatch();

                if (campaign != run.campaign || run.cap == 0) _enter(run, campaign);
                _payGroup(run, cursor, groupEnd);
                _announce(run);
                cursor = groupEnd;
            }
        }

        _campaigns[run.campaign].paid = uint128(run.paid);
        if (run.word != NO_WORD) _paid[run.word] = run.bits;
        _spendDay(run.total);
    }

    /// @notice Pays one grant of a campaign's tree. Anyone may call it and bears the gas; the tokens go to `to` whoever
    /// calls. It ends in {GrantPaid}, or reverts and nothing has happened: unlike in a batch, where the token refuses
    /// the mint its own reason is what the claim reverts with, cut after 256 bytes.
    /// @param campaign keccak256 of the campaign id, as in a batch.
    /// @param id The grant's id, the same as in a batch.
    /// @param to Who is paid.
    /// @param amount Base units, at most 96 bits.
    /// @param proof The siblings from the leaf up to the root.
    function claim(bytes32 campaign, uint256 id, address to, uint256 amount, bytes32[] calldata proof)
        external
        whenNotPaused
        nonReentrant
    {
        // First, so that whoever claims a second time learns so, whatever has become of the root.
        uint256 word = id >> 8;
        uint256 bits = _paid[word];
        uint256 bit = 1 << (id & 0xff);
        if (bits & bit != 0) revert GrantAlreadyPaid(id);

        bytes32 root = claimRoot[campaign];
        if (root == 0) revert ClaimsClosed(campaign);
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(id, to, amount))));
        bytes32 reached = MerkleProof.processProofCalldata(proof, leaf);
        if (reached != root && reached != previousClaimRoot[campaign]) revert InvalidClaimProof();
        if (amount > type(uint96).max) revert AmountTooLarge(amount);

        Campaign storage entered = _campaigns[campaign];
        uint256 cap = entered.cap == 0 ? type(uint128).max : entered.cap;
        uint256 paid = entered.paid + amount;
        if (paid > cap) revert CampaignCapExceeded(campaign, cap);

        // All of it before the token runs.
        _paid[word] = bits | bit;
        entered.paid = uint128(paid);
        _spendDay(amount);

        (bool minted, bytes memory reason) = _mint(to, amount);
        if (!minted) _revertWith(reason);
        emit GrantPaid(id, to, amount);
    }

    /// @notice Publishes the root of the campaign's tree, or another in its place: proofs for the one before hold until the
    /// next. Zero closes the campaign's claims, and no proof holds any more: so close them first where a root was wrong. A
    /// root stays when the account that set it loses its role.
    function setClaimRoot(bytes32 campaign, bytes32 root) external onlyRole(SUBMITTER_ROLE) {
        bytes32 before = claimRoot[campaign];
        if (root != before) {
            previousClaimRoot[campaign] = root == 0 ? bytes32(0) : before;
            claimRoot[campaign] = root;
        }
        emit ClaimRootSet(campaign, root);
    }

    /// @notice Sets the most that a campaign may pay, in base units; 0 for no limit. A cap below what has been paid
    /// already stops the campaign.
    function setCampaignCap(bytes32 campaign, uint256 cap) external onlyRole(DEFAULT_ADMIN_ROLE) {
        if (cap > type(uint128).max) revert CapTooLarge(cap);
        _campaigns[campaign].cap = uint128(cap);
        emit CampaignCapSet(campaign, cap);
    }

    /// @notice Sets the most that a day may pay over all campaigns, in base units; 0 for no limit.
    function setDailyCap(uint256 cap) external onlyRole(DEFAULT_ADMIN_ROLE) {
        dailyCap = cap;
        emit DailyCapSet(cap);
    }

    /// @notice Stops {pay} and {claim}.
    function pause() external onlyRole(PAUSER_ROLE) {
        _pause();
    }

    /// @notice Ends a pause.
    function unpause() external onlyRole(PAUSER_ROLE) {
        _unpause();
    }

    /// @notice Whether the grant has been paid.
    function isPaid(uint256 id) external view returns (bool) {
        return _paid[id >> 8] >> (id & 0xff) & 1 != 0;
    }

    /// @notice The most that the campaign may pay, in base units; 0 for no limit.
    function campaignCap(bytes32 campaign) external view returns (uint256) {
        return _campaigns[campaign].cap;
    }

    /// @notice What the campaign has paid, in base units.
    function campaignPaid(bytes32 campaign) external view returns (uint256) {
        return _campaigns[campaign].paid;
    }

    /// @dev Writes back the campaign that the batch leaves and reads the one that it enters.
    function _enter(Run memory run, bytes32 campaign) private {
        if (run.cap != 0) _campaigns[run.campaign].paid = uint128(run.paid);
        Campaign storage entered = _campaigns[campaign];
        (uint256 paid, uint256 cap) = (entered.paid, entered.cap);
        run.campaign = campaign;
        run.paid = paid;
        run.cap = cap == 0 ? type(uint128).max : cap;
    }

    /// @dev A run that is in no campaign yet, with room in memory for all items that the batch can have in one group.
    function _start(uint256 batchLength) private pure returns (Run memory run) {
        run.word = NO_WORD;
        uint256 items;
        uint256 mintCall;
        assembly ("memory-safe") {
            items := add(mload(0x40), EVENT_HEADER)
            mintCall := add(items, and(add(batchLength, 0x3f), not(0x1f)))
            mstore(0x40, add(mintCall, MINT_CALL_SIZE))
        }
        (run.items, run.end, run.mintCall) = (items, items, mintCall);
    }

    /// @dev Goes through a group's items, from `cursor` to `groupEnd` in the calldata. Items are minted together as long as
    /// each can be paid if those before it are; the next one is looked at when they were. So what becomes of an item is what
    /// would become of it if all were paid one after the other.
    function _payGroup(Run memory run, uint256 cursor, uint256 groupEnd) private {
        unchecked {
            while (cursor != groupEnd) {
                uint256 id = run.prefix | _load(cursor) >> 192;
                if (id >> 8 != run.word) {
                    if (run.word != NO_WORD) _paid[run.word] = run.bits;
                    run.word = id >> 8;
                    run.bits = _paid[id >> 8];
                }
                if (run.bits & 1 << (id & 0xff) != 0) {
                    emit GrantSkipped(id);
                    cursor += ITEM;
                    continue;
                }
                uint256 most = MINT_BATCH_GRANTS * ITEM;
                uint256 last = groupEnd - cursor > most ? cursor + most : groupEnd;
                (uint256 end, uint256 bits, uint256 paid) = _gather(run, cursor, last);
                if (end == cursor) {
                    uint256 tail = _load(cursor + 8);
                    bytes memory reason = abi.encodeWithSelector(CampaignCapExceeded.selector, run.campaign, run.cap);
                    emit GrantRejected(id, address(uint160(tail >> 96)), uint96(tail), reason);
                    cursor += ITEM;
                    continue;
                }
                _mintAll(run, cursor, end, bits, paid);
                cursor = end;
            }
        }
    }

    /// @dev Goes through items as long as each can be paid if those before it are, and lies in the run's word. Puts
    /// recipients and amounts where a call of {IBatchMintable-mintBatch} has them.
    /// @return end The first item that cannot be paid so, or `last`.
    /// @return bits What `run.bits` is if all before it are paid.
    /// @return paid What `run.paid` is then.
    function _gather(Run memory run, uint256 cursor, uint256 last)
        private
        pure
        returns (uint256 end, uint256 bits, uint256 paid)
    {
        (bits, paid, end) = (run.bits, run.paid, cursor);
        uint256 cap = run.cap;
        // The word as the ids' low 64 bits have it. In a group of another prefix no id lies in it.
        uint256 word = run.word ^ run.prefix >> 8;
        uint256 recipient = run.mintCall + MINT_CALL_RECIPIENTS;
        // Sums are exact: an amount has 96 bits, `paid` at most 128, and a batch far fewer than 2^128 items.
        unchecked {
            for (; end != last; end += ITEM) {
                (uint256 low, uint256 tail) = (_load(end) >> 192, _load(end + 8));
                uint256 bit = 1 << (low & 0xff);
                uint256 amount = uint96(tail);
                // Another word, or paid before, or over the cap.
                if ((low >> 8 ^ word) | (bits & bit) != 0) break;
                if (paid + amount > cap) break;
                bits |= bit;
                paid += amount;
                _store(recipient, tail >> 96);
                _store(recipient + MINT_CALL_AMOUNTS, amount);
                recipient += 0x20;
            }
        }
    }

    /// @dev Mints the items from `cursor` to `end` in the calldata, which were gathered: together if the token can, or else
    /// one by one.
    function _mintAll(Run memory run, uint256 cursor, uint256 end, uint256 bits, uint256 paid) private {
        unchecked {
            uint256 count = (end - cursor) / ITEM;
            uint256 kept = cursor;
            if (count == 1 || !mintsBatches || !_mintBatch(run.mintCall, count)) {
                for (; cursor != end; cursor += ITEM) {
                    uint256 tail = _load(cursor + 8);
                    (address to, uint256 amount) = (address(uint160(tail >> 96)), uint96(tail));
                    (bool minted, bytes memory reason) = _mint(to, amount);
                    if (minted) continue;

                    uint256 id = run.prefix | _load(cursor) >> 192;
                    emit GrantRejected(id, to, amount, reason);
                    bits ^= 1 << (id & 0xff);
                    paid -= amount;
                    _keep(run, kept, cursor);
                    kept = cursor + ITEM;
                }
            }
            _keep(run, kept, end);
            run.total += paid - run.paid;
            (run.bits, run.paid) = (bits, paid);
        }
    }

    /// @dev Adds the items from `cursor` to `end` in the calldata to those that were paid.
    function _keep(Run memory run, uint256 cursor, uint256 end) private pure {
        uint256 to = run.end;
        assembly ("memory-safe") {
            calldatacopy(to, cursor, sub(end, cursor))
        }
        unchecked {
            run.end = to + end - cursor;
        }
    }

    /// @dev Tells what was paid of the group, and leaves it.
    function _announce(Run memory run) private {
        (uint256 items, uint256 end) = (run.items, run.end);
        run.end = items;
        unchecked {
            if (end == items) return;
            if (end - items == ITEM) {
                uint256 tail = _stored(items + 8);
                emit GrantPaid(run.prefix | _stored(items) >> 192, address(uint160(tail >> 96)), uint96(tail));
                return;
            }
        }
        bytes32 signature = GrantsPaid.selector;
        (bytes32 campaign, uint256 prefix) = (run.campaign, run.prefix >> 64);
        // As `emit` would, without another copy of the items.
        assembly ("memory-safe") {
            let start := sub(items, EVENT_HEADER)
            mstore(start, 0x20)
            mstore(add(start, 0x20), sub(end, items))
            mstore(end, 0)
            log3(start, and(add(sub(end, start), 0x1f), not(0x1f)), signature, campaign, prefix)
        }
    }

    /// @dev Calls the token's {IBatchMintable-mintBatch} for the `count` items that were gathered, with exactly the gas for
    /// as many. Returns whether it minted; if not, it has done nothing.
    function _mintBatch(uint256 mintCall, uint256 count) private returns (bool minted) {
        uint256 mintGas;
        unchecked {
            mintGas = MINT_BATCH_BASE_GAS + count * MINT_BATCH_GAS;
            if (gasleft() < mintGas * 64 / 63 + GAS_TO_REACH) revert NotEnoughGas();
        }

        address token_ = token;
        bytes4 selector = IBatchMintable.mintBatch.selector;
        bool called;
        assembly ("memory-safe") {
            // Two arrays, each after its length; before them, where they begin. The second moves up to the first.
            let recipients := add(mintCall, MINT_CALL_RECIPIENTS)
            let size := shl(5, count)
            let amounts := add(add(recipients, size), 0x20)
            mcopy(amounts, add(recipients, MINT_CALL_AMOUNTS), size)
            mstore(mintCall, selector)
            mstore(add(mintCall, 0x04), 0x40)
            mstore(add(mintCall, 0x24), add(size, 0x60))
            mstore(add(mintCall, 0x44), count)
            mstore(sub(amounts, 0x20), count)
            called := call(mintGas, token_, 0, mintCall, sub(add(amounts, size), mintCall), 0x00, 0x20)
            minted := and(called, or(lt(returndatasize(), 0x20), iszero(iszero(mload(0x00)))))
        }
        // It may have minted some of them all the same. With the batch that is undone, whatever it was.
        if (called && !minted) revert MintReturnedFalse();
    }

    /// @dev Calls the token with exactly {MINT_GAS}. Copies at most {MAX_REASON} bytes of what it answers, so that an
    /// answer of megabytes costs the token its own gas and us nothing.
    function _mint(address to, uint256 amount) private returns (bool minted, bytes memory reason) {
        if (gasleft() < GAS_BEFORE_MINT) revert NotEnoughGas();

        address token_ = token;
        bytes4 selector = IMintable.mint.selector;
        bool called;
        assembly ("memory-safe") {
            let call_ := mload(0x40)
            mstore(call_, selector)
            mstore(add(call_, 0x04), to)
            mstore(add(call_, 0x24), amount)
            called := call(MINT_GAS, token_, 0, call_, 0x44, 0x00, 0x20)
            // Nothing, as IMintable has it, or a word other than `false`.
            minted := and(called, or(lt(returndatasize(), 0x20), iszero(iszero(mload(0x00)))))
        }
        if (minted) return (true, reason);
        if (called) return (false, abi.encodeWithSelector(MintReturnedFalse.selector));

        assembly ("memory-safe") {
            let size := returndatasize()
            if gt(size, MAX_REASON) { size := MAX_REASON }
            reason := mload(0x40)
            mstore(reason, size)
            returndatacopy(add(reason, 0x20), 0, size)
            mstore(0x40, add(reason, add(0x20, and(add(size, 0x1f), not(0x1f)))))
        }
    }

    function _spendDay(uint256 amount) private {
        // A batch that paid nothing exceeds nothing, even where the cap was set below what the day had paid.
        if (amount == 0) return;
        uint256 day = block.timestamp / 1 days;
        uint256 spent = paidOnDay[day] + amount;
        uint256 cap = dailyCap;
        if (cap != 0 && spent > cap) revert DailyCapExceeded(day, cap);
        paidOnDay[day] = spent;
    }

    function _revertWith(bytes memory reason) private pure {
        if (reason.length == 0) revert MintReverted();
        assembly ("memory-safe") {
            revert(add(reason, 0x20), mload(reason))
        }
    }

    function _load(uint256 cursor) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(cursor)
        }
    }

    function _stored(uint256 cursor) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := mload(cursor)
        }
    }

    function _store(uint256 cursor, uint256 word) private pure {
        assembly ("memory-safe") {
            mstore(cursor, word)
        }
    }
}
