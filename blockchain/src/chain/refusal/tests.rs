//! What nodes really say.

use super::Refusal::{
    Busy, InsufficientFunds, Invalid, Known, NonceTooHigh, NonceTooLow, ReplacementUnderpriced, Underpriced, Unknown,
};
use super::*;

/// Messages as nodes send them, under where each is written: a file of the node's source, a project that quotes the
/// answer, or an issue. Placeholders are filled in.
#[rustfmt::skip]
const SAID: &[(&str, &[(&str, Refusal)])] = &[
    ("ethereum/go-ethereum core/txpool/errors.go", &[
        ("already known", Known),
        ("replacement transaction underpriced", ReplacementUnderpriced),
        ("transaction underpriced", Underpriced),
        ("account limit exceeded: pooled 16 txs", Busy),
        ("exceeds block gas limit", Invalid),
        ("future transaction tries to replace pending", NonceTooHigh),
        ("address already reserved", Busy),
    ]),
    ("ethereum/go-ethereum core/txpool/validation.go", &[
        ("nonce too low: next nonce 551651, tx nonce 55", NonceTooLow),
        ("nonce too high: tx nonce 12, gapped nonce 9", NonceTooHigh),
        ("insufficient funds for gas * price + value: balance 1, tx cost 9, overshot 8", InsufficientFunds),
        ("insufficient funds for gas * price + value: balance 1, queued cost 5, tx bumped 2, overshot 6", InsufficientFunds),
        ("intrinsic gas too low: gas 21000, minimum needed 53000", Invalid),
        ("insufficient gas for floor data gas cost: gas 19435, minimum needed 24000", Invalid),
        ("transaction gas limit too high (cap: 16777216, tx: 21000000)", Invalid),
        ("oversized data: transaction size 1442245, limit 131072", Invalid),
        ("max initcode size exceeded: code size 49153, limit 49152", Invalid),
        ("transaction type not supported: type 2 rejected, pool not yet in London", Invalid),
        ("invalid sender: invalid chain id for signer: have 31337 want 91562037", Invalid),
    ]),
    ("ethereum/go-ethereum core/txpool/legacypool/legacypool.go", &[
        ("txpool is full", Busy),
        ("in-flight transaction limit reached for delegated accounts", Busy),
        ("gapped-nonce tx from delegated accounts", NonceTooHigh),
    ]),
    ("ethereum/go-ethereum core/error.go, core/vm/errors.go, core/types/transaction.go", &[
        ("nonce has max value", Invalid),
        ("gas uint64 overflow", Invalid),
        ("max priority fee per gas higher than max fee per gas", Invalid),
        ("sender not an eoa", Invalid),
        ("insufficient balance for transfer", InsufficientFunds),
        ("typed transaction too short", Invalid),
    ]),
    ("ethereum/go-ethereum internal/ethapi", &[
        ("tx fee (1.10 ether) exceeds the configured cap (1.00 ether)", Invalid),
        ("only replay-protected (EIP-155) transactions allowed over RPC", Invalid),
        ("transaction indexing is in progress", Busy),
        ("header not found", Busy),
        ("missing trie node 5c0ee75d9dd668839db2895c93257f6a3a77282740c045d286ff0d1f297ffa24 (path )", Busy),
        ("err: insufficient funds for gas * price + value: address 0xaa25Aa7a19f9c426E07dee59b12f944f4d9f1DD3 have 0 want 378000000000000 (supplied gas 21000)", InsufficientFunds),
        ("err: max fee per gas less than block base fee: address 0x88062d479836b268AB808ae000b9fEe56b8449E9, maxFeePerGas: 1 baseFee: 13 (supplied gas 15010499)", Underpriced),
        ("the method eth_sendRawTransaction does not exist/is not available", Unknown),
    ]),
    ("paradigmxyz/reth crates/rpc/rpc-eth-types/src/error/mod.rs", &[
        ("already known", Known),
        ("nonce too low: next nonce 82, tx nonce 81", NonceTooLow),
        ("replacement transaction underpriced", ReplacementUnderpriced),
        ("max fee per gas less than block base fee", Underpriced),
        ("transaction priority fee below minimum required priority fee 1000000", Underpriced),
        ("insufficient funds for gas * price + value: have 8556359999658086 want 8556361876386681", InsufficientFunds),
        ("exceeds max transaction gas limit", Invalid),
        ("gas limit too high", Invalid),
        ("intrinsic gas too high", Invalid),
        ("tx fee (2100000000000000000 wei) exceeds the configured cap (1000000000000000000 wei)", Invalid),
        ("oversized data: transaction size 200000, limit 131072", Invalid),
        ("invalid chain ID", Invalid),
        ("invalid transaction signature", Invalid),
        ("failed to decode signed transaction", Invalid),
        ("sender is not an EOA", Invalid),
        ("txpool is full", Busy),
        ("block not found: latest", Busy),
    ]),
    ("paradigmxyz/reth crates/transaction-pool/src/error.rs", &[
        ("[0x2129415cce57abd63ed9933974bec95027c87c8b2bb0b6a785cbd5a9b793d8ee]: already imported", Known),
        ("insufficient gas price to replace existing transaction", ReplacementUnderpriced),
        ("rejected due to 0x336394A3219e71D9d9bd18201d34E95C1Bb7122C being identified as a spammer", Busy),
    ]),
    ("paritytech/jsonrpsee types/src/error.rs", &[
        ("Server is busy, try again later", Busy),
        ("Internal error", Busy),
    ]),
    ("erigontech/erigon txnprovider/txpool/txpoolcfg/txpoolcfg.go, rpc/jsonrpc/send_transaction.go", &[
        ("ALREADY_EXISTS: already known", Known),
        ("INTERNAL_ERROR: existing tx with same hash", Known),
        ("INTERNAL_ERROR: existing txn with same hash", Known),
        ("INTERNAL_ERROR: nonce too low", NonceTooLow),
        ("FEE_TOO_LOW: replacement transaction underpriced", ReplacementUnderpriced),
        ("INTERNAL_ERROR: could not replace existing tx", ReplacementUnderpriced),
        ("INTERNAL_ERROR: replaced by transaction with higher tip", ReplacementUnderpriced),
        ("FEE_TOO_LOW: underpriced", Underpriced),
        ("FEE_TOO_LOW: fee too low", Underpriced),
        ("INTERNAL_ERROR: insufficient funds", InsufficientFunds),
        ("INTERNAL_ERROR: IntrinsicGas", Invalid),
        ("INTERNAL_ERROR: GasUintOverflow", Invalid),
        ("INTERNAL_ERROR: gas limit is too high", Invalid),
        ("INVALID: invalid sender", Invalid),
        ("INVALID: RLPTooLong", Invalid),
        ("INVALID: initcode too large", Invalid),
        ("invalid chain id, expected: 1 got: 5", Invalid),
        ("INTERNAL_ERROR: pending sub-pool is full", Busy),
        ("INTERNAL_ERROR: baseFee sub-pool is full", Busy),
        ("INTERNAL_ERROR: queued sub-pool is full", Busy),
        ("INTERNAL_ERROR: spammer", Busy),
        ("RPC error response: RPC error response: INTERNAL_ERROR: nonce too low", NonceTooLow),
    ]),
    ("NethermindEth/nethermind Nethermind.TxPool/TxPoolErrorMessages.cs, Nethermind.Core/Messages/TxErrorMessages.cs", &[
        ("nonce too far in future", NonceTooHigh),
        ("insufficient funds for gas * price + value, Account balance: 0, cumulative cost: 378000000000000", InsufficientFunds),
        ("gas limit reached", Invalid),
        ("failed to recover sender", Invalid),
        ("transaction cost overflow", Invalid),
        ("transaction too large", Invalid),
        ("unsupported transaction type", Invalid),
        ("transaction invalid, InvalidTxChainId: Expected 7034189865, got 8141.", Invalid),
        ("node is syncing", Busy),
        ("pending transaction type conflict", Unknown),
    ]),
    ("NethermindEth/nethermind Nethermind.TxPool/AcceptTxResult.cs and Filters, until NethermindEth/nethermind#12157", &[
        ("AlreadyKnown", Known),
        ("OldNonce, Current nonce: 5, nonce of rejected tx: 4", NonceTooLow),
        ("NonceGap, Future nonce. Expected nonce: 10", NonceTooHigh),
        ("NonceTooFarInFuture", NonceTooHigh),
        ("ReplacementNotAllowed", ReplacementUnderpriced),
        ("FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 50, BaseFee: 100, MaxPriorityFeePerGas:200, Block number: 5", Underpriced),
        ("FeeTooLow, EffectivePriorityFeePerGas too low 10 < 20, BaseFee: 30", Underpriced),
        ("FeeTooLowToCompete", Underpriced),
        ("InsufficientFunds, Account balance: 4740799397601480913, cumulative cost: 22019342038993800000", InsufficientFunds),
        ("GasLimitExceeded", Invalid),
        ("SenderIsContract", Invalid),
        ("FailedToResolveSender", Invalid),
        ("MaxTxSizeExceeded", Invalid),
        ("Invalid, InvalidTxChainId: Expected 1, got 5.", Invalid),
        ("Invalid, InvalidTxSignature: Signature is invalid.", Invalid),
        ("Invalid, InvalidMaxPriorityFeePerGas: Cannot be higher than maxFeePerGas.", Invalid),
        ("Invalid, TxGasLimitCapExceeded: Gas limit 21000000 exceeded cap of 16777216.", Invalid),
        ("Invalid, NonceTooHigh: Nonce exceeds max nonce", Invalid),
        ("Syncing", Busy),
    ]),
    ("besu-eth/besu ethereum/api RpcErrorType.java", &[
        ("Known transaction", Known),
        ("Nonce too low", NonceTooLow),
        ("Nonce too high", NonceTooHigh),
        ("Transaction nonce is too distant from current sender nonce", NonceTooHigh),
        ("An invalid transaction with a lower nonce exists", NonceTooHigh),
        ("Replacement transaction underpriced", ReplacementUnderpriced),
        ("Gas price below configured minimum gas price", Underpriced),
        ("Gas price below current base fee", Underpriced),
        ("Upfront cost exceeds account balance", InsufficientFunds),
        ("Intrinsic gas exceeds gas limit", Invalid),
        ("Transaction gas limit exceeds block gas limit", Invalid),
        ("Transaction gas limit cap exceeded", Invalid),
        ("Transaction fee cap exceeded", Invalid),
        ("Max priority fee per gas exceeds max fee per gas", Invalid),
        ("Invalid signature", Invalid),
        ("Invalid transaction type", Invalid),
        ("Wrong chainId", Invalid),
        ("ChainId not supported", Invalid),
        ("Initial sync is still in progress", Busy),
        ("Transaction pool not enabled. (Either txpool explicitly disabled, or node not yet in sync).", Busy),
        ("World state unavailable", Busy),
        ("Timeout expired", Busy),
        // Its operator may change their mind, and then the same bytes pass.
        ("Sender account not authorized to send transactions", Unknown),
        ("Plugin has marked the transaction as invalid", Unknown),
    ]),
    ("foundry-rs/foundry crates/anvil/src/eth/error.rs; anvil 1.7.1 asked", &[
        ("transaction already imported", Known),
        ("replacement transaction underpriced", ReplacementUnderpriced),
        ("nonce too low", NonceTooLow),
        ("Nonce too high", NonceTooHigh),
        ("max fee per gas less than block base fee", Underpriced),
        ("Insufficient funds for gas * price + value", InsufficientFunds),
        ("intrinsic gas too high -- tx.gas_limit > env.block.gas_limit", Invalid),
        ("Transaction gas limit is greater than the block gas limit, gas_limit: 40000000, cap: 30000000", Invalid),
        ("invalid chain id for signer", Invalid),
        ("Incompatible EIP-155 transaction, signed for another chain", Invalid),
        ("Failed to decode transaction", Invalid),
        ("Unknown transaction type not supported", Invalid),
        ("BlockOutOfRangeError: block height is 1 but requested was 5", Busy),
    ]),
    ("OffchainLabs/nitro execution/gethexec/tx_pre_checker.go, sequencer.go, execution/interface.go", &[
        ("nonce too low: address 0xA6F9900dB3cA6936b8b0D50B79871f7d3da88279, tx: 4 state: 5", NonceTooLow),
        ("nonce too high: address 0xA6F9900dB3cA6936b8b0D50B79871f7d3da88279, tx: 11029 state: 11027", NonceTooHigh),
        ("max fee per gas less than block base fee: address 0x336394A3219e71D9d9bd18201d34E95C1Bb7122C, maxFeePerGas: 100000000 baseFee: 109440000", Underpriced),
        ("insufficient funds for gas * price + value: address 0x336394A3219e71D9d9bd18201d34E95C1Bb7122C have 1 want 9", InsufficientFunds),
        ("intrinsic gas too low", Invalid),
        ("sequencer temporarily not available", Busy),
        ("please retry transaction", Busy),
        ("context deadline exceeded", Busy),
        ("currently not accepting transactions due to expected surplus being below threshold", Busy),
        ("transaction sender is not on the whitelist", Unknown),
    ]),
    ("smartcontractkit/chainlink core/chains/evm/client/errors.go (Arbitrum)", &[
        ("queue full", Busy),
        ("sequencer pending tx pool full, please try again", Busy),
    ]),
    ("ethereum-optimism/op-geth core/txpool/errors.go", &[
        ("exceeds maximum per-transaction gas limit", Invalid),
    ]),
    ("ethereum-optimism/infra proxyd/backend.go (Optimism, Base)", &[
        ("sender is over rate limit", Busy),
        ("no backend is currently healthy to serve traffic", Busy),
        ("no backends available for method", Busy),
        ("backend is over capacity", Busy),
        ("backend offline", Busy),
        ("gateway timeout", Busy),
        ("internal error", Busy),
    ]),
    ("quoted by several dApps (Celo's public gateway, OP stack)", &[
        ("error_forwarding_sequencer: insufficient funds for gas * price + value: balance 0", InsufficientFunds),
        ("error_forwarding_sequencer: gas fee cap is below the minimum base fee", Underpriced),
    ]),
    ("WayfinderFoundation/wayfinder-paths-sdk#379 (Polygon bor), bnb-chain/bsc#2387", &[
        ("transaction gas price below minimum: gas tip cap 1500000000, minimum needed 25000000000", Underpriced),
        ("transaction underpriced: tip needed 3000000000, tip permitted 1000000000", Underpriced),
    ]),
    ("docs.alchemy.com throughput and error reference", &[
        ("Your app has exceeded its compute units per second capacity. If you have retries enabled, you can safely ignore this message. If not, check out https://docs.alchemy.com/reference/throughput", Busy),
        ("Monthly capacity limit exceeded. Visit https://dashboard.alchemy.com/settings/billing to upgrade your scaling policy for continued service.", Busy),
        ("Unable to complete request at this time.", Busy),
    ]),
    ("alloy-rs/alloy crates/json-rpc/src/response/error.rs, crates/transport/src/error.rs (Infura, QuickNode)", &[
        ("daily request count exceeded, request rate limited", Busy),
        ("project ID request rate exceeded", Busy),
        ("Too Many Requests", Busy),
        ("rate limited, try again in 4ms", Busy),
        ("100/second request limit reached - reduce calls per second or upgrade your account at quicknode.com", Busy),
        ("credits limited to 6000/sec", Busy),
    ]),
    ("BobTheBuidler/dank_mids (Chainstack)", &[
        ("You've exceeded the RPS limit available on the current plan.", Busy),
    ]),
    ("quoted by several projects (Cloudflare, code -32046; Ankr, code -32000)", &[
        ("Cannot fulfill request", Busy),
        ("Unauthorized: You must authenticate your request with an API key.", Unknown),
    ]),
    ("EIP-1474", &[
        ("Limit exceeded", Busy),
    ]),
    ("paradigmxyz/reth crates/rpc/rpc/src/eth/filter.rs; ponder-sh/ponder (nitro)", &[
        ("block range extends beyond current head block", Busy),
        ("log query timed out", Busy),
    ]),
    ("reverts of geth, Besu and Hardhat", &[
        ("execution reverted", Unknown),
        ("execution reverted: ERC20: insufficient balance", Unknown),
        ("Execution reverted", Unknown),
        ("VM Exception while processing transaction: reverted with reason string 'already known'", Unknown),
    ]),
];

