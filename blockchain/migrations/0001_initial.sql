-- The same text runs on SQLite and on PostgreSQL. Times are microseconds since the Unix epoch.

-- One row for each grant that was asked for, for ever: what makes a repeated request harmless.
create table payment (
    request_id text constraint payment_pkey primary key,
    -- The id on chain, 64 hexadecimal digits.
    grant_id text not null constraint payment_grant_id_unique unique,
    user_id text not null,
    campaign_id text not null,
    recipient text not null,
    -- Whole tokens.
    token_amount bigint not null,
    -- queued, assigned (to a transaction), completed or failed.
    state text not null,
    -- The transaction that is to pay it, or has paid it.
    transaction_id text,
    -- Not to be put in a transaction earlier than this.
    not_before bigint not null,
    transaction_hash text,
    block_number bigint,
    gas_used bigint,
    error_code text,
    error_message text,
    traceparent text,
    requested_at bigint not null,
    received_at bigint not null,
    finished_at bigint
);

create index payment_queue on payment (not_before, request_id) where state = 'queued';
create index payment_by_transaction on payment (transaction_id) where transaction_id is not null;

-- An ordered line of nonces: one signer on one chain.
create table lane (
    chain_id bigint not null,
    signer text not null,
    next_nonce bigint not null,
    constraint lane_pkey primary key (chain_id, signer)
);

-- One nonce of a lane, for ever: which grants it was taken for.
create table chain_transaction (
    id text constraint chain_transaction_pkey primary key,
    chain_id bigint not null,
    signer text not null,
    nonce bigint not null,
    -- pending, succeeded or reverted.
    state text not null,
    grants bigint not null,
    created_at bigint not null,
    finished_at bigint,
    constraint chain_transaction_nonce_once unique (chain_id, signer, nonce)
);

create index chain_transaction_pending on chain_transaction (nonce) where state = 'pending';

-- The signed bytes that were, or may have been, sent for a transaction. Committed before they are sent.
create table attempt (
    hash text constraint attempt_pkey primary key,
    transaction_id text not null constraint attempt_transaction_fkey references chain_transaction (id),
    raw bytea not null,
    gas_limit bigint not null,
    max_fee_per_gas_wei bigint not null,
    max_priority_fee_per_gas_wei bigint not null,
    created_at bigint not null,
    -- When it was last given to a node that answered; null until then.
    sent_at bigint
);

create index attempt_by_transaction on attempt (transaction_id);

-- What was ever paid and refused, counted in the transaction that decides it.
create table tally (
    singleton integer constraint tally_pkey primary key constraint tally_is_one check (singleton = 1),
    completed_grants bigint not null,
    completed_tokens bigint not null,
    failed_grants bigint not null
);

insert into tally (singleton, completed_grants, completed_tokens, failed_grants) values (1, 0, 0, 0);

create table outbox (
    id text constraint outbox_pkey primary key,
    topic text not null,
    request_id text,
    data text not null,
    attributes text not null,
    created_at bigint not null
);

create index outbox_by_request on outbox (request_id);
