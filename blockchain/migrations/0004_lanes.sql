-- Who may use a lane: the owner of its lease, under a number that grows with each new owner.
alter table lane add column owner text;
alter table lane add column fence bigint not null default 0;
alter table lane add column leased_until bigint not null default 0;

-- pay: the payments of the transaction; cancel: nothing, so that its nonce is used up and the payments can go elsewhere.
alter table attempt add column purpose text not null default 'pay';
-- Its place among the attempts of its transaction.
alter table attempt add column sequence bigint not null default 0;
-- Why a node did not take it when it was last given to one; null where one did.
alter table attempt add column refusal text;

-- The block that holds it while it is not final yet.
alter table chain_transaction add column mined_block bigint;
alter table chain_transaction add column mined_block_hash text;

-- What happened to each transaction, in the order of id. Append-only.
create table chain_transaction_event (
    id text constraint chain_transaction_event_pkey primary key,
    transaction_id text not null constraint chain_transaction_event_fkey references chain_transaction (id),
    kind text not null,
    at bigint not null,
    data text not null
);

create index chain_transaction_event_by_transaction on chain_transaction_event (transaction_id, id);
