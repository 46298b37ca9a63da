-- The same text runs on SQLite and on PostgreSQL. Times are microseconds since the Unix epoch.

-- When the blockchain service was last told how the kill switch stands.
alter table deployment add column switch_told_at bigint not null default 0;

-- Uploads of many requests. What became of their lines is counted in the transaction that decides them.
create table job (
    id text constraint job_pkey primary key,
    -- ndjson or csv.
    format text not null,
    -- receiving, done or broken_off.
    state text not null,
    -- Why it broke off.
    reason text,
    lines bigint not null,
    accepted bigint not null,
    repeated bigint not null,
    rejected bigint not null,
    started_at bigint not null,
    updated_at bigint not null
);

-- The first lines of each that were rejected.
create table job_rejection (
    job_id text not null constraint job_rejection_job_fkey references job (id),
    -- Its number in the upload, from 1.
    line bigint not null,
    -- The kind of problem, as a request alone would be answered.
    kind text not null,
    reason text not null,
    constraint job_rejection_pkey primary key (job_id, line)
);
