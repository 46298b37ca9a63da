//! Sees in the blockchain service's database who takes a lane and who uses it: triggers write down by which process, for
//! which its connections tell the server its name.

use anyhow::{Context as _, Result};
use blockchain::store::Store;
use sqlx::{Connection as _, Row as _};
use testkit::{Stack, Which};

use super::signers;
use crate::harness::database;

const TRIGGERS: &str = "
    create table witness_taken (process text, signer text, owner text, fence bigint, at bigint, free_from bigint);
    create function witness_taken() returns trigger language plpgsql as $$
    begin
        if new.owner is not null and (tg_op = 'INSERT' or new.owner is distinct from old.owner) then
            insert into witness_taken values (
                current_setting('application_name'), new.signer, new.owner, new.fence,
                extract(epoch from clock_timestamp()) * 1000000,
                case when tg_op = 'INSERT' then 0 else old.leased_until end);
        end if;
        return null;
    end $$;
    create trigger witness_taken after insert or update on lane for each row execute function witness_taken();

    create table witness_used (process text, signer text, owner text, nonce bigint, kind text);
    create function witness_used() returns trigger language plpgsql as $$
    begin
        insert into witness_used
            select current_setting('application_name'), t.signer, l.owner, t.nonce, new.kind
            from chain_transaction t join lane l on l.chain_id = t.chain_id and l.signer = t.signer
            where t.id = new.transaction_id;
        return null;
    end $$;
    create trigger witness_used after insert on chain_transaction_event for each row execute function witness_used();";

/// What must not be: each row is a sentence.
const OFFENCES: &str = "
    select used.process || ' has ' || kind || ' nonce ' || nonce || ' of ' || used.signer || ', a lane of '
           || coalesce(taken.process, 'nobody') as offence
    from witness_used used left join witness_taken taken on taken.owner = used.owner
    where taken.process is distinct from used.process
    union all
    select process || ' has taken ' || signer || ' ' || free_from - at || ' us too early'
    from witness_taken where at < free_from
    union all
    select signer || ' was taken ' || count(*) || ' times, and has had the fences up to ' || max(fence)
    from witness_taken group by signer having count(*) <> max(fence) or count(distinct fence) <> max(fence)";

const LANES: &str = "
    select signer, next_nonce, (select count(*) from chain_transaction t where t.signer = lane.signer) as transactions
    from lane order by signer";

/// Triggers that are there.
#[derive(Debug)]
pub(super) struct Witness;

impl Witness {
    /// Makes the tables, which are not there before a service's first start, and watches them from then on. No process of
    /// the stack may have been started.
    pub(super) async fn of(stack: &Stack) -> Result<Self> {
        for (number, process) in stack.replicas(Which::Blockchain).enumerate() {
            let program = process.program();
            let url = program.variable("DATABASE_URL").context("a stack sets DATABASE_URL")?;
            let separator = if url.contains('?') { '&' } else { '?' };
            process.set("DATABASE_URL", &format!("{url}{separator}application_name=process-{number}"));
        }
        let program = stack.blockchain.program();
        let url = program.variable("DATABASE_URL").context("a stack sets DATABASE_URL")?;
        Store::open(&url.to_owned().into()).await?.database().close().await;
        let mut connection = database(&stack.blockchain).await?;
        sqlx::raw_sql(TRIGGERS).execute(&mut connection).await?;
        connection.close().await?;
        Ok(Self)
    }

    /// Each lane had one user at a time, and all its nonces are one line, which is the chain's. Returns how often lanes were
    /// taken.
    pub(super) async fn assert_one_user_of_each_lane(&self, stack: &Stack) -> Result<usize> {
        let mut connection = database(&stack.blockchain).await?;
        let offences = sqlx::query(OFFENCES).fetch_all(&mut connection).await?;
        let offences: Vec<String> = offences.iter().map(|row| row.try_get("offence")).collect::<Result<_, _>>()?;
        assert_eq!(offences, [""; 0]);

        let lanes = sqlx::query(LANES).fetch_all(&mut connection).await?;
        assert_eq!(lanes.len(), signers().count());
        for lane in &lanes {
            let signer: String = lane.try_get("signer")?;
            let nonces = ["next_nonce", "transactions"].map(|column| lane.try_get::<i64, _>(column));
            let mined = stack.chain.transactions_of(signer.parse()?).await?.cast_signed();
            assert_eq!(nonces.map(Result::ok), [Some(mined); 2], "{signer}");
        }
        let taken = sqlx::query("select process from witness_taken").fetch_all(&mut connection).await?.len();
        connection.close().await?;
        Ok(taken)
    }
}
