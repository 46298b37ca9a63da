-- The same text runs on SQLite and on PostgreSQL. Times are microseconds since the Unix epoch.

-- A payment has one state more: claimable, until the distributor says that it was claimed.

-- The roots of the Merkle trees that campaigns' grants are claimed from, as the campaign service wants them published.
create table claim_root (
    campaign_id text not null,
    -- Grows with each tree of the campaign. Only the highest is ever published.
    number bigint not null,
    -- 0x and 64 hexadecimal digits.
    root text not null,
    -- wanted, assigned (to a transaction) or published.
    state text not null,
    -- Not to be put in a transaction earlier than this.
    not_before bigint not null,
    -- The transaction that is to publish it, or has published it.
    transaction_id text,
    -- The contract that it is published to.
    distributor text,
    transaction_hash text,
    block_number bigint,
    published_at bigint,
    constraint claim_root_pkey primary key (campaign_id, number)
);

create index claim_root_wanted on claim_root (not_before) where state = 'wanted';
create index claim_root_by_transaction on claim_root (transaction_id) where transaction_id is not null;
