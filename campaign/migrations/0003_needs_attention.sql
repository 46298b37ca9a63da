-- The same text runs on SQLite and on PostgreSQL. Times are microseconds since the Unix epoch.

-- retry_count when the present round of publishing began: 0, or when an operator set the grant going again.
alter table token_grant add column round_began bigint not null default 0;

-- Since when nobody publishes it any more although it has no result; publish_again_at is null then.
alter table token_grant add column needs_attention_since bigint;

create index token_grant_needs_attention on token_grant (grant_index) where needs_attention_since is not null;