/// Answers to `eth_getLogs`, and whether they ask for less at once.
#[rustfmt::skip]
const SAID_OF_LOGS: &[(&str, &[(&str, bool)])] = &[
    ("PublicNode, quoted by many; ethereum/go-ethereum eth/filters", &[
        ("exceed maximum block range: 50000", true),
        ("invalid block range params", false),
    ]),
    ("paradigmxyz/reth crates/rpc/rpc/src/eth/filter.rs; base/base#2421", &[
        ("query exceeds max block range 100000", true),
        ("query exceeds max results 20000, retry with the range 25766988-25775072", true),
        ("block range extends beyond current head block", false),
    ]),
    ("paritytech/jsonrpsee types/src/error.rs", &[("Response is too big", true)]),
    ("Pocket and dRPC, quoted by many", &[
        ("query block range exceeds server limit, narrow your filter: 5000", true),
        ("ranges over 10000 blocks are not supported on free plan", true),
    ]),
    ("NethermindEth/nethermind EthRpcModule tests", &[("Too many logs requested. Max logs per response is 20000.", true)]),
    ("besu-eth/besu RpcErrorType.java", &[
        ("Requested range exceeds maximum RPC range limit", true),
        ("Number of requests exceeds max batch size", false),
    ]),
    ("ponder-sh/ponder packages/utils/src/getLogsRetryHelper.ts (Arbitrum nitro)", &[
        ("logs matched by query exceeds limit of 10000", true),
        ("log query timed out", true),
    ]),
    ("ethereum-optimism/infra proxyd/backend.go, proxyd/rewriter.go (Optimism, Base)", &[
        ("backend response too large", true),
        ("block range too large", true),
        ("Block range is too large", true),
        ("no backend is currently healthy to serve traffic", false),
        ("over rate limit", false),
    ]),
    ("bnb-chain/bsc public nodes", &[
        ("limit exceeded", true),
    ]),
    ("Alchemy: ponder, BobTheBuidler/dank_mids#772, boundless-xyz/boundless#838", &[
        ("Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and no limit on the response size, or you can request any block range with a cap of 10K logs in the response. Based on your parameters and the response size limit, this block range should work: [0xc5dc00, 0xc614a7]", true),
        ("You can make eth_getLogs requests with up to a 500 block range. Based on your parameters, this block range should work: [0x123c9b2, 0x123cba5]", true),
        ("Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range.", true),
        ("Query timeout exceeded. Consider reducing your block range.", true),
        ("Your app has exceeded its compute units per second capacity.", false),
        ("Monthly capacity limit exceeded", false),
    ]),
    ("Infura: smartcontractkit/chainlink tests, INFURA/infura#237", &[
        ("query returned more than 10000 results. Try with this block range [0x100E698, 0x100E6D4].", true),
        ("query returned more than 10000 results", true),
        ("query timeout exceeded", true),
        ("range 1000000 exceeds limit of 10000", true),
        ("project ID request rate exceeded", false),
    ]),
    ("QuickNode: OffchainLabs/arbitrum-sdk#609, quicknode.com error references", &[
        ("eth_getLogs is limited to a 10,000 range", true),
        ("eth_getLogs and eth_newFilter are limited to a 10,000 blocks range", true),
        ("50/second request limit reached - reduce calls per second or upgrade your account at quicknode.com", false),
    ]),
    ("ponder-sh/ponder packages/utils/src/getLogsRetryHelper.ts (Ankr, Chainstack, Cloudflare, Coinbase, 1RPC, thirdweb, Avalanche)", &[
        ("block range is too wide", true),
        ("Block range limit exceeded. See more details at https://docs.chainstack.com/docs/limits#evm-range-limits", true),
        ("Invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large. Max range: 800", true),
        ("please limit the query to at most 1000 blocks", true),
        ("response size should not greater than 2097152 bytes", true),
        ("Maximum allowed number of requested blocks is 1000", true),
        ("requested too many blocks from 0 to 5000000, maximum is set to 2048", true),
    ]),
    ("foundry-rs/foundry crates/anvil/src/eth/error.rs; anvil 1.7.1 asked", &[
        ("BlockOutOfRangeError: block height is 1 but requested was 5", false),
    ]),
    ("of no range", &[
        ("rate limit exceeded", false),
        ("exceeds block gas limit", false),
        ("header not found", false),
        ("execution reverted", false),
    ]),
];

