-- How a grant is to be paid, where its request says so.
alter table payment add column priority bigint not null default 0;
-- Not to be put in a transaction after this.
alter table payment add column expires_at bigint;
-- When the block of its transaction counts as final; null for the service's own setting.
alter table payment add column finality text;
-- What a unit of gas cost, in wei.
alter table payment add column gas_price bigint;

-- Urgent ones first.
drop index payment_queue;
create index payment_queue on payment (priority desc, not_before, request_id) where state = 'queued';
create index payment_expiring on payment (expires_at) where state = 'queued' and expires_at is not null;

-- That of all its payments.
alter table chain_transaction add column finality text;

-- Who has stopped all payments, and who lets them go on: the campaign service, or whoever looks after this one.
create table kill_switch (
    source text constraint kill_switch_pkey primary key,
    engaged bigint not null,
    -- Grows with each change of this source.
    number bigint not null,
    changed_at bigint not null
);

-- How far the campaign service's ledger was read, by whose numbering, and the seal that stood there: what it has shown once
-- it must show again.
create table seen_ledger (
    -- 16 hexadecimal digits.
    issuer text constraint seen_ledger_pkey primary key,
    sequence bigint not null,
    seal text not null,
    seen_at bigint not null
);
