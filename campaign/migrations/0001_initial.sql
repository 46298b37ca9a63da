-- The same text runs on SQLite and on PostgreSQL. Times are microseconds since the Unix epoch.

create table deployment (
    singleton integer constraint deployment_pkey primary key constraint deployment_is_one check (singleton = 1),
    -- A random 64-bit number, drawn once: whose numbering grant_index is.
    issuer bigint not null,
    next_grant_index bigint not null
);

create table token_grant (
    request_id text constraint token_grant_pkey primary key,
    grant_index bigint not null constraint token_grant_index_unique unique,
    user_id text not null,
    campaign_id text not null,
    -- The wallet asked for; null for the user's counterfactual one.
    wallet_address text,
    -- Whole tokens.
    token_amount bigint not null,
    state text not null,
    transaction_hash text,
    block_number bigint,
    error_code text,
    error_message text,
    retry_count bigint not null,
    traceparent text,
    requested_at bigint not null,
    updated_at bigint not null,
    completed_at bigint,
    -- When the request is published again for want of a result; null once the grant is final.
    publish_again_at bigint,
    constraint token_grant_once_per_user unique (campaign_id, user_id)
);

create index token_grant_by_user on token_grant (user_id, grant_index);
create index token_grant_open on token_grant (publish_again_at) where publish_again_at is not null;

create table idempotency_key (
    idempotency_key text constraint idempotency_key_pkey primary key,
    request_id text not null constraint idempotency_key_grant_fkey references token_grant (request_id)
);

-- What happened to each grant, in the order of id. Append-only.
create table grant_event (
    id text constraint grant_event_pkey primary key,
    request_id text not null constraint grant_event_grant_fkey references token_grant (request_id),
    kind text not null,
    at bigint not null,
    data text not null
);

create index grant_event_by_grant on grant_event (request_id, id);

create table outbox (
    id text constraint outbox_pkey primary key,
    topic text not null,
    request_id text,
    data text not null,
    attributes text not null,
    created_at bigint not null
);

create index outbox_by_request on outbox (request_id);