fn said() -> impl Iterator<Item = (&'static str, &'static str, Refusal)> {
    SAID.iter().flat_map(|(by, said)| said.iter().map(|(message, refusal)| (*by, *message, *refusal)))
}

fn said_of_logs() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    SAID_OF_LOGS.iter().flat_map(|(by, said)| said.iter().map(|(message, range)| (*by, *message, *range)))
}

#[test]
fn what_nodes_really_say_is_understood() {
    for (by, message, refusal) in said() {
        assert_eq!(Refusal::of(message), refusal, "{message} ({by})");
    }
}

#[test]
fn neither_case_nor_wrapping_changes_the_meaning() {
    for (by, message, refusal) in said().filter(|(_, _, refusal)| *refusal != Unknown) {
        for wrapped in [
            message.to_uppercase(),
            format!("Internal error: {message}"),
            format!("RPC error response: {message}: eth_sendRawTransaction (code -32000)"),
            format!("{{\"code\":-32603,\"data\":{{\"code\":-32000,\"message\":\"{message}\"}}}}"),
        ] {
            assert_eq!(Refusal::of(&wrapped), refusal, "{wrapped} ({by})");
        }
    }
}

#[test]
fn what_a_contract_says_is_no_refusal() {
    for (by, message, _) in said() {
        let reverted = format!("execution reverted: {message}");
        assert_eq!(Refusal::of(&reverted), Unknown, "{reverted} ({by})");
    }
}

#[test]
fn an_unknown_transaction_is_not_a_known_one() {
    for message in ["unknown transaction", "Unknown transaction 0x01", ""] {
        assert_eq!(Refusal::of(message), Unknown, "{message}");
    }
}

#[test]
fn a_range_too_wide_is_told_from_other_trouble() {
    for (by, message, range) in said_of_logs() {
        assert_eq!(is_range_refusal(message), range, "{message} ({by})");
        assert_eq!(is_range_refusal(&message.to_uppercase()), range, "{message} in capitals ({by})");
    }
}

#[test]
fn no_words_are_there_that_no_node_says() {
    for (refusal, words) in MEANINGS {
        for words in *words {
            let heard = |(_, message, meaning): (&str, &str, Refusal)| {
                meaning == *refusal && says(&message.to_lowercase(), &[words])
            };
            assert!(said().any(heard), "{refusal:?}: {words}");
        }
    }
    for words in RANGE_TOO_WIDE {
        let heard = |(_, message, range): (&str, &str, bool)| range && says(&message.to_lowercase(), &[words]);
        assert!(said_of_logs().any(heard), "{words}");
    }
}
