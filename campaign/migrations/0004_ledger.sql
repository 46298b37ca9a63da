-- The same text runs on SQLite and on PostgreSQL. Times are microseconds since the Unix epoch.

-- The ledger: what happened, in order, append-only. Every other table but outbox and dead_letter is worked out from it,
-- by the same code in the same transaction, and can be worked out again: see `campaign rebuild`.
create table event (
    -- 1, 2, 3, without gaps.
    sequence bigint constraint event_pkey primary key,
    -- Never earlier than the one before.
    at bigint not null,
    -- grant, campaign or service.
    stream text not null,
    -- Which one of them.
    subject text not null,
    kind text not null,
    schema_version bigint not null,
    actor text not null,
    message_id text,
    trace_id text,
    data text not null,
    -- SHA-256 over the seal before and all of this.
    seal text not null
);

create index event_by_subject on event (stream, subject, sequence);

-- The head of the ledger. Whoever writes begins by locking it: one writer at a time.
alter table deployment add column sequence bigint not null default 0;
alter table deployment add column at bigint not null default 0;
alter table deployment add column seal text not null
    default '0000000000000000000000000000000000000000000000000000000000000000';

-- What was known before there was a ledger becomes its first entries, when the service starts.
create table old_event as
    select e.id, e.request_id, e.kind, e.at, e.data, g.grant_index, g.traceparent, g.publish_again_at, g.updated_at
    from grant_event e join token_grant g on g.request_id = e.request_id;
create table old_key as select idempotency_key, request_id from idempotency_key;
drop table grant_event;
drop table idempotency_key;
drop table token_grant;

create table token_grant (
    request_id text constraint token_grant_pkey primary key,
    grant_index bigint not null constraint token_grant_index_unique unique,
    user_id text not null,
    campaign_id text not null,
    -- How many grants of the campaign the user has, up to this one, failed ones too.
    user_grant_number bigint not null,
    -- The wallet asked for; null for the user's counterfactual one.
    wallet_address text,
    -- Whole tokens.
    token_amount bigint not null,
    -- How it is to be paid, a JSON object.
    terms text not null,
    -- The one of the terms; null for the one that the blockchain service pays.
    token text,
    state text not null,
    transaction_hash text,
    block_number bigint,
    error_code text,
    error_message text,
    retry_count bigint not null,
    -- retry_count when the present round of publishing began: 0, or when an operator set the grant going again.
    round_began bigint not null,
    traceparent text,
    requested_at bigint not null,
    updated_at bigint not null,
    completed_at bigint,
    -- When, by the blockchain service's clock, that happened which brought it to its state.
    progressed_at bigint,
    cancel_requested_at bigint,
    -- When the request is published again for want of a result; null once the grant is final.
    publish_again_at bigint,
    -- Since when nobody publishes it any more although it has no result; publish_again_at is null then.
    needs_attention_since bigint,
    constraint token_grant_of_user_unique unique (campaign_id, user_id, user_grant_number)
);

create index token_grant_by_user on token_grant (user_id, grant_index);
create index token_grant_by_campaign on token_grant (campaign_id, grant_index);
create index token_grant_by_transaction on token_grant (transaction_hash, grant_index) where transaction_hash is not null;
create index token_grant_open on token_grant (publish_again_at) where publish_again_at is not null;
create index token_grant_needs_attention on token_grant (grant_index) where needs_attention_since is not null;

create table idempotency_key (
    idempotency_key text constraint idempotency_key_pkey primary key,
    request_id text not null
);

create table campaign (
    campaign_id text constraint campaign_pkey primary key,
    -- The settings but for listed_users, a JSON object.
    spec text not null,
    -- The one of the settings.
    state text not null,
    -- Of all grants, of those that were paid, of those that will not be.
    grants bigint not null,
    completed bigint not null,
    failed bigint not null,
    -- Whole tokens: of all grants; promised and not paid yet; paid.
    requested_tokens bigint not null,
    reserved bigint not null,
    spent bigint not null,
    users bigint not null,
    gas_used bigint not null,
    -- Wei, in decimal digits: more than 64 bits.
    fee text not null,
    -- From request to completion, of all completed grants together.
    mint_micros bigint not null,
    last_activity bigint,
    created_at bigint not null,
    updated_at bigint not null
);

-- Whom a campaign's allow list or block list names.
create table listed_user (
    campaign_id text not null,
    user_id text not null,
    constraint listed_user_pkey primary key (campaign_id, user_id)
);

-- How many of a campaign's grants took how long from request to completion: see `Bucket`.
create table campaign_latency (
    campaign_id text not null,
    bucket bigint not null,
    grants bigint not null,
    constraint campaign_latency_pkey primary key (campaign_id, bucket)
);

-- What a campaign did in each minute since the Unix epoch.
create table campaign_minute (
    campaign_id text not null,
    minute bigint not null,
    requested bigint not null,
    completed bigint not null,
    failed bigint not null,
    constraint campaign_minute_pkey primary key (campaign_id, minute)
);

-- A campaign's part of a transaction.
create table campaign_transaction (
    transaction_hash text not null,
    campaign_id text not null,
    -- Those in it now, and those that it has paid. None any more: another one took its place.
    grants bigint not null,
    completed bigint not null,
    -- Whole tokens of the grants in it now.
    tokens bigint not null,
    -- Of the grants that it has paid.
    gas_used bigint not null,
    gas_price bigint,
    block_number bigint,
    first_seen_at bigint not null,
    last_seen_at bigint not null,
    constraint campaign_transaction_pkey primary key (transaction_hash, campaign_id)
);

create index campaign_transaction_by_campaign on campaign_transaction (campaign_id, first_seen_at, transaction_hash);
create index campaign_transaction_by_time on campaign_transaction (first_seen_at, transaction_hash, campaign_id);

-- Whether all payments are stopped; empty until somebody touches the switch.
create table kill_switch (
    singleton bigint constraint kill_switch_pkey primary key constraint kill_switch_is_one check (singleton = 1),
    engaged bigint not null,
    actor text not null,
    reason text,
    changed_at bigint not null,
    -- The entry of the ledger that changed it last.
    sequence bigint not null
);
