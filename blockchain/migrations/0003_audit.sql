-- What the distributor has paid, as its events in final blocks tell it: the chain's side of an audit. One row for each
-- event, so that an id that was paid twice has two.
create table chain_payment (
    block_number bigint not null,
    log_index bigint not null,
    block_hash text not null,
    transaction_hash text not null,
    -- The id on chain, 64 hexadecimal digits, as in payment.
    grant_id text not null,
    -- Of a dense id: whose numbering, 16 hexadecimal digits, and the number, its 64 bits read as signed. Null for others.
    issuer text,
    grant_index bigint,
    recipient text not null,
    -- Base units, decimal: they may have more than 64 bits.
    amount text not null,
    -- When it was read.
    seen_at bigint not null,
    constraint chain_payment_pkey primary key (block_number, log_index)
);

create index chain_payment_by_grant on chain_payment (grant_id);
create index chain_payment_by_number on chain_payment (issuer, grant_index, block_number, log_index) where issuer is not null;

-- How many payments a stretch of blocks holds, as far as the ledger knows: an answer of a node must fit into memory.
create index payment_by_block on payment (block_number) where block_number is not null;

-- Whose events chain_payment holds, and how far they have been read.
create table chain_cursor (
    singleton integer constraint chain_cursor_pkey primary key constraint chain_cursor_is_one check (singleton = 1),
    chain_id bigint not null,
    distributor text not null,
    -- Where reading began.
    first_block bigint not null,
    -- Every block below this has been read.
    next_block bigint not null,
    -- The hash of the block before it; null before anything was read.
    block_hash text
);
