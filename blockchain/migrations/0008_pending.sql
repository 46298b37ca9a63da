-- The same text runs on SQLite and on PostgreSQL.

-- SQLite took the unique index for what is asked of a signer's open transactions, and read all that it ever had.
drop index chain_transaction_pending;
create index chain_transaction_pending on chain_transaction (chain_id, signer, nonce) where state = 'pending';
