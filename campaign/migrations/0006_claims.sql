-- The same text runs on SQLite and on PostgreSQL. Times are microseconds since the Unix epoch.

-- The grants that can be claimed, as they stand in the Merkle trees of their campaigns.
create table claim_leaf (
    request_id text constraint claim_leaf_pkey primary key,
    campaign_id text not null,
    -- The entry of the ledger that made it claimable: a tree has all leaves up to one.
    sequence bigint not null,
    -- The id on chain, 64 hexadecimal digits.
    grant_id text not null,
    wallet_address text not null,
    -- Base units, decimal: they may have more than 64 bits.
    amount text not null
);

create index claim_leaf_by_campaign on claim_leaf (campaign_id, sequence);
create index claim_leaf_by_wallet on claim_leaf (campaign_id, wallet_address, sequence);

-- The trees that were made of them, one after the other, each with all the leaves of those before.
create table claim_root (
    campaign_id text not null,
    -- The entry of the ledger that made it.
    number bigint not null,
    -- 0x and 64 hexadecimal digits.
    root text not null,
    leaves bigint not null,
    -- It has the leaves up to this entry of the ledger.
    up_to bigint not null,
    made_at bigint not null,
    -- Where it is on chain; null until it is.
    chain_id bigint,
    distributor text,
    transaction_hash text,
    block_number bigint,
    published_at bigint,
    constraint claim_root_pkey primary key (campaign_id, number)
);

create index claim_root_unpublished on claim_root (campaign_id) where published_at is null;

-- The entry of the ledger that made a grant of the campaign claimable last.
alter table campaign add column newest_claimable bigint;
create index campaign_with_claims on campaign (campaign_id) where newest_claimable is not null;

-- Those that wait for the blockchain service. A grant that can be claimed waits for its recipient.
create index token_grant_waiting on token_grant (requested_at) where publish_again_at is not null and state <> 'claimable';

-- When the blockchain service was last told what it must not forget: how the kill switch stands, which roots to publish.
-- (Processes of the version before go on with switch_told_at while they are replaced one by one.)
alter table deployment add column told_at bigint not null default 0;
